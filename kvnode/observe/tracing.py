"""OpenTelemetry traces of this process: where spans go, and how a trace crosses the network.

Owns the way of spans that have ended (`spans` makes them) and W3C Trace Context in gRPC metadata. Never makes a request wait:
spans leave in batches from a thread of their own, and are dropped when that cannot keep up. Invariants: who began a trace
decides whether it is sampled, everybody else follows; a request that is not sampled still carries its trace id, so that logs of
all nodes can be joined.
"""

from __future__ import annotations

import random
import re
import threading
import time
from collections import deque
from collections.abc import Iterable, Sequence
from pathlib import Path

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import BatchSpanProcessor, SpanExporter
from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags, TraceState
from opentelemetry.util.types import AttributeValue

from kvclient.otlp_json import JsonLinesExporter, as_line
from kvnode import __version__
from kvnode.config import Tracing as TracingSettings
from kvnode.config_fields import headers
from kvnode.refusals import cannot_write_spans
from kvnode.types import Seconds

TRACEPARENT, TRACESTATE = "traceparent", "tracestate"

Metadata = Sequence[tuple[str, str | bytes]]

_TRACEPARENT = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?")
_TRACESTATE_LENGTH_MAX = 512
"""So much should be handed on (W3C Trace Context, section 3.3.1.5); more is as if absent, for every span would carry it."""
_FLAG_RANDOM = 0x02
_FLAGS_KNOWN = TraceFlags.SAMPLED | _FLAG_RANDOM
"""W3C Trace Context level 2; other bits are not handed on."""
_FLAGS = tuple(TraceFlags(bits) for bits in range(_FLAGS_KNOWN + 1))
SAMPLED = _FLAGS[_FLAG_RANDOM | TraceFlags.SAMPLED]
_NOT_SAMPLED = _FLAGS[_FLAG_RANDOM]
SPANS_KEPT = 4_096
"""In memory: the latest. Some four hundred requests."""
SPANS_PER_LINE = 256
_EXPORT_DELAY_MS = 1_000
_IDS = random.Random()  # They must differ between nodes; nothing is decided by them.
SHUTDOWN_MAX: Seconds = 5.0


class Tracing:
    """Where this process's spans go, and which traces that begin here are sampled."""

    version = __version__

    def __init__(
        self,
        settings: TracingSettings,
        node: str = "",
        address: str = "",
        exporters: Iterable[SpanExporter] = (),
        silent: bool = False,
    ) -> None:
        """Spans go where `settings` say, and to `exporters` (of tests). Raises OSError if its file cannot be opened."""
        self.settings, self.is_silent = settings, silent
        host, _, port = address.rpartition(":")
        self.server: dict[str, AttributeValue] = {"server.address": host.strip("[]"), "server.port": int(port)} if port else {}
        """Of every call's span."""
        identity = {"service.name": "kvnode", "service.instance.id": node, "service.version": __version__}
        self.resource = Resource.create(identity)
        self._latest: deque[ReadableSpan] = deque(maxlen=SPANS_KEPT)
        self._processors = [
            BatchSpanProcessor(exporter, schedule_delay_millis=_EXPORT_DELAY_MS)
            for exporter in (*_exporters(settings), *exporters)
        ]

    def begin(self) -> SpanContext | None:
        """The first span of a trace that begins here: sampled, for the share that is. None where nobody traces anything."""
        if self.is_silent:
            return None
        return root(SAMPLED if _IDS.random() < self.settings.sample_ratio else _NOT_SAMPLED)

    def emit(self, spans: Iterable[ReadableSpan]) -> None:
        """Spans that have ended: kept in memory for a while, and handed to the exporters."""
        for span in spans:
            self._latest.append(span)
            for processor in self._processors:
                processor.on_end(span)

    def latest(self, trace_id: int = 0, spans_max: int = 0) -> list[str]:
        """The latest spans, or those of one trace, as OTLP JSON lines; at most so many spans, 0: all that are kept."""
        found = [span for span in list(self._latest) if not trace_id or (span.context and span.context.trace_id == trace_id)]
        wanted = found[-spans_max:] if spans_max else found
        return [as_line(wanted[at : at + SPANS_PER_LINE]) for at in range(0, len(wanted), SPANS_PER_LINE)]

    def shutdown(self, within: Seconds = SHUTDOWN_MAX) -> None:
        """Export what is waiting, for at most so long, and stop. Blocks: call it from a thread, or after the loop."""
        # (The SDK's own bound is one of each attempt to export: with a collector that does not answer they add up to a minute.)
        threads = [threading.Thread(target=processor.shutdown, daemon=True) for processor in self._processors]
        for thread in threads:
            thread.start()
        until = time.monotonic() + within
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))


def _exporters(settings: TracingSettings) -> list[SpanExporter]:
    exporters: list[SpanExporter] = []
    if settings.file:
        try:
            exporters.append(JsonLinesExporter(Path(settings.file), settings.file_size_bytes_max, settings.files_kept))
        except OSError as error:
            raise cannot_write_spans(settings.file, error) from error
    if settings.otlp_endpoint:
        # Imported here: it costs 50 ms and 10 MB, which only those pay who use it.
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter

        endpoint = settings.otlp_endpoint
        secret = headers(settings.otlp_headers)
        exporters.append(OTLPSpanExporter(endpoint=endpoint, insecure=endpoint.startswith("http://"), headers=secret))
    return exporters


def inject(context: Context | None = None) -> list[tuple[str, str]]:
    """Metadata that carries the trace of `context` (by default the current one) elsewhere; empty when there is none."""
    span_context = trace.get_current_span(context).get_span_context()
    return metadata_of(span_context) if span_context.is_valid else []


def remote_span_context(metadata: Metadata | None) -> SpanContext | None:
    """The caller's trace context in W3C metadata; None when there is none, or when it is malformed (then as if absent)."""
    parent = state = None
    for key, value in metadata or ():
        if key == TRACEPARENT:
            parent = value
        elif key == TRACESTATE:
            state = value
    return span_context_of(parent, state)


def span_context_of(parent: object, state: object = None) -> SpanContext | None:
    """The same, from the values of `traceparent` and `tracestate`."""
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
    trace_state = None
    if isinstance(state, str) and len(state) <= _TRACESTATE_LENGTH_MAX:
        trace_state = TraceState.from_header([state])
    known = _FLAGS[int(flags, 16) & _FLAGS_KNOWN]
    return SpanContext(*numbers, is_remote=True, trace_flags=known, trace_state=trace_state)


def metadata_of(span_context: SpanContext) -> list[tuple[str, str]]:
    """W3C metadata of a valid span context."""
    parent = (TRACEPARENT, traceparent_of(span_context))
    return [parent, (TRACESTATE, span_context.trace_state.to_header())] if span_context.trace_state else [parent]


def traceparent_of(span_context: SpanContext) -> str:
    """The `traceparent` of a valid span context."""
    flags = span_context.trace_flags & _FLAGS_KNOWN
    return f"00-{span_context.trace_id:032x}-{span_context.span_id:016x}-{flags:02x}"


def current() -> SpanContext | None:
    """The span context that this task works for; None when there is none."""
    span_context = trace.get_current_span().get_span_context()
    return span_context if span_context.is_valid else None


def context_of(span_context: SpanContext) -> Context:
    """An OpenTelemetry context in which `span_context` is current."""
    return trace.set_span_in_context(NonRecordingSpan(span_context), Context())


def root(flags: TraceFlags = SAMPLED) -> SpanContext:
    """A new identity in a trace of its own."""
    return SpanContext(_IDS.getrandbits(128) or 1, _IDS.getrandbits(64) or 1, False, flags)


def child_of(parent: SpanContext) -> SpanContext:
    """A new identity in the trace of `parent`, and as sampled as that is."""
    return SpanContext(parent.trace_id, _IDS.getrandbits(64) or 1, False, parent.trace_flags, parent.trace_state or None)
