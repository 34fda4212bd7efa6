"""A server under attack: what a well-behaved client notices, and what the server's process holds and spends.

    report = await besiege(stand, attack)          # quiet and attacked windows in turn
    report.assert_bystander_is_served()

Attackers are `Raider`s: connections that send what they are given and look at nothing but a GOAWAY.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.wire import frames as h2
from tests.wire.pairs import HOST

HEAVY = bool(os.environ.get("KVNODE_WIRE_HEAVY"))
"""Longer windows, more of them, and attacks of the size that limits.py permits."""
ROUNDS = 5 if HEAVY else 3
WINDOW_S = 1.0 if HEAVY else 0.15
P99_FACTOR = 2.0
P99_FLOOR_MS = 5.0
"""A bystander's p99 may double, or grow by this. Alone on an idle core a call takes 0.3 ms; twice that is less than what the
operating system's scheduler takes when three busy processes share two cores, so that a factor alone would measure the machine.
Five milliseconds are some turns of the server's loop with other peers' work in it."""
ROOT = Path(__file__).parents[2]


class Process:
    """A child that speaks in lines."""

    def __init__(self, *command: str) -> None:
        environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'client'}"}
        self._child = subprocess.Popen(
            [sys.executable, "-m", *command], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=environment
        )
        self.pid = self._child.pid
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, self.pid, -10)

    def line(self) -> str:
        """The next line of its output."""
        assert self._child.stdout is not None
        line = self._child.stdout.readline()
        assert line, f"the child has ended with {self._child.wait(5)}"
        return line.strip()

    def ask(self, command: str) -> Any:
        """Its answer to a line."""
        assert self._child.stdin is not None
        self._child.stdin.write(command + "\n")
        self._child.stdin.flush()
        return json.loads(self.line())

    def close(self) -> None:
        """Ends it."""
        self._child.kill()
        self._child.communicate()


class Stand:
    """A victim and a bystander."""

    def __init__(self, *options: str) -> None:
        self.victim = Process("tests.wire.victim", *options)
        try:
            self.port = int(self.victim.line())
            self.gauge = Process("tests.wire.gauge", f"{HOST}:{self.port}")
            try:
                assert self.gauge.line() == "ready"
            except BaseException:
                self.gauge.close()
                raise
        except BaseException:
            self.victim.close()
            raise

    def close(self) -> None:
        """Ends both."""
        self.gauge.close()
        self.victim.close()

    def stats(self) -> dict[str, Any]:
        """What the server says that it holds."""
        stats: dict[str, Any] = self.victim.ask("stats")
        return stats

    def memory_mib(self, name: str = "VmRSS") -> float:
        """Of the server's process: VmRSS now, VmHWM the highest since `forget_peak`."""
        status = Path(f"/proc/{self.victim.pid}/status").read_text()
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith(name)) / 1024

    def forget_peak(self) -> None:
        """VmHWM begins anew."""
        Path(f"/proc/{self.victim.pid}/clear_refs").write_text("5")

    def cpu_s(self) -> float:
        """Seconds of CPU that the server has used."""
        parts = Path(f"/proc/{self.victim.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(parts[11]) + int(parts[12])) / os.sysconf("SC_CLK_TCK")

    async def measure(self, seconds: float) -> dict[str, Any]:
        """How the bystander's calls fare."""
        result: dict[str, Any] = await asyncio.to_thread(self.gauge.ask, str(seconds))
        return result

    async def idle(self, within: float = 10.0) -> dict[str, int]:
        """What the server holds once nobody but the bystander is connected and all handlers have ended."""
        until = time.monotonic() + within
        while True:
            stats = await asyncio.to_thread(self.stats)
            if (stats["connections"] <= 1 and not stats["unwinding"]) or time.monotonic() > until:
                return stats
            await asyncio.sleep(0.02)


class Cut(Exception):
    """The server has closed an attacker's connection."""


class Raider(asyncio.Protocol):
    """One connection of an attacker."""

    def __init__(self) -> None:
        self.received = 0
        self.closed = asyncio.Event()
        self._transport: asyncio.Transport | None = None
        self._writable = asyncio.Event()
        self._writable.set()
        self._tail = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket is open."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        transport.set_write_buffer_limits(256 * 1024)

    def connection_lost(self, error: Exception | None) -> None:
        """The server has hung up."""
        self.closed.set()
        self._writable.set()

    def data_received(self, data: bytes) -> None:
        """Only the end is kept: a GOAWAY is the last that comes."""
        self.received += len(data)
        self._tail = (self._tail + data)[-4096:]

    def pause_writing(self) -> None:
        """The server reads too slowly."""
        self._writable.clear()

    def resume_writing(self) -> None:
        """The server has read."""
        self._writable.set()

    def stop_reading(self) -> None:
        """The server's bytes stay in the sockets."""
        assert self._transport is not None
        self._transport.pause_reading()

    async def send(self, *parts: bytes) -> None:
        """Sends. Raises `Cut`."""
        assert self._transport is not None
        if self.closed.is_set():
            raise Cut
        self._transport.write(b"".join(parts))
        await self._writable.wait()
        await asyncio.sleep(0)
        if self.closed.is_set():
            raise Cut

    @property
    def goaway(self) -> int | None:
        """The code of the GOAWAY that ended the connection."""
        place = self._tail.rfind(b"\x07\x00\x00\x00\x00\x00")
        is_last = place >= 3 and place + 6 + int.from_bytes(self._tail[place - 3 : place], "big") == len(self._tail)
        return int.from_bytes(self._tail[place + 10 : place + 14], "big") if is_last else None

    def abort(self) -> None:
        """Hangs up."""
        if self._transport is not None:
            self._transport.abort()


@contextlib.asynccontextmanager
async def raid(port: int, first: bytes = h2.PREFACE + h2.settings() + h2.settings_ack()) -> AsyncIterator[Raider]:
    """An attacker's connection, its preface sent."""
    _, raider = await asyncio.get_running_loop().create_connection(Raider, HOST, port)
    try:
        if first:
            await raider.send(first)
        yield raider
    finally:
        raider.abort()


Attack = Callable[["Siege"], Awaitable[None]]


@dataclass
class Siege:
    """An attack under way, and what came of it."""

    stand: Stand
    codes: list[int | None] = field(default_factory=list)
    """Of the GOAWAYs by which attackers were cut off; None: without one."""
    sent: int = 0
    quiet: list[dict[str, Any]] = field(default_factory=list)
    attacked: list[dict[str, Any]] = field(default_factory=list)
    turns: list[dict[str, float]] = field(default_factory=list)
    cpu_s: float = 0.0
    grown_mib: float = 0.0
    left: dict[str, int] = field(default_factory=dict)

    @property
    def port(self) -> int:
        """Where the victim listens."""
        return self.stand.port

    def assert_bystander_is_served(self) -> None:
        """No call failed, and p99 in the best attacked window is at most twice (or the floor above) the median quiet one."""
        errors = [error for window in self.quiet + self.attacked for error in window["errors"]]
        assert not errors, errors
        quiet = sorted(window["p99"] for window in self.quiet)[len(self.quiet) // 2]
        attacked = min(window["p99"] for window in self.attacked)
        assert attacked <= max(P99_FACTOR * quiet, quiet + P99_FLOOR_MS), self

    def assert_nothing_is_left(self) -> None:
        """Everything that attackers made the server hold is gone with them."""
        assert (self.left["held"], self.left["in_flight"], self.left["unwinding"]) == (0, 0, 0), self

    def __str__(self) -> str:
        def p99s(windows: list[dict[str, Any]]) -> str:
            return "/".join(f"{window['p99']:.1f}" for window in windows)

        codes = {code: self.codes.count(code) for code in self.codes}
        return (
            f"p99 quiet {p99s(self.quiet)} ms, attacked {p99s(self.attacked)} ms; turns {p99s(self.turns)}; +{self.grown_mib:.0f} MiB;"
            f" {self.cpu_s:.2f} s CPU for {self.sent / 1e6:.1f} MB; GOAWAY codes {codes}; left {self.left}"
        )


async def flood(siege: Siege, make: Callable[[], Iterator[bytes]], connections: int = 1, pause: float = 0.02) -> None:
    """Connections that send what `make` yields, again and again; who is cut off comes again after a pause."""

    async def one() -> None:
        while True:
            with contextlib.suppress(OSError):
                async with raid(siege.port) as raider:
                    try:
                        for part in make():
                            siege.sent += len(part)
                            await raider.send(part)
                        await raider.closed.wait()
                    except Cut:
                        pass
                    siege.codes.append(raider.goaway)
            await asyncio.sleep(pause)

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(one())


async def besiege(stand: Stand, attack: Attack, rounds: int = ROUNDS, seconds: float = WINDOW_S) -> Siege:
    """Quiet and attacked windows in turn; the attack is called for each of the latter, and cancelled at its end."""
    siege = Siege(stand)
    stand.forget_peak()
    before = stand.memory_mib()
    for _ in range(rounds):
        siege.quiet.append(await stand.measure(seconds))
        cpu = stand.cpu_s()
        attacking = asyncio.ensure_future(attack(siege))
        await asyncio.sleep(0.02)
        await asyncio.to_thread(stand.stats)
        siege.attacked.append(await stand.measure(seconds))
        siege.turns.append((await asyncio.to_thread(stand.stats))["turns"])
        siege.cpu_s += stand.cpu_s() - cpu
        siege.grown_mib = max(siege.grown_mib, stand.memory_mib("VmHWM") - before)
        if attacking.done():
            await attacking
        attacking.cancel()
        await asyncio.gather(attacking, return_exceptions=True)
        siege.left = await stand.idle()
    return siege
