"""What `make install` puts where, once for all tests, kept in build/ for as long as nothing of it changes.

Owns the cache. Knows nothing of what is installed.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
from pathlib import Path

from tests.tidy.source import ROOT

_BELONGING = ("Makefile", "pyproject.toml", "client/pyproject.toml", "tools", "systemd", "kvnode", "client")
_BUILD = """
mount -t tmpfs tmpfs /opt
mkdir /opt/kvnode
mount --bind "$1" /opt/kvnode
/usr/bin/python3 -m venv /opt/kvnode
/opt/kvnode/bin/pip install --quiet "$2/client[cli]" "$2"
"""


def stage() -> Path:
    """The directory that holds usr/ and opt/ as they are after an installation."""
    made = ROOT / "build" / "stage" / _digest()
    if made.exists():
        return made
    for old in made.parent.glob("*"):
        shutil.rmtree(old)
    new = made.with_name("new")
    venv = new / "opt" / "kvnode"
    venv.mkdir(parents=True)
    subprocess.run(["unshare", "--mount", "--propagation", "private", "sh", "-euc", _BUILD, "sh", venv, ROOT], check=True)
    for source, place in {
        "kvnode@.service": "lib/systemd/system/kvnode@.service",
        "kvnode.target": "lib/systemd/system/kvnode.target",
        "kvnode.sysusers": "lib/sysusers.d/kvnode.conf",
        "kvnode.tmpfiles": "lib/tmpfiles.d/kvnode.conf",
        **{f"examples/{n}": f"share/kvnode/examples/{n}" for n in ("n1.toml", "n2.toml", "n3.toml", "credentials.conf")},
    }.items():
        (new / "usr" / place).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "systemd" / source, new / "usr" / place)
    (new / "usr/local/bin").mkdir(parents=True)
    for name in ("kvnode", "kvctl"):
        (new / "usr/local/bin" / name).symlink_to(f"/opt/kvnode/bin/{name}")
    new.rename(made)
    return made


def _digest() -> str:
    digest = hashlib.sha256()
    for name in _BELONGING:
        top = ROOT / name
        files = [top] if top.is_file() else sorted(file for file in top.rglob("*") if file.is_file())
        for file in files:
            if "__pycache__" in file.parts or "build" in file.relative_to(ROOT).parts or ".egg-info" in str(file):
                continue
            digest.update(f"{file.relative_to(ROOT)} {os.stat(file).st_mode}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:16]
