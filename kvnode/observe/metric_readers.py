"""Where the metrics come from: reads a node's parts, subject by subject, into plain values.

Owns the reading and nothing that is read. Runs on the node's event loop, so nothing moves meanwhile, and is quick, since
nothing else runs meanwhile either: values are copied here, and made into text elsewhere (`metrics`).
"""

from __future__ import annotations

import platform
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, Protocol

from kvapi.v1 import kv_pb2, message_pb2
from kvclient.histogram import Histogram, merged
from kvnode import __version__, limits
from kvnode.observe import metric_families as families
from kvnode.observe.gc_pauses import GcPauses
from kvnode.observe.loop_lag import LoopLag
from kvnode.observe.metric_families import Family
from kvnode.protocol.clock import physical_ms

if TYPE_CHECKING:
    from kvnode.node import Node

CONSISTENCIES = {number: name.removeprefix("CONSISTENCY_").lower() for name, number in kv_pb2.Consistency.items()}
STATES = {number: name.removeprefix("NODE_STATE_") for name, number in message_pb2.NodeState.items() if number}


class Reading(NamedTuple):
    """One value of a family. A histogram is a copy."""

    family: Family
    labels: tuple[str, ...]
    value: float | Histogram


class Recorder(Protocol):
    """What became of requests, and how long they took."""

    @property
    def latency(self) -> Mapping[tuple[str, int, str], Histogram]:
        """By operation, consistency and stage; stage "" is the whole request."""

    @property
    def outcomes(self) -> Mapping[tuple[str, int, str], int]:
        """By operation, consistency and "OK" or the error's reason."""


class LogTimes(Protocol):
    """Group commits, measured."""

    @property
    def write_durations(self) -> Histogram:
        """The whole write, microseconds."""

    @property
    def fsync_durations(self) -> Histogram:
        """The fsync in it, microseconds."""

    @property
    def batch_sizes(self) -> Histogram:
        """Records."""


class WireServer(Protocol):
    """A server that counts; kvwire's does, grpcio's does not."""

    in_flight: int
    calls: int
    connections_opened: int
    refusals: dict[str, int]

    @property
    def connections(self) -> int:
        """Open ones."""

    @property
    def buffered_bytes(self) -> int:
        """Held for all connections."""


@dataclass(slots=True)
class Sources:
    """What is read; what is None is not there, and its metrics are absent."""

    node: Node
    recorder: Recorder | None = None
    log_times: LogTimes | None = None
    wire: WireServer | None = None
    loop_lag: LoopLag | None = None
    gc_pauses: GcPauses | None = None


def read_all(sources: Sources) -> Iterator[Reading]:
    """Everything, in the families' order."""
    node = sources.node
    yield from _node(node)
    yield from _requests(node, sources.recorder)
    yield from _queues(node)
    if sources.wire is not None:
        yield from _wire(sources.wire)
    yield from _log(node, sources.log_times)
    yield from _shards(node)
    yield from _peers(node)
    yield from _clock(node)
    yield from _transactions(node)
    yield from _storage(node)
    if sources.loop_lag is not None:
        yield Reading(families.LOOP_LAG, (), sources.loop_lag.lags.copy())
        yield Reading(families.LOOP_LAG_RECENT, (), sources.loop_lag.greatest)
    if sources.gc_pauses is not None:
        yield Reading(families.GC_PAUSE, (), sources.gc_pauses.pauses.copy())


def _node(node: Node) -> Iterator[Reading]:
    yield Reading(families.BUILD, (__version__, platform.python_version(), node.config.node.transport), 1)
    yield Reading(families.NODE, (node.me.node, node.config.cluster.id), 1)
    yield Reading(families.INCARNATION, (), node.me.incarnation)
    state = node.state
    for number, name in STATES.items():
        yield Reading(families.STATE, (name,), state == number)


def _requests(node: Node, recorder: Recorder | None) -> Iterator[Reading]:
    yield Reading(families.IN_FLIGHT, (), node.kv.in_flight)
    if recorder is None:
        return
    outcomes = Counter[tuple[str, str, str]]()
    for (operation, number, outcome), count in recorder.outcomes.items():
        outcomes[operation, _consistency(number), outcome] += count
    for labels, count in outcomes.items():
        yield Reading(families.REQUESTS, labels, count)
    durations: dict[tuple[str, str, str], Histogram] = {}
    for (operation, number, stage), histogram in recorder.latency.items():
        labels = (operation, _consistency(number), stage)
        durations[labels] = merged((durations[labels], histogram)) if labels in durations else histogram.copy()
    for labels, histogram in durations.items():
        if labels[2]:
            yield Reading(families.STAGE_DURATION, labels, histogram)
        else:
            yield Reading(families.REQUEST_DURATION, labels[:2], histogram)


def _consistency(number: int) -> str:
    """Its name. The number may be a client's own invention: then, as none."""
    return CONSISTENCIES.get(number, CONSISTENCIES[0])


def _queues(node: Node) -> Iterator[Reading]:
    replicas, locks, coordinators = list(node.replicas.values()), node.local.locks, node.two_phase.coordinators
    yield from _queue("proposals", [len(replica.waiting) for replica in replicas], limits.PROPOSALS_PER_SHARD_MAX)
    yield from _queue("reads", [len(replica.raft.reads) for replica in replicas], limits.READS_PER_SHARD_MAX)
    yield from _queue("locks", [locks.waiting(shard) for shard in node.replicas], limits.LOCK_WAITERS_PER_SHARD_MAX)
    yield from _queue("eventual", [replica.holder.size for replica in replicas], limits.PENDING_EVENTUAL_PER_SHARD_MAX)
    yield from _queue("forwards", [node.router.forwards_in_flight], limits.FORWARDS_IN_FLIGHT_MAX)
    yield from _queue("leader", [node.router.leader_waits], limits.FORWARDS_IN_FLIGHT_MAX)
    yield from _queue("transactions", [coordinators.under_way], limits.TRANSACTIONS_COORDINATED_MAX)
    proposed = sum(replica.waiting_size_bytes for replica in replicas)
    yield Reading(families.PROPOSED_BYTES, (), proposed)
    yield Reading(families.QUEUE_FILL, ("proposed_bytes",), proposed / limits.PROPOSED_SIZE_BYTES_MAX)


def _queue(name: str, lengths: Sequence[int], limit: int) -> Iterator[Reading]:
    yield Reading(families.QUEUE_LENGTH, (name,), sum(lengths))
    yield Reading(families.QUEUE_FILL, (name,), max(lengths, default=0) / limit)


def _wire(server: WireServer) -> Iterator[Reading]:
    yield Reading(families.CONNECTIONS, (), server.connections)
    yield Reading(families.CONNECTIONS_OPENED, (), server.connections_opened)
    yield Reading(families.CALLS_IN_FLIGHT, (), server.in_flight)
    yield Reading(families.CALLS, (), server.calls)
    for limit, count in server.refusals.items():
        yield Reading(families.REFUSALS, (limit,), count)
    yield Reading(families.BUFFERED, (), server.buffered_bytes)


def _log(node: Node, times: LogTimes | None) -> Iterator[Reading]:
    yield Reading(families.LOG_BATCHES, (), node.driver.batches_written)
    yield Reading(families.LOG_WAIT, (), node.driver.disk_wait)
    if times is not None:
        yield Reading(families.LOG_RECORDS, (), times.batch_sizes.sum_us)
        yield Reading(families.LOG_BATCH_RECORDS, (), times.batch_sizes.copy())
        yield Reading(families.LOG_WRITE, (), times.write_durations.copy())
        yield Reading(families.LOG_FSYNC, (), times.fsync_durations.copy())


def _shards(node: Node) -> Iterator[Reading]:
    now = node.loop.time()
    for shard, replica in node.replicas.items():
        raft, machine, labels = replica.raft, replica.machine, (str(shard),)
        yield Reading(families.SHARD_LEADER, labels, replica.is_leader)
        yield Reading(families.SHARD_LEADER_KNOWN, labels, bool(raft.leader))
        yield Reading(families.SHARD_TERM, labels, raft.term)
        yield Reading(families.ELECTIONS_STARTED, labels, raft.campaigns)
        yield Reading(families.ELECTIONS_WON, labels, raft.wins)
        yield Reading(families.COMMIT_INDEX, labels, raft.commit)
        yield Reading(families.APPLY_LAG, labels, raft.commit - machine.applied)
        staleness = replica.staleness(now)
        if staleness is not None:
            yield Reading(families.STALENESS, labels, staleness)
        for peer, progress in raft.progress.items():
            yield Reading(families.REPLICATION_LAG, (*labels, peer), raft.log.last_index - progress.match)
        yield Reading(families.SUPERSEDED, labels, machine.superseded_total)
        yield Reading(families.SHARD_KEYS, labels, machine.keys)
    snapshots = node.snapshots
    yield Reading(families.SNAPSHOTS_SENT, ("ok",), snapshots.sent)
    yield Reading(families.SNAPSHOTS_SENT, ("failed",), snapshots.not_sent)
    yield Reading(families.SNAPSHOTS_INSTALLED, ("ok",), snapshots.installed)
    yield Reading(families.SNAPSHOTS_INSTALLED, ("failed",), snapshots.not_installed)


def _peers(node: Node) -> Iterator[Reading]:
    now = node.loop.time()
    for peer in node.membership.detector.snapshot(now):
        for number, name in STATES.items():
            yield Reading(families.PEER_STATE, (peer.node, name), peer.state == number)
        yield Reading(families.PEER_PHI, (peer.node,), peer.phi)
        yield Reading(families.PEER_SUSPECTED, (peer.node,), peer.suspected)
        if peer.last_heard is not None:
            yield Reading(families.PEER_SILENCE, (peer.node,), max(0.0, now - peer.last_heard))


def _clock(node: Node) -> Iterator[Reading]:
    clock = node.clock
    yield Reading(families.CLOCK_AHEAD, (), max(0, physical_ms(clock.last) - node.ports.wall_ms()) / 1000)
    yield Reading(families.CLOCK_SKEW_MAX, (), clock.ahead_ms_max / 1000)
    yield Reading(families.CLOCK_REFUSALS, (), clock.refusals)


def _transactions(node: Node) -> Iterator[Reading]:
    recovery = node.two_phase.recovery
    led = {shard: replica.machine.transactions for shard, replica in node.replicas.items() if replica.is_leader}
    ages = (recovery.known_for(shard, txn) for shard, transactions in led.items() for txn in transactions.prepared)
    yield Reading(families.PREPARED, (), sum(len(transactions.prepared) for transactions in led.values()))
    yield Reading(families.OLDEST_TRANSACTION, (), max(ages, default=0.0))
    yield Reading(families.LOCKS, (), sum(transactions.locks.count for transactions in led.values()))


def _storage(node: Node) -> Iterator[Reading]:
    yield Reading(families.LOG_SIZE, (), node.log.size_bytes)
    yield Reading(families.STORE_SIZE, (), node.store.size_bytes)
    yield Reading(families.DISK_FREE, (), node.disk.free_bytes())
    yield Reading(families.OUT_OF_SPACE, (), node.driver.out_of_space)
    yield Reading(families.MEMTABLE_SIZE, (), sum(table.size_bytes for table in node.tables.values()))
    yield Reading(families.FLUSH, (), node.flusher.durations.copy())
