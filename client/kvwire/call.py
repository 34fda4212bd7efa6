"""A call as a client holds it: what the four kinds (`calls`) have in common.

A call begins when it is made: its frames leave at the end of the event loop's turn, without a task of its own. It ends once,
with a `Status`; whatever comes later is ignored. A request that no server has looked at is sent once more (transparent retry).
"""

from __future__ import annotations

import asyncio
import logging
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from kvwire import frames
from kvwire.client_stream import ClientStream, ForgettableStream, Status
from kvwire.codes import CANCELLED, DEADLINE_EXCEEDED, OK
from kvwire.heads import ResponseHead

if TYPE_CHECKING:
    from kvwire.channel import Channel, Target
    from kvwire.client_connection import ClientConnection

logger = logging.getLogger(__name__)

CODES = {code.value[0]: code for code in grpc.StatusCode}
CANCELLED_LOCALLY = Status(CANCELLED, "Locally cancelled by application!")
FORGOTTEN = Status(CANCELLED, "Cancelled upon garbage collection!")
RETRIES_MAX = 1
"""A call that no server has looked at is sent once more: whoever meets two servers that go away is told."""


def metadata_of(head: ResponseHead | None) -> grpc.aio.Metadata:
    """What a header list says to the application."""
    if head is None:
        return grpc.aio.Metadata()
    return grpc.aio.Metadata(*((pair.key, pair.value) for pair in head.metadata))


class Call(grpc.aio.Call):
    """What all kinds share: the deadline, the status, cancellation, metadata."""

    is_cancelled_when_forgotten = False
    """Whether the call ends when nobody holds it any more: who stops reading a stream need not say so."""

    def __init__(
        self, channel: Channel, target: Target, block: bytes, timeout: float | None, wait_for_ready: bool, encoding: bytes
    ) -> None:
        self._channel, self._target, self._block, self._encoding = channel, target, block, encoding
        self.wait_for_ready = wait_for_ready
        self._loop = channel.loop
        self._stream: ClientStream | None = None
        self._status: Status | None = None
        self._initial: ResponseHead | None = None
        self._callbacks: list[Callable[[Any], None]] | None = None
        self._waiters: list[asyncio.Future[None]] | None = None
        self._attempts = 0
        self._deadline: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        if timeout is not None:
            self._deadline = self._loop.time() + timeout
            reference: Any = weakref.ref(self) if self.is_cancelled_when_forgotten else self
            self._timer = self._loop.call_later(max(0.0, timeout), _expire, reference)

    # ---- events ------------------------------------------------------------------------------------------------------

    def begin(self, connection: ClientConnection) -> None:
        """Opens the call's stream on a connection that has room for it."""
        raise NotImplementedError

    def on_initial(self, head: ResponseHead) -> None:
        """The initial metadata are here."""
        self._initial = head
        if self._waiters is not None:
            self._wake()

    def on_message(self, compressed: int, message: bytes) -> None:
        """A response."""
        raise NotImplementedError

    def on_status(self, status: Status) -> None:
        """The attempt has ended: so has the call."""
        self.end(status)

    def on_writable(self) -> None:
        """What was written has left."""
        self._wake()

    def on_unprocessed(self, stream: ClientStream, status: Status) -> None:
        """No server has looked at the call."""
        if self._status is not None:
            return
        self._stream = None
        self._attempts += 1
        if self._attempts > RETRIES_MAX or not self._is_repeatable:
            self.end(status)
        else:
            self._channel.start(self)

    @property
    def _is_repeatable(self) -> bool:
        return True

    def end(self, status: Status) -> None:
        """The call is over."""
        if self._status is not None:
            return
        self._status = status
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        stream, self._stream = self._stream, None
        if stream is None:
            self._channel.withdraw(self)
        elif not stream.is_closed:
            stream.give_up(frames.CANCEL)
        self._on_end()
        if self._waiters is not None:
            self._wake()
        if self._callbacks is not None:
            callbacks, self._callbacks = self._callbacks, None
            for callback in callbacks:
                try:
                    callback(self)
                except Exception:
                    logger.exception("a done callback of a call of %s failed", self._target.path)

    def _on_end(self) -> None:
        """For subclasses."""

    def _wake(self) -> None:
        if self._waiters is not None:
            waiters, self._waiters = self._waiters, None
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_result(None)

    async def _event(self) -> None:
        """Waits for the next thing that happens to the call."""
        waiter = self._loop.create_future()
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)
        try:
            await waiter
        finally:
            if self._waiters is not None and waiter in self._waiters:
                self._waiters.remove(waiter)

    def _open(self, connection: ClientConnection) -> ClientStream:
        kind = ForgettableStream if self.is_cancelled_when_forgotten else ClientStream
        stream = self._stream = kind(connection, self, self._channel.options.receive_size_max)
        return stream

    # ---- grpc.aio.Call -----------------------------------------------------------------------------------------------

    def cancelled(self) -> bool:
        """Whether the call ended as CANCELLED."""
        return self._status is not None and self._status.code == CANCELLED

    def done(self) -> bool:
        """Whether the call is over."""
        return self._status is not None

    def time_remaining(self) -> float | None:
        """Seconds to the deadline; None without one."""
        return None if self._deadline is None else max(0.0, self._deadline - self._loop.time())

    def cancel(self) -> bool:
        """Ends the call here and at the server; False: it was over."""
        if self._status is not None:
            return False
        self.end(CANCELLED_LOCALLY)
        return True

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """`callback(call)` follows when the call is over, at once if it is."""
        if self._status is not None:
            callback(self)
            return
        if self._callbacks is None:
            self._callbacks = []
        self._callbacks.append(callback)

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """What the server sent first; waits for it."""
        while self._initial is None and self._status is None:
            await self._event()
        return metadata_of(self._initial)

    async def _ended(self) -> Status:
        if self._status is not None:
            await asyncio.sleep(0)  # (Whoever asks again and again lets others have their turn.)
        while self._status is None:
            await self._event()
        return self._status

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What the server sent last; waits for it."""
        return metadata_of((await self._ended()).trailers)

    async def code(self) -> grpc.StatusCode:
        """The status; waits for it."""
        return CODES[(await self._ended()).code]

    async def details(self) -> str:
        """Words beside the status; waits for it."""
        return (await self._ended()).details

    async def debug_error_string(self) -> str:
        """The same, for people."""
        status = await self._ended()
        return f"{CODES[status.code].name}: {status.details}" if status.code else ""

    async def wait_for_connection(self) -> None:
        """Waits until the call has left. Raises AioRpcError when it ended before."""
        while self._stream is None and self._status is None:
            await self._event()
        if self._status is not None:
            self._raise_for_status(self._status)

    def _raise_for_status(self, status: Status) -> None:
        if status is CANCELLED_LOCALLY:
            raise asyncio.CancelledError
        if status.code != OK:
            raise self._error(status)

    def _error(self, status: Status) -> grpc.aio.AioRpcError:
        debug = f"{CODES[status.code].name}: {status.details}"
        return grpc.aio.AioRpcError(
            CODES[status.code], metadata_of(self._initial), metadata_of(status.trailers), status.details, debug
        )

    def __repr__(self) -> str:
        state = (
            "is under way" if self._status is None else f"ended with {CODES[self._status.code].name}: {self._status.details}"
        )
        return f"<{type(self).__name__} of {self._target.path} that {state}>"


def _expire(reference: Call | weakref.ref[Call]) -> None:
    call = reference() if isinstance(reference, weakref.ref) else reference
    if call is not None:
        call.end(Status(DEADLINE_EXCEEDED, "Deadline Exceeded"))
