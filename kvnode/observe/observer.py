"""All that watches a node, made together: what the node's parts are given to tell about their work."""

from __future__ import annotations

from collections.abc import Callable

from kvnode.config import Tracing as TracingSettings
from kvnode.observe.log_times import LogTimes
from kvnode.observe.recorder import Later, Recorder
from kvnode.observe.spans import Spans
from kvnode.observe.stages import Clock
from kvnode.observe.tracing import Tracing


class Observer:
    """Of one node. Without arguments it watches, tells nobody, and has neither clock nor random ids: for simulations."""

    def __init__(
        self,
        tracing: Tracing | None = None,
        clock: Clock = lambda: 0.0,
        later: Later | None = None,
        wall_ms: Callable[[], int] = lambda: 0,
    ) -> None:
        """`later` is the event loop's `call_later`; `wall_ms` tells Unix milliseconds."""
        self.clock, self.wall_ms = clock, wall_ms
        self.tracing = tracing or Tracing(TracingSettings(sample_ratio=0, kept_per_second_max=0), silent=True)
        self.times = LogTimes(clock)
        self.spans = Spans(self.tracing, self.times)
        self.recorder = Recorder(clock, self.spans, self.tracing, self.times, later or _never)


def _never(_delay: float, _callback: Callable[[], None]) -> object:
    return None
