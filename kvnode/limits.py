"""Every bound of the server, in one place, checked at the door.

A bound is part of the API: what it refuses is refused with its name and the number, before anything is stored.
"""

KEY_SIZE_BYTES_MAX = 400
"""Keys are LMDB keys with a prefix of shard and space; LMDB takes 511 bytes."""
VALUE_SIZE_BYTES_MAX = 1024 * 1024
REQUEST_SIZE_BYTES_MAX = 4 * 1024 * 1024
"""A whole request, also a batch. It bounds what one client can make the server buffer."""

BATCH_OPERATIONS_MAX = 1_024
TRANSACTION_OPERATIONS_MAX = 128
TRANSACTION_RESULTS_SIZE_BYTES_MAX = 2 * 1024 * 1024
"""What the reads of one branch may return from one shard: both branches of it fit into a peer's message."""
TRANSACTION_RESPONSE_SIZE_BYTES_MAX = 3 * 1024 * 1024
"""What a whole transaction may answer: less than clients receive by default (4 MiB); it becomes a part of one log entry."""
TRANSACTIONS_PREPARED_PER_SHARD_MAX = 1_024
TRANSACTIONS_PREPARED_SIZE_BYTES_MAX = 16 * 1024 * 1024
"""What the shard's prepared transactions stage, together. Beyond either: OVERLOADED."""
TRANSACTION_RANGES_PER_SHARD_MAX = 256
"""Prefixes locked by the shard's prepared transactions, together; each write looks at all of them. Beyond: OVERLOADED."""
TRANSACTIONS_ENDED_PER_SHARD_MAX = 16_384
"""Ends of transactions that a shard remembers, against late messages; older ones move its horizon."""
TRANSACTION_WAITING_EVENTUAL_MAX = 4_096
TRANSACTION_WAITING_EVENTUAL_SIZE_BYTES_MAX = 16 * 1024 * 1024
"""Eventual writes of one shard that wait for transactions to end; beyond either, the leader sequences none."""
LOCK_WAITERS_PER_SHARD_MAX = 1_024
"""Requests of one node that wait for locks of one shard; a lock that is given back wakes all of them. Beyond: OVERLOADED."""
TRANSACTIONS_COORDINATED_MAX = 8_192
"""Of one node: transactions under way, and requests to shards for them, those that resolve too."""

CLIENT_SESSIONS_PER_SHARD_MAX = 10_000
CLIENT_SESSION_IDLE_MS_MAX = 30 * 60 * 1000
"""By the stamps of the shard's log entries."""
CLIENT_RESULTS_PER_SESSION_MAX = 4_096
"""Results of one client's unacknowledged writes, in one shard: more than a client has under way."""
CLIENT_RESULTS_PER_SESSION_SIZE_BYTES_MAX = 4 * 1024 * 1024
"""The same in bytes, since the answers of transactions may be large; the largest of them fits."""
CLIENT_RESULTS_SIZE_BYTES_MAX = 32 * 1024 * 1024
"""Of all clients' results in one shard; the longest idle clients' go first."""

RANGE_LIMIT_DEFAULT = 100
RANGE_LIMIT_MAX = 1_000
RANGE_RESPONSE_SIZE_BYTES_MAX = 3 * 1024 * 1024
"""A page ends early before its answer outgrows what clients receive by default (4 MiB)."""

BATCH_RESPONSE_SIZE_BYTES_MAX = 8 * 1024 * 1024
"""Reads of a batch whose values do not fit any more fail with OVERLOADED, and are asked again."""

ACKS_MAX = 7
"""`acks` of an eventual write: at most the replicas of a shard."""
SESSION_TOKEN_SIZE_BYTES_MAX = 64 * 1024

PROPOSALS_PER_SHARD_MAX = 4_096
"""Strong writes of one shard between proposal and answer. Beyond: OVERLOADED. At 10,000/s this is 0.4 s of work."""
PROPOSED_SIZE_BYTES_MAX = 64 * 1024 * 1024
"""The same, in bytes, for the whole node."""
READS_PER_SHARD_MAX = 16_384
"""Strong reads of one shard that wait for a quorum round."""
PENDING_EVENTUAL_PER_SHARD_MAX = 65_536
"""Eventual writes held without a place in the log; a node cut off from the others fills this, then says OVERLOADED."""
FORWARDS_IN_FLIGHT_MAX = 4_096
REQUEST_TIMEOUT_S_DEFAULT = 10.0
"""For callers that set no deadline."""

PEER_MESSAGE_SIZE_BYTES_MAX = 16 * 1024 * 1024
APPEND_SIZE_BYTES_MAX = 1024 * 1024
"""Entries of one AppendRequest, over all its shards; one larger entry still goes alone."""
APPENDS_IN_FLIGHT_MAX = 8
"""Unanswered AppendRequests a peer: the pipeline's depth."""
EVENTUAL_BATCH_WRITES_MAX = 1_024
SNAPSHOT_CHUNK_SIZE_BYTES = 256 * 1024
SNAPSHOTS_SENT_AT_ONCE_MAX = 2
"""By one node: each holds a read transaction of the store, and the log's tail behind it."""
LOG_TAIL_SIZE_BYTES_MAX = 16 * 1024 * 1024
"""Flushed entries that a shard keeps in memory for slow followers, besides the bound on their number."""
LOG_TAIL_SIZE_BYTES_MAX_FOR_SNAPSHOT = 64 * 1024 * 1024
"""The same while a follower installs a snapshot, so that it need not take the next one right after."""
EVENTUAL_BATCH_SIZE_BYTES_MAX = 1024 * 1024
RANGE_ROWS_SCANNED_MAX = 20_000
"""Rows that one page of a range looks at, tombstones too; the page ends there, however few keys it has found."""
SUPERSEDED_KEPT_PER_SHARD = 1_024
"""The latest superseded eventual writes whose reason can still be asked for."""
PLACED_KEPT_PER_SHARD = 8_192
"""The latest applied eventual writes whose place in the log can still be asked for; older ones answer SETTLED."""
EVENTS_KEPT = 10_000
"""Failure detector's events kept durably."""
METRICS_CONNECTIONS_MAX = 64
"""Of the server of metrics, open at once; one more is closed without a word."""
FAULTS_MAX = 64
"""Injected faults of one node at a time: each message is held against all of them."""

SHARDS_MAX = 1_024
NODES_MAX = 100

CLOCK_SKEW_MS_MAX = 500
"""How far a stamp may be ahead of the leader's clock before it counts as the leader's time plus this; replicas must agree
on it, so it is no configuration."""
SEQUENCE_ENTRY_WRITES_MAX = 256
SEQUENCE_ENTRY_SIZE_BYTES_MAX = 256 * 1024
SEQUENCE_ENTRIES_IN_FLIGHT_MAX = 4
"""Log entries with eventual writes that are proposed and not applied, for each shard."""
COLLECT_TOMBSTONES_MAX = 1_000
"""Tombstones that one log entry collects: bounds the work of its apply."""
APPLY_ENTRIES_MAX = 256
"""Entries applied in one turn of the event loop, so that a catching-up shard leaves time for heartbeats."""
