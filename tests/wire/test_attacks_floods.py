"""Floods from a connection that does nothing else: it is cut off or takes its turns, and other callers hardly notice.

Bounds: `*_PER_SECOND_MAX` and `WORK_PER_TURN_MAX` of limits.py. Nothing here makes the server hold anything for long, so its
memory may grow by `GROWTH_MIB_MAX` alone: one read of 256 KiB, one output of CONTROL_OUTPUT_BYTES_MAX (1 MiB) and
STREAMS_MAX calls of some 8 KiB (CALL_OVERHEAD_BYTES) on each of a few connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.wire import frames as h2
from tests.wire.pairs import path
from tests.wire.siege import HEAVY, Cut, Siege, Stand, besiege, flood, raid

GROWTH_MIB_MAX = 32
CONNECTIONS = 4 if HEAVY else 1
ECHO = h2.block(h2.request_fields(path("Echo")))
NOWHERE = h2.block(h2.request_fields(path("Nowhere")))
NO_GRPC = b"\x83\x86\x84"
"""POST, http, "/": the shortest request there is."""
BODY = h2.message(b"")


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A server with the limits of limits.py."""
    made = Stand()
    yield made
    made.close()


def again(part: bytes, *first: bytes) -> Callable[[], Iterator[bytes]]:
    """`first`, then the same for ever, 64 KiB at once."""
    return lambda: itertools.chain(first, itertools.repeat(part * (65_536 // len(part))))


def streams(make: Callable[[int], bytes], *first: bytes, batch: int = 200) -> Callable[[], Iterator[bytes]]:
    """`first`, then one stream after the other, until no ids are left."""

    def parts() -> Iterator[bytes]:
        yield from first
        for start in range(1, 2**31 - 2 * batch, 2 * batch):
            yield b"".join(make(number) for number in range(start, start + 2 * batch, 2))

    return parts


def call(number: int, method: str, body: bytes = BODY, **changes: str) -> bytes:
    """A whole unary request."""
    return h2.request(number, path(method), (), **changes) + h2.data(number, body, end=True)


WIDE = h2.settings({h2.INITIAL_WINDOW_SIZE: 2**31 - 1}) + h2.window_update(0, 2**31 - 1 - h2.WINDOW)
BLOCKED = h2.settings({h2.INITIAL_WINDOW_SIZE: 0}) + b"".join(
    call(number, "Big", h2.message(b"1000")) for number in range(1, 2_000, 2)
)

CUT_OFF = {
    "PING": again(h2.ping()),
    "acknowledged PING": again(h2.ping(ack=True)),
    "SETTINGS": again(h2.settings()),
    "acknowledged SETTINGS": again(h2.settings_ack()),
    "SETTINGS of all sorts": again(h2.settings(dict.fromkeys(range(7, 2000), 1))),
    "windows that open and shut": again(h2.settings({4: 1}) + h2.settings({4: 0}), BLOCKED),
    "PRIORITY": again(h2.frame(h2.PRIORITY, 0, 1, b"\x00\x00\x00\x00\x10")),
    "unknown frames": again(h2.frame(0x20)),
    "large unknown frames": again(h2.frame(0x20, 0, 0, bytes(1_000))),
    "empty DATA": again(h2.data(1), h2.request(1, path("Deaf"))),
    "empty DATA with padding": again(h2.data(1, padding=200), h2.request(1, path("Count"))),
    "DATA of a stream that ended": again(h2.data(1, b"x"), h2.request(1, path("Echo"), end=True)),
    "CONTINUATION (CVE-2024-27316)": again(h2.frame(h2.CONTINUATION, 0, 1), h2.headers(1, ECHO, flags=0)),
    "large CONTINUATION": again(h2.frame(h2.CONTINUATION, 0, 1, bytes(16_000)), h2.headers(1, ECHO, flags=0)),
    "GOAWAY": again(h2.goaway(0)),
    "rapid reset (CVE-2023-44487)": streams(lambda number: h2.headers(number, ECHO) + h2.rst(number)),
    "rapid reset of handlers": streams(lambda number: call(number, "Wait") + h2.rst(number)),
    "two HEADERS (CVE-2025-8671)": streams(lambda number: h2.headers(number, ECHO) * 2),
    "an update of nothing (CVE-2025-8671)": streams(lambda number: h2.headers(number, ECHO) + h2.window_update(number, 0)),
    "a window that overflows (CVE-2025-8671)": streams(
        lambda number: h2.headers(number, ECHO) + h2.window_update(number, 2**31 - 1)
    ),
    "malformed requests": streams(lambda number: h2.headers(number, h2.block([("Upper", "case")]))),
}
"""Floods that no client needs; GOAWAY says ENHANCE_YOUR_CALM."""
RARE = frozenset(
    [
        *("acknowledged PING", "acknowledged SETTINGS", "SETTINGS of all sorts", "large unknown frames", "GOAWAY"),
        *("empty DATA with padding", "WINDOW_UPDATE of a stream that ended", "rapid reset of handlers", "large CONTINUATION"),
        *("an update of nothing (CVE-2025-8671)", "a window that overflows (CVE-2025-8671)", "calls with bad messages"),
        *("calls with trailers", "messages of a byte", "endless responses of 1 KB", "DATA of a stream that ended"),
        *("malformed requests", "windows that open by one byte"),
    ]
)
"""Those that hardly differ from another one: only with KVNODE_WIRE_HEAVY."""

IN_TURN = {
    "valid calls": streams(lambda number: call(number, "Echo"), WIDE),
    "calls of an unknown method": streams(lambda number: h2.headers(number, NOWHERE, end=True)),
    "requests that are no gRPC": streams(lambda number: h2.headers(number, NO_GRPC, end=True), batch=2_000),
    "calls that are too late at once": streams(lambda number: call(number, "Wait", grpc_timeout="1n")),
    "calls with ever different headers": streams(lambda number: call(number, "Echo", extra=str(number))),
    "calls with bad messages": streams(lambda number: call(number, "Echo", b"\x01\x00\x00\x00\x00")),
    "calls with trailers": streams(lambda number: h2.headers(number, ECHO) + h2.headers(number, b"\x00\x01a\x01b", end=True)),
    "messages of no bytes": again(h2.data(1, BODY * 3_276) * 4, h2.request(1, path("Count"))),
    "messages of a byte": again(h2.data(1, h2.message(b"x")), h2.request(1, path("Count"))),
    "WINDOW_UPDATE of the connection": again(h2.window_update(0, 1)),
    "WINDOW_UPDATE of a stream that ended": again(h2.window_update(1, 1), h2.request(1, path("Echo"), end=True)),
    "windows that open by one byte": again(b"".join(h2.window_update(number, 1) for number in range(1, 2_000, 2)), BLOCKED),
    "endless responses of no bytes": lambda: iter([WIDE + call(1, "Endless", h2.message(b"0"))]),
    "endless responses of 1 KB": lambda: iter([WIDE + call(1, "Endless", h2.message(b"1000"))]),
    "endless responses of 1 MB": lambda: iter([WIDE + call(1, "Endless", h2.message(b"1000000"))]),
}
"""Loads that are permitted, as fast as they go: the server works for them when it is their turn. (Some break a rule by their
haste, as more streams than announced, and are cut off for that.)"""


async def hit_and_run(siege: Siege, requests: bytes) -> None:
    """Connections that send a read's worth of requests at once, and are gone."""
    while True:
        with contextlib.suppress(OSError, Cut):
            async with raid(siege.port) as raider:
                siege.sent += len(requests)
                await raider.send(requests)
        await asyncio.sleep(0.01)


async def test_requests_of_peers_that_are_gone_harm_nobody(stand: Stand) -> None:
    """What is still to be looked at when a connection is lost must not be looked at in one turn."""
    requests = b"".join(h2.headers(number, NOWHERE, end=True) for number in range(1, 4_000, 2))
    siege = await besiege(stand, lambda siege: hit_and_run(siege, requests))
    siege.assert_memory_is_bounded(GROWTH_MIB_MAX)
    siege.assert_nothing_is_left()
    siege.assert_others_are_served()


@pytest.mark.parametrize("name", [name for name in CUT_OFF if HEAVY or name not in RARE])
async def test_flood_of_useless_frames_is_cut_off_and_harms_nobody(stand: Stand, name: str) -> None:
    """The attacker comes again as soon as it was cut off; others' calls go on, and nothing is left of it."""
    siege = await besiege(stand, lambda siege: flood(siege, CUT_OFF[name], CONNECTIONS))
    siege.assert_attackers_are_cut_off()
    siege.assert_memory_is_bounded(GROWTH_MIB_MAX)
    siege.assert_nothing_is_left()
    siege.assert_others_are_served()


@pytest.mark.parametrize("name", [name for name in IN_TURN if HEAVY or name not in RARE])
async def test_flood_of_work_is_done_in_turns_and_harms_nobody(stand: Stand, name: str) -> None:
    """However much one connection asks for, the next one's turn comes soon."""
    siege = await besiege(stand, lambda siege: flood(siege, IN_TURN[name], CONNECTIONS))
    siege.assert_memory_is_bounded(GROWTH_MIB_MAX)
    siege.assert_nothing_is_left()
    siege.assert_others_are_served()
