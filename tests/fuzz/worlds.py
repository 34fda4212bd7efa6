"""A small healthy cluster in the simulated world, to which anything can be sent; afterwards it must be whole.

Owns: delivering requests to a node as its transport would, and the demands on the cluster afterwards. Never: decides what is
sent. All checks of `tests.sim.world` run meanwhile: a node that stops by itself, or replicas that differ, are violations.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

from kvapi.v1 import kv_pb2, message_pb2
from kvclient.hashing import shard_of
from kvnode.errors import KvnodeError
from kvnode.node import Node
from kvnode.routing.context import RequestContext
from kvnode.runtime.envelope import PROTOCOL_VERSION
from kvnode.runtime.transport import PeerUnreachable
from tests.sim.loop import SimulatedLoop, run
from tests.sim.trace import Trace
from tests.sim.world import World, log_to

NODES, SHARDS = ("n1", "n2", "n3"), 2
ANSWER_WITHIN_S = 60.0
"""No handler may take longer, in virtual time: the longest deadline that a request of these tests has is 2 s."""
SETTLE_WITHIN_S = 60.0
STEPS_MAX = 400_000
"""Callbacks that an example may take: bounded work."""
RESPONSE_SIZE_BYTES_MAX = 16 * 1024 * 1024


class Cluster:
    """Three nodes with two shards, each on all of them."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.world = World(loop, Trace(loop.time), nodes=len(NODES), shards=SHARDS, replication_factor=len(NODES))
        self.world.witness.transaction_promises.values_are_unique = False  # Arbitrary messages write what they like.
        self.outcomes: Counter[str] = Counter()
        self._endpoint = self.world.network.endpoint("fuzz")
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Starts all nodes; every shard takes a write."""
        log_to(self.world)
        for node in self.world.nodes.values():
            self.world.outside(0.0, node.start)
        await self.demand_writes()

    def node(self, name: str) -> Node:
        """The running node."""
        node = self.world.nodes[name].node
        assert node is not None, f"{name} does not run: {self.world.violations}"
        return node

    def envelope(self, sender: str, to: str) -> message_pb2.Message:
        """The authentic envelope of a peer's message."""
        peer = self.node(sender)
        return message_pb2.Message(
            id=1,
            from_node=sender,
            to_node=to,
            sent_at=peer.clock.last,
            cluster_id=peer.config.cluster.id,
            protocol_version=PROTOCOL_VERSION,
            from_incarnation=peer.me.incarnation,
            from_uid=peer.identity.uid,
        )

    # ---- sending ----------------------------------------------------------------------------------------------------

    def to_peer(self, to: str, request: Any) -> None:
        """A peer's request arrives at a node."""
        self._spawn(to, request, self.node(to).endpoint.handle)

    def to_kv(self, to: str, request: Any, hops: int = 0) -> None:
        """A client's request arrives at a node."""
        node = self.node(to)
        self._spawn(to, request, lambda one: node.kv.dispatch(one, RequestContext(self.loop.time() + 2.0, hops)))

    def spawn(self, to: str, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> None:
        """Anything arrives at a node."""
        self._spawn(to, request, handler)

    def _spawn(self, to: str, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> None:
        group = self.world.nodes[to].group
        assert group is not None
        self._tasks.append(group.create_task(self._handle(request, handler), name=f"fuzz {type(request).__name__}"))

    async def _handle(self, request: Any, handler: Callable[[Any], Awaitable[Any]]) -> None:
        name = type(request).__name__
        try:
            response = await handler(request)
        except KvnodeError as error:
            self.outcomes[f"{name}: {type(error).__name__}"] += 1
            if len(str(error)) >= 4096:
                raise ValueError(f"{name}: an error of {len(str(error))} characters") from error
            return
        self.outcomes[f"{name}: answered"] += 1
        if response is not None:
            assert len(response.SerializeToString()) < RESPONSE_SIZE_BYTES_MAX

    async def answered(self) -> None:
        """Everything that was sent ends, with an answer or a documented error. Raises whatever else ended it."""
        tasks, self._tasks = self._tasks, []
        if not tasks:
            return
        _, late = await asyncio.wait(tasks, timeout=ANSWER_WITHIN_S)
        assert not late, f"no end after {ANSWER_WITHIN_S} s: {late}"
        for task in tasks:
            task.result()

    # ---- the demands ------------------------------------------------------------------------------------------------

    async def demand_writes(self) -> None:
        """Every shard takes a strong write."""
        for shard in range(SHARDS):
            key = next(key for n in range(100) if shard_of(key := b"alive%d" % n, SHARDS) == shard)
            await self._until(lambda key=key: self._written(key), f"a strong write of shard {shard}")  # type: ignore[misc]

    async def _written(self, key: bytes) -> str:
        try:
            await self._endpoint.forward("n1", kv_pb2.PutRequest(key=key, value=b"yes"), 2.0, 0)
        except (KvnodeError, PeerUnreachable) as error:
            return str(error)
        return ""

    async def demand_agreement(self) -> None:
        """All replicas have applied the same and nothing is left under way; no check of the world has failed."""
        await self._until(self._agreed, "agreement")
        assert not self.world.violations, "\n".join(map(str, self.world.violations))

    async def _agreed(self) -> str:
        for shard in range(SHARDS):
            states = {}
            for name in NODES:
                replica = self.node(name).replicas[shard]
                machine, raft = replica.machine, replica.raft
                if replica.holder.size or machine.transactions.prepared or len(machine.waiting) or replica.waiting:
                    return (
                        f"{name}, shard {shard}: {replica.holder.size} eventual writes held, "
                        f"{list(machine.transactions.prepared)} prepared, {len(machine.waiting)} waiting"
                    )
                if not raft.log.last_index == raft.commit == replica.applied:
                    return f"{name}, shard {shard}: applied {replica.applied}, {raft.commit} of {raft.log.last_index} committed"
                states[name] = (replica.applied, machine.state_hash)
            if len(set(states.values())) != 1:
                return f"shard {shard}: {states}"
        return ""

    async def _until(self, missing: Callable[[], Awaitable[str]], what: str) -> None:
        until = self.loop.time() + SETTLE_WITHIN_S
        while why := await missing():
            assert not self.world.violations, "\n".join(map(str, self.world.violations))
            assert self.loop.time() < until, f"no {what}: {why}"
            await self.world.sleep(0.1)


def in_a_cluster(test: Callable[[Cluster], Awaitable[None]], seed: int | str = 0) -> Cluster:
    """Runs a coroutine in a fresh cluster; afterwards everything is answered, whole, and takes writes. A restart of all nodes
    must find everything readable, too: what was stored is what can be recovered."""

    async def main(loop: SimulatedLoop) -> Cluster:
        cluster = Cluster(loop)
        await cluster.start()
        await test(cluster)
        await cluster.answered()
        await cluster.demand_writes()
        await cluster.demand_agreement()
        for node in cluster.world.nodes.values():
            node.kill("at the end")
            node.start()
        await cluster.demand_writes()
        await cluster.demand_agreement()
        cluster.world.over = True
        return cluster

    return run(main, seed, steps_max=STEPS_MAX)
