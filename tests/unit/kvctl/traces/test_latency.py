"""`kvctl latency`: histograms of nodes merged, intervals, and exact figures from files."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from kvapi.v1 import kv_pb2, observability_pb2
from kvclient.histogram import Histogram
from kvctl import latency_command
from kvctl.traces.latency import NodeLatency, Snapshot, latency_of_traces
from kvctl.traces.store import TraceStore
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run
from tests.unit.kvctl.traces.synthetic import slow_put, usual_puts, write

STRONG = kv_pb2.CONSISTENCY_STRONG
PUT = ("put", STRONG, "")


def histogram(values_us: Iterable[int]) -> Histogram:
    """Of some values."""
    made = Histogram()
    for value in values_us:
        made.record(value)
    return made


def node(incarnation: int, at_ms: int, values_us: Iterable[int]) -> NodeLatency:
    """A node that served puts."""
    return NodeLatency(incarnation, at_ms, 0, {PUT: histogram(values_us)})


def test_latency_of_nodes_is_merged_by_histograms() -> None:
    """Percentiles of all requests, not an average of percentiles; nodes that did not answer are left out and named."""
    snapshot = Snapshot({"n1": node(1, 10, [10] * 99), "n2": node(1, 10, [50])}, {"n3": "silent"})
    (row,) = snapshot.rows()
    assert (row.operation, row.consistency, row.stage) == ("put", "strong", "")
    assert (row.summary.count, row.summary.max, row.summary.p99, row.summary.p999) == (100, 50, 10, 50)


def test_latency_of_an_interval_counts_what_came_in_it() -> None:
    """The difference of two answers of one incarnation."""
    earlier = Snapshot({"n1": node(1, 1000, [10, 10])})
    later = Snapshot({"n1": node(1, 3000, [10, 10, 40, 40, 40])})
    between = later.since(earlier)
    (row,) = between.rows()
    assert (row.summary.count, row.summary.min, row.summary.p50) == (3, 40, 40)
    assert between.nodes["n1"].since_ms == 1000


def test_latency_of_a_node_that_restarted_starts_anew() -> None:
    """Another incarnation has counted from zero, even if by now it has more; nothing is subtracted."""
    earlier = Snapshot({"n1": node(1, 1000, [10, 10])})
    (row,) = Snapshot({"n1": node(2, 3000, [10, 10, 40])}).since(earlier).rows()
    assert row.summary.count == 3


def test_latency_of_an_interval_without_requests_has_no_rows() -> None:
    """Also for a node that was silent before: it counts from its start."""
    idle = Snapshot({"n1": node(1, 1000, [10])})
    assert Snapshot({"n1": node(1, 2000, [10])}).since(idle).rows() == []
    (row,) = Snapshot({"n1": node(1, 2000, [10]), "n2": node(1, 2000, [7, 8])}).since(idle).rows()
    assert row.summary.count == 2


def test_latency_rows_come_in_the_order_of_stages() -> None:
    """As a request passes them; what this version does not know comes last."""
    stages = ("reply", "unheard_of", "log_write", "", "admission")
    series = {("put", STRONG, stage): histogram([1]) for stage in stages}
    rows = Snapshot({"n1": NodeLatency(1, 0, 0, series)}).rows()
    assert [row.stage for row in rows] == ["", "admission", "log_write", "reply", "unheard_of"]


def test_latency_of_traces_is_exact() -> None:
    """Of each span, by operation, consistency and stage; the client's whole and the node's are two."""
    with TraceStore() as store:
        store.add([*usual_puts(99), *slow_put().scene().spans])
        rows = {row.stage: row.summary for row in latency_of_traces(store)}
        sampled = {row.stage: row.summary for row in latency_of_traces(store, kept="sampled")}
    assert list(rows)[:3] == ["client", "client.queue", "client.call"]
    assert {summary.count for summary in rows.values()} == {100}
    assert rows["client"].max == pytest.approx(52_220)
    assert rows[""].max == pytest.approx(48_120)
    assert rows["admission"].p50 == pytest.approx(100)
    assert rows["admission"].p999 == pytest.approx(2000)
    assert rows["log_queue"].max == 0
    assert (sampled["client"].count, sampled["admission"].max) == (99, pytest.approx(100))


def _serve(cluster: AdminCluster, name: str, values_us: Iterable[int], incarnation: int = 1) -> None:
    """What a fake node tells from now on."""
    answer = observability_pb2.LatencyResponse(node=name, incarnation=incarnation, at_ms=61_000, since_ms=1_000)
    for stage in ("", "log_write"):
        answer.series.add(operation="put", consistency=STRONG, stage=stage, histogram=histogram(values_us).to_pb())
    answer.series.add(operation="cluster.Status", stage="", histogram=histogram([5]).to_pb())
    cluster.nodes[name].latency = answer


def test_latency_command_asks_all_nodes(run: Run, cluster: AdminCluster) -> None:
    """A table with stages below their operation; operators' own calls are left out unless they are asked for."""
    _serve(cluster, "n1", [1000] * 3)
    _serve(cluster, "n2", [3000])
    lines = run("latency").out.splitlines()
    assert lines[0] == "n1, n2, n3, the last 1 min 0 s"
    assert lines[1].split() == [
        *("OPERATION", "CONSISTENCY", "STAGE", "COUNT", "AVERAGE", "MIN", "MAX", "P50", "P95", "P99", "P99.9")
    ]
    assert lines[2].split()[:4] == ["put", "strong", "whole", "4"]
    assert lines[3].split()[:4] == ["put", "strong", "log_write", "4"]
    assert len(lines) == 4
    assert len(run("latency", "--no-stages").out.splitlines()) == 3
    assert "cluster.Status" in run("latency", "--operation", "cluster").out
    assert "no requests" in run("latency", "--operation", "get").out


def test_latency_command_names_who_does_not_answer(run: Run, cluster: AdminCluster) -> None:
    """Figures of the others, and who is missing, also for programs."""
    _serve(cluster, "n1", [1000])
    cluster.nodes["n3"].silent_about = ["Latency"] * 2
    assert run("latency").out.splitlines()[0].endswith("; no answer: n3")
    answer = run("latency", "-o", "json").json
    assert [one["node"] for one in answer["nodes"]] == ["n1", "n2"]
    assert [one["node"] for one in answer["silent"]] == ["n3"]
    assert answer["series"][0] == {
        "operation": "put",
        "consistency": "strong",
        "stage": "",
        "count": 1,
        **dict.fromkeys(("average_ms", "min_ms", "max_ms", "p50_ms", "p95_ms", "p99_ms", "p999_ms"), 1.0),
    }


def test_latency_watch_shows_each_interval(run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came between two answers; a node that restarted counts from its start; Ctrl-C ends it."""
    _serve(cluster, "n1", [1000] * 5)
    steps = iter([lambda: _serve(cluster, "n1", [1000] * 5 + [9000] * 2), lambda: _serve(cluster, "n1", [4000], 2), None])
    slept = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        step = next(steps)
        if step is None:
            raise KeyboardInterrupt
        step()

    monkeypatch.setattr(latency_command.time, "sleep", sleep)
    result = run("latency", "--watch", "--every", "0.5", "--no-stages", "-o", "json")
    first, second = (json.loads(line) for line in result.out.splitlines())
    assert result.code == 130
    assert slept == [0.5] * 3
    assert [(one["count"], one["p50_ms"]) for one in first["series"]] == [(2, 9.0)]
    assert [(one["count"], one["p50_ms"]) for one in second["series"]] == [(1, 4.0)]


def test_latency_watch_goes_on_when_nobody_answers(run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cluster that restarts is watched, not given up."""
    _serve(cluster, "n1", [1000])
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 3:
            raise KeyboardInterrupt
        if len(slept) == 1:
            for one in cluster.nodes.values():
                one.silent_about.append("Latency")

    monkeypatch.setattr(latency_command.time, "sleep", sleep)
    lines = run("latency", "-w", "-o", "json").out.splitlines()
    assert [sorted(one["node"] for one in json.loads(line)["silent"]) for line in lines] == [["n1", "n2", "n3"], []]


def test_latency_of_files_warns_of_what_was_kept_for_being_slow(run: Run, tmp_path: Path) -> None:
    """Percentiles of such files lean to the slow; how to leave them out is said."""
    path = str(write(tmp_path / "traces.jsonl", [*usual_puts(20), *slow_put().scene().spans]))
    result = run("latency", path)
    assert "1 of 21 were kept because they were slow" in result.err
    assert "whole, client" in result.out
    result = run("latency", path, "--kept", "sampled", "-o", "json")
    assert result.err == ""
    assert {one["count"] for one in result.json["series"]} == {20}


def test_latency_options_that_contradict_are_refused(run: Run, tmp_path: Path) -> None:
    """Files do not change while one watches; nodes keep histograms of all requests."""
    path = str(write(tmp_path / "traces.jsonl", usual_puts(1)))
    assert run("latency", path, "--watch").code == 2
    assert run("latency", "--kept", "slow").code == 2
