"""Peers that begin and never finish: half-open connections, prefaces, frames and headers byte by byte; and the last stream id.

Bounds: HANDSHAKE_SECONDS_MAX and FRAME_SECONDS_MAX, lowered to a second here; the server looks once a second. A half-open
connection costs the server some 100 KiB at most: its objects (with the memo, which is empty), and the socket.
"""

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
from tests.wire.pairs import HOST, path
from tests.wire.siege import Cut, Raider, Siege, Stand, besiege, raid

SECONDS = 1
GONE_AFTER_S = SECONDS + 1.0 + 2.0
"""The limit, the server's next look, and the machine's leisure."""
HALF_OPEN = 2_000
HALF_OPEN_KIB = 100
REQUEST = h2.request(1, path("Deaf"))


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A server with little patience."""
    made = Stand("--limit", f"HANDSHAKE_SECONDS_MAX={SECONDS}", "--limit", f"FRAME_SECONDS_MAX={SECONDS}")
    yield made
    made.close()


@contextlib.asynccontextmanager
async def raids(stand: Stand, count: int, first: bytes) -> AsyncIterator[list[Raider]]:
    """So many connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        async with contextlib.AsyncExitStack() as stack:
            yield [await stack.enter_async_context(raid(stand.port, first)) for _ in range(min(count, hard - 200))]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


DRIPS = {
    "preface": (b"", h2.PREFACE),
    "no preface but a method of HTTP/1": (b"", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r"),
    "first SETTINGS": (h2.PREFACE, h2.settings({number: 1 for number in range(10, 60)})),  # noqa: C420
    "DATA": (h2.PREFACE + h2.settings() + REQUEST, h2.data(1, bytes(1_000))),
    "head of a frame": (h2.PREFACE + h2.settings() + REQUEST, b"\x00\x00\x00\x00\x00\x00\x00\x00"),
    "HEADERS": (h2.PREFACE + h2.settings(), REQUEST),
    "CONTINUATION": (
        h2.PREFACE + h2.settings() + h2.headers(1, b"", flags=0),
        b"".join(h2.frame(h2.CONTINUATION, 0, 1, b"\x00\x01x\x01y") for _ in range(500)),
    ),
    "unknown frame": (h2.PREFACE + h2.settings(), h2.frame(0x77, 0, 0, bytes(16_000))),
}
"""What is sent at once, and what byte by byte."""


async def test_peers_that_send_byte_by_byte_are_given_up(stand: Stand) -> None:
    """However regularly the bytes come, what they begin must end in time; all of them at once."""
    stand.revive()

    async def drip(first: bytes, bytewise: bytes) -> float:
        began = time.monotonic()
        async with raid(stand.port, first) as raider:
            with contextlib.suppress(Cut):
                for number in range(len(bytewise) - 1):
                    await raider.send(bytewise[number : number + 1])
                    await asyncio.sleep(0.15 if len(bytewise) < 100 else 0.02)
            async with asyncio.timeout(GONE_AFTER_S):
                await raider.end()
        return time.monotonic() - began

    seconds = await asyncio.gather(*(drip(*parts) for parts in DRIPS.values()), return_exceptions=True)
    late = {
        name: second
        for name, second in zip(DRIPS, seconds, strict=True)
        if not isinstance(second, float) or second > GONE_AFTER_S
    }
    assert not late
    left = await stand.idle()
    assert (left["held"], left["in_flight"]) == (0, 0)


async def test_half_open_connections_by_thousands_are_closed_and_hinder_nobody(stand: Stand) -> None:
    """Two thousand connections that say nothing are gone within the limit; meanwhile others connect and are served."""
    siege_memory = 0.0

    async def attack(siege: Siege) -> None:
        nonlocal siege_memory
        before = stand.memory_mib()
        async with raids(stand, HALF_OPEN, b"") as raiders:
            async with asyncio.timeout(1.0), raw.connect(f"{HOST}:{stand.port}") as peer:
                assert (await peer.call(1, path("Echo"), b"x")).messages == [b"x"]
            siege_memory = max(siege_memory, stand.memory_mib() - before)
            await asyncio.gather(*(raider.end() for raider in raiders))
        siege.codes.append(None)

    siege = await besiege(stand, attack, rounds=1, seconds=0.3, until=lambda siege: bool(siege.codes))
    assert siege.codes, "the half-open connections are still there"
    siege.assert_memory_is_bounded(HALF_OPEN * HALF_OPEN_KIB / 1024)
    siege.assert_nothing_is_left()
    siege.assert_others_are_served(turn_ms_max=40.0)  # (A hundred connections are accepted in one turn.)


async def test_busy_upload_of_many_seconds_is_not_taken_for_a_slow_one(stand: Stand) -> None:
    """Who ends frames is not slow, though each read ends within one."""
    stand.revive()
    frame = h2.data(1, h2.message(bytes(990)))
    sent = itertools.cycle(frame * 701)
    async with raid(stand.port) as raider:
        await raider.send(h2.request(1, path("Count")))
        began = time.monotonic()
        while time.monotonic() - began < 1.5 * SECONDS:
            await raider.send(bytes(itertools.islice(sent, 701)))  # Raises `Cut`.
            await asyncio.sleep(0.005)


async def test_stream_ids_that_are_used_up_end_nothing_but_the_connection(stand: Stand) -> None:
    """The highest id is served; what would follow has an id that was passed by."""
    stand.revive()
    async with raw.connect(f"{HOST}:{stand.port}") as peer:
        assert (await peer.call(2**31 - 1, path("Echo"), b"last")).messages == [b"last"]
        await peer.send(h2.request(2**31 - 3, path("Echo"), end=True))
        # It may be ignored, as what was on its way when its stream ended, or end the connection.
        with contextlib.suppress(raw.Ended, OSError):
            await peer.settled()
        assert not any(frame.stream == 2**31 - 3 for frame in peer.seen)
    left = await stand.idle()
    assert (left["held"], left["in_flight"]) == (0, 0)
