"""Linux namespaces, as far as the lab needs them: processes that end with the test, and work inside of another network.

Owns how namespaces are made and entered. Never touches those of the host.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO, TypeVar

Answer = TypeVar("Answer")

ENVIRONMENT = {
    "PATH": "/usr/sbin:/usr/bin:/sbin:/bin:/usr/local/bin",
    "LC_ALL": "C.UTF-8",
    "SYSTEMD_PAGER": "",
    "SYSTEMD_COLORS": "0",
}
"""Of all commands of the lab; nothing of the caller's environment reaches them."""
OF_A_MACHINE = ("--pid", "--fork", "--kill-child", "--mount", "--uts", "--ipc", "--net", "--propagation", "private")
"""The new namespaces of a machine, for `unshare`; its control groups are for boot.sh."""
_CLONE_NEWNET = 0x40000000


def spawn(namespaces: Sequence[str], command: Sequence[str], output: IO[bytes] | int) -> subprocess.Popen[bytes]:
    """A process in new namespaces. It ends with this one, also where that is killed, and whatever it started ends with it."""
    return subprocess.Popen(
        ["setpriv", "--pdeathsig", "KILL", "unshare", *namespaces, *command],
        env=ENVIRONMENT,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def run(command: Sequence[str], timeout_s: float = 60.0, check: bool = True) -> subprocess.CompletedProcess[str]:
    """Run a command to its end. Raises AssertionError with all it said when it fails, unless `check` is False."""
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=timeout_s)
    if check and done.returncode:
        raise AssertionError(f"{' '.join(command)}\nexit code {done.returncode}\n{done.stdout}{done.stderr}")
    return done


def call_in_network(pid: int, work: Callable[[], Answer]) -> Answer:
    """What `work()` answers in the network of a process: every socket that it, and threads of its own, open is there.

    Namespaces belong to threads, and a new thread has those of the one that starts it: so this works for anything that opens
    its sockets by itself, such as the SDK.
    """
    answers: list[Answer] = []
    errors: list[BaseException] = []

    def enter_and_work() -> None:
        try:
            _enter_network(pid)
            answers.append(work())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=enter_and_work, name=f"in the network of {pid}")
    thread.start()
    thread.join()
    if errors:
        raise errors[0]
    return answers[0]


def _enter_network(pid: int) -> None:
    namespace = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"cannot enter the network of process {pid}")
    finally:
        os.close(namespace)
