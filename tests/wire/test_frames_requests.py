"""What servers make of requests: header fields in every order and of every kind, half-closes, time-outs, encodings."""

from __future__ import annotations

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, headers, message, request, request_fields
from tests.wire.observing import REFUSED, Case, departures
from tests.wire.pairs import Context, Wire, path, service, stream_unary, unary_unary
from tests.wire.serving import served

ECHO = path("Echo")
BODY = data(1, message(b"hi"), end=True)


async def echo(request: bytes, context: Context) -> bytes:
    """Echoes a message."""
    return request


async def remaining(request: bytes, context: Context) -> bytes:
    """Tells how much time the call has."""
    return str(context.time_remaining()).encode()


async def count(requests: object, context: Context) -> bytes:
    """Counts messages."""
    return b"%d" % len([message async for message in requests])  # type: ignore[attr-defined]


METHODS = service(Echo=unary_unary(echo), Remaining=unary_unary(remaining), Count=stream_unary(count))


def of(*fields: tuple[str, str]) -> bytes:
    """A request of exactly these header fields."""
    return headers(1, h2.block(fields)) + BODY


def with_field(name: str, value: str) -> bytes:
    """A request with one more header field."""
    return request(1, ECHO, [(name, value)]) + BODY


def without(**changes: str | None) -> bytes:
    """A request with header fields changed or left out."""
    return request(1, ECHO, **changes) + BODY


BASIC = request_fields(ECHO)
PSEUDO, REGULAR = BASIC[:4], BASIC[4:]

FIELDS = {
    "pseudo-header fields in another order": Case(of(*reversed(PSEUDO), *REGULAR), "OK"),
    "host instead of :authority": Case(request(1, ECHO, [("host", "localhost")], authority=None) + BODY, "OK"),
    "https scheme": Case(without(scheme="https"), "OK"),
    "unknown method": Case(request(1, path("Nothing")) + BODY, "12"),
    "unknown method, request still open": Case(request(1, path("Nothing")), "12"),
    "unknown service": Case(request(1, "/no.Such/Method", end=True), "12"),
    "path without a slash": Case(request(1, "Echo", end=True), "12", {"12", *REFUSED}),
    "empty path": Case(request(1, "", end=True), "12", {"12", *REFUSED}),
    "asterisk for a path": Case(request(1, "*", end=True), "12", {"12", *REFUSED}),
    "no path": Case(without(path=None), "RST 2", REFUSED),
    "GET": Case(without(method="GET"), "RST 2", {"HTTP 405", *REFUSED}),
    "PUT": Case(without(method="PUT"), "RST 2", {"HTTP 405", *REFUSED}),
    "no method": Case(without(method=None), "RST 2", REFUSED),
    "no scheme": Case(without(scheme=None), "RST 2", REFUSED),
    "strange scheme": Case(without(scheme="ftp"), "13", {"OK", *REFUSED}),
    "no authority": Case(without(authority=None), "RST 2", {"OK", *REFUSED}),
    "content-type with a format": Case(without(content_type="application/grpc+proto"), "OK"),
    "content-type with a parameter": Case(without(content_type="application/grpc;charset=utf-8"), "OK"),
    # Specification: "gRPC servers SHOULD respond with HTTP status of 415". grpcio does not look at the field.
    "content-type of text": Case(without(content_type="text/plain"), "OK", "HTTP 415"),
    "content-type of JSON": Case(without(content_type="application/json"), "OK", "HTTP 415"),
    "no content-type": Case(without(content_type=None), "OK", "HTTP 415"),
    "no te": Case(without(te=None), "RST 2", {"OK", *REFUSED}),
    "te without trailers": Case(without(te="gzip"), "13", {"OK", *REFUSED}),
    "field name in upper case": Case(with_field("X-Upper", "1"), "13", REFUSED),
    "field name with a space": Case(with_field("x y", "1"), "13", REFUSED),
    "field name of nothing": Case(with_field("", "1"), "13", REFUSED),
    "binary metadata, padded": Case(with_field("x-bin", "aGk="), "OK"),
    "binary metadata, unpadded": Case(with_field("x-bin", "aGk"), "OK"),
    "binary metadata, not base64": Case(with_field("x-bin", "!!!"), "13", REFUSED),
    # From here on grpcio takes what RFC 9113, 8.2 and 8.3, calls malformed.
    "pseudo-header field after others": Case(of(*PSEUDO[:3], *REGULAR, PSEUDO[3]), "OK", REFUSED),
    "pseudo-header field twice": Case(of(PSEUDO[0], *BASIC), "OK", REFUSED),
    "pseudo-header field of a response": Case(of((":status", "200"), *BASIC), "OK", REFUSED),
    "pseudo-header field that nobody knows": Case(of((":unknown", "1"), *BASIC), "13", REFUSED),
    "connection": Case(with_field("connection", "keep-alive"), "OK", REFUSED),
    "transfer-encoding": Case(with_field("transfer-encoding", "chunked"), "OK", REFUSED),
    "field value with a line feed": Case(with_field("x", "a\nb"), "OK", REFUSED),
    "field value with a zero": Case(with_field("x", "a\0b"), "OK", REFUSED),
    "content-length that is wrong": Case(with_field("content-length", "3"), "OK", {"OK", *REFUSED}),
}

ENCODINGS = {
    # Specification: UNIMPLEMENTED, with the encodings that the server knows.
    "encoding unknown": Case(
        request(1, ECHO, [("grpc-encoding", "snappy")]) + data(1, message(b"x", flag=1)), "13", {"12", "13"}
    ),
    "flag without an encoding": Case(request(1, ECHO) + data(1, message(b"hi", flag=1), end=True), "13"),
    "flag with identity": Case(
        request(1, ECHO, [("grpc-encoding", "identity")]) + data(1, message(b"hi", flag=1), end=True), "13"
    ),
    "flag of two": Case(request(1, ECHO) + data(1, message(b"hi", flag=2), end=True), "OK", "13"),
    "gzip, not compressed": Case(request(1, ECHO, [("grpc-encoding", "gzip")]) + BODY, "OK"),
    "gzip that is none": Case(
        request(1, ECHO, [("grpc-encoding", "gzip")]) + data(1, message(b"no gzip", flag=1), end=True), "13"
    ),
}

HALF_CLOSES = {
    "END_STREAM on the message": Case(request(1, ECHO) + BODY, "OK"),
    "END_STREAM on an empty DATA frame": Case(request(1, ECHO) + data(1, message(b"hi")) + data(1, end=True), "OK"),
    "END_STREAM on HEADERS of a client stream": Case(request(1, path("Count"), end=True), "OK"),
    "trailers": Case(request(1, ECHO) + data(1, message(b"hi")) + headers(1, h2.block([("x", "y")]), end=True), "OK"),
    "trailers that do not end": Case(
        request(1, ECHO) + data(1, message(b"hi")) + headers(1, h2.block([("x", "y")])), "CLOSED", REFUSED
    ),
    "message longer than any limit": Case(request(1, ECHO) + data(1, message(b"hi", length=1 << 30)), "8"),
    # Specification: wrong numbers of messages are UNIMPLEMENTED; grpcio waits for the caller to give up.
    "no message": Case(request(1, ECHO, end=True), "IGNORED", {"12", "13"}),
    "no message, END_STREAM on DATA": Case(request(1, ECHO) + data(1, end=True), "IGNORED", {"12", "13"}),
    "two messages": Case(request(1, ECHO) + data(1, message(b"hi") * 2, end=True), "OK"),
    "half a message": Case(request(1, ECHO) + data(1, message(b"hi", length=9), end=True), "IGNORED", "13"),
    "half a prefix": Case(request(1, ECHO) + data(1, b"\0\0", end=True), "IGNORED", "13"),
    "half a message of a client stream": Case(
        request(1, path("Count")) + data(1, message(b"hi", length=9), end=True), "OK", "13"
    ),
}

TIMEOUTS_REFUSED = ["S", "", "5", "5s", "5X", "-5S", "+5S", "5.0S", "1h"]
TIMEOUTS_TAKEN = {
    "1H": 3600,
    "1M": 60,
    "5S": 5,
    "5000m": 5,
    "50000000u": 50,
    "99999999n": 0.1,
    "00000005S": 5,
    "99999999S": 99_999_999,
    "99999999M": 99_999_999 * 60,
    "99999999H": 99_999_999 * 3600,
}
TIMEOUTS = {text: Case(request(1, ECHO, [("grpc-timeout", text)]) + BODY, "13", REFUSED) for text in TIMEOUTS_REFUSED}
TIMEOUTS |= {
    "0S": Case(request(1, ECHO, [("grpc-timeout", "0S")]) + BODY, "4"),
    "0n": Case(request(1, ECHO, [("grpc-timeout", "0n")]) + BODY, "4"),
    # The specification allows eight digits.
    "100000000n": Case(request(1, ECHO, [("grpc-timeout", "100000000n")]) + BODY, "OK", {"OK", *REFUSED}),
    "18446744073709551617S": Case(request(1, ECHO, [("grpc-timeout", "18446744073709551617S")]) + BODY, "OK", {"OK", *REFUSED}),
}


async def test_request_fields_of_all_kinds_are_served_or_refused(server_wire: Wire) -> None:
    """Each malformed request is refused by itself: its connection goes on."""
    async with served(server_wire, METHODS) as address:
        assert await departures(server_wire, address, FIELDS) == {}


async def test_request_encodings_unknown_or_false_are_refused(server_wire: Wire) -> None:
    """Nothing that cannot be decoded reaches a handler."""
    async with served(server_wire, METHODS) as address:
        assert await departures(server_wire, address, ENCODINGS) == {}


async def test_request_half_closed_in_any_way_is_answered(server_wire: Wire) -> None:
    """The end of a request may come on any frame; too few or too many messages are no reason to hang."""
    async with served(server_wire, METHODS) as address:
        assert await departures(server_wire, address, HALF_CLOSES) == {}


async def test_grpc_timeout_malformed_or_over_is_refused(server_wire: Wire) -> None:
    """INTERNAL for what is no time-out, DEADLINE_EXCEEDED for none left."""
    async with served(server_wire, METHODS) as address:
        assert await departures(server_wire, address, TIMEOUTS) == {}


async def test_grpc_timeout_in_every_unit_reaches_the_handler(server_wire: Wire) -> None:
    """H, M, S, m, u, n; leading zeros; eight digits."""
    async with served(server_wire, METHODS) as address, raw.connect(address) as peer:
        for number, (text, seconds) in enumerate(TIMEOUTS_TAKEN.items()):
            answer = await peer.call(1 + 2 * number, path("Remaining"), b"", [("grpc-timeout", text)])
            assert answer.status == 0, text
            assert max(seconds - 20, seconds * 0.5) < float(answer.messages[0]) <= seconds, text


async def test_unsupported_encoding_tells_which_are_supported(server_wire: Wire) -> None:
    """Whoever answers UNIMPLEMENTED names its encodings, so that the client may ask again."""
    async with served(server_wire, METHODS) as address, raw.connect(address) as peer:
        answer = await peer.call(1, ECHO, b"", [("grpc-encoding", "snappy")])
        assert answer.status == 13 or "identity" in (answer.get("grpc-accept-encoding") or "")


async def test_response_fields_of_a_unary_call_are_those_of_grpc(server_wire: Wire) -> None:
    """What every client counts on: one HEADERS frame, the message, trailers that end the stream."""
    async with served(server_wire, METHODS) as address, raw.connect(address) as peer:
        answer = await peer.call(1, ECHO, b"hi")
        first, last = map(dict, answer.blocks)
        assert first[":status"] == "200"
        assert first["content-type"].startswith("application/grpc")
        assert last["grpc-status"] == "0"
        assert answer.data == message(b"hi")


async def test_response_of_an_immediate_failure_is_one_header_block(server_wire: Wire) -> None:
    """Trailers-only: status and content type are there."""
    async with served(server_wire, METHODS) as address, raw.connect(address) as peer:
        answer = await peer.call(1, path("Nothing"))
        fields = dict(answer.blocks[0])
        assert len(answer.blocks) == 1
        assert (fields[":status"], fields["grpc-status"], fields["content-type"]) == ("200", "12", "application/grpc")
