"""kvwire's server and client under bytes that nobody should send: recorded conversations with accidents, and made-up ones.

What is demanded stands in `wire_bench.py`. Findings are kept as files in `corpus/wire/` (`found-...`) and in the unit tests.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.fuzz import wire_bench, wire_corpus
from tests.fuzz.profile import fuzz
from tests.fuzz.wire_core import Outcome, play
from tests.fuzz.wire_corpus import TO_CLIENT, TO_SERVER
from tests.wire import frames as h2

ECHO = h2.block(h2.request_fields("/wire.test.Service/Echo"))
RECORDED = wire_corpus.names()


@pytest.mark.parametrize("size", [1 << 20, 7], ids=["in one piece", "in many"])
@pytest.mark.parametrize(
    ("direction", "bench"), [(TO_SERVER, wire_bench.serve), (TO_CLIENT, wire_bench.ask)], ids=["server", "client"]
)
def test_wire_conversations_as_recorded_are_understood(direction: bytes, bench: Any, size: int) -> None:
    """What real peers said to kvwire is no reason to close a connection, however it is cut.

    (What they said to others is: it refers to header tables that kvwire does not grant.)
    """
    for name in [name for name in RECORDED if ("to-kvwire" in name if direction == TO_SERVER else name.startswith("kvwire"))]:
        data = wire_corpus.one_side(name, direction)[: 3_000 if size == 7 else None]
        script = [(data[at : at + size], True) for at in range(0, len(data), size)]
        wire_bench.run(bench(script, is_sound=True))


FINDINGS = {
    "a binary header that is no base64 was raised out of `receive`": (
        TO_SERVER,
        h2.PREFACE + h2.settings() + h2.request(1, "/no/method", (("a-bin", "!!!"),), end=True),
    ),
    "a padded block in parts was given back without its padding": (
        TO_SERVER,
        h2.PREFACE
        + h2.settings()
        + h2.frame(h2.HEADERS, h2.PADDED, 1, b"\x20" + ECHO + bytes(32))
        + h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1),
    ),
    "an :authority behind a beginning that was remembered was malformed": (
        TO_SERVER,
        h2.PREFACE
        + h2.settings()
        + h2.settings_ack()
        + b"".join(
            h2.headers(number, h2.block([*fields, *also, ("te", "trailers"), ("content-type", "application/grpc")]), end=True)
            for number, also in ((1, []), (3, [(":authority", "a")]), (5, [(":authority", "a")]))
            for fields in ([(":method", "POST"), (":scheme", "http"), (":path", "/wire.test.Service/Echo")],)
        ),
    ),
    "readers of calls that were made again were forgotten": (TO_CLIENT, h2.settings() + h2.goaway(0)),
    "writers that waited for a window were forgotten when their call ended unread": (
        TO_CLIENT,
        h2.headers(7, h2.block([(":status", "200"), ("content-type", "application/grpc")])) + h2.data(7, h2.message(b"hello")),
    ),
    "resets were sent behind a GOAWAY": (TO_CLIENT, h2.settings() + h2.headers(1, b"\xff", end=True)),
    "the room of closed streams was given away behind a GOAWAY": (
        TO_SERVER,
        h2.PREFACE
        + h2.settings()
        + b"".join(
            h2.request(number, "/wire.test.Service/Deaf") + h2.data(number, h2.message(b"", length=290_000))
            for number in range(1, 39, 2)
        )
        + h2.frame(h2.PUSH_PROMISE, 0, 1, bytes(4)),
    ),
}
"""Bytes that were once too much, cut down."""


@pytest.mark.parametrize("name", FINDINGS)
def test_wire_finding_of_former_times_stays_mended(name: str) -> None:
    """Played in one piece and byte by byte."""
    direction, data = FINDINGS[name]
    for size in (len(data), 1):
        script = [(data[at : at + size], True) for at in range(0, len(data), size)]
        wire_bench.run(wire_bench.serve(script) if direction == TO_SERVER else wire_bench.ask(script))
    assert play(direction, data, [1]) == play(direction, data, [len(data)])


@fuzz(120)
@given(wire_corpus.scripts(TO_SERVER))
def test_wire_server_that_gets_any_bytes_stays_whole(script: list[tuple[bytes, bool]]) -> None:
    """It answers, refuses or hangs up; afterwards nothing is left of it."""
    wire_bench.run(wire_bench.serve(script))


@fuzz(120)
@given(wire_corpus.scripts(TO_CLIENT))
def test_wire_client_that_gets_any_bytes_ends_its_calls(script: list[tuple[bytes, bool]]) -> None:
    """Each call gets a status, whatever the server says; nothing is left."""
    wire_bench.run(wire_bench.ask(script))


@pytest.mark.parametrize("direction", [TO_SERVER, TO_CLIENT], ids=["server", "client"])
@fuzz(100)
@given(st.data())
def test_wire_bytes_that_are_cut_anywhere_mean_the_same(direction: bytes, data: st.DataObject) -> None:
    """What a core says, delivers and holds depends on the bytes, not on the packets in which they came."""
    whole = data.draw(wire_corpus.conversations(direction))
    sizes = data.draw(st.lists(st.integers(1, 3_000), min_size=1, max_size=5))
    expected: Outcome = play(direction, whole, [len(whole) or 1])
    assert play(direction, whole, sizes) == expected
    if len(whole) <= 2_000:
        assert play(direction, whole, [1]) == expected


def test_wire_corpus_is_small_and_complete() -> None:
    """Each pair of transports, and the programs that users have, are in it."""
    assert {f"{client}-to-{server}-unary" for client in ("grpcio", "kvwire") for server in ("grpcio", "kvwire")} <= {*RECORDED}
    assert {f"{program}-to-kvwire" for program in ("grpcurl", "curl", "h2load")} <= {*RECORDED}
    assert sum(Path(file).stat().st_size for file in wire_corpus.CORPUS.glob("*")) < 500_000
