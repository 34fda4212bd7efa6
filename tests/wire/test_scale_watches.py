"""Many streams and many connections at once, and readers who stall: nobody else is slowed down, and little is kept."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import resource
import time
from collections.abc import AsyncIterator, Iterator

import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.board import Board, posted
from tests.wire.frames import data, message, request, window_update
from tests.wire.pairs import GRPCIO, Rig, Wire, collect, path, soon
from tests.wire.serving import served

WATCHES = 500
NOTICES = [b"notice %d" % number for number in range(5)] + [b"END"]
CONNECTIONS = {"grpcio": 500, "kvwire": 2_000}
CONNECTION_KIB_MAX = {"grpcio": 64, "kvwire": 32}
"""What an idle connection may cost a server."""
MIB = 1 << 20


async def test_watches_by_the_hundreds_get_every_notice_in_order(rig: Rig) -> None:
    """500 streams of one channel; unary calls go on beside them; when the streams end nothing of them is left."""
    board = Board()
    channel = rig.connect(await rig.serve(board.handler()))
    echo, publish = channel.unary_unary(path("Echo")), channel.unary_unary(path("Publish"))
    watches = [aiter(channel.unary_stream(path("Watch"))(b"")) for _ in range(WATCHES)]
    firsts = await soon(asyncio.gather(*map(anext, watches)), 20)
    assert (firsts, board.watching) == ([b""] * WATCHES, WATCHES)
    reading = asyncio.gather(*map(collect, watches))
    for notice in NOTICES:
        await soon(publish(notice))
        assert await soon(echo(b"beside")) == b"beside"
    assert await soon(reading, 20) == [NOTICES] * WATCHES
    while board.watching:
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def stalled(address: str, way: str) -> AsyncIterator[raw.Peer]:
    """A watch of a reader that takes no notice any more: its stream's window is shut, or its whole socket."""
    window = h2.WINDOW if way == "window" else 256 * MIB
    async with raw.connect(address, settings={h2.INITIAL_WINDOW_SIZE: window}) as peer:
        peer.refills = False
        await peer.send(window_update(0, 1024 * MIB), request(1, path("Watch")), data(1, message(), end=True))
        await peer.take(h2.DATA, 1)
        if way == "socket":
            await peer.stop_reading()
        yield peer


def received(peer: raw.Peer) -> int:
    """Octets of DATA on the stalled stream."""
    return sum(len(frame.payload) for frame in peer.seen if frame.type == h2.DATA and frame.stream == 1)


@pytest.mark.parametrize("way", ["window", "socket"])
async def test_watch_whose_reader_stalls_slows_nobody(server_wire: Wire, way: str) -> None:
    """Others get every notice, and unary calls are served, on a stalled stream's own connection as well."""
    board = Board()
    async with served(server_wire, board.handler()) as address, stalled(address, way) as peer:
        channel = server_wire.insecure_channel(address)
        try:
            publish, echo = channel.unary_unary(path("Publish")), channel.unary_unary(path("Echo"))
            watch = channel.unary_stream(path("Watch"))(b"")
            assert await soon(watch.read()) == b""
            slowest = 0.0
            for number in range(40):
                notice = b"%d" % number + bytes(200_000)
                await soon(publish(notice))
                assert await soon(watch.read()) == notice
                begun = time.monotonic()
                assert await soon(echo(b"x")) == b"x"
                slowest = max(slowest, time.monotonic() - begun)
            assert slowest < 1.0
            if way == "window":
                # The stalled stream's own connection serves calls, too.
                assert (await peer.call(3, path("Echo"), b"beside")).messages == [b"beside"]
                assert (
                    sum(len(frame.payload) for frame in peer.seen if frame.type == h2.DATA and frame.stream == 1) <= h2.WINDOW
                )
            watch.cancel()
        finally:
            await channel.close()
        # Whoever stalled loses nothing but time.
        if way == "socket":
            peer.resume_reading()
            assert await peer.until(lambda: received(peer) >= 8_000_000 or None)


@contextlib.contextmanager
def files(count: int) -> Iterator[None]:
    """So many open files are permitted to us and those we start."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard not in (resource.RLIM_INFINITY,) and hard < count:
        pytest.skip(f"{count} open files are needed, {hard} permitted")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, count), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


async def test_connections_by_the_thousands_are_served(server_wire: Wire) -> None:
    """2,000 at once: each is answered, twice; one more who comes then is served at once, and each costs the server little."""
    connections = CONNECTIONS[server_wire.name]
    with files(connections + 500):
        async with posted(server_wire) as server, contextlib.AsyncExitStack() as stack:
            async with raw.connect(server.target) as warm:
                assert (await warm.call(1, path("Echo"), b"x")).status == 0
            before = server.rss_kib
            peers: list[raw.Peer] = []
            for _ in range(connections // 100):
                peers += await asyncio.gather(*(stack.enter_async_context(raw.connect(server.target)) for _ in range(100)))
            # grpcio's server cancels calls that come by the thousands in an instant.
            at_once = 100 if server_wire.name == GRPCIO else connections
            for stream, at in itertools.product((1, 3), range(0, connections, at_once)):
                asked = peers[at : at + at_once]
                answers = await asyncio.gather(*(peer.call(stream, path("Echo"), b"x") for peer in asked))
                assert [answer.messages for answer in answers] == [[b"x"]] * len(asked)
            begun = time.monotonic()
            async with raw.connect(server.target) as late:
                assert (await late.call(1, path("Echo"), b"x")).messages == [b"x"]
            assert time.monotonic() - begun < 1.0
            assert (server.rss_kib - before) / connections <= CONNECTION_KIB_MAX[server_wire.name]
