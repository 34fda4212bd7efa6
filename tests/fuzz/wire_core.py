"""A core of either role, fed with bytes in any pieces: what comes of it, for comparing."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

from kvwire.connection import Connection
from kvwire.heads import RequestHead
from kvwire.inbox import Inbox
from kvwire.server_connection import ServerConnection
from tests.fuzz.wire_bench import MESSAGE_BYTES_MAX, STREAMS_MAX, check
from tests.fuzz.wire_corpus import TO_SERVER
from tests.unit.kvwire import cores

CALLS = 10


class Outcome(NamedTuple):
    """Everything that must not depend on how bytes were cut."""

    closed: str | None
    output: bytes
    delivered: list[tuple[int, bytes]]
    held: int
    streams: list[int]


class EchoStream(cores.ServedStream):
    """Sends back what it gets, at once; reads nothing of streams whose id is a multiple of five."""

    def __init__(self, connection: ServerConnection, stream_id: int, delivered: list[tuple[int, bytes]]) -> None:
        super().__init__(connection, stream_id, MESSAGE_BYTES_MAX)
        self._delivered = delivered

    def on_request(self, head: RequestHead, ended: bool) -> None:
        """Answers the headers."""
        super().on_request(head, ended)
        self.answer_head()
        if ended:
            self.answer_end()

    def on_message(self, compressed: int, message: bytes) -> None:
        """Answers the message."""
        super().on_message(compressed, message)
        self._delivered.append((self.id, message))
        if self.id % 5 and not self.is_closed:
            _read(self.inbox)
            self.send(message)

    def on_end(self) -> None:
        """Answers the end."""
        super().on_end()
        self.answer_end()


class ReadingCaller(cores.Caller):
    """Reads what it gets, at once."""

    def __init__(self, delivered: list[tuple[int, bytes]]) -> None:
        super().__init__()
        self._delivered = delivered

    def on_message(self, compressed: int, message: bytes) -> None:
        """A response."""
        super().on_message(compressed, message)
        assert self.stream is not None
        self._delivered.append((self.stream.id, message))
        assert self.inbox is not None
        _read(self.inbox)


def _read(inbox: Inbox) -> None:
    while not inbox.is_empty:
        reading = inbox.get()
        try:
            reading.send(None)
            reading.send(None)  # (It gave others their turn.)
        except StopIteration:
            pass


def play(direction: bytes, data: bytes, sizes: Sequence[int]) -> Outcome:
    """What a core makes of bytes that come in pieces of these sizes, one after the other and again."""
    delivered: list[tuple[int, bytes]] = []
    output = b""
    core: Connection[Any]
    if direction == TO_SERVER:
        core, _ = cores.server_core(
            streams_max=STREAMS_MAX, accept=lambda connection, stream_id: EchoStream(connection, stream_id, delivered)
        )
    else:
        core = client = cores.client_core()
        for _ in range(CALLS):
            stream = ReadingCaller(delivered).begin(client, MESSAGE_BYTES_MAX)
            stream.send(b"request", ends=stream.id % 4 == 1)
    at = 0
    for size in itertools.cycle(sizes):
        cores.feed(core, data[at : at + size], 0.0)
        check(core)
        output += core.take()
        at += size
        if at >= len(data):
            break
    return Outcome(core.closed, output, delivered, core.held, sorted(core.streams))
