"""Spans as OTLP JSON lines: readable by what reads the OpenTelemetry Collector's files."""

from __future__ import annotations

import json
import resource
import signal
from pathlib import Path

from google.protobuf.json_format import Parse
from opentelemetry import trace
from opentelemetry.proto.trace.v1.trace_pb2 import TracesData
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExportResult
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from kvclient.otlp_json import JsonLinesExporter, encode


def recorded() -> list[ReadableSpan]:
    memory = InMemorySpanExporter()
    provider = TracerProvider(resource=Resource({"service.name": "kvnode"}), shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(memory))
    tracer = provider.get_tracer("test", "1")
    with tracer.start_as_current_span("outer", kind=SpanKind.SERVER) as outer:
        links = [Link(outer.get_span_context(), {"why": "batch"})]
        inner = tracer.start_span("inner", links=links, attributes={"b": True, "i": 5, "f": 0.5, "s": "é", "l": (1, 2)})
        inner.add_event("retry", {"attempt": 2})
        inner.set_status(Status(StatusCode.ERROR, "no leader"))
        inner.end()
    return list(memory.get_finished_spans())


def test_encode_of_spans_parses_as_otlp() -> None:
    """Every field is one that OTLP knows, with the value it had, ids in hex apart (protobuf's own JSON has base64)."""
    spans = recorded()
    document = encode(spans)
    (resource,) = document["resourceSpans"]
    (scope,) = resource["scopeSpans"]
    inner, outer = scope["spans"]
    context = spans[0].get_span_context()
    assert context is not None
    assert (inner["traceId"], inner["spanId"]) == (
        trace.format_trace_id(context.trace_id),
        trace.format_span_id(context.span_id),
    )
    assert inner["parentSpanId"] == outer["spanId"]
    for span in scope["spans"]:
        for identified in (span, *span.get("links", ())):
            for name in ("traceId", "spanId", "parentSpanId"):
                identified.pop(name, None)
    parsed = Parse(json.dumps(document), TracesData())
    first, second = parsed.resource_spans[0].scope_spans[0].spans
    assert (first.name, first.kind, first.status.code, first.status.message) == ("inner", 1, 2, "no leader")
    assert (second.name, second.kind, second.status.code) == ("outer", 2, 0)
    assert first.start_time_unix_nano == spans[0].start_time
    values = {each.key: each.value for each in first.attributes}
    assert (values["b"].bool_value, values["i"].int_value, values["f"].double_value) == (True, 5, 0.5)
    assert (values["s"].string_value, [each.int_value for each in values["l"].array_value.values]) == ("é", [1, 2])
    assert first.events[0].name == "retry"
    assert first.links[0].attributes[0].key == "why"


def test_exporter_given_batches_appends_a_line_for_each(tmp_path: Path) -> None:
    """A file that exists is continued."""
    path = tmp_path / "spans.jsonl"
    for _ in range(2):
        exporter = JsonLinesExporter(path)
        assert exporter.export(recorded()) is SpanExportResult.SUCCESS
        exporter.shutdown()
    documents = [json.loads(line) for line in path.read_text().splitlines()]
    assert [len(each["resourceSpans"][0]["scopeSpans"][0]["spans"]) for each in documents] == [2, 2]


def test_exporter_that_cannot_write_reports_failure(tmp_path: Path) -> None:
    """Lost spans are a failure for the SDK to count, never an exception in its thread."""
    exporter = JsonLinesExporter(tmp_path / "spans.jsonl")
    exporter.shutdown()
    assert exporter.export(recorded()) is SpanExportResult.FAILURE


def test_file_that_would_grow_too_large_moves_aside_and_the_oldest_goes(tmp_path: Path) -> None:
    """No file is larger than the bound, as many stay as wanted, and no line is torn or lost between them."""
    path, spans = tmp_path / "spans.jsonl", recorded()
    exporter = JsonLinesExporter(path, size_bytes_max=5_000, kept=2)
    for _ in range(20):
        assert exporter.export(spans) is SpanExportResult.SUCCESS
    exporter.shutdown()
    files = sorted(tmp_path.iterdir())
    assert [file.name for file in files] == ["spans.jsonl", "spans.jsonl.1", "spans.jsonl.2"]
    assert all(2_000 < file.stat().st_size <= 5_000 for file in files[1:])
    assert all(json.loads(line)["resourceSpans"] for file in files for line in file.read_text().splitlines())


def test_file_that_could_not_be_moved_aside_is_written_again_when_it_can(tmp_path: Path) -> None:
    """An obstacle costs the spans of its time, not those of the rest of the process's life."""
    path, spans = tmp_path / "spans.jsonl", recorded()
    exporter = JsonLinesExporter(path, size_bytes_max=1_000, kept=1)
    obstacle = tmp_path / "spans.jsonl.1"
    obstacle.mkdir()
    assert [exporter.export(spans) for _ in range(3)] == [SpanExportResult.SUCCESS, *[SpanExportResult.FAILURE] * 2]
    obstacle.rmdir()
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    assert [len(file.read_text().splitlines()) for file in (path, obstacle)] == [1, 1]


def test_line_that_a_full_disk_tears_is_not_there(tmp_path: Path) -> None:
    """What was written before stays, what comes after begins on a line of its own."""
    path, spans = tmp_path / "spans.jsonl", recorded()
    exporter = JsonLinesExporter(path)
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    whole = path.read_bytes()
    before, ignored = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole) + 100, before[1]))
        assert exporter.export(spans) is SpanExportResult.FAILURE
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, ignored)
    assert path.read_bytes() == whole
    assert exporter.export(spans) is SpanExportResult.SUCCESS
    assert path.read_bytes() == 2 * whole
