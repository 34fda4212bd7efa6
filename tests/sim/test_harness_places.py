"""Places to die at: their names, who dies there, and what is left of it; and machines with clocks of their own."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import kv_pb2, replication_pb2
from tests.sim.loop import SimulatedLoop, run
from tests.sim.places import PLACES, Places, PowerCut, name_of_message, unlisted


def _sim(up: bool = True) -> Any:
    return SimpleNamespace(name="n1", up=up, starting=False)


def test_places_are_more_than_a_hundred_and_each_has_one_name() -> None:
    """Every persist, send, apply, flush, cut and step of an installation has a name of its own."""
    assert len(PLACES) == len(set(PLACES)) > 100


def test_places_planned_death_happens_once_at_the_first_place_reached() -> None:
    """Of several places the first one counts; after it nobody else dies."""
    died: list[tuple[str, bool]] = []
    places = Places(lambda sim, place, power: died.append((place, power)))
    places.plan(["after sync log", "before apply of put"], power=True)
    assert not places.reach(_sim(), "before sync log")
    assert places.reach(_sim(), "after sync log")
    assert not places.reach(_sim(), "before apply of put")
    assert died == [("after sync log", True)]
    assert places.reached["before apply of put"] == 1
    assert places.deaths == {"after sync log": 1}


def test_places_death_before_an_operation_leaves_it_undone() -> None:
    """What comes before a place has happened, what follows never does."""
    done: list[str] = []
    places = Places(lambda *_: None)
    operation = places.around(_sim(), "sync log", done.append)
    places.plan(["before sync log"], power=False)
    with pytest.raises(PowerCut):
        operation("first")
    places.plan(["after sync log"], power=False)
    with pytest.raises(PowerCut):
        operation("second")
    assert done == ["second"]


def test_places_node_that_is_down_does_not_die_again() -> None:
    """What a dead node had begun, and what the world does once faults are over, kills nobody."""
    places = Places(lambda *_: pytest.fail("nobody is there"))
    places.plan(["steps down"], power=False)
    assert not places.reach(_sim(up=False), "steps down")
    assert not places.reach(None, "steps down")
    places.running = False
    assert not places.reach(_sim(), "steps down")


def test_places_unlisted_names_are_told() -> None:
    """A place without a name in the list does not go unnoticed."""
    places = Places(lambda *_: None)
    places.reach(_sim(), PLACES[0])
    places.reach(_sim(), "nowhere")
    assert unlisted(places.reached) == ["nowhere"]


def test_places_messages_are_called_by_what_they_carry() -> None:
    """Appends of entries and empty ones are different places, so are a client's request and a forwarded one."""
    append = replication_pb2.AppendRequest()
    assert name_of_message(type(append), append.SerializeToString(), forwarded=False) == "Append"
    append.appends.add().entries.add(term=1)
    assert name_of_message(type(append), append.SerializeToString(), forwarded=False) == "Append of entries"
    assert name_of_message(kv_pb2.PutRequest, b"", forwarded=True) == "forwarded Put"


def test_group_clock_runs_at_its_own_rate_and_timers_follow_it() -> None:
    """Within a machine time is what its clock shows: a sleep of one of its seconds ends when it shows one more."""

    async def main(loop: SimulatedLoop) -> tuple[float, float, float]:
        fast = loop.group("fast", rate=1.25, offset_s=1000.0)

        async def sleep() -> tuple[float, float]:
            before = loop.time()
            await asyncio.sleep(1.0)
            return before, loop.time()

        before, after = await fast.create_task(sleep())
        assert after >= before + 1.0
        return before, after, loop.now

    before, after, now = run(main, seed=1)
    assert before == 1000.0
    assert after == pytest.approx(1001.0)
    assert now == pytest.approx(0.8)
    assert after >= before + 1.0


def test_group_timer_is_never_early_by_its_own_clock() -> None:
    """A timer fires when the group's clock shows its time or more, whatever rounding does: whoever waits again for the rest
    would wait for ever."""

    async def main(loop: SimulatedLoop) -> None:
        random = loop.random("rates")
        for number in range(300):
            group = loop.group(f"g{number}", rate=1 + random.uniform(-0.05, 0.05), offset_s=random.uniform(0, 1e5))
            when = group.offset_s + random.uniform(0, 100)
            true = group.true_time(when)
            assert group.offset_s + group.rate * true >= when

    run(main, seed=2)
