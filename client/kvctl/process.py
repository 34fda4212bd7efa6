"""Daemons as detached processes, known by more than their pid.

Owns: starting a process in a session of its own, telling whether it still is the process that was started, signals, and
waiting for its end. Never signals a process by its pid alone: a pid is recycled, so a process is known by (boot, pid, start
time), checked through a pidfd, which cannot change its meaning between the check and the signal. Linux only.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

_BOOT_ID_PATH = Path("/proc/sys/kernel/random/boot_id")
_STATE_FIELD, _START_TIME_FIELD = 0, 19
"""Positions in /proc/PID/stat after the command's closing parenthesis: `state` (3) and `starttime` (22) of proc(5)."""


class ProcessState(Enum):
    """What the kernel says about a process."""

    RUNNING = "running"
    PAUSED = "paused"
    """Stopped by SIGSTOP."""
    GONE = "gone"
    """Ended, or another process has the pid now."""


@dataclass(frozen=True)
class ProcessId:
    """A process, for all time: a later one with the same pid is not equal."""

    pid: int
    start_ticks: int
    """`starttime` of /proc/PID/stat: clock ticks after boot."""
    boot_id: str
    """Start times are comparable only within one boot."""


def boot_id() -> str:
    """Identity of this boot of the machine."""
    return _BOOT_ID_PATH.read_text().strip()


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from `state` on, or None if there is no such process."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text[text.rindex(")") + 2 :].split()  # the command's name may itself contain spaces and parentheses


def _reap(pid: int) -> None:
    """Collect the process if it is our child and has ended, so that it does not stay as a zombie."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass  # started by another process, which (or init) collects it


def _ended(pid: int) -> bool:
    """Whether a zombie has really ended. A process whose first thread is dead shows as one while its other threads still run,
    with its files and ports open; its pidfd tells the difference.
    """
    try:
        fd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return _readable(fd, 0.0)
    finally:
        os.close(fd)


def _readable(pidfd: int, timeout_s: float) -> bool:
    """Wait for the process's end, which makes its pidfd readable (pidfd_open(2))."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(max(0.0, timeout_s) * 1000))


def spawn(command: Sequence[str], *, cwd: Path, log_path: Path, env: Mapping[str, str] | None = None) -> ProcessId:
    """Start a detached process: own session, no input, output appended to `log_path`. It outlives its starter.

    Raises OSError if the program cannot be started.
    """
    with log_path.open("ab") as log:
        child = subprocess.Popen(
            list(command),
            cwd=cwd,
            env=None if env is None else dict(env),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    fields = _stat(child.pid)  # a child stays at least as a zombie until it is waited for
    assert fields is not None
    child.returncode = 0  # detached: the Popen object forgets it, `_reap` collects it
    return ProcessId(child.pid, int(fields[_START_TIME_FIELD]), boot_id())


def state_of(process: ProcessId) -> ProcessState:
    """What became of a process."""
    if process.boot_id != boot_id():
        return ProcessState.GONE
    _reap(process.pid)
    fields = _stat(process.pid)
    if fields is None or int(fields[_START_TIME_FIELD]) != process.start_ticks:
        return ProcessState.GONE
    if fields[_STATE_FIELD] in "ZXx" and _ended(process.pid):
        return ProcessState.GONE
    return ProcessState.PAUSED if fields[_STATE_FIELD] in "Tt" else ProcessState.RUNNING


def age_s(process: ProcessId) -> float:
    """Seconds since the process was started."""
    with open("/proc/uptime") as file:
        up_s = float(file.read().split()[0])
    return max(0.0, up_s - process.start_ticks / os.sysconf("SC_CLK_TCK"))


@contextmanager
def _handle(process: ProcessId) -> Iterator[int | None]:
    """A pidfd of exactly this process; None if it is gone."""
    try:
        fd = os.pidfd_open(process.pid)
    except ProcessLookupError:
        yield None
        return
    try:
        # The check comes after the open: from here on the descriptor means whatever was checked.
        yield fd if state_of(process) is not ProcessState.GONE else None
    finally:
        os.close(fd)


def send_signal(process: ProcessId, signal_number: signal.Signals) -> bool:
    """Signal exactly this process. Returns whether it was there."""
    with _handle(process) as fd:
        if fd is None:
            return False
        try:
            signal.pidfd_send_signal(fd, signal_number)
        except ProcessLookupError:
            return False
        return True


def wait_gone(process: ProcessId, timeout_s: float) -> bool:
    """Wait for the process's end. Returns False if it still is there after `timeout_s` seconds."""
    with _handle(process) as fd:
        if fd is not None:
            _readable(fd, timeout_s)
    return state_of(process) is ProcessState.GONE


def wait_state(process: ProcessId, state: ProcessState, timeout_s: float) -> bool:
    """Wait until the process is in a state, or gone. Returns whether it is in that state."""
    deadline = time.monotonic() + timeout_s
    while (now_in := state_of(process)) not in (state, ProcessState.GONE) and time.monotonic() < deadline:
        time.sleep(0.002)
    return now_in is state
