"""Header blocks that cost more than they weigh: bombs of references, Huffman codes, thousands of fields, ever new ones.

Bounds: METADATA_SIZE_BYTES_MAX (a list above it is refused by its call, one of four times as much ends the connection),
HEADER_FIELDS_MAX, four times the metadata's limit (64 KiB) for a block, HEADER_MEMO_* for what is remembered: a connection
remembers at most 128 blocks of 512 bytes in 32 fields, and 128 fields of 512 bytes: some hundred KiB.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.pairs import HOST, path
from tests.wire.siege import HEAVY, Siege, Stand, besiege, flood
from tests.wire.test_attacks_floods import BODY, CONNECTIONS, GROWTH_MIB_MAX, streams

ECHO = h2.block(h2.request_fields(path("Echo")))
PREFACE = h2.PREFACE + h2.settings()
"""Without the acknowledgement that gives the dynamic table up."""


@pytest.fixture(scope="module")
def stand() -> Iterator[Stand]:
    """A server with the limits of limits.py."""
    made = Stand()
    yield made
    made.close()


BOMBS = {
    "4 KB entry referred to by 15,000 bytes": [
        h2.headers(1, ECHO + h2.literal("x", "y" * 4_000, remember=True), end=True),
        h2.headers(3, ECHO + h2.indexed(62) * 15_000, end=True),
    ],
    "static field 60,000 times": h2.cut(ECHO + h2.indexed(16) * 60_000, 1, 16_000, end=True),
    "Huffman codes of 100 KB": h2.cut(ECHO + h2.literal("x", "0" * 100_000, huffman=True), 1, 16_000, end=True),
    "block of 65 KB": h2.cut(ECHO + h2.literal("x", "y" * 66_000), 1, 16_000, end=True),
    "10,000 fields of one letter": h2.cut(ECHO + h2.literal("x", "") * 12_000, 1, 16_000, end=True),
    "integer without end": [h2.headers(1, b"\x7f" + b"\xff" * 1_000, end=True)],
    "string longer than its block": [h2.headers(1, ECHO + b"\x00\x01x\x7f\xff\xff\xff\x7f", end=True)],
    "Huffman code that is none": [h2.headers(1, ECHO + b"\x00\x01x\x84\xff\xff\xff\xff", end=True)],
    "entry that nobody made": [h2.headers(1, ECHO + h2.indexed(200), end=True)],
    "table of a gigabyte": [h2.headers(1, h2.table_size(2**30) + ECHO, end=True)],
}
"""Blocks that no list within the limits becomes."""


@pytest.mark.parametrize("settled", [False, True], ids=["with the table", "without it"])
@pytest.mark.parametrize("name", BOMBS)
async def test_header_bomb_is_refused_before_it_expands(stand: Stand, name: str, settled: bool) -> None:
    """GOAWAY says COMPRESSION_ERROR, or ENHANCE_YOUR_CALM for what is too much; or, where the decoder needs no state, the call
    alone is refused."""
    stand.revive()
    before = stand.memory_mib()
    async with raw.connect(f"{HOST}:{stand.port}", preface=PREFACE + (h2.settings_ack() if settled else b"")) as peer:
        peer.acks_settings = False
        await peer.send(*BOMBS[name])
        last = int.from_bytes(BOMBS[name][-1][5:9], "big")
        try:
            assert (await peer.answer(last)).status == 8
        except raw.Ended:
            goaway = await peer.end()
            assert goaway is not None
            assert goaway.number in (h2.COMPRESSION_ERROR, h2.ENHANCE_YOUR_CALM)
    left = await stand.idle()
    assert (left["held"], left["in_flight"]) == (0, 0)
    assert stand.memory_mib() - before < GROWTH_MIB_MAX


@pytest.mark.parametrize(
    "fields",
    [[(f"name-{number}", "value") for number in range(400)], [("name", "v" * 17_000)], [("n", "")] * 513],
    ids=["many fields", "a large value", "more fields than one may have"],
)
async def test_metadata_above_the_limit_are_refused_by_their_call_alone(stand: Stand, fields: list[tuple[str, str]]) -> None:
    """RESOURCE_EXHAUSTED; the next call of the connection is served."""
    stand.revive()
    async with raw.connect(f"{HOST}:{stand.port}") as peer:
        await peer.send(*h2.cut(ECHO + h2.block(fields), 1, 16_000))
        assert (await peer.answer(1)).status == 8
        assert (await peer.call(3, path("Echo"), b"x")).messages == [b"x"]


TABLE = [h2.headers(1, ECHO + h2.literal("x", "y" * 3_000, remember=True)), h2.rst(1)]
HUFFMAN = h2.literal("x", "0" * 9_000, huffman=True)
LONG_HUFFMAN = h2.literal("x", "0" * 240_000, huffman=True)
COSTLY: dict[str, Callable[[], Iterator[bytes]]] = {
    "fields that are ever new": streams(
        lambda n: h2.headers(n, ECHO + h2.block((f"x{n}-{i}", "y") for i in range(20))) + h2.data(n, BODY, end=True), batch=50
    ),
    "Huffman codes of 6 KB": streams(lambda n: h2.headers(n, ECHO + h2.literal("x", str(n)) + HUFFMAN, end=True), batch=20),
    "Huffman codes of 150 KB": lambda: (
        part for start in itertools.count(1, 2) for part in h2.cut(ECHO + LONG_HUFFMAN, start, 16_000, end=True)
    ),
    "metadata of 500 fields": streams(
        lambda n: h2.headers(n, ECHO + h2.block([("a", str(n))] * 300)) + h2.data(n, BODY, end=True), batch=20
    ),
    "lists that are refused": streams(lambda n: h2.headers(n, ECHO + h2.indexed(16) * 700, end=True), batch=100),
    "4 KB entry within the limit": lambda: itertools.chain(
        TABLE, streams(lambda n: h2.headers(n + 2, ECHO + h2.indexed(62) * 4, end=True))()
    ),
}
"""Blocks within the limits, one after the other."""


RARE = frozenset(["Huffman codes of 150 KB", "metadata of 500 fields", "4 KB entry within the limit"])
"""Those that take long, or hardly differ: only with KVNODE_WIRE_HEAVY."""


@pytest.mark.parametrize("name", [name for name in COSTLY if HEAVY or name not in RARE])
async def test_flood_of_costly_header_blocks_slows_nobody_down(stand: Stand, name: str) -> None:
    """What others' connections remember is theirs, and turns are counted by what a block costs."""

    async def attack(siege: Siege) -> None:
        await flood(siege, COSTLY[name], CONNECTIONS)

    siege = await besiege(stand, attack)
    siege.assert_memory_is_bounded(GROWTH_MIB_MAX)
    siege.assert_nothing_is_left()
    siege.assert_others_are_served()
