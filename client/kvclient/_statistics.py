"""What became of every operation of a client, counted.

Owns the counts, by operation, consistency and outcome. Never samples, never sends.

Invariant: an operation is counted once, when its caller gets its outcome or leaves.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from typing import Any

from kvclient._requests import Call
from kvclient._status import outcome_of
from kvclient.histogram import Histogram
from kvclient.types import Consistency, OperationStatistics, Statistics


class _Series:
    """One kind of operation at one level."""

    __slots__ = ("attempts", "outcomes", "queue")

    def __init__(self) -> None:
        self.attempts = 0
        self.outcomes: dict[str, Histogram] = {}
        self.queue = Histogram()


class Counters:
    """Counts; under `mutex`, which may be a real lock."""

    def __init__(self, mutex: AbstractContextManager[Any]) -> None:
        self._mutex = mutex
        self._since = time.time()
        self._series: dict[tuple[str, Consistency | None], _Series] = {}

    def count(self, call: Call, error: BaseException | None) -> None:
        """`call` ended now, well or with `error`."""
        duration_us = int((time.monotonic() - call.started) * 1e6)
        outcome = "OK" if error is None else outcome_of(error)
        kind = (call.method.name, call.consistency)
        with self._mutex:
            series = self._series.get(kind)
            if series is None:
                series = self._series[kind] = _Series()
            histogram = series.outcomes.get(outcome)
            if histogram is None:
                histogram = series.outcomes[outcome] = Histogram()
            histogram.record(duration_us)
            series.attempts += call.attempts
            if call.queued_s:
                series.queue.record(int(call.queued_s * 1e6))

    def statistics(self) -> Statistics:
        """All of it until now, as a copy."""
        with self._mutex:
            operations = tuple(
                OperationStatistics(
                    name.lower(),
                    consistency,
                    {outcome: histogram.copy() for outcome, histogram in sorted(series.outcomes.items())},
                    series.attempts,
                    series.queue.copy(),
                )
                for (name, consistency), series in sorted(self._series.items(), key=lambda item: (item[0][0], item[0][1] or 0))
            )
        return Statistics(self._since, time.time(), operations)
