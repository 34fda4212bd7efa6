"""Traces of real processes: one write is one trace from the SDK to the followers' disks, and its stages explain its time."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor

import kvclient
from kvapi.v1 import kv_pb2, observability_pb2
from kvclient.otlp_json import JsonLinesExporter
from kvctl.playground import Playground
from kvctl.traces.node import Node
from kvctl.traces.read import Reading, decode, read_files
from kvctl.traces.span import Span
from kvctl.traces.tree import Trace, build, coverage
from tests.integration import harness

TRACE_ID, PARENT = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
COVERED_MIN = 0.95


def spans_of(cluster: Playground, *files: Path) -> list[Span]:
    """Everything that nodes, and a client, have written into their files."""
    paths = [cluster.node(name).data_path.parent / "spans.jsonl" for name in cluster.names]
    return list(read_files([path for path in (*paths, *files) if path.exists()], Reading()))


def traces_of(spans: list[Span]) -> Iterator[Trace]:
    """One after the other."""
    by_id: dict[str, list[Span]] = {}
    for span in spans:
        by_id.setdefault(span.trace_id, []).append(span)
    yield from map(build, by_id.values())


async def load(cluster: Playground, path: Path) -> None:
    """Every kind of operation, alone and many at once, each traced by its client into a file."""
    provider = TracerProvider(shutdown_on_exit=False)
    provider.add_span_processor(SimpleSpanProcessor(JsonLinesExporter(path)))
    async with kvclient.connect(f"{cluster.uri}?timeout=10", tracer_provider=provider) as kv:
        for number in range(20):
            await kv.put(f"alone{number}", "x")
            await kv.get(f"alone{number}")
        await asyncio.gather(*(kv.put(f"many{number}", "x") for number in range(60)))
        await asyncio.gather(*(kv.get(f"many{number}") for number in range(60)))
        for number in range(5):
            await kv.put(f"eventual{number}", "x", consistency="eventual", acks=2)

        async def transfer(t: kvclient.AsyncTransaction) -> None:
            for name in ("a", "b", "c"):
                t.put(f"transfer/{name}", "x")

        await kv.run_in_transaction(transfer)
        assert len([item async for item in kv.range(prefix="many")]) == 60
    provider.shutdown()


async def test_stages_of_real_requests_explain_95_percent_of_their_time(cluster: Playground, tmp_path: Path) -> None:
    """Of every operation, in the client from call to return and in each node from arrival to answer."""
    path = tmp_path / "client.jsonl"
    await load(cluster, path)

    def all_there() -> list[Trace]:
        traces = [trace for trace in traces_of(spans_of(cluster, path)) if any(s.kind == "client" for s in spans_in(trace))]
        whole = [trace for trace in traces if any(span.service == "kvnode" for span in spans_in(trace))]
        return whole if len(whole) >= 160 else []

    traces = await asyncio.to_thread(harness.until, all_there, what="the nodes' spans of 160 operations")
    found = [one for trace in traces for one in coverage(trace)]
    in_clients = [one for one in found if one.node.span.kind == "client"]
    on_nodes = [one for one in found if one.node.span.kind != "client"]
    assert len(in_clients) >= 160
    assert len(on_nodes) >= 160
    poor = [f"{one.node.span.name} {one.share:.3f} of {one.node.duration_ns} ns" for one in found if one.share < COVERED_MIN]
    assert not poor, "\n".join(poor)


def spans_in(trace: Trace) -> list[Span]:
    """All of a trace."""
    return [node.span for node in trace.walk()]


def below(node: Node) -> dict[str, Node]:
    """By name of span: the last of each."""
    return {child.span.name: child for child in node.walk() if child is not node}


async def test_strong_write_is_one_trace_from_the_sdk_to_the_followers_disks(cluster: Playground, tmp_path: Path) -> None:
    """SDK call, queue, call, the node's stages, each follower's append with its fsync: parents without a gap."""
    path = tmp_path / "client.jsonl"
    await load(cluster, path)

    def found() -> Node | None:
        for trace in traces_of(spans_of(cluster, path)):
            for root in trace.roots:
                names = below(root).keys()
                if root.span.name == "Put" and {"client.call", "kvapi.v1.KV/Put", "log_write", "quorum"} <= names:
                    # (Where the leader's own disk came last, no follower's answer decided.)
                    if any(node.span.attributes.get("kvnode.quorum") for node in root.walk()):
                        return root
        return None

    root = await asyncio.to_thread(harness.until, found, what="a whole trace of a put")
    assert (root.span.kind, root.span.parent_id) == ("client", "")
    server = below(root)["kvapi.v1.KV/Put"]
    assert server.span.instance in cluster.names
    appends = [child.span for child in server.walk() if child.span.name == "append"]
    assert appends
    assert {span.attributes["kvnode.node"] for span in appends} <= set(cluster.names) - {server.span.instance}
    assert all(int(span.attributes["kvnode.append.fsync_us"]) > 0 for span in appends)


async def test_eventual_write_is_linked_to_its_later_convergence_on_every_node(cluster: Playground) -> None:
    """A foreign client's traceparent is enough: replication, its place in the log and each apply are linked to it."""
    trace_id, key = "11112f3577b34da6a3ce929d0e0e4736", b"converges"
    leader = harness.leader_name(cluster, key)
    # (What the leader itself accepts may be in the log before it would be passed on.)
    follower = next(name for name in cluster.names if name != leader)
    async with harness.connect_node(cluster.node(follower).address) as node:
        put = kv_pb2.PutRequest(key=key, value=b"1", consistency=kv_pb2.CONSISTENCY_EVENTUAL)
        await node.kv.Put(put, timeout=5, metadata=(("traceparent", f"00-{trace_id}-{PARENT}-01"),))

    def linked() -> bool:
        later = [span for span in spans_of(cluster) if any(link.trace_id == trace_id for link in span.links)]
        applied = {span.instance for span in later if span.name == "kvnode.eventual.apply"}
        return applied == set(cluster.names) and {"kvnode.eventual.replicate", "kvnode.eventual.sequence"} <= {
            s.name for s in later
        }

    await asyncio.to_thread(harness.until, linked, what="what became of the write, on every node")


async def test_superseded_write_leaves_a_trace_though_nobody_samples(cluster: Playground) -> None:
    """At a sampling ratio of 0: its caller was told that it was taken."""
    key = b"overtaken"
    leader = harness.leader_name(cluster, key)
    follower = next(name for name in cluster.names if name != leader)
    async with (
        harness.connect_node(cluster.node(leader).address) as ahead,
        harness.connect_node(cluster.node(follower).address) as behind,
    ):
        for number in range(200):
            strong = asyncio.ensure_future(ahead.kv.Put(kv_pb2.PutRequest(key=key, value=b"s%d" % number), timeout=5))
            eventual = kv_pb2.PutRequest(key=key, value=b"e", consistency=kv_pb2.CONSISTENCY_EVENTUAL)
            await asyncio.gather(strong, behind.kv.Put(eventual, timeout=5))
            answer = await behind.cluster.Traces(observability_pb2.TracesRequest(), timeout=5)
            names = {span.attributes.get("kvnode.outcome") for span in decode(answer.lines, Reading())}
            if "superseded" in names:
                break
        else:
            pytest.fail("none of 200 eventual writes beside strong ones was superseded")
    (span, *_) = [s for s in decode(answer.lines, Reading()) if s.attributes.get("kvnode.outcome") == "superseded"]
    assert (span.name, span.attributes["kvnode.kept"]) == ("kvnode.eventual.apply", "superseded")
    assert span.attributes["kvnode.cause"] == "SUPERSEDED_REASON_STRONG_WRITE"


def test_grpcurl_with_a_traceparent_is_traced_and_sees_the_stages(cluster: Playground, grpcurl: Path) -> None:
    """Headers are all that a foreign client needs, also for the stages in the trailing metadata."""
    headers = ["-H", f"traceparent: 00-{TRACE_ID}-{PARENT}-01", "-H", "x-kvnode-timing: 1"]
    request = ["-d", '{"key_text": "foreign", "value_text": "hello"}', cluster.endpoints[0], "kvapi.v1.KV/Put"]
    done = subprocess.run([grpcurl, "-plaintext", "-v", *headers, *request], capture_output=True, text=True, timeout=20)
    assert done.returncode == 0, done.stderr
    (timing,) = [line.partition(": ")[2] for line in done.stdout.splitlines() if line.startswith("x-kvnode-timing: total")]
    stages = dict(part.split(";dur=") for part in timing.split(", "))
    durations = {name: float(duration) for name, duration in stages.items()}
    total = durations.pop("total")
    assert total > 0
    assert sum(durations.values()) == pytest.approx(total, abs=0.01)

    def traced() -> list[Span]:
        return [span for span in spans_of(cluster) if span.trace_id == TRACE_ID and span.parent_id == PARENT]

    (span,) = harness.until(traced, what="the span of grpcurl's put")
    assert span.name == "kvapi.v1.KV/Put"


class Collector(trace_service_pb2_grpc.TraceServiceServicer):
    """An OTLP collector."""

    def __init__(self) -> None:
        self.resources: list[Any] = []

    def Export(self, request: Any, context: Any) -> Any:
        """Keeps what comes."""
        self.resources += request.resource_spans
        return trace_service_pb2.ExportTraceServiceResponse()


def test_spans_reach_a_collector_over_otlp(tmp_path: Path) -> None:
    """Where an endpoint is configured; with the node's identity, also what was kept just before a graceful stop."""
    collector = Collector()
    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(collector, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        settings = {"tracing.otlp_endpoint": f"http://127.0.0.1:{port}", "tracing.sample_ratio": 1.0}
        with harness.playground(nodes=1, shards=1, settings=settings) as cluster:
            with kvclient.connect_sync(f"{cluster.uri}?timeout=10") as kv:
                kv.put("collected", "x")
            cluster.down(timeout_s=20)
    finally:
        server.stop(None)
    identities = {
        attribute.value.string_value
        for resource in collector.resources
        for attribute in resource.resource.attributes
        if attribute.key == "service.instance.id"
    }
    assert identities == {"n1"}
    names = {span.name for one in collector.resources for scope in one.scope_spans for span in scope.spans}
    assert {"kvapi.v1.KV/Put", "log_write", "apply", "reply"} <= names
