"""Spans from OTLP JSON: what the store writes, what others write a little differently, and what is damaged."""

from __future__ import annotations

import json
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.trace import Link, SpanKind, Status, StatusCode

from kvclient.otlp_json import as_line
from kvctl.traces.span import NotTraces, Span, decode_line


class _Collected(SpanExporter):
    """Keeps what is exported."""

    def __init__(self) -> None:
        self.spans: list[ReadableSpan] = []

    def export(self, spans: Any) -> SpanExportResult:
        """As an exporter does."""
        self.spans += spans
        return SpanExportResult.SUCCESS


def _line(span: dict[str, Any], resource: dict[str, Any] | None = None) -> str:
    attributes = [{"key": key, "value": {"stringValue": value}} for key, value in (resource or {}).items()]
    return json.dumps({"resourceSpans": [{"resource": {"attributes": attributes}, "scopeSpans": [{"spans": [span]}]}]})


def _decoded(**fields: Any) -> Span:
    return next(decode_line(_line({"traceId": "A" * 32, "spanId": "B" * 16, **fields})))


def test_span_that_the_sdk_exports_comes_back_whole() -> None:
    """Ids, kind, times, attributes, links, status and process survive the way through `kvclient.otlp_json`."""
    collected = _Collected()
    provider = TracerProvider(resource=Resource({"service.name": "kvnode", "service.instance.id": "n1"}))
    provider.add_span_processor(SimpleSpanProcessor(collected))
    tracer = provider.get_tracer("test")
    other = tracer.start_span("other")
    attributes: dict[str, Any] = {"kvnode.stage": "quorum", "n": 1 << 40, "x": 0.5, "b": True, "names": ["n2", "n3"]}
    with tracer.start_as_current_span("root") as root:
        link = Link(other.get_span_context())
        child = tracer.start_span("quorum", kind=SpanKind.SERVER, attributes=attributes, links=[link])
        child.set_status(Status(StatusCode.ERROR, "why"))
        child.end()
    span = next(decode_line(as_line(collected.spans[:1])))
    made = collected.spans[0]
    assert (span.trace_id, span.span_id) == (f"{made.context.trace_id:032x}", f"{made.context.span_id:016x}")
    assert span.parent_id == f"{root.get_span_context().span_id:016x}"
    assert (span.name, span.kind, span.start_ns, span.end_ns) == ("quorum", "server", made.start_time, made.end_time)
    assert dict(span.attributes) == attributes
    assert (span.stage, span.node, span.process) == ("quorum", "n1", "kvnode/n1")
    assert [link.span_id for link in span.links] == [f"{other.get_span_context().span_id:016x}"]
    assert (span.failed, span.message, span.error) == (True, "why", "error")


def test_span_as_other_exporters_write_it_is_read_alike() -> None:
    """Enums by name, ids in capitals, numbers as numbers, and fields that are left out, as JSON protobuf allows."""
    span = _decoded(kind="SPAN_KIND_CLIENT", startTimeUnixNano=5, endTimeUnixNano="7", status={"code": "STATUS_CODE_ERROR"})
    assert (span.trace_id, span.span_id, span.parent_id) == ("a" * 32, "b" * 16, "")
    assert (span.kind, span.duration_ns, span.failed) == ("client", 2, True)
    assert (span.service, span.node, dict(span.attributes), span.links) == ("", "", {}, ())


def test_span_of_a_kind_that_nobody_knows_is_unspecified() -> None:
    """OTLP may get more kinds."""
    assert [_decoded(kind=kind).kind for kind in (3, "3", "SERVER", 99, "7x", None)] == [
        *("client", "client", "server"),
        *("unspecified", "unspecified", "unspecified"),
    ]


def test_span_of_an_application_has_no_node() -> None:
    """Only what says service.name=kvnode is one of ours, whatever its instance is called."""
    line = _line({"traceId": "a" * 32, "spanId": "b" * 16}, {"service.name": "shop", "service.instance.id": "n1"})
    span = next(decode_line(line))
    assert (span.node, span.process) == ("", "shop/n1")


def test_span_values_of_all_kinds_become_plain_ones() -> None:
    """Integers as text, lists, maps, and a value that is empty."""
    values = [
        ({"intValue": "7"}, 7),
        ({"doubleValue": 0.5}, 0.5),
        ({"arrayValue": {"values": [{"stringValue": "n3"}]}}, ["n3"]),
        ({"arrayValue": {}}, []),
        ({"kvlistValue": {"values": [{"key": "a", "value": {"boolValue": True}}]}}, {"a": True}),
        ({}, None),
    ]
    for value, plain in values:
        assert _decoded(attributes=[{"key": "it", "value": value}]).attributes["it"] == plain


def test_span_error_is_the_reason_also_where_no_server_is_to_blame() -> None:
    """`error.type` where it is, else `db.response.status_code`; OK is none."""

    def error(**attributes: str) -> str:
        pairs = [{"key": key.replace("__", "."), "value": {"stringValue": value}} for key, value in attributes.items()]
        return _decoded(attributes=pairs).error

    assert error(error__type="NO_LEADER", db__response__status_code="NO_LEADER") == "NO_LEADER"
    assert error(db__response__status_code="COMPARE_FAILED") == "COMPARE_FAILED"
    assert error(db__response__status_code="OK") == ""
    assert error() == ""


@pytest.mark.parametrize(
    ("value", "shard"),
    [({"intValue": "7"}, 7), ({"intValue": str(1 << 40)}, None), ({"intValue": "-1"}, None), ({"stringValue": "x"}, None)],
)
def test_span_shard_is_a_number_that_a_shard_can_have(value: dict[str, Any], shard: int | None) -> None:
    """Anything else is as if it were not there."""
    assert _decoded(attributes=[{"key": "kvnode.shard", "value": value}]).shard == shard


@pytest.mark.parametrize("line", ['{"resourceLogs":[]}', "[1]", '"text"', "7", '{"resourceSpans":{}}'])
def test_line_with_something_else_is_no_traces(line: str) -> None:
    """Logs and metrics may share a file with traces; they are no damage."""
    with pytest.raises(NotTraces):
        decode_line(line)


@pytest.mark.parametrize(
    "line",
    [
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":"aa"',
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"spanId":"b"}]}]}]}',
        '{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":7,"spanId":"b"}]}]}]}',
        '{"resourceSpans":[7]}',
        _line({"traceId": "a", "spanId": "b", "startTimeUnixNano": "soon"}),
        _line({"traceId": "a", "spanId": "b", "startTimeUnixNano": str(1 << 63)}),
        _line({"traceId": "a", "spanId": "b", "startTimeUnixNano": -1}),
        _line({"traceId": "a", "spanId": "b", "name": "\ud800"}),
        "[" * 100_000,
    ],
)
def test_line_that_is_damaged_is_said_to_be(line: str) -> None:
    """Cut lines, missing ids, wrong types, times that are none, halves of characters: a ValueError, never another error."""
    with pytest.raises(ValueError) as raised:
        decode_line(line)
    assert not isinstance(raised.value, NotTraces)


def test_line_of_bytes_that_are_no_text_is_damaged() -> None:
    """As after a crash in the middle of a character."""
    with pytest.raises(ValueError):
        decode_line(b'{"resourceSpans":[\xff]}')
