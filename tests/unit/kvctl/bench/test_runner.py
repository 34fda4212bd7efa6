"""Callers: what they note, and that a stall of the server shows in an open loop as what it is (coordinated omission)."""

from __future__ import annotations

import asyncio
import math
from array import array
from typing import Any

import pytest

from kvclient.errors import Overloaded
from kvctl.bench.runner import Runner
from kvctl.bench.samples import CUT_SHORT, Notes
from kvctl.bench.schedule import ClosedLoop, OpenLoop, Turns, even
from tests.sim.loop import SimulatedLoop, run

SERVICE_S = 0.001
STALL_S = (2.0, 3.0)
RATE = 100.0


class StallingServer:
    """Answers within a millisecond, but for one second not at all."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop

    async def read(self, target: Any) -> bool:
        """One operation."""
        begin, end = STALL_S
        if begin <= self._loop.time() < end:
            await asyncio.sleep(end - self._loop.time())
        await asyncio.sleep(SERVICE_S)
        return False


def measured(turns_of: Any, callers: int) -> tuple[Notes, Turns]:
    """What so many callers note at a server that stalls."""

    async def main(loop: SimulatedLoop) -> tuple[Notes, Turns]:
        notes, turns = Notes(["read"]), turns_of(loop)
        runner = Runner([None] * callers, lambda: "read", {"read": StallingServer(loop).read})  # type: ignore[list-item]
        await runner.run(turns, notes)
        return notes, turns

    return run(main, 1)


def percentile_s(values: array[int], percent: float) -> float:
    """Of microseconds, in seconds."""
    return sorted(values)[int(len(values) * percent / 100)] / 1e6


def test_open_loop_at_a_stalled_server_shows_the_stall() -> None:
    """Of ten seconds the server stalls for one: a tenth of the operations meet it, and wait for half a second in the mean.

    From their actual start only the four under way seem to have met it, and the 99th percentile knows nothing of it.
    """
    notes, turns = measured(lambda loop: OpenLoop(loop, even(0.0, RATE), until=10.0), callers=4)
    latencies, services = notes.latencies["read"], notes.services["read"]
    assert len(latencies) == len(services) == 1_000
    assert percentile_s(latencies, 99) == pytest.approx(0.9, abs=0.03)
    assert percentile_s(latencies, 95) == pytest.approx(0.5, abs=0.03)
    assert percentile_s(latencies, 50) == pytest.approx(SERVICE_S, rel=0.01)
    assert sum(latency > 10 * SERVICE_S * 1e6 for latency in latencies) == pytest.approx(100, abs=3)
    assert percentile_s(services, 99) == pytest.approx(SERVICE_S, rel=0.01)
    assert sum(service > 10 * SERVICE_S * 1e6 for service in services) == 4
    assert isinstance(turns, OpenLoop)
    assert list(turns.left_over()) == []


def test_closed_loop_at_a_stalled_server_hides_the_stall() -> None:
    """Why there is --rate: the callers wait with the server, so only as many operations as there are callers meet the stall."""
    notes, _ = measured(lambda loop: ClosedLoop(loop, 10.0), callers=4)
    latencies = notes.latencies["read"]
    assert len(latencies) > 30_000
    assert percentile_s(latencies, 99.9) == pytest.approx(SERVICE_S, rel=0.01)
    assert sum(latency > 10 * SERVICE_S * 1e6 for latency in latencies) == 4
    assert not notes.services["read"]


def test_open_loop_beyond_what_the_server_takes_leaves_nothing_out() -> None:
    """One caller takes 1,000 operations/s of 2,000 that are due: the others are late, or left over; together they are all."""
    notes, turns = measured(lambda loop: OpenLoop(loop, even(0.0, 2_000.0), until=1.0), callers=1)
    assert isinstance(turns, OpenLoop)
    left_over = list(turns.left_over())
    latencies = notes.latencies["read"]
    assert len(latencies) + len(left_over) == 2_000
    assert len(latencies) == pytest.approx(1_000, abs=2)
    assert max(latencies) / 1e6 == pytest.approx(0.5, abs=0.01)
    assert max(left_over) == pytest.approx(0.5, abs=0.01)


def test_runner_notes_errors_by_reason_and_reads_that_found_nothing() -> None:
    """A failed operation has a latency, too."""

    async def main(loop: SimulatedLoop) -> Notes:
        kinds = iter(["read", "write", "read", "write"])

        async def read(target: Any) -> bool:
            await asyncio.sleep(0.5)
            return True

        async def write(target: Any) -> bool:
            await asyncio.sleep(0.25)
            raise Overloaded("full")

        notes = Notes(["read", "write"])
        runner = Runner([None], kinds.__next__, {"read": read, "write": write})  # type: ignore[list-item]
        await runner.run(ClosedLoop(loop, math.inf, 4), notes)
        return notes

    notes = run(main, 1)
    taken = notes.take()
    assert (taken["read"].absent, taken["read"].errors) == (2, {})
    assert (taken["write"].absent, taken["write"].errors) == (0, {"OVERLOADED": 2})
    assert list(array("Q", taken["write"].latencies_us)) == [250_000, 250_000]
    assert notes.take() == {}


def test_runner_passes_a_defect_on_and_stops() -> None:
    """What is no answer of a cluster is no measurement."""

    async def main(loop: SimulatedLoop) -> None:
        async def read(target: Any) -> bool:
            await asyncio.sleep(0.1)
            raise ZeroDivisionError

        runner = Runner([None] * 3, lambda: "read", {"read": read})  # type: ignore[list-item]
        with pytest.raises(ZeroDivisionError):
            await runner.run(ClosedLoop(loop, math.inf), Notes(["read"]))
        assert loop.time() == pytest.approx(0.1)

    run(main, 1)


def test_runner_stopped_waits_a_moment_and_cuts_short_what_hangs() -> None:
    """Ctrl-C: operations that end within a second count as they are, others with the time so far."""

    async def main(loop: SimulatedLoop) -> Notes:
        seconds = iter([1.5, 100.0])

        async def read(target: Any) -> bool:
            await asyncio.sleep(next(seconds))
            return False

        notes = Notes(["read"])
        runner = Runner([None] * 2, lambda: "read", {"read": read})  # type: ignore[list-item]
        loop.call_later(1.0, runner.stop)
        await runner.run(ClosedLoop(loop, math.inf), notes)
        assert loop.time() == pytest.approx(2.0)
        return notes

    taken = run(main, 1).take()["read"]
    assert sorted(array("Q", taken.latencies_us)) == [1_500_000, 2_000_000]
    assert taken.errors == {CUT_SHORT: 1}
