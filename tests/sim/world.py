"""A cluster of whole nodes in a simulated world: `kvnode.node.Node` with every port simulated, and the eyes of the checker.

Owns: the nodes' lives (start, kill, power loss, graceful stop), their disks, stores, threads, wall clocks and network, and the
checks that look inside while the cluster runs. Never: decides when what fails (`faults` does), or what clients ask
(`workload` does).

Checked all the time (numbers of DESIGN section 12): answers leave only behind their records (1); an entry is applied only
when a majority holds it durably (2); one leader a term; equal state at equal applied index (13); after a failed sync nothing
is acknowledged (8); a start finds everything that was durable (14).
"""

from __future__ import annotations

import asyncio
import functools
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import structlog

from kvapi.v1 import election_pb2, kv_pb2, replication_pb2
from kvnode.api.cluster_service import ClusterService
from kvnode.api.peer_service import PeerService
from kvnode.api.server import add_services
from kvnode.config import Cluster, Config
from kvnode.config import Node as NodeConfig
from kvnode.errors import Corrupt, WrongCluster
from kvnode.invariant import InvariantViolated
from kvnode.node import Node, Ports
from kvnode.protocol.raft.quorum import majority
from kvnode.protocol.raft.role import Role
from kvnode.routing.context import RequestContext
from kvnode.shard.replica import Replica
from kvnode.shard.state_machine import LOCAL
from kvnode.shard.superseded import operation_id, parse_operation_id
from kvnode.shard.version import Version
from kvnode.storage.disk import DiskFailed, OutOfSpace
from kvnode.storage.memory_store import MemoryStore
from kvnode.types import Entry, Index, NodeName, Origin, Shard, Term

from .disk import SimulatedDisk
from .durable import DurableNode
from .history import AppliedWrite, Violation
from .loop import Group, SimulatedLoop, SimulatedWorker, current_group
from .network import Network
from .places import Places, PowerCut
from .promises import Promises
from .trace import Trace
from .transaction_promises import TransactionPromises
from .wire import SimulatedServer

EPOCH_MS = 1_700_000_000_000
KIB = 1024
LOCAL_END = bytes([LOCAL[0] + 1])
STOP_GRACE_S = 2.0
"""For calls under way, as `kvnode.process` has it."""


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
        world.watch(self, node)
        node.start()
        self.server = SimulatedServer(world.network, self._watch_request)
        add_services(self.server, node.kv, ClusterService(node), PeerService(node.endpoint))
        world.network.register(self.name, self._handle, node.endpoint.install_snapshot, self._forward, self.server)
        world.note(self.name, f"started, life {self.life}")

    async def _handle(self, request: Any) -> Any:
        assert self.node is not None
        response = await self.node.endpoint.handle(request)
        self.world.check_answer(self, request, response)
        return response

    async def _forward(self, request: Any, timeout: float, hops: int) -> Any:
        assert self.node is not None
        check = self._watch_request(request)
        response = await self.node.kv.dispatch(request, RequestContext(self.world.loop.time() + timeout, hops))
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
                        self.world.promises.check_copies(self, one.operation_id, one.acks)

        return check

    def _check_acknowledged(self, node: Node, operation: str) -> None:
        """An eventual write is answered by who accepted it: it must be on this disk, or have its place in the log."""
        shard, origin, sequence = parse_operation_id(operation)
        if origin != node.me or sequence in self.durable.shard(shard).eventual.get(origin, {}):
            return
        if node.replicas[shard].machine.sequenced.get(origin, 0) < sequence:
            self.world.violate("an eventual write is acknowledged behind its record", f"{self.name}: {operation}")

    def _on_fatal(self, error: BaseException) -> None:
        if self.failed or not self.up:
            return
        self.failed = True
        if isinstance(error, (DiskFailed, PowerCut)):
            self.world.faults["node stopped by its disk"] += 1
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
        self.world.forget_leader(self.name)
        self.world.promises.on_end(self)
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
        waited = 0.0
        while not task.done() and self.life == life and self.up and waited < 30.0:
            await self.world.sleep(0.05)
            waited += 0.05
        if self.life == life and self.up:
            if not self.failed and not task.done() and not group.paused:
                self.world.note(self.name, f"SIGTERM took more than {waited} s")
            self.kill("ended after SIGTERM" if task.done() else "kill -9 after SIGTERM")

    async def _stop(self, node: Node) -> None:
        await node.hand_over()
        self.world.network.unregister(self.name)
        if self.server is not None:
            await self.server.stop(STOP_GRACE_S)
        await node.stop()


class World:
    """Nodes, network, clocks, and everything that is known about the run."""

    def __init__(self, loop: SimulatedLoop, trace: Trace, *, nodes: int, shards: int, replication_factor: int) -> None:
        self.loop, self.trace = loop, trace
        self.rng = loop.random("world")
        self.faults: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.over = False
        """The verdict is out; what is still torn down says nothing."""
        self.network = Network(loop, loop.random("network"), trace=trace)
        self.places = Places(lambda sim, place, power: sim.die(place, power))
        self.network.on_place = lambda name, place: name in self.nodes and self.places.reach(self.nodes[name], place)
        self.config = self._random_config(nodes, shards, replication_factor)
        self.nodes = {name: SimNode(self, name) for name in self.config.cluster.members}
        self.hashes: dict[tuple[Shard, Index], tuple[int, NodeName]] = {}
        self.applied: dict[Shard, dict[Index, list[AppliedWrite]]] = {}
        self.placed_values: dict[bytes, Index] = {}
        """The place of every eventual put that took effect, by its (unique) value."""
        self.horizons: dict[Shard, dict[Index, None]] = {}
        self.superseded: dict[str, tuple[Index, int]] = {}
        self.leaders: dict[tuple[Shard, Term], tuple[NodeName, int]] = {}
        self.leading: dict[Shard, tuple[NodeName, Term]] = {}
        self.counts: Counter[str] = Counter()
        self.promises, self.transaction_promises = Promises(self), TransactionPromises(self)
        self._asleep: asyncio.Future[None] | None = None

    def _random_config(self, nodes: int, shards: int, replication_factor: int) -> Config:
        rng = self.loop.random("config")
        members = {f"n{i + 1}": f"127.0.0.1:{7401 + i}" for i in range(nodes)}
        config = Config.randomized(
            rng,
            node=NodeConfig(name="n1", listen=members["n1"], data_dir="simulated"),  # type: ignore[arg-type]
            cluster=Cluster(id="sim", shards=shards, replication_factor=replication_factor, members=members),
        )
        # Far below what the configuration permits, so that segments roll, tables are flushed and logs are cut all the time.
        storage = config.storage.model_copy(
            update={
                "segment_size_bytes": rng.choice((8, 16, 64)) * KIB,
                "memtable_size_bytes": rng.choice((8, 16, 64, 256)) * KIB,
                "flush_interval_s": rng.choice((0.5, 2.0, 5.0)),
            }
        )
        replication = config.replication.model_copy(update={"entries_retained": rng.choice((1, 16, 64))})
        return config.model_copy(update={"storage": storage, "replication": replication})

    @functools.cache  # noqa: B019
    def config_of(self, name: NodeName) -> Config:
        """A node's own configuration."""
        node = NodeConfig(name=name, listen=self.config.cluster.members[name], data_dir="simulated")  # type: ignore[arg-type]
        return self.config.model_copy(update={"node": node})

    def monotonic_clock(self, name: NodeName) -> tuple[float, float]:
        """A machine's own: how fast it runs (with leases within what they tolerate), and what it shows at time 0."""
        rng, election = self.loop.random(f"monotonic clock {name}"), self.config.election
        drift = election.clock_drift_max if election.leader_lease else rng.choice((0.0, 1e-4, 0.05))
        return 1.0 + rng.uniform(-drift, drift) * 0.999, rng.uniform(0.0, 1e5)

    # ---- the world's own time ---------------------------------------------------------------------------------------

    def outside(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """Calls back later, outside of all nodes."""
        self.loop.call_at_true(self.loop.now + delay, callback, *args, context=self.network._context)

    async def sleep(self, seconds: float) -> None:
        """Waits in virtual time."""
        future = self.loop.create_future()
        self.loop.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        await future

    async def sleep_unless_broken(self, seconds: float) -> None:
        """The same, until a promise is broken."""
        self._asleep = future = self.loop.create_future()
        self.loop.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        if not self.violations:
            await future

    def note(self, node: str, text: str) -> None:
        """An event for the trace."""
        self.trace.event(node, text)

    def violate(self, rule: str, message: str, error: BaseException | None = None) -> None:
        """A promise is broken."""
        if self.over:
            return
        violation = Violation(rule, f"at {self.loop.now:.6f} s: {message}")
        self.violations.append(violation)
        self.note("", f"VIOLATION {violation}")
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)
        if error is not None and error.__traceback__ is not None:
            self.note("", "".join(traceback.format_exception(error)[-12:]))

    def skew_ms(self) -> int:
        """How far the wall clocks are apart now."""
        clocks = [node.wall_ms() for node in self.nodes.values()]
        return max(clocks) - min(clocks)

    def live(self) -> list[SimNode]:
        """Nodes that run and have their own disk."""
        return [node for node in self.nodes.values() if node.up and not node.lost]

    # ---- looking inside ---------------------------------------------------------------------------------------------

    def watch(self, sim: SimNode, node: Node) -> None:
        """Hangs the checks into a node that was just built."""
        write = node.log.write

        def write_and_note(records: Any) -> None:
            write(records)
            self.promises.check_records(sim, records)
            sim.durable.on_written(records)

        node.log.write = write_and_note  # type: ignore[method-assign]
        self.places.watch_log(sim, node)
        self.promises.on_start(sim, node)
        for replica in node.replicas.values():
            for missing in sim.durable.check_start(replica):
                self.violate("a start finds everything durable", f"{sim.name}, shard {replica.shard}: {missing}")
            self._check_hash(sim, replica)
            self._watch_replica(sim, replica)

    def _watch_replica(self, sim: SimNode, replica: Replica) -> None:
        self._watch_writes(replica)
        machine, ready, installed = replica.machine, replica.ready, replica.on_snapshot_installed
        apply = machine.apply

        def apply_and_check(entry: Entry) -> Any:
            self._check_committed(sim, replica, entry)
            result = apply(entry)
            self.counts["applied"] += 1
            self._check_hash(sim, replica)
            return result

        def ready_and_check(now: float) -> Any:
            due = ready(now)
            self._check_role(sim, replica)
            return due

        def on_snapshot_installed(index: Index, term: Term) -> None:
            installed(index, term)
            self.counts["snapshots installed"] += 1
            self._check_hash(sim, replica)

        machine.apply = apply_and_check  # type: ignore[method-assign]
        replica.ready = ready_and_check  # type: ignore[method-assign]
        replica.on_snapshot_installed = on_snapshot_installed  # type: ignore[method-assign]
        self.promises.watch(sim, replica)
        self.transaction_promises.watch(sim, replica)
        self.places.watch_replica(sim, replica)

    def _check_committed(self, sim: SimNode, replica: Replica, entry: Entry) -> None:
        shard = replica.shard
        if not sim.durable.holds(shard, entry.index, entry.term):
            self.violate("applied only what is durable here", f"{sim.name}, shard {shard}, entry {entry.index}")
        if (shard, entry.index) in self.hashes:
            return
        voters = replica.raft.voters
        holders = [name for name in voters if self.nodes[name].durable.holds(shard, entry.index, entry.term)]
        if len(holders) < majority(len(voters)):
            message = f"{sim.name} applies entry {entry.index} of shard {shard}, term {entry.term}; durable only on {holders}"
            self.violate("committed means durable on a majority", message)

    def _check_hash(self, sim: SimNode, replica: Replica) -> bool:
        """True if this is the first replica at its applied index."""
        machine = replica.machine
        key = (replica.shard, machine.applied)
        known = self.hashes.get(key)
        if known is None:
            self.hashes[key] = (machine.state_hash, sim.name)
            self.note(sim.name, f"shard {replica.shard} applied {machine.applied} hash {machine.state_hash:016x}")
            return True
        if known[0] != machine.state_hash:
            message = f"shard {replica.shard} at {machine.applied}: {known[1]} has {known[0]:016x}, "
            self.violate("equal state at equal applied index", f"{message}{sim.name} has {machine.state_hash:016x}")
        return False

    def _watch_writes(self, replica: Replica) -> None:
        """Notes what takes effect, and what is superseded, when the first replica applies the entry."""
        machine, shard = replica.machine, replica.shard
        write, place_eventual, collect = machine._write, machine._eventual, machine._collect
        placed: list[replication_pb2.EventualWrite] = []
        """The eventual write that gets its place now."""

        def is_first() -> bool:
            return (shard, machine.applied + 1) not in self.hashes

        def write_and_note(
            revision: Index, key: bytes, value: bytes | None, old: Version | None, hlc: int, strong: Index, *origin: Any
        ) -> None:
            write(revision, key, value, old, hlc, strong, *origin)
            if is_first():
                applied = AppliedWrite(key, revision, hlc, not placed, forgotten=old is None, place=machine.applied + 1)
                if placed:
                    applied = self._note_eventual(shard, revision, placed[0], applied)
                self.applied.setdefault(shard, {}).setdefault(machine.applied + 1, []).append(applied)

        def place_and_note(index: Index, now: int, eventual: replication_pb2.EventualWrite) -> None:
            placed.append(eventual)
            place_eventual(index, now, eventual)
            placed.clear()
            origin = Origin(eventual.node, eventual.incarnation)
            lost = machine.superseded.get((origin, eventual.sequence))
            if lost is not None and lost.revision == index and is_first():
                self.superseded[operation_id(shard, origin, eventual.sequence)] = (index, lost.outcome.by)
                self.counts["superseded"] += 1

        def collect_and_note(horizon: Index) -> None:
            collect(horizon)
            self.horizons.setdefault(shard, {})[machine.horizon] = None

        machine._write = write_and_note  # type: ignore[method-assign]
        machine._eventual = place_and_note  # type: ignore[method-assign]
        machine._collect = collect_and_note  # type: ignore[method-assign]

    def _note_eventual(
        self, shard: Shard, revision: Index, write: replication_pb2.EventualWrite, applied: AppliedWrite
    ) -> AppliedWrite:
        self.counts["eventual applied"] += 1
        if not write.deletion:
            self.placed_values[write.value] = revision
        name = operation_id(shard, Origin(write.node, write.incarnation), write.sequence)
        tie = f"{write.node}\0{write.incarnation:020d}"
        return replace(applied, base=write.base, origin=tie, operation_id=name, place=0)

    def _check_role(self, sim: SimNode, replica: Replica) -> None:
        raft = replica.raft
        if raft.role is not Role.LEADER:
            if self.leading.get(raft.shard, ("", 0))[0] == sim.name:
                del self.leading[raft.shard]
            return
        key, me = (raft.shard, raft.term), (sim.name, sim.life)
        known = self.leaders.setdefault(key, me)
        if known != me:
            self.violate("one leader a term", f"shard {raft.shard}, term {raft.term}: {known[0]} and {sim.name}")
        if self.leading.get(raft.shard) != (sim.name, raft.term):
            self.leading[raft.shard] = (sim.name, raft.term)
            self.counts["elections"] += 1
            self.note(sim.name, f"leads shard {raft.shard} in term {raft.term}")

    def forget_leader(self, name: NodeName) -> None:
        """A node died."""
        for shard in [shard for shard, (leader, _) in self.leading.items() if leader == name]:
            del self.leading[shard]

    def check_answer(self, sim: SimNode, request: Any, response: Any) -> None:
        """An answer to a peer leaves: what it promises must be on the disk."""
        durable = sim.durable
        if sim.failed:
            return
        if isinstance(response, election_pb2.RequestVoteResponse):
            model = durable.shard(response.shard)
            self.promises.check_vote(sim, request, response)
            if response.granted and not response.pre_vote:
                vote = request.message.from_node
                if (model.term, model.vote) != (response.term, vote) and model.term <= response.term:
                    self.violate("a vote leaves behind its record", f"{sim.name} -> {vote}: {response}, durable {model.term}")
        elif isinstance(response, replication_pb2.AppendResponse):
            for result, append in zip(response.results, sorted(request.appends, key=lambda a: a.shard), strict=False):
                del append
                if result.success and result.index and not durable.holds(result.shard, result.index, None):
                    self.violate("an append's answer leaves behind its entries", f"{sim.name}: {result}")
                if durable.shard(result.shard).term < result.term and result.success:
                    self.violate("an append's answer leaves behind its term", f"{sim.name}: {result}")
        elif isinstance(response, replication_pb2.ReplicateEventualResponse) and sim.node is not None:
            for held in response.held:
                origin = Origin(held.node, held.incarnation)
                placed = sim.node.replicas[held.shard].machine.sequenced.get(origin, 0)
                known = durable.shard(held.shard).eventual.get(origin, {})
                if any(sequence not in known for sequence in range(placed + 1, held.held + 1)):
                    self.violate("held means durable", f"{sim.name}: {held}, durable {list(known)[-3:]}, placed {placed}")


def parts_of(response: Any) -> list[Any]:
    """The response itself; of a batch, those of its operations."""
    if not isinstance(response, kv_pb2.BatchResponse):
        return [response]
    return [getattr(result, result.WhichOneof("result")) for result in response.results]


# ---- what nodes log -----------------------------------------------------------------------------------------------------


def log_to(world: World) -> None:
    """What nodes log becomes part of the trace."""

    def into_trace(_: Any, method: str, fields: Any) -> Any:
        group = current_group()
        error = fields.pop("exc_info", None)
        text = " ".join(f"{name}={value}" for name, value in fields.items() if name != "event")
        world.note(group.name if group else "", f"{method}: {fields.get('event')} {text}")
        if isinstance(error, BaseException) and not isinstance(error, (DiskFailed, PowerCut)):
            world.note("", repr(error))
        raise structlog.DropEvent

    structlog.configure(processors=[into_trace])
