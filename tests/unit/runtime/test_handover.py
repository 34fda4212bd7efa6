"""How a node leaves its cluster: three whole nodes on virtual time."""

from __future__ import annotations

import asyncio

from kvapi.v1 import message_pb2
from kvnode.node import Node
from kvnode.protocol.raft import leader
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
async def test_successor_that_cannot_be_told_ends_the_transfer(nodes: WholeNodes) -> None:
    """It died a moment ago: writes do not wait for the whole time of a transfer."""
    n1 = await lead_all(nodes, "n1")
    nodes.cut_off.add("n2")
    began = nodes.loop.time()
    assert leader.start_transfer(n1.replicas[0].raft, "n2", began)
    n1.driver.wake(0)
    await nodes.until(lambda: n1.replicas[0].raft.transfer is None)
    assert nodes.loop.time() - began < 0.05
    assert 0 in leads(n1)
    nodes.cut_off.clear()


@on_whole_nodes
async def test_node_whose_peers_are_gone_leaves_in_time_and_as_a_leader(nodes: WholeNodes) -> None:
    """It cannot know whether they come back; the process must end all the same."""
    n1 = await lead_all(nodes, "n1")
    nodes.cut_off.update(("n2", "n3"))
    assert await took(nodes, n1) <= LEAVE_MAX + 0.01
    assert len(leads(n1)) == SHARDS
    nodes.cut_off.clear()
