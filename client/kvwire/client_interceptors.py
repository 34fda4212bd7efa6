"""Client interceptors: `grpc.aio`'s, around calls of all four kinds.

The interceptors of a call run in one task, the outermost first; each decides whether, how often and with what the next one is
called, the last one makes the real call. What the caller holds meanwhile is an `Intercepted…Call`: it stands for whatever the
outermost interceptor returns, a call or a plain response.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine, Generator, Iterable, Sequence
from typing import Any

import grpc
import grpc.aio

KINDS: Sequence[tuple[type[Any], str]] = (
    (grpc.aio.UnaryUnaryClientInterceptor, "intercept_unary_unary"),
    (grpc.aio.UnaryStreamClientInterceptor, "intercept_unary_stream"),
    (grpc.aio.StreamUnaryClientInterceptor, "intercept_stream_unary"),
    (grpc.aio.StreamStreamClientInterceptor, "intercept_stream_stream"),
)
_END = object()
FINISHED = "RPC already finished."
HALF_CLOSED = 'RPC is half closed after calling "done_writing".'
MIXED_STYLES = "The iterator and read/write APIs may not be mixed on a single RPC."


def by_kind(interceptors: Iterable[Any] | None) -> dict[str, list[Any]]:
    """Interceptors by the method that each of them has. Raises ValueError for what is none."""
    sorted_out: dict[str, list[Any]] = {method: [] for _, method in KINDS}
    for interceptor in interceptors or ():
        methods = [method for kind, method in KINDS if isinstance(interceptor, kind)]
        if not methods:
            names = " or ".join(kind.__name__ for kind, _ in KINDS)
            raise ValueError(f"Interceptor {interceptor!r} must be {names}.")
        for method in methods:
            sorted_out[method].append(interceptor)
    return sorted_out


def chain(
    interceptors: Sequence[Any], method: str, make: Callable[[Any, Any], Any]
) -> Callable[[Any, Any], Coroutine[Any, Any, Any]]:
    """A coroutine function of details and request that runs the interceptors, and at their end `make`."""

    async def at(index: int, details: Any, request: Any) -> Any:
        if index == len(interceptors):
            return make(details, request)

        async def continuation(details: Any, request: Any) -> Any:
            return await at(index + 1, details, request)

        outcome = await getattr(interceptors[index], method)(continuation, details, request)
        return outcome if isinstance(outcome, grpc.aio.Call) else _Given(outcome)

    return lambda details, request: at(0, details, request)


class _Given(grpc.aio.Call):
    """A plain response, or an iterator of responses, in place of a call: it has succeeded already."""

    def __init__(self, given: Any) -> None:
        self._given = given

    def cancelled(self) -> bool:
        """Never."""
        return False

    def done(self) -> bool:
        """Always."""
        return True

    def cancel(self) -> bool:
        """Too late."""
        return False

    def time_remaining(self) -> float | None:
        """Nothing is waited for."""
        return None

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """At once."""
        callback(self)

    async def initial_metadata(self) -> Any:
        """None was sent."""
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> Any:
        """None was sent."""
        return grpc.aio.Metadata()

    async def code(self) -> grpc.StatusCode:
        """Success."""
        return grpc.StatusCode.OK

    async def details(self) -> str:
        """None."""
        return ""

    async def debug_error_string(self) -> str:
        """None."""
        return ""

    async def wait_for_connection(self) -> None:
        """Nothing to wait for."""

    def __await__(self) -> Generator[Any, None, Any]:
        """The response."""
        return self._given
        yield

    def __aiter__(self) -> AsyncIterator[Any]:
        """The responses."""
        iterator: AsyncIterator[Any] = self._given.__aiter__()
        return iterator

    async def read(self) -> Any:
        """The next response."""
        if not hasattr(self._given, "__anext__"):
            self._given = self._given.__aiter__()
        return await anext(self._given, grpc.aio.EOF)


class _Intercepted(grpc.aio.Call):
    """What the caller holds while interceptors run, and afterwards."""

    def __init__(self, run: Coroutine[Any, Any, Any], loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._task: asyncio.Task[Any] = loop.create_task(run)
        self._task.add_done_callback(self._on_outcome)
        self._callbacks: list[Callable[[Any], None]] = []

    def _on_outcome(self, task: asyncio.Task[Any]) -> None:
        if self._error is None and not task.cancelled():
            for callback in self._callbacks:
                self._call.add_done_callback(lambda _, callback=callback: callback(self))
            return
        for callback in self._callbacks:
            callback(self)

    @property
    def _error(self) -> BaseException | None:
        """What the interceptors raised."""
        return self._task.exception() if self._task.done() and not self._task.cancelled() else None

    @property
    def _call(self) -> Any:
        """What they returned; only once the task has ended well."""
        return self._task.result()

    async def _outcome(self) -> Any:
        """The call. Raises what the interceptors raised, CancelledError when they were cancelled."""
        try:
            return await asyncio.shield(self._task)
        except asyncio.CancelledError:
            if not self._task.done():
                self._task.cancel()
            raise

    async def _ask(self, question: str, of_error: Callable[[grpc.aio.AioRpcError], Any], when_cancelled: Any) -> Any:
        """A question to the call, or to the error that stands in its place."""
        try:
            call = await self._outcome()
        except asyncio.CancelledError:
            if not self._task.cancelled():
                raise
            return when_cancelled
        except grpc.aio.AioRpcError as error:
            return of_error(error)
        return await getattr(call, question)()

    def cancel(self) -> bool:
        """Cancels the interceptors, or the call that they made."""
        if not self._task.done():
            return self._task.cancel()
        if self._task.cancelled() or self._error is not None:
            return False
        return bool(self._call.cancel())

    def cancelled(self) -> bool:
        """Whether it was."""
        if not self._task.done():
            return False
        if self._task.cancelled():
            return True
        error = self._error
        if error is not None:
            return isinstance(error, grpc.aio.AioRpcError) and error.code() is grpc.StatusCode.CANCELLED
        return bool(self._call.cancelled())

    def done(self) -> bool:
        """Whether it is over."""
        if not self._task.done():
            return False
        return True if self._task.cancelled() or self._error is not None else bool(self._call.done())

    def add_done_callback(self, callback: Callable[[Any], None]) -> None:
        """`callback(self)` follows when it is over."""
        if self.done():
            callback(self)
        elif self._task.done():
            self._call.add_done_callback(lambda _: callback(self))
        else:
            self._callbacks.append(callback)

    def time_remaining(self) -> float | None:
        """Of the call that was made; None before, and without a deadline."""
        is_made = self._task.done() and not self._task.cancelled() and self._error is None
        remaining: float | None = self._call.time_remaining() if is_made else None
        return remaining

    async def initial_metadata(self) -> Any:
        """What the server sent first."""
        return await self._ask("initial_metadata", lambda error: error.initial_metadata(), grpc.aio.Metadata())

    async def trailing_metadata(self) -> Any:
        """What the server sent last."""
        return await self._ask("trailing_metadata", lambda error: error.trailing_metadata(), grpc.aio.Metadata())

    async def code(self) -> Any:
        """The status."""
        return await self._ask("code", lambda error: error.code(), grpc.StatusCode.CANCELLED)

    async def details(self) -> Any:
        """Words beside the status."""
        return await self._ask("details", lambda error: error.details(), "Locally cancelled by application!")

    async def debug_error_string(self) -> Any:
        """The same, for people."""
        return await self._ask("debug_error_string", lambda error: error.debug_error_string(), "")

    async def wait_for_connection(self) -> None:
        """Waits until the call that was made has left."""
        await (await self._outcome()).wait_for_connection()


class _OneResponse(_Intercepted):
    def __await__(self) -> Generator[Any, None, Any]:
        """The response. Raises what the interceptors raised."""
        call = yield from self._outcome().__await__()
        response = yield from call.__await__()
        return response


class _ManyResponses(_Intercepted):
    _iterator: AsyncIterator[Any] | None = None

    async def _responses(self) -> AsyncIterator[Any]:
        async for response in await self._outcome():
            yield response

    def __aiter__(self) -> AsyncIterator[Any]:
        """The responses."""
        if self._iterator is None:
            self._iterator = self._responses()
        return self._iterator

    async def read(self) -> Any:
        """The next response; `grpc.aio.EOF` at the end."""
        return await (await self._outcome()).read()


class _ManyRequests(_Intercepted):
    """Requests that are written by hand reach the interceptors as an iterator."""

    _requests: asyncio.Queue[Any] | None
    _is_done_writing = False

    @classmethod
    def writable(cls) -> tuple[asyncio.Queue[Any], AsyncIterator[Any]]:
        """A queue of one, and the iterator over what is written into it."""
        queue: asyncio.Queue[Any] = asyncio.Queue(maxsize=1)

        async def requests() -> AsyncIterator[Any]:
            while (request := await queue.get()) is not _END:
                yield request

        return queue, requests()

    async def _put(self, request: Any) -> None:
        if self._requests is None:
            raise grpc.aio.UsageError(MIXED_STYLES)
        try:
            call = await self._outcome()
        except grpc.aio.AioRpcError:
            raise asyncio.InvalidStateError(FINISHED) from None
        if call.done():
            raise asyncio.InvalidStateError(FINISHED)
        ended = asyncio.ensure_future(call.code())
        putting = asyncio.ensure_future(self._requests.put(request))
        try:
            await asyncio.wait((ended, putting), return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended.cancel()
            putting.cancel()

    async def write(self, request: Any) -> None:
        """Passes a request on."""
        if self._is_done_writing:
            raise asyncio.InvalidStateError(HALF_CLOSED)
        await self._put(request)

    async def done_writing(self) -> None:
        """Says that no more requests follow."""
        if not self._is_done_writing:
            self._is_done_writing = True
            await self._put(_END)


class InterceptedUnaryUnaryCall(_OneResponse, grpc.aio.UnaryUnaryCall[Any, Any]):
    """One request, one response."""


class InterceptedUnaryStreamCall(_ManyResponses, grpc.aio.UnaryStreamCall[Any, Any]):
    """One request, a stream of responses."""


class InterceptedStreamUnaryCall(_ManyRequests, _OneResponse, grpc.aio.StreamUnaryCall[Any, Any]):
    """A stream of requests, one response."""


class InterceptedStreamStreamCall(_ManyRequests, _ManyResponses, grpc.aio.StreamStreamCall[Any, Any]):
    """A stream of requests, a stream of responses."""


def intercepted(
    kind: type[Any],
    interceptors: Sequence[Any],
    method: str,
    make: Callable[[Any, Any], Any],
    details: grpc.aio.ClientCallDetails,
    request: Any,
    loop: asyncio.AbstractEventLoop,
) -> Any:
    """A call of a `kind` above that the interceptors make by `make(details, request)`."""
    queue = None
    if issubclass(kind, _ManyRequests) and request is None:
        queue, request = kind.writable()
    call = kind(chain(interceptors, method, make)(details, request), loop)
    if issubclass(kind, _ManyRequests):
        call._requests = queue
    return call
