"""Faults begin, add up, and end by themselves, on virtual time."""

from __future__ import annotations

import asyncio
import random
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kvapi.v1 import fault_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest, Overloaded
from kvnode.faults.injector import Injector
from kvnode.node import Ports
from kvnode.storage.disk import OutOfSpace, RealDisk
from tests.sim.loop import SimulatedLoop, run

Fault, Link, Disk, Clock = fault_pb2.InjectedFault, fault_pb2.LinkFault, fault_pb2.DiskFault, fault_pb2.ClockFault
WALL_MS = 1_700_000_000_000


def made(loop: SimulatedLoop, directory: Path) -> Injector:
    """Node n1's injector, over a real disk and a clock that starts at `WALL_MS`."""
    nothing: Any = None
    ports = Ports(
        loop=loop,
        disk=RealDisk(directory),
        store=nothing,
        log_worker=nothing,
        store_worker=nothing,
        transport=nothing,
        wall_ms=lambda: WALL_MS + round(loop.time() * 1000),
        rng=random.Random(1),
        new_uid=lambda: "uid",
        on_fatal=lambda error: None,
    )
    return Injector("n1", ["n2", "n3"], ports)


def test_fault_ends_by_itself_after_its_time(tmp_path: Path) -> None:
    """A minute unless it says otherwise; what is left of it is told; begin and end are logged as warnings."""

    async def main(loop: SimulatedLoop) -> None:
        injector = made(loop, tmp_path)
        given = injector.inject(Fault(id="mine", disk=Disk(full=True), remaining_ms=7))
        assert (given.id, given.duration_ms, given.remaining_ms) == ("1", 60_000, 60_000)
        await asyncio.sleep(59)
        assert [fault.remaining_ms for fault in injector.lasting()] == [1000]
        assert not injector.ports.disk.has_space()
        await asyncio.sleep(1.001)
        assert injector.lasting() == []
        assert injector.ports.disk.has_space()
        assert injector.inject(Fault(disk=Disk(full=True), duration_ms=500)).id == "2"
        await asyncio.sleep(0.501)
        assert injector.ports.disk.has_space()

    with capture_logs() as lines:
        run(main, 1)
    warnings = [line["event"] for line in lines if line["log_level"] == "warning"]
    assert warnings[0].startswith("FAULT INJECTION IS ENABLED")
    assert warnings[1:] == ["fault injected", "fault ended"] * 2
    assert (lines[1]["fault"], lines[1]["kind"], lines[1]["full"]) == ("1", "disk", True)


def test_heal_ends_one_fault_or_all_and_repeats_are_no_error(tmp_path: Path) -> None:
    """By id, or all of them; an id that was never given is a mistake."""

    async def main(loop: SimulatedLoop) -> None:
        injector = made(loop, tmp_path)
        for peer in ("n2", "n3", ""):
            injector.inject(Fault(link=Link(peer=peer, loss=1)))
        assert [fault.id for fault in injector.heal("2")] == ["2"]
        assert injector.heal("2") == []
        assert [fault.link.peer for fault in injector.lasting()] == ["n2", ""]
        for unknown in ("4", "x", "0", "-1"):
            with pytest.raises(InvalidRequest) as caught:
                injector.heal(unknown)
            assert caught.value.field == "id"
        assert len(injector.heal("")) == 2
        assert injector.lasting() == injector.heal("") == []
        await asyncio.sleep(120)  # the timers of what was healed are gone, too

    run(main, 1)


def test_clock_faults_add_up_and_end_one_by_one(tmp_path: Path) -> None:
    """Offsets and rates together; the true time is back when the last one ends."""

    async def main(loop: SimulatedLoop) -> None:
        injector = made(loop, tmp_path)
        wall_ms = injector.ports.wall_ms
        await asyncio.sleep(10)
        assert wall_ms() == WALL_MS + 10_000
        injector.inject(Fault(clock=Clock(offset_ms=-5000), duration_ms=30_000))
        assert wall_ms() == WALL_MS + 5_000
        injector.inject(Fault(clock=Clock(rate=1.5), duration_ms=20_000))
        assert wall_ms() == WALL_MS + 5_000
        await asyncio.sleep(10)
        assert wall_ms() == WALL_MS + 20_000
        await asyncio.sleep(10.001)
        assert wall_ms() - (WALL_MS + 25_001) in (0, 1)
        await asyncio.sleep(10)
        assert wall_ms() - (WALL_MS + 40_001) in (0, 1)

    run(main, 1)


def test_disk_that_becomes_full_is_told_at_once(tmp_path: Path) -> None:
    """The node must not use up what it has reserved before it refuses writes."""

    async def main(loop: SimulatedLoop) -> None:
        injector = made(loop, tmp_path)
        told: list[bool] = []
        injector.on_disk_full = lambda: told.append(injector.ports.disk.has_space())
        injector.inject(Fault(disk=Disk(delay_ms=1)))
        assert told == []
        injector.inject(Fault(disk=Disk(full=True)))
        assert told == [False]
        with pytest.raises(OutOfSpace):
            injector.ports.disk.preallocate("a", 1)

    run(main, 1)


def test_refused_faults_leave_no_trace(tmp_path: Path) -> None:
    """One too many, and one that is wrong."""

    async def main(loop: SimulatedLoop) -> None:
        injector = made(loop, tmp_path)
        with pytest.raises(InvalidRequest):
            injector.inject(Fault(link=Link(peer="n9", loss=1)))
        assert injector.lasting() == []
        for _ in range(limits.FAULTS_MAX):
            injector.inject(Fault(link=Link(delay_ms=1)))
        with pytest.raises(Overloaded):
            injector.inject(Fault(link=Link(delay_ms=1)))
        assert len(injector.lasting()) == limits.FAULTS_MAX

    run(main, 1)
