"""`/metrics` over real sockets: what is answered, what is refused, and what happens when the node's loop does not answer."""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from kvnode.observe import metric_families as families
from kvnode.observe import metrics_server
from kvnode.observe.metric_readers import Reading
from kvnode.observe.metrics_server import SCRAPES_MAX, MetricsServer, parse

METRICS = b"GET /metrics HTTP/1.1\r\nHost: h\r\n\r\n"


class Loop:
    """A node's event loop that runs what it is told to only when the test says so, or at once."""

    def __init__(self, *, answers: bool) -> None:
        self.answers = answers
        self.waiting: list[Callable[[], None]] = []

    def call_soon_threadsafe(self, callback: Callable[..., None], *args: Any) -> None:
        """As an event loop has it."""
        self.waiting.append(lambda: callback(*args))
        if self.answers:
            self.run()

    def run(self) -> None:
        """Runs what waits."""
        waiting, self.waiting = self.waiting, []
        for callback in waiting:
            callback()


class Values:
    """What stands for a node's metrics."""

    def __init__(self) -> None:
        self.sources = SimpleNamespace(node=SimpleNamespace(me=SimpleNamespace(node="n<1>")))
        self.error: Exception | None = None
        self.reads = 0

    def read(self) -> list[Reading]:
        """Counts how often."""
        self.reads += 1
        if self.error is not None:
            raise self.error
        return [Reading(families.CALLS, (), 41.0 + self.reads), Reading(families.PEER_PHI, ("n2",), 0.5)]


class Served:
    """A server, and its parts."""

    def __init__(self, values: Values, loop: Loop, listen: str = "127.0.0.1:0") -> None:
        metrics: Any = values
        node_loop: Any = loop
        self.values, self.loop = values, loop
        self.server = MetricsServer(listen, metrics, node_loop)
        self.address = ""

    async def ask(self, request: bytes = METRICS) -> bytes:
        """The whole answer."""
        host, _, port = self.address.rpartition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        try:
            writer.write(request)
            return await reader.read()
        except ConnectionResetError:
            return b""
        finally:
            writer.close()


@asynccontextmanager
async def served(*, answers: bool = True) -> AsyncIterator[Served]:
    """One on a port of its own."""
    made = Served(Values(), Loop(answers=answers))
    made.address = made.server.start()
    try:
        yield made
    finally:
        await made.server.stop()


def split(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    """Status, headers by lower-case names, body."""
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    assert int(headers["content-length"]) == len(body)
    return int(lines[0].split()[1]), headers, body


async def test_metrics_asked_for_come_as_prometheus_text() -> None:
    """Without a wish, in Prometheus's own format; each scrape reads anew, and the process's own figures are there."""
    async with served() as one:
        status, headers, body = split(await one.ask())
        assert status == 200
        assert headers["content-type"].startswith("text/plain; version=0.0.4")
        assert b"kvnode_wire_calls_total 42.0\n" in body
        assert b'kvnode_peer_phi{peer="n2"} 0.5\n' in body
        assert b"process_resident_memory_bytes" in body
        assert b"kvnode_wire_calls_total 43.0\n" in split(await one.ask())[2]


async def test_metrics_asked_for_as_openmetrics_and_compressed_come_so() -> None:
    """What Prometheus asks for by its Accept headers."""
    async with served() as one:
        request = (
            b"GET /metrics HTTP/1.1\r\nAccept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: gzip\r\n\r\n"
        )
        status, headers, body = split(await one.ask(request))
        assert status == 200
        assert headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert headers["content-encoding"] == "gzip"
        assert gzip.decompress(body).endswith(b"# EOF\n")


async def test_metrics_asked_for_by_name_come_alone() -> None:
    """`name[]`, as Prometheus's library has it."""
    async with served() as one:
        _, _, body = split(await one.ask(b"GET /metrics?name[]=kvnode_peer_phi HTTP/1.1\r\n\r\n"))
        assert [line for line in body.splitlines() if not line.startswith(b"#")] == [b'kvnode_peer_phi{peer="n2"} 0.5']


@pytest.mark.parametrize(
    ("request_", "status", "word"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 200, b'kvnode n&lt;1&gt;</h1><p><a href="/metrics">'),
        (b"GET /other HTTP/1.1\r\n\r\n", 404, b"there is /metrics"),
        (b"GET /metrics/ HTTP/1.1\r\n\r\n", 404, b"there is /metrics"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", 405, b"only GET"),
        (b"GET /metrics\r\n\r\n", 400, b"no HTTP request"),
        (b"\x16\x03\x01\r\n\r\n", 400, b"no HTTP request"),
        (b"GET /metrics HTTP/2.0\r\n\r\n", 400, b"no HTTP request"),
    ],
)
async def test_request_of_another_kind_is_answered_without_reading_the_node(request_: bytes, status: int, word: bytes) -> None:
    """Only GET of /metrics reads anything."""
    async with served() as one:
        answer = split(await one.ask(request_))
        assert answer[0] == status
        assert word in answer[2]
        assert one.values.reads == 0


async def test_event_loop_that_does_not_answer_is_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scrape says so after a while; what the loop answers later goes nowhere, and the next scrape is served again."""
    monkeypatch.setattr(metrics_server, "LOOP_WAIT_MAX", 0.01)
    async with served(answers=False) as one:
        status, _, body = split(await one.ask())
        assert status == 503
        assert b"event loop has not answered" in body
        one.loop.run()
        assert one.values.reads == 0
        monkeypatch.setattr(metrics_server, "LOOP_WAIT_MAX", 10.0)
        one.loop.answers = True
        assert split(await one.ask())[0] == 200


async def test_reading_that_fails_is_500_with_the_error() -> None:
    """A defect of a reader is seen by whoever scrapes, and ends nothing."""
    async with served() as one:
        one.values.error = KeyError("shard")
        status, _, body = split(await one.ask())
        assert status == 500
        assert b"KeyError('shard')" in body
        one.values.error = None
        assert split(await one.ask())[0] == 200


async def test_scrapes_beyond_a_few_at_once_are_503(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first ones wait for the node and get their values; those beyond are refused at once."""
    monkeypatch.setattr(metrics_server, "LOOP_WAIT_MAX", 60.0)
    async with served(answers=False) as one:
        first = [asyncio.ensure_future(one.ask()) for _ in range(SCRAPES_MAX)]
        while len(one.loop.waiting) < SCRAPES_MAX:
            await asyncio.sleep(0)
        refused = await asyncio.gather(*(one.ask() for _ in range(20)))
        assert {split(answer)[0] for answer in refused} == {503}
        assert b"scrapes are under way" in split(refused[0])[2]
        one.loop.run()
        assert {split(answer)[0] for answer in await asyncio.gather(*first)} == {200}
        assert one.values.reads == SCRAPES_MAX
        one.loop.answers = True
        assert [split(await one.ask())[0] for _ in range(SCRAPES_MAX + 1)] == [200] * (SCRAPES_MAX + 1)


async def test_connections_beyond_the_bound_are_closed_and_others_served(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever opens many and says nothing keeps no memory beyond the bound; when they go, there is room again."""
    monkeypatch.setattr(metrics_server, "CONNECTIONS_MAX", 2)
    async with served() as one:
        host, _, port = one.address.rpartition(":")
        idle = [await asyncio.open_connection(host, int(port)) for _ in range(2)]
        assert await one.ask() == b""
        for _, writer in idle:
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
        for reader, writer in idle:
            assert split(await reader.read())[0] == 200
            writer.close()
        answer = b""
        while not answer:  # (Its own thread counts them off.)
            answer = await one.ask()
        assert split(answer)[0] == 200


@pytest.mark.parametrize("sent", [b"", b"GET /met", b"x" * 100_000])
async def test_request_that_never_ends_is_closed_in_time(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Too slow, or too long: closed without an answer."""
    monkeypatch.setattr(metrics_server, "CONNECTION_TIME_MAX", 0.05)
    async with served() as one:
        assert await one.ask(sent) == b""
        assert one.values.reads == 0


async def test_address_that_is_taken_is_an_error_that_says_what_to_do() -> None:
    """As with the port for gRPC: the node does not start."""
    async with served() as one:
        second = Served(Values(), Loop(answers=True), one.address)
        with pytest.raises(OSError, match=r"cannot listen on 127\.0\.0\.1:\d+: somebody does already.*change metrics\.listen"):
            second.server.start()
        await second.server.stop()


async def test_server_that_stopped_listens_no_more() -> None:
    """Its thread has ended, also with scrapes under way; another stop changes nothing."""
    made = Served(Values(), Loop(answers=False))
    made.address = made.server.start()
    under_way = asyncio.ensure_future(made.ask())
    while not made.loop.waiting:
        await asyncio.sleep(0)
    await made.server.stop()
    assert await under_way == b""
    with pytest.raises(ConnectionRefusedError):
        await made.ask()
    await made.server.stop()


def test_request_head_with_a_query_is_taken_apart() -> None:
    """Path, query, and headers by lower-case names."""
    request = parse(b"GET /metrics?a=b%20c HTTP/1.1\r\nACCEPT:  x, y \r\nHost: h:1\r\n\r\n")
    assert request is not None
    assert (request.path, request.query) == ("/metrics", "a=b%20c")
    assert request.headers["accept"] == "x, y"
