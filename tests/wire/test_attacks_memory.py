"""Attackers who make the server keep things: it keeps no more than BUFFERED_BYTES_MAX, and closes who holds most.

The limit is lowered to `LIMIT_MIB`, so that little memory shows what much would do; with KVNODE_WIRE_HEAVY it is that of
limits.py, a gigabyte. The process may grow by

    LIMIT × SLACK               what is held; a partial message's buffer is up to an eighth larger than its bytes, and the
                                allocator keeps pages that are partly free
  + connections × 1.5 MiB       CONTROL_OUTPUT_BYTES_MAX, and one read of 256 KiB, which are not held yet
  + 16 MiB                      two threads unpack a message of 4 MiB each, in pieces and whole
  + 32 MiB                      code that runs for the first time, the last messages' copies
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import zlib
from collections.abc import Callable, Iterator

import pytest

from tests.wire import frames as h2
from tests.wire.pairs import path
from tests.wire.siege import HEAVY, Cut, Siege, Stand, besiege, raid
from tests.wire.test_attacks_floods import BODY, WIDE, call, streams

LIMIT_MIB = 1024 if HEAVY else 48
SLACK = 1.5
CONNECTION_MIB = 1.5
MANY = 200
STREAMS = 1_000
MIB = 1024 * 1024
TURN_MS_MAX = 15.0
"""Large messages are copied and unpacked in one go: 4 MiB take some milliseconds more than a turn may."""


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A server with little memory."""
    made = Stand("--limit", f"BUFFERED_BYTES_MAX={LIMIT_MIB * MIB}")
    yield made
    made.close()


def growth_mib_max(connections: int) -> float:
    """What the server's process may grow by."""
    return LIMIT_MIB * SLACK + connections * CONNECTION_MIB + 16 + 32


def packed(size: int) -> bytes:
    """So many zeros, as gzip."""
    packer = zlib.compressobj(9, wbits=31)
    return packer.compress(bytes(size)) + packer.flush()


BOMB = packed(4 * MIB - 1)
HUGE_BOMB = packed(64 * MIB)
PART = bytes(16_000)
FIELDS = h2.block(h2.request_fields(path("Wait"))) + h2.block((f"x{number}", "y" * 20) for number in range(230))


def half(number: int) -> bytes:
    """A quarter of a megabyte of a message of four."""
    first = h2.data(number, h2.message(PART, length=4 * MIB - 1))
    return h2.request(number, path("Deaf")) + first + h2.data(number, PART) * 14


ATTACKS: dict[str, tuple[Callable[[], Iterator[bytes]], int, bool]] = {
    "half-sent messages of 4 MiB": (streams(half, batch=50), 1, True),
    "half-sent messages of 4 MiB on many connections": (
        lambda: iter([b"".join(half(number) for number in range(1, 5, 2))]),
        MANY,
        True,
    ),
    "messages that nobody reads": (
        streams(lambda n: h2.request(n, path("Deaf")) + h2.data(n, h2.message(PART)) * 16, batch=50),
        1,
        True,
    ),
    "messages of no bytes that nobody reads": (
        streams(lambda n: h2.request(n, path("Deaf")) + h2.data(n, BODY * 3_200) * 16, batch=2),
        1,
        True,
    ),
    "requests of 4 MiB to a method that waits": (
        streams(lambda n: h2.request(n, path("Wait")) + h2.data(n, h2.message(bytes(16_000))), batch=200),
        1,
        False,
    ),
    "gzip bombs": (streams(lambda n: call(n, "Wait", h2.message(BOMB, flag=1), grpc_encoding="gzip"), batch=5), 1, False),
    "larger gzip bombs": (
        streams(lambda n: h2.request(n, path("Wait"), grpc_encoding="gzip") + large(n, h2.message(HUGE_BOMB, flag=1)), batch=5),
        1,
        False,
    ),
    "gzip bombs in a stream that nobody reads": (
        streams(
            lambda n: h2.request(n, path("Deaf"), grpc_encoding="gzip") + h2.data(n, h2.message(BOMB, flag=1)) * 60, batch=5
        ),
        1,
        True,
    ),
    "open calls with much metadata": (streams(lambda n: h2.headers(n, FIELDS), batch=50), 1, False),
    "open calls with much metadata on many connections": (
        lambda: iter([b"".join(h2.headers(number, FIELDS) for number in range(1, 21, 2))]),
        MANY,
        True,
    ),
    "responses of 1 MB that are not let through": (
        lambda: iter([h2.settings({h2.INITIAL_WINDOW_SIZE: 0}), *calls_of_big()]),
        1,
        True,
    ),
    "responses of 1 MB that are let through but for their last byte": (
        lambda: iter([h2.settings({h2.INITIAL_WINDOW_SIZE: 1_000_004}) + h2.window_update(0, 2**30), *calls_of_big()]),
        1,
        True,
    ),
}
"""What is sent, on how many connections, and whether that is more than the limit, so that somebody is cut off."""


def large(number: int, body: bytes) -> bytes:
    """A body in frames."""
    starts = range(0, len(body), 16_000)
    return b"".join(h2.data(number, body[at : at + 16_000], end=at + 16_000 >= len(body)) for at in starts)


def calls_of_big() -> Iterator[bytes]:
    """Calls whose answers are a megabyte each."""
    for start in range(1, 2 * STREAMS, 40):
        yield b"".join(call(number, "Big", h2.message(b"1000000")) for number in range(start, start + 40, 2))


async def hold_on(siege: Siege, make: Callable[[], Iterator[bytes]], connections: int) -> None:
    """Connections that send what `make` yields, at most what 1,000 streams carry, and then stay."""

    async def one() -> None:
        with contextlib.suppress(OSError):
            async with raid(siege.port) as raider:
                with contextlib.suppress(Cut):
                    for part in itertools.islice(make(), STREAMS):
                        siege.sent += len(part)
                        await raider.send(part)
                siege.codes.append(await raider.end())

    async with asyncio.TaskGroup() as group:
        for _ in range(connections):
            group.create_task(one())


@pytest.mark.parametrize(
    "name", [name for name in ATTACKS if HEAVY or name != "open calls with much metadata on many connections"]
)
async def test_attacker_who_fills_the_memory_is_cut_off_at_its_limit(stand: Stand, name: str) -> None:
    """The connection that holds most is closed; the process stays within its bounds, and nothing is left afterwards."""
    make, connections, is_too_much = ATTACKS[name]
    siege = await besiege(
        stand,
        lambda siege: hold_on(siege, make, connections),
        seconds=1.0 if HEAVY else 0.2,
        until=lambda siege: bool(siege.codes) or not is_too_much,
    )
    siege.assert_memory_is_bounded(growth_mib_max(connections))
    siege.assert_nothing_is_left()
    assert siege.held_mib <= LIMIT_MIB
    if is_too_much:
        # (Where the server had much to send, its last word may be lost behind that.)
        assert siege.codes, str(siege)
        assert set(siege.codes) <= {h2.ENHANCE_YOUR_CALM, None}, str(siege)
    if connections == 1:  # (Two hundred that are busy at once have two hundred turns.)
        siege.assert_others_are_served(TURN_MS_MAX)


async def test_peer_that_never_reads_is_given_up(stand: Stand) -> None:
    """A thousand answers of a megabyte stay within the limit; a million small ones within CONTROL_OUTPUT_BYTES_MAX."""

    async def attack(siege: Siege, big: bool) -> None:
        async with raid(siege.port) as raider:
            await raider.stop_reading()
            parts = [WIDE, *calls_of_big()] if big else itertools.chain([WIDE], streams(lambda n: call(n, "Echo"))())
            with contextlib.suppress(Cut):
                for part in parts:
                    siege.sent += len(part)
                    await raider.send(part)
            await raider.end()

    for big in (True, False):
        siege = await besiege(stand, lambda siege, big=big: attack(siege, big), rounds=1, seconds=0.3)  # type: ignore[misc]
        siege.assert_memory_is_bounded(growth_mib_max(1))
        siege.assert_nothing_is_left()
        assert siege.held_mib <= LIMIT_MIB
        siege.assert_others_are_served(TURN_MS_MAX)
