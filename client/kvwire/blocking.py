"""Handlers that are plain functions: they run on a thread of the server's pool, as with grpc.aio's "migration thread pool"."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import grpc.aio

from kvwire.method import Method

if TYPE_CHECKING:
    from kvwire.server_call import ServerCall
    from kvwire.servicer_context import ServicerContext

_END = object()


class BlockingContext:
    """`grpc.ServicerContext` for a thread; what needs the event loop is done there, while the thread waits."""

    def __init__(self, context: ServicerContext, loop: asyncio.AbstractEventLoop) -> None:
        self._context, self._loop = context, loop

    def __getattr__(self, name: str) -> Any:
        return getattr(self._context, name)  # Questions, and words for the end of the call.

    def _wait(self, coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def abort(self, code: Any, details: str = "", trailing_metadata: Any = ()) -> NoReturn:
        """Ends the call with a status; raises always."""
        coroutine: Any = self._context.abort(code, details, trailing_metadata)
        try:
            coroutine.send(None)
        except StopIteration:
            pass
        raise grpc.aio.AbortError("Locally aborted.")

    def abort_with_status(self, status: Any) -> NoReturn:
        """Ends the call with a status object; raises always."""
        self.abort(status.code, status.details, status.trailing_metadata)

    def send_initial_metadata(self, initial_metadata: Any) -> None:
        """Sends the initial metadata now."""
        self._wait(self._context.send_initial_metadata(initial_metadata))

    def add_callback(self, callback: Callable[[], None]) -> bool:
        """`callback()` follows when the call is over; False: it is over."""
        if self._context.done():
            return False
        self._context.add_done_callback(lambda _: callback())
        return True

    def is_active(self) -> bool:
        """Whether the call is not over."""
        return not self._context.done()


def _iterate(requests: AsyncIterator[Any], loop: asyncio.AbstractEventLoop) -> Iterator[Any]:
    """An asynchronous iterator, for a thread."""
    while True:
        try:
            yield asyncio.run_coroutine_threadsafe(_next(requests), loop).result()
        except StopAsyncIteration:
            return


async def _next(requests: AsyncIterator[Any]) -> Any:
    return await requests.__anext__()


async def serve_blocking(call: ServerCall, method: Method, request: Any, context: ServicerContext) -> None:
    """Runs a plain function for a call, and sends what it returns or yields."""
    loop, pool = call.server.loop, call.server.pool
    blocking = BlockingContext(context, loop)
    if method.request_streaming:
        request = _iterate(request, loop)
    result = await loop.run_in_executor(pool, method.behaviour, request, blocking)
    if not method.response_streaming:
        if not call.is_over:
            call.answer(method, result, context)
        return
    responses = iter(result)
    advance = functools.partial(next, responses, _END)
    while (response := await loop.run_in_executor(pool, advance)) is not _END:
        await call.write(method, response)
    call.finish_with(context)
