"""How late the event loop runs what is due: whatever keeps it busy keeps every request and heartbeat of the node waiting.

Owns a timer that is due ten times a second, and what it measured. Costs some microseconds a second.
"""

from __future__ import annotations

import asyncio
import time

from kvclient.histogram import Histogram
from kvnode.types import Seconds

INTERVAL: Seconds = 0.1
RECENT: Seconds = 15.0
"""`greatest` looks back so far, at least; at most twice as far. Prometheus scrapes about as often."""


class LoopLag:
    """Measures one event loop from `start` to `stop`."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.lags = Histogram()
        """All that was measured, in microseconds."""
        self._loop = loop
        self._timer: asyncio.TimerHandle | None = None
        # (uvloop's own clock stands still within a turn, and counts milliseconds.)
        self._due: Seconds = 0.0
        self._since: Seconds = 0.0
        self._greatest: Seconds = 0.0
        self._greatest_before: Seconds = 0.0

    def start(self) -> None:
        """Begins to measure."""
        self._since = time.perf_counter()
        self._arm(self._since)

    def stop(self) -> None:
        """Measures no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    @property
    def greatest(self) -> Seconds:
        """Of late; what is overdue at this moment counts."""
        overdue = 0.0 if self._timer is None else time.perf_counter() - self._due
        return max(self._greatest, self._greatest_before, overdue)

    def _arm(self, now: Seconds) -> None:
        self._due = now + INTERVAL
        self._timer = self._loop.call_later(INTERVAL, self._measure)

    def _measure(self) -> None:
        now = time.perf_counter()
        self.record(now - self._due, now)
        self._arm(now)

    def record(self, lag: Seconds, now: Seconds) -> None:
        """Counts one lag; a timer that rang early was not late."""
        lag = max(0.0, lag)
        self.lags.record(int(lag * 1_000_000))
        if now - self._since >= RECENT:
            self._greatest_before, self._greatest, self._since = self._greatest, 0.0, now
        self._greatest = max(self._greatest, lag)
