"""Checks requests at the door and translates their text fields; nothing behind it sees a request that is out of bounds."""

from __future__ import annotations

from kvapi.v1 import kv_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest
from kvnode.routing import session

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
WRITE_LEVELS = (STRONG, EVENTUAL)
REQUEST_SESSION_SIZE_BYTES = 16
Write = kv_pb2.PutRequest | kv_pb2.DeleteRequest
READ_LEVELS = (STRONG, EVENTUAL, kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED)


def check_put(request: kv_pb2.PutRequest) -> None:
    """Raises `InvalidRequest`; afterwards `key`, `value` and `consistency` are set."""
    take_text(request, "key", "key_text")
    take_text(request, "value", "value_text")
    check_key(request.key)
    check_value(request.value)
    _check_level(request, WRITE_LEVELS)
    _check_write(request)


def check_delete(request: kv_pb2.DeleteRequest) -> None:
    """As `check_put`."""
    take_text(request, "key", "key_text")
    check_key(request.key)
    _check_level(request, WRITE_LEVELS)
    _check_write(request)


def check_get(request: kv_pb2.GetRequest) -> None:
    """As `check_put`."""
    take_text(request, "key", "key_text")
    check_key(request.key)
    _check_level(request, READ_LEVELS)
    _check_staleness(request)


def check_range(request: kv_pb2.RangeRequest, shards: int) -> None:
    """As `check_put`, for a range."""
    for name in ("prefix", "start", "end"):
        take_text(request, name, f"{name}_text")
    check_range_limits(request)
    if request.end and request.start >= request.end:
        raise InvalidRequest("end", "must be above start; leave it empty for no bound")
    if len(request.page_token) > limits.KEY_SIZE_BYTES_MAX:
        raise InvalidRequest("page_token", "not a token of this server")
    if request.HasField("shard") and request.shard >= shards:
        raise InvalidRequest("shard", f"there is no shard {request.shard}, the cluster has {shards}")
    _check_level(request, READ_LEVELS)
    _check_staleness(request)


def check_range_limits(request: kv_pb2.RangeRequest) -> None:
    """Raises `InvalidRequest` for bounds that no key has, or a page that is too large."""
    for name in ("prefix", "start", "end"):
        if len(getattr(request, name)) > limits.KEY_SIZE_BYTES_MAX + 1:
            raise InvalidRequest(name, f"longer than any key, which has at most {limits.KEY_SIZE_BYTES_MAX} bytes")
    if request.limit > limits.RANGE_LIMIT_MAX:
        raise InvalidRequest(
            "limit",
            f"{request.limit}, at most {limits.RANGE_LIMIT_MAX} keys come in a page; ask for the next page with page_token",
        )


def check_batch(request: kv_pb2.BatchRequest) -> None:
    """Only what concerns the batch as a whole; each operation is checked, and fails, by itself."""
    if len(request.operations) > limits.BATCH_OPERATIONS_MAX:
        raise InvalidRequest(
            "operations", f"{len(request.operations)}, at most {limits.BATCH_OPERATIONS_MAX} go into one batch"
        )
    if request.ByteSize() > limits.REQUEST_SIZE_BYTES_MAX:
        raise InvalidRequest("operations", f"{request.ByteSize()} bytes, a request has at most {limits.REQUEST_SIZE_BYTES_MAX}")


def show_text(response: kv_pb2.GetResponse | kv_pb2.KeyValue, key: bytes) -> None:
    """Adds key and value as text, bytes that are no UTF-8 replaced."""
    response.key_text = key.decode(errors="replace")
    response.value_text = response.value.decode(errors="replace")


def take_text(request: object, name: str, text_name: str) -> None:
    """Moves a text field into its bytes field."""
    text = getattr(request, text_name)
    if text:
        if getattr(request, name):
            raise InvalidRequest(text_name, f"{name} is set too; give one of them")
        setattr(request, name, text.encode())
        setattr(request, text_name, "")


def check_key(key: bytes) -> None:
    """Raises `InvalidRequest` for what is no key."""
    if not key:
        raise InvalidRequest("key", "empty; a key has 1 to 400 bytes")
    if len(key) > limits.KEY_SIZE_BYTES_MAX:
        raise InvalidRequest("key", f"{len(key)} bytes, at most {limits.KEY_SIZE_BYTES_MAX} make a key")


def check_value(value: bytes) -> None:
    """Raises `InvalidRequest` for a value that is too large."""
    if len(value) > limits.VALUE_SIZE_BYTES_MAX:
        raise InvalidRequest("value", f"{len(value)} bytes, at most {limits.VALUE_SIZE_BYTES_MAX} are stored under a key")


def _check_level(
    request: kv_pb2.PutRequest | kv_pb2.DeleteRequest | kv_pb2.GetRequest | kv_pb2.RangeRequest, allowed: tuple[int, ...]
) -> None:
    if request.consistency == kv_pb2.CONSISTENCY_UNSPECIFIED:
        request.consistency = STRONG
    elif request.consistency not in allowed:
        names = ", ".join(kv_pb2.Consistency.Name(level) for level in allowed)
        raise InvalidRequest("consistency", f"{request.consistency} is not for this operation; it takes {names}")
    check_session(request)


def check_session(request: Write | kv_pb2.GetRequest | kv_pb2.RangeRequest | kv_pb2.TxnRequest) -> None:
    """Raises `InvalidRequest` for bytes that are no session token."""
    if request.session:
        # Here, and not when the answer's token is made: by then a write has taken effect.
        session.decode(request.session)


def check_request_id(request: Write | kv_pb2.TxnRequest | two_phase_commit_pb2.DecideRequest, path: str) -> None:
    """Raises `InvalidRequest` for a request id that names nothing."""
    if not request.HasField("request"):
        return
    name = request.request
    if len(name.session) != REQUEST_SESSION_SIZE_BYTES:
        raise InvalidRequest(f"{path}.session", f"{len(name.session)} bytes; it is {REQUEST_SESSION_SIZE_BYTES} random ones")
    if not name.acknowledged < name.sequence:
        raise InvalidRequest(f"{path}.acknowledged", f"{name.acknowledged} is not below sequence, which is {name.sequence}")


def _check_write(request: Write) -> None:
    check_request_id(request, "request")
    if request.consistency == EVENTUAL:
        if request.HasField("request"):
            raise InvalidRequest("request", "only strong writes execute once by name; leave it out of eventual ones")
        if request.HasField("if_revision"):
            raise InvalidRequest("if_revision", "only a strong write can compare; an eventual one has no place in the log yet")
        if request.acks > limits.ACKS_MAX:
            raise InvalidRequest("acks", f"{request.acks}, a shard has at most {limits.ACKS_MAX} replicas")
    elif request.acks:
        raise InvalidRequest("acks", "only for eventual writes; a strong one is answered when a majority holds it")


def _check_staleness(request: kv_pb2.GetRequest | kv_pb2.RangeRequest) -> None:
    bounded = request.consistency == kv_pb2.CONSISTENCY_BOUNDED
    if bounded and not request.max_staleness_ms:
        raise InvalidRequest("max_staleness_ms", "a bounded read needs its bound, in milliseconds")
    if not bounded and request.max_staleness_ms:
        raise InvalidRequest("max_staleness_ms", "only for bounded reads")
