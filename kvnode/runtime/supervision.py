"""A node under a service manager: what it tells of its start, of itself while it serves, and that it is not stuck.

Owns when the manager is told. A watchdog is only worth its restarts if it is fed by the work itself: a sign of life means that
the event loop ran, that the node's ticker ticked, and that the log's thread took something up, all since the sign before. A
disk that hangs, a loop that spins and a ticker that died all end in silence, and so in a restart.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

from kvnode.runtime.service_manager import ServiceManager
from kvnode.runtime.worker import Worker
from kvnode.types import Seconds

STATUS_INTERVAL: Seconds = 1.0
SIGNS_PER_TIMEOUT = 4
"""Signs of life within the watchdog's time-out: the log's thread may be busy for three quarters of it, and no more."""
SIGN_INTERVAL_MIN: Seconds = 0.1
"""The ticker must have had the time to tick in between."""
REPLAY_WORD_INTERVAL: Seconds = 1.0
REPLAY_STEP_MAX: Seconds = 30.0
"""While records come, the replay gets so much more time; without any for so long it counts as stuck."""
_RECORDS_BETWEEN_LOOKS = 64
"""A record may have a megabyte: a slow disk must bring so many of them within `REPLAY_STEP_MAX`."""

R = TypeVar("R")


def replaying(records: Iterable[R], manager: ServiceManager, clock: Callable[[], Seconds] = time.monotonic) -> Iterator[R]:
    """The log's records as they come; meanwhile the manager hears how far the replay is, and waits for as long as it moves."""
    began = told = clock()
    manager.extend_timeout(REPLAY_STEP_MAX)
    manager.status("RECOVERING: the log is being replayed")
    for number, record in enumerate(records):
        if number % _RECORDS_BETWEEN_LOOKS == 0 and (now := clock()) - told >= REPLAY_WORD_INTERVAL:
            told = now
            manager.extend_timeout(REPLAY_STEP_MAX)
            manager.status(f"RECOVERING: {number:,} records of the log replayed in {now - began:.0f} s")
        yield record


class Supervision:
    """Of a node that serves, from `start` to `stop`."""

    def __init__(
        self,
        manager: ServiceManager,
        loop: asyncio.AbstractEventLoop,
        status: Callable[[], str],
        ticks: Callable[[], int],
        log_worker: Worker,
    ) -> None:
        """`status` is one line for people; `ticks` counts what the node's ticker did."""
        self._manager, self._loop = manager, loop
        self._status, self._ticks, self._log_worker = status, ticks, log_worker
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Says that the node is ready, and how it is from now on."""
        self._manager.status(self._status())
        self._manager.ready()
        if self._manager.listens:
            self._tasks.append(self._loop.create_task(self._say_status(), name="service status"))
        if self._manager.watchdog_timeout:
            self._tasks.append(self._loop.create_task(self._give_signs(), name="watchdog"))

    def stop(self) -> None:
        """Says that the node stops, and nothing after that."""
        for task in self._tasks:
            task.cancel()
        self._manager.stopping()
        self._manager.status("stopping")

    async def _say_status(self) -> None:
        while True:
            await asyncio.sleep(STATUS_INTERVAL)
            self._manager.status(self._status())

    async def _give_signs(self) -> None:
        interval = max(self._manager.watchdog_timeout / SIGNS_PER_TIMEOUT, SIGN_INTERVAL_MIN)
        while True:
            ticks = self._ticks()
            await asyncio.sleep(interval)
            await self._log_worker.submit(_nothing)
            if self._ticks() != ticks:
                self._manager.alive()


def _nothing() -> None:
    """What the log's thread does to show that it could do more."""
