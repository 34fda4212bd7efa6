"""Runs tests with the lowest version of every dependency that the two pyproject.toml allow.

    python tools/lowest.py            # all unit tests, and a served cluster
    python tools/lowest.py --quick    # of those, the tests of what touches dependencies: `make test` runs them
    python tools/lowest.py --prepare  # only install

Owns `.venv-lowest`. A lower bound that nobody tries is a guess: this is what makes it a promise. Needs the network once.
"""

from __future__ import annotations

import argparse
import fcntl
import re
import subprocess
import sys
import tomllib
from pathlib import Path

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tools import wheels

ROOT = wheels.ROOT
ENVIRONMENT = ROOT / ".venv-lowest"
TEST_TOOLS = ("pytest", "pytest-asyncio", "pytest-timeout", "pytest-xdist", "hypothesis", "pyyaml", "ruff", "trustme")
SERVE, TXN, TRACE = (f"tests/integration/test_{name}.py" for name in ("serve", "transactions", "trace_commands"))
ALL = ("tests/unit", SERVE, TXN, TRACE)
QUICK = (
    SERVE,  # all of it together, in processes with uvloop
    f"{TXN}::test_txn_over_shards_takes_the_branch_that_its_comparisons_say",
    f"{TRACE}::test_traces_of_all_operations_are_explained_by_their_stages",
    "tests/unit/test_config.py",  # pydantic
    "tests/unit/api",  # grpcio, protobuf
    *(f"tests/unit/kvclient/test_{name}.py" for name in ("client", "failures", "hashing", "package", "tracing", "transport")),
    *(f"tests/unit/kvctl/test_{name}.py" for name in ("stats", "usage_errors")),  # typer, rich, prometheus-client
    *(
        f"tests/unit/kvctl/bench/test_{name}.py" for name in ("results", "runner", "worker")
    ),  # hdrhistogram, OpenTelemetry's SDK
    *(f"tests/unit/kvctl/traces/test_{name}.py" for name in ("store", "waterfall")),  # duckdb, rich
    *(f"tests/unit/observe/test_{name}.py" for name in ("logging", "metrics", "metrics_server", "recorder", "tracing")),
    "tests/unit/runtime/test_grpc_transport.py",
    *(f"tests/unit/storage/test_{name}.py" for name in ("records", "snapshot", "store", "table")),  # google-crc32c, lmdb
)
"""What is tested, and the dependencies that it is about."""


def main(arguments: list[str]) -> int:
    """Install, run, and return pytest's exit code."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--prepare", action="store_true")
    options = parser.parse_args(arguments)
    python = environment()
    if options.prepare:
        return 0
    tests = QUICK if options.quick else ALL
    return subprocess.run([python, "-m", "pytest", "-q", "-n", "2", "--dist", "loadfile", *tests], cwd=ROOT).returncode


def environment() -> Path:
    """Its interpreter. The environment is made anew when a bound changed; who comes while another process does that waits."""
    wanted, python, stamp = pins(), ENVIRONMENT / "bin" / "python", ENVIRONMENT / ".pins"
    (ROOT / "build").mkdir(exist_ok=True)
    with (ROOT / "build" / "lowest.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (stamp.exists() and stamp.read_text() == "\n".join(wanted)):
            subprocess.run([sys.executable, "-m", "venv", "--clear", ENVIRONMENT], check=True)
            install: list[str | Path] = [
                python,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--disable-pip-version-check",
                "--no-compile",
            ]
            subprocess.run([*install, *wanted], env=wheels.ENVIRONMENT, check=True)
            next(ENVIRONMENT.glob("lib/*/site-packages")).joinpath("kvnode.pth").write_text(f"{ROOT}\n{ROOT / 'client'}\n")
            stamp.write_text("\n".join(wanted))
    return python


def pins() -> list[str]:
    """What runs in its lowest version, and what tests as pyproject.toml has it."""
    tools = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    needed = [tool for tool in tools if re.split(r"[<>=\[]", tool)[0] in TEST_TOOLS]
    return sorted({*map(lowest, wheels.requirements("kvnode", "kvnode-client[cli]")), *needed})


def lowest(requirement: str) -> str:
    """ "name>=bound,..." as "name==bound"."""
    match = re.match(r"([A-Za-z0-9-]+)>=([0-9.]+)", requirement)
    if match is None:
        sys.exit(f"lowest: {requirement} has no lower bound")
    return f"{match[1]}=={match[2]}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
