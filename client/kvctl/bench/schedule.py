"""When operations begin.

Open loop: every operation has an intended start, fixed in advance, whatever becomes of those before it. Who takes one late
takes it with its intended start, from which its latency counts; so a stall shows in every operation that it held up, not only
in those that were under way (Gil Tene, "How NOT to Measure Latency"; he calls the mistake coordinated omission). Closed loop:
each caller begins its next operation when its last one ends.

Owns turns, no operations. Times are those of the event loop's clock, in seconds.
"""

from __future__ import annotations

import asyncio
import math
import random
from abc import ABC, abstractmethod
from array import array
from collections import deque
from collections.abc import Iterator
from typing import ClassVar


class Turns(ABC):
    """Tells callers when to begin."""

    is_open: ClassVar[bool]
    """Whether turns have a time of their own, so that one may be late."""

    @abstractmethod
    async def take(self) -> float | None:
        """Wait for a turn: the moment at which the operation should begin, or should have begun. None: there are no more."""

    @abstractmethod
    def stop(self) -> None:
        """No more turns from now on."""


class ClosedLoop(Turns):
    """A turn for whoever asks, until the time is over or so many were given."""

    is_open = False

    def __init__(self, loop: asyncio.AbstractEventLoop, until: float, operations: int | None = None) -> None:
        self._now, self._until = loop.time, until
        self._left = math.inf if operations is None else operations

    async def take(self) -> float | None:
        """See `Turns`."""
        now = self._now()
        if now >= self._until or self._left <= 0:
            return None
        self._left -= 1
        return now

    def stop(self) -> None:
        """See `Turns`."""
        self._until = -math.inf


class OpenLoop(Turns):
    """Turns at the times of `arrivals`, in their order.

    Invariant: a turn whose time has come goes to a caller at once, or, while all are busy, to the first that is free again;
    only the end leaves turns over, and those are known.
    """

    is_open = True

    def __init__(self, loop: asyncio.AbstractEventLoop, arrivals: Iterator[float], until: float = math.inf) -> None:
        """Arrivals from `until` on do not count; neither begins anything after it."""
        self._loop, self._arrivals, self._until = loop, arrivals, until
        self._due = next(arrivals, math.inf)
        self._idle: deque[asyncio.Future[float | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self.wakes_late_s = array("d")
        """How late this process woke up for turns that callers were waiting for: its own fault, not the cluster's."""

    async def take(self) -> float | None:
        """See `Turns`."""
        now, due = self._loop.time(), self._due
        if due >= self._until or now >= self._until:
            return None
        if due <= now:  # all were busy when it came
            self._due = next(self._arrivals, math.inf)
            return due
        turn: asyncio.Future[float | None] = self._loop.create_future()
        self._idle.append(turn)
        if self._timer is None:
            self._timer = self._loop.call_at(due, self._wake)
        return await turn

    def _wake(self) -> None:
        """Give what is due to those who wait."""
        now, idle = self._loop.time(), self._idle
        if self._due <= now:  # else a caller that was just done has taken it
            self.wakes_late_s.append(now - self._due)
        while idle and self._due <= now and self._due < self._until:
            turn = idle.popleft()
            if not turn.done():
                turn.set_result(self._due)
                self._due = next(self._arrivals, math.inf)
        if self._due >= self._until:
            self._dismiss()
        self._timer = self._loop.call_at(self._due, self._wake) if idle else None

    def _dismiss(self) -> None:
        while self._idle:
            turn = self._idle.popleft()
            if not turn.done():
                turn.set_result(None)

    def stop(self) -> None:
        """See `Turns`."""
        self._until = min(self._until, self._loop.time())
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._dismiss()

    def left_over(self) -> Iterator[float]:
        """The seconds that each turn which nobody took had waited at the end; to be asked once, when all callers have gone."""
        while self._due < self._until:
            yield self._until - self._due
            self._due = next(self._arrivals, math.inf)


def even(begin: float, rate: float, index: int = 0, processes: int = 1) -> Iterator[float]:
    """Arrivals at equal distances; those of several processes interleave."""
    number = index
    while True:
        yield begin + number / rate
        number += processes


def poisson(begin: float, rate: float, rng: random.Random) -> Iterator[float]:
    """Arrivals of many who know nothing of each other: exponential gaps. Those of several processes add up to the same."""
    at, gap = begin, rng.expovariate
    while True:
        at += gap(rate)
        yield at
