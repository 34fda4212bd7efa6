"""What real processes say: logs that machines read, and traces that cross the cluster."""

from __future__ import annotations

import json
import re
from typing import Any

from kvapi.v1 import kv_pb2
from kvctl.playground import Playground
from tests.integration import harness

TRACE_ID = "4bf92f3577b34da6a3ce929d0e0e4736"
TRACEPARENT = f"00-{TRACE_ID}-00f067aa0ba902b7-01"


def _spans(cluster: Playground, name: str) -> list[dict[str, Any]]:
    path = cluster.node(name).data_path.parent / "spans.jsonl"
    spans = []
    for line in path.read_text().splitlines() if path.exists() else []:
        for resource in json.loads(line)["resourceSpans"]:
            for scope in resource["scopeSpans"]:
                spans += scope["spans"]
    return spans


async def test_log_of_a_node_is_json_lines_with_its_name(cluster: Playground) -> None:
    """Every line has timestamp, level, node and event, in JSON, from the first one on."""
    for name in cluster.names:
        lines = harness.log_lines(cluster, name)
        assert lines
        for line in lines:
            assert line["node"] == name
            assert line["event"]
            assert line["level"] in ("debug", "info", "warning", "error", "critical")
            assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line["timestamp"])
        events = [line["event"] for line in lines]
        assert "recovered" in events
        assert "serving" in events
        roles = [line for line in lines if line["event"] == "role"]
        assert roles
        assert all("shard" in line and "term" in line for line in roles)


async def test_trace_of_a_client_goes_through_every_node_that_serves_it(cluster: Playground) -> None:
    """A sampled traceparent from a client is continued by the node that takes the call and by the leader it forwards to; the
    spans of both have the client's trace id, and the second one's parent is in the first node."""
    key = b"traced{key}"
    leader = harness.leader_name(cluster, key)
    via = next(name for name in cluster.names if name != leader)
    async with harness.connect_node(cluster.node(via).address) as node:
        put = kv_pb2.PutRequest(key=key, value=b"1")
        await node.kv.Put(put, timeout=5, metadata=(("traceparent", TRACEPARENT),))

    def both() -> bool:
        return all(any(span["traceId"] == TRACE_ID for span in _spans(cluster, name)) for name in (via, leader))

    harness.until(both, what="spans of both nodes")
    first = [span for span in _spans(cluster, via) if span["traceId"] == TRACE_ID]
    second = [span for span in _spans(cluster, leader) if span["traceId"] == TRACE_ID]
    assert any(span["parentSpanId"] == "00f067aa0ba902b7" for span in first)
    assert any(span["parentSpanId"] in {one["spanId"] for one in first} for span in second)
    assert all(span["name"] for span in first + second)


async def test_log_line_of_a_request_carries_its_trace_id(cluster: Playground) -> None:
    """Where a line belongs to a request it says which: lines of all nodes can be joined by trace id."""
    trace_id = "0af7651916cd43dd8448eb211c80319c"
    async with harness.connect_node(cluster.endpoints[0]) as node:
        for number in range(5):
            metadata = (("traceparent", f"00-{trace_id}-b7ad6b716920333{number}-00"),)
            await node.kv.Put(kv_pb2.PutRequest(key=b"logged", value=b"1"), timeout=5, metadata=metadata)
    lines = harness.log_lines(cluster, "n1")
    with_ids = [line for line in lines if "trace_id" in line]
    assert all(re.fullmatch(r"[0-9a-f]{32}", line["trace_id"]) for line in with_ids)
    assert all(re.fullmatch(r"[0-9a-f]{16}", line["span_id"]) for line in with_ids)
