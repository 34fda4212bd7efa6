"""Tries what a node must not be able to do, and what it needs. Prints a JSON object: what was tried -> "ok", or why not.

It runs by itself in a machine, with nothing but the standard library: `probe.py STATE OTHER_STATE OTHER_PID`.
"""

from __future__ import annotations

import ctypes
import errno
import json
import mmap
import os
import socket
import subprocess
import sys
from collections.abc import Callable

LIBC = ctypes.CDLL(None, use_errno=True)
MOUNT, UNSHARE, IO_URING_SETUP, PTRACE = 165, 272, 425, 101
"""Numbers of system calls, on x86-64."""
CLONE_NEWUSER, PTRACE_SEIZE, IMMEDIATELY = 0x10000000, 0x4206, 0.3
STATE, OTHER_STATE, OTHER_PID = sys.argv[1], sys.argv[2], int(sys.argv[3])

results: dict[str, str] = {}


def attempt(name: str, action: Callable[[], object]) -> None:
    """Try, and note what came of it."""
    try:
        action()
        results[name] = "ok"
    except TimeoutError:
        results[name] = "no answer"
    except OSError as error:
        results[name] = errno.errorcode.get(error.errno or 0, str(error))


def system_call(*arguments: object) -> None:
    """A system call without a wrapper."""
    if LIBC.syscall(*arguments) < 0:
        raise OSError(ctypes.get_errno(), "")


def write(path: str) -> None:
    """Make a file."""
    with open(path, "w") as file:
        file.write("x")


def execute_from(directory: str) -> None:
    """Write a program, and run it."""
    program = f"{directory}/program"
    with open("/usr/bin/true", "rb") as true, open(program, "wb") as copy:
        copy.write(true.read())
    os.chmod(program, 0o700)
    subprocess.run([program], check=True)


def map_code_from(directory: str) -> None:
    """Write a library, and map it as code."""
    write(f"{directory}/library")
    with open(f"{directory}/library", "rb") as file:
        mmap.mmap(file.fileno(), 1, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close()


def connect(host: str) -> None:
    """To a port where nobody listens: an answer says that the way is free."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as connection:
        connection.settimeout(IMMEDIATELY)
        connection.connect((host, 9))


def listen(port: int) -> None:
    """On a port of this host."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))


def open_socket(family: int, kind: int) -> None:
    """A socket of a family, and nothing more."""
    socket.socket(family, kind).close()


def read(path: str) -> None:
    """A file's first byte, or a directory's names."""
    if os.path.isdir(path):
        os.listdir(path)
    else:
        with open(path, "rb") as file:
            file.read(1)


attempt("write its state", lambda: write(f"{STATE}/file"))
attempt("write /tmp", lambda: write("/tmp/file"))
attempt("write beside its state", lambda: write(f"{os.path.dirname(STATE)}/file"))
attempt("write its configuration", lambda: write("/etc/kvnode/file"))
attempt("write its program", lambda: write("/opt/kvnode/file"))
attempt("write /var/tmp", lambda: write("/var/tmp/file"))
attempt("read its configuration", lambda: read("/etc/kvnode/n1.toml"))
attempt("read other's state", lambda: read(OTHER_STATE))
attempt("read other's files by its process", lambda: read(f"/proc/{OTHER_PID}/root/"))
attempt("read other's environment", lambda: read(f"/proc/{OTHER_PID}/environ"))
attempt("trace other's process", lambda: system_call(PTRACE, PTRACE_SEIZE, OTHER_PID, None, None))
attempt("read secrets", lambda: read("/etc/kvnode/credentials"))
attempt("read homes", lambda: read("/home"))
attempt("read others' temporary files", lambda: read("/tmp/others"))
attempt("read a device", lambda: read("/dev/device"))
attempt("read /proc/stat", lambda: read("/proc/stat"))
attempt("execute from its state", lambda: execute_from(STATE))
attempt("execute from /tmp", lambda: execute_from("/tmp"))
attempt("execute from /dev/shm", lambda: execute_from("/dev/shm"))
attempt("execute a shell", lambda: subprocess.run(["/bin/sh", "-c", ":"], check=True))
attempt("map code from its state", lambda: map_code_from(STATE))
attempt("map memory for writing and executing", lambda: mmap.mmap(-1, 4096, prot=7).close())
attempt("mount", lambda: system_call(MOUNT, b"none", b"/tmp", b"tmpfs", 0, None))
attempt("use io_uring", lambda: system_call(IO_URING_SETUP, 1, ctypes.create_string_buffer(120)))
attempt("change an owner", lambda: os.chown(f"{STATE}/file", os.getuid(), os.getgid()))
attempt("make a set-user-id file", lambda: os.chmod(f"{STATE}/file", 0o4700))
attempt("change its priority", lambda: os.setpriority(os.PRIO_PROCESS, 0, 5))
attempt("listen on a privileged port", lambda: listen(80))
attempt("listen on its port", lambda: listen(7499))
attempt("talk to the kernel by netlink", lambda: open_socket(socket.AF_NETLINK, socket.SOCK_RAW))
attempt("connect to this host", lambda: connect("127.0.0.1"))
attempt("connect to this host by IPv6", lambda: connect("::1"))
for network, address in {
    "10/8": "10.1.2.3",
    "172.16/12": "172.16.2.3",
    "192.168/16": "192.168.2.3",
    "fc00::/7": "fd00::3",
    "the internet": "192.0.2.3",
    "the internet by IPv6": "2001:db8::3",
    "the cloud's metadata": "169.254.169.254",
}.items():
    attempt(f"connect to {network}", lambda address=address: connect(address))  # type: ignore[misc]
# (Last: who gets through is somebody else from now on.)
attempt("make a namespace", lambda: system_call(UNSHARE, CLONE_NEWUSER))

print(json.dumps(results), flush=True)
