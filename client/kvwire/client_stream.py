"""One attempt of a call, on one connection: what comes back becomes messages, metadata and one status."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

from kvwire import compression, frames
from kvwire.codes import CANCELLED, INTERNAL, OK, PERMISSION_DENIED, RESOURCE_EXHAUSTED, UNAVAILABLE, UNKNOWN
from kvwire.header_block import HeadersTooLarge
from kvwire.heads import HTTP_STATUS_CODES, ResponseHead
from kvwire.stream import MessageRefused, Stream

if TYPE_CHECKING:
    from kvwire.call import Call
    from kvwire.client_connection import ClientConnection


RESET_CODES = {
    frames.REFUSED_STREAM: UNAVAILABLE,
    frames.CANCEL: CANCELLED,
    frames.ENHANCE_YOUR_CALM: RESOURCE_EXHAUSTED,
    frames.INADEQUATE_SECURITY: PERMISSION_DENIED,
}
"""Status of a call whose stream was reset (gRPC over HTTP/2, "Errors"); others: INTERNAL."""


class Status(NamedTuple):
    """How a call ended."""

    code: int
    details: str
    trailers: ResponseHead | None = None


class ClientStream(Stream):
    """The stream of a call; its hooks are the call's events."""

    __slots__ = ("call", "initial")

    connection: ClientConnection

    def __init__(self, connection: ClientConnection, call: Call, message_size_max: int) -> None:
        super().__init__(connection, connection.next_id(), message_size_max)
        connection.streams[self.id] = self
        self.call: Call | None = call
        """Whose attempt this is; None for one that was forgotten, which is about to end."""
        self.initial: ResponseHead | None = None

    def unpacked(self, compressed: int, message: bytes) -> bytes:
        """A message as the server meant it. Raises `MessageRefused`."""
        if not compressed:
            return message
        assert self.initial is not None
        return compression.unpack(compressed, message, self.initial.encoding, self.message_size_max)

    def on_headers(self, head: ResponseHead, ended: bool) -> None:
        """Initial metadata, or trailers, or both in one."""
        if not ended:
            self._on_initial(head)
            return
        self.remote_ended = True
        if head.success is not None and self.initial is not None and self._partial is None:
            self._end(head.success)
            return
        if self.initial is None:
            refusal = _refusal(head)
            if refusal is not None:
                self._end(refusal)
                return
        if head.status is None:
            code = HTTP_STATUS_CODES.get(head.http_status or 0, UNKNOWN)
            self._end(Status(code, head.message or "the server sent no grpc-status", head))
        elif head.status == OK:
            head.success = Status(OK, "", head)
            is_cut = self._partial is not None
            self._end(Status(INTERNAL, "the stream ended within a message", head) if is_cut else head.success)
        else:
            self._end(Status(head.status if head.status <= 16 else UNKNOWN, head.message, head))

    def _on_initial(self, head: ResponseHead) -> None:
        if self.initial is not None:
            self.give_up(frames.PROTOCOL_ERROR)
            self._end(Status(INTERNAL, "headers within a response"))
            return
        if head.is_beginning:
            self._begin(head)
            return
        refusal = _refusal(head)
        if refusal is not None:
            self.give_up(frames.CANCEL)
            self._end(refusal)
        elif not compression.is_known(head.encoding):
            self.give_up(frames.CANCEL)
            encoding = head.encoding.decode("latin-1")
            self._end(Status(INTERNAL, f"the server compresses by {encoding!r}, which was not offered"))
        else:
            head.is_beginning = True
            self._begin(head)

    def _begin(self, head: ResponseHead) -> None:
        self.initial = head
        call = self.call
        if call is not None:
            call.on_initial(head)

    def on_headers_too_large(self, error: HeadersTooLarge) -> None:
        """The server's metadata is above the limit."""
        self.give_up(frames.CANCEL)
        self._end(Status(RESOURCE_EXHAUSTED, str(error)))

    def on_message(self, compressed: int, message: bytes) -> None:
        """A response."""
        if self.initial is None:
            raise MessageRefused(INTERNAL, "a message before the headers")
        call = self.call
        if call is not None:
            call.on_message(compressed, message)

    def on_end(self) -> None:
        """The server ended its side without trailers."""
        self._end(Status(UNKNOWN, "the server sent no trailers"))

    def on_refused(self, refused: MessageRefused) -> None:
        """A response is not taken in."""
        self.give_up(frames.CANCEL)
        self._end(refusal_status(refused))

    def on_reset(self, code: int | None, why: str) -> None:
        """The server reset the stream, or the connection is lost."""
        if code is None:
            self._end(Status(UNAVAILABLE, why))
        else:
            self._end(Status(RESET_CODES.get(code, INTERNAL), f"Received RST_STREAM with error code {code}: {why}"))

    def on_unprocessed(self, why: str) -> None:
        """The server did not look at this call: it may be tried again."""
        call = self.call
        self.close()
        if call is not None:
            call.on_unprocessed(self, Status(UNAVAILABLE, why))

    def on_writable(self) -> None:
        """What waited has left."""
        call = self.call
        if call is not None:
            call.on_writable()

    def give_up(self, code: int) -> None:
        """Resets the stream, which nobody needs any more."""
        if not self.is_closed:
            if self.connection.closed is None:
                self.connection.put(frames.rst_stream(self.id, code))
            self.close()

    def _end(self, status: Status) -> None:
        call = self.call
        if not self.is_closed:
            if not self.local_ended or self._unsent is not None:
                self.give_up(frames.NO_ERROR if self.remote_ended else frames.CANCEL)
            else:
                self.close()
        if call is not None:
            call.on_status(status)


def _nobody() -> None:
    return None


class ForgettableStream(ClientStream):
    """The stream of a call that ends when nobody holds the call any more."""

    __slots__ = ("_reference",)

    @property
    def call(self) -> Call | None:
        """Whose attempt this is, if that still matters to anybody."""
        return self._reference()

    @call.setter
    def call(self, call: Call | None) -> None:
        self._reference: Callable[[], Call | None] = _nobody if call is None else weakref.ref(call)


def refusal_status(refused: MessageRefused) -> Status:
    """How a call ends whose response is not taken in."""
    details = refused.details
    return Status(refused.code, f"CLIENT: {details}" if refused.code == RESOURCE_EXHAUSTED else details)


def _refusal(head: ResponseHead) -> Status | None:
    """Why a first header list is no gRPC response."""
    if head.http_status != 200 and head.status is None:
        code = HTTP_STATUS_CODES.get(head.http_status or 0, UNKNOWN)
        return Status(code, f"Received http2 header with status: {head.http_status}", head)
    if head.content_type and not head.content_type.startswith(b"application/grpc") and head.status is None:
        return Status(UNKNOWN, f"the response is {head.content_type.decode('latin-1')!r}, not application/grpc", head)
    return None
