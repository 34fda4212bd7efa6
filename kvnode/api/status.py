"""Errors as gRPC knows them: a status code, and google.rpc details that programs can read; and back again for peers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.rpc import error_details_pb2, status_pb2

from kvapi.v1 import kv_pb2
from kvnode import errors
from kvnode.errors import DOMAIN, InvalidRequest, KvnodeError

DETAILS_KEY = "grpc-status-details-bin"
CODES = {code.value[0]: code for code in grpc.StatusCode}
_CLASSES: dict[str, type[KvnodeError]] = {
    cls.reason: cls for cls in vars(errors).values() if isinstance(cls, type) and issubclass(cls, KvnodeError)
}


def to_status(error: KvnodeError) -> status_pb2.Status:
    """The rich status of an error."""
    status = status_pb2.Status(code=error.code, message=error.message)
    _pack(status, error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=error.metadata))
    if error.retry_after_ms is not None:
        delay = duration_pb2.Duration()
        delay.FromMilliseconds(error.retry_after_ms)
        _pack(status, error_details_pb2.RetryInfo(retry_delay=delay))
    if isinstance(error, InvalidRequest):
        violation = error_details_pb2.BadRequest.FieldViolation(field=error.field, description=error.description)
        _pack(status, error_details_pb2.BadRequest(field_violations=[violation]))
    return status


def _pack(status: status_pb2.Status, detail: Any) -> None:
    packed = any_pb2.Any()
    packed.Pack(detail)
    status.details.append(packed)


async def abort(
    context: grpc.aio.ServicerContext[Any, Any], error: KvnodeError, trailing: Sequence[tuple[str, str]] = ()
) -> None:
    """Ends the call with the error, and more trailing metadata; never returns."""
    details = to_status(error).SerializeToString()
    await context.abort(CODES[error.code], error.message, ((DETAILS_KEY, details), *trailing))


def to_operation_error(error: KvnodeError) -> kv_pb2.OperationError:
    """The same facts, for one operation of a batch."""
    result = kv_pb2.OperationError(code=error.code, message=error.message, reason=error.reason, metadata=error.metadata)
    if error.retry_after_ms is not None:
        result.retry_after_ms = error.retry_after_ms
    return result


def from_rpc_error(error: grpc.RpcError) -> KvnodeError | None:
    """The error that another node of this cluster answered; None where it is the transport's own."""
    metadata: Any = error.trailing_metadata() or ()
    raw = next((value for key, value in metadata if key == DETAILS_KEY), None)
    if raw is None:
        return None
    status = status_pb2.Status.FromString(raw)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        if detail.Unpack(info) and info.domain == DOMAIN:
            return _rebuild(info, status.message)
    return None


def _rebuild(info: error_details_pb2.ErrorInfo, message: str) -> KvnodeError:
    cls = _CLASSES.get(info.reason, KvnodeError)
    if cls is InvalidRequest:
        field = info.metadata.get("field", "request")
        return InvalidRequest(field, message.removeprefix(f"{field}: "))
    return cls(message, **dict(info.metadata))
