"""Operations on their way: what the caller asked, checked and encoded once, retried as often as needed.

Owns the checks that need no server (types, sizes, fields that contradict each other) and the encoding. Never sends.

Invariant: a `Call`'s request does not change between attempts. A request id for exactly-once writes belongs here, beside
`session`: set once for a call, the same in every attempt.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from kvapi.v1 import cluster_pb2, kv_pb2
from kvclient.errors import InvalidArgument
from kvclient.types import Bytes, Consistency

KEY_SIZE_BYTES_MAX = 400
VALUE_SIZE_BYTES_MAX = 1024 * 1024
RANGE_LIMIT_MAX = 1_000


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
TOPOLOGY = Method("Topology", "kvapi.v1.Cluster", False, "")
LOCATE = Method("Locate", "kvapi.v1.Cluster", False, "")


class Call:
    """One operation: its encoded request, and what routing needs to know about it."""

    __slots__ = ("attempt_deadline", "deadline", "key", "method", "request", "size_bytes", "span", "strong")

    def __init__(self, method: Method, request: Any, key: bytes | None, strong: bool, size_bytes: int = 0) -> None:
        self.method = method
        self.request = request
        self.key = key
        """None: not about one key; any node will do."""
        self.strong = strong
        self.deadline = math.inf
        """Monotonic seconds; set when the operation starts."""
        self.attempt_deadline = math.inf
        """The same for the present attempt."""
        self.size_bytes = size_bytes
        """About what it adds to a batch."""
        self.span: Any = None
        """The operation's recording span, if there is one."""


def get_call(key: Bytes, consistency: Consistency, max_staleness: float | None) -> Call:
    """A read of one key. Raises `InvalidArgument`."""
    raw = key_bytes(key)
    request = kv_pb2.GetRequest(key=raw, consistency=int(consistency))  # type: ignore[arg-type]
    if max_staleness is not None or consistency is Consistency.BOUNDED:
        request.max_staleness_ms = staleness_ms(consistency, max_staleness)
    return Call(GET, request, raw, consistency is Consistency.STRONG, len(raw) + 64)


def put_call(key: Bytes, value: Bytes, consistency: Consistency, if_revision: int | None, acks: int | None) -> Call:
    """A write of one key. Raises `InvalidArgument`."""
    raw, data = key_bytes(key), value_bytes(value)
    request = kv_pb2.PutRequest(key=raw, value=data, consistency=int(consistency))  # type: ignore[arg-type]
    _set_write_options(request, consistency, if_revision, acks)
    return Call(PUT, request, raw, consistency is Consistency.STRONG, len(raw) + len(data) + 64)


def delete_call(key: Bytes, consistency: Consistency, if_revision: int | None, acks: int | None) -> Call:
    """A deletion of one key. Raises `InvalidArgument`."""
    raw = key_bytes(key)
    request = kv_pb2.DeleteRequest(key=raw, consistency=int(consistency))  # type: ignore[arg-type]
    _set_write_options(request, consistency, if_revision, acks)
    return Call(DELETE, request, raw, consistency is Consistency.STRONG, len(raw) + 64)


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
    if not 0 <= limit <= RANGE_LIMIT_MAX:
        raise invalid("limit", f"{limit} is not between 0 and {RANGE_LIMIT_MAX}")
    request = kv_pb2.RangeRequest(
        prefix=_bytes("prefix", prefix or b""),
        start=_bytes("start", start or b""),
        end=_bytes("end", end or b""),
        consistency=int(consistency),  # type: ignore[arg-type]
        limit=limit,
        page_token=page_token,
        keys_only=keys_only,
        count_only=count_only,
    )
    if max_staleness is not None or consistency is Consistency.BOUNDED:
        request.max_staleness_ms = staleness_ms(consistency, max_staleness)
    return Call(RANGE, request, None, consistency is Consistency.STRONG)


def operation_call(operation_id: str) -> Call:
    """A question about an eventual write. Raises `InvalidArgument`."""
    if not operation_id:
        raise invalid("operation_id", "is empty; only eventual writes have one")
    return Call(OPERATION, kv_pb2.OperationRequest(operation_id=operation_id), None, False)


def locate_call(key: Bytes) -> Call:
    """A question about a key's place. Raises `InvalidArgument`."""
    return Call(LOCATE, cluster_pb2.LocateRequest(key=key_bytes(key)), None, False)


def topology_call() -> Call:
    """A question about the cluster's map."""
    return Call(TOPOLOGY, cluster_pb2.TopologyRequest(), None, False)


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
    if max_staleness is None or not 0.001 <= max_staleness < math.inf:
        raise invalid("max_staleness", "bounded reads need it: seconds, 0.001 or more")
    return int(max_staleness * 1e3 + 1e-6)


def invalid(field: str, message: str) -> InvalidArgument:
    """An error about the caller's field `field`."""
    return InvalidArgument(f"{field}: {message}", metadata={"field": field})


def _bytes(field: str, data: Bytes) -> bytes:
    if isinstance(data, bytes):
        return data
    if isinstance(data, str):
        return data.encode()
    if isinstance(data, (bytearray, memoryview)):
        return bytes(data)
    raise invalid(field, f"is {type(data).__name__}; give bytes or str")


def _set_write_options(request: Any, consistency: Consistency, if_revision: int | None, acks: int | None) -> None:
    if consistency not in (Consistency.STRONG, Consistency.EVENTUAL):
        raise invalid("consistency", f"{consistency.name.lower()} is for reads; writes are strong or eventual")
    if if_revision is not None:
        if consistency is not Consistency.STRONG:
            raise invalid("if_revision", "only strong writes compare; an eventual write has no revision yet")
        if if_revision < 0:
            raise invalid("if_revision", f"{if_revision} is negative; 0 means that the key must not exist")
        request.if_revision = if_revision
    if acks is not None:
        if consistency is not Consistency.EVENTUAL:
            raise invalid("acks", "only eventual writes choose; strong writes wait for a majority")
        if acks < 1:
            raise invalid("acks", f"{acks} is not 1 or more")
        request.acks = acks
