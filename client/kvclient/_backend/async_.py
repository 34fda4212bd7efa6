"""Primitives on asyncio: one event loop, no locks.

Owns nothing of the protocol. Invariant: cancelling whoever awaits one of these leaves it usable by the others.
"""

from __future__ import annotations

import asyncio
import inspect
import math
import time
from collections.abc import Callable
from typing import Any

import grpc
import grpc.aio

from kvclient._backend.channels import OPTIONS, ChannelClosed
from kvclient._tracing import Metadata
from kvclient.errors import InvalidArgument
from kvclient.transport import insecure_channel

Channel = grpc.aio.Channel
OnDone = Callable[[Any, Exception | None], None]

SHORT_S = 0.25
"""A wait shorter than that gets a timer of its own: ten milliseconds would matter to it."""


class Mutex:
    """Nothing to exclude: code without `await` is never interrupted."""

    __slots__ = ()

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


class Home:
    """The event loop of a client: the one on which it was first used. Its connections cannot move to another."""

    __slots__ = ("_loop",)

    def __init__(self) -> None:
        self._loop: asyncio.AbstractEventLoop | None = None

    def check(self) -> None:
        """Raises `InvalidArgument` on another loop."""
        loop = asyncio.get_running_loop()
        if self._loop is None:
            self._loop = loop
        elif self._loop is not loop:
            message = "this client belongs to another event loop; make one for each asyncio.run"
            raise InvalidArgument(message, metadata={"field": "client"})

    def is_gone(self) -> bool:
        """Whether that loop is closed."""
        return self._loop is not None and self._loop.is_closed()


class Alarm:
    """Wakes those whose deadline passes, with one timer for all deadlines of the same hundredth of a second.

    A timer for each operation would be a fifth of its cost: almost none of them ever fires.
    """

    __slots__ = ("_slots",)

    def __init__(self) -> None:
        self._slots: dict[int, dict[Outcome, None]] = {}

    def slot(self, deadline: float, remaining: float) -> dict[Outcome, None]:
        """Who is put in here is woken at `deadline` or up to 10 ms later; take it out when it need not be."""
        number = int(deadline * 100.0) + 1
        slot = self._slots.get(number)
        if slot is None:
            slot = self._slots[number] = {}
            asyncio.get_running_loop().call_later(remaining + (number / 100.0 - deadline), self._ring, number)
        return slot

    def _ring(self, number: int) -> None:
        for outcome in list(self._slots.pop(number)):
            outcome.set()


class Outcome:
    """What one caller waits for, once."""

    __slots__ = ("_alarm", "_future")

    def __init__(self, alarm: Alarm) -> None:
        self._alarm = alarm
        self._future: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def set(self) -> None:
        """It is here. Harmless when nobody waits any more."""
        if not self._future.done():
            self._future.set_result(None)

    async def wait(self, deadline: float) -> None:
        """Until it is here, or the monotonic time `deadline`."""
        remaining = deadline - time.monotonic()
        if remaining > SHORT_S:
            slot = self._alarm.slot(deadline, remaining)
            slot[self] = None
            try:
                await self._future
            finally:
                slot.pop(self, None)
            return
        timer = self._future.get_loop().call_later(remaining, self.set)
        try:
            await self._future
        finally:
            timer.cancel()


class Gate:
    """At most so many at once."""

    __slots__ = ("_semaphore",)

    def __init__(self, size: int) -> None:
        self._semaphore = asyncio.Semaphore(size)

    async def enter(self, deadline: float) -> bool:
        """Wait for a place until the monotonic time `deadline`; False: there was none."""
        if not self._semaphore.locked() or deadline == math.inf:
            return await self._semaphore.acquire()
        try:
            async with asyncio.timeout(deadline - time.monotonic()):
                return await self._semaphore.acquire()
        except TimeoutError:
            return False

    def leave(self) -> None:
        """Give the place back."""
        self._semaphore.release()


class Background:
    """Calls that nobody awaits."""

    def __init__(self) -> None:
        self._tasks: set[asyncio.Task[None]] = set()

    def call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata | None, on_done: OnDone) -> None:
        """Make a call; `on_done(response, error)` follows, exactly once."""
        task = asyncio.get_running_loop().create_task(self._call(method, request, timeout, metadata, on_done))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata | None, on_done: OnDone) -> None:
        response, error = None, None
        try:
            response = await invoke(method, request, timeout, metadata)
        except Exception as caught:
            error = caught
        except BaseException:
            on_done(None, ChannelClosed(sent=True))
            raise
        on_done(response, error)

    async def close(self) -> None:
        """Wait until all have ended. They end because their channels are closed, before this."""
        await asyncio.gather(*self._tasks, return_exceptions=True)


def open_channel(target: str, transport: str) -> Channel:
    """A channel to "host:port", carried by `transport`; it connects with its first call."""
    return insecure_channel(transport, target, OPTIONS)


async def invoke(method: Any, request: Any, timeout: float | None, metadata: Metadata | None) -> Any:
    """One call. Raises `grpc.RpcError`, or `ChannelClosed`."""
    try:
        call = method(request, timeout=timeout, metadata=metadata)
    except grpc.aio.UsageError:
        raise ChannelClosed(sent=False) from None
    try:
        return await call
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if call.cancelled() and task is not None and not task.cancelling():
            raise ChannelClosed(sent=True) from None
        raise
    except grpc.aio.UsageError:
        raise ChannelClosed(sent=True) from None


async def run_body(body: Callable[[Any], Any], transaction: Any) -> Any:
    """What the body of a transaction returns. Raises `InvalidArgument` for what is no async function."""
    outcome = body(transaction) if callable(body) else body
    if not (callable(body) and inspect.isawaitable(outcome)):
        if inspect.iscoroutine(outcome):
            outcome.close()
        message = "body: is no async function; give one that takes the transaction, as `async def transfer(t): ...`"
        raise InvalidArgument(message, metadata={"field": "body"})
    return await outcome


async def sleep(seconds: float) -> None:
    """Wait."""
    await asyncio.sleep(seconds)


async def close_channel(channel: Channel) -> None:
    """Close; calls under way are cancelled."""
    await channel.close()
