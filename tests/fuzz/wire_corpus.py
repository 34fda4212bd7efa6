"""Conversations that real clients and servers had, and what may go wrong on the way.

The corpus is recorded anew by `python -m tests.fuzz.record_wire`. A file is a sequence of (">" or "<", four bytes of length,
bytes): what the client and the server sent, in the order in which it passed by.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from hypothesis import strategies as st

from kvwire import frames
from tests.wire import frames as h2

CORPUS = Path(__file__).parent / "corpus" / "wire"
TO_SERVER, TO_CLIENT = b">", b"<"

Pieces = list[bytes]


def load(path: Path) -> list[tuple[bytes, bytes]]:
    """(direction, bytes) of a recorded conversation."""
    data, found, at = path.read_bytes(), [], 0
    while at < len(data):
        direction, size = data[at : at + 1], struct.unpack_from(">I", data, at + 1)[0]
        found.append((direction, data[at + 5 : at + 5 + size]))
        at += 5 + size
    return found


def save(path: Path, conversation: Sequence[tuple[bytes, bytes]]) -> None:
    """Writes what `load` reads."""
    path.write_bytes(b"".join(direction + struct.pack(">I", len(data)) + data for direction, data in conversation))


def names() -> list[str]:
    """Of the recorded conversations."""
    return sorted(path.stem for path in CORPUS.glob("*.bin"))


@cache
def one_side(name: str, direction: bytes) -> bytes:
    """All that one side sent."""
    return b"".join(data for to, data in load(CORPUS / f"{name}.bin") if to == direction)


def split(data: bytes) -> Pieces:
    """The preface, if it is there, and the frames; bytes that make no frame are the last piece."""
    pieces, at = [], 0
    if data.startswith(frames.PREFACE):
        pieces, at = [frames.PREFACE], len(frames.PREFACE)
    while at < len(data):
        end = at + 9 + int.from_bytes(data[at : at + 3], "big")
        pieces.append(data[at:end])
        at = end
    return pieces


# ---- what may go wrong ------------------------------------------------------------------------------------------------

_boundaries = st.sampled_from((0, 1, 2, 16_383, 16_384, 65_535, 262_144, 2**31 - 65_536, 2**31 - 1, 2**31, 2**32 - 1))
words = st.one_of(_boundaries, st.integers(0, 2**32 - 1))
stream_ids = st.one_of(st.sampled_from((0, 1, 2, 3, 5, 7, 9, 41, 2**31 - 1)), st.integers(0, 30))
bodies = st.one_of(
    st.binary(max_size=40),
    st.builds(h2.message, st.binary(max_size=30)),
    st.builds(lambda body, flag: h2.message(body, flag=flag), st.binary(max_size=30), st.integers(0, 3)),
    st.builds(
        lambda body, size: h2.message(body, length=size), st.binary(max_size=30), st.sampled_from((0, 40, 290_000, 2**32 - 1))
    ),
    st.integers(0, 16_384).map(bytes),
)
_NAMES = (
    *(":method", ":path", ":status", ":scheme", "te", "content-type", "grpc-timeout", "grpc-encoding", "grpc-status"),
    *("grpc-message", "x", "x-bin", "X"),
)
_values = st.one_of(
    st.sampled_from(
        ("", "POST", "200", "0", "8", "1S", "99999999H", "gzip", "trailers", "application/grpc", "YQ", "%41%", "\x00")
    ),
    st.text(st.characters(max_codepoint=255), max_size=10),
)
_fields = st.one_of(
    st.builds(h2.literal, st.sampled_from(_NAMES), _values, remember=st.booleans(), huffman=st.booleans()),
    st.integers(0, 70).map(h2.indexed),
    st.sampled_from((0, 4096, 2**20)).map(h2.table_size),
    st.binary(max_size=5),
)
blocks = st.one_of(
    st.sampled_from(("Echo", "Wait", "Fail", "Big", "Many", "Count", "Chat", "Deaf", "Nothing")).map(
        lambda name: h2.block(h2.request_fields(f"/wire.test.Service/{name}"))
    ),
    st.just(h2.block([(":status", "200"), ("content-type", "application/grpc")])),
    st.just(h2.block([("grpc-status", "0")])),
    st.lists(_fields, max_size=6).map(b"".join),
)
new_frames = st.one_of(
    st.builds(h2.data, stream_ids, bodies, end=st.booleans(), padding=st.one_of(st.none(), st.integers(0, 255))),
    st.builds(
        h2.headers, stream_ids, blocks, end=st.booleans(), flags=st.sampled_from((h2.END_HEADERS,) * 3 + (0, 0x24, 0x0C))
    ),
    st.builds(
        lambda stream, block, flags: h2.frame(h2.CONTINUATION, flags, stream, block),
        stream_ids,
        blocks,
        st.sampled_from((0, 4)),
    ),
    st.builds(h2.rst, stream_ids, st.integers(0, 20)),
    st.builds(h2.settings, st.dictionaries(st.integers(0, 9), words, max_size=4)),
    st.just(h2.settings_ack()),
    st.builds(h2.ping, st.binary(min_size=8, max_size=8), ack=st.booleans()),
    st.builds(h2.goaway, stream_ids, st.integers(0, 20), st.binary(max_size=10)),
    st.builds(h2.window_update, stream_ids, words),
    st.builds(h2.frame, st.integers(0, 20), st.integers(0, 255), stream_ids, st.binary(max_size=20)),
)
"""Frames of each kind, mostly well-formed."""


def _changed(pieces: Pieces, place: int, change: tuple[str, int, bytes]) -> Pieces:
    """One thing goes wrong."""
    kind, number, extra = change
    if not pieces:
        return [extra]
    place %= len(pieces)
    piece = pieces[place]
    head, payload = bytearray(piece[:9]), piece[9:]
    if kind == "insert":
        return [*pieces[:place], extra, *pieces[place:]]
    if kind == "drop":
        return [*pieces[:place], *pieces[place + 1 :]]
    if kind == "repeat":
        return [*pieces[: place + 1], *[piece] * (1 + number % 3), *pieces[place + 1 :]]
    if kind == "swap":
        other = number % len(pieces)
        pieces = list(pieces)
        pieces[place], pieces[other] = pieces[other], pieces[place]
        return pieces
    if kind == "bit" and piece:
        at = number % (8 * len(piece))
        piece = piece[: at // 8] + bytes([piece[at // 8] ^ 1 << at % 8]) + piece[at // 8 + 1 :]
    elif kind == "cut":
        piece = piece[: number % (len(piece) + 1)]
    elif kind == "kind" and len(head) == 9:
        head[3] = number % 12
        piece = bytes(head) + payload
    elif kind == "flags" and len(head) == 9:
        head[4] ^= 1 << number % 8
        piece = bytes(head) + payload
    elif kind == "stream" and len(head) == 9:
        piece = bytes(head[:5]) + struct.pack(">I", number % 2**32) + payload
    elif kind == "payload" and len(head) == 9:
        at = number % (len(payload) + 1)
        payload = payload[:at] + extra + payload[at:]
        piece = len(payload).to_bytes(4, "big")[1:] + bytes(head[3:]) + payload if len(payload) < 2**24 else piece
    return [*pieces[:place], piece, *pieces[place + 1 :]]


changes = st.one_of(
    st.tuples(st.just("insert"), st.just(0), new_frames),
    st.tuples(st.just("insert"), st.just(0), new_frames),
    st.tuples(st.sampled_from(("drop", "repeat", "swap", "bit", "cut", "kind", "flags")), st.integers(0, 2**16), st.just(b"")),
    st.tuples(st.just("stream"), stream_ids, st.just(b"")),
    st.tuples(st.just("payload"), st.integers(0, 2**16), st.binary(max_size=6)),
)


def conversations(direction: bytes) -> st.SearchStrategy[bytes]:
    """One side of a recorded conversation, in which some things went wrong; or one that was made up."""

    def play(pieces: Pieces, accidents: list[tuple[int, tuple[str, int, bytes]]]) -> bytes:
        for place, change in accidents:
            pieces = _changed(pieces, place, change)
        return b"".join(pieces)

    first = [frames.PREFACE] if direction == TO_SERVER else []
    begin = [*first, h2.settings(), h2.settings_ack()]
    recorded = st.sampled_from(names()).map(lambda name: split(one_side(name, direction)))
    made_up = st.lists(new_frames, max_size=15).map(lambda parts: [*begin, *parts])
    accidents = st.lists(st.tuples(st.integers(0, 200), changes), max_size=5)
    return st.builds(play, st.one_of(recorded, made_up), accidents)


def scripts(direction: bytes) -> st.SearchStrategy[list[tuple[bytes, bool]]]:
    """The same in pieces, and whether the peer reads meanwhile."""

    def cut(data: bytes, cuts: list[int], reads: list[bool]) -> list[tuple[bytes, bool]]:
        places = sorted({0, len(data), *(place % (len(data) + 1) for place in cuts)})
        pieces = [data[start:end] for start, end in itertools.pairwise(places)]
        return [(piece, reads[number % len(reads)]) for number, piece in enumerate(pieces)]

    reads = st.one_of(st.just([True]), st.lists(st.booleans(), min_size=1, max_size=4))
    return st.builds(cut, conversations(direction), st.lists(st.integers(0, 2**16), max_size=6), reads)
