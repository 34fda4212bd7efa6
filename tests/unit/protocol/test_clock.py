"""The hybrid logical clock: monotone whatever the wall does, bounded, and deaf to clocks that are far ahead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.invariant import InvariantViolated
from kvnode.protocol.clock import BOUND_AHEAD_MS, HybridLogicalClock, physical_ms, stamp_at

WALL_MS = 1_750_000_000_000
TEN_MINUTES_MS = 600_000


def started(wall_ms: int = WALL_MS, bound: int = 0) -> HybridLogicalClock:
    """A clock whose first bound is durable."""
    clock = HybridLogicalClock(max_skew_ms=500)
    clock.restore(bound)
    persist(clock, wall_ms)
    return clock


def persist(clock: HybridLogicalClock, wall_ms: int) -> None:
    """Makes the wanted bound durable, as the driver does."""
    wanted = clock.wanted_bound(wall_ms)
    if wanted is not None:
        clock.set_bound(wanted)


def test_now_within_one_millisecond_counts_up() -> None:
    """Stamps of the same millisecond differ in the counter."""
    clock = started()
    assert [clock.now(WALL_MS) for _ in range(3)] == [stamp_at(WALL_MS) + n for n in range(3)]


def test_now_with_a_full_counter_spills_into_milliseconds() -> None:
    """The 65,537th stamp of a millisecond is in the next one, and order is kept."""
    clock = started()
    stamps = [clock.now(WALL_MS) for _ in range(65_537)]
    assert physical_ms(stamps[-2]) == WALL_MS
    assert physical_ms(stamps[-1]) == WALL_MS + 1
    assert stamps == sorted(set(stamps))


def test_now_without_a_durable_bound_breaks_an_invariant() -> None:
    """No stamp leaves before a restart could know that it must be above it."""
    clock = HybridLogicalClock(max_skew_ms=500)
    with pytest.raises(InvariantViolated):
        clock.now(WALL_MS)
    clock.restore(stamp_at(WALL_MS))
    with pytest.raises(InvariantViolated):
        clock.now(WALL_MS)


def test_now_after_a_jump_back_stays_above_and_after_a_jump_forward_stays_below_the_bound() -> None:
    """Ten minutes back and forth with a disk that is not heard of: the counter keeps stamps increasing."""
    clock = started()
    stamps = [
        clock.now(wall_ms)
        for wall_ms in (WALL_MS, WALL_MS - TEN_MINUTES_MS, WALL_MS + TEN_MINUTES_MS, WALL_MS + TEN_MINUTES_MS, WALL_MS)
        for _ in range(1000)
    ]
    assert stamps == sorted(set(stamps))
    assert stamps[-1] < clock.bound


def test_now_after_a_jump_forward_follows_wall_time_once_the_bound_is_durable() -> None:
    """A slow disk delays the physical part, and no longer than it takes."""
    clock = started()
    later_ms = WALL_MS + TEN_MINUTES_MS
    assert physical_ms(clock.now(later_ms)) < later_ms
    persist(clock, later_ms)
    assert physical_ms(clock.now(later_ms)) == later_ms


@pytest.mark.parametrize(
    ("ahead_ms", "accepted"), [(-TEN_MINUTES_MS, True), (0, True), (500, True), (501, False), (TEN_MINUTES_MS, False)]
)
def test_observe_at_the_skew_bound_accepts_or_refuses(ahead_ms: int, accepted: bool) -> None:
    """500 ms ahead is believed, 501 ms is refused and leaves the clock where it was."""
    clock = started()
    before = clock.now(WALL_MS)
    remote = stamp_at(WALL_MS + ahead_ms) + 7
    assert clock.observe(remote, WALL_MS) is accepted
    assert clock.now(WALL_MS) == (max(before, remote) if accepted else before) + 1


def test_observe_of_a_chain_of_stamps_never_ratchets_beyond_the_skew() -> None:
    """Remote stamps that each claim a little more cannot drag the clock further than wall time plus skew."""
    clock = started()
    for ahead_ms in range(0, 5_000, 100):
        clock.observe(stamp_at(WALL_MS + ahead_ms), WALL_MS)
    assert physical_ms(clock.last) <= WALL_MS + 500


def test_observe_of_a_stamp_beyond_the_durable_bound_is_refused() -> None:
    """A remote stamp never uses up the bound: the next stamp would have to be above it."""
    clock = started()
    later_ms = WALL_MS + BOUND_AHEAD_MS
    assert not clock.observe(stamp_at(later_ms), later_ms)
    clock.now(later_ms)
    persist(clock, later_ms)
    assert clock.observe(stamp_at(later_ms), later_ms)


def test_wanted_bound_is_asked_for_when_less_than_two_seconds_are_left() -> None:
    """A new bound is four seconds ahead, and none is wanted while two are left."""
    clock = started()
    clock.now(WALL_MS)
    assert clock.bound == stamp_at(WALL_MS + 4_000)
    assert clock.wanted_bound(WALL_MS + 2_000) is None
    assert clock.wanted_bound(WALL_MS + 2_001) == stamp_at(WALL_MS + 6_001)


def test_seal_lets_the_next_life_go_on_where_this_one_ended() -> None:
    """After a clean stop a node is not ahead of the others: its next stamp is the wall's, or one above its last."""
    before = started()
    last = before.now(WALL_MS)
    after = started(WALL_MS, bound=before.seal())
    assert after.now(WALL_MS) == last + 1
    assert after.now(WALL_MS + 7) == stamp_at(WALL_MS + 7)


def test_now_after_seal_breaks_an_invariant() -> None:
    """Such a stamp could be given out again by the next life."""
    clock = started()
    clock.seal()
    with pytest.raises(InvariantViolated):
        clock.now(WALL_MS)


def test_crash_loop_puts_the_clock_ahead_by_no_more_than_it_takes() -> None:
    """A hundred crashes, three seconds apart, each with a new bound: the node stays within six seconds of wall time."""
    clock = started()
    for crash in range(100):
        wall_ms = WALL_MS + crash * 3_000
        clock = started(wall_ms, bound=clock.bound)
        assert physical_ms(clock.now(wall_ms)) - wall_ms <= 6_000


def test_set_bound_going_back_breaks_an_invariant() -> None:
    """A lower bound would permit the same stamps again after a restart."""
    clock = started()
    with pytest.raises(InvariantViolated):
        clock.set_bound(clock.bound - 1)


def test_restore_with_a_wall_clock_ten_minutes_back_continues_above_the_bound() -> None:
    """A restart with a wrong wall clock gives no stamp of the life before."""
    before = started()
    last = [before.now(WALL_MS + ms) for ms in range(100)][-1]
    after = started(WALL_MS - TEN_MINUTES_MS, bound=before.bound)
    assert after.now(WALL_MS - TEN_MINUTES_MS) >= before.bound > last


steps = st.lists(
    st.one_of(
        st.tuples(st.just("jump"), st.integers(-TEN_MINUTES_MS, TEN_MINUTES_MS)),
        st.tuples(st.just("pass"), st.integers(0, 3_000)),
        st.tuples(st.just("now"), st.integers(1, 5)),
        st.tuples(st.just("observe"), st.integers(-2_000, 2_000)),
        st.tuples(st.just("persist"), st.just(0)),
        st.tuples(st.just("restart"), st.just(0)),
        st.tuples(st.just("clean restart"), st.just(0)),
    ),
    max_size=60,
)


@settings(max_examples=150, deadline=None)
@given(steps)
def test_any_life_of_a_clock_gives_strictly_increasing_stamps_below_the_bound(life: list[tuple[str, int]]) -> None:
    """Jumps, remote stamps, late bounds and restarts in any order: stamps increase, and never reach the durable bound."""
    wall_ms, clock, last = WALL_MS, started(), 0
    for what, amount in life:
        if what in ("jump", "pass"):
            wall_ms += amount
        elif what == "now":
            for _ in range(amount):
                stamp = clock.now(wall_ms)
                assert last < stamp < clock.bound
                last = stamp
        elif what == "observe":
            remote = stamp_at(wall_ms + amount)
            accepted = clock.observe(remote, wall_ms)
            assert clock.last < clock.bound
            assert not accepted or (amount <= 500 and clock.last >= remote)
        elif what == "persist":
            persist(clock, wall_ms)
        else:
            clock = started(wall_ms, bound=clock.seal() if what == "clean restart" else clock.bound)


def test_clock_remembers_how_far_others_were_ahead() -> None:
    """The furthest stamp of all, refused ones too, which are counted; stamps of the past say nothing."""
    clock = HybridLogicalClock(max_skew_ms=500)
    clock.set_bound(stamp_at(20_000))
    for ahead_ms in (-1_000, 0, 300, 20):
        clock.observe(stamp_at(10_000 + ahead_ms), 10_000)
    assert (clock.ahead_ms_max, clock.refusals) == (300, 0)
    assert not clock.observe(stamp_at(10_501), 10_000)
    assert (clock.ahead_ms_max, clock.refusals) == (501, 1)
