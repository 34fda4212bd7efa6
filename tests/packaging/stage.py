"""kvnode as `make install` leaves it on a machine, below a directory of its own; made once for each content of the checkout.

Owns `build/stage-*` and `build/wheels-*`. Who uses a stage must not change it. Its programs name the interpreter in
/opt/kvnode-VERSION-TIME in their first lines, so they run where the stage's /opt is mounted at /opt; elsewhere
`python_of(stage) -m kvnode` runs the same.
"""

from __future__ import annotations

import fcntl
import functools
import hashlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tools import wheels
from tools.lowest import lowest

ROOT = Path(__file__).resolve().parents[2]
BUILD = ROOT / "build"
SYSTEM_PYTHON = "/usr/bin/python3"
INSTALLED = ("Makefile", "README.md", "pyproject.toml", "client", "kvnode", "systemd", "tools/install.py", "tools/wheels.py")
"""What goes into an installation, and into the wheels."""
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
    return _made_once("stage", lambda target: make("install", target))


@functools.cache
def built() -> dict[str, Path]:
    """Both wheels, as "kvnode" and "kvnode_client"; made with the lowest setuptools, where `make install` takes the newest."""
    backend = [lowest(requirement) for requirement in wheels.build_requirements()]
    directory = _made_once("wheels", lambda target: wheels.build(Path(sys.executable), target, backend))
    return {wheel.name.partition("-")[0]: wheel for wheel in directory.iterdir()}


def python_of(stage: Path) -> Path:
    """The installed environment's interpreter."""
    return stage / "opt/kvnode/bin/python"


def copy_of(stage: Path, target: Path) -> None:
    """Another stage, whose files are the same ones: they may be removed and replaced there, and not written to."""
    shutil.copytree(stage, target, symlinks=True, copy_function=os.link, dirs_exist_ok=True)


def make(target: str, destdir: Path, *variables: str, checkout: Path = ROOT) -> str:
    """Run `make install` or `make uninstall` there, and return what it said; fails if make does."""
    command = ["make", "--no-print-directory", target, f"DESTDIR={destdir}", f"SYSTEM_PYTHON={SYSTEM_PYTHON}", *variables]
    done = subprocess.run(command, cwd=checkout, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, f"{' '.join(command)}:\n{done.stdout}"
    return done.stdout


def _made_once(kind: str, make_in: Callable[[Path], object]) -> Path:
    """A directory that is made when the checkout's content is new, by one process, and kept."""
    made = BUILD / f"{kind}-{_fingerprint()}"
    BUILD.mkdir(exist_ok=True)
    with (BUILD / f"{kind}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            _remove_unused(kind)
            unfinished = BUILD / f"{kind}-unfinished-{os.getpid()}"  # of no other's, not even of one that was interrupted
            make_in(unfinished)
            unfinished.rename(made)
        os.utime(made)
    return made


@functools.cache
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


def _remove_unused(kind: str) -> None:
    """Those of earlier contents, unless a test may still use them."""
    for made in BUILD.glob(f"{kind}-*/"):
        if time.time() - made.stat().st_mtime > UNUSED_S_MAX:
            shutil.rmtree(made)


if __name__ == "__main__":
    print(why_not() or staged())
