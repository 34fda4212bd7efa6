"""What servers make of frames that RFC 9113 forbids: an error with a code, never a hang, and others are served on.

grpcio closes such connections without a GOAWAY, and lets much pass.
"""

from __future__ import annotations

import asyncio

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, frame, headers, literal, message, request, request_fields, settings, window_update
from tests.wire.observing import Case, departures
from tests.wire.pairs import Context, Wire, path, service, unary_unary
from tests.wire.serving import served

ECHO = path("Echo")
BLOCK = h2.block(request_fields(ECHO))
CALL = request(1, ECHO) + data(1, message(b"hi"), end=True)
OPEN = request(1, ECHO)
WAITING = request(1, path("Wait")) + data(1, message(b"hi"), end=True)
END = data(1, message(b"hi"), end=True)
MOST = 0x7FFFFFFF

PROTOCOL, FLOW, CLOSED_STREAM, SIZE, COMPRESSION = "GOAWAY 1", "GOAWAY 3", "GOAWAY 5", "GOAWAY 6", "GOAWAY 9"
LATE = {"RST 5", "RST 1", CLOSED_STREAM, PROTOCOL}

STREAMS = {
    "DATA on an idle stream": Case(data(1, b"x"), "IGNORED", PROTOCOL),
    "DATA on stream 0": Case(data(0, b"x"), "IGNORED", PROTOCOL),
    "HEADERS on stream 0": Case(headers(0, BLOCK), "IGNORED", PROTOCOL),
    "even stream": Case(request(2, ECHO, end=True), "IGNORED", PROTOCOL, stream=2),
    "stream lower than the last": Case(
        request(5, path("Wait")) + request(3, ECHO, end=True), "IGNORED", {PROTOCOL, CLOSED_STREAM}, stream=3
    ),
    "RST_STREAM on an idle stream": Case(h2.rst(1) + CALL, "OK", PROTOCOL),
    "RST_STREAM on stream 0": Case(h2.rst(0) + CALL, "OK", PROTOCOL),
    "WINDOW_UPDATE on an idle stream": Case(window_update(7, 5) + CALL, "OK", PROTOCOL),
    "DATA after END_STREAM": Case(WAITING + data(1, b"x"), "IGNORED", LATE),
    "HEADERS after END_STREAM": Case(WAITING + request(1, ECHO, end=True), "IGNORED", LATE),
    "PUSH_PROMISE of a client": Case(OPEN + frame(h2.PUSH_PROMISE, h2.END_HEADERS, 1, b"\0\0\0\2"), "IGNORED", PROTOCOL),
    "PRIORITY on stream 0": Case(frame(h2.PRIORITY, 0, 0, bytes(5)) + CALL, "OK", PROTOCOL),
}

SIZES = {
    "PING of three octets": Case(frame(h2.PING, 0, 0, b"123") + CALL, "CLOSED", SIZE),
    "PING on a stream": Case(frame(h2.PING, 0, 1, b"12345678") + CALL, "OK", PROTOCOL),
    "GOAWAY of three octets": Case(frame(h2.GOAWAY, 0, 0, b"123") + CALL, "CLOSED", SIZE),
    "GOAWAY on a stream": Case(frame(h2.GOAWAY, 0, 1, bytes(8)) + CALL, "OK", PROTOCOL),
    "RST_STREAM of two octets": Case(OPEN + frame(h2.RST_STREAM, 0, 1, b"12") + END, "CLOSED", SIZE),
    "PRIORITY of three octets": Case(frame(h2.PRIORITY, 0, 1, b"123") + CALL, "OK", {SIZE, "RST 6"}),
    "WINDOW_UPDATE of three octets": Case(frame(h2.WINDOW_UPDATE, 0, 0, b"abc") + CALL, "CLOSED", SIZE),
    "frame longer than announced": Case(frame(0x77, 0, 0, bytes(1 << 15)) + CALL, "CLOSED", SIZE),
    "head of a frame of sixteen million octets": Case(OPEN + b"\xff\xff\xff\0\0\0\0\0\1", "CLOSED", SIZE),
}

SETTINGS = {
    "five octets": Case(frame(h2.SETTINGS, 0, 0, b"abcde") + CALL, "CLOSED", SIZE),
    "acknowledgement with a payload": Case(frame(h2.SETTINGS, h2.ACK, 0, b"abcdef") + CALL, "CLOSED", SIZE),
    "acknowledgement of nothing": Case(h2.settings_ack() * 3 + CALL, "CLOSED", {"OK", PROTOCOL}),
    "on a stream": Case(frame(h2.SETTINGS, 0, 1) + CALL, "CLOSED", PROTOCOL),
    "window of more than 2^31-1": Case(settings({h2.INITIAL_WINDOW_SIZE: 1 << 31}) + CALL, {"CLOSED", FLOW}, FLOW),
    "frame size of less than 2^14": Case(settings({h2.MAX_FRAME_SIZE: 100}) + CALL, {"CLOSED", PROTOCOL}, PROTOCOL),
    "push of two": Case(settings({h2.ENABLE_PUSH: 2}) + CALL, {"CLOSED", PROTOCOL}, PROTOCOL),
}

WINDOWS = {
    "increment of 0 on the connection": Case(window_update(0, 0) + CALL, "CLOSED", PROTOCOL),
    "increment of 0 on a stream": Case(OPEN + window_update(1, 0) + END, "CLOSED", {"RST 1", PROTOCOL}),
    "overflow of the connection": Case(window_update(0, MOST) * 2 + CALL, "OK", FLOW),
    "overflow of a stream": Case(OPEN + window_update(1, MOST) * 2 + END, "OK", {"RST 3", FLOW}),
}

PADDING = {
    "padding of a HEADERS frame": Case(
        headers(1, b"\5" + BLOCK + bytes(5), flags=h2.END_HEADERS | h2.PADDED) + END, "CLOSED", "OK"
    ),
    "padding of a DATA frame": Case(OPEN + data(1, message(b"hi"), padding=9, end=True), "RST 1", "OK"),
    "padding of a DATA frame and nothing else": Case(OPEN + data(1, padding=9) + END, "RST 1", "OK"),
    "padding longer than a HEADERS frame": Case(
        headers(1, b"\xff" + BLOCK, flags=h2.END_HEADERS | h2.PADDED), "CLOSED", PROTOCOL
    ),
    "padding longer than a DATA frame": Case(OPEN + frame(h2.DATA, h2.PADDED, 1, b"\x20abc"), "RST 1", PROTOCOL),
}

CONTINUATIONS = {
    "CONTINUATION of nothing": Case(frame(h2.CONTINUATION, h2.END_HEADERS, 1, BLOCK), "CLOSED", PROTOCOL),
    "DATA within a header block": Case(headers(1, BLOCK, flags=0) + data(1, b"x"), "CLOSED", PROTOCOL),
    "PING within a header block": Case(headers(1, BLOCK, flags=0) + h2.ping(), "CLOSED", PROTOCOL),
    "unknown frame within a header block": Case(headers(1, BLOCK, flags=0) + frame(0x77, 0, 1), "CLOSED", PROTOCOL),
    "CONTINUATION of another stream": Case(
        headers(1, BLOCK, flags=0) + frame(h2.CONTINUATION, h2.END_HEADERS, 3), "CLOSED", PROTOCOL
    ),
}

REMEMBERED = b"".join(literal(name, value, remember=True) for name, value in request_fields(ECHO))

COMPRESSED = {
    "Huffman codes": Case(headers(1, h2.block(request_fields(ECHO), huffman=True)) + END, "OK"),
    "fields by their index in the dynamic table": Case(
        headers(1, REMEMBERED) + END + headers(3, b"".join(map(h2.indexed, range(67, 61, -1)))) + data(3, message(), end=True),
        "OK",
        stream=3,
    ),
    "table emptied": Case(headers(1, h2.table_size(0) + BLOCK) + END, "OK"),
    "table emptied and grown": Case(
        headers(1, h2.table_size(0) + h2.table_size(4096) + BLOCK) + END, "OK", {"OK", COMPRESSION}
    ),
    "table larger than announced": Case(headers(1, h2.table_size(1 << 20) + BLOCK) + END, "CLOSED", COMPRESSION),
    "table's size after a field": Case(headers(1, BLOCK + h2.table_size(0)) + END, "OK", COMPRESSION),
    "index of nothing": Case(headers(1, b"\xff\xff\x7f"), "CLOSED", COMPRESSION),
    "index of zero": Case(headers(1, b"\x80"), "CLOSED", COMPRESSION),
    "index without an end": Case(headers(1, b"\xff" * 11 + b"\x7f"), "CLOSED", COMPRESSION),
    "block that stops within a field": Case(headers(1, BLOCK[:-3]), "CLOSED", COMPRESSION),
    "Huffman code of no symbol": Case(headers(1, BLOCK + b"\0\1x\x84\xff\xff\xff\xff") + END, "OK", COMPRESSION),
}

PREFACES = {
    "no SETTINGS after the preface": Case(CALL, "CLOSED", PROTOCOL, preface=h2.PREFACE),
    "garbage": Case(b"", "CLOSED", {PROTOCOL, "CLOSED"}, preface=b"GARBAGE\r\n\r\n" * 9),
    "preface with a flaw at its end": Case(b"", "CLOSED", {PROTOCOL, "CLOSED"}, preface=h2.PREFACE[:-1] + b"!" + settings()),
}


async def echo(request: bytes, context: Context) -> bytes:
    """Echoes a message."""
    return request


async def wait(request: bytes, context: Context) -> bytes:
    """Answers when the test is over."""
    await asyncio.Event().wait()
    return b""


METHODS = service(Echo=unary_unary(echo), Wait=unary_unary(wait))


async def judged(wire: Wire, cases: dict[str, Case]) -> dict[str, str]:
    """Departures from a table; the server serves a well-behaved client before and after."""
    async with served(wire, METHODS) as address, raw.connect(address) as bystander:
        assert (await bystander.call(1, ECHO, b"before")).messages == [b"before"]
        found = await departures(wire, address, cases)
        assert (await bystander.call(3, ECHO, b"after")).messages == [b"after"]
    return found


async def test_frame_on_a_wrong_stream_is_a_connection_error(server_wire: Wire) -> None:
    """RFC 9113, 5.1: what may arrive in which state."""
    assert await judged(server_wire, STREAMS) == {}


async def test_frame_of_a_wrong_size_is_a_connection_error(server_wire: Wire) -> None:
    """RFC 9113, 4.2 and 6: sizes that are fixed, and the largest that was announced."""
    assert await judged(server_wire, SIZES) == {}


async def test_settings_out_of_bounds_are_a_connection_error(server_wire: Wire) -> None:
    """RFC 9113, 6.5.2."""
    assert await judged(server_wire, SETTINGS) == {}


async def test_window_update_of_zero_or_too_much_is_an_error(server_wire: Wire) -> None:
    """RFC 9113, 6.9.1: the stream's error on a stream, the connection's on the connection."""
    assert await judged(server_wire, WINDOWS) == {}


async def test_padding_of_any_length_is_taken_off_or_refused(server_wire: Wire) -> None:
    """RFC 9113, 6.1 and 6.2; grpcio knows no padding."""
    assert await judged(server_wire, PADDING) == {}


async def test_header_block_interrupted_by_a_frame_is_an_error(server_wire: Wire) -> None:
    """RFC 9113, 4.3 and 6.10."""
    assert await judged(server_wire, CONTINUATIONS) == {}


async def test_header_block_compressed_in_any_way_is_read_or_refused(server_wire: Wire) -> None:
    """RFC 7541: all of it is read, also before the client has seen SETTINGS; damage ends the connection."""
    assert await judged(server_wire, COMPRESSED) == {}


async def test_preface_that_is_not_http2_is_hung_up_on(server_wire: Wire) -> None:
    """Whoever speaks something else is told so by the end of the connection, at once."""
    assert await judged(server_wire, PREFACES) == {}


async def test_http1_request_is_hung_up_on_at_once(server_wire: Wire) -> None:
    """A browser, a health checker of the old kind: none waits for a time-out."""
    async with served(server_wire, METHODS) as address:
        reader, writer = await asyncio.open_connection(*address.split(":"))
        try:
            writer.write(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            async with asyncio.timeout(raw.PATIENCE_S):
                try:
                    while await reader.read(1000):
                        pass
                except ConnectionResetError:
                    pass
        finally:
            writer.close()
