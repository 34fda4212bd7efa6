"""HTTP/2 as bytes: frames and header fields, built one by one so that a test can also build wrong ones.

Owns the encoder; nothing here checks what it is asked for. Strings are latin-1, as header fields are.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Sequence
from typing import NamedTuple

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"

DATA, HEADERS, PRIORITY, RST_STREAM, SETTINGS, PUSH_PROMISE, PING, GOAWAY, WINDOW_UPDATE, CONTINUATION = range(10)
NAMES = [
    "DATA",
    "HEADERS",
    "PRIORITY",
    "RST_STREAM",
    "SETTINGS",
    "PUSH_PROMISE",
    "PING",
    "GOAWAY",
    "WINDOW_UPDATE",
    "CONTINUATION",
]

END_STREAM, ACK, END_HEADERS, PADDED, PRIORITISED = 0x1, 0x1, 0x4, 0x8, 0x20

HEADER_TABLE_SIZE, ENABLE_PUSH, MAX_CONCURRENT_STREAMS, INITIAL_WINDOW_SIZE, MAX_FRAME_SIZE, MAX_HEADER_LIST_SIZE = range(1, 7)

(
    NO_ERROR,
    PROTOCOL_ERROR,
    INTERNAL_ERROR,
    FLOW_CONTROL_ERROR,
    SETTINGS_TIMEOUT,
    STREAM_CLOSED,
    FRAME_SIZE_ERROR,
    REFUSED_STREAM,
    CANCEL,
    COMPRESSION_ERROR,
    CONNECT_ERROR,
    ENHANCE_YOUR_CALM,
    INADEQUATE_SECURITY,
    HTTP_1_1_REQUIRED,
) = range(14)

WINDOW = 65_535
FRAME_SIZE = 16_384
"""The payload of a frame that everybody must accept."""

Fields = Sequence[tuple[str, str]]


class Frame(NamedTuple):
    """One frame as it was read; `fields` is the whole header block where the frame ended one."""

    type: int
    flags: int
    stream: int
    payload: bytes
    fields: Fields | None = None

    @property
    def ends_stream(self) -> bool:
        """Whether nothing follows on this stream."""
        return self.type in (DATA, HEADERS) and bool(self.flags & END_STREAM)

    @property
    def number(self) -> int:
        """The error code of RST_STREAM and GOAWAY, the increment of WINDOW_UPDATE."""
        return int.from_bytes(self.payload[4:8] if self.type == GOAWAY else self.payload[:4], "big")

    @property
    def last_stream(self) -> int:
        """The last stream a GOAWAY speaks of."""
        return int.from_bytes(self.payload[:4], "big") & 0x7FFFFFFF

    def __str__(self) -> str:
        name = NAMES[self.type] if self.type < len(NAMES) else f"type {self.type}"
        return f"{name}(stream {self.stream}, flags {self.flags:#x}, {self.fields or self.payload[:60]!r})"


def frame(kind: int, flags: int = 0, stream: int = 0, payload: bytes = b"") -> bytes:
    """One frame of any kind."""
    return struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload


def data(stream: int, payload: bytes = b"", *, end: bool = False, padding: int | None = None) -> bytes:
    """A DATA frame."""
    if padding is not None:
        payload = bytes([padding]) + payload + bytes(padding)
    return frame(DATA, (END_STREAM if end else 0) | (PADDED if padding is not None else 0), stream, payload)


def headers(stream: int, block: bytes, *, end: bool = False, flags: int = END_HEADERS) -> bytes:
    """A HEADERS frame around an encoded block; what is too long for it goes into CONTINUATION frames."""
    if len(block) > FRAME_SIZE and flags == END_HEADERS:
        return b"".join(cut(block, stream, FRAME_SIZE, end=end))
    return frame(HEADERS, flags | (END_STREAM if end else 0), stream, block)


def rst(stream: int, code: int = CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(RST_STREAM, 0, stream, struct.pack(">I", code))


def settings(values: dict[int, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return frame(SETTINGS, 0, 0, b"".join(struct.pack(">HI", *item) for item in (values or {}).items()))


def settings_ack() -> bytes:
    """The answer to the peer's SETTINGS."""
    return frame(SETTINGS, ACK)


def ping(payload: bytes = b"12345678", *, ack: bool = False) -> bytes:
    """A PING frame."""
    return frame(PING, ACK if ack else 0, 0, payload)


def goaway(last_stream: int, code: int = NO_ERROR, text: bytes = b"") -> bytes:
    """A GOAWAY frame."""
    return frame(GOAWAY, 0, 0, struct.pack(">II", last_stream, code) + text)


def window_update(stream: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(WINDOW_UPDATE, 0, stream, struct.pack(">I", increment))


def integer(value: int, prefix: int, pattern: int = 0) -> bytes:
    """An integer of HPACK in `prefix` bits, below the bits of `pattern`."""
    most = (1 << prefix) - 1
    if value < most:
        return bytes([pattern | value])
    out, value = bytearray([pattern | most]), value - most
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def string(text: str, *, huffman: bool = False) -> bytes:
    """A string of HPACK."""
    raw = text.encode("latin-1")
    if not huffman:
        return integer(len(raw), 7) + raw
    # The code's table is the one thing of HPACK that is not worth a second copy.
    from hpack.huffman import HuffmanEncoder
    from hpack.huffman_constants import REQUEST_CODES, REQUEST_CODES_LENGTH

    raw = HuffmanEncoder(REQUEST_CODES, REQUEST_CODES_LENGTH).encode(raw)
    return integer(len(raw), 7, 0x80) + raw


def literal(name: str, value: str, *, remember: bool = False, huffman: bool = False) -> bytes:
    """A header field in full; `remember` puts it into the peer's dynamic table."""
    return bytes([0x40 if remember else 0]) + string(name, huffman=huffman) + string(value, huffman=huffman)


def indexed(index: int) -> bytes:
    """A header field by its place in the tables: 1 to 61 are static, 62 is the newest remembered one."""
    return integer(index, 7, 0x80)


def table_size(size: int) -> bytes:
    """An update of the dynamic table's size, at the head of a block."""
    return integer(size, 5, 0x20)


def block(fields: Iterable[tuple[str, str]], *, huffman: bool = False) -> bytes:
    """A header block of literal fields, which leaves the peer's table alone."""
    return b"".join(literal(name, value, huffman=huffman) for name, value in fields)


def cut(block_bytes: bytes, stream: int, size: int, *, end: bool = False) -> list[bytes]:
    """A header block as HEADERS and CONTINUATION frames of at most `size` octets each."""
    parts = [block_bytes[at : at + size] for at in range(0, len(block_bytes), size)] or [b""]
    frames = [headers(stream, parts[0], end=end, flags=0 if len(parts) > 1 else END_HEADERS)]
    for place, part in enumerate(parts[1:], 2):
        frames.append(frame(CONTINUATION, END_HEADERS if place == len(parts) else 0, stream, part))
    return frames


def request_fields(path: str, extra: Fields = (), /, **changes: str | None) -> list[tuple[str, str]]:
    """The header fields of a gRPC request.

    A change is named as the field is, `_` for `-`, pseudo-header fields without their colon; None leaves the field out.
    """
    fields = {
        ":method": "POST",
        ":scheme": "http",
        ":path": path,
        ":authority": "localhost",
        "te": "trailers",
        "content-type": "application/grpc",
    }
    for key, value in changes.items():
        name = f":{key}" if f":{key}" in fields else key.replace("_", "-")
        if value is None:
            fields.pop(name)
        else:
            fields[name] = value
    return [*fields.items(), *extra]


def request(stream: int, path: str, extra: Fields = (), /, *, end: bool = False, **changes: str | None) -> bytes:
    """The HEADERS frame of a gRPC request."""
    return headers(stream, block(request_fields(path, extra, **changes)), end=end)


def response(stream: int, extra: Fields = (), *, status: str = "200", content_type: str | None = "application/grpc") -> bytes:
    """The first HEADERS frame of a gRPC response."""
    kind = [("content-type", content_type)] if content_type is not None else []
    return headers(stream, block([(":status", status), *kind, *extra]))


def trailers(stream: int, status: int | str = 0, message: str | None = None, extra: Fields = ()) -> bytes:
    """The last HEADERS frame of a gRPC response."""
    text = [("grpc-message", message)] if message is not None else []
    return headers(stream, block([("grpc-status", str(status)), *text, *extra]), end=True)


def trailers_only(stream: int, status: int | str, message: str | None = None, extra: Fields = ()) -> bytes:
    """A gRPC response in one HEADERS frame."""
    text = [("grpc-message", message)] if message is not None else []
    first = [(":status", "200"), ("content-type", "application/grpc"), ("grpc-status", str(status))]
    return headers(stream, block([*first, *text, *extra]), end=True)


def message(body: bytes = b"", *, flag: int = 0, length: int | None = None) -> bytes:
    """A gRPC message with its prefix of five octets."""
    return struct.pack(">BI", flag, len(body) if length is None else length) + body
