"""Client spans of some operations, as OTLP JSON lines: to see where a slow one spent its time.

Owns the choice of operations. Nodes follow it (W3C Trace Context), so that a trace that begins here has their spans, too, where
they keep any. Spans leave in batches from a thread of their own, and are dropped when that cannot keep up.
"""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import get_current_span

from kvclient.otlp_json import JsonLinesExporter
from kvctl.bench.plan import Plan

SPANS_WAITING_MAX = 8_192
_DROPPED, _SAMPLED = SamplingResult(Decision.DROP), SamplingResult(Decision.RECORD_AND_SAMPLE)


class _Share(Sampler):
    """A share of the operations, once there is something to measure; a part of an operation goes with the whole."""

    def __init__(self, ratio: float, rng: random.Random) -> None:
        self.is_on = False
        self._ratio, self._random = ratio, rng.random

    def should_sample(self, parent_context: Context | None, trace_id: int, name: str, *_: Any, **__: Any) -> SamplingResult:
        """See `Sampler`."""
        parent = get_current_span(parent_context).get_span_context()
        if parent.is_valid:
            return _SAMPLED if parent.trace_flags.sampled else _DROPPED
        return _SAMPLED if self.is_on and self._random() < self._ratio else _DROPPED

    def get_description(self) -> str:
        """See `Sampler`."""
        return f"{self._ratio:g} of the operations"


class Traces:
    """The spans of one process of a run; several may have the same file."""

    def __init__(self, plan: Plan, index: int) -> None:
        """Raises OSError if the file cannot be opened."""
        self._sampler = _Share(plan.sample_ratio, random.Random(f"{plan.seed}/{index}/traces"))
        identity = {"service.name": "kvctl bench", "service.instance.id": str(index)}
        self.provider = TracerProvider(self._sampler, Resource.create(identity), shutdown_on_exit=False)
        exporter = JsonLinesExporter(Path(plan.traces))
        self.provider.add_span_processor(BatchSpanProcessor(exporter, SPANS_WAITING_MAX))

    def begin(self) -> None:
        """What begins from now on may be chosen."""
        self._sampler.is_on = True

    def end(self) -> None:
        """Write what is waiting. Blocks."""
        self._sampler.is_on = False
        self.provider.shutdown()
