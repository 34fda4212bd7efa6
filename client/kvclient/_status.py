"""What a failed call means: gRPC status and `OperationError` to `KvError`.

Owns the classification, and with it the answer to "may it have happened?". Never sends, never retries.

Invariants:
- Without proof a failed write is an `OutcomeUnknown`. Proof is a reason that the server calls definite, a code that servers
  send only before they look at the request, or gRPC's word that no connection could be made.
- That word is trusted only if gRPC made the status itself. "failed to connect to all addresses" is what gRPC's pick_first
  policy says, and kvwire after it, when it fails a call that it never gave to a connection (gRPC's connectivity semantics:
  fail-fast calls fail in TRANSIENT_FAILURE). A node that forwards could repeat those words about *its* peer after it sent
  something, so: no trailing metadata (a node attaches details), the policy's whole wording, and our node's own port in it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import NamedTuple

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from kvapi.v1 import kv_pb2
from kvclient import errors
from kvclient.errors import KvError, OutcomeUnknown

DOMAIN = "kvnode"
DETAILS_KEY = "grpc-status-details-bin"

CONNECT_FAILED = "CONNECT_FAILED"
"""No connection could be made; nothing was sent."""
CONNECTION_LOST = "CONNECTION_LOST"
"""The connection broke while the call was under way."""

_BY_REASON: dict[str, type[KvError]] = {
    error.default_reason: error
    for error in (
        errors.Unavailable,
        errors.NoLeader,
        errors.NotLeader,
        errors.WrongShard,
        errors.Conflict,
        errors.CompareFailed,
        errors.SessionExpired,
        errors.Overloaded,
        errors.NoSpace,
        errors.InvalidArgument,
        errors.DeadlineExceeded,
        errors.Compacted,
        errors.Corrupt,
        errors.WrongCluster,
        errors.PermissionDenied,
    )
}
_DEFINITE_REASONS = frozenset(_BY_REASON)
"""All that the server has a name for, save INTERNAL and OUTCOME_UNKNOWN, it decides before proposing or at apply."""

_BY_CODE: dict[grpc.StatusCode, type[KvError]] = {
    grpc.StatusCode.UNAVAILABLE: errors.Unavailable,
    grpc.StatusCode.DEADLINE_EXCEEDED: errors.DeadlineExceeded,
    grpc.StatusCode.UNIMPLEMENTED: errors.Unsupported,
    grpc.StatusCode.UNAUTHENTICATED: errors.PermissionDenied,
    grpc.StatusCode.PERMISSION_DENIED: errors.PermissionDenied,
    grpc.StatusCode.INVALID_ARGUMENT: errors.InvalidArgument,
    grpc.StatusCode.DATA_LOSS: errors.Corrupt,
    grpc.StatusCode.CANCELLED: errors.ClientClosed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: errors.Overloaded,
}
_DEFINITE_CODES = frozenset(
    (
        grpc.StatusCode.UNIMPLEMENTED,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.INVALID_ARGUMENT,
    )
)
_CODES: dict[int, grpc.StatusCode] = {code.value[0]: code for code in grpc.StatusCode}

_WORDS: dict[grpc.StatusCode, str] = {
    grpc.StatusCode.UNAVAILABLE: "the connection broke",
    grpc.StatusCode.DEADLINE_EXCEEDED: "no answer in time",
    grpc.StatusCode.UNIMPLEMENTED: "the server does not know this operation",
    grpc.StatusCode.CANCELLED: "the call was cancelled",
}

_NEVER_CONNECTED = re.compile(
    r"failed to connect to all addresses; last error: \w+: (?:(?:ipv[46]|unix|vsock):)?\S*?:(\d+): .", re.DOTALL
)


class Failure(NamedTuple):
    """A failed call or operation, before it is known whether it was a write."""

    code: grpc.StatusCode
    message: str
    reason: str
    """Empty: the server gave none, or it was not the server who answered."""
    metadata: dict[str, str]
    retry_after: float | None
    """Seconds."""


def failure_of_call(code: grpc.StatusCode, message: str, trailing: Iterable[tuple[str, str | bytes]], node: str) -> Failure:
    """What a failed RPC to `node` ("host:port") says. Details that cannot be decoded count as none."""
    trailing = list(trailing)
    for name, value in trailing:
        if name == DETAILS_KEY and isinstance(value, bytes):
            return _failure_of_details(code, message, value)
    reason = ""
    if code is grpc.StatusCode.UNAVAILABLE:
        reason = CONNECT_FAILED if not trailing and never_connected(message, node) else CONNECTION_LOST
    return Failure(code, _in_words(code, reason, message), reason, {}, None)


def never_connected(message: str, node: str) -> bool:
    """Whether gRPC says that no connection to `node` could be made, so that the call was not sent to anyone."""
    found = _NEVER_CONNECTED.match(message)
    if found is not None:
        return found.group(1) == node.rpartition(":")[2]
    # (The words of grpcio, and of newer ones, for a name that has no address.)
    return message.startswith((f"DNS resolution failed for {node}", f"errors resolving {node}:"))


def failure_of_operation(error: kv_pb2.OperationError) -> Failure:
    """What one failed operation of a batch says."""
    retry_after = error.retry_after_ms / 1e3 if error.HasField("retry_after_ms") else None
    code = _CODES.get(error.code, grpc.StatusCode.UNKNOWN)
    return Failure(code, error.message, error.reason, dict(error.metadata), retry_after)


def error_from(failure: Failure, *, is_write: bool, key: bytes | None, node: str | None) -> KvError:
    """The exception for an operation that failed so. For reads everything is definite: they change nothing."""
    kind = _BY_REASON.get(failure.reason)
    definite = failure.reason in _DEFINITE_REASONS or failure.reason == CONNECT_FAILED
    if kind is None:
        kind = _BY_CODE.get(failure.code, errors.InternalError)
        definite = definite or (not failure.reason and failure.code in _DEFINITE_CODES)
    if failure.reason == OutcomeUnknown.default_reason:
        kind = OutcomeUnknown if is_write else errors.Unavailable
    error = kind(
        failure.message or failure.code.name,
        code=failure.code,
        reason=failure.reason or failure.code.name,
        definite=definite or not is_write,
        metadata=failure.metadata,
        retry_after=failure.retry_after,
        key=key,
        node=node,
    )
    if is_write and not definite and not isinstance(error, OutcomeUnknown):
        return unknown(error)
    return error


def unknown(cause: KvError, message: str = "the write was sent and its answer is lost") -> OutcomeUnknown:
    """The error of a write that may have happened although `cause` came back, or nothing did."""
    message = f"{message}: {cause.message}"
    error = OutcomeUnknown(message, cause=cause, code=cause.code, metadata=cause.metadata, key=cause.key, node=cause.node)
    error.attempts = cause.attempts
    error.__cause__ = cause
    return error


def outcome_of(error: BaseException | None) -> str:
    """How an operation ended, in a word: "OK", a reason, or what interrupted it, as "CancelledError"."""
    if error is None:
        return "OK"
    return error.reason if isinstance(error, KvError) else type(error).__name__


def _failure_of_details(code: grpc.StatusCode, message: str, raw: bytes) -> Failure:
    try:
        status = status_pb2.Status.FromString(raw)
    except DecodeError:
        return Failure(code, _in_words(code, "", message), "", {}, None)
    reason, retry_after = "", None
    metadata: dict[str, str] = {}
    for detail in status.details:
        if detail.Is(error_details_pb2.ErrorInfo.DESCRIPTOR):
            info = error_details_pb2.ErrorInfo.FromString(detail.value)
            if info.domain == DOMAIN:
                reason = info.reason
                metadata.update(_text(info.metadata))
        elif detail.Is(error_details_pb2.RetryInfo.DESCRIPTOR):
            delay = error_details_pb2.RetryInfo.FromString(detail.value).retry_delay
            retry_after = delay.seconds + delay.nanos / 1e9
        elif detail.Is(error_details_pb2.BadRequest.DESCRIPTOR):
            for violation in error_details_pb2.BadRequest.FromString(detail.value).field_violations:
                metadata.setdefault("field", violation.field)
    return Failure(code, message, reason, metadata, retry_after)


def _in_words(code: grpc.StatusCode, reason: str, message: str) -> str:
    """What happened where gRPC, not a node, says so: in words of ours, gRPC's own last."""
    words = _WORDS.get(code, "the call failed")
    if reason == CONNECT_FAILED:
        words = "no connection could be made"
    elif "deadline exceeded" in message.lower():
        words = _WORDS[grpc.StatusCode.DEADLINE_EXCEEDED]
    is_news = message and message.lower() != "deadline exceeded"
    return f"{words} (gRPC: {message.rstrip('.')})" if is_news else words


def _text(metadata: Mapping[str, str]) -> dict[str, str]:
    return {str(name): str(value) for name, value in metadata.items()}
