"""What waits for the outcome of something in the core: futures, and collectors of several outcomes."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, Protocol, TypeVar

from kvnode.errors import KvnodeError

T = TypeVar("T")


class Token(Protocol):
    """Anything that can take one outcome, or has been abandoned."""

    def done(self) -> bool: ...
    def set_result(self, result: Any, /) -> None: ...
    def set_exception(self, exception: Any, /) -> None: ...


def deliver(token: Any, outcome: object) -> None:
    """Hands an outcome to whoever waits; nobody may be waiting any more."""
    if token is None or token.done():
        return
    if isinstance(outcome, KvnodeError):
        token.set_exception(outcome)
    else:
        token.set_result(outcome)


class Collector(Generic[T]):
    """A token that takes several results and gives them all to one future."""

    def __init__(self, count: int, loop: asyncio.AbstractEventLoop) -> None:
        self.future: asyncio.Future[list[T]] = loop.create_future()
        self._results: list[T] = []
        self._missing = count
        if not count:
            self.future.set_result([])

    def done(self) -> bool:
        """Whether nobody waits any more."""
        return self.future.done()

    def set_result(self, result: T, /) -> None:
        """One more result; the last one wakes the future."""
        self._results.append(result)
        self._missing -= 1
        if not self._missing:
            self.future.set_result(self._results)

    def set_exception(self, exception: BaseException, /) -> None:
        """One failure fails all."""
        self.future.set_exception(exception)
