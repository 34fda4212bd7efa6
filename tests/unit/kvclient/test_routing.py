"""Which node an operation goes to."""

from __future__ import annotations

import random

import pytest

from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2
from kvclient import errors
from kvclient._requests import get_call, put_call
from kvclient._routing import Router
from kvclient._status import CONNECTION_LOST, unknown
from kvclient.hashing import KEY_HASH
from kvclient.types import Consistency
from tests.unit.kvclient.conftest import Unadventurous

STRONG = get_call("k", Consistency.STRONG, None)
EVENTUAL = get_call("k", Consistency.EVENTUAL, None)
WRITE = put_call("k", "v", Consistency.STRONG, None, None)


def topology(leader: str = "n1", epoch: int = 1, term: int = 1, key_hash: str = KEY_HASH) -> cluster_pb2.TopologyResponse:
    """One shard on three of four nodes."""
    response = cluster_pb2.TopologyResponse(epoch=epoch, key_hash=key_hash)
    for number in range(1, 5):
        response.members.add(name=f"n{number}", address=f"h:{number}")
    response.shards.add(shard=0, leader=leader, term=term, replicas=["n1", "n2", "n3"])
    return response


@pytest.fixture
def router() -> Router:
    """A router with a map, whose random choices never explore."""

    made = Router(("h:1", "h:9"), Unadventurous())
    made.load(topology(), 0.0)
    return made


def test_node_for_no_map_takes_any_endpoint() -> None:
    """Before the first topology there are only the user's addresses."""
    assert Router(("h:7",), random.Random(1)).node_for(STRONG, 0.0) == "h:7"


def test_node_for_strong_goes_to_the_leader_others_to_the_nearest_replica(router: Router) -> None:
    """The leader for strong operations; for the rest the replica with the lowest latency, never a node without the shard."""
    for address, latency in (("h:1", 0.2), ("h:2", 0.3), ("h:3", 0.1), ("h:4", 0.001)):
        router.health.of(address).on_latency(latency)
    assert router.node_for(STRONG, 0.0) == "h:1"
    assert router.node_for(EVENTUAL, 0.0) == "h:3"


def test_node_for_leader_failed_takes_another_replica_then_the_leader_again(router: Router) -> None:
    """Another replica forwards, or knows the new leader; the leader's turn comes back with its back-off."""
    assert router.on_error(STRONG, "h:1", errors.Unavailable("gone", reason=CONNECTION_LOST), 0.0, 0.0) is True
    assert router.node_for(STRONG, 0.01) in ("h:2", "h:3")
    assert router.node_for(STRONG, 5.0) == "h:1"


def test_on_error_write_of_unknown_outcome_counts_by_its_cause(router: Router) -> None:
    """A lost connection is held against the node also when a write suffered it."""
    router.on_error(WRITE, "h:1", unknown(errors.Unavailable("gone", reason=CONNECTION_LOST)), 0.0, 0.0)
    assert not router.health.is_healthy("h:1", 0.01)


def test_on_error_not_leader_with_a_hint_follows_it_without_one_forgets(router: Router) -> None:
    """The redirect's address is used if it is a member's."""
    router.on_error(STRONG, "h:1", errors.NotLeader("x", metadata={"leader": "h:3"}), 0.0, 0.0)
    assert router.node_for(STRONG, 0.0) == "h:3"
    router.on_error(STRONG, "h:3", errors.NotLeader("x", metadata={"leader": "stranger:1"}), 0.0, 0.0)
    assert router.map is not None
    assert router.map.leaders == [None]
    assert router.node_for(STRONG, 0.0, "h:3") in ("h:1", "h:2")


def test_on_error_hurried_caller_is_not_held_against_the_node(router: Router) -> None:
    """A time-out after a few milliseconds says nothing about the node, one after a second does."""
    assert router.on_error(STRONG, "h:1", errors.DeadlineExceeded("x"), 0.0, 0.01) is False
    assert router.health.is_healthy("h:1", 0.0)
    assert router.on_error(STRONG, "h:1", errors.DeadlineExceeded("x"), 0.0, 1.0) is True
    assert not router.health.is_healthy("h:1", 0.0)


def test_on_served_answers_teach_the_leader(router: Router) -> None:
    """A leader that served is the leader; one that served as a follower no longer is; a stranger asks for a new map."""
    assert router.on_served(kv_pb2.Served(node="n2", role=kv_pb2.ROLE_LEADER)) is False
    assert router.node_for(STRONG, 0.0) == "h:2"
    assert router.on_served(kv_pb2.Served(node="n2", role=kv_pb2.ROLE_FOLLOWER)) is True
    assert router.map is not None
    assert router.map.leaders == [None]
    assert router.on_served(kv_pb2.Served(node="n9", role=kv_pb2.ROLE_LEADER)) is True


def test_load_older_epoch_or_term_is_not_taken(router: Router) -> None:
    """A node that lags behind does not put the map back."""
    router.load(topology(leader="n2", epoch=2, term=5), 0.0)
    assert router.load(topology(leader="n1", epoch=1, term=9), 0.0) is False
    assert router.load(topology(leader="n1", epoch=2, term=4), 0.0) is True
    assert router.node_for(STRONG, 0.0) == "h:2"
    assert router.load(topology(leader="n3", epoch=2, term=6), 0.0) is True
    assert router.node_for(STRONG, 0.0) == "h:3"


def test_load_member_that_is_down_is_avoided(router: Router) -> None:
    """What the failure detector confirmed need not be found out by failing."""
    failed = topology(epoch=2)
    failed.members[2].state = message_pb2.NODE_STATE_FAILED
    router.load(failed, 0.0)
    assert not router.health.is_healthy("h:3", 0.0)


def test_load_unknown_key_hash_leaves_routing_to_the_nodes(router: Router) -> None:
    """A client that cannot compute shards still works: any node takes any request."""
    router.load(topology(epoch=2, key_hash="crc-99"), 0.0)
    assert router.node_for(STRONG, 0.0) in ("h:1", "h:2", "h:3", "h:4")
