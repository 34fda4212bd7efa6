"""How requests end, in the words of traces and metrics."""

from __future__ import annotations

import asyncio

import grpc

from kvnode.errors import KvnodeError

_STATUS = {code.value[0]: code.name for code in grpc.StatusCode}


def outcome_of(error: BaseException | None) -> tuple[str, str]:
    """How a request ended: "OK" or a reason, and the name of its gRPC status."""
    if error is None:
        return "OK", "OK"
    if isinstance(error, KvnodeError):
        return error.reason, _STATUS[error.code]
    if isinstance(error, asyncio.CancelledError):
        return "CANCELLED", "CANCELLED"
    return "INTERNAL", "UNKNOWN"


def status_name(code: int) -> str:
    """The name of a gRPC status code."""
    return _STATUS.get(code, "UNKNOWN")
