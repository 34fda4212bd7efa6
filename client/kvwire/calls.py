"""The four kinds of call, with `grpc.aio`'s interfaces: what is sent and what comes back, once or as a stream."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterable, AsyncIterator, Generator
from typing import TYPE_CHECKING, Any

import grpc.aio

from kvwire import compression, frames, limits
from kvwire.call import FORGOTTEN, Call
from kvwire.client_stream import ClientStream, Status, refusal_status
from kvwire.codes import INTERNAL, OK, RESOURCE_EXHAUSTED, UNIMPLEMENTED
from kvwire.frames import DATA, END_HEADERS, END_STREAM, HEADERS
from kvwire.heads import ResponseHead
from kvwire.inbox import Inbox
from kvwire.stream import PREFIX_SIZE, MessageRefused, framed

if TYPE_CHECKING:
    from kvwire.client_connection import ClientConnection

logger = logging.getLogger(__name__)

FINISHED = "RPC already finished."
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
MIXED_STYLES = "The iterator and read/write APIs may not be mixed on a single RPC."


def _too_large(size: int, size_max: int) -> Status:
    return Status(RESOURCE_EXHAUSTED, f"CLIENT: Sent message larger than max ({size} vs. {size_max})")


def _unreadable(error: Exception) -> Status:
    return Status(INTERNAL, f"Failed to deserialize response: {error}")


class _OneRequest(Call):
    """A call with one request, which leaves with the headers."""

    _message: bytes = b""
    _compressed = 0

    def _set_request(self, request: Any) -> None:
        """Raises what the serializer raises."""
        data, size_max = self._target.serialized(request), self._channel.options.send_size_max
        if size_max is not None and len(data) > size_max:
            self.end(_too_large(len(data), size_max))
        elif self._encoding == compression.IDENTITY:
            self._message = data
        else:
            self._message, self._compressed = compression.compress(data, self._encoding), 1

    def begin(self, connection: ClientConnection) -> None:
        """Headers and request, nearly always in one buffer."""
        block, message = self._block, self._message
        stream = self._open(connection)
        size, frame_size_max = len(message) + PREFIX_SIZE, connection.frame_size_max
        if (
            size <= connection.send_window
            and size <= stream.send_window
            and size <= frame_size_max
            and len(block) <= frame_size_max
            and connection.is_writable
            and connection.is_plain
        ):
            stream.send_window -= size
            connection.send_window -= size
            stream.local_ended = True
            connection.put(
                frames.head(HEADERS, END_HEADERS, stream.id, len(block))
                + block
                + frames.head(DATA, END_STREAM, stream.id, size)
                + framed(message, self._compressed)
            )
        else:
            connection.put(connection.header_frames(stream.id, block, 0))
            stream.send(message, self._compressed, ends=True)
        if self._waiters is not None:
            self._wake()


class _ManyRequests(Call):
    """A call with a stream of requests, written one by one or taken from an iterator."""

    _poller: asyncio.Task[None] | None = None
    _is_done_writing = False

    def _set_requests(self, requests: Any) -> None:
        self._kept: list[tuple[bytes, int]] | None = []
        self._kept_size = 0
        self._by_hand = requests is None
        if requests is not None:
            self._poller = self._loop.create_task(self._consume(requests))

    @property
    def _is_repeatable(self) -> bool:
        return self._kept is not None

    def begin(self, connection: ClientConnection) -> None:
        """The headers, and the requests that another server did not look at; more follow."""
        stream = self._open(connection)
        connection.put(connection.header_frames(stream.id, self._block, 0))
        for message, compressed in self._kept or ():
            stream.send(message, compressed)
        if self._is_done_writing:
            stream.end(b"")
        self._wake()

    def on_initial(self, head: ResponseHead) -> None:
        """The server has looked at the call, which will not be repeated."""
        self._kept = None
        super().on_initial(head)

    def _keep(self, message: bytes, compressed: int) -> None:
        self._kept_size += len(message) + limits.MESSAGE_OVERHEAD_BYTES
        if self._kept_size > limits.RETRY_BUFFER_BYTES_MAX:
            self._kept = None
        if self._kept is not None:
            self._kept.append((message, compressed))

    def _on_end(self) -> None:
        super()._on_end()
        if self._poller is not None and self._poller is not asyncio.current_task():
            self._poller.cancel()

    async def _consume(self, requests: Any) -> None:
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._write(request)
            else:
                for request in requests:
                    await self._write(request)
            await self._finish_writing()
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError):
            return  # The call is over, which its reader sees.
        except asyncio.CancelledError:
            self.cancel()
            raise
        except Exception:
            logger.exception("the iterator of requests to %s failed, and its call is cancelled", self._target.path)
            self.cancel()

    async def _opened(self) -> ClientStream:
        """The stream, once it is there. Raises AioRpcError when the call ended before."""
        while self._stream is None:
            if self._status is not None:
                self._raise_for_status(self._status)
                raise asyncio.InvalidStateError(FINISHED)
            await self._event()
        return self._stream

    async def _write(self, request: Any) -> None:
        if self._status is not None:
            raise asyncio.InvalidStateError(FINISHED)
        if self._is_done_writing:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        data, size_max = self._target.serialized(request), self._channel.options.send_size_max
        try:
            stream = await self._opened()
            if size_max is not None and len(data) > size_max:
                self.end(_too_large(len(data), size_max))
                await self._opened()
            if stream.is_closed and self._status is None:
                raise asyncio.InvalidStateError(FINISHED)  # The server has ended the call, which its reader has yet to see.
            if stream.local_ended:
                raise asyncio.InvalidStateError(HALF_CLOSED)
            is_plain = self._encoding == compression.IDENTITY
            message, compressed = (data, 0) if is_plain else (compression.compress(data, self._encoding), 1)
            self._keep(message, compressed)
            leaves = stream.send(message, compressed)
            while not leaves and stream.is_blocked and self._status is None:
                await self._event()
            if not leaves and stream.is_closed and self._stream is stream and self._status is None:
                raise asyncio.InvalidStateError(FINISHED)  # As above.
        except asyncio.CancelledError:
            self.cancel()
            raise

    async def _finish_writing(self) -> None:
        if self._status is not None or self._is_done_writing:
            return
        self._is_done_writing = True
        try:
            stream = await self._opened()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if not stream.local_ended:
            stream.end(b"")

    async def write(self, request: Any) -> None:
        """Sends a request, and waits until it has left. Raises InvalidStateError, AioRpcError, UsageError."""
        if not self._by_hand:
            raise grpc.aio.UsageError(MIXED_STYLES)
        await self._write(request)

    async def done_writing(self) -> None:
        """Says that no more requests follow; harmless when said before."""
        if not self._by_hand:
            raise grpc.aio.UsageError(MIXED_STYLES)
        await self._finish_writing()


class _OneResponse(Call):
    """A call that is awaited for its one response."""

    _answer: tuple[int, bytes] | None = None
    _response: Any = None
    _future: asyncio.Future[None]

    def on_message(self, compressed: int, message: bytes) -> None:
        """The response; one is enough."""
        if self._answer is not None:
            self.end(Status(UNIMPLEMENTED, "the server sent more than one response"))
        self._answer = (compressed, message)

    def on_status(self, status: Status) -> None:
        """The end: with a response, or without."""
        if status.code == OK:
            if self._answer is None:
                status = Status(UNIMPLEMENTED, "the server sent no response", status.trailers)
            else:
                stream, (compressed, message) = self._stream, self._answer
                try:
                    if compressed and stream is not None:
                        message = stream.unpacked(compressed, message)
                    self._response = self._target.deserialized(message)
                except MessageRefused as refused:
                    status = refusal_status(refused)
                except Exception as error:
                    status = _unreadable(error)
        self.end(status)

    def _on_end(self) -> None:
        if not self._future.done():
            self._future.set_result(None)

    def __await__(self) -> Generator[Any, None, Any]:
        """The response. Raises AioRpcError; CancelledError when the call was cancelled here."""
        status = self._status
        if status is None:
            try:
                yield from self._future
            except asyncio.CancelledError:
                self.cancel()
                raise
            status = self._status
            assert status is not None
        else:
            yield  # (Whoever calls in vain again and again lets others have their turn.)
        if status.code == OK:
            return self._response
        self._raise_for_status(status)


class _ManyResponses(Call):
    """A call whose responses are read one by one, or iterated over."""

    is_cancelled_when_forgotten = True
    _inbox: Inbox | None = None
    _late: Status | None = None
    """How the call ended at the server, while responses were still unread."""
    _iterator: AsyncIterator[Any] | None = None
    _is_read_by_hand = False

    def __del__(self) -> None:
        if getattr(self, "_status", self) is not None or self._loop.is_closed():
            return
        try:
            is_here = asyncio.get_running_loop() is self._loop
        except RuntimeError:
            is_here = False
        if is_here:
            self.end(FORGOTTEN)
        elif self._stream is not None:
            self._loop.call_soon_threadsafe(self._stream.give_up, frames.CANCEL)

    def _open(self, connection: ClientConnection) -> ClientStream:
        stream = super()._open(connection)
        self._inbox = Inbox(stream)
        return stream

    def on_message(self, compressed: int, message: bytes) -> None:
        """A response."""
        assert self._inbox is not None
        self._inbox.put(compressed, message)

    def on_status(self, status: Status) -> None:
        """The end, once everything before it has been read."""
        if self._inbox is not None and not self._inbox.is_empty:
            self._late = status
            self._inbox.end()
            self._wake()  # (Whoever still writes does so in vain.)
        else:
            self.end(status)

    def on_unprocessed(self, stream: ClientStream, status: Status) -> None:
        """No server has looked at the call: who waits for a response looks into the next attempt's inbox."""
        inbox, self._inbox = self._inbox, None
        if inbox is not None:
            inbox.end()
        super().on_unprocessed(stream, status)

    def _on_end(self) -> None:
        if self._inbox is not None:
            self._inbox.clear()

    async def _read(self) -> Any:
        try:
            while self._status is None:
                inbox, stream = self._inbox, self._stream
                if inbox is None:
                    await self._event()
                    continue
                received = await inbox.get()
                if self._late is not None and inbox.is_empty:
                    self.end(self._late)
                if received is not None and stream is not None:
                    return self._deserialized(stream, *received)
        except asyncio.CancelledError:
            self.cancel()
            raise
        return grpc.aio.EOF

    def _deserialized(self, stream: ClientStream, compressed: int, message: bytes) -> Any:
        try:
            return self._target.deserialized(stream.unpacked(compressed, message))
        except Exception as error:
            status = refusal_status(error) if isinstance(error, MessageRefused) else _unreadable(error)
            self.end(status)
            raise self._error(status) from error

    async def read(self) -> Any:
        """The next response; `grpc.aio.EOF` at the end. Raises AioRpcError."""
        if self._status is not None:
            await asyncio.sleep(0)
            self._raise_for_status(self._status)
            return grpc.aio.EOF
        if self._iterator is not None:
            raise grpc.aio.UsageError(MIXED_STYLES)
        self._is_read_by_hand = True
        response = await self._read()
        if response is grpc.aio.EOF and self._status is not None:
            self._raise_for_status(self._status)
        return response

    def __aiter__(self) -> AsyncIterator[Any]:
        """The responses. Raises AioRpcError at their end."""
        if self._is_read_by_hand:
            raise grpc.aio.UsageError(MIXED_STYLES)
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def _responses(self) -> AsyncIterator[Any]:
        while (response := await self._read()) is not grpc.aio.EOF:
            yield response
        if self._status is not None:
            self._raise_for_status(self._status)


class UnaryUnaryCall(_OneRequest, _OneResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""

    def __init__(self, request: Any, *shared: Any) -> None:
        super().__init__(*shared)
        self._future = self._loop.create_future()
        self._set_request(request)


class UnaryStreamCall(_OneRequest, _ManyResponses, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""

    def __init__(self, request: Any, *shared: Any) -> None:
        super().__init__(*shared)
        self._set_request(request)


class StreamUnaryCall(_ManyRequests, _OneResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""

    def __init__(self, requests: Any, *shared: Any) -> None:
        super().__init__(*shared)
        self._future = self._loop.create_future()
        self._set_requests(requests)


class StreamStreamCall(_ManyRequests, _ManyResponses, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""

    def __init__(self, requests: Any, *shared: Any) -> None:
        super().__init__(*shared)
        self._set_requests(requests)
