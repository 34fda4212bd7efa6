"""Builds the two wheels, `kvnode` and `kvnode-client`.

    python tools/wheels.py dist

Owns nothing but copies of the sources: setuptools leaves its working files beside what it builds, and takes files that are gone
from the sources out of them into the next wheel, so each wheel is built from a fresh copy. Needs pip, and the network for
setuptools.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PROJECTS = {
    "kvnode": ("pyproject.toml", "README.md", "kvnode"),
    "kvnode-client": (
        "client/pyproject.toml",
        "client/README.md",
        *(f"client/kv{name}" for name in ("api", "client", "ctl", "wire")),
    ),
}
"""Each distribution, and what of the checkout goes into its build."""

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
"""For pip: what PYTHONPATH shows would count as installed."""


def main(arguments: list[str]) -> int:
    """Build both wheels into the directory that is named, and say where they are."""
    if len(arguments) != 1:
        print(__doc__, file=sys.stderr)
        return 2
    for wheel in build(Path(sys.executable), Path(arguments[0])):
        print(wheel)
    return 0


def build(python: Path, target: Path, backend_of: Sequence[str] = ()) -> list[Path]:
    """Build both wheels with that interpreter's pip, over older ones in `target`. Returns their paths; exits if it fails.

    `backend_of`: what to build with, where it is not the newest that the projects allow.
    """
    with tempfile.TemporaryDirectory(prefix="kvnode-wheels-") as scratch:
        sources, made, backend = Path(scratch, "sources"), Path(scratch, "wheels"), Path(scratch, "backend")
        copies = [_copy(sources, name) for name in PROJECTS]
        pip: list[str | Path] = [python, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        commands = (
            [*pip, "install", "--no-compile", "--target", backend, *(backend_of or build_requirements())],
            [*pip, "wheel", "--no-build-isolation", "--no-deps", "--wheel-dir", made, *copies],
        )
        for command in commands:  # once for both, where pip's own isolation would install setuptools for each
            if subprocess.run(command, env=ENVIRONMENT | {"PYTHONPATH": str(backend)}).returncode:
                sys.exit("wheels: they could not be built; pip says why above")
        target.mkdir(parents=True, exist_ok=True)
        for old in target.glob("kvnode*.whl"):
            old.unlink()
        return [Path(shutil.copy(wheel, target)) for wheel in sorted(made.iterdir())]


def version() -> str:
    """The version of both."""
    return str(_file("kvnode-client")["project"]["version"])


def requirements(*wanted: str) -> list[str]:
    """What the distributions "name" or "name[extra]" need, as their pyproject.toml have it, except each other."""
    found: set[str] = set()
    for name, extra in (re.fullmatch(r"([\w-]+)(?:\[(\w+)])?", given).groups() for given in wanted):
        project = _file(name)["project"]
        found.update(project["dependencies"], project["optional-dependencies"][extra] if extra else ())
    return sorted(requirement for requirement in found if not requirement.startswith(tuple(PROJECTS)))


def build_requirements() -> list[str]:
    """What it takes to build both."""
    return sorted({requirement for name in PROJECTS for requirement in _file(name)["build-system"]["requires"]})


def _file(name: str) -> dict[str, Any]:
    import tomllib  # new in 3.11, and who has an older Python shall be told so by others

    return tomllib.loads((ROOT / PROJECTS[name][0]).read_text())


def _copy(sources: Path, name: str) -> Path:
    project = sources / name
    for item in PROJECTS[name]:
        source, copy = ROOT / item, project / Path(item).name
        copy.parent.mkdir(parents=True, exist_ok=True)
        if source.is_dir():
            shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(source, copy)
    return project


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
