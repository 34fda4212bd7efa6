"""Threads for what blocks: one for the log, one for the store. The simulator has a worker of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
R = TypeVar("R")


class Worker(Protocol):
    """Runs functions one after the other, away from the event loop."""

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """The future of its result; functions run in the order of submission."""
        ...

    def close(self) -> None:
        """Waits for what was submitted."""
        ...


class ThreadWorker:
    """One thread."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop) -> None:
        self._executor, self._loop = ThreadPoolExecutor(1, thread_name_prefix=name), loop

    def submit(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[R]:
        """See `Worker.submit`."""
        return asyncio.wrap_future(self._executor.submit(function, *args, **kwargs), loop=self._loop)

    def close(self) -> None:
        """See `Worker.close`."""
        self._executor.shutdown(wait=True)
