"""Frames as bytes, against builders that share nothing with them; and conversations cut anywhere."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvwire import frames
from kvwire.stream import framed
from tests.fuzz.profile import fuzz
from tests.unit.kvwire import cores
from tests.wire import frames as h2

streams = st.integers(0, frames.STREAM_ID_MAX)
words = st.integers(0, 2**32 - 1)


@fuzz(60)
@given(st.integers(0, 255), st.integers(0, 255), streams, st.binary(max_size=300))
def test_frame_of_any_kind_is_what_others_build(kind: int, flags: int, stream: int, payload: bytes) -> None:
    """Nine bytes and the payload; the head is read back."""
    whole = frames.frame(kind, flags, stream, payload)
    assert whole == h2.frame(kind, flags, stream, payload) == frames.head(kind, flags, stream, len(payload)) + payload
    word, read_flags, read_stream = frames.read_head(whole, 0)
    assert (word >> 8, word & 0xFF, read_flags, read_stream) == (len(payload), kind, flags, stream)


@fuzz(60)
@given(streams, words, words, st.binary(max_size=20), st.lists(st.tuples(st.integers(0, 65_535), words), max_size=5))
def test_control_frames_with_any_numbers_are_what_others_build(
    stream: int, word: int, code: int, text: bytes, pairs: list[tuple[int, int]]
) -> None:
    """RST_STREAM, WINDOW_UPDATE, GOAWAY and SETTINGS."""
    assert frames.rst_stream(stream, word) == h2.rst(stream, word)
    assert frames.window_update(stream, word) == h2.window_update(stream, word)
    assert frames.goaway(stream, code, text) == h2.goaway(stream, code, text)
    assert frames.read_word(h2.rst(stream, word)[9:]) == word
    assert list(frames.read_settings(frames.settings(pairs)[9:])) == pairs
    assert frames.settings(dict(pairs).items()) == h2.settings(dict(pairs))


@fuzz(60)
@given(streams, st.binary(max_size=2_000), st.booleans(), st.integers(1, 700))
def test_header_block_of_any_size_is_cut_into_frames_that_make_it_again(
    stream: int, block: bytes, ends: bool, size_max: int
) -> None:
    """HEADERS, and CONTINUATION for what does not fit; the block's end is marked once, the stream's end at the head."""
    whole = frames.headers(stream, block, frames.END_STREAM if ends else 0, size_max)
    parts = list(cores.FrameReader().feed(whole))
    assert b"".join(payload for _, _, _, payload in parts) == block
    assert [kind for kind, _, _, _ in parts] == [frames.HEADERS] + [frames.CONTINUATION] * (len(parts) - 1)
    assert [bool(flags & frames.END_HEADERS) for _, flags, _, _ in parts] == [False] * (len(parts) - 1) + [True]
    assert [flags & frames.END_STREAM for _, flags, _, _ in parts] == [int(ends)] + [0] * (len(parts) - 1)
    assert all(number == stream and len(payload) <= size_max for _, _, number, payload in parts)


@fuzz(60)
@given(st.lists(st.binary(max_size=400), max_size=6), st.lists(st.integers(1, 400), min_size=1, max_size=12), st.randoms())
def test_conversation_that_is_cut_anywhere_is_read_as_if_it_came_whole(
    messages: list[bytes], cuts: list[int], rng: object
) -> None:
    """A request of any messages, framed and cut without regard to each other."""
    from random import Random

    assert isinstance(rng, Random)
    body = b"".join(framed(message) for message in messages)
    sent = h2.PREFACE + h2.settings() + b"".join(h2.cut(h2.block(h2.request_fields("/a/b")), 1, rng.randint(1, 200)))
    while body:
        size = rng.randint(1, len(body))
        padding = rng.choice((None, None, 0, 7, 255))
        sent += h2.data(1, body[:size], padding=padding, end=size == len(body))
        body = body[size:]
    if not messages:
        sent += h2.data(1, end=True)
    server, memory = cores.server_core()
    position = 0
    while position < len(sent):
        size = rng.choice(cuts)
        cores.feed(server, sent[position : position + size], 0.0)
        position += size
    assert server.closed is None
    stream = server.streams[1]
    assert isinstance(stream, cores.ServedStream)
    read = []
    while (message := cores.read_now(stream.inbox)) is not None:
        read.append(message)
    assert (read, stream.ended, memory.held) == (messages, True, 0)
