"""What a request gets that no handler is asked about: it is no gRPC, or asks for what this server does not do."""

from __future__ import annotations

from typing import NamedTuple

from kvwire import compression
from kvwire.codes import DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNIMPLEMENTED
from kvwire.header_block import encode
from kvwire.heads import RequestHead


class Refusal(NamedTuple):
    """A status with its words and fields beside them, or only an HTTP status."""

    code: int
    details: str
    fields: bytes = b""
    http_status: bytes = b""


METHOD_NOT_ALLOWED = Refusal(0, "", http_status=b"405")
UNSUPPORTED_MEDIA_TYPE = Refusal(0, "", http_status=b"415")
LIMIT_EXCEEDED = Refusal(RESOURCE_EXHAUSTED, "Concurrent RPC limit exceeded!")
BAD_TIMEOUT = Refusal(INTERNAL, "Error parsing 'grpc-timeout' metadata: no time-out as '10S'")
TOO_LATE = Refusal(DEADLINE_EXCEEDED, "Deadline Exceeded")


def refusal(head: RequestHead) -> Refusal | None:
    """Why a request is not served; the same for all requests with such a head."""
    if head.method != b"POST":
        return METHOD_NOT_ALLOWED
    if not head.content_type.startswith(b"application/grpc"):
        return UNSUPPORTED_MEDIA_TYPE
    if head.timeout_is_bad:
        return BAD_TIMEOUT
    if head.timeout == 0:
        return TOO_LATE
    if not compression.is_known(head.encoding):
        details = f"Compression algorithm {head.encoding.decode('latin-1')!r} is not supported"
        return Refusal(UNIMPLEMENTED, details, encode(b"grpc-accept-encoding", compression.ACCEPTED))
    return None
