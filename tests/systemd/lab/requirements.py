"""What the lab needs of the host it runs on: root, namespaces, systemd, and a few small programs.

Owns the reasons for skipping. Changes nothing: what it tries out happens in namespaces that end with the attempt.
"""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

from tests.systemd.lab.namespaces import ENVIRONMENT, OF_A_MACHINE

PROGRAMS = {
    "systemd": ("/lib/systemd/systemd", "systemctl", "journalctl", "systemd-analyze", "systemd-sysusers", "systemd-tmpfiles"),
    "util-linux": ("unshare", "nsenter", "setpriv", "mount"),
    "iproute2": ("ip",),
    "procps": ("kill",),
    "python3-venv": ("/usr/bin/python3",),
}
"""By the Debian packages that have them."""

_ATTEMPT = """
mount -t tmpfs tmpfs "$1"; cd "$1"; mkdir cgroups processes usr upper
mount -t cgroup2 cgroup2 cgroups
current=$(sed -n 's/^0:://p' /proc/self/cgroup)
mkdir "cgroups${current%/}/$2"; rmdir "cgroups${current%/}/$2"
mount -t proc proc processes
mount -t overlay -o lowerdir=upper:/usr usr usr
mknod null c 1 3; : > null
ip link add left type veth peer name right
ip link add bridge type bridge
unshare --cgroup true
"""


@functools.cache
def why_not() -> str:
    """Why no machine can boot here; "" where it can."""
    if os.geteuid() != 0:
        return "needs root, for namespaces and mounts"
    for package, programs in PROGRAMS.items():
        for program in programs:
            if shutil.which(program, path=ENVIRONMENT["PATH"]) is None:
                return f"needs {program}, of Debian's package {package}"
    name = f"kvnode-lab-{os.getpid()}-attempt"
    command = ["unshare", *OF_A_MACHINE, "sh", "-euc", _ATTEMPT, "sh", str(Path(__file__).parent), name]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=30)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return f"needs namespaces, mounts and network devices of its own: {last}"
    return ""
