"""The client's role: streams that we open, and a server that goes away."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from kvwire import frames
from kvwire.connection import Connection
from kvwire.frames import PREFACE
from kvwire.header_block import Field, HeadersTooLarge
from kvwire.heads import ResponseHead
from kvwire.memory import Memory

if TYPE_CHECKING:
    from kvwire.client_stream import ClientStream


class ClientConnection(Connection["ClientStream"]):
    """One connection of a client."""

    def __init__(self, metadata_size_max: int, on_change: Callable[[], None]) -> None:
        """`on_change` is called when a stream may be opened that could not be before, and when none may any more."""
        self._next_id = 1
        self._on_change = on_change
        self.is_going_away = False
        """Whether the server takes no more streams on this connection."""
        self.goodbye = ""
        """What the server said when it went away."""
        self.has_answered = False
        """Whether the server has answered any call."""
        super().__init__(Memory(1 << 62, ()), metadata_size_max, ((frames.ENABLE_PUSH, 0),))

    def _begin(self, announced: tuple[tuple[int, int], ...]) -> None:
        self.put(PREFACE)
        super()._begin(announced)

    def next_id(self) -> int:
        """The id of a stream that is opened now."""
        stream_id, self._next_id = self._next_id, self._next_id + 2
        if self._next_id > frames.STREAM_ID_MAX:
            self.is_going_away = True
        return stream_id

    def _read_fields(self, fields: list[Field], begun: ResponseHead | None) -> ResponseHead:
        return ResponseHead(fields if begun is None else begun.fields + fields)

    def _is_idle(self, stream_id: int) -> bool:
        return stream_id >= self._next_id or not stream_id & 1

    def _on_headers(self, stream_id: int, made: ResponseHead, ended: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is None:
            self._on_data_of_no_stream(stream_id, 0)
        elif made.malformed:
            self.refuse(stream_id, frames.PROTOCOL_ERROR, made.malformed)
        else:
            if made.is_informational and ended:
                self.refuse(stream_id, frames.PROTOCOL_ERROR, "an informational response that ends the stream")
            elif made.is_informational:
                self.frequency.on_control()
            else:
                self.has_answered = True
                stream.on_headers(made, ended)

    def _on_headers_too_large(self, stream_id: int, error: HeadersTooLarge, ended: bool) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.on_headers_too_large(error)

    def _on_settings(self, flags: int, stream_id: int, payload: bytes) -> None:
        super()._on_settings(flags, stream_id, payload)
        self._on_change()

    def forget(self, stream: ClientStream) -> None:
        """A stream is closed: another one may take its place."""
        was_full = len(self.streams) >= self.peer_streams_max
        super().forget(stream)
        if was_full or (self.is_going_away and not self.streams):
            self._on_change()

    def _on_goaway(self, flags: int, stream_id: int, payload: bytes) -> None:
        self.frequency.on_control()
        frames.check_goaway(stream_id, payload)
        last, code = frames.read_word(payload[:4]) & frames.STREAM_ID_MAX, frames.read_word(payload[4:8])
        self.is_going_away = True
        text = payload[8:264].decode("utf-8", "replace")
        self.goodbye = f"GOAWAY received; error code: {code}; debug text: {text}" if code or text else "GOAWAY received"
        for stream in [stream for stream in self.streams.values() if stream.id > last]:
            stream.on_unprocessed(f"the server goes away ({self.goodbye})")
        self._on_change()

    def lose(self, why: str) -> None:
        """The connection is over: every stream is told, and the server's last words."""
        super().lose(f"{why} ({self.goodbye})" if self.goodbye else why)
