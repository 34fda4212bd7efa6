"""What a node tells systemd, which started it: notifications (sd_notify(3)), and the priority of a line (sd-daemon(3)).

Owns both protocols. Notifications are datagrams of `NAME=VALUE` lines to the socket named by NOTIFY_SOCKET. Never decides what
is true: that is the process's part. Where nobody asked to be told (no NOTIFY_SOCKET: a terminal, a container, a test) all of it
is silent; a manager that does not listen must not hold a node up, so that what cannot be delivered at once is dropped.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from typing import IO, Any

from kvnode.types import Seconds

_MICROSECONDS = 1_000_000
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
"""The journal's, which are syslog's."""


def is_journal(stream: IO[Any]) -> bool:
    """Whether `stream` is the very connection to the journal that systemd made, and no pipe or file that took its place
    (JOURNAL_STREAM, systemd.exec(5))."""
    try:
        status = os.fstat(stream.fileno())
    except (OSError, ValueError):  # it is none of the operating system's
        return False
    return os.environ.get("JOURNAL_STREAM", "") == f"{status.st_dev}:{status.st_ino}"


def priority(level: str) -> str:
    """What a line for the journal begins with, as "<6>" for "info"; the journal takes it off again."""
    return f"<{_PRIORITIES.get(level, _PRIORITIES['info'])}>"


class ServiceManager:
    """The service manager, as told by `environ`; pass {} for none."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = _address(environ.get("NOTIFY_SOCKET", ""))
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if self._address else None
        if self._socket:
            self._socket.setblocking(False)
        self.watchdog_timeout: Seconds = _watchdog_timeout(environ) if self._socket else 0.0
        """How long it waits for a sign of life before it ends this process; 0: for ever."""
        self._status = ""

    @property
    def listens(self) -> bool:
        """Whether there is anybody to tell."""
        return self._socket is not None

    def ready(self) -> None:
        """The node serves: its log is replayed and its port is bound. Also the end of a reload."""
        self._tell("READY=1")

    def reloading(self) -> None:
        """The configuration is being read again; `ready` follows."""
        self._tell(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """The node is about to end."""
        self._tell("STOPPING=1")

    def alive(self) -> None:
        """A sign of life for the watchdog."""
        self._tell("WATCHDOG=1")

    def extend_timeout(self, seconds: Seconds) -> None:
        """Whatever is going on (start or stop) needs at most this much longer, counted from now."""
        self._tell(f"EXTEND_TIMEOUT_USEC={int(seconds * _MICROSECONDS)}")

    def status(self, text: str) -> None:
        """One line for people, as `systemctl status` shows it; told only when it has changed."""
        if text != self._status:
            self._status = text
            self._tell(f"STATUS={text}")

    def _tell(self, message: str) -> None:
        if self._socket:
            try:
                self._socket.sendto(message.encode(), self._address)
            except OSError:  # It is gone, or its queue is full: then it has other worries.
                pass

    def close(self) -> None:
        """Tells nothing more."""
        if self._socket:
            self._socket.close()
            self._socket = None


def _address(name: str) -> str:
    """A socket's path, or its abstract name, which "@" stands for; empty for a kind that Unix sockets do not have."""
    if name.startswith("@"):
        return "\0" + name[1:]
    return name if name.startswith("/") else ""


def _watchdog_timeout(environ: Mapping[str, str]) -> Seconds:
    """WATCHDOG_USEC, if it is meant for this very process and not for a child of it."""
    microseconds, process = environ.get("WATCHDOG_USEC", ""), environ.get("WATCHDOG_PID", "")
    meant = not process or process == str(os.getpid())
    return int(microseconds) / _MICROSECONDS if meant and microseconds.isdecimal() else 0.0
