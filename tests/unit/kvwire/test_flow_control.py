"""Messages between the two cores, whatever the sizes, the windows, the order of reading and the cuts of the bytes.

The model is a list for each direction of each stream: what was sent. It must arrive once, whole and in order; nothing may be
under way beyond the windows (`cores.Flow`); and when all is read and ended, neither side holds anything.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvwire import frames, limits
from kvwire.client_stream import ClientStream
from kvwire.stream import PREFIX_SIZE, Stream
from tests.fuzz.profile import fuzz
from tests.unit.kvwire import cores

LARGE_BYTES = 300_000
"""Room for large messages in these tests: one or two of them fill it, and the next ones wait."""
MESSAGE_BYTES_MAX = 700_000
STREAMS = 5

sizes = st.one_of(
    st.sampled_from(
        (0, 1, 16_379, 16_380, 65_530, 65_531, limits.STREAM_WINDOW_BYTES - PREFIX_SIZE, limits.STREAM_WINDOW_BYTES)
    ),
    st.integers(0, 2_000),
    st.integers(0, MESSAGE_BYTES_MAX),
)
cuts = st.one_of(st.integers(1, 40), st.integers(1, 70_000), st.just(1 << 20))
places = st.integers(0, STREAMS - 1)
sides = st.sampled_from(("client", "server"))
steps = st.lists(
    st.one_of(
        st.tuples(st.just("open"), places, sides, st.just(0)),
        st.tuples(st.just("send"), places, sides, sizes),
        st.tuples(st.just("send"), places, sides, sizes),
        st.tuples(st.just("send"), places, sides, st.integers(limits.STREAM_WINDOW_BYTES, MESSAGE_BYTES_MAX)),
        st.tuples(st.just("read"), places, sides, st.integers(1, 5)),
        st.tuples(st.just("deliver"), places, sides, cuts),
        st.tuples(st.just("deliver"), places, sides, cuts),
        st.tuples(st.just("end"), places, sides, st.just(0)),
        st.tuples(st.just("reset"), places, st.just("client"), st.just(0)),
        st.tuples(st.just("writable"), places, sides, st.integers(0, 1)),
        st.tuples(st.just("window"), places, sides, st.sampled_from((0, 1, 70_000, limits.STREAM_WINDOW_BYTES))),
    ),
    min_size=40,
    max_size=100,
)
"""Steps that are impossible are no steps, so that a shrunk example is as short as it needs to be."""


def body(stream: int, number: int, size: int) -> bytes:
    """A message that is like no other one of its size."""
    start = b"%d:%d:" % (stream, number)
    return (start + bytes(range(256)) * (size // 256 + 1))[:size]


class Dialogue:
    """A pair of cores, and beside them what ought to arrive."""

    def __init__(self) -> None:
        self.pair = cores.Pair()
        self.pair.settle()
        self.callers: list[cores.Caller] = []
        self.sent: dict[tuple[str, int], list[bytes]] = {}
        self.got: dict[tuple[str, int], list[bytes]] = {}
        self.heads_sent: set[int] = set()
        self.given_up: set[int] = set()
        self.play("open", 0, "client", 0)

    def stream(self, place: int, side: str) -> Stream | None:
        """A stream of one side, if it is open there."""
        if not self.callers:
            return None
        caller = self.callers[place % len(self.callers)]
        assert caller.stream is not None
        streams: dict[int, Any] = self.pair.client.streams if side == "client" else self.pair.server.streams
        return streams.get(caller.stream.id)

    def play(self, action: str, place: int, side: str, number: int) -> None:
        """One step."""
        core = self.pair.client if side == "client" else self.pair.server
        stream = self.stream(place, side)
        if action == "open":
            if len(self.callers) < STREAMS:
                caller = cores.Caller()
                caller.begin(self.pair.client)
                self.callers.append(caller)
        elif action == "deliver":
            self.pair.deliver(side, number)
        elif action == "writable":
            core.set_writable(bool(number))
        elif action == "window":
            # What a side lets the other one send, less than it would take: windows may become negative by that.
            core.put(frames.settings(((frames.INITIAL_WINDOW_SIZE, number),)))
        elif action == "read":
            self.read(side, place, number)
        elif stream is not None:
            self._act(action, stream, side, number)
        self.pair.collect()
        self.check()

    def _act(self, action: str, stream: Stream, side: str, number: int) -> None:
        known = (side, stream.id)
        if action == "send" and not stream.local_ended:
            if side == "server" and stream.id not in self.heads_sent:
                assert isinstance(stream, cores.ServedStream)
                self.heads_sent.add(stream.id)
                stream.answer_head()
            messages = self.sent.setdefault(known, [])
            messages.append(body(stream.id, len(messages), number))
            stream.send(messages[-1])
        elif action == "end" and not stream.local_ended:
            if isinstance(stream, cores.ServedStream):
                if stream.remote_ended and stream.ended and stream.inbox.is_empty:  # Else the rest may be dropped.
                    if stream.id not in self.heads_sent:
                        self.heads_sent.add(stream.id)
                        stream.answer_head()
                    stream.answer_end()
            else:
                stream.end(b"")
        elif action == "reset" and isinstance(stream, ClientStream):
            self.given_up.add(stream.id)
            stream.give_up(8)
            caller = stream.call
            assert isinstance(caller, cores.Caller)
            assert caller.inbox is not None
            caller.inbox.clear()

    def read(self, side: str, place: int, count: int) -> None:
        """Reads up to so many messages, each of which must be the next one that the other side sent."""
        if not self.callers:
            return
        caller, other = self.callers[place % len(self.callers)], "server" if side == "client" else "client"
        assert caller.stream is not None
        stream_id, inbox = caller.stream.id, caller.inbox
        if side == "server":
            served = self.pair.server.streams.get(stream_id)
            inbox = served.inbox if isinstance(served, cores.ServedStream) else None
        got = self.got.setdefault((side, stream_id), [])
        for _ in range(count):
            message = None if inbox is None else cores.read_now(inbox)
            if message is None:
                return
            got.append(message)
            assert message == self.sent[other, stream_id][len(got) - 1]

    def check(self) -> None:
        """The invariants that hold at any time."""
        for core in (self.pair.client, self.pair.server):
            assert core.closed is None, core.closed
            granted = [stream.granted for stream in core.streams.values()]
            assert sum(granted) == core.room._granted
            assert sum(granted) <= LARGE_BYTES or sum(map(bool, granted)) == 1
            waiting = list(core.room._waiting)
            assert all(not stream.is_closed and not stream.granted for stream in waiting)
            for stream in core.streams.values():
                partial = 0 if stream._partial is None else stream._partial.size
                assert stream.receive_window >= 0
                # A large message keeps its bytes until it is read, although its grant has ended: one for each stream.
                assert stream.unread + partial <= limits.STREAM_WINDOW_BYTES + MESSAGE_BYTES_MAX + PREFIX_SIZE
        assert self.pair.memory.held == self.pair.server.held

    def finish(self) -> None:
        """All is sent, delivered, read and ended."""
        for side in ("client", "server"):
            self.play("writable", 0, side, 1)
            self.play("window", 0, side, limits.STREAM_WINDOW_BYTES)
        moved = True
        while moved:
            before = {key: len(got) for key, got in self.got.items()}
            self.pair.settle()
            for place, _ in enumerate(self.callers):
                self.read("client", place, 1 << 20)
                self.read("server", place, 1 << 20)
            self.check()
            moved = before != {key: len(got) for key, got in self.got.items()} or bool(
                self.pair.underway("client") + self.pair.underway("server")
            )


@pytest.fixture(autouse=True, scope="module")
def _little_room() -> Any:
    patch = pytest.MonkeyPatch()
    patch.setattr(limits, "LARGE_MESSAGES_SIZE_BYTES_MAX", LARGE_BYTES)
    yield
    patch.undo()


@fuzz(60)
@given(steps=steps)
def test_messages_in_any_order_of_events_arrive_once_whole_and_in_order(steps: list[tuple[str, int, str, int]]) -> None:
    """Whatever happens when: what was sent is what is read, within the windows, and at the end nobody holds anything."""
    dialogue = Dialogue()
    for step in steps:
        dialogue.play(*step)
    dialogue.finish()
    for (side, stream_id), messages in dialogue.sent.items():
        other = "server" if side == "client" else "client"
        if stream_id not in dialogue.given_up:
            assert len(dialogue.got.get((other, stream_id), [])) == len(messages), "messages are missing"
    for core in (dialogue.pair.client, dialogue.pair.server):
        assert core.held == 0
        assert core.room._granted == 0
        assert not core.room._waiting
        assert not any(stream.is_blocked for stream in core.streams.values())
    for caller in dialogue.callers:
        stream = caller.stream
        assert stream is not None
        if not stream.is_closed and not stream.local_ended:
            stream.end(b"")
    dialogue.finish()
    for place, _ in enumerate(dialogue.callers):
        dialogue.play("end", place, "server", 0)
    dialogue.finish()
    assert not dialogue.pair.client.streams
    assert not dialogue.pair.server.streams
    assert all(
        caller.status is not None for caller in dialogue.callers if caller.stream and caller.stream.id not in dialogue.given_up
    )
