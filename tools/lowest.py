"""Runs the unit tests with the lowest version of every dependency that the two pyproject.toml allow.

Owns `.venv-lowest`. A lower bound that nobody tries is a guess: this is what makes it a promise. Needs the network once.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
ENVIRONMENT = ROOT / ".venv-lowest"
TEST_TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "hypothesis", "pyyaml", "ruff", "trustme")


def main() -> int:
    """Install, run, and return pytest's exit code."""
    pins, python, stamp = lowest(), ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".pins"
    if not (stamp.exists() and stamp.read_text() == "\n".join(pins)):
        subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
        install: list[str | Path] = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*install, *pins], cwd=ROOT, check=True)
        subprocess.run([*install, "--no-deps", "-e", "./client", "-e", "."], cwd=ROOT, check=True)
        stamp.write_text("\n".join(pins))
    return subprocess.run([python, "-m", "pytest", "-q", "tests/unit"], cwd=ROOT).returncode


def lowest() -> list[str]:
    """Requirements as "name==bound" for what runs, and as they are for what tests."""
    pins: dict[str, str] = {}
    for file in ("client/pyproject.toml", "pyproject.toml"):
        project = tomllib.loads((ROOT / file).read_text())["project"]
        extras = project.get("optional-dependencies", {})
        for requirement in [*project["dependencies"], *extras.get("cli", ())]:
            match = re.match(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
            if match is None:
                sys.exit(f"{file}: {requirement} has no lower bound")
            if match[1] != "kvnode-client":
                pins[match[1]] = f"{match[1]}=={match[2]}"
        for requirement in extras.get("dev", ()):
            if re.split(r"[<>=\[]", requirement)[0] in TEST_TOOLS:
                pins[requirement] = requirement
    return sorted(pins.values())


if __name__ == "__main__":
    sys.exit(main())
