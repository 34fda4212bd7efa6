"""One node, wired: what is made from what, and in which order it starts and stops.

Start: disk -> log replayed -> cores -> peers -> server. Stop, on SIGTERM: not serving -> leaderships handed over -> server
drained -> flushed -> closed. A fatal error skips all of that: nothing may be acknowledged after it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import Awaitable, Callable, Iterator
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
from kvnode.runtime.handover import Handover
from kvnode.runtime.heartbeats import Heartbeats
from kvnode.runtime.history import History
from kvnode.runtime.membership import Membership
from kvnode.runtime.outbox import PeerOutbox
from kvnode.runtime.peers import PeerLink
from kvnode.runtime.recovery import IDENTITY_RECORD, PEERS_RECORD, Identity, Recovered, clock_record, replay
from kvnode.runtime.snapshots import Snapshots
from kvnode.runtime.transport import CheckedTransport, Transport
from kvnode.runtime.worker import Worker
from kvnode.shard.replica import Replica
from kvnode.shard.state_machine import LOCAL, META, StateMachine
from kvnode.storage.disk import Disk, OutOfSpace
from kvnode.storage.log import Log
from kvnode.storage.records import NodeRecord, Record
from kvnode.storage.snapshot import remove_leftovers
from kvnode.storage.store import Store
from kvnode.storage.table import Table
from kvnode.types import Hlc, NodeName, Origin, Seconds, Shard

logger = structlog.get_logger(__name__)

TICK: Seconds = 0.05
"""Interval of the housekeeping: failure detection, flushes, the clock's bound."""
SEAL_MAX: Seconds = 0.2
"""What is kept of a stop's time for the clock's last word."""
STOP_MAX: Seconds = 2.0
"""How long a node that serves nobody any more may take to end; a full or hanging disk must not keep it."""
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
        self.handover = Handover(self.driver, self.replicas, detector, self.heartbeats)
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
                elif self.ticks % FULL_DISK_TRANSFER_TICKS == 0 and self.handover.others_are_a_majority(replica):
                    self.handover.offer(replica)
                self.driver.wake(shard)
        self.membership.gossip.update_self(state=self.state, leads=leads, in_flight=self.kv.in_flight)

    # ---- stopping ---------------------------------------------------------------------------------------------------

    async def hand_over(self) -> None:
        """Leaves the cluster, as `runtime.handover` says: gives its leaderships away, within `LEAVE_MAX`."""
        await self.handover.leave(self._on_goodbye)
        self.local.stop_serving()

    def _on_goodbye(self) -> None:
        self.stopping = True

    async def stop(self, within: Seconds = STOP_MAX) -> bool:
        """Ends everything, within so many seconds; call it when no client is served any more.

        True: all is flushed and closed. False: there was no time for that, or a disk hangs; what was acknowledged is in the
        log all the same. What still runs must end with the process.
        """
        self.local.stop_serving()
        until = self.loop.time() + within
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        parts = (self.heartbeats, self.outbox, self.two_phase, self.membership)
        await asyncio.gather(*(part.stop() for part in parts))
        done = await self._in_time(self.driver.drained(), until, "the log takes no more: what was not acknowledged may be lost")
        # (What comes after the flush is small, and worth more: else the next start's clock is seconds ahead.)
        done = done and await self._in_time(self._flush(), until - SEAL_MAX, "not flushed: the next start replays the log")
        self.driver.stop()
        done = await self._in_time(self._seal_clock(), until, "the next start's clock is seconds ahead") and done
        await self._in_time(self.transport.close(), until, "connections to peers end with the process")
        if done:
            self.ports.log_worker.close()
            self.ports.store_worker.close()
            self.log.close()
            self.store.close()
        return done

    async def _flush(self) -> None:
        await self.snapshots.stop()
        await self.flusher.flush()
        await self.flusher.stop()

    async def _seal_clock(self) -> None:
        last_word = clock_record(self.clock.seal())
        with contextlib.suppress(OutOfSpace):
            await self.ports.log_worker.submit(self.log.write, [last_word])

    async def _in_time(self, step: Awaitable[object], until: Seconds, otherwise: str) -> bool:
        """Whether a step of the stop was done by then; if not it goes on, and ends with the process."""
        task = asyncio.ensure_future(step)
        finished, _ = await asyncio.wait((task,), timeout=max(0.0, until - self.loop.time()))
        if not finished:
            logger.warning(f"no time left to stop in good order: {otherwise}")
            return False
        await task
        return True
