"""Journals: durable, bounded, and the same after any sequence of flushes, cuts and restarts."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvapi.v1 import cluster_pb2
from kvnode import limits
from kvnode.errors import Corrupt
from kvnode.runtime.flusher import NODE_ROWS
from kvnode.runtime.journal import NUMBER, Journal, Kind
from kvnode.runtime.recovery import EVENT_RECORD, NODE_EVENT_RECORD, replay
from kvnode.storage.log import Log
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.records import NodeRecord
from tests.sim.disk import SimulatedDisk

KIND = Kind(cluster_pb2.NodeEvent, NODE_EVENT_RECORD, b"e")
KEPT = 5


def event(at_ms: int) -> cluster_pb2.NodeEvent:
    """One that can be told from others, unless they are equal."""
    return cluster_pb2.NodeEvent(node="n2", at_ms=at_ms, why="silent")


class Stand:
    """A journal over a log and a store, which are written at once."""

    def __init__(self) -> None:
        self.disk, self.store = SimulatedDisk(random.Random(1)), MemoryStore()
        self.restart()

    def restart(self) -> None:
        """What is on disk is all that is left."""
        self.log = Log(self.disk, 16 * 1024)
        journals = replay(self.log.recover()).journals
        rows = list(self.store.scan(NODE_ROWS, b"e", b"f"))
        driver: Any = self
        self.journal: Journal[cluster_pb2.NodeEvent] = Journal(
            driver, KIND, rows, journals.get(NODE_EVENT_RECORD, ()), journals.get(EVENT_RECORD, ())
        )

    def write_node_record(self, record: NodeRecord) -> None:
        """The driver's part."""
        self.log.write([record])

    def begin_flush(self) -> int:
        """Commits the rows; answers the segment that the log may be cut up to."""
        segment = self.log.active_segment
        self.store.commit({NODE_ROWS: self.journal.rows()})
        return segment

    def flush(self) -> None:
        """A whole one."""
        segment = self.begin_flush()
        self.journal.on_flushed()
        self.log.cut({}, segment)

    def fill_segment(self) -> None:
        """The log goes on in the next segment."""
        active = self.log.active_segment
        while self.log.active_segment == active:
            self.log.write([NodeRecord(15, bytes(1000))])

    @property
    def times(self) -> list[int]:
        """Of the events."""
        return [found.at_ms for found in self.journal]


@pytest.fixture(autouse=True)
def few_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that the bound is met soon."""
    monkeypatch.setattr(limits, "EVENTS_KEPT", KEPT)


def test_journal_new_is_empty() -> None:
    """The first start; and a data directory of a release that had none."""
    assert Stand().times == []


def test_journal_restarted_has_what_only_the_log_has() -> None:
    """Nothing was flushed."""
    stand = Stand()
    for at_ms in (1, 2, 2, 3):
        stand.journal.append(event(at_ms))
    stand.restart()
    assert stand.times == [1, 2, 2, 3]


def test_journal_restarted_after_a_flush_has_nothing_twice() -> None:
    """The log's last segment still holds what the store has."""
    stand = Stand()
    stand.journal.append(event(1))
    stand.flush()
    stand.journal.append(event(2))
    stand.restart()
    stand.restart()
    assert stand.times == [1, 2]


def test_journal_bounded_does_not_bring_back_what_the_log_still_holds() -> None:
    """The store dropped the oldest events, the log has not been cut since: they are not news."""
    stand = Stand()
    for at_ms in range(3 * KEPT):
        stand.journal.append(event(at_ms))
        stand.flush()
    stand.restart()
    assert stand.times == list(range(2 * KEPT, 3 * KEPT))


def test_journal_flushes_what_came_while_a_flush_was_under_way() -> None:
    """`on_flushed` is about the rows that were taken, not about those that came since."""
    stand = Stand()
    stand.journal.append(event(1))
    segment = stand.begin_flush()
    stand.journal.append(event(2))
    stand.journal.on_flushed()
    stand.log.cut({}, segment)
    stand.fill_segment()
    stand.flush()
    stand.restart()
    assert stand.times == [1, 2]


def test_journal_store_holds_no_more_than_the_bound() -> None:
    """Also when more events than that come between two flushes."""
    stand = Stand()
    for count in (KEPT, 1, 3 * KEPT, 2):
        for at_ms in range(count):
            stand.journal.append(event(at_ms))
        stand.flush()
        assert len(list(stand.store.scan(NODE_ROWS, b"", None))) == KEPT


def test_journal_takes_over_the_records_of_an_earlier_release() -> None:
    """They had no numbers: what the store has by its content is not news, and new events come behind them."""
    stand = Stand()
    old = [event(at_ms).SerializeToString() for at_ms in (1, 2, 3)]
    stand.store.commit({NODE_ROWS: [(b"e" + NUMBER.pack(number), data) for number, data in enumerate(old[:2])]})
    stand.log.write([NodeRecord(EVENT_RECORD, data) for data in old])
    stand.restart()
    assert stand.times == [1, 2, 3]
    stand.journal.append(event(4))
    stand.restart()
    assert stand.times == [1, 2, 3, 4]
    stand.flush()
    stand.restart()
    assert stand.times == [1, 2, 3, 4]


def test_journal_of_an_earlier_release_does_not_bring_back_what_its_store_dropped() -> None:
    """The store is full: what it lacks of the log's may be older than all that it has."""
    stand = Stand()
    old = [event(at_ms).SerializeToString() for at_ms in range(KEPT + 2)]
    rows: list[tuple[bytes, bytes | None]] = [(b"e" + NUMBER.pack(number), old[number]) for number in range(2, KEPT + 2)]
    stand.store.commit({NODE_ROWS: rows})
    stand.log.write([NodeRecord(EVENT_RECORD, data) for data in old])
    stand.restart()
    assert stand.times == list(range(2, KEPT + 2))


@pytest.mark.parametrize("record", [b"", b"short", NUMBER.pack(0) + b"\xff"])
def test_journal_record_that_is_none_is_corrupt(record: bytes) -> None:
    """In the log, and in the store."""
    driver: Any = None
    with pytest.raises(Corrupt, match="NodeEvent"):
        Journal(driver, KIND, [], [record])
    with pytest.raises(Corrupt, match="NodeEvent"):
        Journal(driver, KIND, [(b"e" + record, b"")])


STEPS = st.lists(
    st.sampled_from(("append", "append", "append", "flush", "begin flush", "fill segment", "restart")), max_size=40
)


@given(steps=st.lists(STEPS, max_size=40))
@settings(max_examples=60, deadline=None)
def test_journal_after_any_schedule_has_the_latest_events_in_order(steps: list[str]) -> None:
    """The four invariants of `kvnode.runtime.journal`, against a plain list; a flush may be cut short by a restart."""
    stand, appended = Stand(), 0
    for step in steps:
        if step == "append":
            stand.journal.append(event(appended))
            appended += 1
        elif step == "flush":
            stand.flush()
        elif step == "begin flush":
            stand.begin_flush()
            stand.restart()
        elif step == "fill segment":
            stand.fill_segment()
        else:
            stand.restart()
        assert stand.times == list(range(appended))[-KEPT:]
        assert [found.at_ms for found in reversed(stand.journal)] == stand.times[::-1]
        assert len(list(stand.store.scan(NODE_ROWS, b"", None))) <= KEPT
