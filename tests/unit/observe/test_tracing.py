"""Where traces begin, how they cross processes, and that they reach their file."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExporter, SpanExportResult

from kvnode.config import Log
from kvnode.config import Tracing as Settings
from kvnode.observe.logging import configure_logging
from kvnode.observe.tracing import (
    SPANS_KEPT,
    Tracing,
    child_of,
    context_of,
    inject,
    remote_span_context,
    root,
    span_context_of,
    traceparent_of,
)

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def test_extract_then_inject_returns_the_same_headers() -> None:
    """A node that records nothing hands the trace on unchanged."""
    headers = [("traceparent", PARENT), ("tracestate", "vendor=1")]
    span = remote_span_context([("user-agent", "x"), *headers])
    assert span is not None
    assert inject(context_of(span)) == headers


@pytest.mark.parametrize(
    "parent",
    [
        "",
        "garbage",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        b"binary",
    ],
)
def test_extract_of_a_malformed_parent_finds_none(parent: str | bytes) -> None:
    """Nonsense from outside is as if it was not there (W3C Trace Context, section 2.2.1)."""
    assert remote_span_context([("traceparent", parent)]) is None


def test_extract_of_a_later_version_takes_what_it_knows() -> None:
    """A future version may append fields; unknown flags are not handed on."""
    span = remote_span_context([("traceparent", f"01-{TRACE}-{SPAN}-ff-more")])
    assert span is not None
    assert inject(context_of(span)) == [("traceparent", f"00-{TRACE}-{SPAN}-03")]


@pytest.mark.parametrize(
    "state", ["no pairs", "a=1,a=2", "v=" + "x" * 600, ",".join(f"k{at}=v" for at in range(40)), "é=1", b"b"]
)
def test_extract_of_a_bad_state_finds_the_parent_alone_and_logs_nothing(state: str | bytes) -> None:
    """Whatever a client sends, it fills neither the spans nor the log."""
    stream = io.BytesIO()
    configure_logging(Log(), node="n1", stream=stream)
    span = remote_span_context([("traceparent", PARENT), ("tracestate", state)])
    assert span is not None
    assert inject(context_of(span)) == [("traceparent", PARENT)]
    assert stream.getvalue() == b""


@pytest.mark.parametrize(
    ("address", "host"), [("127.0.0.1:7401", "127.0.0.1"), ("[::1]:7401", "::1"), ("db.example:7401", "db.example")]
)
def test_server_address_of_spans_is_without_the_brackets_of_a_url(address: str, host: str) -> None:
    """As the SDK writes it, so that both can be joined."""
    assert Tracing(Settings(), "n1", address).server == {"server.address": host, "server.port": 7401}


def test_inject_without_a_trace_adds_nothing() -> None:
    """What nodes do by themselves belongs to no trace."""
    assert inject() == []


def test_traces_that_begin_here_are_sampled_as_often_as_told() -> None:
    """All at a ratio of 1, none at 0, and about half between; each has an id of its own, so that logs can be joined."""
    for ratio, least, most in ((0.0, 0, 0), (0.5, 60, 140), (1.0, 200, 200)):
        tracing = Tracing(Settings(sample_ratio=ratio))
        begun = [tracing.begin() for _ in range(200)]
        assert least <= sum(span.trace_flags.sampled for span in begun) <= most
        assert len({span.trace_id for span in begun}) == 200


def test_spans_emitted_are_kept_in_memory_the_latest_of_them() -> None:
    """By trace, or all; the oldest are forgotten."""
    tracing = Tracing(Settings(), "n1")
    spans = [span_named(f"s{number}") for number in range(SPANS_KEPT + 10)]
    tracing.emit(spans)
    names = [span["name"] for line in tracing.latest() for span in spans_of(line)]
    assert names == [f"s{number}" for number in range(10, SPANS_KEPT + 10)]
    (line,) = tracing.latest(spans_max=2)
    assert [span["name"] for span in spans_of(line)] == names[-2:]
    assert spans[-1].context is not None
    (line,) = tracing.latest(spans[-1].context.trace_id)
    assert [span["name"] for span in spans_of(line)] == names[-1:]
    assert tracing.latest(1) == []


def test_tracing_into_a_file_is_complete_after_shutdown(tmp_path: Path) -> None:
    """Stopping flushes what waits, with the node's identity as the resource."""
    path = tmp_path / "spans.jsonl"
    tracing = Tracing(Settings(file=str(path)), "n1", "127.0.0.1:7401")
    tracing.emit([span_named("work", tracing)])
    tracing.shutdown()
    (resource,) = json.loads(path.read_text())["resourceSpans"]
    identity = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
    assert (identity["service.name"], identity["service.instance.id"]) == ("kvnode", "n1")
    assert resource["scopeSpans"][0]["spans"][0]["name"] == "work"


class Stuck(SpanExporter):
    """Of a collector that does not answer."""

    def __init__(self) -> None:
        self.answered = threading.Event()

    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        self.answered.wait()
        return SpanExportResult.SUCCESS


def test_shutdown_waits_no_longer_than_told_for_a_collector_that_does_not_answer() -> None:
    """A node that stops is not held up: the SDK would wait for half a minute, and for each attempt that is under way."""
    stuck = Stuck()
    tracing = Tracing(Settings(), "n1", exporters=[stuck])
    tracing.emit([span_named("work", tracing)])
    stopping = threading.Thread(target=tracing.shutdown, args=(0.0,))
    stopping.start()
    stopping.join(20)
    is_over = not stopping.is_alive()
    stuck.answered.set()
    assert is_over


@pytest.mark.parametrize("sampled", [True, False])
def test_child_of_a_span_is_in_its_trace_and_as_sampled(sampled: bool) -> None:
    """Over the wire too: `traceparent` says the same."""
    parent = span_context_of(f"00-{TRACE}-{SPAN}-{'01' if sampled else '00'}")
    assert parent is not None
    child = child_of(parent)
    assert (child.trace_id, child.trace_flags.sampled) == (parent.trace_id, sampled)
    assert child.span_id != parent.span_id
    again = span_context_of(traceparent_of(child))
    assert again is not None
    assert (again.trace_id, again.span_id, again.trace_flags) == (child.trace_id, child.span_id, child.trace_flags)


def span_named(name: str, tracing: Tracing | None = None) -> ReadableSpan:
    return ReadableSpan(name, root(), resource=tracing.resource if tracing else Resource({}), start_time=1, end_time=2)


def spans_of(line: str) -> list[dict[str, Any]]:
    return [span for one in json.loads(line)["resourceSpans"] for scope in one["scopeSpans"] for span in scope["spans"]]
