"""What no correct leader says, and what one may say."""

from __future__ import annotations

import random

import pytest

from kvapi.v1 import replication_pb2
from kvnode.protocol.raft import door
from kvnode.protocol.raft.core import Raft, RaftSettings
from kvnode.protocol.raft.log import RaftLog
from kvnode.types import Entry, HardState

DATA = replication_pb2.Command(term_start=replication_pb2.TermStartCommand()).SerializeToString()


def follower(commit: int = 2, leader: str = "") -> Raft:
    """n1 of three, in term 3, with entries of the terms 1, 2, 2."""
    log = RaftLog(0, 0, [Entry(index, term, 1, DATA) for index, term in ((1, 1), (2, 2), (3, 2))])
    raft = Raft(0, "n1", ("n1", "n2", "n3"), log, HardState(3, "", commit), RaftSettings(), random.Random(0), lambda: DATA, 0.0)
    raft.leader = leader
    return raft


def append(
    previous: tuple[int, int], *terms: int, term: int = 3, kind: int = 1, data: bytes = DATA
) -> replication_pb2.ShardAppend:
    """An append of entries with these terms behind (index, term)."""
    entries = [replication_pb2.LogEntry(term=one, kind=kind, data=data) for one in terms]
    return replication_pb2.ShardAppend(term=term, previous_index=previous[0], previous_term=previous[1], entries=entries)


@pytest.mark.parametrize(
    "one",
    [
        append((3, 2)),
        append((3, 2), 3, 3),
        append((1, 1), 2, 3),
        append((0, 0), 1, 2, 2),
        append((9, 2)),
        append((0, 0), 9, term=9),
    ],
)
def test_append_that_a_leader_may_send_is_taken(one: replication_pb2.ShardAppend) -> None:
    """Also one that this log does not reach, and one that contradicts what is not committed."""
    raft = follower(commit=0 if one.term == 9 else 2)
    assert door.why_not_append(raft, one) is None


@pytest.mark.parametrize(
    ("one", "says"),
    [
        (append((1, 1), 3), "entry 2 is committed here with term 2, not 3"),
        (append((2, 1)), "entry 2 is committed here"),
        (append((3, 2), 3, 2), "is behind one of term 3"),
        (append((3, 2), 4), "in an append of term 3"),
        (append((0, 0), 0), "term 0"),
        (append((3, 4)), "no log has entry 3 of term 4"),
        (append((3, 0)), "no log has entry 3 of term 0"),
        (append((2**64 - 1, 2)), "no log has"),
        (append((3, 2), 3, kind=2), "no command"),
        (append((3, 2), 3, data=b"\xff"), "no command"),
        (append((3, 2), 3, data=b""), "no command"),
    ],
)
def test_append_that_no_leader_sends_is_refused_with_the_reason(one: replication_pb2.ShardAppend, says: str) -> None:
    """What would truncate committed entries, cannot be a log, or cannot be applied."""
    assert says in (door.why_not_append(follower(), one) or "")


@pytest.mark.parametrize(
    ("sender", "term", "says"),
    [
        ("n2", 3, "n3 leads shard 0 in term 3"),
        ("n4", 3, "does not vote"),
        ("n2", 2**63, "out of reach"),
        ("n2", 2**62 + 1, "out of reach"),
    ],
)
def test_leader_that_cannot_be_is_refused_with_the_reason(sender: str, term: int, says: str) -> None:
    """A second leader of a term, a stranger, and terms that elections do not reach."""
    assert says in (door.why_not_leader(follower(leader="n3"), sender, term) or "")


def test_leader_of_the_term_of_a_later_one_or_of_one_that_is_over_is_heard() -> None:
    """Late messages are answered, not refused."""
    raft = follower(leader="n3")
    assert [door.why_not_leader(raft, sender, term) for sender, term in (("n3", 3), ("n2", 4), ("n2", 2))] == [None] * 3
