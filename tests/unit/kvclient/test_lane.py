"""Coalescing, without a network."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvclient._lane import OPERATIONS_MAX, QUEUED, QUEUED_MAX, SENT, SIZE_BYTES_MAX, WITHDRAWN, Lane, Ticket
from kvclient._requests import get_call, put_call
from kvclient.types import Consistency


def ticket(size_bytes: int = 10) -> Ticket:
    """A queued write of about that size."""
    call = put_call("k", b"", Consistency.STRONG, None, None)
    call.size_bytes = size_bytes
    return Ticket(call)


def test_lane_slot_free_first_goes_out_alone_then_the_rest_together() -> None:
    """Two slots: two operations leave at once, the next ones wait and leave as one batch when a slot frees."""
    lane = Lane(pipeline=2)
    tickets = [ticket() for _ in range(5)]
    assert [lane.offer([one]) for one in tickets] == [[[tickets[0]]], [[tickets[1]]], [], [], []]
    assert (lane.in_flight, lane.queued) == (2, 3)
    assert lane.release() == [tickets[2:]]
    assert lane.release() == []
    assert (lane.in_flight, lane.queued) == (1, 0)


def test_lane_many_offered_at_once_leave_together() -> None:
    """An explicit batch does not trickle out one by one."""
    tickets = [ticket() for _ in range(10)]
    assert Lane(pipeline=2).offer(tickets) == [tickets]


def test_lane_withdrawn_before_it_is_sent_never_leaves() -> None:
    """Who gives up while waiting takes nobody along; who was sent cannot be withdrawn."""
    lane = Lane(pipeline=1)
    first, second, third = ticket(), ticket(), ticket()
    lane.offer([first])
    lane.offer([second])
    lane.offer([third])
    assert lane.withdraw(first) is False
    assert lane.withdraw(second) is True
    assert lane.withdraw(second) is False
    assert lane.release() == [[third]]


def test_lane_queue_full_refuses_and_keeps_nothing() -> None:
    """The queue is bounded; what is refused is not kept."""
    lane = Lane(pipeline=1)
    lane.offer([ticket()])
    assert lane.offer([ticket()] * (QUEUED_MAX + 1)) is None
    assert lane.queued == 0


def test_lane_large_values_were_read_asks_for_fewer_at_a_time() -> None:
    """The expected answers of a batch stay near the bound, also when values turn out large; small ones restore it slowly."""
    lane = Lane(pipeline=1)
    lane.on_value(1024 * 1024)
    reads = [Ticket(get_call("k", Consistency.STRONG, None)) for _ in range(100)]
    assert [len(batch) for batch in lane.offer(reads) or []] == [3]
    for _ in range(1_000):
        lane.on_value(100)
    assert [len(batch) for batch in lane.release()] == [97]


@given(
    pipeline=st.integers(1, 3),
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("offer"), st.lists(st.sampled_from([1, 500, 1 << 20, 5 << 20]), min_size=1, max_size=20)),
            st.tuples(st.just("release"), st.just([])),
            st.tuples(st.just("withdraw"), st.lists(st.integers(0, 200), max_size=3)),
        ),
        max_size=60,
    ),
)
def test_lane_any_history_sends_each_once_in_order_within_bounds(pipeline: int, steps: list[tuple[str, list[int]]]) -> None:
    """Whatever callers do: bounds hold, order holds, nothing is sent twice or forgotten, no slot idles while work waits."""
    lane = Lane(pipeline)
    offered: list[Ticket] = []
    sent: list[Ticket] = []

    def leave(batches: list[list[Ticket]] | None) -> None:
        for batch in batches or []:
            assert 1 <= len(batch) <= OPERATIONS_MAX
            assert len(batch) == 1 or sum(one.call.size_bytes for one in batch) <= SIZE_BYTES_MAX
            sent.extend(batch)

    for step, arguments in steps:
        if step == "offer":
            tickets = [ticket(size) for size in arguments]
            offered += tickets
            leave(lane.offer(tickets))
        elif step == "release" and lane.in_flight:
            leave(lane.release())
        elif step == "withdraw":
            for number in arguments:
                if number < len(offered):
                    lane.withdraw(offered[number])
        assert lane.in_flight <= pipeline
        assert lane.queued == sum(one.state == QUEUED for one in offered)
        assert lane.in_flight == pipeline or not lane.queued
    while lane.in_flight:
        leave(lane.release())
    assert sent == [one for one in offered if one.state == SENT]
    assert all(one.state in (SENT, WITHDRAWN) for one in offered)
