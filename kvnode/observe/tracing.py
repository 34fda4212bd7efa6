"""OpenTelemetry traces of this process: where spans come from, where they go, and how a trace crosses the network.

Owns the tracer provider and W3C Trace Context in gRPC metadata. Never makes a request wait: spans leave in batches from a
thread of their own, and are dropped when that cannot keep up. Invariants: who began a trace decides whether it is sampled,
everybody else follows; a request that is not sampled still carries its trace id, so that logs of all nodes can be joined.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context, create_key, set_value
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.sdk.trace.sampling import Decision, ParentBased, SamplingResult, TraceIdRatioBased
from opentelemetry.trace import Link, NonRecordingSpan, SpanContext, SpanKind, TraceFlags, Tracer, TraceState
from opentelemetry.util.types import Attributes

from kvclient.otlp_json import JsonLinesExporter
from kvnode import __version__
from kvnode.config import Config

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

Metadata = Sequence[tuple[str, str | bytes]]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_FLAG_RANDOM = 0x02
_FLAGS_KNOWN = TraceFlags.SAMPLED | _FLAG_RANDOM
"""W3C Trace Context level 2; other bits are not handed on."""
_FLAGS = tuple(TraceFlags(bits) for bits in range(_FLAGS_KNOWN + 1))
_DECIDED = create_key("kvnode-root-is-sampled")
_EXPORT_DELAY_MS = 1_000
_SHUTDOWN_FLUSH_MS = 5_000


class _RootSampler(TraceIdRatioBased):
    """Samples a share of the roots, unless who starts one has drawn already (`Tracing.draw`)."""

    def should_sample(
        self,
        parent_context: Context | None,
        trace_id: int,
        name: str,
        kind: SpanKind | None = None,
        attributes: Attributes = None,
        links: Sequence[Link] | None = None,
        trace_state: TraceState | None = None,
    ) -> SamplingResult:
        """Sample what was drawn; else decide by the trace id."""
        if parent_context is not None and parent_context.get(_DECIDED):
            return SamplingResult(Decision.RECORD_AND_SAMPLE, attributes, trace_state)
        return super().should_sample(parent_context, trace_id, name, kind, attributes, links, trace_state)


class Tracing:
    """This process's tracer. Without an exporter it records nothing, and still hands trace contexts on."""

    def __init__(self, config: Config, exporters: Iterable[SpanExporter] = ()) -> None:
        """Spans go where `config.tracing` says, and to `exporters` (of tests). Raises OSError if its file cannot be opened."""
        self.node = config.node.name
        self.address = config.node.advertise
        self._ratio = config.tracing.sample_ratio
        self._random = random.Random()  # ids must differ between nodes; nothing is decided by them
        destinations = [*_exporters(config), *exporters]
        self.enabled = bool(destinations)
        self._provider: TracerProvider | None = None
        self.tracer: Tracer = trace.NoOpTracer()
        if destinations:
            identity = {"service.name": "kvnode", "service.instance.id": self.node, "service.version": __version__}
            self._provider = TracerProvider(
                sampler=ParentBased(_RootSampler(self._ratio)), resource=Resource.create(identity), shutdown_on_exit=False
            )
            for destination in destinations:
                self._provider.add_span_processor(BatchSpanProcessor(destination, schedule_delay_millis=_EXPORT_DELAY_MS))
            self.tracer = self._provider.get_tracer("kvnode", __version__)

    def draw(self) -> Context | None:
        """Whether a trace that begins here is sampled: a context to start its first span in, or None."""
        if self.enabled and self._random.random() < self._ratio:
            return set_value(_DECIDED, True, Context())
        return None

    def unsampled(self) -> Context:
        """The context of a trace that begins here and is not sampled."""
        trace_id, span_id = self._random.getrandbits(128) or 1, self._random.getrandbits(64) or 1
        span_context = SpanContext(trace_id, span_id, is_remote=False, trace_flags=_FLAGS[_FLAG_RANDOM])
        return trace.set_span_in_context(NonRecordingSpan(span_context), Context())

    def shutdown(self) -> None:
        """Export what is waiting, for at most some seconds, and stop. Blocks: call it from a thread, or after the loop."""
        if self._provider is not None:
            self._provider.force_flush(_SHUTDOWN_FLUSH_MS)
            self._provider.shutdown()


def _exporters(config: Config) -> list[SpanExporter]:
    exporters: list[SpanExporter] = []
    tracing = config.tracing
    if tracing.file:
        exporters.append(JsonLinesExporter(Path(tracing.file), tracing.file_size_bytes_max, tracing.files_kept))
    if tracing.otlp_endpoint:
        # Imported here: it costs 50 ms and 10 MB, which only those pay who use it.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        endpoint = tracing.otlp_endpoint
        exporters.append(OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://")))
    return exporters


def extract(metadata: Metadata | None) -> Context | None:
    """The caller's trace context in W3C metadata; None when there is none, or when it is malformed (then as if absent)."""
    remote = remote_span_context(metadata)
    return None if remote is None else trace.set_span_in_context(NonRecordingSpan(remote), Context())


def inject(context: Context | None = None) -> list[tuple[str, str]]:
    """Metadata that carries the trace of `context` (by default the current one) elsewhere; empty when there is none."""
    span_context = trace.get_current_span(context).get_span_context()
    return metadata_of(span_context) if span_context.is_valid else []


def remote_span_context(metadata: Metadata | None) -> SpanContext | None:
    """As `extract`, without a context around it: the cheap way to look at the sampled flag."""
    parent = state = None
    for key, value in metadata or ():
        if key == TRACEPARENT:
            parent = value
        elif key == TRACESTATE:
            state = value
    if not isinstance(parent, str):
        return None
    match = _TRACEPARENT.fullmatch(parent)
    if match is None:
        return None
    version, trace_id, span_id, flags, rest = match.groups()
    if version == "ff" or (version == "00" and rest):
        return None
    numbers = int(trace_id, 16), int(span_id, 16)
    if not all(numbers):
        return None
    trace_state = TraceState.from_header([state]) if isinstance(state, str) else None
    known = _FLAGS[int(flags, 16) & _FLAGS_KNOWN]
    return SpanContext(*numbers, is_remote=True, trace_flags=known, trace_state=trace_state)


def metadata_of(span_context: SpanContext) -> list[tuple[str, str]]:
    """W3C metadata of a valid span context."""
    flags = span_context.trace_flags & _FLAGS_KNOWN
    parent = (TRACEPARENT, f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{flags:02x}")
    return [parent, (TRACESTATE, span_context.trace_state.to_header())] if span_context.trace_state else [parent]
