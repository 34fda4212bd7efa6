"""The router on one node's real replicas: what it serves, waits for, forwards and refuses.

The node is wired as in production, without sockets: a log on the simulator's port would do too, but here three pure nodes
answer each other through `Forwarding`, and node "1" has the asyncio parts.
"""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.errors import DeadlineExpired, InvalidRequest, NoLeader, NotLeader, OutcomeUnknown, Unavailable
from kvnode.routing.context import RequestContext
from kvnode.routing.range_router import RangeRouter
from kvnode.routing.router import Router
from kvnode.routing.shard_map import ShardMap
from kvnode.runtime.transport import PeerUnreachable
from kvnode.shard.replica import Replica
from kvnode.types import Origin
from tests.unit.routing.stand import Stand

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
SESSION, BOUNDED = kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED


@pytest.fixture
async def stand() -> Stand:
    """Node 1 leads shard 0 of three nodes."""
    return Stand(asyncio.get_running_loop())


def context(stand: Stand, seconds: float = 0.2, hops: int = 0) -> RequestContext:
    """A caller that waits so long."""
    return RequestContext(stand.loop.time() + seconds, hops)


def put(key: bytes = b"k", level: kv_pb2.Consistency = STRONG, **fields: Any) -> kv_pb2.PutRequest:
    """A checked request."""
    return kv_pb2.PutRequest(key=key, value=b"v", consistency=level, **fields)


def get(key: bytes = b"k", level: kv_pb2.Consistency = STRONG, **fields: Any) -> kv_pb2.GetRequest:
    """A checked request."""
    return kv_pb2.GetRequest(key=key, consistency=level, **fields)


def token(revision: int = 0, **origins: int) -> bytes:
    """A session that saw a revision, and writes `n2=5` of node "2"."""
    made = kv_pb2.SessionToken()
    seen = made.positions.add(shard=0, revision=revision)
    for name, sequence in origins.items():
        seen.origins.add(node=name[1:], incarnation=1, sequence=sequence)
    return made.SerializeToString()


async def test_strong_write_at_the_leader_is_served_there(stand: Stand) -> None:
    """With the revision that later reads compare."""
    response = await stand.router.put(put(), context(stand))
    assert (response.revision, response.served.node, response.served.role) == (2, "1", kv_pb2.ROLE_LEADER)
    found = await stand.router.get(get(), context(stand))
    assert (found.found, found.value, found.revision, found.tentative) == (True, b"v", 2, False)


async def test_strong_write_at_a_follower_is_forwarded_with_one_more_hop(stand: Stand) -> None:
    """The leader's answer goes back as it is."""
    stand.follow("2")
    stand.answer = kv_pb2.PutResponse(revision=77)
    assert (await stand.router.put(put(), context(stand, hops=1))).revision == 77
    assert stand.forwarded == [("2", 2)]


async def test_request_forwarded_often_enough_is_not_forwarded_again(stand: Stand) -> None:
    """Two nodes that each believe in the other must not play with it."""
    stand.follow("2")
    with pytest.raises(NotLeader):
        await stand.router.put(put(), context(stand, hops=2))


@pytest.mark.parametrize(("refused", "error"), [(False, OutcomeUnknown), (True, NoLeader)])
async def test_write_lost_with_the_node_it_was_forwarded_to(stand: Stand, refused: bool, error: type[Exception]) -> None:
    """Unknown, unless nobody listened there at all."""
    stand.follow("2")
    stand.answer = PeerUnreachable("gone", refused=refused)
    with pytest.raises(error):
        await stand.router.put(put(), context(stand))


async def test_write_without_a_leader_waits_and_then_says_so(stand: Stand) -> None:
    """Definite: it was not proposed."""
    stand.follow("")
    with pytest.raises(NoLeader):
        await stand.router.put(put(), context(stand, 0.05))


async def test_write_past_its_deadline_is_not_proposed(stand: Stand) -> None:
    """Expired work is dropped at the door."""
    with pytest.raises(DeadlineExpired):
        await stand.router.put(put(), context(stand, -1.0))
    assert stand.replica.raft.log.last_index == 1


async def test_eventual_write_with_more_acks_than_replicas_is_refused(stand: Stand) -> None:
    """It could only time out, with the write stored."""
    with pytest.raises(InvalidRequest) as error:
        await stand.router.put(put(level=EVENTUAL, acks=4), context(stand))
    assert (error.value.field, stand.replica.holder.size) == ("acks", 0)


async def test_eventual_write_is_shown_to_its_session_as_tentative(stand: Stand) -> None:
    """And to eventual reads; not to strong ones."""
    stand.follow("2")
    written = await stand.router.put(put(level=EVENTUAL), context(stand))
    assert written.operation_id == "0.1.1.1"
    found = await stand.router.get(get(level=SESSION, session=written.served.session), context(stand))
    assert (found.value, found.tentative, found.revision) == (b"v", True, 0)
    stand.index = 1
    assert not (await stand.router.get(get(), context(stand))).found
    stand.answer = NoLeader("nobody answers")
    state = await stand.router.operation(kv_pb2.OperationRequest(operation_id="0.1.1.1"), context(stand))
    assert state.state == kv_pb2.OPERATION_STATE_PENDING


async def test_tentative_deletion_seen_is_in_the_token(stand: Stand) -> None:
    """Else the session's next read, at another replica, could find the key again."""
    await stand.router.put(put(), context(stand))
    stand.follow("2")
    delete = kv_pb2.DeleteRequest(key=b"k", consistency=EVENTUAL)
    await stand.router.delete(delete, context(stand))
    seen = await stand.router.get(get(level=EVENTUAL), context(stand))
    position = kv_pb2.SessionToken.FromString(seen.served.session).positions[0]
    assert (seen.found, [(o.node, o.sequence) for o in position.origins]) == (False, [("1", 1)])


async def test_range_with_tentative_keys_has_them_in_the_token(stand: Stand) -> None:
    """As for a single key."""
    stand.follow("2")
    await stand.router.put(put(level=EVENTUAL), context(stand))
    found = await stand.router.range(kv_pb2.RangeRequest(consistency=SESSION), context(stand))
    position = kv_pb2.SessionToken.FromString(found.served[0].session).positions[0]
    assert ([item.key for item in found.items], [o.sequence for o in position.origins]) == ([b"k"], [1])


# ---- levels ---------------------------------------------------------------------------------------------------------


async def test_session_read_behind_its_token_is_forwarded_to_the_leader(stand: Stand) -> None:
    """After a share of the time: the replica may catch up."""
    stand.follow("2")
    stand.answer = kv_pb2.GetResponse(found=True)
    assert (await stand.router.get(get(level=SESSION, session=token(revision=9)), context(stand))).found
    assert stand.forwarded == [("2", 1)]


async def test_session_read_at_a_leader_that_lacks_a_write_is_not_weakened(stand: Stand) -> None:
    """An eventual write that only another replica holds: no read index brings it here, so it must not be served."""
    with pytest.raises(Unavailable):
        await stand.router.get(get(level=SESSION, session=token(n2=5)), context(stand, 0.05))


async def test_session_read_waits_until_the_write_arrives(stand: Stand) -> None:
    """Held is enough."""
    reading = asyncio.ensure_future(stand.router.get(get(level=SESSION, session=token(n2=1)), context(stand)))
    await asyncio.sleep(0)
    batch = replication_pb2.EventualBatch(node="2", incarnation=1)
    batch.writes.add(node="2", incarnation=1, sequence=1, key=b"k", value=b"seen", hlc=1, base=1)
    stand.replica.on_eventual(batch, None, stand.loop.time())
    stand.driver.wake(0)
    assert (await reading).value == b"seen"


async def test_bounded_read_within_its_bound_is_served_here(stand: Stand) -> None:
    """The leader's bound is the age of its last quorum."""
    found = await stand.router.get(get(level=BOUNDED, max_staleness_ms=10_000), context(stand))
    assert (found.served.consistency, found.served.node) == (BOUNDED, "1")
    assert found.served.staleness_ms <= 10_000


@pytest.mark.parametrize("hops", [0, 2])
async def test_bounded_read_beyond_the_leaders_bound_asks_a_majority(stand: Stand, hops: int) -> None:
    """Also on its last hop: the leader needs nobody to forward to."""
    stand.replica.raft.progress["2"].acked_at = stand.replica.raft.progress["3"].acked_at = stand.loop.time() - 1.0
    stand.answers_rounds = True
    found = await stand.router.get(get(level=BOUNDED, max_staleness_ms=100), context(stand, hops=hops))
    assert found.served.node == "1"


async def test_bounded_read_at_a_follower_without_a_bound_is_forwarded_or_refused(stand: Stand) -> None:
    """Never weaker than asked."""
    stand.follow("2")
    stand.answer = kv_pb2.GetResponse(found=True)
    assert (await stand.router.get(get(level=BOUNDED, max_staleness_ms=10), context(stand))).found
    with pytest.raises(Unavailable):
        await stand.router.get(get(level=BOUNDED, max_staleness_ms=10), context(stand, hops=2))


async def test_strong_read_at_a_follower_asks_the_leader_for_the_index(stand: Stand) -> None:
    """And is served here once that is applied."""
    stand.follow("2")
    stand.index = 1
    assert (await stand.router.get(get(), context(stand))).served.node == "1"
    stand.index = 5
    with pytest.raises(DeadlineExpired):
        await stand.router.get(get(), context(stand, 0.05))


# ---- ranges ---------------------------------------------------------------------------------------------------------


async def test_range_in_pages_has_every_key_once(stand: Stand) -> None:
    """The token of a page leads to the next."""
    for number in range(7):
        await stand.router.put(put(b"k%d" % number), context(stand))
    keys, page_token = [], b""
    while True:
        page = await stand.router.range(
            kv_pb2.RangeRequest(prefix=b"k", limit=3, page_token=page_token, consistency=STRONG, keys_only=True), context(stand)
        )
        keys.extend(item.key for item in page.items)
        assert not any(item.value for item in page.items)
        page_token = page.next_page_token
        if not page_token:
            break
    assert keys == [b"k%d" % number for number in range(7)]
    counted = await stand.router.range(kv_pb2.RangeRequest(prefix=b"k", count_only=True, consistency=STRONG), context(stand))
    assert (counted.count, len(counted.items)) == (7, 0)


@pytest.mark.parametrize(
    ("prefix", "one_shard"),
    [(b"", False), (b"a", False), (b"{a", False), (b"{}", False), (b"{}a}", False), (b"{a}", True), (b"x{a}y", True)],
)
def test_range_by_a_complete_tag_asks_one_shard(prefix: bytes, one_shard: bool) -> None:
    """An empty tag is none: such keys are spread over all shards."""
    router = Router.__new__(Router)
    router.map = ShardMap(1, {}, (("1",),) * 16)
    ranges = RangeRouter.__new__(RangeRouter)
    ranges._router = router
    shards = ranges._shards_of(kv_pb2.RangeRequest(prefix=prefix))
    assert (len(shards) == 1) is one_shard
    for suffix in (b"", b"1", b"}2", b"{3}"):
        assert router.map.shard_of(prefix + suffix) in shards or (not prefix + suffix)


# ---- operations -----------------------------------------------------------------------------------------------------


def test_operation_of_each_state_is_told(stand: Stand) -> None:
    """Applied, superseded, settled, pending, unknown."""
    machine = stand.replica.machine
    machine.sequenced[Origin("2", 1)] = 3
    machine.placed[Origin("2", 1), 3] = (8, b"k")
    states = [stand.router._operation(stand.replica, Origin("2", 1), sequence).state for sequence in (3, 2, 4)]
    assert states == [kv_pb2.OPERATION_STATE_APPLIED, kv_pb2.OPERATION_STATE_SETTLED, kv_pb2.OPERATION_STATE_UNKNOWN]


@pytest.mark.parametrize("text", ["", "nonsense", "99.n.1.1", "-1.n.1.1", "0.n.1.x"])
async def test_operation_id_that_is_none_is_refused(stand: Stand, text: str) -> None:
    """With the field's name."""
    with pytest.raises(InvalidRequest) as error:
        await stand.router.operation(kv_pb2.OperationRequest(operation_id=text), context(stand))
    assert error.value.field == "operation_id"


def test_stand_is_a_leader_with_one_entry(stand: Stand) -> None:
    """What the other tests begin with."""
    assert isinstance(stand.replica, Replica)
    assert (stand.replica.is_leader, stand.replica.applied) == (True, 1)


async def test_operation_that_is_pending_here_is_asked_of_the_leader(stand: Stand) -> None:
    """The leader has applied the most: so answers of different nodes do not go back in time."""
    stand.follow("2")
    written = await stand.router.put(put(level=EVENTUAL), context(stand))
    stand.answer = kv_pb2.OperationResponse(state=kv_pb2.OPERATION_STATE_APPLIED, revision=9)
    request = kv_pb2.OperationRequest(operation_id=written.operation_id)
    assert (await stand.router.operation(request, context(stand))).revision == 9
    stand.answer = kv_pb2.OperationResponse(state=kv_pb2.OPERATION_STATE_UNKNOWN)
    assert (await stand.router.operation(request, context(stand))).state == kv_pb2.OPERATION_STATE_PENDING
