"""A machine: what survives its processes, and the process that runs now.

Owns: the lives of one node (start, kill, power loss, graceful stop), its disk, store, threads and clocks. Never: decides when
what fails (`faults` does), or looks into the node (`witness` does).
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kvapi.v1 import kv_pb2
from kvnode.api.cluster_service import ClusterService
from kvnode.api.peer_service import PeerService
from kvnode.api.server import CLOSE_MAX, add_services
from kvnode.errors import Corrupt, WrongCluster
from kvnode.invariant import InvariantViolated
from kvnode.node import Node, Ports
from kvnode.routing.context import RequestContext
from kvnode.shard.state_machine import LOCAL
from kvnode.shard.superseded import parse_operation_id
from kvnode.storage.disk import DiskFailed, OutOfSpace
from kvnode.storage.memory_store import MemoryStore
from kvnode.types import NodeName, Shard

from .disk import SimulatedDisk
from .durable import DurableNode
from .loop import Group, SimulatedWorker
from .places import PowerCut
from .wire import SimulatedServer

if TYPE_CHECKING:
    from .world import World

EPOCH_MS = 1_700_000_000_000
LOCAL_END = bytes([LOCAL[0] + 1])
STOP_GRACE_S, STOP_S_MAX = 1.0, 4.4
"""For calls under way, and for the whole stop, as `kvnode.process` has them."""
STOP_S_ALLOWED = 5.0
"""A stop that takes longer is a bug, whatever its disk and its peers do."""


class SimNode:
    """One machine: what survives its processes, and the process that runs now."""

    def __init__(self, world: World, name: NodeName) -> None:
        self.world, self.name = world, name
        self.life = 0
        self.group: Group | None = None
        self.node: Node | None = None
        self.server: SimulatedServer | None = None
        self.log_worker: SimulatedWorker | None = None
        self.store_worker: SimulatedWorker | None = None
        self.starting = False
        """A process recovers from its disk."""
        self.lost = False
        """Its disk was lost or damaged: its peers refuse it, or it refuses to start, from then on."""
        self.damage = ""
        """What of its disk was damaged."""
        self.former: DurableNode | None = None
        """What was on the disk that was lost."""
        self.stopping = False
        self.failed = False
        """A fatal error was reported; the process is about to end."""
        self.disks = 0
        self.clock_offset_ms = 0.0
        self.clock_rate = 1.0
        self.monotonic_rate, self.monotonic_offset_s = world.monotonic_clock(name)
        self._clock_at = 0.0
        self._clock_ms = 0.0
        self.new_disk()

    def new_disk(self) -> None:
        """An empty disk."""
        self.disks += 1
        rng = self.world.loop.random(f"disk {self.name} {self.disks}")
        self.disk = SimulatedDisk(rng, ballast_size_bytes=self.world.config.storage.ballast_size_bytes)
        self.store = MemoryStore(rng)
        self.durable = DurableNode(self.store)
        self._watch_store()
        self.world.places.watch_disk(self)
        self.world.places.watch_store(self)

    def _watch_store(self) -> None:
        original = self.store.replace

        def replace(shard: Shard, keep: bytes, rows: Any) -> None:
            kept = dict(self.store.scan(shard, LOCAL, LOCAL_END))
            original(shard, keep, rows)
            self.durable.on_replaced(shard)
            if kept != dict(self.store.scan(shard, LOCAL, LOCAL_END)):
                self.world.violate(
                    "a snapshot keeps the rows of the replica itself", f"{self.name}, shard {shard}: {list(kept)}"
                )

        self.store.replace = replace  # type: ignore[method-assign]

    @property
    def up(self) -> bool:
        """Whether a process runs (perhaps paused)."""
        return self.node is not None

    # ---- the wall clock ---------------------------------------------------------------------------------------------

    def wall_ms(self) -> int:
        """The machine's wall clock: drifting, and moved by `clock_offset_ms`."""
        now = self.world.loop.now
        self._clock_ms += (now - self._clock_at) * 1000 * self.clock_rate
        self._clock_at = now
        return EPOCH_MS + int(self._clock_ms + self.clock_offset_ms)

    # ---- lives ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """A new process on the same disk."""
        if self.up or (self.lost and self.damage):
            return
        self.life += 1
        self.failed = self.stopping = False
        self.disk.restart()
        self.store.crash()
        self.group = self.world.loop.group(self.name, self.monotonic_rate, self.monotonic_offset_s)
        self.group.run(self._start)

    def _start(self) -> None:
        world, loop = self.world, self.world.loop
        self.log_worker, self.store_worker = loop.worker(), loop.worker()
        ports = Ports(
            loop=loop,
            disk=self.disk,
            store=self.store,
            log_worker=self.log_worker,
            store_worker=self.store_worker,
            transport=world.network.endpoint(self.name),
            wall_ms=self.wall_ms,
            rng=loop.random(f"node {self.name} {self.life}"),
            new_uid=lambda: f"{self.name}-disk{self.disks}",
            on_fatal=self._on_fatal,
        )
        self.starting = True
        try:
            node = Node(world.config_of(self.name), ports)
        except (PowerCut, DiskFailed, OutOfSpace, WrongCluster, Corrupt, InvariantViolated) as error:
            if isinstance(error, OutOfSpace):
                world.outside(0.5, self.start)
            elif isinstance(error, Corrupt) and self.damage:
                world.counts["damage found"] += 1
                self.lost = True
            elif not isinstance(error, (PowerCut, DiskFailed)):
                world.violate("a node starts", f"{self.name}: {error!r}")
            world.note(self.name, f"start failed: {error!r}")
            if self.group is not None and not self.group.killed:
                self.group.kill()
            self.group = None
            return
        finally:
            self.starting = False
        self.node = node
        world.witness.watch(self, node)
        node.start()
        self.server = SimulatedServer(world.network, self._watch_request)
        add_services(self.server, node.kv, ClusterService(node), PeerService(node.endpoint))
        world.network.register(self.name, self._handle, node.endpoint.install_snapshot, self._forward, self.server)
        world.note(self.name, f"started, life {self.life}")

    async def _handle(self, request: Any) -> Any:
        assert self.node is not None
        at_arrival = self.world.witness.log_at_arrival(self, request)
        response = await self.node.endpoint.handle(request)
        self.world.witness.check_answer(self, request, response, at_arrival)
        return response

    async def _forward(self, request: Any, timeout: float, hops: int) -> Any:
        assert self.node is not None
        check, loop = self._watch_request(request), self.world.loop
        deadline, life = loop.time() + timeout, self.life
        try:
            response = await self.node.kv.dispatch(request, RequestContext(deadline, hops))
        finally:
            if self.life == life:
                self.world.witness.bounds.check_answered(self, loop.time(), deadline, timeout, request)
        check(response)
        return response

    def _watch_request(self, request: Any) -> Callable[[Any], None]:
        """A client's request arrived; what is returned checks its response."""
        node, failed_before = self.node, self.failed
        assert node is not None

        def check(response: Any) -> None:
            for one in parts_of(response):
                kind = one.DESCRIPTOR.name
                if self.failed and failed_before and kind in ("PutResponse", "DeleteResponse", "TxnResponse"):
                    # (It may pass on what another node says. Of a transaction, the anchor's is the last word.)
                    served = one.served[-1] if kind == "TxnResponse" else one.served
                    if served.node == self.name:
                        self.world.violate("nothing is acknowledged after a fatal error", f"{self.name} answered {one}")
                if getattr(one, "operation_id", ""):
                    self._check_acknowledged(node, one.operation_id)
                    if hasattr(one, "acks"):
                        self.world.witness.promises.check_copies(self, one.operation_id, one.acks)

        return check

    def _check_acknowledged(self, node: Node, operation: str) -> None:
        """An eventual write is answered by who accepted it: it must be on this disk, or have its place in the log."""
        shard, origin, sequence = parse_operation_id(operation)
        if origin != node.me or sequence in self.durable.shard(shard).eventual.get(origin, {}):
            return
        if node.replicas[shard].machine.sequenced.get(origin, 0) < sequence:
            self.world.violate("an eventual write is acknowledged behind its record", f"{self.name}: {operation}")

    def _on_fatal(self, error: BaseException) -> None:
        by_disk = isinstance(error, (DiskFailed, PowerCut))
        if self.failed or not self.up:
            if not by_disk:
                self.world.violate("a node does not stop by itself", f"{self.name}, also: {error!r}", error)
            return
        self.failed = True
        if by_disk:
            self.world.faults["node stopped by its disk"] += 1
            if self.disk._failed is None and self.store._failed is None and isinstance(error, DiskFailed):
                self.world.violate("a node stops only by a disk that failed", f"{self.name}: {error!r}", error)
        else:
            self.world.violate("a node does not stop by itself", f"{self.name}: {error!r}", error)
        # The process ends a moment later; what still runs meanwhile must not acknowledge anything.
        delay = self.world.rng.random() * 0.005
        self.world.outside(delay, self._end_failed, self.life)

    def _end_failed(self, life: int) -> None:
        if self.life == life and self.up:
            self.kill("stopped by a fatal error")
            if self.world.loop.random(f"after failure {self.name} {life}").random() < 0.5:
                # (What the kernel could not write it need not have kept: the machine is started anew.)
                self.disk.crash()
            self.disk.restart()
            self.store.crash()
            self.world.outside(self.world.rng.uniform(0.05, 1.0), self.start)

    def kill(self, why: str = "kill -9") -> None:
        """SIGKILL: the page cache survives."""
        if not self.up:
            return
        assert self.group is not None
        self.world.note(self.name, why)
        self.group.kill()
        self.world.network.crash(self.name)
        self.world.witness.forget_leader(self.name)
        self.world.witness.promises.on_end(self)
        self.group = self.node = self.log_worker = self.store_worker = None
        self.disk.on_sync = None

    def lose_power(self) -> None:
        """What was not synced is lost, wholly or in parts."""
        self.kill("power loss")
        self.disk.crash()
        self.store.crash()

    def lose_disk(self) -> None:
        """A new, empty disk under the old name: a new node, which its peers must not let vote."""
        self.kill("disk lost")
        self.lost, self.former = True, self.durable
        self.new_disk()

    def flip_bits(self, count: int) -> None:
        """Bits of its log turn around while it is off. It may find that nothing is missing; it never takes damage for less."""
        self.kill("bits flip")
        rng = self.world.rng
        segments = [(name, size) for name in self.disk.names() if name.startswith("log-0") and (size := self.disk.size(name))]
        for _ in range(count if segments else 0):
            name, size = rng.choice(segments)
            written = len(self.disk.read(name).rstrip(b"\0"))
            bit = rng.randrange(8 * (written if rng.random() < 0.9 else size))
            self.disk.flip_bit(name, bit)
            self.damage += f" {name}:{bit // 8}.{bit % 8}"
        self.world.note(self.name, f"bits flipped:{self.damage}")

    def die_at_sync(self, count: int, power: bool) -> None:
        """Dies in the middle of the `count`-th sync from now."""

        def on_sync(_: str) -> None:
            nonlocal count
            count -= 1
            if count <= 0 and self.disk.on_sync is not None:
                self.disk.on_sync = None
                self.kill("died within a sync")
                if power:
                    # After the interrupted call has left the disk.
                    self.world.outside(0.0, self._crash_disk, self.life)
                self.world.outside(self.world.rng.uniform(0.01, 2.0), self.start)
                raise PowerCut

        self.disk.on_sync = on_sync

    def die(self, place: str, power: bool) -> None:
        """Dies at a named place, and comes back."""
        self.world.faults["died at a place"] += 1
        self.kill(f"dies {place}" + (", power lost" if power else ""))
        if power:
            self.world.outside(0.0, self._crash_disk, self.life)
        self.world.outside(self.world.rng.uniform(0.01, 2.0), self.start)

    def _crash_disk(self, life: int) -> None:
        if self.life == life and not self.up:
            self.disk.crash()
            self.store.crash()

    async def stop(self) -> None:
        """SIGTERM."""
        node, group, life = self.node, self.group, self.life
        if node is None or group is None or self.stopping:
            return
        self.stopping = True
        self.world.note(self.name, "SIGTERM")
        task = group.create_task(self._stop(node), name=f"stop {self.name}")
        waited, paused = 0.0, False
        while not task.done() and self.life == life and self.up and waited < 30.0:
            await self.world.sleep(0.05)
            waited += 0.05
            paused = paused or group.paused
        if self.life == life and self.up:
            if not self.failed and not paused and waited > STOP_S_ALLOWED:
                self.world.violate("a stop is bounded", f"{self.name}: {waited:.2f} s after SIGTERM it still runs")
            self.kill("ended after SIGTERM" if task.done() else "kill -9 after SIGTERM")

    async def _stop(self, node: Node) -> None:
        loop = self.world.loop
        until = loop.time() + STOP_S_MAX
        await node.hand_over()
        self.world.network.unregister(self.name)
        if self.server is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(STOP_GRACE_S + CLOSE_MAX):
                    await self.server.stop(STOP_GRACE_S)
        await node.stop(until - loop.time())


def parts_of(response: Any) -> list[Any]:
    """The response itself; of a batch, those of its operations."""
    if not isinstance(response, kv_pb2.BatchResponse):
        return [response]
    return [getattr(result, result.WhichOneof("result")) for result in response.results]
