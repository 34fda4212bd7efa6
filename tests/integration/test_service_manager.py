"""One real node, and a socket in the place of the service manager: what is told when, from start to stop."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from pathlib import Path

import pytest

WATCHDOG_S = 1.0


class Service:
    """A node with one shard replica of itself, and what it has told so far."""

    def __init__(self, directory: Path) -> None:
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.listener.bind(str(directory / "notify"))
        with closing(socket.create_server(("127.0.0.1", 0))) as taken:
            self.port = taken.getsockname()[1]
        self.config = directory / "n1.toml"
        self.write_config("")
        environ = {
            **os.environ,
            "NOTIFY_SOCKET": str(directory / "notify"),
            "WATCHDOG_USEC": str(int(WATCHDOG_S * 1e6)),
        }
        self.log = (directory / "log").open("wb")
        command = [sys.executable, "-m", "kvnode", "run", "--config", str(self.config)]
        self.process = subprocess.Popen(command, env=environ, stdin=subprocess.DEVNULL, stdout=self.log, stderr=self.log)

    def write_config(self, more: str, directory: str = "data") -> None:
        """The configuration, with `more` behind it."""
        self.config.write_text(
            f'[node]\nname = "n1"\nlisten = "127.0.0.1:{self.port}"\ndata_dir = "{self.config.with_name(directory)}"\n'
            f'[cluster]\nid = "alone"\nshards = 2\nreplication_factor = 1\n[storage]\nballast_size_bytes = 0\n{more}'
        )

    def hear(self, wanted: str, within_s: float = 20.0) -> list[str]:
        """All words up to the first that begins with `wanted`."""
        until, heard = time.monotonic() + within_s, []
        while not (heard and heard[-1].startswith(wanted)):
            self.listener.settimeout(max(0.001, until - time.monotonic()))
            try:
                heard.append(self.listener.recv(4096).decode())
            except TimeoutError:
                raise AssertionError(f"{wanted} was not told within {within_s} s, but {heard}\n{self.said()}") from None
        return heard

    def left(self) -> list[str]:
        """What was told and not heard yet."""
        self.listener.setblocking(False)
        words = []
        with suppress(BlockingIOError):
            while True:
                words.append(self.listener.recv(4096).decode())
        return words

    def said(self) -> str:
        """The node's log."""
        return Path(self.log.name).read_text()

    def end(self) -> None:
        """Whatever is left of it."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.log.close()
        self.listener.close()


@pytest.fixture
def service(tmp_path: Path) -> Iterator[Service]:
    """A node that is starting."""
    service = Service(tmp_path)
    yield service
    service.end()


def test_service_is_ready_when_it_can_be_reached_and_says_how_it_is(service: Service) -> None:
    """READY comes once, with the status before it; whoever connects then is answered."""
    before_ready = service.hear("READY=1")
    socket.create_connection(("127.0.0.1", service.port), 1).close()
    assert before_ready[0].startswith("EXTEND_TIMEOUT_USEC=")
    assert before_ready[1] == "STATUS=RECOVERING: the log is being replayed"
    assert before_ready[-2].startswith("STATUS=")
    status = service.hear("STATUS=ACTIVE: leads 2 of 2 shards, term 1, lag 0 entries")
    assert "READY=1" not in status


def test_service_that_is_frozen_gives_no_sign_of_life_until_it_goes_on(service: Service) -> None:
    """Signs come well within the watchdog's time, and none from a process that does not run."""
    service.hear("READY=1")
    for _ in range(4):
        service.hear("WATCHDOG=1", WATCHDOG_S)
    service.process.send_signal(signal.SIGSTOP)
    os.waitpid(service.process.pid, os.WUNTRACED)
    service.left()  # what it had said before
    service.listener.settimeout(WATCHDOG_S)
    with pytest.raises(TimeoutError):
        service.listener.recv(4096)
    service.process.send_signal(signal.SIGCONT)
    service.hear("WATCHDOG=1")


def test_service_that_is_told_to_reload_applies_what_it_can_and_says_what_it_cannot(service: Service) -> None:
    """In the log and in the status; a file that cannot be used changes nothing, and the node goes on."""
    service.hear("READY=1")
    service.hear("STATUS=ACTIVE")
    service.write_config('[log]\nlevel = "debug"\n[election]\nrebalance_after_ms = 1234\n')
    service.process.send_signal(signal.SIGHUP)
    reloading = service.hear("READY=1")
    assert any(word.startswith("RELOADING=1\nMONOTONIC_USEC=") for word in reloading)
    assert any(word.endswith("; a restart is needed for election.rebalance_after_ms") for word in reloading)
    assert "\"applied\":[\"log.level = 'debug' (was 'info')\"]" in service.said()
    assert '"event":"these settings take a restart"' in service.said()

    service.write_config('[log]\nlevel = "loud"\n')
    service.process.send_signal(signal.SIGHUP)
    refused = service.hear("READY=1")
    assert any("the configuration was not reloaded: it cannot be used" in word for word in refused)
    assert "not reloaded" in service.said()
    assert service.process.poll() is None


def test_service_that_is_told_to_reload_while_it_starts_starts_all_the_same(service: Service) -> None:
    """A replay may take minutes, and what rotates logs or renews secrets does not ask how far it is."""
    service.hear("STATUS=RECOVERING")
    service.process.send_signal(signal.SIGHUP)
    service.hear("READY=1")


def test_service_that_is_told_to_stop_says_so_first_and_ends_with_0(service: Service) -> None:
    """STOPPING comes before anything is done about it, and no sign of life after it."""
    service.hear("READY=1")
    service.process.send_signal(signal.SIGTERM)
    service.hear("STOPPING=1")
    assert service.process.wait(10) == 0
    assert service.left() == ["STATUS=stopping"]
    assert [event for event in ("stopping", "stopped") if f'"event":"{event}"' in service.said()] == ["stopping", "stopped"]
