"""A server's header blocks, and the one buffer that most answers are."""

from __future__ import annotations

import struct
from typing import Any

from kvwire import limits
from kvwire.codes import RESOURCE_EXHAUSTED
from kvwire.frames import DATA, END_HEADERS, END_STREAM, HEADERS
from kvwire.header_block import encode
from kvwire.metadata import encode_message, encode_metadata
from kvwire.stream import PREFIX_SIZE, MessageRefused

RESPONSE = encode(b":status", b"200") + encode(b"content-type", b"application/grpc")
"""The headers of a response without initial metadata."""
OK_TRAILERS = encode(b"grpc-status", b"0")

_before = struct.Struct(f">IBI{len(RESPONSE)}sIBIBI").pack
_behind = struct.Struct(f">IBI{len(OK_TRAILERS)}s").pack
_RESPONSE_WORD, _TRAILERS_WORD = len(RESPONSE) << 8 | HEADERS, len(OK_TRAILERS) << 8 | HEADERS
_LAST = END_HEADERS | END_STREAM


def whole_answer(stream_id: int, data: bytes) -> bytes:
    """Headers, one message and OK trailers: three frames."""
    size = len(data)
    return (
        _before(_RESPONSE_WORD, END_HEADERS, stream_id, RESPONSE, size + PREFIX_SIZE << 8 | DATA, 0, stream_id, 0, size)
        + data
        + _behind(_TRAILERS_WORD, _LAST, stream_id, OK_TRAILERS)
    )


def trailers(code: int, details: str, metadata: Any) -> bytes:
    """The header block that ends a call. Raises ValueError or TypeError for metadata that cannot be sent."""
    block = encode(b"grpc-status", b"%d" % code) if code else OK_TRAILERS
    if details:
        block += encode(b"grpc-message", encode_message(details[: limits.DETAILS_SIZE_BYTES_MAX]))
    return block + encode_metadata(metadata) if metadata else block


class Refused(Exception):
    """The call ends with a status that is not the handler's."""

    def __init__(self, code: int, details: str) -> None:
        super().__init__(details)
        self.code, self.details = code, details


def of_server(refused: MessageRefused) -> str:
    """What its caller reads about a message that the server did not take in."""
    return f"SERVER: {refused.details}" if refused.code == RESOURCE_EXHAUSTED else refused.details
