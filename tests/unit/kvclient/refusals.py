"""Errors as a node reports them, for the fake cluster."""

from __future__ import annotations

from dataclasses import dataclass, field

import grpc
from google.protobuf import duration_pb2
from google.rpc import error_details_pb2, status_pb2


@dataclass
class Refusal(Exception):
    """An error as a node reports it: status code, reason, metadata, retry delay."""

    code: grpc.StatusCode
    reason: str
    metadata: dict[str, str] = field(default_factory=dict)
    retry_after_ms: int | None = None
    message: str = "as the test wanted"

    def trailing(self) -> tuple[tuple[str, bytes], ...]:
        """The rich status in trailing metadata."""
        status = status_pb2.Status(code=self.code.value[0], message=self.message)
        status.details.add().Pack(error_details_pb2.ErrorInfo(reason=self.reason, domain="kvnode", metadata=self.metadata))
        if self.retry_after_ms is not None:
            seconds, ms = divmod(self.retry_after_ms, 1_000)
            delay = duration_pb2.Duration(seconds=seconds, nanos=ms * 1_000_000)
            status.details.add().Pack(error_details_pb2.RetryInfo(retry_delay=delay))
        return (("grpc-status-details-bin", status.SerializeToString()),)


NO_LEADER = Refusal(grpc.StatusCode.UNAVAILABLE, "NO_LEADER", retry_after_ms=1)
OVERLOADED = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", retry_after_ms=1)
OUTCOME_UNKNOWN = Refusal(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN")
CONFLICT = Refusal(grpc.StatusCode.ABORTED, "CONFLICT", retry_after_ms=1)
NO_SPACE = Refusal(grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE")
