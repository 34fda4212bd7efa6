"""What the log and the store say together when a node starts."""

from __future__ import annotations

import json

import pytest

from kvapi.v1 import replication_pb2
from kvnode.errors import Corrupt
from kvnode.runtime.recovery import (
    ALIVE_RECORD,
    CLOCK_RECORD,
    EVENT_RECORD,
    IDENTITY_RECORD,
    LEADERSHIP_RECORD,
    PEERS_RECORD,
    SNAPSHOT_MARK,
    Identity,
    ShardRecovery,
    replay,
)
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, NodeRecord
from kvnode.types import Entry, HardState


def recovered(*places: str) -> ShardRecovery:
    """Records in the order of writing: "3/2" is an entry, "m3/2" a snapshot's mark."""
    shard = ShardRecovery()
    for place in places:
        index, term = place.removeprefix("m").split("/")
        shard.on_entry(Entry(int(index), int(term), SNAPSHOT_MARK if place[0] == "m" else 1, place.encode()))
    return shard


CASES: dict[str, tuple[tuple[str, ...], tuple[int, int], int, tuple[int, int], list[str]]] = {
    "empty log, empty store": ((), (0, 0), 9, (0, 0), []),
    "log only": (("1/1", "2/1"), (0, 0), 9, (0, 0), ["1/1", "2/1"]),
    "empty log over a store": ((), (7, 2), 9, (7, 2), []),
    "log continues the store at once": (("8/2", "9/2"), (7, 2), 9, (7, 2), ["8/2", "9/2"]),
    "log overlaps the store, all retained": (("1/1", "2/1", "3/1"), (2, 1), 9, (1, 1), ["2/1", "3/1"]),
    "log overlaps the store, none retained": (("1/1", "2/1", "3/1"), (2, 1), 0, (2, 1), ["3/1"]),
    "log overlaps the store, one retained": (("1/1", "2/1", "3/1"), (2, 1), 1, (1, 1), ["2/1", "3/1"]),
    "log ends where the store ends": (("1/1", "2/1"), (2, 1), 0, (2, 1), []),
    "log ends before the store: a snapshot came": (("1/1", "2/1"), (7, 3), 9, (7, 3), []),
    "log contradicts the store: a snapshot came": (("1/1", "2/1", "3/1"), (2, 2), 9, (2, 2), []),
    "later record replaces what follows": (("1/1", "2/1", "3/1", "2/2"), (0, 0), 9, (0, 0), ["1/1", "2/2"]),
    "first entry replaced": (("5/1", "6/1", "5/2"), (4, 1), 9, (4, 1), ["5/2"]),
    "entries before the first one are new": (("5/2", "4/3"), (3, 1), 9, (3, 1), ["4/3"]),
    "gap: a snapshot came between": (("1/1", "2/1", "8/3"), (7, 3), 9, (7, 3), ["8/3"]),
    "mark, then entries": (("1/1", "m7/3", "8/3"), (7, 3), 9, (7, 3), ["8/3"]),
    "mark voids what indexes would join": (("6/1", "7/1", "m7/3", "8/3"), (7, 3), 9, (7, 3), ["8/3"]),
    "mark voids longer junk": (("6/1", "7/1", "8/1", "9/1", "m7/3", "8/3"), (7, 3), 9, (7, 3), ["8/3"]),
    "mark voids junk of a later term": (("7/4", "8/4", "m7/3", "8/5"), (7, 3), 9, (7, 3), ["8/5"]),
    "mark alone": (("6/1", "7/1", "m7/3"), (7, 3), 9, (7, 3), []),
    "mark, and a flush since": (("m7/3", "8/3", "9/3"), (8, 3), 9, (7, 3), ["8/3", "9/3"]),
    "no mark where the log continued the snapshot": (("6/3", "7/3", "8/3"), (7, 3), 0, (7, 3), ["8/3"]),
}


@pytest.mark.parametrize("case", CASES)
def test_log_over_a_store_is_what_the_rules_say(case: str) -> None:
    """Every case of `ShardRecovery.log`."""
    places, (flushed, term), retained, offset, expected = CASES[case]
    log = recovered(*places).log(0, flushed, term, retained)
    assert (log.offset, log.offset_term) == offset
    assert [f"{entry.index}/{entry.term}" for entry in log.slice(log.first_index, 1 << 60)] == expected
    assert log.stable == log.last_index


@pytest.mark.parametrize("places", [("9/2",), ("1/1", "9/2")])
def test_log_that_begins_behind_the_store_is_corrupt(places: tuple[str, ...]) -> None:
    """Something is missing: the shard must not serve."""
    with pytest.raises(Corrupt, match="entries between are missing"):
        recovered(*places).log(3, 7, 2, 9)


def test_records_replayed_are_sorted_by_what_they_are_about() -> None:
    """The last hard state, every eventual write, the latest of each node record, all events.

    Of the clock's bounds, too, although that one is lower: it is the last word of a life that stopped cleanly.
    """
    write = replication_pb2.EventualWrite(node="n", incarnation=1, sequence=1, key=b"k")
    identity = Identity("c", "n", "u", 4, 8)
    found = replay(
        [
            NodeRecord(IDENTITY_RECORD, identity._replace(incarnation=3).encode()),
            NodeRecord(IDENTITY_RECORD, identity.encode()),
            HardStateRecord(1, 5, "a", 2),
            EntryRecord(1, 1, 5, 1, b"x"),
            EventualRecord(2, write.SerializeToString()),
            HardStateRecord(1, 6, "b", 3),
            NodeRecord(CLOCK_RECORD, b"20"),
            NodeRecord(CLOCK_RECORD, b"10"),
            NodeRecord(PEERS_RECORD, json.dumps({"b": "u"}).encode()),
            NodeRecord(EVENT_RECORD, b"event"),
            NodeRecord(LEADERSHIP_RECORD, b"leadership"),
            NodeRecord(EVENT_RECORD, b"event"),
            NodeRecord(ALIVE_RECORD, b"1700000000000"),
            NodeRecord(ALIVE_RECORD, b"1700000002000"),
            NodeRecord(15, b"of a later release"),
        ]
    )
    assert (found.identity, found.clock_bound, found.peer_uids) == (identity, 10, {"b": "u"})
    assert found.shard(1).hard_state == HardState(6, "b", 3)
    assert found.shard(1).entries == [Entry(1, 5, 1, b"x")]
    assert found.journals == {EVENT_RECORD: [b"event", b"event"], LEADERSHIP_RECORD: [b"leadership"]}
    assert (found.shard(2).eventual, found.alive_ms, found.records) == ([write], 1_700_000_002_000, 15)
    assert found.shard(9).entries == []


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b"5", b'{"n2": 5}', b"[" * 3000])
def test_record_of_peers_that_is_none_is_corrupt(data: bytes) -> None:
    """It is found at the start, not when the first peer writes."""
    with pytest.raises(Corrupt):
        replay([NodeRecord(PEERS_RECORD, data)])


@pytest.mark.parametrize("data", [b"", b"{", b"[]", b'{"cluster_id": "c"}', b'{"nonsense": 1}'])
def test_identity_that_cannot_be_read_is_corrupt(data: bytes) -> None:
    """A node must not start as somebody new over old data."""
    with pytest.raises(Corrupt):
        Identity.decode(data)
