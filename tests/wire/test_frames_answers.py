"""What clients make of a server's answers: statuses of HTTP and of gRPC, resets, broken frames; each ends in one code."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from typing import NamedTuple

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, frame, headers, message, response, rst, trailers, trailers_only, window_update
from tests.wire.pairs import Wire, path, soon

BROKEN = frozenset({"UNKNOWN", "INTERNAL", "UNAVAILABLE"})
"""A connection on which the server broke the protocol: grpcio says UNKNOWN for most."""


class Answer(NamedTuple):
    """Frames of a server by the call's stream, and the code they end in; `others` where grpcio departs from the standards."""

    sent: Callable[[int], bytes]
    grpcio: str
    others: str | Collection[str] | None = None

    def expected(self, wire: Wire) -> frozenset[str]:
        """The codes that are right for an implementation."""
        if wire.name == "grpcio" or self.others is None:
            return frozenset({self.grpcio})
        return frozenset({self.others}) if isinstance(self.others, str) else frozenset(self.others)


def only_status(status: int, *more: tuple[str, str]) -> Callable[[int], bytes]:
    """An answer of an HTTP status, such as a proxy gives."""
    return lambda stream: headers(stream, h2.block([(":status", str(status)), *more]), end=True)


def page(status: int) -> Callable[[int], bytes]:
    """An answer of an HTTP status with a body that is no message."""
    return lambda stream: headers(stream, h2.block([(":status", str(status))])) + data(stream, b"<html>", end=True)


def status(value: str) -> Callable[[int], bytes]:
    """A message, and trailers with a grpc-status."""
    return lambda stream: response(stream) + data(stream, message(b"a")) + trailers(stream, value)


def answer(*fields: tuple[str, str], body: bytes = message(b"a")) -> Callable[[int], bytes]:
    """A response that is well but for its header fields or its body."""
    return lambda stream: response(stream, fields) + data(stream, body) + trailers(stream)


HTTP_CODES = {
    400: "INTERNAL",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "UNIMPLEMENTED",
    429: "UNAVAILABLE",
    502: "UNAVAILABLE",
    503: "UNAVAILABLE",
    504: "UNAVAILABLE",
}
OTHER_HTTP = (204, 301, 302, 402, 405, 408, 409, 413, 415, 418, 431, 500, 501, 505, 599)
HTTP = {f"{code}": Answer(only_status(code), name) for code, name in HTTP_CODES.items()}
HTTP |= {f"{code}": Answer(only_status(code), "UNKNOWN") for code in OTHER_HTTP}
HTTP |= {
    "503 with a page": Answer(page(503), "UNAVAILABLE"),
    "404 with a page": Answer(page(404), "UNIMPLEMENTED"),
    "503 with a grpc-status": Answer(only_status(503, ("grpc-status", "5")), "NOT_FOUND"),
    "503, trailers later": Answer(lambda stream: response(stream, status="503") + trailers(stream, 9), "UNAVAILABLE"),
    "503 with a message and success": Answer(
        lambda stream: response(stream, status="503") + data(stream, message(b"a")) + trailers(stream), "UNAVAILABLE"
    ),
    "no number": Answer(lambda stream: headers(stream, h2.block([(":status", "abc")]), end=True), "INTERNAL", BROKEN),
    "200 and nothing else": Answer(only_status(200, ("content-type", "text/html")), "UNKNOWN"),
    # RFC 9113, 8.1: interim responses are skipped. grpcio takes them for the final one.
    "interim responses first": Answer(
        lambda stream: headers(stream, h2.block([(":status", "103"), ("link", "x")])) + answer()(stream), "UNKNOWN", "OK"
    ),
}

RESETS = dict.fromkeys([*range(14), 14, 255], "INTERNAL")
RESETS |= {
    h2.REFUSED_STREAM: "UNAVAILABLE",
    h2.CANCEL: "CANCELLED",
    h2.ENHANCE_YOUR_CALM: "RESOURCE_EXHAUSTED",
    h2.INADEQUATE_SECURITY: "PERMISSION_DENIED",
}
RESET = {
    f"{code} at once": Answer(lambda stream, code=code: rst(stream, code), name)
    for code, name in RESETS.items()
    if code != h2.REFUSED_STREAM
}
RESET |= {
    f"{code} after a message": Answer(lambda s, code=code: response(s) + data(s, message(b"a")) + rst(s, code), RESETS[code])
    for code in (h2.NO_ERROR, h2.INTERNAL_ERROR, h2.REFUSED_STREAM, h2.CANCEL, h2.ENHANCE_YOUR_CALM)
}
RESET |= {
    f"{code} after the trailers": Answer(lambda stream, code=code: answer()(stream) + rst(stream, code), "OK")
    for code in (h2.NO_ERROR, h2.INTERNAL_ERROR, h2.REFUSED_STREAM, h2.CANCEL)
}

STATUS = {
    "trailers only": Answer(lambda stream: trailers_only(stream, 5, "no"), "NOT_FOUND"),
    "leading zeros": Answer(status("007"), "PERMISSION_DENIED", {"PERMISSION_DENIED", "UNKNOWN", "INTERNAL"}),
    "17": Answer(status("17"), "UNKNOWN"),
    "99": Answer(status("99"), "UNKNOWN"),
    "a word": Answer(status("abc"), "INTERNAL", {"INTERNAL", "UNKNOWN"}),
    "nothing": Answer(status(""), "INTERNAL", {"INTERNAL", "UNKNOWN"}),
    "negative": Answer(status("-1"), "INTERNAL", {"INTERNAL", "UNKNOWN"}),
    "fraction": Answer(status("1.5"), "INTERNAL", {"INTERNAL", "UNKNOWN"}),
    "too large": Answer(status("4294967296"), "INTERNAL", {"INTERNAL", "UNKNOWN"}),
    "missing in the trailers": Answer(
        lambda stream: response(stream) + data(stream, message(b"a")) + headers(stream, h2.block([("x", "y")]), end=True),
        "UNKNOWN",
    ),
    "missing, END_STREAM on DATA": Answer(lambda stream: response(stream) + data(stream, message(b"a"), end=True), "UNKNOWN"),
    "missing, END_STREAM on HEADERS": Answer(only_status(200, ("content-type", "application/grpc")), "UNKNOWN"),
    "trailers that do not end": Answer(
        lambda stream: response(stream) + headers(stream, h2.block([("grpc-status", "0")])), "UNKNOWN", BROKEN
    ),
    # The specification calls these violations UNIMPLEMENTED (client side); grpcio's callers get None.
    "success without a message": Answer(
        lambda stream: response(stream) + trailers(stream), "OK", {"INTERNAL", "UNIMPLEMENTED"}
    ),
    "success, trailers only": Answer(lambda stream: trailers_only(stream, 0), "OK", {"INTERNAL", "UNIMPLEMENTED"}),
    "success with half a message": Answer(answer(body=message(b"a", length=5)), "OK", "INTERNAL"),
    "failure with half a message": Answer(
        lambda stream: response(stream) + data(stream, message(b"a", length=5)) + trailers(stream, 5), "NOT_FOUND"
    ),
}

FIELDS = {
    "content-type of text": Answer(
        lambda stream: response(stream, content_type="text/html") + data(stream, message(b"a")) + trailers(stream),
        "OK",
        {"OK", "UNKNOWN"},
    ),
    "no content-type": Answer(
        lambda stream: response(stream, content_type=None) + data(stream, message(b"a")) + trailers(stream),
        "OK",
        {"OK", "UNKNOWN"},
    ),
    "field name in upper case": Answer(answer(("X-Up", "1")), "INTERNAL", BROKEN),
    "connection": Answer(answer(("connection", "close")), "OK", {"OK", *BROKEN}),
    "field value with a line feed": Answer(answer(("x", "a\nb")), "OK", BROKEN),
    "binary metadata, not base64": Answer(answer(("x-bin", "!!")), "INTERNAL", BROKEN),
    "header fields of 20 KB": Answer(
        lambda stream: b"".join(
            h2.cut(h2.block([(":status", "200"), ("content-type", "application/grpc"), ("x", "a" * 20_000)]), stream, 9000)
        ),
        "RESOURCE_EXHAUSTED",
    ),
    # Between the soft limit, 8 KB, and the hard one, 16 KB, grpcio refuses more often the nearer to the hard one.
    "header fields of 4 KB": Answer(answer(("x", "a" * 4_000)), "OK"),
    "trailers of 22 KB": Answer(
        lambda stream: (
            response(stream)
            + data(stream, message(b"a"))
            + b"".join(
                h2.cut(h2.block([("grpc-status", "0"), ("x", "a" * 16_000), ("y", "a" * 6_000)]), stream, 9000, end=True)
            )
        ),
        "RESOURCE_EXHAUSTED",
    ),
    "flag without an encoding": Answer(answer(body=message(b"a", flag=1)), "INTERNAL"),
    "encoding unknown": Answer(answer(("grpc-encoding", "snappy"), body=message(b"a", flag=1)), "INTERNAL"),
    "gzip that is none": Answer(answer(("grpc-encoding", "gzip"), body=message(b"a", flag=1)), "INTERNAL"),
    "message longer than the limit": Answer(
        lambda stream: response(stream) + data(stream, message(b"a", length=5 << 20)), "RESOURCE_EXHAUSTED"
    ),
    "headers with priority": Answer(
        lambda stream: (
            headers(stream, bytes(5) + h2.block([(":status", "200")]), flags=h2.END_HEADERS | h2.PRIORITISED)
            + data(stream, message(b"a"))
            + trailers(stream)
        ),
        "OK",
    ),
    "padding": Answer(lambda s: response(s) + data(s, message(b"a"), padding=9) + trailers(s), "INTERNAL", "OK"),
}

VIOLATIONS = {
    "header block that cannot be read": Answer(lambda stream: headers(stream, b"\xff\xff\x7f"), "INTERNAL", BROKEN),
    "increment of 0 on the connection": Answer(lambda stream: window_update(0, 0), "UNKNOWN", BROKEN),
    "increment of 0 on the stream": Answer(lambda stream: window_update(stream, 0), "UNKNOWN", BROKEN),
    "SETTINGS of three octets": Answer(lambda stream: frame(h2.SETTINGS, 0, 0, b"abc"), "UNKNOWN", BROKEN),
    "PING of three octets": Answer(lambda stream: frame(h2.PING, 0, 0, b"abc"), "UNKNOWN", BROKEN),
    "frame longer than any limit": Answer(lambda stream: b"\xff\xff\xff\0\0\0\0\0" + bytes([stream]), "UNKNOWN", BROKEN),
}

IGNORED_BY_GRPCIO = {
    "DATA on an idle stream": lambda stream: data(stream + 2, b"x"),
    "DATA on stream 0": lambda stream: data(0, b"x"),
    "HEADERS on a stream of the server": lambda stream: response(2),
    "PUSH_PROMISE": lambda stream: frame(h2.PUSH_PROMISE, h2.END_HEADERS, stream, b"\0\0\0\2" + h2.block([(":method", "GET")])),
    "overflow of the connection's window": lambda stream: window_update(0, 0x7FFFFFFF) * 2,
}


async def outcome(wire: Wire, sent: Callable[[int], bytes]) -> str:
    """The code that a unary call ends in when it is answered so."""
    async with raw.listen() as listener:
        channel = wire.insecure_channel(listener.address)
        try:
            call = channel.unary_unary(path("Method"))(b"question", timeout=20)
            waiting = asyncio.ensure_future(call.code())
            peer = await listener.accept()
            await peer.send(sent((await listener.request(peer)).stream))
            try:
                return (await soon(waiting, 5)).name
            except TimeoutError:
                return "HANGS"
        finally:
            await channel.close()


async def departures(wire: Wire, answers: Mapping[str, Answer]) -> dict[str, str]:
    """Where the code is not the expected one."""
    found = {}
    for name, case in answers.items():
        code = await outcome(wire, case.sent)
        if code not in case.expected(wire):
            found[name] = f"{code}, not {' or '.join(sorted(case.expected(wire)))}"
    return found


async def test_answer_of_an_http_status_has_its_code(client_wire: Wire) -> None:
    """What a proxy says: the table of gRPC's specification; a grpc-status in the same block wins."""
    assert await departures(client_wire, HTTP) == {}


async def test_answer_of_a_reset_has_the_code_of_its_error(client_wire: Wire) -> None:
    """RST_STREAM, with every error code; after the trailers it changes nothing."""
    assert await departures(client_wire, RESET) == {}


async def test_refused_stream_before_any_answer_fails_the_call(client_wire: Wire) -> None:
    """REFUSED_STREAM says that nothing was done: the caller may make the call again; the channel does not."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            call = channel.unary_unary(path("Method"))
            waiting = asyncio.ensure_future(call(b"question", timeout=20).code())
            peer = await listener.accept()
            await peer.send(rst((await listener.request(peer)).stream, h2.REFUSED_STREAM))
            assert await soon(waiting) is grpc.StatusCode.UNAVAILABLE
            again = asyncio.ensure_future(call(b"again", timeout=20).code())
            await peer.send(answer()((await listener.request(peer)).stream))
            assert await soon(again) is grpc.StatusCode.OK
            assert len([frame for frame in peer.seen if frame.type == h2.HEADERS]) == 2
        finally:
            await channel.close()


async def test_second_message_of_a_unary_answer_is_refused(client_wire: Wire) -> None:
    """The specification says UNIMPLEMENTED; grpcio waits until the deadline."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            waiting = asyncio.ensure_future(channel.unary_unary(path("Method"))(b"question", timeout=0.5).code())
            peer = await listener.accept()
            stream = (await listener.request(peer)).stream
            await peer.send(answer(body=message(b"a") * 2)(stream))
            code = (await soon(waiting)).name
            assert code == "DEADLINE_EXCEEDED" if client_wire.name == "grpcio" else code in ("INTERNAL", "UNIMPLEMENTED")
        finally:
            await channel.close()


async def test_answer_of_any_grpc_status_ends_the_call(client_wire: Wire) -> None:
    """Missing, malformed, unknown; and success without the one message that there must be."""
    assert await departures(client_wire, STATUS) == {}


async def test_answer_of_strange_fields_or_bodies_ends_the_call(client_wire: Wire) -> None:
    """Header fields, encodings, sizes."""
    assert await departures(client_wire, FIELDS) == {}


async def test_answer_that_breaks_the_protocol_ends_the_call(client_wire: Wire) -> None:
    """The connection is given up, and with it the call."""
    assert await departures(client_wire, VIOLATIONS) == {}


@pytest.mark.parametrize("name", IGNORED_BY_GRPCIO)
async def test_frame_of_a_server_on_a_wrong_stream_is_an_error(client_wire: Wire, name: str) -> None:
    """RFC 9113 wants a connection error; grpcio lets it pass. No call is ever answered by it."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address)
        try:
            call = channel.unary_unary(path("Method"))(b"question", timeout=20)
            waiting = asyncio.ensure_future(call.code())
            peer = await listener.accept()
            stream = (await listener.request(peer)).stream
            await peer.send(IGNORED_BY_GRPCIO[name](stream))
            if client_wire.name == "grpcio":
                await peer.send(answer()(stream))
                assert await soon(waiting) is grpc.StatusCode.OK
            else:
                assert (await soon(waiting)).name in BROKEN
                last = await peer.end()
                assert last is not None
                assert last.number in (h2.PROTOCOL_ERROR, h2.FLOW_CONTROL_ERROR)
        finally:
            await channel.close()


@pytest.mark.parametrize("name", [name for name in VIOLATIONS if "the stream" not in name])
async def test_client_after_a_broken_connection_makes_a_new_one(client_wire: Wire, name: str) -> None:
    """The next call has nothing to do with it."""
    async with raw.listen() as listener:
        channel = client_wire.insecure_channel(listener.address, options=[("grpc.initial_reconnect_backoff_ms", 100)])
        try:
            call = channel.unary_unary(path("Method"))(b"question", timeout=20)
            waiting = asyncio.ensure_future(call.code())
            peer = await listener.accept()
            await peer.send(VIOLATIONS[name].sent((await listener.request(peer)).stream))
            assert await soon(waiting) is not grpc.StatusCode.OK
            await peer.end()
            again = asyncio.ensure_future(
                channel.unary_unary(path("Method"))(b"question", timeout=20, wait_for_ready=True).code()
            )
            peer = await listener.accept()
            await peer.send(answer()((await listener.request(peer)).stream))
            assert await soon(again) is grpc.StatusCode.OK
        finally:
            await channel.close()
