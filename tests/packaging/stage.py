"""kvnode as `make install` leaves it on a machine, below a directory of its own; made once for each content of the checkout.

Owns `build/stage-*`. Who uses a stage must not change it. Its programs name /opt/kvnode-VERSION-TIME/bin/python in their first
lines, so they run where the stage's /opt is mounted at /opt; elsewhere `python_of(stage) -m kvnode` runs the same.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SYSTEM_PYTHON = "/usr/bin/python3"
INSTALLED = ("Makefile", "README.md", "pyproject.toml", "client", "kvnode", "systemd", "tools/install.py", "tools/wheels.py")
"""What goes into an installation."""
UNUSED_S_MAX = 3600.0
_PROBE = "import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))"


@functools.cache
def why_not() -> str:
    """Why nothing can be installed on this machine; empty if it can."""
    if not os.access(SYSTEM_PYTHON, os.X_OK):
        return f"there is no {SYSTEM_PYTHON}"
    if subprocess.run([SYSTEM_PYTHON, "-c", _PROBE], capture_output=True).returncode:
        return f"{SYSTEM_PYTHON} is older than 3.11, or has no venv module (on Debian: apt-get install python3-venv)"
    return ""


@functools.cache
def staged() -> Path:
    """The directory that was DESTDIR. Blocks while this or another process makes it; fails with what `make` said."""
    stage = BUILD / f"stage-{_fingerprint()}"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / "stage.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stage.exists():
            _remove_unused()
            unfinished = BUILD / "stage-unfinished"
            shutil.rmtree(unfinished, ignore_errors=True)
            make("install", unfinished)
            unfinished.rename(stage)
        os.utime(stage)
    return stage


def python_of(stage: Path) -> Path:
    """The installed environment's interpreter."""
    return stage / "opt/kvnode/bin/python"


def make(target: str, destdir: Path, *variables: str, checkout: Path = ROOT) -> str:
    """Run `make install` or `make uninstall` there, and return what it said; fails if make does."""
    command = ["make", "--no-print-directory", target, f"DESTDIR={destdir}", f"SYSTEM_PYTHON={SYSTEM_PYTHON}", *variables]
    done = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
    return done.stdout


def _fingerprint() -> str:
    content = hashlib.sha256(os.path.realpath(SYSTEM_PYTHON).encode())
    for file in _files():
        content.update(f"{file.relative_to(ROOT)}\0".encode() + hashlib.sha256(file.read_bytes()).digest())
    return content.hexdigest()[:16]


def _files() -> Iterator[Path]:
    for name in INSTALLED:
        found = ROOT / name
        inside = sorted(found.rglob("*")) if found.is_dir() else [found]
        yield from (
            file for file in inside if file.is_file() and not {"__pycache__", "kvnode_client.egg-info"}.intersection(file.parts)
        )


def _remove_unused() -> None:
    """Stages of earlier contents, unless a test may still run in them."""
    for stage in BUILD.glob("stage-*/"):
        if time.time() - stage.stat().st_mtime > UNUSED_S_MAX:
            shutil.rmtree(stage)


if __name__ == "__main__":
    print(why_not() or staged())
