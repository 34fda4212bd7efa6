"""Every request, recorded: histograms of its stages always, spans where they are wanted.

Owns when a request's spans are kept: it is sampled, or was slow, or failed; bounded a second where nobody asked for them. Spans
are made a moment after the answer, from the timeline, so that a request is never held up by them and that slower followers'
answers are known. Never raises into its caller's way and never decides anything.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, TypeVar

from opentelemetry.trace import SpanContext, TraceFlags

from kvclient.histogram import Histogram
from kvnode.config import Tracing as TracingSettings
from kvnode.observe.log_times import LogTimes, LogWrite
from kvnode.observe.outcomes import outcome_of
from kvnode.observe.request_log import RequestLog
from kvnode.observe.spans import CONSISTENCIES, Spans
from kvnode.observe.stages import Clock, Timeline
from kvnode.observe.tracing import Tracing, current
from kvnode.types import Seconds

T = TypeVar("T")

SPANS_AFTER_S: Seconds = 0.1
"""Until a kept request's spans are made: slower followers answer meanwhile."""
TIMER_BLUR: Seconds = 0.01
"""By so much a timer may ring early."""
SPANS_AT_ONCE = 32
"""Requests whose spans are made in one turn of the event loop: a few milliseconds, for which all others wait."""
PENDING_MAX = 10_000
"""Requests whose spans are to be made."""
WINDOW = 2_000
"""Requests of one kind after which what is slow for it is decided anew."""
EXPECTED = frozenset({"OK", "INVALID_ARGUMENT", "COMPARE_FAILED", "CANCELLED"})
"""Outcomes that are no failure of the store: their spans are not kept for them."""


class Later(Protocol):
    """`loop.call_later`."""

    def __call__(self, delay: float, callback: Callable[[], None], /) -> object: ...


class Series:
    """Requests of one operation and consistency."""

    __slots__ = ("_window", "outcomes", "slow_s", "stages", "whole")

    def __init__(self, slow_s: float) -> None:
        self.whole = Histogram()
        self.stages: dict[str, Histogram] = {}
        self.outcomes: dict[str, int] = {}
        self.slow_s = slow_s
        """Requests that take longer are slow."""
        self._window = Histogram()

    def record(self, timeline: Timeline, outcome: str, slow_s_max: float) -> float:
        """Counts a request; answers its duration, seconds."""
        seconds = timeline.ended - timeline.began
        self.whole.record(int(seconds * 1e6))
        stages = self.stages
        for stage, spent in timeline.sums().items():
            histogram = stages.get(stage)
            if histogram is None:
                histogram = stages[stage] = Histogram()
            histogram.record(int(spent * 1e6))
        if not timeline.hops:
            # (A forwarded request is its first node's: it must not count twice.)
            self.outcomes[outcome] = self.outcomes.get(outcome, 0) + 1
        if self.whole.count - self._window.count >= WINDOW:
            recent = self.whole.since(self._window)
            self.slow_s = min(slow_s_max, recent.percentile(99) / 1e6)
            self._window = self.whole.copy()
        return seconds


class Recorder:
    """Of one node."""

    def __init__(self, clock: Clock, spans: Spans, tracing: Tracing, times: LogTimes, later: Later) -> None:
        self.clock, self.spans = clock, spans
        self._tracing, self._times, self._later = tracing, times, later
        self._request_log = None if tracing.is_silent else RequestLog(clock)
        self._pending: deque[tuple[Timeline, str, str, str]] = deque()
        self._is_due = False
        self._batches: dict[int, tuple[LogWrite, list[SpanContext]]] = {}
        """By number: group commits, and the requests in them whose spans were made of late."""
        self.series: dict[tuple[str, int], Series] = {}
        self.kept: dict[str, int] = {}
        """Why -> how many requests' spans were kept."""
        self.unkept = 0
        """Requests that were slow or failed, and had to go without spans."""
        self.keep(tracing.settings)

    def keep(self, settings: TracingSettings) -> None:
        """From now on keeps the requests that `settings` call slow, and at most so many a second."""
        self._slow_s = settings.slow_ms / 1000 if settings.slow_ms else float("inf")
        self._per_second = settings.kept_per_second_max
        self._allowance, self._allowed_at = float(self._per_second), self.clock()
        for series in self.series.values():
            series.slow_s = self._slow_s  # until the next window says what is usual

    # ---- a request ---------------------------------------------------------------------------------------------------

    def begin(self, operation: str, consistency: int, span: SpanContext | None, parent: SpanContext | None = None) -> Timeline:
        """A request arrives. `span`: its identity, where it has one; `parent`: whose child it is."""
        # (Enums are open: a number that nobody knows must not make a series of its own.)
        known = consistency if consistency in CONSISTENCIES else 0
        return Timeline(self.clock, operation, known, span, parent)

    def timed(self, operation: str, consistency: int, serve: Callable[..., Awaitable[T]]) -> Callable[..., Awaitable[T]]:
        """`serve(request, deadline, timeline)` as a function of request and deadline, recorded as a child of what the task is
        working for."""

        async def handle(request: Any, deadline: Seconds | None = None) -> T:
            timeline = self.begin(operation, consistency, None, current())
            try:
                answer = await serve(request, deadline, timeline)
            except BaseException as error:
                self.end(timeline, *outcome_of(error))
                raise
            self.end(timeline)
            return answer

        return handle

    def end(self, timeline: Timeline, outcome: str = "OK", status: str = "OK") -> None:
        """It is answered: with OK, or the reason of its error and the gRPC status."""
        timeline.finish()
        key = (timeline.operation, timeline.consistency)
        series = self.series.get(key)
        if series is None:
            series = self.series[key] = Series(self._slow_s)
        seconds = series.record(timeline, outcome, self._slow_s)
        failed = outcome not in EXPECTED
        if self._request_log and (failed or seconds > self._slow_s):
            self._request_log.tell(timeline, outcome, failed)
        span = timeline.span or timeline.parent
        if span is not None and span.trace_flags & TraceFlags.SAMPLED:
            self._keep(timeline, outcome, status, "sampled")
        elif failed:
            self._maybe_keep(timeline, outcome, status, "failed")
        elif seconds > series.slow_s:
            self._maybe_keep(timeline, outcome, status, "slow")

    def _maybe_keep(self, timeline: Timeline, outcome: str, status: str, why: str) -> None:
        if self.allows():
            self._keep(timeline, outcome, status, why)

    def allows(self) -> bool:
        """Whether something that nobody sampled may leave spans now; each True uses up a share of the second's."""
        now = self.clock()
        self._allowance = min(self._per_second, self._allowance + (now - self._allowed_at) * self._per_second)
        self._allowed_at = now
        if self._allowance < 1:
            self.unkept += 1
            return False
        self._allowance -= 1
        return True

    def _keep(self, timeline: Timeline, outcome: str, status: str, why: str) -> None:
        if len(self._pending) >= PENDING_MAX:
            self.unkept += 1
            return
        self.kept[why] = self.kept.get(why, 0) + 1
        self._pending.append((timeline, outcome, status, why))
        self._come_back(SPANS_AFTER_S)

    def _come_back(self, after: Seconds) -> None:
        if not self._is_due:
            self._is_due = True
            self._later(after, self._on_due)

    def _on_due(self) -> None:
        """Makes the spans of requests that ended long enough ago: of some now, of others in the event loop's next turn."""
        self._is_due = False
        now, made = self.clock(), 0
        while self._pending and made < SPANS_AT_ONCE and now - self._pending[0][0].ended > SPANS_AFTER_S - TIMER_BLUR:
            self._make_spans()
            made += 1
        if made < SPANS_AT_ONCE:
            self._make_spans_of_batches()
        if self._pending:
            self._come_back(max(self._pending[0][0].ended + SPANS_AFTER_S - now, 0.0))

    def flush(self) -> None:
        """Makes the spans of all that is kept, at once."""
        while self._pending:
            self._make_spans()
        self._make_spans_of_batches()

    def _make_spans(self) -> None:
        timeline, outcome, status, why = self._pending.popleft()
        self.spans.request(timeline, outcome, status, why)
        write = self._times.write_of(*timeline.log) if timeline.log else None
        if write is not None and write.done and timeline.span is not None:
            self._batches.setdefault(write.number, (write, []))[1].append(timeline.span)

    def _make_spans_of_batches(self) -> None:
        batches, self._batches = self._batches, {}
        for write, requests in batches.values():
            self.spans.log_batch(write, requests)

    # ---- what it knows -----------------------------------------------------------------------------------------------

    @property
    def latency(self) -> dict[tuple[str, int, str], Histogram]:
        """By operation, consistency and stage; stage "": the whole request."""
        found: dict[tuple[str, int, str], Histogram] = {}
        for (operation, consistency), series in self.series.items():
            found[operation, consistency, ""] = series.whole
            found.update({(operation, consistency, stage): histogram for stage, histogram in series.stages.items()})
        return found

    @property
    def outcomes(self) -> dict[tuple[str, int, str], int]:
        """By operation, consistency and "OK" or the reason of the error."""
        return {
            (operation, consistency, outcome): count
            for (operation, consistency), series in self.series.items()
            for outcome, count in series.outcomes.items()
        }

    def episode(self, name: str, start: float, end: float, attributes: dict[str, Any], **more: Any) -> None:
        """A trace of its own of something that is no request: see `Spans.episode`."""
        if self.allows():
            self.spans.episode(name, start, end, attributes, **more)
