"""One call, where it is served: from the request's headers to the trailers, whatever happens in between.

The handler runs in a task of its own. The call ends once: by an answer, an error of the handler, the deadline, a reset, or the
loss of the connection; what comes later is ignored. Invariants:

- Exactly one end: `is_over` is set before the trailers are put, and nothing is put after them.
- A handler whose caller has gone is cancelled, also one that has not begun.
- Nothing of a request is delivered after its end was refused.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc.aio

from kvwire import compression, frames, limits
from kvwire.admission import LIMIT_EXCEEDED, Refusal, refusal
from kvwire.answer import RESPONSE, Refused, of_server, trailers, whole_answer
from kvwire.blocking import serve_blocking
from kvwire.codes import CANCELLED, DEADLINE_EXCEEDED, INTERNAL, RESOURCE_EXHAUSTED, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN
from kvwire.frames import END_STREAM
from kvwire.header_block import HeadersTooLarge, encode
from kvwire.heads import RequestHead
from kvwire.inbox import Inbox
from kvwire.method import Method, Style
from kvwire.request_reader import deserialized, read_request, request_stream, unpacked
from kvwire.servicer_context import ServicerContext
from kvwire.stream import PREFIX_SIZE, MessageRefused, Stream

if TYPE_CHECKING:
    from kvwire.server import Server
    from kvwire.server_connection import ServerConnection

logger = logging.getLogger(__name__)

SMALL = 4 * limits.KIB
"""A request of so many bytes counts as a part of its call's overhead."""


class ServerCall(Stream):
    """The stream of a call, and the task that serves it."""

    __slots__ = (
        "_drained",
        "_is_settled",
        "_timer",
        "_written_in_turn",
        "callbacks",
        "context",
        "deadline",
        "encoding",
        "head",
        "headers_sent",
        "inbox",
        "initial_metadata",
        "is_cancelled",
        "is_over",
        "link",
        "message",
        "method",
        "next_is_plain",
        "server",
        "task",
        "unpacked_size",
    )

    connection: ServerConnection

    def __init__(self, server: Server, link: Any, connection: ServerConnection, stream_id: int) -> None:
        super().__init__(connection, stream_id, server.options.receive_size_max)
        self.server, self.link = server, link
        self.next_is_plain = False
        self._written_in_turn = self.unpacked_size = 0
        self.is_over = self.is_cancelled = self.headers_sent = self._is_settled = False
        self.inbox: Inbox | None = None
        self.message: tuple[int, bytes] | None = None
        self.task: asyncio.Task[None] | None = None
        self.context: ServicerContext | None = None
        self.callbacks: list[Callable[[Any], None]] | None = None
        self.deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._drained: asyncio.Future[None] | None = None
        self.initial_metadata = b""
        self.encoding = compression.IDENTITY
        server.in_flight += 1
        server.calls += 1

    # ---- what the connection tells -----------------------------------------------------------------------------------

    def on_request(self, head: RequestHead, ended: bool) -> None:
        """The call begins."""
        self.head, self.remote_ended = head, ended
        self.hold(limits.CALL_OVERHEAD_BYTES + 3 * head.size)
        server = self.server
        if self.is_over:
            return
        if not head.is_judged:
            head.refusal, head.is_judged = refusal(head), True
        refused = head.refusal or (LIMIT_EXCEEDED if server.is_full else None)
        if refused is not None:
            if refused is LIMIT_EXCEEDED:
                server.on_limit("calls")
            self._refuse(refused)
            return
        if head.timeout is not None:
            self.deadline = server.loop.time() + head.timeout
            self._timer = server.loop.call_later(min(head.timeout, limits.TIMER_SECONDS_MAX), self._on_deadline)
        if server.default_compression is not None:
            server.compress(self, server.default_compression)
        try:
            method = self.method = server.find(head)
        except Exception as error:
            logger.exception("a generic handler failed to look %s up", self.path)
            self.finish(UNKNOWN, f"Unexpected {type(error)}: {error}")
            return
        if method is None or method.request_streaming:
            self.inbox = Inbox(self)
            if ended:
                self.inbox.end()
            if method is not None or server.interceptors:
                self._start()
            elif ended:
                self._refuse_method()
            else:
                self._set_timer(server.loop.call_later(limits.UNKNOWN_METHOD_SECONDS, self._refuse_method))
        elif ended:
            self.finish(UNIMPLEMENTED, "Missing request message.")

    def _refuse_method(self) -> None:
        self.finish(UNIMPLEMENTED, "Method not found!")

    def _refuse(self, refusal: Refusal) -> None:
        if not refusal.http_status:
            self.initial_metadata = refusal.fields
            self.finish(refusal.code, refusal.details)
            return
        self.is_over = True  # What is no gRPC is answered in HTTP.
        self.connection.frequency.on_control()
        self.end(self.connection.header_frames(self.id, encode(b":status", refusal.http_status), END_STREAM))

    def on_request_too_large(self, error: HeadersTooLarge, ended: bool) -> None:
        """The call's metadata is above the limit."""
        self.remote_ended = ended
        self.finish(RESOURCE_EXHAUSTED, str(error))

    def on_message(self, compressed: int, message: bytes) -> None:
        """A message of the request."""
        if self.is_over:
            return
        if self.inbox is not None:
            self.inbox.put(compressed, message)
        elif self.task is None:
            self.message = (compressed, message)
            if len(message) > SMALL:
                self.hold(len(message))  # Until the call is over: the handler has it.
            self._start()

    def on_end(self) -> None:
        """The caller has sent everything."""
        if self.discards:
            self.close()
            return
        if self.is_over:
            return
        if self.inbox is not None:
            self.inbox.end()
            if self.task is None:
                self._refuse_method()
        elif self.task is None:
            self.finish(UNIMPLEMENTED, "Missing request message.")

    def on_refused(self, refused: MessageRefused) -> None:
        """What the caller sends is not taken in."""
        if refused.code == RESOURCE_EXHAUSTED:
            self.server.on_limit("message_size")
        self._abandon(refused.code, of_server(refused))

    def on_reset(self, code: int | None, why: str) -> None:
        """The caller has gone."""
        self.next_is_plain = False
        self._written_in_turn = self.unpacked_size = 0
        self.is_over = self.is_cancelled = True
        self.close()
        self._cancel()

    def on_writable(self) -> None:
        """What waited has left."""
        drained, self._drained = self._drained, None
        if drained is not None and not drained.done():
            drained.set_result(None)

    def on_local_end(self) -> None:
        """The trailers have left. The caller gets a while to end its side, too: grpcio's client takes a reset right behind the
        trailers for an error."""
        if self.remote_ended:
            self.close()
            return
        self._settle()
        self.discards = True
        self._set_timer(self.server.loop.call_later(limits.LINGER_SECONDS_MAX, self._end_request))

    def _end_request(self) -> None:
        self._timer = None
        if not self.is_closed:
            self.connection.put(frames.rst_stream(self.id, frames.NO_ERROR))
            self.close()

    def close(self) -> None:
        """Forgets the call."""
        if self.is_closed:
            return
        super().close()
        self._settle()

    def _set_timer(self, timer: asyncio.TimerHandle | None) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = timer

    def _settle(self) -> None:
        """The call is over, if its stream is not."""
        if self._timer is not None:
            self._set_timer(None)
        if self._is_settled:
            return
        self._is_settled = True
        if self.inbox is not None:
            self.inbox.clear()
        if self._drained is not None:
            self.on_writable()
        self.server.on_call_closed()

    def _call_back(self) -> None:
        callbacks, self.callbacks = self.callbacks or [], None
        for callback in callbacks:
            try:
                callback(self.context)
            except Exception:
                logger.exception("a done callback of %s failed", self.path)

    def _on_deadline(self) -> None:
        self._timer = None
        self.is_cancelled = True
        self._abandon(DEADLINE_EXCEEDED, "Deadline Exceeded")
        if not self.is_closed and self._ending is not None:  # The trailers could not leave any more.
            self.connection.put(frames.rst_stream(self.id, frames.CANCEL))
        self.close()
        self.connection.frequency.expect_late(0)  # The caller's own deadline passes, too.

    def shut_down(self, details: str) -> None:
        """The server stops, and waits no longer."""
        self.is_cancelled = True
        self._abandon(UNAVAILABLE, details)

    def _abandon(self, code: int, details: str) -> None:
        """Ends the call, whatever its handler does."""
        self.finish(code, details)
        self._cancel()

    def _cancel(self) -> None:
        if self.task is not None and not self.task.done():
            self.server.unwind(self.task)

    # ---- the handler -------------------------------------------------------------------------------------------------

    @property
    def path(self) -> str:
        """The method's full name, with its slashes."""
        return self.head.path.decode("latin-1")

    def _start(self) -> None:
        if not self.is_over:
            self.task = self.server.loop.create_task(self._run())

    async def _run(self) -> None:
        context = self.context = ServicerContext(self)
        server, method = self.server, self.method
        try:
            if server.interceptors:
                method = await server.intercept(self.head)
            context.method = method
            if method is None:
                self._refuse_method()
            elif method.is_plain and self.message is not None:
                compressed, message = self.message
                self.message = None
                if compressed:
                    message = await unpacked(self, compressed, message)
                request = deserialized(method, message)
                response = await method.behaviour(request, context)
                if not self.is_over:
                    self.answer(method, response, context)
            else:
                await self._serve(method, context)
        except grpc.aio.AbortError:
            self.finish_with(context)
        except Refused as refused:
            self.finish(refused.code, refused.details)
        except asyncio.CancelledError:
            if self.is_over:
                raise
            self.finish(CANCELLED, "Cancelled")  # The handler's own doing.
        except Exception as error:
            if not self.is_over:
                logger.exception("Unexpected exception in %s", self.path)
                self.finish(context.status or UNKNOWN, f"Unexpected {type(error)}: {error}", context.trailing)
        finally:
            if not self.is_over:
                self.finish(UNKNOWN, f"the handler of {self.path} ended without an answer")
            if self.callbacks is not None:
                self._call_back()

    async def _serve(self, method: Method, context: ServicerContext) -> None:
        request: Any
        if method.request_streaming:
            request = request_stream(self, method)
        else:
            request = await read_request(self, method)
            if request is grpc.aio.EOF:
                raise Refused(UNIMPLEMENTED, "Missing request message.")
        if method.style is Style.BLOCKING:
            await serve_blocking(self, method, request, context)
        elif not method.response_streaming:
            response = await method.behaviour(request, context)
            if not self.is_over:
                self.answer(method, response, context)
        elif method.style is Style.GENERATOR:
            responses = method.behaviour(request, context)
            try:
                async for response in responses:
                    await self.write(method, response)
            finally:
                await responses.aclose()
            self.finish_with(context)
        else:
            await method.behaviour(request, context)
            self.finish_with(context)

    def serialized(self, method: Method, response: Any) -> bytes:
        """A response's bytes, none for None. Raises `Refused`, TypeError, and what the serializer raises."""
        data = method.serialize(response) if method.serialize is not None and response is not None else response
        if data is None:
            return b""
        if not isinstance(data, bytes):
            raise TypeError(f"{self.path} answers {type(data).__name__}, not bytes")
        size_max = self.server.options.send_size_max
        if size_max is not None and len(data) > size_max:
            raise Refused(RESOURCE_EXHAUSTED, f"SERVER: Sent message larger than max ({len(data)} vs. {size_max})")
        return data

    # ---- the answer --------------------------------------------------------------------------------------------------

    def answer(self, method: Method, response: Any, context: ServicerContext) -> None:
        """The one response of a call, with its status; nearly always in one buffer."""
        if context.failed:
            self.finish_with(context)
            return
        data = self.serialized(method, response)
        size, connection = len(data) + PREFIX_SIZE, self.connection
        if (
            context.is_untouched
            and self._unsent is None
            and size <= self.send_window
            and size <= connection.send_window
            and size <= connection.frame_size_max
            and connection.is_writable
            and connection.is_plain
        ):
            connection.send_window -= size
            self.is_over = self.local_ended = True
            connection.has_sent = True
            connection.put(whole_answer(self.id, data))
            self.on_local_end()
            return
        self.send_headers()
        self._send(data)
        self.finish_with(context)

    def _send(self, data: bytes) -> bool:
        if self.encoding == compression.IDENTITY or self.next_is_plain:
            self.next_is_plain = False
            return self.send(data)
        return self.send(compression.compress(data, self.encoding), 1)

    async def write(self, method: Method, response: Any) -> None:
        """Sends a response; returns when it has left. Raises `Refused`, and CancelledError when the caller has gone."""
        data = self.serialized(method, response)
        if self.is_over:
            raise asyncio.CancelledError("the call is over")
        self.send_headers()
        self._written_in_turn += 1
        if self._send(data):
            if self._written_in_turn >= limits.WORK_PER_TURN_MAX:
                self._written_in_turn = 0
                await asyncio.sleep(0)
        else:
            self._written_in_turn = 0
            if self._drained is None:
                self._drained = self.server.loop.create_future()
            await asyncio.shield(self._drained)  # Several may wait.
            if self.is_over:
                raise asyncio.CancelledError("the call is over")

    def send_headers(self) -> None:
        """Sends the initial metadata, once."""
        if not self.headers_sent:
            self.headers_sent = True
            block = RESPONSE + self.initial_metadata
            if self.encoding != compression.IDENTITY:
                block += encode(b"grpc-encoding", self.encoding)
            self.connection.put(self.connection.header_frames(self.id, block, 0))

    def finish_with(self, context: ServicerContext) -> None:
        """Ends the call with what its handler said."""
        code = context.status
        self.finish(code, context.message if code else "", context.trailing)

    def finish(self, code: int, details: str = "", metadata: Any = ()) -> None:
        """Ends the call with a status, behind what waits to be sent."""
        if self.is_over:
            return
        self.is_over = True
        try:
            block = trailers(code, details, metadata)
        except Exception as error:
            logger.exception("trailing metadata of %s cannot be sent", self.path)
            block = trailers(INTERNAL, f"trailing metadata cannot be sent: {error}", ())
        if not self.headers_sent:
            block = RESPONSE + self.initial_metadata + block
        self.end(self.connection.header_frames(self.id, block, END_STREAM))
