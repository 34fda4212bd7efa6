"""Whole nodes in one event loop on virtual time: the product but for its server, its disk and its network."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from typing import Any

from kvapi.v1 import kv_pb2
from kvnode.config import Cluster, Config, Replication
from kvnode.config import Node as NodeConfig
from kvnode.node import Node, Ports
from kvnode.routing.context import RequestContext
from kvnode.runtime.transport import PeerUnreachable
from kvnode.storage.memory_store import MemoryStore
from tests.sim.disk import SimulatedDisk
from tests.sim.loop import SimulatedLoop, run

EPOCH_MS = 1_700_000_000_000
SHARDS = 4


class Wires:
    """A transport: every message arrives at once, as its bytes; nothing reaches a node that is cut off."""

    def __init__(self, cluster: WholeNodes, name: str) -> None:
        self._cluster, self._name = cluster, name

    def _node(self, to: str) -> Node:
        if {to, self._name} & self._cluster.cut_off:
            raise PeerUnreachable(f"{to} is cut off", refused=self._cluster.cut_off_is_dead)
        return self._cluster.nodes[to]

    async def call(self, to: str, request: Any, timeout: float) -> Any:
        """See `Transport`."""
        answer = await self._node(to).endpoint.handle(copied(request))
        self._node(to)
        return copied(answer)

    async def install_snapshot(self, to: str, requests: Iterable[Any], timeout: float) -> Any:
        """See `Transport`."""

        async def parts() -> AsyncIterator[Any]:
            for request in requests:
                yield copied(request)

        return await self._node(to).endpoint.install_snapshot(parts())

    async def forward(self, to: str, request: Any, timeout: float, hops: int) -> Any:
        """See `Transport`."""
        node = self._node(to)
        return copied(await node.kv.dispatch(copied(request), RequestContext(node.loop.time() + timeout, hops)))

    async def close(self) -> None:
        """Nothing is open."""


class WholeNodes:
    """Three nodes that hold every shard."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self.loop = loop
        self.cut_off: set[str] = set()
        self.cut_off_is_dead = False
        """Nobody listens there."""
        members = {name: f"127.0.0.1:{7401 + at}" for at, name in enumerate(("n1", "n2", "n3"))}
        self.nodes = {name: self._node(name, members) for name in members}
        for node in self.nodes.values():
            node.start()

    def _node(self, name: str, members: dict[str, str]) -> Node:
        rng = self.loop.random(name)
        config = Config(
            node=NodeConfig(name=name, listen=members[name], data_dir="nowhere"),  # type: ignore[arg-type]
            cluster=Cluster(id="unit", shards=SHARDS, replication_factor=3, members=members),
            replication=Replication(entries_retained=1),
        )
        transport: Any = Wires(self, name)
        disk: Any = SimulatedDisk(rng)
        ports = Ports(
            loop=self.loop,
            disk=disk,
            store=MemoryStore(rng),
            log_worker=self.loop.worker(),
            store_worker=self.loop.worker(),
            transport=transport,
            wall_ms=lambda: EPOCH_MS + int(self.loop.time() * 1000),
            rng=rng,
            new_uid=lambda: f"disk of {name}",
            on_fatal=_fail,
        )
        return Node(config, ports)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Lets virtual time pass until it is so."""
        while not condition():
            await asyncio.sleep(0.01)

    async def led(self) -> None:
        """Waits until every shard has a leader that all know, and each node has caught up."""
        replicas = [replica for node in self.nodes.values() for replica in node.replicas.values()]
        await self.until(lambda: all(replica.raft.leader and replica.caught_up for replica in replicas))

    def leader(self, shard: int) -> Node:
        """Of the shard."""
        return next(node for node in self.nodes.values() if node.replicas[shard].is_leader)

    async def put(self, key: bytes, value: bytes = b"v", at: str = "n1", **fields: Any) -> kv_pb2.PutResponse:
        """A strong put, unless `consistency` says something else."""
        node = self.nodes[at]
        request = kv_pb2.PutRequest(key=key, value=value, **fields)
        return await node.kv.put(request, RequestContext(self.loop.time() + 5.0))

    async def stop(self) -> None:
        """Ends all nodes."""
        await asyncio.gather(*(node.stop() for node in self.nodes.values()))


def copied(message: Any) -> Any:
    """As it arrives."""
    return type(message).FromString(message.SerializeToString())


def _fail(error: BaseException) -> None:
    raise error


def on_whole_nodes(test: Callable[[WholeNodes], Awaitable[None]]) -> Callable[[], None]:
    """A test of three nodes with leaders, in virtual time."""

    @functools.wraps(test)
    def in_virtual_time() -> None:
        async def main(loop: SimulatedLoop) -> None:
            nodes = WholeNodes(loop)
            await nodes.led()
            await test(nodes)
            await nodes.stop()

        run(main, 1, until=600.0)

    del in_virtual_time.__wrapped__  # type: ignore[attr-defined]
    return in_virtual_time
