"""What a run measured: histograms by kind, errors by reason, the time line.

Owns all statistics, also while the load runs. Takes the processes' samples as they come; an interval is complete when every
process has gone past it.
"""

from __future__ import annotations

import math
import time
from array import array
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import NamedTuple

from kvctl.bench.hdr_log import HdrLog
from kvctl.bench.latency import Latency, Summary
from kvctl.bench.plan import KINDS, Plan
from kvctl.bench.samples import Finished, Message, Sample, microseconds

OUTCOME_UNKNOWN = "OUTCOME_UNKNOWN"
LIVE_S = 1.0
"""What the display shows is of the last second."""


@dataclass
class KindResult:
    """One kind of operation, or all of them."""

    latency: Latency = field(default_factory=Latency)
    """From the intended start, or in a closed loop from the actual one; also of operations that failed."""
    service: Latency = field(default_factory=Latency)
    """From the actual start, in an open loop."""
    ended: int = 0
    ended_in_time: int = 0
    """Before the measured time was over."""
    succeeded_in_time: int = 0
    errors: Counter[str] = field(default_factory=Counter)
    """By reason."""
    absent: int = 0
    left_over: int = 0
    """Due, and not started before the end; what they had waited is in `latency`."""

    @property
    def unknown(self) -> int:
        """Writes of which nobody knows whether they took effect."""
        return self.errors[OUTCOME_UNKNOWN]

    @property
    def failed(self) -> int:
        """The other failures."""
        return self.errors.total() - self.unknown

    def add(self, other: KindResult) -> None:
        """Add another kind."""
        self.latency.add(other.latency)
        self.service.add(other.service)
        self.ended += other.ended
        self.ended_in_time += other.ended_in_time
        self.succeeded_in_time += other.succeeded_in_time
        self.errors.update(other.errors)
        self.absent += other.absent
        self.left_over += other.left_over


class Live(NamedTuple):
    """The last moments, for a display."""

    ended: int
    """Since the beginning."""
    per_second: float
    p50_ms: float
    """Not a number, where nothing ended."""
    p99_ms: float
    errors: int
    """Since the beginning."""


class Moment(NamedTuple):
    """One interval of the time line."""

    at_s: float
    per_second: float
    errors: int
    latency: Summary | None


@dataclass
class _Interval:
    by_kind: dict[str, Latency] = field(default_factory=dict)
    succeeded_in_time: int = 0
    errors: int = 0


class Recorder:
    """Takes samples."""

    def __init__(self, plan: Plan, hdr_log: HdrLog | None = None) -> None:
        self.plan, self._hdr_log = plan, hdr_log
        self.kinds = {kind: KindResult() for kind in KINDS if kind in plan.mix}
        """Latencies are complete when all processes have finished."""
        self.finished: list[Finished] = []
        self.timeline: list[Moment] = []
        self.began_unix_s = self._began = 0.0
        self._intervals: dict[int, _Interval] = {}
        self._closed = 0
        self._positions = dict.fromkeys(range(plan.processes), 0)
        self._recent: deque[tuple[float, array[int]]] = deque()

    def begin(self, at_unix_s: float) -> None:
        """The measured time begins."""
        self.began_unix_s, self._began = at_unix_s, time.monotonic()
        if self._hdr_log is not None:
            self._hdr_log.begin(at_unix_s)

    def on_message(self, process: int, message: Message) -> None:
        """What a process says."""
        if isinstance(message, Sample):
            self._on_sample(process, message)
        elif isinstance(message, Finished):
            self._on_finished(process, message)

    def _on_sample(self, process: int, sample: Sample) -> None:
        number = self._interval(sample.interval)
        interval = self._intervals.setdefault(number, _Interval())
        for kind, noted in sample.kinds.items():
            result, latencies, errors = self.kinds[kind], microseconds(noted.latencies_us), sum(noted.errors.values())
            succeeded_in_time = (len(latencies) - errors) * sample.in_time
            result.ended += len(latencies)
            result.ended_in_time += len(latencies) * sample.in_time
            result.succeeded_in_time += succeeded_in_time
            result.errors.update(noted.errors)
            result.absent += noted.absent
            result.service.record(microseconds(noted.services_us))
            interval.by_kind.setdefault(kind, Latency()).record(latencies)
            interval.succeeded_in_time += succeeded_in_time
            interval.errors += errors
            self._recent.append((time.monotonic(), latencies))
        self._positions[process] = number
        self._close_before(min(self._positions.values()))

    def _on_finished(self, process: int, finished: Finished) -> None:
        last = self._intervals.setdefault(self._positions[process], _Interval())
        for kind, data in finished.left_over.items():
            waited = microseconds(data)
            self.kinds[kind].left_over += len(waited)
            last.by_kind.setdefault(kind, Latency()).record(waited)
        self.finished.append(finished)
        del self._positions[process]
        self._close_before(min(self._positions.values(), default=max(self._intervals) + 1))

    def _interval(self, number: int) -> int:
        """What ended after the measured time belongs to its last interval."""
        duration_s, interval_s = self.plan.duration_s, self.plan.interval_s
        return number if math.isinf(duration_s) else min(number, max(0, math.ceil(duration_s / interval_s - 1e-9) - 1))

    def _close_before(self, number: int) -> None:
        """No process will add to earlier intervals."""
        for closed in range(self._closed, number):
            interval = self._intervals.pop(closed, _Interval())
            start_s = closed * self.plan.interval_s
            length_s = min(self.plan.interval_s, self.plan.duration_s - start_s)
            if not self._positions:  # the last one, which operations or Ctrl-C may have ended
                length_s = max(1e-3, min(length_s, self.measured_s - start_s))
            if self._hdr_log is not None:
                self._hdr_log.write(start_s, length_s, interval.by_kind)
            total = Latency()
            for kind, latency in interval.by_kind.items():
                total.add(latency)
                self.kinds[kind].latency.add(latency)
            per_second = interval.succeeded_in_time / length_s
            self.timeline.append(Moment(start_s, per_second, interval.errors, total.summary()))
        self._closed = max(self._closed, number)

    def live(self) -> Live:
        """The last second."""
        now = time.monotonic()
        while self._recent and self._recent[0][0] < now - LIVE_S:
            self._recent.popleft()
        latest = sorted(value for _, latencies in self._recent for value in latencies)
        p50, p99 = (latest[int(len(latest) * share)] / 1e3 if latest else math.nan for share in (0.5, 0.99))
        per_second = len(latest) / max(1e-3, min(LIVE_S, now - self._began))
        kinds = self.kinds.values()
        return Live(sum(kind.ended for kind in kinds), per_second, p50, p99, sum(kind.errors.total() for kind in kinds))

    @property
    def measured_s(self) -> float:
        """The measured time: as planned, or until the last operation where their number or Ctrl-C ended it."""
        return min(self.plan.duration_s, max((finished.ended_s for finished in self.finished), default=0.0))

    def total(self) -> KindResult:
        """All kinds together."""
        total = KindResult()
        for result in self.kinds.values():
            total.add(result)
        return total
