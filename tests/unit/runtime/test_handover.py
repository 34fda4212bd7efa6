"""How a node leaves its cluster: three whole nodes on virtual time."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvapi.v1 import kv_pb2, message_pb2
from kvnode.errors import OutcomeUnknown, Unavailable
from kvnode.node import Node
from kvnode.protocol.raft import leader
from kvnode.routing.context import RequestContext
from kvnode.routing.local import FATE_WAIT_MAX
from kvnode.runtime.handover import CATCH_UP_WAIT_MAX, LEAVE_MAX
from tests.unit.observe.whole_nodes import SHARDS, WholeNodes, on_whole_nodes

ACTIVE, RECOVERING = message_pb2.NODE_STATE_ACTIVE, message_pb2.NODE_STATE_RECOVERING


def leads(node: Node) -> list[int]:
    """The shards that a node leads."""
    return [shard for shard, replica in node.replicas.items() if replica.is_leader]


async def lead_all(nodes: WholeNodes, name: str) -> Node:
    """Has one node lead every shard."""
    node = nodes.nodes[name]
    for shard in range(SHARDS):
        if (other := nodes.leader(shard)) is not node:
            leader.start_transfer(other.replicas[shard].raft, name, nodes.loop.time())
            other.driver.wake(shard)
    await nodes.until(lambda: len(leads(node)) == SHARDS)
    await nodes.led()
    return node


async def hears(nodes: WholeNodes, at: str, peer: str, state: message_pb2.NodeState) -> None:
    """Waits until a node has heard of a peer's state."""
    await nodes.until(lambda: nodes.nodes[at].membership.detector.state(peer) == state)


async def took(nodes: WholeNodes, node: Node) -> float:
    """Has a node leave; the seconds."""
    began = nodes.loop.time()
    await node.hand_over()
    return nodes.loop.time() - began


@on_whole_nodes
async def test_node_that_leaves_gives_away_all_it_leads_and_writes_go_on(nodes: WholeNodes) -> None:
    """At once, to nodes that serve; each of many callers, at the node itself, has its write acknowledged, and soon."""
    n1 = await lead_all(nodes, "n1")
    waits: list[float] = []

    async def write(caller: int) -> None:
        for count in range(50):
            began = nodes.loop.time()
            await nodes.put(b"%d/%d" % (caller, count))
            waits.append(nodes.loop.time() - began)

    callers = [asyncio.create_task(write(caller)) for caller in range(8)]
    await nodes.until(lambda: len(waits) > 100)
    assert await took(nodes, n1) < 0.2
    assert leads(n1) == []
    assert n1.state == message_pb2.NODE_STATE_INACTIVE
    for caller in callers:
        await caller
    assert max(waits) < 0.2


@on_whole_nodes
async def test_node_that_leaves_stays_and_serves_while_a_peer_catches_up(nodes: WholeNodes) -> None:
    """Two of three must have a complete log when it goes; until then it is as it was."""
    n1, n3 = await lead_all(nodes, "n1"), nodes.nodes["n3"]
    n3.replicas[0].installing = True
    await hears(nodes, "n1", "n3", RECOVERING)
    leaving = asyncio.create_task(n1.hand_over())
    await asyncio.sleep(0.8 * CATCH_UP_WAIT_MAX)
    assert (len(leads(n1)), n1.state) == (SHARDS, ACTIVE)
    await nodes.put(b"k")
    n3.replicas[0].installing = False
    await hears(nodes, "n1", "n3", ACTIVE)
    began = nodes.loop.time()
    await leaving
    assert nodes.loop.time() - began < 0.2
    assert leads(n1) == []


@on_whole_nodes
async def test_node_that_leaves_waits_for_a_peer_no_longer_than_a_moment(nodes: WholeNodes) -> None:
    """One that is full, say, is RECOVERING for days."""
    n1, n3 = await lead_all(nodes, "n1"), nodes.nodes["n3"]
    n3.replicas[0].installing = True
    await hears(nodes, "n1", "n3", RECOVERING)
    assert CATCH_UP_WAIT_MAX <= await took(nodes, n1) < CATCH_UP_WAIT_MAX + 0.2
    assert leads(n1) == []
    n3.replicas[0].installing = False


@on_whole_nodes
async def test_leadership_that_is_refused_is_offered_to_the_other_follower(nodes: WholeNodes) -> None:
    """n2 leaves, too, and n1 has not heard of it yet."""
    n1, n2 = await lead_all(nodes, "n1"), nodes.nodes["n2"]
    for replica in n2.replicas.values():
        replica.raft.on_leaving(nodes.loop.time())
    assert await took(nodes, n1) < 0.3
    await nodes.until(lambda: len(leads(nodes.nodes["n3"])) == SHARDS)


@on_whole_nodes
async def test_node_that_leaves_does_not_take_a_leadership_that_comes_then(nodes: WholeNodes) -> None:
    """The leader, which hands it to the preferred replica, is refused, and takes writes again at once."""
    await lead_all(nodes, "n2")
    n1, n2 = nodes.nodes["n1"], nodes.nodes["n2"]
    await n1.hand_over()
    began = nodes.loop.time()
    assert leader.start_transfer(n2.replicas[0].raft, "n1", began)
    n2.driver.wake(0)
    await nodes.until(lambda: n2.replicas[0].raft.transfer is None)
    assert nodes.loop.time() - began < 0.05
    assert (leads(n1), len(leads(n2))) == ([], SHARDS)


@on_whole_nodes
async def test_successor_that_died_ends_the_transfer(nodes: WholeNodes) -> None:
    """A moment ago, so that nobody knows yet: writes do not wait for the whole time of a transfer."""
    n1 = await lead_all(nodes, "n1")
    nodes.cut_off.add("n2")
    nodes.cut_off_is_dead = True
    began = nodes.loop.time()
    assert leader.start_transfer(n1.replicas[0].raft, "n2", began)
    n1.driver.wake(0)
    await nodes.until(lambda: n1.replicas[0].raft.transfer is None)
    assert nodes.loop.time() - began < 0.05
    assert 0 in leads(n1)
    nodes.cut_off.clear()


@on_whole_nodes
async def test_node_whose_peers_are_gone_leaves_in_time(nodes: WholeNodes) -> None:
    """It cannot know whether they come back; the process must end all the same."""
    n1 = await lead_all(nodes, "n1")
    nodes.cut_off.update(("n2", "n3"))
    assert await took(nodes, n1) <= LEAVE_MAX + 0.01
    nodes.cut_off.clear()


@on_whole_nodes
async def test_calls_that_wait_at_a_node_that_stops_serving_are_answered_at_once(nodes: WholeNodes) -> None:
    """A strong read and one of a session wait for entries, which do not come any more; neither do those that come then wait in
    vain."""
    await lead_all(nodes, "n1")
    n2 = nodes.nodes["n2"]
    for replica in n2.replicas.values():
        replica.installing = True  # It takes no entries.
    ahead = await nodes.put(b"k")
    deadline = nodes.loop.time() + 5.0
    reads = [
        kv_pb2.GetRequest(key=b"k", consistency=level, session=ahead.served.session)
        for level in (kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_SESSION)
    ]

    def ask() -> list[asyncio.Task[Any]]:
        return [asyncio.create_task(n2.kv.get(read, RequestContext(deadline))) for read in reads]

    waiting = ask()
    await asyncio.sleep(0.5)
    assert not any(one.done() for one in waiting)
    began = nodes.loop.time()
    n2.local.stop_serving()
    for one in [*waiting, *ask()]:
        with pytest.raises(Unavailable, match="is stopping"):
            await one
    assert nodes.loop.time() - began < 0.1


@on_whole_nodes
async def test_write_whose_fate_a_node_that_stops_will_not_hear_is_unknown_at_once(nodes: WholeNodes) -> None:
    """It was deposed with the write in its log; the caller asks elsewhere, under the write's name."""
    n1 = await lead_all(nodes, "n1")
    nodes.cut_off.add("n1")
    writing = asyncio.create_task(nodes.put(b"k"))
    await asyncio.sleep(0.1)
    for replica in n1.replicas.values():
        replica.raft.step_down(nodes.loop.time())
    began = nodes.loop.time()
    n1.local.stop_serving()
    with pytest.raises(OutcomeUnknown):
        await writing
    assert nodes.loop.time() - began < 0.1
    nodes.cut_off.clear()


@on_whole_nodes
async def test_write_of_a_leader_that_stops_without_a_majority_is_unknown_before_its_server_ends(nodes: WholeNodes) -> None:
    """Nobody took over; the last moment to say so is a little before the calls are cut off."""
    n1 = await lead_all(nodes, "n1")
    nodes.cut_off.add("n1")
    writing = asyncio.create_task(nodes.put(b"k"))
    await asyncio.sleep(0.1)
    began = nodes.loop.time()
    n1.local.stop_serving()
    assert len(leads(n1)) == SHARDS
    with pytest.raises(OutcomeUnknown):
        await writing
    assert nodes.loop.time() - began == pytest.approx(FATE_WAIT_MAX, abs=0.05)
    nodes.cut_off.clear()
