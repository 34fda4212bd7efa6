"""Nodes' outages, from the records of a cluster whose history is known."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from kvctl.availability.merge import availability
from kvctl.availability.model import Availability, NodeAvailability, Outage
from tests.unit.kvctl.availability.world import DETECTION_MS, EPOCH_MS, HEARTBEAT_MS, REPAIR_MS, STEP_MS, World

LATE_MS = HEARTBEAT_MS + 2 * STEP_MS
"""How far a moment may be off without clocks that differ: a heartbeat, and the steps of who speaks and who hears."""
Told = list[tuple[str, int, int]]


def found_of(world: World, *without: str, window: tuple[int | None, int | None] = (None, None)) -> Availability:
    """What the records say; `window` since the beginning."""
    placed = tuple(None if at_ms is None else EPOCH_MS + at_ms for at_ms in window)
    missing = dict.fromkeys(without, "it does not answer")
    return availability(world.answers(*without), missing, window=placed)  # type: ignore[arg-type]


def node(found: Availability, name: str) -> NodeAvailability:
    """One of the nodes."""
    return next(one for one in found.nodes if one.name == name)


def told(found: Availability) -> Told:
    """All outages, since the beginning."""
    return [
        (one.name, outage.span.from_ms - EPOCH_MS, outage.span.to_ms - EPOCH_MS)
        for one in found.nodes
        for outage in one.outages
    ]


def assert_told(found: Availability, truth: Told, off_ms: int = LATE_MS) -> None:
    """The same outages, each beginning and end not further off than that."""
    outages = told(found)
    assert [name for name, _, _ in outages] == [name for name, _, _ in truth], f"{outages}, in truth {truth}"
    for (name, begin, end), (_, true_begin, true_end) in zip(outages, truth, strict=True):
        assert abs(begin - true_begin) <= off_ms, f"{name} was down from {true_begin}, not {begin}"
        assert abs(end - true_end) <= off_ms, f"{name} was down until {true_end}, not {end}"


def test_crash_is_one_failure_from_the_last_heartbeat_until_it_serves() -> None:
    """The silence before FAILED counts, and so does the repair."""
    world = World()
    world.crash("n2", 10_000, 20_000)
    world.run(40_000)
    found = found_of(world)
    assert_told(found, [("n2", 10_000, 20_000 + REPAIR_MS)])
    figures = node(found, "n2").figures
    assert (figures.failures, figures.stops, node(found, "n2").state) == (1, 0, "ACTIVE")
    assert figures.mttr_ms == pytest.approx(10_000 + REPAIR_MS, abs=2 * LATE_MS)
    assert figures.mttf_ms == pytest.approx(30_000 - 2 * REPAIR_MS, abs=2 * LATE_MS)
    assert figures.uptime_share == pytest.approx(29.4 / 39.7, abs=0.01)
    assert figures.uptime_share == pytest.approx(figures.mttf_ms / (figures.mttf_ms + figures.mttr_ms))


def test_crash_right_after_its_first_service_leaves_no_gap() -> None:
    """Its own record ends before the others' of it as a serving node begin: it lived until they last heard it."""
    world = World()
    world.crash("n2", REPAIR_MS + 3 * STEP_MS, 10_000)
    world.run(20_000)
    found = node(found_of(world), "n2")
    assert (found.figures.failures, len(found.observed)) == (1, 1)
    assert found.figures.up_ms + found.figures.down_ms == 20_000 - REPAIR_MS


def test_node_that_never_failed_has_neither_mttf_nor_mttr() -> None:
    """One cannot divide by no failure."""
    world = World()
    world.run(10_000)
    figures = node(found_of(world), "n1").figures
    assert (figures.failures, figures.mttf_ms, figures.mttr_ms, figures.longest) == (0, None, None, None)
    assert figures.uptime_share == 1.0


def test_pause_longer_than_the_detection_is_a_failure_without_a_restart() -> None:
    """The process is the same; when it goes on it remembers nothing of it."""
    world = World()
    world.pause("n3", 10_000, 16_000)
    world.run(30_000)
    found = found_of(world)
    assert_told(found, [("n3", 10_000, 16_000)])
    assert node(found, "n3").starts == ()


def test_pause_shorter_than_the_detection_is_none() -> None:
    """Nobody called it FAILED."""
    world = World()
    world.pause("n3", 10_000, 10_500)
    world.run(30_000)
    assert told(found_of(world)) == []


def test_graceful_restart_is_planned_and_no_failure() -> None:
    """It counts as down, not as failed."""
    world = World()
    world.stop("n2", 10_000, 14_000)
    world.run(30_000)
    found = found_of(world)
    assert_told(found, [("n2", 10_000, 14_000 + REPAIR_MS)])
    figures = node(found, "n2").figures
    assert (figures.failures, figures.stops, figures.mttf_ms) == (0, 1, None)
    assert figures.planned_ms == pytest.approx(4000 + REPAIR_MS, abs=2 * LATE_MS)
    assert figures.uptime_share == pytest.approx(1 - 4.3 / 29.7, abs=0.02)


def test_rolling_restart_is_three_stops() -> None:
    """One node after the other, as an operator does it."""
    world = World()
    for number, name in enumerate(("n1", "n2", "n3")):
        world.stop(name, 10_000 + number * 4000, 12_000 + number * 4000)
    world.run(40_000)
    found = found_of(world)
    assert_told(found, [(f"n{i + 1}", 10_000 + i * 4000, 12_000 + i * 4000 + REPAIR_MS) for i in range(3)])
    assert [one.figures.failures for one in found.nodes] == [0, 0, 0]


def test_restart_that_nobody_noticed_is_a_failure_by_its_own_record() -> None:
    """Quicker than the detection, and known within its signs of life."""
    world = World()
    world.crash("n2", 11_000, 11_200)
    world.run(30_000)
    found = found_of(world)
    (outage,) = node(found, "n2").outages
    assert outage.span.to_ms - EPOCH_MS == pytest.approx(11_200 + REPAIR_MS, abs=LATE_MS)
    assert 11_000 - 2050 <= outage.span.from_ms - EPOCH_MS <= 11_000
    assert node(found, "n2").figures.failures == 1


def test_restart_that_nobody_noticed_is_told_by_its_incarnation_where_it_does_not_answer() -> None:
    """The others saw it recover in another life."""
    world = World()
    world.crash("n2", 11_000, 11_200)
    world.run(30_000)
    found = found_of(world, "n2")
    assert_told(found, [("n2", 11_200, 11_200 + REPAIR_MS)])


def test_restart_seen_only_as_a_greater_incarnation_is_counted_without_a_length() -> None:
    """It served again before any heartbeat said that it recovers; all that is known is by when."""
    world = World()
    world.crash("n2", 11_000, 11_200)
    world.pause("n2", 20_000, 25_000)
    world.run(30_000)
    answers = world.answers("n2")
    for answer in answers:
        quick = [event for event in answer.events if event.node == "n2" and 11_000 < event.at_ms - EPOCH_MS < 12_000]
        for event in quick:
            answer.events.remove(event)
    found = availability(answers, {"n2": "it does not answer"})
    quick_one, pause = node(found, "n2").outages
    assert (quick_one.span.ms, quick_one.planned) == (0, False)
    assert pause.span.ms == pytest.approx(5000, abs=2 * LATE_MS)
    assert node(found, "n2").figures.failures == 2


def test_outage_that_nobody_watched_for_a_while_is_one() -> None:
    """Its observers were down themselves in the middle of it, and found it dead when they came back."""
    world = World()
    world.crash("n3", 10_000)
    world.crash("n1", 20_000, 25_000)
    world.crash("n2", 20_000, 25_000)
    world.run(40_000)
    assert_told(
        found_of(world),
        [("n1", 20_000, 25_000 + REPAIR_MS), ("n2", 20_000, 25_000 + REPAIR_MS), ("n3", 10_000, 40_000)],
        2050,
    )


@pytest.mark.parametrize("skews", [(0, 0, 0), (250, -250, 0), (-250, 250, 250), (400, 0, -100)])
@pytest.mark.parametrize("seed", range(5))
def test_cut_off_node_is_down_and_does_not_accuse_the_others(skews: tuple[int, ...], seed: int) -> None:
    """n1 says of both that they failed, and each of them has one more witness against, and one for it."""
    world = World(skews_ms=skews, seed=seed)
    world.cut(["n1"], ["n2", "n3"], 10_000, 20_000)
    world.run(40_000)
    assert_told(found_of(world), [("n1", 10_000, 20_000)], LATE_MS + 650)


@pytest.mark.parametrize("seed", range(5))
def test_majority_of_five_is_up_and_the_minority_down(seed: int) -> None:
    """n1 and n2 hear each other, and nobody else."""
    world = World(5, skews_ms=(200, -200, 100, 0, -100), seed=seed)
    world.cut(["n1", "n2"], ["n3", "n4", "n5"], 10_000, 20_000)
    world.run(40_000)
    assert_told(found_of(world), [("n1", 10_000, 20_000), ("n2", 10_000, 20_000)], LATE_MS + 400)


def test_halves_of_four_that_cannot_talk_are_all_down() -> None:
    """There is no majority on either side."""
    world = World(4)
    world.cut(["n1", "n2"], ["n3", "n4"], 10_000, 20_000)
    world.run(40_000)
    assert_told(found_of(world), [(f"n{i}", 10_000, 20_000) for i in range(1, 5)])


def test_one_broken_link_fails_nobody() -> None:
    """A third node vouches for each of the two."""
    world = World()
    world.cut(["n1"], ["n2"], 10_000, 20_000)
    world.run(30_000)
    assert told(found_of(world)) == []


def test_two_paused_at_once_are_told_from_each_other_by_the_third() -> None:
    """Each of them has only kind words for the other, and they are stale."""
    world = World()
    world.pause("n2", 10_000, 20_000)
    world.pause("n3", 10_100, 20_000)
    world.run(40_000)
    assert_told(found_of(world), [("n2", 10_000, 20_000), ("n3", 10_100, 20_000)])


def test_crash_while_another_node_is_down_has_one_witness() -> None:
    """n3 saw nothing of it, and says nothing."""
    world = World()
    world.crash("n3", 8_000, 30_000)
    world.crash("n2", 12_000, 20_000)
    world.run(45_000)
    assert_told(found_of(world), [("n2", 12_000, 20_000 + REPAIR_MS), ("n3", 8_000, 30_000 + REPAIR_MS)])


def test_power_failure_of_all_is_one_failure_of_each() -> None:
    """Nobody saw it. Each remembers its last sign of life, at most 2 s before, and when it started again."""
    world = World()
    for name in world.nodes:
        world.crash(name, 11_900, 60_000)
    world.run(90_000)
    found = found_of(world)
    for name, begin, end in told(found):
        assert 11_900 - 2050 <= begin <= 11_900, name
        assert end == pytest.approx(60_000 + REPAIR_MS, abs=LATE_MS), name
    assert [one.figures.failures for one in found.nodes] == [1, 1, 1]


def test_power_failure_of_all_with_one_that_stays_away_is_not_counted_as_its_time() -> None:
    """n3 was seen up at 11 s and called FAILED after the others' start: of the time between nobody knows."""
    world = World()
    for name in world.nodes:
        world.crash(name, 11_900, None if name == "n3" else 60_000)
    world.run(90_000)
    found = found_of(world, "n3")
    (outage,) = node(found, "n3").outages
    assert outage.ongoing
    assert outage.span.from_ms - EPOCH_MS == pytest.approx(60_000, abs=LATE_MS)
    assert node(found, "n3").state == "FAILED"
    first, second = node(found, "n3").observed
    assert first.to_ms - EPOCH_MS == pytest.approx(11_900, abs=2050)
    assert second == outage.span


def test_outage_that_is_not_over_counts_up_to_now() -> None:
    """And says so; MTTR is that much too short."""
    world = World()
    world.crash("n2", 10_000)
    world.run(30_000)
    found = found_of(world)
    assert_told(found, [("n2", 10_000, 30_000)])
    assert node(found, "n2").outages[0].ongoing
    assert (node(found, "n2").state, node(found, "n2").answers) == ("FAILED", False)


def test_window_cuts_outages_at_both_ends() -> None:
    """The part within it counts, and a failure that began before it is one, too."""
    world = World()
    world.crash("n2", 10_000, 20_000)
    world.crash("n3", 28_000, 40_000)
    world.crash("n1", 50_000, 52_000)
    world.run(60_000)
    found = found_of(world, window=(15_000, 30_000))
    (first,), (second,) = node(found, "n2").outages, node(found, "n3").outages
    assert (first.began_before, first.ongoing, second.began_before, second.ongoing) == (True, False, False, True)
    assert (first.span.from_ms, second.span.to_ms) == (EPOCH_MS + 15_000, EPOCH_MS + 30_000)
    assert [node(found, name).figures.failures for name in ("n1", "n2", "n3")] == [0, 1, 1]
    assert [node(found, name).state for name in ("n1", "n2", "n3")] == ["ACTIVE", "ACTIVE", "FAILED"]
    assert node(found, "n2").figures.up_ms + node(found, "n2").figures.down_ms == 15_000


def test_time_before_a_node_first_served_is_not_counted() -> None:
    """It was configured, and came later; the others called it FAILED meanwhile."""
    world = World()
    world.crash("n3", 0, 20_000)
    world.run(30_000)
    found = found_of(world)
    assert told(found) == []
    assert node(found, "n3").observed[0].from_ms - EPOCH_MS == pytest.approx(20_000 + REPAIR_MS, abs=LATE_MS)


def test_node_that_never_served_has_a_state_and_no_figures() -> None:
    """Configured, and never started."""
    world = World()
    world.crash("n3", 0)
    world.run(20_000)
    found = node(found_of(world), "n3")
    assert (found.state, found.figures.uptime_share, found.outages) == ("FAILED", None, ())


def test_records_of_nobody_are_an_error() -> None:
    """There is nothing to compute from."""
    with pytest.raises(ValueError, match="nothing is known"):
        availability([])


def test_clock_that_was_set_back_does_not_disturb_the_order() -> None:
    """n1's clock goes back by a minute before it sees the end of an outage: what it records counts from when it last did."""
    world = World()
    world.crash("n2", 70_000, 80_000)
    world.run(75_000)
    world.nodes["n1"].skew_ms = -60_000
    world.run(100_000)
    found = found_of(world)
    assert node(found, "n2").figures.failures == 1
    assert node(found, "n2").state == "ACTIVE"


# ---- any schedule ----------------------------------------------------------------------------------------------------

END_MS = 60_000
PHASES = (Phase.explicit, Phase.reuse, Phase.generate, Phase.shrink)


@st.composite
def schedules(draw: st.DrawFn, nodes: int, at_once: int) -> list[tuple[str, str, int, int]]:
    """(what, node, from, to): faults of which no more than `at_once` overlap, each long enough to be noticed."""
    faults: list[tuple[str, str, int, int]] = []
    tracks = [4000] * at_once
    for _ in range(draw(st.integers(0, 10))):
        track = draw(st.integers(0, at_once - 1))
        begin = tracks[track] + draw(st.integers(0, 100)) * STEP_MS
        what = draw(st.sampled_from(("crash", "stop", "pause", "cut")))
        length = draw(st.integers(DETECTION_MS[1] + 2 * HEARTBEAT_MS, 10_000)) // STEP_MS * STEP_MS
        # Each track has nodes of its own, so that no node has two faults at once; a pause of 4 s ends every repair.
        name = f"n{draw(st.integers(0, nodes // at_once - 1)) * at_once + track + 1}"
        if begin + length > END_MS - 5000:
            break
        faults.append((what, name, begin, begin + length))
        tracks[track] = begin + length + 4000
    return faults


def played(world: World, faults: list[tuple[str, str, int, int]]) -> Told:
    """Runs the schedule; the truth."""
    truth: Told = []
    for what, name, begin, end in faults:
        if what == "cut":
            world.cut([name], [other for other in world.nodes if other != name], begin, end)
        else:
            getattr(world, what)(name, begin, end)
        truth.append((name, begin, end + (REPAIR_MS if what in ("crash", "stop") else 0)))
    world.run(END_MS)
    return sorted(truth)


@given(faults=schedules(3, 1), seed=st.integers(0, 1000), skews=st.lists(st.integers(-250, 250), min_size=3, max_size=3))
@settings(max_examples=40, deadline=None, phases=PHASES)
def test_any_schedule_of_one_fault_at_a_time_is_told_as_it_was(
    faults: list[tuple[str, str, int, int]], seed: int, skews: list[int]
) -> None:
    """Three nodes whose clocks differ by half a second: every outage, and none that was not."""
    world = World(3, skews, seed)
    truth = played(world, faults)
    found = found_of(world)
    assert_told(found, truth, LATE_MS + 500)
    for one in found.nodes:
        planned = [fault for fault in faults if fault[0] == "stop" and fault[1] == one.name]
        assert one.figures.stops == len(planned)


@given(faults=schedules(5, 2), seed=st.integers(0, 1000), without=st.sampled_from(("", "n1", "n5")))
@settings(max_examples=25, deadline=None, phases=PHASES)
def test_any_schedule_of_two_faults_of_five_at_a_time_is_told_without_one_of_the_records(
    faults: list[tuple[str, str, int, int]], seed: int, without: str
) -> None:
    """A minority may fail at once, and a node may not answer."""
    world = World(5, (), seed)
    truth = played(world, faults)
    assert_told(found_of(world, *([without] if without else [])), truth, LATE_MS + 100)


ANYTHING = st.lists(
    st.tuples(
        st.sampled_from(("crash", "stop", "pause", "cut")),
        st.sampled_from(("n1", "n2", "n3", "n4")),
        st.integers(0, 60_000),
        st.integers(0, 20_000),
    ),
    max_size=12,
)


@given(faults=ANYTHING, seed=st.integers(0, 1000), without=st.sampled_from(("", "n1")))
@settings(max_examples=40, deadline=None, phases=PHASES)
def test_any_records_give_figures_that_add_up(faults: list[tuple[str, str, int, int]], seed: int, without: str) -> None:
    """Whatever happens to whom: outages are in order, within what was observed, and nothing is counted twice."""
    world = World(4, (), seed)
    played(world, [(what, name, begin, begin + length) for what, name, begin, length in faults])
    if len(answers := world.answers(without)) == 0:
        return
    for window in ((None, None), (EPOCH_MS + 20_000, EPOCH_MS + 50_000)):
        found = availability(answers, window=window)
        for one in found.nodes:
            assert one.figures.up_ms >= 0
            assert one.figures.up_ms + one.figures.down_ms == sum(span.ms for span in one.observed)
            assert_in_order(one.outages)
            for outage in one.outages:
                assert any(s.from_ms <= outage.span.from_ms and outage.span.to_ms <= s.to_ms for s in one.observed)


def assert_in_order(outages: tuple[Outage, ...]) -> None:
    """One after the other."""
    for one, following in itertools.pairwise(outages):
        assert one.span.to_ms < following.span.from_ms or one.span.ms == 0
