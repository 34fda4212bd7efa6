"""When operations begin: the arrivals' laws, and turns on virtual time."""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import statistics
from collections import Counter
from collections.abc import Iterator

import pytest

from kvctl.bench.schedule import ClosedLoop, OpenLoop, even, poisson
from tests.sim.loop import SimulatedLoop, run


def first(arrivals: Iterator[float], number: int) -> list[float]:
    """The first few arrivals."""
    return list(itertools.islice(arrivals, number))


def test_even_arrivals_of_several_processes_interleave_to_the_whole_rate() -> None:
    """Three processes at 30 a second are one at 30 a second."""
    parts = [first(even(5.0, 30.0, index, 3), 100) for index in range(3)]
    assert sorted(itertools.chain(*parts)) == pytest.approx(first(even(5.0, 30.0), 300))


def test_poisson_arrivals_have_the_rate_and_the_chance_of_the_law() -> None:
    """Gaps have their mean as deviation, counts in equal windows their mean as variance; also several processes together."""
    alone = first(poisson(0.0, 1_000.0, random.Random(1)), 100_000)
    gaps = [later - earlier for earlier, later in itertools.pairwise(alone)]
    assert statistics.fmean(gaps) == pytest.approx(1e-3, rel=0.02)
    assert statistics.pstdev(gaps) == pytest.approx(1e-3, rel=0.02)
    together = sorted(itertools.chain(*(first(poisson(0.0, 250.0, random.Random(seed)), 25_000) for seed in range(4))))
    for arrivals in (alone, together):
        counts = Counter(int(at / 0.05) for at in arrivals if at < 95.0)
        numbers = [counts[window] for window in range(1_900)]
        assert statistics.fmean(numbers) == pytest.approx(50.0, rel=0.02)
        assert statistics.pvariance(numbers) == pytest.approx(50.0, rel=0.1)


def test_open_loop_gives_each_turn_at_its_time_to_whoever_waited_longest() -> None:
    """Three callers that are always free take turns in turn, each at the very moment."""

    async def main(loop: SimulatedLoop) -> list[tuple[str, float, float]]:
        turns, taken = OpenLoop(loop, iter([1.0, 1.5, 1.5, 4.0, 9.0]), until=9.0), []

        async def caller(name: str) -> None:
            while (due := await turns.take()) is not None:
                taken.append((name, due, loop.time()))

        await asyncio.gather(*(caller(name) for name in "abc"))
        assert loop.time() == 4.0  # nobody waits for a turn that will not come
        return taken

    taken = run(main, 1)
    assert [(name, due) for name, due, _ in taken] == [("a", 1.0), ("b", 1.5), ("c", 1.5), ("a", 4.0)]
    assert all(at == pytest.approx(due, abs=1e-6) for _, due, at in taken)


def test_open_loop_with_busy_callers_keeps_the_intended_starts() -> None:
    """One caller, busy for a second, then takes what has become due meanwhile, in order, with the times when it was due."""

    async def main(loop: SimulatedLoop) -> list[tuple[float, float]]:
        turns, taken = OpenLoop(loop, iter([0.1, 0.2, 0.3, 1.2])), []
        while (due := await turns.take()) is not None:
            taken.append((due, round(loop.time(), 3)))
            await asyncio.sleep(1.0 if due == 0.1 else 0.0)
        assert max(turns.wakes_late_s) < 1e-6  # the caller was late, this process was not
        return taken

    assert run(main, 1) == [(0.1, 0.1), (0.2, 1.1), (0.3, 1.1), (1.2, 1.2)]


def test_open_loop_that_ends_too_early_knows_what_is_left_over() -> None:
    """Turns before the end that nobody took are counted with what they had waited, none is dropped."""

    async def main(loop: SimulatedLoop) -> None:
        turns = OpenLoop(loop, even(0.0, 10.0), until=1.0)
        assert await turns.take() == 0.0
        assert await turns.take() == pytest.approx(0.1)
        await asyncio.sleep(2.0)
        assert await turns.take() is None
        assert list(turns.left_over()) == pytest.approx([1.0 - number / 10 for number in range(2, 10)])

    run(main, 1)


def test_open_loop_that_is_stopped_dismisses_all_who_wait() -> None:
    """Ctrl-C: nobody waits for turns that do not come, and what was not due yet is not left over."""

    async def main(loop: SimulatedLoop) -> None:
        turns = OpenLoop(loop, iter([0.0, 50.0, 60.0]), until=100.0)
        callers = [asyncio.create_task(turns.take()) for _ in range(3)]
        await asyncio.sleep(1.0)
        turns.stop()
        assert await asyncio.gather(*callers) == [0.0, None, None]
        assert await turns.take() is None
        assert list(turns.left_over()) == []
        assert loop.time() == pytest.approx(1.0)

    run(main, 1)


def test_open_loop_of_a_cancelled_caller_gives_the_turn_to_another() -> None:
    """A turn is never lost with a caller that has gone."""

    async def main(loop: SimulatedLoop) -> None:
        turns = OpenLoop(loop, iter([1.0]))
        gone, stays = (asyncio.create_task(turns.take()) for _ in range(2))
        await asyncio.sleep(0.5)
        gone.cancel()
        assert await stays == 1.0

    run(main, 1)


def test_closed_loop_gives_turns_until_time_or_number_is_over() -> None:
    """At once, with the present moment."""

    async def main(loop: SimulatedLoop) -> None:
        counted = ClosedLoop(loop, math.inf, 2)
        assert [await counted.take() for _ in range(3)] == [0.0, 0.0, None]
        timed = ClosedLoop(loop, 1.0)
        assert await timed.take() == 0.0
        await asyncio.sleep(1.0)
        assert await timed.take() is None
        endless = ClosedLoop(loop, math.inf)
        endless.stop()
        assert await endless.take() is None

    run(main, 1)
