"""What the page is made of: selection, and figures that agree with the commands for the same things."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import pytest

from kvapi.v1 import kv_pb2
from kvctl.report import gather
from kvctl.report.model import Kind, Sources
from kvctl.traces.latency import NodeLatency, Snapshot, latency_of_traces
from kvctl.traces.span import Span
from kvctl.traces.store import TraceStore
from kvctl.traces.waterfall import Row
from tests.unit.kvctl.report.made import AT_MS, histogram
from tests.unit.kvctl.traces.synthetic import TRACE, Put, Scene, slow_put, trace_id_of, usual_puts

STRONG = kv_pb2.CONSISTENCY_STRONG
PUT = Kind("put", "strong", by_client=True)


@pytest.fixture
def store() -> Iterator[TraceStore]:
    """Thirty usual puts, ten milliseconds apart, and a slow one."""
    with TraceStore() as made:
        made.add([*usual_puts(30), *slow_put().scene().spans])
        yield made


def filled(spans: Iterable[Span]) -> TraceStore:
    """A store with other spans."""
    made = TraceStore()
    made.add(spans)
    return made


def test_over_time_means_sum_to_the_mean_duration(store: TraceStore) -> None:
    """Of each interval; all requests are in one, and their time is that of the critical paths."""
    found = gather.over_time(store)[PUT]
    requests = store.requests("not background")
    assert sum(interval.requests for interval in found.intervals) == len(requests) == 31
    for interval in found.intervals:
        inside = [one.duration_ns for one in requests if 0 <= one.start_ns // 1_000_000 - interval.start_ms < found.step_ms]
        assert interval.requests == len(inside)
        assert sum(interval.means_ns.values()) == pytest.approx(sum(inside) / len(inside))
    assert found.kept == {"sampled": 30, "slow": 1}
    assert found.from_ms <= found.intervals[0].start_ms
    assert found.to_ms >= found.intervals[-1].start_ms + found.step_ms


def test_over_time_of_no_request_is_nothing() -> None:
    """No requests, no picture; background work is none."""
    scene = Scene()
    scene.add("kvnode.election", 0, 5, node="n1")
    with filled(scene.spans) as store:
        assert gather.over_time(store) == {}
        assert gather.window_of_spans(store) is None


def test_slowest_are_the_longest_and_some_of_each_kind(store: TraceStore) -> None:
    """The longest first; a quick kind is there, too, behind them."""
    for number in range(5):
        scene = Scene(trace_id_of(900 + number))
        scene.client("Get", 0, 0.1 + number / 100)
        store.add(scene.spans)
    found = gather.slowest(store, 4)
    durations = [one.request.duration_ns for one in found]
    assert durations == sorted(durations, reverse=True)
    assert [one.request.operation for one in found] == ["put"] * 4 + ["get"] * gather.PER_KIND
    first = found[0]
    assert first.request.trace_id == TRACE
    assert "42 of 52 ms waiting for fsync on n2" in first.explanation.text
    assert sum(first.parts.values()) == first.request.duration_ns
    assert first.left_out == 0
    assert first.rows[0].name == "Put"


def test_waterfall_of_a_request_is_only_its_own() -> None:
    """Of an application's trace with several requests each draws what belongs to it, from its own beginning."""
    scene = Scene()
    application = scene.add("checkout", 0, 100)
    scene.client("Put", 10, 30, application)
    scene.client("Put", 40, 90, application)
    with filled(scene.spans) as store:
        longer, shorter = gather.slowest(store, 5)
    assert [(row.start_ns, row.duration_ns / 1e6) for row in longer.rows] == [(0, 50)]
    assert [(row.start_ns, row.duration_ns / 1e6) for row in shorter.rows] == [(0, 20)]


def row(depth: int, critical_ns: int, duration_ns: int = 10) -> Row:
    """Of a waterfall."""
    return Row(depth, "x", "n1", 0, duration_ns, critical_ns, False, False, "")


def test_rows_of_a_long_waterfall_keep_what_was_waited_for() -> None:
    """The critical ones stay with all that they are part of, in their order; the rest is counted."""
    every = [row(0, 0), *(row(1, 0, 5) for _ in range(500)), row(1, 0, 4), row(2, 0, 3), row(3, 7, 2)]
    kept = gather.most_telling(every, 10)
    assert len(kept) == 10
    assert kept[0] is every[0]
    assert kept[-3:] == every[-3:]
    assert gather.most_telling(every[:3], 10) == every[:3]


def test_rows_kept_never_hang_in_the_air() -> None:
    """Whatever is left out, a row's parent is there."""
    every = [row(0, 0), row(1, 1), row(2, 9), row(1, 8), row(2, 0, 99), row(2, 5), row(3, 6), row(1, 0)]
    for rows_max in range(1, len(every) + 1):
        kept = gather.most_telling(every, rows_max)
        assert len(kept) <= rows_max
        depth = -1
        for one in kept:
            assert one.depth <= depth + 1
            depth = one.depth


def test_latency_of_nodes_merges_them_and_leaves_operators_out() -> None:
    """Histograms are added; calls such as this report's own are no load; the costliest kind comes first, parts last."""
    series = {
        ("put", STRONG, ""): histogram([1000] * 99),
        ("put", STRONG, "log_write"): histogram([800] * 99),
        ("get", STRONG, ""): histogram([10]),
        ("txn/prepare", STRONG, ""): histogram([1_000_000]),
        ("cluster.Status", 0, ""): histogram([9_000_000]),
    }
    other = {("put", STRONG, ""): histogram([5000])}
    snapshot = Snapshot({"n1": NodeLatency(1, 10, AT_MS, series), "n2": NodeLatency(1, 10, AT_MS + 5, other)})
    found = gather.latency_of_nodes(snapshot)
    assert found is not None
    assert list(found.distributions) == [Kind("put", "strong"), Kind("get", "strong"), Kind("txn/prepare", "strong")]
    assert found.distributions[Kind("put", "strong")].count == 100
    assert found.distributions[Kind("put", "strong")].max_us == 5000
    assert [(one.stage, one.summary.count) for one in found.stages[Kind("put", "strong")]] == [("log_write", 99)]
    assert found.since_ms == AT_MS
    assert gather.latency_of_nodes(Snapshot()) is None


def test_latency_of_spans_agrees_with_kvctl_latency(store: TraceStore) -> None:
    """The same counts and the same figures, up to the width of a bucket, in the client's view and the node's."""
    found = gather.latency_of_spans(store)
    assert found is not None
    assert found.since_ms is None
    rows = {(one.operation, one.consistency, one.stage): one.summary for one in latency_of_traces(store)}
    for kind, distribution in found.distributions.items():
        summary = rows[kind.operation, kind.consistency, "client" if kind.by_client else ""]
        assert distribution.count == summary.count == 31
        assert distribution.percentile(50) == pytest.approx(summary.p50, rel=1 / 32)
    client, node = found.stages[PUT], found.stages[Kind("put", "strong")]
    assert [one.stage for one in client] == ["client.queue", "client.call"]
    assert [one.stage for one in node][:3] == ["admission", "log_queue", "log_write"]


def test_latency_of_nodes_is_joined_by_the_clients_view(store: TraceStore) -> None:
    """Nodes count all requests, and cannot know the client's part."""
    counted = gather.latency_of_nodes(
        Snapshot({"n1": NodeLatency(1, 10, AT_MS, {("put", STRONG, ""): histogram([1000] * 500)})})
    )
    traced = gather.latency_of_spans(store)
    assert counted is not None
    assert traced is not None
    found = gather.with_clients(counted, traced)
    assert {kind: one.count for kind, one in found.distributions.items()} == {Kind("put", "strong"): 500, PUT: 31}
    assert found.since_ms == AT_MS


def test_happenings_have_their_cause_and_no_group_commits() -> None:
    """By time; the writes of the log would be all there is."""
    scene = Scene()
    scene.add("kvnode.log_batch", 0, 1, node="n1")
    scene.add("kvnode.disk_stall", 9, 60, node="n2")
    scene.add("kvnode.election", 2, 8, node="n1", kvnode__shard=3, kvnode__cause="n2 was FAILED")
    with filled(scene.spans) as store:
        found = gather.happenings(store)
    assert [(one.name, one.node, one.shard, one.cause) for one in found] == [
        ("election", "n1", 3, "n2 was FAILED"),
        ("disk_stall", "n2", None, ""),
    ]


def test_outcomes_are_told_apart_by_who_saw_them() -> None:
    """What a client saw, with all attempts, is no node's answer."""
    served = Scene(trace_id_of(1))
    served.server("Put", 0, 5, None, "n1", error__type="NO_LEADER", failed=True)
    with filled([*served.spans, *Put().scene(trace_id_of(2)).spans]) as store:
        (clients,) = gather.outcomes_of_clients(store)
        (nodes,) = gather.outcomes_of_traces(store)
    assert (clients.operation, clients.counts) == ("put", {"OK": 1})
    assert (nodes.operation, nodes.counts, nodes.unanswered) == ("put", {"NO_LEADER": 1}, 1)


def test_report_of_files_alone_knows_nodes_and_no_availability(store: TraceStore) -> None:
    """What is not known is None, not zero."""
    found = gather.make(store, None, Sources(AT_MS, files=["x"]), 5)
    assert [member.name for member in found.members] == ["n1"]
    assert found.availability is None
    assert found.outcomes == ()
    assert found.latency is not None
    assert found.sources.requests == 31
    assert found.window is not None
