"""One node, wired: what is made from what, and in which order it starts and stops.

Start: disk -> log replayed -> cores -> peers -> server. Stop, on SIGTERM: not serving -> leaderships handed over -> server
drained -> flushed -> closed. A fatal error skips all of that: nothing may be acknowledged after it.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import structlog

from kvapi.v1 import failure_detection_pb2, gossip_pb2, message_pb2
from kvnode.api.check_peer import PeerChecks
from kvnode.api.kv_service import KvService
from kvnode.config import Config
from kvnode.observe.calls import Calls
from kvnode.observe.episodes import Episodes
from kvnode.observe.metrics import Metrics
from kvnode.observe.observer import Observer
from kvnode.protocol.clock import HybridLogicalClock
from kvnode.protocol.failure_detection import FailureDetectionSettings, FailureDetector
from kvnode.protocol.gossip import Gossip, GossipSettings
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.core import RaftSettings
from kvnode.routing.local import LocalShards
from kvnode.routing.router import Router
from kvnode.routing.shard_map import make_shard_map
from kvnode.routing.two_phase import TwoPhaseCommit
from kvnode.runtime.driver import Driver
from kvnode.runtime.endpoint import Endpoint
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.flusher import Flusher
from kvnode.runtime.heartbeats import Heartbeats
from kvnode.runtime.history import History
from kvnode.runtime.membership import Membership
from kvnode.runtime.outbox import PeerOutbox
from kvnode.runtime.peers import PeerLink
from kvnode.runtime.recovery import IDENTITY_RECORD, PEERS_RECORD, Identity, Recovered, clock_record, replay
from kvnode.runtime.snapshots import Snapshots
from kvnode.runtime.tokens import deliver
from kvnode.runtime.transport import CheckedTransport, Transport
from kvnode.runtime.worker import Worker
from kvnode.shard.replica import Replica
from kvnode.shard.state_machine import LOCAL, META, StateMachine
from kvnode.storage.disk import Disk
from kvnode.storage.log import Log
from kvnode.storage.records import NodeRecord, Record
from kvnode.storage.snapshot import remove_leftovers
from kvnode.storage.store import Store
from kvnode.storage.table import Table
from kvnode.types import Hlc, NodeName, Origin, Seconds, Shard

logger = structlog.get_logger(__name__)

TICK: Seconds = 0.05
"""Interval of the housekeeping: failure detection, flushes, the clock's bound."""
HANDOVER_MAX: Seconds = 2.0
SUCCESSOR_WAIT_MAX: Seconds = 0.5
"""How long a node that stops waits to hear from those who lead its shards now: who they are, and what they committed."""
DRAIN_MAX: Seconds = 2.0
"""How long a stopping node waits for its log; a full or hanging disk must not keep it from ending."""
FULL_DISK_TRANSFER_TICKS = 100
"""A leader without disk space offers its leadership to a follower every so many ticks: every 5 s."""

ACTIVE, INACTIVE = message_pb2.NODE_STATE_ACTIVE, message_pb2.NODE_STATE_INACTIVE
RECOVERING = message_pb2.NODE_STATE_RECOVERING


@dataclass(frozen=True, slots=True)
class Ports:
    """The world as the node sees it: real in `kvnode.process`, simulated in tests."""

    loop: asyncio.AbstractEventLoop
    disk: Disk
    store: Store
    log_worker: Worker
    store_worker: Worker
    transport: Transport
    wall_ms: Callable[[], int]
    rng: random.Random
    new_uid: Callable[[], str]
    on_fatal: Callable[[BaseException], None]
    observer: Observer = field(default_factory=Observer)
    watch_replay: Callable[[Iterator[Record]], Iterator[Record]] = iter


class Node:
    """Everything of one node except its gRPC server."""

    def __init__(self, config: Config, ports: Ports) -> None:
        """Replays the log and builds all parts; nothing runs yet. Raises `Corrupt`, `WrongCluster`, `DiskFailed`."""
        self.config, self.ports, self.loop = config, ports, ports.loop
        self.disk, self.store = ports.disk, ports.store
        self.started_at = ports.loop.time()
        self.stopping = self._was_active = False
        self.ticks = 0
        self._clock_write: asyncio.Future[None] | None = None
        self._housekeeping: asyncio.Task[None] | None = None
        self._flush_task: asyncio.Task[None] | None = None
        remove_leftovers(ports.disk)
        self.observer = ports.observer
        self.log = Log(ports.disk, config.storage.segment_size_bytes, self.observer.clock)
        recovered = replay(ports.watch_replay(self.log.recover()))
        self.identity = self._identify(recovered)
        self.me = Origin(config.node.name, self.identity.incarnation)
        self.observer.times.process = f"{self.me.node}/{self.me.incarnation}"
        self.clock = self._start_clock(recovered)
        self.shard_map = make_shard_map(config.cluster.members, config.cluster.shards, config.cluster.replication_factor)
        self.tables: dict[Shard, Table] = {}
        self.replicas: dict[Shard, Replica] = {}
        for shard, holders in enumerate(self.shard_map.replicas):
            if self.me.node in holders:
                self._make_replica(shard, holders, recovered)
        self._wire(recovered)
        self.metrics = Metrics(self, self.observer.recorder, self.observer.times)
        logger.info(
            "recovered",
            records=recovered.records,
            shards=len(self.replicas),
            incarnation=self.me.incarnation,
            seconds=round(ports.loop.time() - self.started_at, 3),
        )

    # ---- making -----------------------------------------------------------------------------------------------------

    def _identify(self, recovered: Recovered) -> Identity:
        """Whose directory this is; a new one is claimed, an old one checked, and the next incarnation made durable."""
        config, known = self.config, recovered.identity
        if known is None:
            known = Identity(config.cluster.id, config.node.name, self.ports.new_uid(), 0, config.cluster.shards)
        known.expect(config.cluster.id, config.node.name, config.cluster.shards, str(config.node.data_dir))
        identity = known._replace(incarnation=known.incarnation + 1)
        self.log.write([NodeRecord(IDENTITY_RECORD, identity.encode())])
        return identity

    def _start_clock(self, recovered: Recovered) -> HybridLogicalClock:
        clock = HybridLogicalClock(self.config.clock.max_clock_skew_ms)
        clock.restore(recovered.clock_bound)
        if (bound := clock.wanted_bound(self.ports.wall_ms())) is not None:
            self.log.write([clock_record(bound)])
            clock.set_bound(bound)
        return clock

    def stamp(self) -> Hlc:
        """The node's hybrid logical clock."""
        return self.clock.now(self.ports.wall_ms())

    def _make_replica(self, shard: Shard, holders: tuple[NodeName, ...], recovered: Recovered) -> None:
        config, found, now = self.config, recovered.shard(shard), self.loop.time()
        table = self.tables[shard] = Table(shard, self.store)
        position = StateMachine.position(self.store.get(shard, META))
        log = found.log(shard, position.index, position.term, config.replication.entries_retained)
        election = config.election
        settings = RaftSettings(
            election_timeout_min=election.timeout_ms_min / 1000,
            election_timeout_max=election.timeout_ms_max / 1000,
            rebalance_after=election.rebalance_after_ms / 1000,
            leader_lease=election.leader_lease,
            clock_drift_max=election.clock_drift_max,
        )
        replica = self.replicas[shard] = Replica(
            shard=shard,
            me=self.me,
            voters=holders,
            table=table,
            log=log,
            hard_state=found.hard_state,
            settings=settings,
            relay_after=config.eventual.relay_after_ms / 1000,
            rng=self.ports.rng,
            clock=self.stamp,
            now=now,
        )
        replica.restore_local_rows(self.store.scan(shard, LOCAL, bytes([LOCAL[0] + 1])), now)
        replica.restore_held(found.eventual, now)

    def _wire(self, recovered: Recovered) -> None:
        config, ports = self.config, self.ports
        peers = {name: address for name, address in config.cluster.members.items() if name != self.me.node}
        self.envelopes = Envelopes(
            me=self.me.node,
            cluster_id=config.cluster.id,
            uid=self.identity.uid,
            incarnation=self.me.incarnation,
            members=config.cluster.members,
            clock=self.stamp,
            observe=lambda stamp: self.clock.observe(stamp, ports.wall_ms()),
            peer_uids=recovered.peer_uids,
            on_new_uid=self._save_peer_uids,
        )
        checks = PeerChecks(self.me.node, self.shard_map, self.replicas)
        self.transport = CheckedTransport(ports.transport, self.envelopes.check, checks.answer)
        times = self.observer.times
        self.driver = Driver(self.replicas, self.log, ports.log_worker, self.loop, ports.on_fatal, times)
        detection = config.failure_detection
        detector = FailureDetector(self.me.node, list(peers), FailureDetectionSettings(**detection.model_dump()), ports.rng)
        member = gossip_pb2.MemberRecord(
            name=self.me.node,
            address=config.cluster.members[self.me.node],
            uid=self.identity.uid,
            incarnation=self.me.incarnation,
            state=RECOVERING,
        )
        gossip = Gossip(member, list(peers), GossipSettings(**config.gossip.model_dump()), ports.rng)
        history = History(self.me, self.driver, self.store, recovered, ports.wall_ms)
        self.membership = Membership(
            self.driver,
            self.replicas,
            self.envelopes,
            self.transport,
            detector,
            gossip,
            detection.probe_timeout_ms / 1000,
            history,
        )
        self.heartbeats = Heartbeats(
            self.driver,
            self.replicas,
            peers,
            self.envelopes,
            self.transport,
            detector,
            detection.heartbeat_interval_ms / 1000,
            self._progress,
            lambda: self.state,
            self.membership.step,
        )
        self.flusher = Flusher(
            self.driver,
            self.replicas,
            self.tables,
            self.log,
            self.store,
            ports.disk,
            ports.log_worker,
            ports.store_worker,
            config.storage.memtable_size_bytes,
            config.storage.flush_interval_s,
            config.replication.entries_retained,
            history,
        )
        self.snapshots = Snapshots(
            self.driver,
            self.replicas,
            self.tables,
            self.store,
            ports.disk,
            self.flusher,
            ports.store_worker,
            self.envelopes,
            self.transport,
        )
        interval = config.eventual.replicate_interval_ms / 1000
        links = {
            name: PeerLink(name, self.driver, self.replicas, self.envelopes, self.transport, interval, times) for name in peers
        }
        self.outbox = PeerOutbox(links, self.heartbeats, self.snapshots)
        self.driver.outbox = self.outbox
        self.local = LocalShards(self.driver, self.replicas, self.envelopes, self.transport, self.stamp)
        self.local.is_outcast = lambda: self.heartbeats.is_outcast
        for link in links.values():
            link.on_held = self.local.on_held
        self.router = Router(self.me.node, self.shard_map, self.local, self.transport, detector.routable)
        recorder = self.observer.recorder
        push_after = config.transactions.push_after_ms / 1000
        rng = ports.rng
        self.two_phase = TwoPhaseCommit(self.router, self.envelopes, self.transport, self.stamp, push_after, rng, recorder)
        self.observer.spans.failed_nodes = self.membership.failed_nodes
        Episodes(self.me.node, self.observer).watch(self.driver, self.membership, self.snapshots, links.values())
        self.calls = Calls(recorder, self.observer.tracing)
        self.kv = KvService(self.router, self.two_phase.router, self.calls)
        parts, handlers = (self.heartbeats, self.membership, self.snapshots), self.two_phase.participants.handlers
        self.endpoint = Endpoint(self.driver, self.replicas, self.envelopes, *parts, times, handlers, check=checks.request)

    def _save_peer_uids(self) -> None:
        self.driver.write_node_record(NodeRecord(PEERS_RECORD, json.dumps(self.envelopes.peer_uids).encode()))

    # ---- what it is -------------------------------------------------------------------------------------------------

    @property
    def state(self) -> message_pb2.NodeState:
        """This node's own word about itself."""
        if self.stopping:
            return INACTIVE
        if any(replica.installing for replica in self.replicas.values()):
            return RECOVERING
        if not self._was_active:
            self._was_active = all(replica.caught_up for replica in self.replicas.values())
        # A node without space serves reads; who needs more should look elsewhere.
        return ACTIVE if self._was_active and not self.driver.out_of_space else RECOVERING

    def _progress(self) -> failure_detection_pb2.Progress:
        return failure_detection_pb2.Progress(
            event_loop=self.ticks, disk=self.driver.batches_written, disk_wait_ms=int(self.driver.disk_wait * 1000)
        )

    # ---- running ----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins to take part."""
        self.membership.detector.set_own_state(self.state, self.loop.time())  # a life's first word is about itself
        self.heartbeats.start()
        self.outbox.start()
        for shard in self.replicas:
            self.driver.wake(shard)
        self._housekeeping = self.loop.create_task(self._tick_forever(), name="housekeeping")
        self._housekeeping.add_done_callback(self._on_housekeeping_done)

    def _on_housekeeping_done(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self.driver.fatal(task.exception() or RuntimeError("housekeeping ended"))

    async def _tick_forever(self) -> None:
        while True:
            await asyncio.sleep(TICK)
            self.ticks += 1
            self.membership.step()
            self.two_phase.recovery.step()
            self.membership.detector.set_own_state(self.state, self.loop.time())
            self.driver.watch_disk(self.config.election.timeout_ms_min / 1000)
            self._keep_clock_bound()
            if self._flush_task is None or self._flush_task.done():
                if self.flusher.due or self.driver.out_of_space:
                    self._flush_task = self.loop.create_task(self.flusher.maybe_flush(), name="flush")
            if self.ticks % 20 == 0:
                self._every_second()

    def _keep_clock_bound(self) -> None:
        if self._clock_write is not None:
            return
        if (bound := self.clock.wanted_bound(self.ports.wall_ms())) is not None:
            self._clock_write = self.driver.write_node_record(clock_record(bound))
            self._clock_write.add_done_callback(lambda done: self._on_clock_bound(bound))
            self.membership.history.say_alive(self.loop.time())

    def _on_clock_bound(self, bound: Hlc) -> None:
        self._clock_write = None
        self.clock.set_bound(bound)

    def _every_second(self) -> None:
        now, detector = self.loop.time(), self.membership.detector
        live = [
            name
            for name in self.shard_map.members
            if name == self.me.node or detector.state(name) != message_pb2.NODE_STATE_FAILED
        ]
        leads = 0
        for shard, replica in self.replicas.items():
            if replica.is_leader:
                leads += 1
                preferred = replica.raft.voters[0]
                well = preferred != self.me.node and detector.healthy(preferred) and detector.state(preferred) == ACTIVE
                replica.maybe_collect(live, now)
                if not self.driver.out_of_space:
                    leader.maybe_rebalance(replica.raft, well, now)
                elif self.ticks % FULL_DISK_TRANSFER_TICKS == 0 and self._others_are_a_majority(replica):
                    self._hand_over(replica, now)
                self.driver.wake(shard)
        self.membership.gossip.update_self(state=self.state, leads=leads, in_flight=self.kv.in_flight)

    # ---- stopping ---------------------------------------------------------------------------------------------------

    def _others_are_a_majority(self, replica: Replica) -> bool:
        """Whether a successor could commit without this node, whose disk is full. If not, it could not even commit the first
        entry of its term, and strong reads, which this leader still serves, would end. (A node with a full disk is not ACTIVE.)
        """
        detector = self.membership.detector
        well = [peer for peer in replica.raft.progress if detector.healthy(peer) and detector.state(peer) == ACTIVE]
        return len(well) > len(replica.raft.voters) // 2

    def _hand_over(self, replica: Replica, now: Seconds) -> None:
        """Begins to give a leadership to the healthy follower that is closest behind; rather to one that serves already."""
        detector = self.membership.detector
        healthy = [peer for peer in replica.raft.progress if detector.healthy(peer)]
        ranked = [[peer for peer in healthy if detector.state(peer) == state] for state in (ACTIVE, RECOVERING)]
        successor = leader.most_advanced_follower(replica.raft, ranked[0] or ranked[1])
        if successor and leader.start_transfer(replica.raft, successor, now):
            self.driver.wake(replica.shard)

    async def hand_over(self) -> None:
        """Says that it stops, and gives its leaderships to healthy followers, within `HANDOVER_MAX`."""
        self.stopping = True
        self.heartbeats.say_goodbye()
        until = self.loop.time() + HANDOVER_MAX
        for replica in self.replicas.values():
            if replica.is_leader:
                self._hand_over(replica, self.loop.time())
        await self._wait_while(lambda replica: replica.is_leader and replica.raft.transfer is not None, until)
        # Requests that came meanwhile wait to hear who leads now, and writes of the time before for their fate: both come from
        # the successors, who cannot reach this node once its server stops. Without that they would hang for the whole grace.
        successor_until = min(until, self.loop.time() + SUCCESSOR_WAIT_MAX)
        await self._wait_while(lambda replica: not replica.raft.leader or bool(replica.waiting), successor_until)
        await self.heartbeats.wait_goodbye_heard()
        self.local.serving = False
        for shard, replica in self.replicas.items():
            replica.release_leader_waits()
            self.driver.wake(shard)

    async def _wait_while(self, holds: Callable[[Replica], bool], until: Seconds) -> None:
        """Waits until no replica's leadership is so any more, or the time has come."""
        while self.loop.time() < until and (waited_for := [r for r in self.replicas.values() if holds(r)]):
            future: asyncio.Future[None] = self.loop.create_future()
            for replica in waited_for:
                replica.waits.for_leader(future)
                replica.waits.for_change(future)
            timer = self.loop.call_at(until, deliver, future, None)
            await future
            timer.cancel()

    async def stop(self) -> None:
        """Flushes and ends everything; call it when no client is served any more."""
        self.local.serving = False
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        await self.heartbeats.stop()
        await self.outbox.stop()
        await self.two_phase.stop()
        await self.membership.stop()
        await self.snapshots.stop()
        try:
            async with asyncio.timeout(DRAIN_MAX):
                await self.driver.drained()
        except TimeoutError:
            logger.warning("the log did not take everything in time; what was not acknowledged may be lost")
        await self.flusher.flush()
        await self.flusher.stop()
        self.driver.stop()
        await self.ports.log_worker.submit(self.log.write, [clock_record(self.clock.seal())])
        await self.transport.close()
        self.ports.log_worker.close()
        self.ports.store_worker.close()
        self.log.close()
        self.store.close()
