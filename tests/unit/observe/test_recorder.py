"""Which requests leave spans, what these are, and that histograms count every request."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from opentelemetry.context import Context, attach, detach

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.config import Tracing as Settings
from kvnode.observe.calls import Calls, Headers, headers_of
from kvnode.observe.observer import Observer
from kvnode.observe.part import Part
from kvnode.observe.recorder import SPANS_AFTER_S, SPANS_AT_ONCE, WINDOW
from kvnode.observe.spans import Spans
from kvnode.observe.stages import FORWARD, LOG_QUEUE, REPLY, Timeline
from kvnode.observe.tracing import SAMPLED, Tracing, current, root

STRONG = kv_pb2.CONSISTENCY_STRONG
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
NOT_SAMPLED = f"00-{TRACE}-{PARENT}-00"


@pytest.fixture(autouse=True)
def own_context() -> Iterator[None]:
    """Each call has a task of its own, with which its trace context ends; here it ends with the test."""
    token = attach(Context())
    yield
    detach(token)


class Call:
    """What a servicer is given."""

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5555"


class World:
    """A recorder with a clock that is set; spans are made when `flush` is called."""

    def __init__(self, **settings: Any) -> None:
        self.now = 100.0
        self.tracing = Tracing(Settings(**{"sample_ratio": 0.0, **settings}), "n1", "127.0.0.1:7401")
        self.observer = Observer(self.tracing, lambda: self.now)
        self.observer.times.process = "n1/1"
        self.recorder = self.observer.recorder
        self.calls = Calls(self.recorder, self.tracing)

    def request(self, seconds: float, outcome: str = "OK", status: str = "OK", sampled: bool = False) -> Timeline:
        timeline = self.recorder.begin("put", STRONG, root(SAMPLED) if sampled else self.tracing.begin())
        self.now += seconds
        self.recorder.end(timeline, outcome, status)
        return timeline

    def spans(self) -> list[dict[str, Any]]:
        self.recorder.flush()
        return [
            span
            for line in self.tracing.latest()
            for resource in json.loads(line)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    return {each["key"]: next(iter(each["value"].values())) for each in span["attributes"]}


def kept(world: World) -> list[str]:
    return [found["kvnode.kept"] for found in map(attributes, world.spans()) if "kvnode.kept" in found]


def test_requests_are_kept_when_sampled_slow_or_failed() -> None:
    """Others leave none; and a caller's mistake is not a failure."""
    world = World(slow_ms=50)
    world.request(0.01)
    world.request(0.01, sampled=True)
    world.request(0.06)
    world.request(0.01, "NO_LEADER", "UNAVAILABLE")
    world.request(0.01, "COMPARE_FAILED", "FAILED_PRECONDITION")
    assert kept(world) == ["sampled", "slow", "failed"]
    assert world.recorder.kept == {"sampled": 1, "slow": 1, "failed": 1}


def test_requests_slower_than_the_running_p99_of_their_kind_are_kept() -> None:
    """What is slow is learnt from the last requests of the same operation and consistency."""
    world = World(slow_ms=0)
    for number in range(WINDOW):
        world.request(0.001 if number % 50 else 0.004)
    world.request(0.003)
    assert kept(world) == []
    world.request(0.005)
    assert kept(world) == ["slow"]


def test_requests_that_nobody_sampled_are_kept_only_so_often() -> None:
    """When everything fails, spans must not make it worse; a second later there is room again."""
    world = World(kept_per_second_max=3)
    for _ in range(10):
        world.request(0.0, "NO_LEADER", "UNAVAILABLE")
    assert (kept(world), world.recorder.unkept) == (["failed"] * 3, 7)
    world.now += 0.4
    world.request(0.0, "NO_LEADER", "UNAVAILABLE")
    world.request(0.0, "NO_LEADER", "UNAVAILABLE")
    assert len(kept(world)) == 4


def test_histograms_and_outcomes_count_every_request() -> None:
    """By operation, consistency and stage, kept or not."""
    world = World()
    world.request(0.002)
    world.request(0.004, "NO_LEADER", "UNAVAILABLE")
    assert {key: histogram.count for key, histogram in world.recorder.latency.items()} == {
        ("put", STRONG, ""): 2,
        ("put", STRONG, "admission"): 2,
    }
    assert world.recorder.latency["put", STRONG, ""].max_us == pytest.approx(4000, abs=1)
    assert world.recorder.outcomes == {("put", STRONG, "OK"): 1, ("put", STRONG, "NO_LEADER"): 1}


def test_call_where_nobody_traces_has_no_random_identity() -> None:
    """In simulations the same seed must give the same messages (DESIGN 12.16): none carries an id that was drawn here."""
    observer = Observer()
    calls = Calls(observer.recorder, observer.tracing)
    timeline = calls.arrive("put", STRONG, Headers(), Call())
    assert timeline.span is None
    assert current() is None
    calls.leave(timeline, None, Headers())
    assert observer.recorder.outcomes == {("put", STRONG, "OK"): 1}


def test_forwarded_request_is_an_outcome_of_its_first_node_alone() -> None:
    """Success rates add up over nodes; its latency is told where it was served, too."""
    world = World()
    timeline = world.recorder.begin("put", STRONG, world.tracing.begin())
    timeline.hops = 1
    world.recorder.end(timeline, "NO_LEADER", "UNAVAILABLE")
    assert world.recorder.outcomes == {}
    assert world.recorder.latency["put", STRONG, ""].count == 1


def test_consistency_that_nobody_knows_makes_no_series_of_its_own() -> None:
    """Enums of proto3 are open: a caller must not choose how much this node remembers."""
    world = World()
    for consistency in range(100, 200):
        world.recorder.end(world.recorder.begin("put", consistency, root()))
    assert list(world.recorder.series) == [("put", 0)]


def test_spans_of_a_write_are_its_stages_its_followers_and_its_batch() -> None:
    """All in one trace: stages without gaps, one append a follower, and the group commit linked to the request."""
    world = World()
    times, shard, index = world.observer.times, 3, 7
    timeline = world.recorder.begin("put", STRONG, root(SAMPLED))
    world.now += 1
    timeline.enter(LOG_QUEUE)
    write = times.on_submit(1, [(shard, index, 0)])
    world.now += 1
    times.on_written(write)
    for peer in ("n2", "n3"):
        world.now += 1
        timing = replication_pb2.AppendTiming(total_us=600_000, log_queue_us=1, log_write_us=500_000, fsync_us=400_000)
        times.on_append(shard, peer, index, world.now - 1, timing)
        times.on_commit(shard, index, peer)
    times.on_apply(shard, index)
    timeline.proposed(times, shard, index)
    world.recorder.end(timeline)
    spans = world.spans()
    request, batch = spans[0], spans[-1]
    assert (request["name"], batch["name"]) == ("Put", "kvnode.log_batch")
    assert [span["name"] for span in spans[1:-1]] == [
        *("admission", "log_queue", "log_write", "quorum", "apply", "reply"),
        *("append", "append"),
    ]
    assert {span["parentSpanId"] for span in spans[1:-1]} == {request["spanId"]}
    assert {span["traceId"] for span in spans[:-1]} == {request["traceId"]}
    assert [link["spanId"] for link in batch["links"]] == [request["spanId"]]
    assert attributes(batch)["kvnode.batch.id"] == attributes(spans[3])["kvnode.batch.id"] == "n1/1/1"
    appends = [attributes(span) for span in spans[-3:-1]]
    assert [(one["kvnode.node"], one["kvnode.quorum"]) for one in appends] == [("n2", True), ("n3", False)]
    assert appends[0]["kvnode.append.network_us"] == "400000"
    stages = spans[1:7]
    assert stages[0]["startTimeUnixNano"] == request["startTimeUnixNano"]
    assert stages[-1]["endTimeUnixNano"] == request["endTimeUnixNano"]


def test_call_within_a_trace_continues_it_and_has_the_conventions_attributes() -> None:
    """The names of OpenTelemetry's semantic conventions for RPC and databases, and no deprecated one."""
    world = World()
    headers = headers_of((("user-agent", "grpcurl"), ("traceparent", f"00-{TRACE}-{PARENT}-01")))
    timeline = world.calls.arrive("put", STRONG, headers, Call())
    assert current() == timeline.span
    world.calls.leave(timeline, None, headers)
    (span, _) = world.spans()
    assert (span["name"], span["kind"], span["traceId"], span["parentSpanId"]) == ("kvapi.v1.KV/Put", 2, TRACE, PARENT)
    assert attributes(span) == {
        "rpc.system.name": "grpc",
        "rpc.method": "kvapi.v1.KV/Put",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": "7401",
        "network.peer.address": "127.0.0.1",
        "network.peer.port": "5555",
        "db.system.name": "kvnode",
        "db.operation.name": "Put",
        "kvnode.consistency": "strong",
        "kvnode.kept": "sampled",
    }


def test_call_within_an_unsampled_trace_keeps_its_id_and_leaves_no_span() -> None:
    """Who began the trace decides; logs can be joined all the same."""
    world = World(sample_ratio=1.0)
    headers = Headers(traceparent=NOT_SAMPLED)
    timeline = world.calls.arrive("put", STRONG, headers, Call())
    span = current()
    assert span is not None
    assert f"{span.trace_id:032x}" == TRACE
    world.calls.leave(timeline, None, headers)
    assert world.spans() == []


@pytest.mark.parametrize(
    ("outcome", "status", "is_error"),
    [("NO_LEADER", "UNAVAILABLE", True), ("INVALID_ARGUMENT", "INVALID_ARGUMENT", False), ("INTERNAL", "UNKNOWN", True)],
)
def test_span_of_a_failed_request_is_an_error_only_if_the_server_is_to_blame(outcome: str, status: str, is_error: bool) -> None:
    """A caller's mistake is no error of the server's span (semantic conventions for gRPC)."""
    world = World()
    world.request(0.001, outcome, status, sampled=True)
    (span, _) = world.spans()
    assert (span["status"].get("code") == 2) == is_error
    assert attributes(span)["db.response.status_code"] == outcome
    assert ("error.type" in attributes(span)) == is_error


def test_timing_is_told_to_who_asks_for_it() -> None:
    """In the syntax of Server-Timing; nobody else pays for it."""
    world = World()
    for value, expected in (("1", ((("x-kvnode-timing"), "total;dur=2000.000, admission;dur=2000.000"),)), ("0", ())):
        headers = headers_of((("x-kvnode-timing", value),))
        timeline = world.calls.arrive("put", STRONG, headers, Call())
        world.now += 2
        assert world.calls.leave(timeline, None, headers) == expected


def test_operation_of_a_batch_with_a_trace_of_its_own_belongs_there() -> None:
    """Others are children of the batch."""
    world = World()
    headers = Headers(traceparent=f"00-{'1' * 32}-{'2' * 16}-01")
    batch = world.calls.arrive("batch", 0, headers, Call())
    for number, traceparent in enumerate((f"00-{TRACE}-{PARENT}-01", "")):
        world.calls.end(world.calls.operation("put", STRONG, batch, traceparent, number))
    world.calls.leave(batch, None, headers)
    own, _, other, _, call, _ = world.spans()
    assert (own["name"], own["kind"], own["traceId"], own["parentSpanId"]) == ("Put", 1, TRACE, PARENT)
    assert (other["traceId"], other["parentSpanId"]) == (call["traceId"], call["spanId"])
    assert [attributes(span)["kvnode.batch.index"] for span in (own, other)] == ["0", "1"]
    assert call["name"] == "kvapi.v1.KV/Batch"


def test_part_that_another_node_works_on_is_the_parent_of_that_work() -> None:
    """While it lasts, what is sent carries its identity; afterwards the request's again."""
    world = World()
    headers = Headers(traceparent=f"00-{TRACE}-{PARENT}-01")
    timeline = world.calls.arrive("put", STRONG, headers, Call())
    with Part(timeline, FORWARD, REPLY, {"kvnode.node": "n2"}):
        during = current()
    assert current() == timeline.span
    world.calls.leave(timeline, None, headers)
    stage = next(span for span in world.spans() if span["name"] == "forward")
    assert during is not None
    assert stage["spanId"] == f"{during.span_id:016x}"
    assert attributes(stage) == {"kvnode.stage": "forward", "kvnode.node": "n2"}


def test_span_says_which_nodes_were_failed() -> None:
    """The first thing one wants to know of a slow write."""
    world = World()
    world.observer.spans.failed_nodes = lambda: ["n3"]
    world.request(0.0, sampled=True)
    values = next(each["value"] for each in world.spans()[0]["attributes"] if each["key"] == "kvnode.nodes.failed")
    assert values == {"arrayValue": {"values": [{"stringValue": "n3"}]}}


def test_spans_of_many_requests_are_made_some_at_a_time_and_not_before_followers_could_answer() -> None:
    """Thousands at once would hold every other request up; and who ended just now waits for slower followers' answers."""
    world, timers = World(), list[tuple[float, Callable[[], None]]]()
    world.recorder._later = lambda delay, callback: timers.append((delay, callback))
    for _ in range(SPANS_AT_ONCE + 1):
        world.request(0.0, sampled=True)
    world.now += SPANS_AFTER_S
    world.request(0.0, sampled=True)

    def ring() -> tuple[float, int]:
        """After how long the timer rings, and how many requests have spans then."""
        (delay, callback), *others = timers
        assert not others
        timers.clear()
        callback()
        return delay, sum("kvnode.kept" in (span.attributes or {}) for span in world.tracing._latest)

    assert ring() == (SPANS_AFTER_S, SPANS_AT_ONCE)
    assert ring() == (0.0, SPANS_AT_ONCE + 1)
    world.now += SPANS_AFTER_S
    assert ring() == (pytest.approx(SPANS_AFTER_S), SPANS_AT_ONCE + 2)
    assert not timers


def test_spans_follow_the_wall_clock_when_it_is_set_and_do_not_jitter() -> None:
    """After a night's sleep of a laptop its traces are not of last night."""
    world, wall_ns = World(), [1_000_000_000_000]
    spans = Spans(world.tracing, world.observer.times, lambda: wall_ns[0])

    def start_ns() -> int:
        spans.episode("something", world.now, world.now, {})
        return world.tracing._latest[-1].start_time or 0

    assert start_ns() == wall_ns[0]
    wall_ns[0] += 1_000_000
    assert start_ns() == wall_ns[0] - 1_000_000
    wall_ns[0] += 3_600 * 10**9
    assert start_ns() == wall_ns[0]
