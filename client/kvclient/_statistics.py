"""What became of every operation of a client, counted.

Owns the counts, by operation, consistency and outcome. Never samples, never sends.

An operation that ends is noted, and notes are counted some hundred at a time: in a loop, with everything at hand, that costs
half as much as one by one between calls, and threads need no lock to take a note.

Invariant: an operation is counted once, when its caller gets its outcome or leaves.
"""

from __future__ import annotations

import threading
import time
from collections import deque

from kvclient._requests import Call
from kvclient._status import outcome_of
from kvclient.histogram import Histogram
from kvclient.types import Consistency, OperationStatistics, Statistics

NOTED_MAX = 256
"""Notes that wait to be counted, a tenth of a millisecond's work."""


class _Series:
    """One kind of operation at one level."""

    __slots__ = ("attempts", "outcomes", "queue")

    def __init__(self) -> None:
        self.attempts = 0
        self.outcomes: dict[str, Histogram] = {}
        self.queue = Histogram()


class Counters:
    """Counts. Any thread may call anything."""

    def __init__(self) -> None:
        self._since = time.time()
        self._noted: deque[tuple[str, Consistency | None, str, float, int, float]] = deque()
        """Operation, level, outcome, duration and attempts; seconds in the queue."""
        self._mutex = threading.Lock()
        """For `_series`."""
        self._series: dict[tuple[str, Consistency | None], _Series] = {}

    def count(self, call: Call, error: BaseException | None) -> None:
        """`call` ended now, well or with `error`."""
        outcome = "OK" if error is None else outcome_of(error)
        duration_s = time.monotonic() - call.started
        self._noted.append((call.method.name, call.consistency, outcome, duration_s, call.attempts, call.queued_s))
        if len(self._noted) >= NOTED_MAX:
            with self._mutex:
                self._count_noted()

    def statistics(self) -> Statistics:
        """All of it until now, as a copy."""
        with self._mutex:
            self._count_noted()
            operations = tuple(
                OperationStatistics(
                    name.lower(),
                    consistency,
                    {outcome: durations.copy() for outcome, durations in sorted(series.outcomes.items())},
                    series.attempts,
                    series.queue.copy(),
                )
                for (name, consistency), series in sorted(self._series.items(), key=lambda item: (item[0][0], item[0][1] or 0))
            )
        return Statistics(self._since, time.time(), operations)

    def _count_noted(self) -> None:
        for _ in range(len(self._noted)):
            name, consistency, outcome, duration_s, attempts, queued_s = self._noted.popleft()
            series = self._series.get((name, consistency))
            if series is None:
                series = self._series[name, consistency] = _Series()
            durations = series.outcomes.get(outcome)
            if durations is None:
                durations = series.outcomes[outcome] = Histogram()
            durations.record(int(duration_s * 1e6))
            series.attempts += attempts
            if queued_s:
                series.queue.record(int(queued_s * 1e6))
