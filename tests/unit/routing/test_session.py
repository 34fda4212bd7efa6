"""Session tokens: no replica answers a session with less than it has seen."""

from __future__ import annotations

import time

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest
from kvnode.routing import session
from kvnode.shard.replica import Replica
from kvnode.types import Origin
from tests.scripts.pure_cluster import PureCluster


@pytest.fixture
def replica() -> Replica:
    """Node 1 of three leads; it has applied entry 1, and holds its own eventual write 1."""
    cluster = PureCluster(3)
    cluster.time = 10.0
    cluster.start_all()
    cluster.campaign("1")
    cluster.settle()
    cluster.crash("2")
    cluster.crash("3")
    cluster.accept("1", b"k", b"v", "e")
    cluster.durable("1")
    return cluster.nodes["1"].replica


def position(shard: int = 0, revision: int = 0, **origins: int) -> kv_pb2.SessionPosition:
    """What a session has seen: `n1=3` is write 3 of node "1" in its first life."""
    seen = kv_pb2.SessionPosition(shard=shard, revision=revision)
    for name, sequence in origins.items():
        seen.origins.add(node=name[1:], incarnation=1, sequence=sequence)
    return seen


@pytest.mark.parametrize(
    ("seen", "expected"),
    [
        (None, True),
        (position(), True),
        (position(revision=1), True),
        (position(revision=2), False),
        (position(n1=1), True),
        (position(n1=2), False),
        (position(n2=1), False),
        (position(revision=1, n1=1), True),
        (position(revision=2, n1=1), False),
    ],
)
def test_session_is_served_by_a_replica_that_has_all_it_saw(
    replica: Replica, seen: kv_pb2.SessionPosition | None, expected: bool
) -> None:
    """Applied, or held: of each origin."""
    assert session.is_served_by(replica, seen) is expected


def test_token_advanced_keeps_the_most_of_everything(replica: Replica) -> None:
    """Other shards' positions stay; what the replica has applied needs no origin any more."""
    replica.machine.sequenced[Origin("3", 1)] = 5
    before = kv_pb2.SessionToken(positions=[position(revision=7, n3=5, n2=4), position(shard=3, revision=9)])
    after = session.decode(session.advance(before.SerializeToString(), replica, 2, {Origin("2", 1): 3, Origin("1", 1): 1}, 7))
    expected = position(revision=7, n2=4, n1=1)
    expected.hlc = 7
    assert session.position(after, 0) == expected
    assert session.position(after, 3) == position(shard=3, revision=9)


def test_token_of_a_plain_operation_is_its_revision(replica: Replica) -> None:
    """The common case."""
    token = session.decode(session.advance(b"", replica, 5, {}, 0))
    assert list(token.positions) == [position(revision=5)]


def test_tokens_joined_by_concatenation_mean_the_most_of_both() -> None:
    """Clients join the tokens of overlapping operations so."""
    one = kv_pb2.SessionToken(positions=[position(revision=3, n1=2)]).SerializeToString()
    two = kv_pb2.SessionToken(positions=[position(revision=2, n1=4, n2=1)]).SerializeToString()
    assert session.position(session.decode(one + two), 0) == position(revision=3, n1=4, n2=1)


def test_tokens_joined_into_one_name_each_shard_once() -> None:
    """A session that goes on for long does not grow; nothing that any of them covered is lost."""
    one = kv_pb2.SessionToken(positions=[position(revision=3, n1=2), position(shard=4, revision=1)]).SerializeToString()
    two = kv_pb2.SessionToken(positions=[position(revision=2, n1=4)]).SerializeToString()
    whole = session.joined([one, two, b"", one])
    assert list(session.decode(whole).positions) == [position(revision=3, n1=4), position(shard=4, revision=1)]


@pytest.mark.parametrize("token", [b"\xff", b"\x0a\x05ab", bytes(limits.SESSION_TOKEN_SIZE_BYTES_MAX + 1)])
def test_bytes_that_are_no_token_are_refused(token: bytes) -> None:
    """With the field's name."""
    with pytest.raises(InvalidRequest) as error:
        session.decode(token)
    assert error.value.field == "session"


def test_tokens_that_name_very_many_shards_are_read_in_one_pass(replica: Replica) -> None:
    """A client's token of 64 KiB must not hold the event loop for seconds, joined with others or carried on by an answer."""
    token = kv_pb2.SessionToken(positions=[{"shard": n, "revision": n} for n in range(7_000)]).SerializeToString()
    started = time.process_time()
    assert len(session.decode(session.joined([token])).positions) == 7_000
    assert len(session.decode(session.advance(token, replica, 1, {}, 0)).positions) == 7_000
    assert time.process_time() - started < 1.0
