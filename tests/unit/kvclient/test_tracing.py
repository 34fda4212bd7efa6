"""Spans and trace context."""

from __future__ import annotations

import asyncio

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

import kvclient
from kvclient import errors
from tests.unit.kvclient.fake_cluster import NO_LEADER, FakeCluster, Fault


def recording() -> tuple[TracerProvider, InMemorySpanExporter]:
    """A provider that keeps its spans in memory."""
    provider, exporter = TracerProvider(), InMemorySpanExporter()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    return provider, exporter


async def test_span_of_an_operation_has_the_conventional_attributes_and_reaches_the_server(cluster: FakeCluster) -> None:
    """A CLIENT span with db.* and rpc.* names, and its id in the server's traceparent."""
    provider, exporter = recording()
    async with kvclient.connect(cluster.uri, tracer_provider=provider) as kv:
        await kv.put("k", "v")
    (span,) = exporter.get_finished_spans()
    leader = cluster.leader_of("k")
    assert (span.name, span.kind) == ("Put", SpanKind.CLIENT)
    assert dict(span.attributes or {}) == {
        "db.system.name": "kvnode",
        "db.operation.name": "Put",
        "rpc.system.name": "grpc",
        "rpc.method": "kvapi.v1.KV/Put",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": leader.port,
        "kvnode.key.size": 1,
    }
    assert span.context is not None
    expected = f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"
    assert leader.metadata[-1]["traceparent"] == expected


async def test_span_of_a_failed_operation_says_why_and_lists_retries(cluster: FakeCluster) -> None:
    """Every attempt shows; the final error is the span's status."""
    provider, exporter = recording()
    async with kvclient.connect(cluster.uri, tracer_provider=provider) as kv:
        cluster.leader_of("k").refusals.append((lambda kind, key: True, NO_LEADER))
        await kv.put("k", "v")
        with pytest.raises(errors.CompareFailed):
            await kv.compare_and_set("k", "v", 99)
    retried, failed = exporter.get_finished_spans()
    assert [event.name for event in retried.events] == ["retry"]
    assert failed.status.status_code is StatusCode.ERROR
    assert failed.attributes is not None
    assert failed.attributes["error.type"] == "COMPARE_FAILED"
    assert failed.attributes["rpc.response.status_code"] == "FAILED_PRECONDITION"


async def test_span_of_a_transaction_is_one_whatever_its_attempts(cluster: FakeCluster) -> None:
    """A Txn span, with its retry, and its id at the server; an optimistic transaction's reads have theirs."""
    provider, exporter = recording()
    async with kvclient.connect(cluster.uri, tracer_provider=provider) as kv:
        cluster.leader_of("k").refusals.append((lambda kind, key: True, NO_LEADER))
        await kv.txn().then(kvclient.Put("k", "v")).run()
        async with kv.transaction() as t:
            t.put("j", await t.get("k") or b"")
    span, read, commit = exporter.get_finished_spans()
    assert [span.name, read.name, commit.name] == ["Txn", "Get", "Txn"]
    assert [event.name for event in span.events] == ["retry"]
    assert span.attributes is not None
    assert span.attributes["rpc.method"] == "kvapi.v1.KV/Txn"
    assert span.context is not None
    assert any(f"{span.context.span_id:016x}" in one.get("traceparent", "") for one in cluster.leader_of("k").metadata)


async def test_span_of_a_coalesced_batch_links_to_its_operations() -> None:
    """Operations that left together: one Batch span with links to theirs, and the server's trace goes on from it."""
    provider, exporter = recording()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=provider) as kv:
        node, event = cluster.nodes["n1"], asyncio.Event()
        node.faults.extend(Fault(stall=event) for _ in range(2))
        busy = [asyncio.ensure_future(kv.get("b")) for _ in range(2)]
        while node.calls["Get"] < 2:
            await asyncio.sleep(0)
        waiting = [asyncio.ensure_future(kv.get(f"k{number}")) for number in range(3)]
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        await asyncio.gather(*busy, *waiting)
    spans = exporter.get_finished_spans()
    (batch,) = [span for span in spans if span.name == "Batch"]
    assert len(batch.links) == 3
    assert batch.attributes is not None
    assert batch.attributes["db.operation.batch.size"] == 3
    assert {link.context.span_id for link in batch.links} < {span.context.span_id for span in spans if span.context}


async def test_not_sampled_trace_context_is_passed_on_and_nothing_recorded(cluster: FakeCluster) -> None:
    """A caller's trace that is not sampled stays recognisable to the servers; without a trace nothing is sent."""
    async with kvclient.connect(cluster.uri, tracer_provider=TracerProvider(sampler=ALWAYS_OFF)) as kv:
        await kv.put("k", "v")
        assert "traceparent" not in cluster.leader_of("k").metadata[-1]
        context = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(0))
        with trace.use_span(NonRecordingSpan(context)):
            await kv.put("k", "v")
        assert cluster.leader_of("k").metadata[-1]["traceparent"] == f"00-{0xABC:032x}-{0xDEF:016x}-00"
