"""What a peer may make a connection do and hold: floods, resets, uploads that never pause, messages that are nearly read."""

from __future__ import annotations

from typing import Any

import pytest

from kvwire import frames, limits
from kvwire.connection import Connection
from kvwire.server_connection import ServerConnection
from kvwire.stream import framed
from tests.unit.kvwire import cores
from tests.wire import frames as h2

BLOCK = h2.block(h2.request_fields("/wire.test.Service/Method"))


def served(streams: int = 1, **sizes: int) -> ServerConnection:
    """A server's core, settled, with so many calls open whose requests have not come."""
    server, _ = cores.server_core(**sizes)
    cores.feed(server, h2.PREFACE + h2.settings() + h2.settings_ack(), 0.0)
    cores.feed(server, b"".join(h2.headers(number, BLOCK) for number in range(1, 2 * streams, 2)), 0.0)
    server.take()
    assert len(server.streams) == streams
    return server


def goaway_code(core: Connection[Any]) -> int | None:
    """The code of the GOAWAY that waits to be taken."""
    codes = [int.from_bytes(payload[4:8], "big") for kind, _, _, payload in cores.FrameReader().feed(core.take()) if kind == 7]
    return codes[-1] if codes else None


def test_upload_that_never_pauses_is_not_taken_for_a_frame_that_never_ends() -> None:
    """Reads of a busy upload end within a frame, nearly always; each frame that ends shows that the peer is alive."""
    server, now = served(), 0.0
    sent = h2.data(1, framed(bytes(16_379))) * 20
    for position in range(0, len(sent), 10_000):
        now += 1.5
        cores.feed(server, sent[position : position + 10_000], now)
        stream = server.streams[1]
        assert isinstance(stream, cores.ServedStream)
        while cores.read_now(stream.inbox) is not None:
            pass
        assert server.closed is None
        assert server.unfinished_for(now) < limits.FRAME_SECONDS_MAX


@pytest.mark.parametrize("begun", [b"\x00\x40\x00\x00\x00\x00\x00\x00\x01", h2.headers(3, BLOCK, flags=0)])
def test_frame_that_never_ends_is_known_to_be_old(begun: bytes) -> None:
    """Whatever little comes of a frame or of a header block, its beginning counts."""
    server = served()
    cores.feed(server, begun, 5.0)
    for second in range(6, 30):
        # Bytes of a frame's payload in the one case; CONTINUATIONs of no size, with a part of the next one, in the other.
        more = b"\x00" if begun[3] == frames.DATA else h2.frame(frames.CONTINUATION, 0, 3)
        cores.feed(server, more, float(second))
    assert server.closed is None
    assert server.unfinished_for(29.0) == 24.0


def test_frames_of_a_stream_that_we_ended_early_are_no_flood() -> None:
    """What was under way when a server answered early, or a client cancelled, may be a whole window in the smallest frames."""
    server = served()
    stream = server.streams[1]
    frame = h2.data(1, framed(b"x" * 20))
    stream.answer_end()
    cores.feed(server, frame * (limits.STREAM_WINDOW_BYTES // 25), 1.0)
    assert server.closed is None


def test_calls_that_are_refused_at_once_are_no_flood() -> None:
    """A server that sheds load ends calls before their requests have come; the connection goes on."""
    server = served(0)
    for number in range(1, 20_001, 2):
        cores.feed(server, h2.headers(number, BLOCK), 1.0)
        server.streams[number].answer_end(b"8")
        cores.feed(server, h2.data(number, framed(b"request"), end=True), 1.0)
        server.take()
    assert server.closed is None


@pytest.mark.parametrize(
    "again",
    [
        lambda number: h2.headers(number, BLOCK),
        lambda number: h2.window_update(number, 0),
        lambda number: h2.window_update(number, frames.WINDOW_MAX),
    ],
    ids=["headers within a request", "an update of nothing", "a window that overflows"],
)
def test_streams_that_a_peer_makes_us_reset_are_counted_as_its_resets(again: Any) -> None:
    """CVE-2025-8671, "MadeYouReset": whose fault a reset is, not who sends it, is what counts."""
    server = served(0)
    for number in range(1, 4 * limits.RESETS_PER_SECOND_MAX, 2):
        cores.feed(server, h2.headers(number, BLOCK) + again(number), 1.0)
        if server.closed is not None:
            assert goaway_code(server) == frames.ENHANCE_YOUR_CALM
            return
        server.take()
    raise AssertionError("resets went on and on")


def test_settings_with_thousands_of_windows_touch_each_stream_once() -> None:
    """16 KiB of SETTINGS would else change 1,024 windows 2,730 times: half a second."""
    changes = 0

    class Counting(cores.ServedStream):
        def __setattr__(self, name: str, value: Any) -> None:
            nonlocal changes
            changes += name == "send_window"
            super().__setattr__(name, value)

    server, _ = cores.server_core(accept=lambda connection, number: Counting(connection, number, 1 << 20))
    cores.feed(server, h2.PREFACE + h2.settings() + b"".join(h2.headers(number, BLOCK) for number in range(1, 200, 2)), 0.0)
    changes = 0
    cores.feed(server, frames.settings((frames.INITIAL_WINDOW_SIZE, 1_000 + number % 2) for number in range(2_700)), 0.0)
    assert server.closed is None
    assert changes <= len(server.streams)
    assert {stream.send_window for stream in server.streams.values()} == {1_001}


@pytest.mark.parametrize("flags", [0, h2.PADDED, h2.PRIORITISED], ids=["plain", "padded", "prioritised"])
def test_header_block_in_parts_is_held_until_it_is_whole(flags: int) -> None:
    """What surrounds a block in its first frame is gone with it."""
    server = served(0)
    around = {0: b"", h2.PADDED: b"\x20", h2.PRIORITISED: bytes(4) + b"\x10"}[flags]
    padding = bytes(32 if flags == h2.PADDED else 0)
    cores.feed(server, h2.frame(h2.HEADERS, flags, 1, around + BLOCK[:20] + padding), 0.0)
    assert server.held >= 20
    cores.feed(server, h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, BLOCK[20:]), 0.0)
    assert 1 in server.streams
    assert server.held == 0


def test_message_that_is_sent_but_for_its_last_byte_is_held_whole() -> None:
    """What is counted as held is what the memory holds: views of a message keep all of it."""
    server = served()
    cores.feed(server, h2.window_update(0, 1 << 20) + h2.settings({frames.INITIAL_WINDOW_SIZE: 500_004}), 0.0)
    stream = server.streams[1]
    stream.send(bytes(500_000))
    assert stream.is_blocked
    assert server.held >= 500_000
    cores.feed(server, h2.window_update(1, 1), 0.0)
    assert not stream.is_blocked
    stream.answer_end()
    cores.feed(server, h2.data(1, end=True), 0.0)
    assert server.held == 0


@pytest.mark.parametrize("is_last", [False, True], ids=["new field first", "new field last"])
def test_blocks_of_many_fields_are_not_remembered_by_hundreds(is_last: bool) -> None:
    """A field is one byte on the wire where the static table has it, and a hundred in a list of fields."""
    server = served(0)
    number, many = -1, h2.indexed(60) * 300
    for count in range(200):
        literal = h2.literal(f"a{count}", "b")
        block = BLOCK + (many + literal if is_last else literal + many)
        for _ in range(2):
            number += 2
            cores.feed(server, h2.headers(number, block) + h2.rst(number), count * 1.0)
    assert server.closed is None
    decoder = server._decoder
    remembered = [len(made.fields) for made in [*decoder.blocks.values(), *decoder._beginnings.values()]]
    assert sum(remembered) <= (limits.HEADER_MEMO_ENTRIES_MAX + limits.HEADER_MEMO_FIELDS_MAX) * limits.HEADER_MEMO_FIELDS_MAX


def test_connection_that_fails_says_nothing_behind_its_goaway() -> None:
    """Streams that waited for room are not given it while their connection ends."""
    size = 4 * limits.MIB
    server = served(40)
    for number in range(1, 80, 2):
        cores.feed(server, h2.data(number, h2.message(bytes(10), length=size)), 0.0)
    assert server.room._waiting
    server.take()
    cores.feed(server, h2.frame(frames.PUSH_PROMISE, 0, 1, bytes(8)), 0.0)
    assert server.closed is not None
    kinds = [kind for kind, _, _, _ in cores.FrameReader().feed(server.take())]
    assert kinds == [frames.GOAWAY]
    assert server.held == 0


def test_message_of_nearly_two_gigabytes_is_let_in_by_legal_updates() -> None:
    """Where nobody limits its size, the window still does (§6.9.1)."""
    server = served(message_size_max=limits.UNLIMITED_MESSAGE_BYTES)
    cores.feed(server, h2.data(1, h2.message(b"begin", length=limits.UNLIMITED_MESSAGE_BYTES)), 0.0)
    assert server.closed is None
    updates = [payload for kind, _, _, payload in cores.FrameReader().feed(server.take()) if kind == frames.WINDOW_UPDATE]
    assert updates
    assert all(0 < int.from_bytes(payload, "big") <= frames.WINDOW_MAX - limits.STREAM_WINDOW_BYTES for payload in updates)


def test_padding_that_uses_up_a_window_is_given_back() -> None:
    """Padding counts as data (§6.9.1); nobody reads it, so that nobody else gives it back."""
    server = served()
    stream = server.streams[1]
    for _ in range(limits.STREAM_WINDOW_BYTES // 256 - 1):
        cores.feed(server, h2.data(1, padding=255), 0.0)
    updates = [number for kind, _, number, _ in cores.FrameReader().feed(server.take()) if kind == frames.WINDOW_UPDATE]
    assert server.closed is None
    assert stream.receive_window > limits.STREAM_WINDOW_BYTES // 4
    assert 1 in updates
