"""What callers give and get: consistency levels and results.

Owns the shapes and their decoding from `kvapi.v1` messages. Results are immutable tuples with names; times are in seconds.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from kvapi.v1 import kv_pb2
from kvclient.errors import InternalError, InvalidArgument
from kvclient.histogram import Histogram, merged


class _Named(enum.IntEnum):
    """A number of the protocol that prints as its name."""

    def __str__(self) -> str:
        return self.name

    def __format__(self, spec: str) -> str:
        return format(self.name, spec)


class Consistency(_Named):
    """What a request demands; the numbers are the protocol's."""

    EVENTUAL = 1
    """Writes: durable on one replica, then replicated in the background. Reads: what the replica has."""
    STRONG = 2
    """Linearizable."""
    SESSION = 3
    """Reads only: read your writes, and never go back."""
    BOUNDED = 4
    """Reads only: at most `max_staleness` behind."""


class Role(_Named):
    """The part a node plays in a shard; the numbers are the protocol's."""

    UNSPECIFIED = 0
    FOLLOWER = 1
    CANDIDATE = 2
    LEADER = 3
    LEARNER = 4


class OperationState(_Named):
    """Where an eventual write is on its way into its shard's log; the numbers are the protocol's."""

    UNSPECIFIED = 0
    PENDING = 1
    """Durable on at least one replica; no place in the log yet."""
    APPLIED = 2
    """Took effect."""
    SUPERSEDED = 3
    """Took no effect: something newer was there."""
    SETTLED = 4
    """In the log, so long ago that whether it was superseded is no longer kept."""
    UNKNOWN = 5
    """Never seen by the node that answered."""


class SupersededReason(_Named):
    """Why an eventual write took no effect; the numbers are the protocol's."""

    NONE = 0
    STRONG_WRITE = 1
    LATER_WRITE = 2
    HORIZON = 3


ConsistencyLike = Consistency | str
"""A level, or its name in any case: "strong", "eventual", "session", "bounded"."""
Bytes = bytes | str
"""Keys and values; text is sent as UTF-8."""

_BY_NAME: dict[str, Consistency] = {level.name.lower(): level for level in Consistency}


def consistency_of(level: ConsistencyLike) -> Consistency:
    """The level that `level` names. Raises `InvalidArgument`."""
    if isinstance(level, Consistency):
        return level
    found = _BY_NAME.get(level.lower()) if isinstance(level, str) else None
    if found is None:
        message = f"consistency: {level!r} is none of strong, eventual, session, bounded"
        raise InvalidArgument(message, metadata={"field": "consistency"})
    return found


class Served(NamedTuple):
    """What was served, and by whom."""

    node: str
    """Name of the node."""
    role: Role
    """Its role in the shard at that moment."""
    consistency: Consistency | None
    """What was really served; never weaker than asked."""
    shard: int
    revision: int
    """The shard's log index that was applied."""
    hlc: int
    """The node's hybrid logical clock: Unix milliseconds << 16 | counter."""
    staleness: float | None
    """Seconds that the state was at most behind the leader; None: no bound is known."""


class Value(NamedTuple):
    """What a key holds."""

    value: bytes
    revision: int
    """Log index of the key's last write: what compare-and-set compares."""
    create_revision: int
    """Log index of the write that created the key."""
    version: int
    """Writes since the key was created, from 1."""
    hlc: int
    """Hybrid logical clock of the last write."""
    tentative: bool
    """From an eventual write that has no place in the log yet: it may still be superseded."""
    served: Served

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Raises `UnicodeDecodeError`."""
        return self.value.decode()


class GetResult(NamedTuple):
    """A read's answer, also where there is no value."""

    value: Value | None
    served: Served


class KeyValue(NamedTuple):
    """One key of a range."""

    key: bytes
    value: bytes
    """Empty with `keys_only`."""
    revision: int
    create_revision: int
    version: int
    hlc: int
    tentative: bool

    @property
    def text(self) -> str:
        """The value as UTF-8 text. Raises `UnicodeDecodeError`."""
        return self.value.decode()


class RangePage(NamedTuple):
    """One page of a range."""

    items: tuple[KeyValue, ...]
    next_page_token: bytes
    """For the next page; empty on the last."""
    served: tuple[Served, ...]
    """One for each shard that took part."""


class PutResult(NamedTuple):
    """A write's answer."""

    revision: int
    """Strong: the key's new revision. Eventual: 0, its place in the log is not known yet."""
    operation_id: str
    """Eventual: ask `operation` with it what became of the write. Strong: empty."""
    acks: int
    """Eventual: replicas that hold the write durably."""
    served: Served


class DeleteResult(NamedTuple):
    """A deletion's answer."""

    found: bool
    """Strong: whether the key existed."""
    revision: int
    """Strong: log index of the deletion. Eventual: 0."""
    operation_id: str
    """As in `PutResult`."""
    acks: int
    """As in `PutResult`."""
    served: Served


OfTxn = PutResult | DeleteResult | Value | None | RangePage
"""The result of one operation of a transaction; None: the key of a get does not exist."""


class TxnResult(NamedTuple):
    """The answer of a transaction that took place."""

    succeeded: bool
    """Whether all comparisons held."""
    results: tuple[OfTxn, ...]
    """Of the branch that was taken, in the order of its operations."""
    transaction_id: str
    """The transaction's name, where it spans shards; else empty."""
    served: tuple[Served, ...]
    """One for each shard that took part. Of single results `served` says only what the answer says there, mostly nothing."""

    def __bool__(self) -> bool:
        """Whether it succeeded."""
        return self.succeeded


class OperationResult(NamedTuple):
    """What became of an eventual write."""

    state: OperationState
    revision: int
    """Applied: its log index. Superseded: its place in the log, where it had no effect."""
    reason: SupersededReason
    """Superseded: why."""
    superseded_by: int
    """Superseded: log index of the write that won; 0 when it is no longer known."""
    key: bytes
    """The write's key, where known."""
    served: Served


class Location(NamedTuple):
    """Where a key lives."""

    shard: int
    leader: str
    """ "host:port"; empty while there is none."""
    replicas: tuple[str, ...]
    """ "host:port" of each, the leader's too."""
    epoch: int
    """Of the shard map this comes from."""


@dataclass(frozen=True, slots=True)
class OperationStatistics:
    """What became of one kind of operation, at one consistency level. Durations are in microseconds."""

    operation: str
    """As "put"; a page of a range, and a count, is a "range"."""
    consistency: Consistency | None
    """As asked; None: the operation has none."""
    outcomes: Mapping[str, Histogram]
    """How long operations took, all attempts together, by how they ended: "OK", the reason of an error as COMPARE_FAILED, or
    what interrupted the caller, as CancelledError."""
    attempts: int
    """Of all of them: more than `count` where some were tried again."""
    queue: Histogram
    """How long those waited in the client that could not leave at once."""

    @property
    def count(self) -> int:
        """How many have ended."""
        return sum(histogram.count for histogram in self.outcomes.values())

    @property
    def durations(self) -> Histogram:
        """Of all, however they ended."""
        return merged(self.outcomes.values())


@dataclass(frozen=True, slots=True)
class Statistics:
    """What became of all operations of one client: counted, not sampled."""

    since: float
    """When the client was made, Unix seconds."""
    at: float
    """When this was read, Unix seconds."""
    operations: tuple[OperationStatistics, ...]
    """One for each operation and level that was used, sorted by name."""


_ROLES = {int(role): role for role in Role}
_STATES = {int(state): state for state in OperationState}
_REASONS = {int(reason): reason for reason in SupersededReason}
_LEVELS: dict[int, Consistency | None] = {0: None} | {int(level): level for level in Consistency}


def served_from(pb: kv_pb2.Served) -> Served:
    """Decode; a role or level from a newer server than this client becomes UNSPECIFIED or None."""
    staleness = pb.staleness_ms / 1e3 if pb.HasField("staleness_ms") else None
    role = _ROLES.get(pb.role, Role.UNSPECIFIED)
    return Served(pb.node, role, _LEVELS.get(pb.consistency), pb.shard, pb.revision, pb.hlc, staleness)


def get_result_from(pb: kv_pb2.GetResponse) -> GetResult:
    """Decode a read's answer."""
    served = served_from(pb.served)
    if not pb.found:
        return GetResult(None, served)
    return GetResult(Value(pb.value, pb.revision, pb.create_revision, pb.version, pb.hlc, pb.tentative, served), served)


def value_from(pb: kv_pb2.GetResponse) -> Value | None:
    """Decode a read's answer, without what was served where there is no value."""
    if not pb.found:
        return None
    return Value(pb.value, pb.revision, pb.create_revision, pb.version, pb.hlc, pb.tentative, served_from(pb.served))


def put_result_from(pb: kv_pb2.PutResponse) -> PutResult:
    """Decode a write's answer."""
    return PutResult(pb.revision, pb.operation_id, pb.acks, served_from(pb.served))


def delete_result_from(pb: kv_pb2.DeleteResponse) -> DeleteResult:
    """Decode a deletion's answer."""
    return DeleteResult(pb.found, pb.revision, pb.operation_id, pb.acks, served_from(pb.served))


def range_page_from(pb: kv_pb2.RangeResponse) -> RangePage:
    """Decode a page."""
    items = tuple(
        KeyValue(item.key, item.value, item.revision, item.create_revision, item.version, item.hlc, item.tentative)
        for item in pb.items
    )
    return RangePage(items, pb.next_page_token, tuple(served_from(served) for served in pb.served))


def txn_result_from(pb: kv_pb2.TxnResponse) -> TxnResult:
    """Decode a transaction's answer."""
    results = []
    for result in pb.results:
        kind = result.WhichOneof("result")
        if kind not in _OF_TXN:
            raise InternalError("the transaction took place, and its answer has a result of an unknown kind")
        results.append(_OF_TXN[kind](getattr(result, kind)))
    return TxnResult(pb.succeeded, tuple(results), pb.transaction_id, tuple(served_from(served) for served in pb.served))


def operation_result_from(pb: kv_pb2.OperationResponse) -> OperationResult:
    """Decode what became of a write; a state or reason from a newer server becomes UNSPECIFIED or NONE."""
    state = _STATES.get(pb.state, OperationState.UNSPECIFIED)
    reason = _REASONS.get(pb.reason, SupersededReason.NONE)
    return OperationResult(state, pb.revision, reason, pb.superseded_by, pb.key, served_from(pb.served))


_OF_TXN: dict[str, Callable[[Any], OfTxn]] = {
    "put": put_result_from,
    "get": value_from,
    "delete": delete_result_from,
    "range": range_page_from,
}
