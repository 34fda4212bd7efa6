"""Every metric that a node shows: its name, its kind, its labels, its words.

Owns the names, which dashboards and alerts rely on, as Prometheus wants them: base units in the name, `_total` added to
counters. `metric_readers` says where each value comes from. Never a label whose values a client chooses: no key, no address.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

UNITS = ("seconds", "bytes", "ratio")
DURATION_BOUNDS_US = (
    *(100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000),
    *(1_000_000, 2_500_000, 5_000_000, 10_000_000),
)
"""Upper bounds of a duration's buckets, microseconds. They count whole buckets of `kvclient.histogram`: a value within 1/32 of
a bound may count above it."""
COUNT_BOUNDS = tuple(1 << power for power in range(13))
"""Of the sizes of batches."""


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """One metric; with `labels`, one for each of their values. There is one object of each."""

    name: str
    """Of a counter without `_total`."""
    kind: Literal["counter", "gauge", "histogram", "info"]
    help: str
    labels: tuple[str, ...] = ()
    bounds: tuple[int, ...] = ()
    """Of a histogram's buckets, in what it counts: microseconds where its unit is seconds."""

    @property
    def unit(self) -> str:
        """The last word of its name, if that is a unit."""
        last = self.name.rpartition("_")[2]
        return last if last in UNITS else ""

    @property
    def divisor(self) -> int:
        """By which what a histogram counts is divided to have its unit."""
        return 1_000_000 if self.unit == "seconds" else 1


SECTIONS: dict[str, list[Family]] = {}
"""By what they are about, in order."""


def _section(title: str) -> None:
    SECTIONS[title] = []


def _add(family: Family) -> Family:
    SECTIONS[next(reversed(SECTIONS))].append(family)
    return family


def _gauge(name: str, text: str, *labels: str) -> Family:
    return _add(Family(name, "gauge", text, labels))


def _counter(name: str, text: str, *labels: str) -> Family:
    return _add(Family(name, "counter", text, labels))


def _info(name: str, text: str, *labels: str) -> Family:
    return _add(Family(name, "info", text, labels))


def _histogram(name: str, text: str, *labels: str, bounds: tuple[int, ...] = DURATION_BOUNDS_US) -> Family:
    return _add(Family(name, "histogram", text, labels, bounds))


_section("The node")
BUILD = _info("kvnode_build", "The release, the interpreter and what carries gRPC.", "version", "python", "transport")
NODE = _info("kvnode_node", "The node's name and its cluster's identity.", "node", "cluster")
STATE = _gauge("kvnode_node_state", "1 for the state that the node says it is in, 0 for the others.", "state")
INCARNATION = _gauge("kvnode_incarnation", "How often the node was started with this data directory.")
READ = _gauge("kvnode_metrics_read_seconds", "How long the event loop was kept by the reading of these metrics.")

_section("Requests")
REQUESTS = _counter(
    "kvnode_requests",
    'How often requests ended so: outcome "OK", or the reason of the error, as "NO_LEADER".',
    *("operation", "consistency", "outcome"),
)
REQUEST_DURATION = _histogram(
    "kvnode_request_duration_seconds", "From a request's arrival to its answer.", "operation", "consistency"
)
STAGE_DURATION = _histogram(
    "kvnode_request_stage_duration_seconds",
    "The stages of requests, as docs/latency.md explains them.",
    *("operation", "consistency", "stage"),
)
IN_FLIGHT = _gauge("kvnode_requests_in_flight", "Requests that have arrived and are not answered yet.")
QUEUE_LENGTH = _gauge("kvnode_queue_length", "What waits, by queue, over all shards.", "queue")
QUEUE_FILL = _gauge(
    "kvnode_queue_fill_ratio", "How full a queue is, where it is fullest; at 1 requests are refused as OVERLOADED.", "queue"
)
PROPOSED_BYTES = _gauge("kvnode_proposed_bytes", "Size of the strong writes between proposal and answer.")

_section("gRPC (kvwire only)")
CONNECTIONS = _gauge("kvnode_wire_connections", "Open connections of clients and peers.")
CONNECTIONS_OPENED = _counter("kvnode_wire_connections_opened", "Connections that were ever opened.")
CALLS_IN_FLIGHT = _gauge("kvnode_wire_calls_in_flight", "Calls under way, the peers' streams too.")
CALLS = _counter("kvnode_wire_calls", "Calls that ever began.")
REFUSALS = _counter(
    "kvnode_wire_refusals", "Calls that were refused, and connections that were closed, because of a limit.", "limit"
)
BUFFERED = _gauge("kvnode_wire_buffered_bytes", "What is held in memory for all connections, in and out.")

_section("The log")
LOG_BATCHES = _counter("kvnode_log_batches", "Group commits that became durable.")
LOG_RECORDS = _counter("kvnode_log_records", "Records that became durable.")
LOG_BATCH_RECORDS = _histogram("kvnode_log_batch_records", "Records of one group commit.", bounds=COUNT_BOUNDS)
LOG_WRITE = _histogram("kvnode_log_write_duration_seconds", "The write of a group commit, its fsync included.")
LOG_FSYNC = _histogram("kvnode_log_fsync_duration_seconds", "The fsync of a group commit.")
LOG_WAIT = _gauge("kvnode_log_wait_seconds", "For how long the write under way has been waiting for the disk; 0: none is.")

_section("Replication")
SHARD_LEADER = _gauge("kvnode_shard_leader", "1 if this node leads the shard, else 0.", "shard")
SHARD_LEADER_KNOWN = _gauge("kvnode_shard_leader_known", "1 if this node knows who leads the shard, else 0.", "shard")
SHARD_TERM = _gauge("kvnode_shard_term", "The shard's Raft term.", "shard")
ELECTIONS_STARTED = _counter("kvnode_elections_started", "Elections of the shard that this node began.", "shard")
ELECTIONS_WON = _counter("kvnode_elections_won", "Elections of the shard that this node won: its leaderships.", "shard")
COMMIT_INDEX = _gauge("kvnode_shard_commit_index", "Entries of the shard's log that are known to be committed.", "shard")
APPLY_LAG = _gauge("kvnode_shard_apply_lag_entries", "Committed entries that are not applied here yet.", "shard")
STALENESS = _gauge(
    "kvnode_shard_staleness_seconds",
    "How far this replica may be behind its leader; absent while no bound is known.",
    "shard",
)
REPLICATION_LAG = _gauge(
    "kvnode_replication_lag_entries", "Leader only: entries that a follower is not known to hold.", "shard", "peer"
)
SNAPSHOTS_SENT = _counter("kvnode_snapshots_sent", 'Snapshots sent to peers; outcome "ok" or "failed".', "outcome")
SNAPSHOTS_INSTALLED = _counter("kvnode_snapshots_installed", 'Snapshots got from leaders; outcome "ok" or "failed".', "outcome")

_section("Peers and clocks")
PEER_STATE = _gauge("kvnode_peer_state", "1 for the state that the peer is in, 0 for the others.", "peer", "state")
PEER_PHI = _gauge("kvnode_peer_phi", "Suspicion that the peer has failed: -log10 of the chance that it is well.", "peer")
PEER_SUSPECTED = _gauge(
    "kvnode_peer_suspected", "1 if the peer is suspected or failed, or its disk or event loop hangs.", "peer"
)
PEER_SILENCE = _gauge("kvnode_peer_silence_seconds", "Since the peer was heard last; absent before that.", "peer")
CLOCK_AHEAD = _gauge(
    "kvnode_clock_ahead_seconds",
    "How far the hybrid logical clock is ahead of this machine's: somebody's clock is ahead by so much.",
)
CLOCK_SKEW_MAX = _gauge(
    "kvnode_clock_skew_max_seconds", "The furthest that a message's stamp was ahead of this machine's clock since the start."
)
CLOCK_REFUSALS = _counter("kvnode_clock_refusals", "Stamps that were further ahead than clock.max_clock_skew_ms.")

_section("Eventual writes and transactions")
SUPERSEDED = _counter(
    "kvnode_superseded_writes",
    "Eventual writes that took no effect since the shard was created; each replica counts all of them.",
    "shard",
)
PREPARED = _gauge("kvnode_transactions_prepared", "Transactions that hold locks in shards that this node leads.")
OLDEST_TRANSACTION = _gauge(
    "kvnode_transaction_oldest_seconds", "For how long the oldest of them has been known here; 0: there is none."
)
LOCKS = _gauge("kvnode_locks", "Locks of keys and ranges in shards that this node leads.")

_section("Storage")
LOG_SIZE = _gauge("kvnode_log_size_bytes", "The log on disk.")
STORE_SIZE = _gauge("kvnode_store_size_bytes", "The store on disk.")
DISK_FREE = _gauge("kvnode_disk_free_bytes", "What the data directory's file system, or the quota, leaves.")
OUT_OF_SPACE = _gauge("kvnode_out_of_space", "1 while writes are refused for want of space, else 0.")
MEMTABLE_SIZE = _gauge("kvnode_memtable_size_bytes", "Writes in memory that the next flush brings into the store.")
SHARD_KEYS = _gauge("kvnode_shard_keys", "Live keys of the shard.", "shard")
FLUSH = _histogram("kvnode_flush_duration_seconds", "Flushes of the memory tables into the store.")

_section("The process")
LOOP_LAG = _histogram("kvnode_event_loop_lag_seconds", "How late the event loop ran what was due, measured ten times a second.")
LOOP_LAG_RECENT = _gauge("kvnode_event_loop_lag_recent_seconds", "The greatest of these in the last 15 to 30 seconds.")
GC_PAUSE = _histogram("kvnode_gc_pause_seconds", "Full collections of Python's garbage collector: nothing else runs meanwhile.")

FAMILIES = tuple(family for section in SECTIONS.values() for family in section)
"""All of them, in order."""
