"""HTTP/2 frames as bytes (RFC 9113 §4 and §6), and the codes of errors (§7). Knows nothing of streams or of gRPC."""

from __future__ import annotations

import struct
from collections.abc import Iterable

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
HEADER_SIZE = 9
STREAM_ID_MAX = 2**31 - 1
WINDOW_MAX = 2**31 - 1
WINDOW_DEFAULT = 65_535
"""Of a connection, and of each stream until SETTINGS say otherwise."""

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)

END_STREAM = ACK = 0x1
END_HEADERS = 0x4
PADDED = 0x8
PRIORITY_FLAG = 0x20

NO_ERROR = 0x0
PROTOCOL_ERROR = 0x1
INTERNAL_ERROR = 0x2
FLOW_CONTROL_ERROR = 0x3
SETTINGS_TIMEOUT = 0x4
STREAM_CLOSED = 0x5
FRAME_SIZE_ERROR = 0x6
REFUSED_STREAM = 0x7
CANCEL = 0x8
COMPRESSION_ERROR = 0x9
CONNECT_ERROR = 0xA
ENHANCE_YOUR_CALM = 0xB
INADEQUATE_SECURITY = 0xC
HTTP_1_1_REQUIRED = 0xD

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)

_head = struct.Struct(">IBI")
_goaway = struct.Struct(">II")
_setting = struct.Struct(">HI")
_word = struct.Struct(">I")
read_head = _head.unpack_from
"""(length << 8 | type, flags, stream id with its reserved bit) of the frame at an offset."""


class ProtocolError(Exception):
    """The peer broke the protocol in a way that ends the connection (RFC 9113 §5.4.1); `limit`: of `limits.COUNTED`, where it
    passed one."""

    def __init__(self, code: int, message: str, limit: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.limit = code, message, limit


def head(kind: int, flags: int, stream: int, size: int) -> bytes:
    """The nine bytes before a payload of `size`."""
    return _head.pack(size << 8 | kind, flags, stream)


def frame(kind: int, flags: int, stream: int, payload: bytes = b"") -> bytes:
    """A whole frame."""
    return _head.pack(len(payload) << 8 | kind, flags, stream) + payload


def headers(stream: int, block: bytes, flags: int, size_max: int) -> bytes:
    """A header block: HEADERS, and CONTINUATION for what a frame of `size_max` does not hold. `flags`: END_STREAM or 0."""
    if len(block) <= size_max:
        return _head.pack(len(block) << 8 | HEADERS, flags | END_HEADERS, stream) + block
    parts = [block[start : start + size_max] for start in range(0, len(block), size_max)]
    kinds = [HEADERS] + [CONTINUATION] * (len(parts) - 1)
    marks = [flags] + [0] * (len(parts) - 2) + [END_HEADERS]
    return b"".join(frame(kind, mark, stream, part) for kind, mark, part in zip(kinds, marks, parts, strict=True))


def settings(pairs: Iterable[tuple[int, int]]) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(_setting.pack(key, value) for key, value in pairs))


def read_settings(payload: bytes) -> Iterable[tuple[int, int]]:
    """The pairs of a SETTINGS frame's payload, whose size is a multiple of six."""
    return _setting.iter_unpack(payload)


def window_update(stream: int, increment: int) -> bytes:
    """Lets the peer send so many bytes more, on a stream or (0) on the connection."""
    return _head.pack(4 << 8 | WINDOW_UPDATE, 0, stream) + _word.pack(increment)


def rst_stream(stream: int, code: int) -> bytes:
    """Ends a stream at once."""
    return _head.pack(4 << 8 | RST_STREAM, 0, stream) + _word.pack(code)


def goaway(last_stream: int, code: int, debug: bytes = b"") -> bytes:
    """Says that streams above `last_stream` were and will not be looked at."""
    return frame(GOAWAY, 0, 0, _goaway.pack(last_stream, code) + debug)


def read_word(payload: bytes) -> int:
    """The 32 bits of a WINDOW_UPDATE or an RST_STREAM."""
    word: int = _word.unpack(payload)[0]
    return word


def check_goaway(stream_id: int, payload: bytes) -> None:
    """Raises `ProtocolError` for a GOAWAY of a wrong form."""
    if stream_id:
        raise ProtocolError(PROTOCOL_ERROR, "GOAWAY of a stream")
    if len(payload) < 8:
        raise ProtocolError(FRAME_SIZE_ERROR, "GOAWAY of a wrong size")


def without_padding(payload: bytes) -> bytes:
    """The payload of a padded frame. Raises `ProtocolError`."""
    if not payload or payload[0] >= len(payload):
        raise ProtocolError(PROTOCOL_ERROR, "padding that is longer than its frame")
    return payload[1 : len(payload) - payload[0]]
