"""Primitives on threads: the callers' own, and gRPC's, which runs the callbacks of calls that nobody waits for.

Owns nothing of the protocol and starts no thread.
"""

from __future__ import annotations

import inspect
import math
import threading
import time
from collections.abc import Callable
from typing import Any

import grpc

from kvclient._backend.channels import OPTIONS, ChannelClosed
from kvclient._tracing import Metadata
from kvclient.errors import InvalidArgument

Channel = grpc.Channel
OnDone = Callable[[Any, Exception | None], None]

Mutex = threading.Lock


class Home:
    """Any thread will do."""

    __slots__ = ()

    def check(self) -> None:
        """Nothing to check."""

    def is_gone(self) -> bool:
        """Never."""
        return False


class Alarm:
    """Threads wait with a time-out of their own."""

    __slots__ = ()


class Outcome:
    """What one caller waits for, once. A bare lock: a third of the cost of `threading.Event`."""

    __slots__ = ("_lock",)

    def __init__(self, alarm: Alarm) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """It is here. Called once."""
        self._lock.release()

    def wait(self, deadline: float) -> None:
        """Until it is here, or the monotonic time `deadline`."""
        if deadline == math.inf:
            self._lock.acquire()
        else:
            self._lock.acquire(timeout=max(0.0, deadline - time.monotonic()))


class Gate:
    """At most so many at once."""

    __slots__ = ("_semaphore",)

    def __init__(self, size: int) -> None:
        self._semaphore = threading.Semaphore(size)

    def enter(self, deadline: float) -> bool:
        """Wait for a place until the monotonic time `deadline`; False: there was none."""
        if deadline == math.inf:
            return self._semaphore.acquire()
        return self._semaphore.acquire(timeout=max(0.0, deadline - time.monotonic()))

    def leave(self) -> None:
        """Give the place back."""
        self._semaphore.release()


class Background:
    """Calls that nobody waits for."""

    def call(self, method: Any, request: Any, timeout: float | None, metadata: Metadata | None, on_done: OnDone) -> None:
        """Make a call; `on_done(response, error)` follows, exactly once, as a rule on a thread of gRPC's."""
        try:
            future = method.future(request, timeout=timeout, metadata=metadata)
        except ValueError:
            on_done(None, ChannelClosed(sent=False))
            return
        future.add_done_callback(lambda done: on_done(*_result_of(done)))

    def close(self) -> None:
        """Nothing to wait for: calls end with their channels."""


def open_channel(target: str, transport: str) -> Channel:
    """A channel to "host:port"; it connects with its first call. On threads it is grpcio that carries it, always."""
    return grpc.insecure_channel(target, options=OPTIONS)


def invoke(method: Any, request: Any, timeout: float | None, metadata: Metadata | None) -> Any:
    """One call. Raises `grpc.RpcError`, or `ChannelClosed`."""
    try:
        return method(request, timeout=timeout, metadata=metadata)
    except ValueError:
        raise ChannelClosed(sent=False) from None


def run_body(body: Callable[[Any], Any], transaction: Any) -> Any:
    """What the body of a transaction returns. Raises `InvalidArgument` for what is no plain function."""
    outcome = body(transaction) if callable(body) else None
    if not callable(body) or inspect.isawaitable(outcome):
        if inspect.iscoroutine(outcome):
            outcome.close()
        message = "body: is no plain function; give one that takes the transaction, as `def transfer(t): ...`"
        raise InvalidArgument(message, metadata={"field": "body"})
    return outcome


def sleep(seconds: float) -> None:
    """Wait."""
    time.sleep(seconds)


def close_channel(channel: Channel) -> None:
    """Close; calls under way are cancelled."""
    channel.close()


def _result_of(done: Any) -> tuple[Any, Exception | None]:
    try:
        return done.result(), None
    except grpc.FutureCancelledError:
        return None, ChannelClosed(sent=True)
    except Exception as error:
        return None, error
