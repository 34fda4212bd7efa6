"""Asking an address who is there: each way not to get an answer has its own words."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest

from kvnode import __version__
from kvnode.doctor import asking
from kvnode.doctor.asking import Answer, Silence, ask
from tests.unit.doctor.subjects import MEMBERS, FakeNode, serving


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Something that accepts connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        yield sock


@pytest.mark.parametrize("transport", ["kvwire", "grpcio"])
@pytest.mark.parametrize("served", ["kvwire", "grpcio"])
async def test_node_that_answers_tells_who_it_is_and_what_time_it_has(transport: str, served: str) -> None:
    """Over every pair of transports; the clock's distance is right but for half the round trip."""
    async with serving(FakeNode(ahead=3.0), served) as address:
        answer = await ask(address, transport)
    assert isinstance(answer, Answer), answer
    told = (answer.cluster_id, answer.name, answer.version, answer.members, answer.shards, answer.uptime)
    assert told == ("orders", "n2", __version__, MEMBERS, 8, 90.0)
    assert 0 < answer.round_trip < asking.ASK_MAX
    assert abs(answer.clock_ahead - 3.0) <= answer.round_trip / 2 + 0.001


async def test_clock_that_jumps_between_question_and_answer_counts_for_half() -> None:
    """The peer's time is compared with the middle of the call."""
    times = iter([100.0, 100.4])

    class Frozen(FakeNode):
        async def Latency(self, request: object, context: object) -> asking.observability_pb2.LatencyResponse:
            return asking.observability_pb2.LatencyResponse(at_ms=101_199)

    async with serving(Frozen()) as address:
        answer = await ask(address, "kvwire", lambda: next(times))
    assert isinstance(answer, Answer)
    assert answer.round_trip == pytest.approx(0.4)
    assert answer.clock_ahead == pytest.approx(0.9995)


async def test_port_without_a_listener_is_refused() -> None:
    """The host is there: that is not the network's fault."""
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        answer = await ask(f"127.0.0.1:{bound.getsockname()[1]}", "kvwire")
    assert answer == Silence("refuses connections: nothing listens there", is_refused=True)


async def test_listener_that_says_nothing_is_given_up_in_time(
    listening: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is somebody, and no kvnode; the doctor does not hang."""
    monkeypatch.setattr(asking, "ASK_MAX", 0.2)
    answer = await ask(f"127.0.0.1:{listening.getsockname()[1]}", "kvwire")
    assert isinstance(answer, Silence)
    assert answer.reason.startswith("connected, but nothing of kvnode answers within")
    assert answer.is_other


async def test_server_of_something_else_is_said_to_be_that() -> None:
    """A gRPC server that does not know the service: the code is part of the reason."""
    async with serving(None) as address:
        answer = await ask(address, "kvwire")
    assert isinstance(answer, Silence)
    assert answer.reason.startswith("connected, but nothing of kvnode answers (UNIMPLEMENTED")
    assert answer.is_other


async def test_peer_that_speaks_no_grpc_is_said_to_be_something_else() -> None:
    """As a web server, which answers HTTP/2 with an error of HTTP/1."""

    async def answer_in_http(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(64)
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(answer_in_http, "127.0.0.1", 0)
    async with server:
        answer = await ask(f"127.0.0.1:{server.sockets[0].getsockname()[1]}", "kvwire")
    assert isinstance(answer, Silence)
    assert answer.is_other
    assert "nothing of kvnode answers (UNAVAILABLE" in answer.reason


async def test_name_that_does_not_resolve_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """The reason is the name, not the connection."""

    async def fail(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fail)
    answer = await ask("db7.example:7401", "kvwire")
    assert answer == Silence("the name db7.example does not resolve: Name or service not known")


async def test_stranger_that_says_much_is_cut_short() -> None:
    """What somebody else says of itself is bounded."""
    async with serving(FakeNode(name="n" * 5000, cluster_id="c" * 5000)) as address:
        started = time.monotonic()
        answer = await ask(address, "kvwire")
    assert isinstance(answer, Answer)
    assert (len(answer.name), len(answer.cluster_id)) == (64, 64)
    assert time.monotonic() - started < asking.ASK_MAX
