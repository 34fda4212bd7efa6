"""Operations on their way: what the caller asked, checked and encoded once, retried as often as needed.

Owns the checks that need no server (types, sizes, fields that contradict each other) and the encoding. Never sends.

Invariant: a `Call`'s request does not change between attempts. The id of a write that executes once is set when its operation
starts (`_request_ids`); only a renewal, after which no earlier attempt can take effect, changes it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, TypeGuard

from kvapi.v1 import cluster_pb2, kv_pb2
from kvclient.errors import InvalidArgument
from kvclient.hashing import anchor_key
from kvclient.types import Bytes, Consistency, ConsistencyLike, consistency_of

if TYPE_CHECKING:
    from kvclient._request_ids import WriteSession
    from kvclient._tracing import Recording

_STRONG = Consistency.STRONG  # Looking it up costs as much as reading a clock.

KEY_SIZE_BYTES_MAX = 400
VALUE_SIZE_BYTES_MAX = 1024 * 1024
REQUEST_SIZE_BYTES_MAX = 4 * 1024 * 1024
RANGE_LIMIT_MAX = 1_000
TXN_OPERATIONS_MAX = 128
"""Of both branches, and the comparisons."""
TIMEOUT_S_MAX = 86_400
"""A day: who waits longer wants to try again."""
STALENESS_S_MAX = 1_000_000_000


class Method(NamedTuple):
    """An RPC as routing and coalescing see it."""

    name: str
    service: str
    is_write: bool
    batched: str
    """Its field in `BatchOperation` and `BatchResult`; empty: always a call of its own."""


GET = Method("Get", "kvapi.v1.KV", False, "get")
PUT = Method("Put", "kvapi.v1.KV", True, "put")
DELETE = Method("Delete", "kvapi.v1.KV", True, "delete")
RANGE = Method("Range", "kvapi.v1.KV", False, "")
OPERATION = Method("Operation", "kvapi.v1.KV", False, "")
BATCH = Method("Batch", "kvapi.v1.KV", True, "")
TXN = Method("Txn", "kvapi.v1.KV", True, "")
TXN_READ_ONLY = Method("Txn", "kvapi.v1.KV", False, "")
TOPOLOGY = Method("Topology", "kvapi.v1.Cluster", False, "")
LOCATE = Method("Locate", "kvapi.v1.Cluster", False, "")


class Call:
    """One operation: its encoded request, and what routing and retrying need to know about it."""

    __slots__ = (
        *("anchor", "attempt_deadline", "attempts", "consistency", "deadline", "executes_once", "in_doubt", "is_repeatable"),
        *("key", "method", "queued_s", "recording", "renewals", "request", "request_id", "size_bytes", "started", "strong"),
    )

    def __init__(
        self,
        method: Method,
        request: Any,
        key: bytes | None,
        consistency: Consistency | None,
        size_bytes: int = 0,
        anchor: bytes | None = None,
    ) -> None:
        self.method = method
        self.request = request
        self.key = key
        """None: not about one key."""
        self.anchor = key if anchor is None else anchor
        """The key whose shard takes it; None: any node will do."""
        self.consistency = consistency
        """None: it is about the cluster, not about data."""
        self.strong = consistency is _STRONG
        self.executes_once = self.strong and method.is_write
        """It carries a request id: however often it is sent, it takes effect once."""
        self.is_repeatable = self.executes_once or not method.is_write
        """Trying it again does no harm, also when an attempt is in doubt."""
        self.request_id: tuple[WriteSession, int] | None = None
        """As `_request_ids` remembers it, while the operation runs."""
        self.in_doubt = False
        """An attempt ended without an answer, and may still take effect."""
        self.renewals = 0
        """How often it got another id."""
        self.deadline = math.inf
        """Monotonic seconds; set when the operation starts."""
        self.attempt_deadline = math.inf
        """The same for the present attempt."""
        self.size_bytes = size_bytes
        """About what it adds to a batch."""
        self.started = time.monotonic()
        """When its caller began to wait."""
        self.attempts = 0
        self.queued_s = 0.0
        """How long it waited for a slot of a lane, in all attempts."""
        self.recording: Recording | None = None
        """Of its trace; None: it is not recorded."""


def get_call(key: Bytes, consistency: Consistency, max_staleness: float | None) -> Call:
    """A read of one key. Raises `InvalidArgument`."""
    raw = key_bytes(key)
    request = kv_pb2.GetRequest(key=raw, consistency=int(consistency))  # type: ignore[arg-type]
    if max_staleness is not None or consistency is Consistency.BOUNDED:
        request.max_staleness_ms = staleness_ms(consistency, max_staleness)
    return Call(GET, request, raw, consistency, len(raw) + 64)


def put_call(key: Bytes, value: Bytes, consistency: Consistency, if_revision: int | None, acks: int | None) -> Call:
    """A write of one key. Raises `InvalidArgument`."""
    raw, data = key_bytes(key), value_bytes(value)
    request = kv_pb2.PutRequest(key=raw, value=data, consistency=int(consistency))  # type: ignore[arg-type]
    _set_write_options(request, consistency, if_revision, acks)
    return Call(PUT, request, raw, consistency, len(raw) + len(data) + 64)


def delete_call(key: Bytes, consistency: Consistency, if_revision: int | None, acks: int | None) -> Call:
    """A deletion of one key. Raises `InvalidArgument`."""
    raw = key_bytes(key)
    request = kv_pb2.DeleteRequest(key=raw, consistency=int(consistency))  # type: ignore[arg-type]
    _set_write_options(request, consistency, if_revision, acks)
    return Call(DELETE, request, raw, consistency, len(raw) + 64)


def range_call(
    prefix: Bytes | None,
    start: Bytes | None,
    end: Bytes | None,
    consistency: Consistency,
    max_staleness: float | None,
    *,
    limit: int = 0,
    page_token: bytes = b"",
    keys_only: bool = False,
    count_only: bool = False,
) -> Call:
    """One page of a range, or its count. Raises `InvalidArgument`."""
    if not _is_whole(limit) or not 0 <= limit <= RANGE_LIMIT_MAX:
        raise invalid("limit", f"{quoted(limit)} is not a whole number from 0 to {RANGE_LIMIT_MAX}")
    if not isinstance(keys_only, bool):
        raise invalid("keys_only", f"{quoted(keys_only)} is neither True nor False")
    request = kv_pb2.RangeRequest(
        prefix=b"" if prefix is None else _bytes("prefix", prefix),
        start=b"" if start is None else _bytes("start", start),
        end=b"" if end is None else _bytes("end", end),
        consistency=int(consistency),  # type: ignore[arg-type]
        limit=limit,
        page_token=token_bytes("page_token", page_token),
        keys_only=keys_only,
        count_only=count_only,
    )
    if max_staleness is not None or consistency is Consistency.BOUNDED:
        request.max_staleness_ms = staleness_ms(consistency, max_staleness)
    return Call(RANGE, request, None, consistency)


def txn_call(
    compares: Sequence[kv_pb2.Compare],
    then: Sequence[kv_pb2.BatchOperation],
    otherwise: Sequence[kv_pb2.BatchOperation],
) -> Call:
    """A transaction; its parts are checked already. Raises `InvalidArgument`."""
    size = len(compares) + len(then) + len(otherwise)
    if size > TXN_OPERATIONS_MAX:
        raise invalid("txn", f"has {size} comparisons and operations; a transaction has at most {TXN_OPERATIONS_MAX}")
    written = [_written_once("then", then), _written_once("else", otherwise)]
    request = kv_pb2.TxnRequest(compare=compares, then=then, otherwise=otherwise)
    if request.ByteSize() > REQUEST_SIZE_BYTES_MAX:
        raise invalid("txn", f"has {request.ByteSize()} bytes; a transaction has at most {REQUEST_SIZE_BYTES_MAX}: split it")
    return Call(TXN if any(written) else TXN_READ_ONLY, request, None, Consistency.STRONG, anchor=anchor_key(request))


def _written_once(branch: str, operations: Sequence[kv_pb2.BatchOperation]) -> set[bytes]:
    """The keys that a branch writes, each once. Raises `InvalidArgument`."""
    written: set[bytes] = set()
    for operation in operations:
        kind = operation.WhichOneof("operation")
        if kind == "put" or kind == "delete":
            key = operation.put.key if kind == "put" else operation.delete.key
            if key in written:
                raise invalid(branch, f"writes key {quoted(key)} twice; a branch writes each key at most once")
            written.add(key)
    return written


def operation_call(operation_id: str) -> Call:
    """A question about an eventual write. Raises `InvalidArgument`."""
    if not isinstance(operation_id, str):
        raise invalid("operation_id", f"is {type(operation_id).__name__}; give the operation_id of an eventual write's result")
    _bytes("operation_id", operation_id)
    if not operation_id:
        raise invalid("operation_id", "is empty; only eventual writes have one")
    return Call(OPERATION, kv_pb2.OperationRequest(operation_id=operation_id), None, None)


def locate_call(key: Bytes) -> Call:
    """A question about a key's place. Raises `InvalidArgument`."""
    return Call(LOCATE, cluster_pb2.LocateRequest(key=key_bytes(key)), None, None)


def topology_call() -> Call:
    """A question about the cluster's map."""
    return Call(TOPOLOGY, cluster_pb2.TopologyRequest(), None, None)


def key_bytes(key: Bytes) -> bytes:
    """A key, checked. Raises `InvalidArgument`."""
    raw = _bytes("key", key)
    if not 0 < len(raw) <= KEY_SIZE_BYTES_MAX:
        raise invalid("key", f"has {len(raw)} bytes; keys have 1 to {KEY_SIZE_BYTES_MAX}")
    return raw


def value_bytes(value: Bytes) -> bytes:
    """A value, checked. Raises `InvalidArgument`."""
    raw = _bytes("value", value)
    if len(raw) > VALUE_SIZE_BYTES_MAX:
        raise invalid("value", f"has {len(raw)} bytes; values have at most {VALUE_SIZE_BYTES_MAX}")
    return raw


def staleness_ms(consistency: Consistency, max_staleness: float | None) -> int:
    """Whole milliseconds, rounded down: never weaker than asked. Raises `InvalidArgument`."""
    if consistency is not Consistency.BOUNDED:
        raise invalid("max_staleness", f"goes with consistency bounded, not {consistency.name.lower()}")
    if not _is_number(max_staleness) or not 0.001 <= max_staleness <= STALENESS_S_MAX:
        message = f"{quoted(max_staleness)} is not a number of seconds from 0.001 to {STALENESS_S_MAX}; bounded reads need it"
        raise invalid("max_staleness", message)
    return int(max_staleness * 1e3 + 1e-6)


def read_level(asked: ConsistencyLike | None, max_staleness: float | None, default: Consistency) -> Consistency:
    """The level of a read: as asked; bounded where only a staleness is given; else the default.

    Raises `InvalidArgument`, also for session consistency without a session, which is where `default` is another.
    """
    if asked is None:
        return default if max_staleness is None else Consistency.BOUNDED
    level = consistency_of(asked)
    if level is Consistency.SESSION and default is not Consistency.SESSION:
        raise invalid("consistency", "session is for the reads of a session; make one with kv.session() and read with it")
    return level


def timeout_seconds(timeout: float) -> float:
    """A time-out, checked. Raises `InvalidArgument`."""
    if not _is_number(timeout) or not 0 < timeout <= TIMEOUT_S_MAX:
        raise invalid("timeout", f"{quoted(timeout)} is not a number of seconds above 0, at most {TIMEOUT_S_MAX}")
    return timeout


def revision_of(field: str, revision: int) -> int:
    """A revision to compare with, checked. Raises `InvalidArgument`."""
    if not _is_whole(revision) or not 0 <= revision < 1 << 64:
        message = f"{quoted(revision)} is not a whole number from 0 to 2**64 - 1; 0 means that the key must not exist"
        raise invalid(field, message)
    return revision


def token_bytes(field: str, token: bytes) -> bytes:
    """Something opaque that an earlier result held, checked. Raises `InvalidArgument`."""
    if not isinstance(token, (bytes, bytearray, memoryview)):
        raise invalid(field, f"is {type(token).__name__}; give the bytes that the SDK gave")
    return bytes(token)


def invalid(field: str, message: str) -> InvalidArgument:
    """An error about the caller's field `field`."""
    return InvalidArgument(f"{field}: {message}", metadata={"field": field})


def quoted(value: object) -> str:
    """Anything in a message: at most 64 characters of it."""
    try:
        text = repr(value)
    except Exception:  # An int of thousands of digits, or an object whose own repr fails.
        text = f"this {type(value).__name__}"
    return text if len(text) <= 64 else text[:64] + "..."


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _bytes(field: str, data: Bytes) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        try:
            return data.encode()
        except UnicodeEncodeError:
            raise invalid(field, "is text that UTF-8 cannot hold (a lone surrogate); give bytes") from None
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise invalid(field, f"is {type(data).__name__}; give bytes or str")


def _set_write_options(request: Any, consistency: Consistency, if_revision: int | None, acks: int | None) -> None:
    if consistency not in (Consistency.STRONG, Consistency.EVENTUAL):
        raise invalid("consistency", f"{consistency.name.lower()} is for reads; writes are strong or eventual")
    if if_revision is not None:
        if consistency is not Consistency.STRONG:
            raise invalid("if_revision", "only strong writes compare; an eventual write has no revision yet")
        request.if_revision = revision_of("if_revision", if_revision)
    if acks is not None:
        if consistency is not Consistency.EVENTUAL:
            raise invalid("acks", "only eventual writes choose; strong writes wait for a majority")
        if not _is_whole(acks) or not 1 <= acks < 1 << 32:
            raise invalid("acks", f"{quoted(acks)} is not a whole number of replicas, 1 or more")
        request.acks = acks
