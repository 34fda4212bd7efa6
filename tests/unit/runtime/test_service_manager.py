"""What the service manager hears, by datagrams on a real socket."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvnode.runtime.service_manager import ServiceManager


class Listener:
    """systemd's end of the socket."""

    def __init__(self, address: str) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(address)
        self.socket.setblocking(False)

    def heard(self) -> list[str]:
        """All that came since."""
        messages = []
        while True:
            try:
                messages.append(self.socket.recv(4096).decode())
            except BlockingIOError:
                return messages


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[Listener]:
    """One with a path."""
    listener = Listener(str(tmp_path / "notify"))
    yield listener
    listener.socket.close()


def manager_of(listener: Listener, **environ: str) -> ServiceManager:
    return ServiceManager({"NOTIFY_SOCKET": listener.socket.getsockname(), **environ})


def test_manager_hears_each_word_of_the_protocol_in_order(listener: Listener) -> None:
    """A start, a reload and a stop, word by word."""
    manager = manager_of(listener)
    manager.extend_timeout(30)
    manager.status("RECOVERING: 1,024 records")
    manager.ready()
    manager.alive()
    manager.stopping()
    assert listener.heard() == [
        "EXTEND_TIMEOUT_USEC=30000000",
        "STATUS=RECOVERING: 1,024 records",
        "READY=1",
        "WATCHDOG=1",
        "STOPPING=1",
    ]
    manager.close()


def test_reload_names_its_moment(listener: Listener) -> None:
    """systemd tells a reload's READY from an earlier one by the monotonic time."""
    manager = manager_of(listener)
    manager.reloading()
    state, moment = listener.heard()[0].split("\n")
    assert state == "RELOADING=1"
    assert moment.startswith("MONOTONIC_USEC=")
    assert int(moment.partition("=")[2]) > 0
    manager.close()


def test_status_that_has_not_changed_is_not_told_again(listener: Listener) -> None:
    """It is asked for every second, and changes seldom."""
    manager = manager_of(listener)
    for text in ("one", "one", "two", "one"):
        manager.status(text)
    assert listener.heard() == ["STATUS=one", "STATUS=two", "STATUS=one"]
    manager.close()


def test_abstract_address_is_heard() -> None:
    """Within containers systemd listens on names without a file, written with "@"."""
    name = f"kvnode-test-{os.getpid()}"
    listener = Listener(f"\0{name}")
    manager = ServiceManager({"NOTIFY_SOCKET": f"@{name}"})
    manager.ready()
    assert listener.heard() == ["READY=1"]
    manager.close()
    listener.socket.close()


@pytest.mark.parametrize("environ", [{}, {"NOTIFY_SOCKET": ""}, {"NOTIFY_SOCKET": "vsock:2:1234", "WATCHDOG_USEC": "1000"}])
def test_manager_without_a_socket_is_silent(environ: dict[str, str]) -> None:
    """Nobody asked to be told, or by means that Unix sockets are not."""
    manager = ServiceManager(environ)
    manager.ready()
    manager.alive()
    assert not manager.listens
    assert manager.watchdog_timeout == 0


def test_manager_that_is_gone_or_deaf_holds_nothing_up(listener: Listener, tmp_path: Path) -> None:
    """A full queue and a removed socket: the word is dropped, no error, no waiting."""
    manager = manager_of(listener)
    for number in range(10_000):
        manager.status(f"{number}")
    assert len(listener.heard()) < 10_000
    (tmp_path / "notify").unlink()
    manager.ready()
    manager.close()
    manager.ready()


@pytest.mark.parametrize(
    ("process", "timeout"), [("", 30.0), (str(os.getpid()), 30.0), (str(os.getppid()), 0.0)], ids=["any", "me", "another"]
)
def test_watchdog_meant_for_another_process_is_not_ours(listener: Listener, process: str, timeout: float) -> None:
    """WATCHDOG_PID says who is watched; children inherit the variable."""
    manager = manager_of(listener, WATCHDOG_USEC="30000000", WATCHDOG_PID=process)
    assert manager.watchdog_timeout == timeout
    manager.close()


@pytest.mark.parametrize("text", ["", "0", "soon", "-5"])
def test_watchdog_without_a_time_watches_nothing(listener: Listener, text: str) -> None:
    """A time-out that is none must not end the start."""
    manager = manager_of(listener, WATCHDOG_USEC=text)
    assert manager.watchdog_timeout == 0
    manager.close()
