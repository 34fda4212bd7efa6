"""The client's name for its writes."""

from __future__ import annotations

import os
import threading
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvclient import _request_ids
from kvclient._request_ids import CLOCK_KEPT_S, RENEWALS_MAX, RequestIds, WriteSession
from kvclient._requests import Call, put_call
from kvclient.types import Consistency


def begun(ids: RequestIds) -> Call:
    """A write that has started."""
    call = put_call("k", "v", Consistency.STRONG, None, None)
    ids.begin(call)
    return call


def id_of(call: Call) -> kv_pb2.RequestId:
    """What it carries."""
    return call.request.request  # type: ignore[no-any-return]


@pytest.fixture
def ids() -> RequestIds:
    """Of one client on threads."""
    return RequestIds(threading.Lock())


def test_begin_each_write_has_the_next_number_of_one_session(ids: RequestIds) -> None:
    """16 random bytes for the client, numbers from 1 for its writes; another client has another name."""
    named = [id_of(begun(ids)) for _ in range(3)]
    assert [one.sequence for one in named] == [1, 2, 3]
    assert len({one.session for one in named}) == 1
    assert len(named[0].session) == 16
    assert id_of(begun(RequestIds(threading.Lock()))).session != named[0].session


def test_acknowledged_write_outstanding_holds_it_below_its_number(ids: RequestIds) -> None:
    """Whatever ended above an outstanding write waits for it; ending it acknowledges all at once."""
    slow, fast, faster = begun(ids), begun(ids), begun(ids)
    ids.end(faster)
    ids.end(fast)
    assert id_of(begun(ids)).acknowledged == 0
    ids.end(slow)
    assert id_of(begun(ids)).acknowledged == 3


@given(st.lists(st.integers(0, 20), max_size=60))
def test_acknowledged_any_history_is_just_below_the_lowest_outstanding(choices: list[int]) -> None:
    """Against the definition; and nothing is kept for what is acknowledged."""
    session = WriteSession()
    outstanding: list[int] = []
    for choice in choices:
        if choice < 8 or not outstanding:
            outstanding.append(session.begin())
        else:
            session.end(outstanding.pop(choice % len(outstanding)))
        assert session.acknowledged == (min(outstanding) if outstanding else session._last + 1) - 1
        assert len(session._ended) == session._last - session.acknowledged - len(outstanding)


def test_started_is_the_lowest_clock_heard_and_the_time_since(ids: RequestIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Milliseconds go into the upper 48 bits; a node that is ahead, as after a crash, does not move it, one that is behind
    does; what nobody confirms is given up after a while; before any clock it is 0."""
    clock = SimpleNamespace(monotonic=lambda: 10.0)
    monkeypatch.setattr(_request_ids, "time", clock)
    assert id_of(begun(ids)).started == 0
    ids.on_clock(5_000 << 16 | 7)
    clock.monotonic = lambda: 10.25
    assert id_of(begun(ids)).started == 5_250 << 16 | 7
    ids.on_clock(8_000 << 16)
    ids.on_clock(0)
    assert id_of(begun(ids)).started == 5_250 << 16 | 7
    ids.on_clock(4_900 << 16)
    assert id_of(begun(ids)).started == 4_900 << 16
    clock.monotonic = lambda: 10.25 + CLOCK_KEPT_S
    ids.on_clock(20_000 << 16)
    assert id_of(begun(ids)).started == 14_900 << 16
    clock.monotonic = lambda: 10.5 + CLOCK_KEPT_S
    ids.on_clock(20_000 << 16)
    assert id_of(begun(ids)).started == 20_000 << 16


def test_renew_many_at_once_move_to_one_new_session_with_the_clock_they_were_told(
    ids: RequestIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first draws, the others follow; also a clock below the client's own is taken, since that one was refused."""
    monkeypatch.setattr(_request_ids, "time", SimpleNamespace(monotonic=lambda: 0.0))
    ids.on_clock(9_000 << 16)
    calls = [begun(ids) for _ in range(3)]
    old = id_of(calls[0]).session
    for number, call in enumerate(calls):
        assert ids.renew(call, (1_000 + number) << 16)
    named = [id_of(call) for call in calls]
    assert len({one.session for one in named} | {old}) == 2
    assert [(one.sequence, one.acknowledged) for one in named] == [(1, 0), (2, 0), (3, 0)]
    assert [one.started >> 16 for one in named] == [1_000, 1_001, 1_002]
    assert id_of(begun(ids)).session == named[0].session
    for call in calls:
        ids.end(call)
    assert id_of(begun(ids)).acknowledged == 3


def test_renew_as_too_old_is_not_undone_by_a_node_whose_clock_is_far_behind(
    ids: RequestIds, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each write would be refused once and draw a session of its own, until the servers forget the others'. A refusal as too
    new counts at once."""
    monkeypatch.setattr(_request_ids, "time", SimpleNamespace(monotonic=lambda: 0.0))
    ids.on_clock(1_000 << 16)
    assert ids.renew(begun(ids), 9_000 << 16)
    ids.on_clock(1_001 << 16)
    following = begun(ids)
    assert id_of(following).started == 9_000 << 16
    assert ids.renew(following, 8_000 << 16)
    ids.on_clock(1_002 << 16)
    assert id_of(begun(ids)).started == 1_002 << 16


def test_renew_clock_unknown_keeps_the_clients_own(ids: RequestIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing of use does not put the clock to 0."""
    monkeypatch.setattr(_request_ids, "time", SimpleNamespace(monotonic=lambda: 0.0))
    ids.on_clock(9_000 << 16)
    call = begun(ids)
    assert ids.renew(call, 0)
    assert id_of(call).started == 9_000 << 16


def test_renew_attempt_in_doubt_or_too_many_is_refused(ids: RequestIds) -> None:
    """Under a new name an attempt in doubt could be executed a second time."""
    call = begun(ids)
    for _ in range(RENEWALS_MAX):
        assert ids.renew(call, 1)
    assert ids.renew(call, 1) is False
    doubtful = begun(ids)
    doubtful.in_doubt = True
    assert ids.renew(doubtful, 1) is False
    assert ids.renew(put_call("k", "v", Consistency.EVENTUAL, None, None), 1) is False


def test_begin_in_a_forked_process_draws_another_name(ids: RequestIds, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes that count under one name would get each other's answers."""
    before = begun(ids)
    monkeypatch.setattr(os, "getpid", lambda: -1)
    after = begun(ids)
    assert id_of(after).session != id_of(before).session
    assert id_of(after).sequence == 1


def test_begin_and_end_many_threads_give_every_number_once(ids: RequestIds) -> None:
    """Threads share a client: no number twice, and in the end all are acknowledged."""
    seen: list[int] = []

    def work() -> None:
        for _ in range(500):
            call = begun(ids)
            seen.append(id_of(call).sequence)
            assert id_of(call).acknowledged < id_of(call).sequence
            ids.end(call)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(seen) == list(range(1, 4_001))
    assert id_of(begun(ids)).acknowledged == 4_000
