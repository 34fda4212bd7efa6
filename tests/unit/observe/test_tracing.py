"""Where traces begin, how they cross processes, and that they reach their file."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from kvnode.config import Config
from kvnode.observe.tracing import Tracing, extract, inject

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
PARENT = f"00-{TRACE}-{SPAN}-01"


def config(**tracing: str) -> Config:
    return Config.load(None, {f"tracing.{name}": value for name, value in tracing.items()}, {}, "local")


def test_extract_then_inject_returns_the_same_headers() -> None:
    """A node that records nothing hands the trace on unchanged."""
    headers = [("traceparent", PARENT), ("tracestate", "vendor=1")]
    context = extract([("user-agent", "x"), *headers])
    assert context is not None
    assert inject(context) == headers


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
    assert extract([("traceparent", parent)]) is None


def test_extract_of_a_later_version_takes_what_it_knows() -> None:
    """A future version may append fields; unknown flags are not handed on."""
    context = extract([("traceparent", f"01-{TRACE}-{SPAN}-ff-more")])
    assert context is not None
    assert inject(context) == [("traceparent", f"00-{TRACE}-{SPAN}-03")]


def test_inject_without_a_trace_adds_nothing() -> None:
    """What nodes do by themselves belongs to no trace."""
    assert inject() == []


def test_tracing_without_a_destination_never_samples() -> None:
    """Nobody would read the spans."""
    tracing = Tracing(config(sample_ratio="1"))
    assert tracing.draw() is None
    assert not tracing.tracer.start_span("x").is_recording()
    tracing.shutdown()


def test_tracing_with_a_drawn_root_records_it_whatever_its_id() -> None:
    """The draw is final: the sampler does not draw again."""
    memory = InMemorySpanExporter()
    tracing = Tracing(config(sample_ratio="0.5"), [memory])
    drawn = [context for context in (tracing.draw() for _ in range(200)) if context is not None]
    for context in drawn:
        tracing.tracer.start_span("root", context).end()
    tracing.shutdown()
    assert 50 < len(drawn) < 150
    assert len(memory.get_finished_spans()) == len(drawn)


def test_tracing_of_a_remote_parent_follows_its_decision() -> None:
    """Who began the trace decides, whatever this node's share is."""
    memory = InMemorySpanExporter()
    tracing = Tracing(config(sample_ratio="0"), [memory])
    for flags in ("00", "01"):
        tracing.tracer.start_span(flags, extract([("traceparent", f"00-{TRACE}-{SPAN}-{flags}")])).end()
    tracing.shutdown()
    (span,) = memory.get_finished_spans()
    assert span.name == "01"


def test_unsampled_context_has_an_id_of_its_own() -> None:
    """A request that is not traced can be found in the logs all the same."""
    tracing = Tracing(config())
    first, second = (trace.get_current_span(tracing.unsampled()).get_span_context() for _ in range(2))
    assert first.is_valid
    assert not first.trace_flags.sampled
    assert first.trace_id != second.trace_id


def test_tracing_into_a_file_is_complete_after_shutdown(tmp_path: Path) -> None:
    """Stopping flushes what waits, with the node's identity as the resource."""
    path = tmp_path / "spans.jsonl"
    tracing = Tracing(config(sample_ratio="1", file=str(path)))
    tracing.tracer.start_span("work").end()
    tracing.shutdown()
    (resource,) = json.loads(path.read_text())["resourceSpans"]
    identity = {each["key"]: each["value"]["stringValue"] for each in resource["resource"]["attributes"]}
    assert (identity["service.name"], identity["service.instance.id"]) == ("kvnode", "n1")
    assert resource["scopeSpans"][0]["spans"][0]["name"] == "work"
