"""`kvctl stats`: the metrics that matter, of all nodes, against a fake cluster over real gRPC."""

from __future__ import annotations

import inspect
import re

import pytest

from kvctl import stats
from kvctl.metrics_text import NodeMetrics
from kvctl.stats import ROWS
from kvnode.observe.metric_families import FAMILIES
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run

SUFFIX = re.compile(r"_(total|bucket|count|sum)$")


def text(
    puts: int = 1000,
    failed: int = 10,
    quick: int = 900,
    started: float = 1.7e9,
    state: str = "ACTIVE",
    suspects: float = 0.0,
    full: int = 0,
    slower: int = 0,
) -> str:
    """A node's metrics: `quick` of its puts took at most 1 ms, the others at most 100 ms, and `slower` ones even longer."""
    slow = puts + failed
    return f"""\
# TYPE kvnode_node_state gauge
kvnode_node_state{{state="ACTIVE"}} {float(state == "ACTIVE")}
kvnode_node_state{{state="RECOVERING"}} {float(state == "RECOVERING")}
# TYPE kvnode_out_of_space gauge
kvnode_out_of_space {full}
# TYPE kvnode_requests counter
kvnode_requests_total{{operation="put",consistency="strong",outcome="OK"}} {puts}
kvnode_requests_total{{operation="put",consistency="strong",outcome="NO_LEADER"}} {failed}
kvnode_requests_total{{operation="batch",consistency="unspecified",outcome="OK"}} 7
# TYPE kvnode_request_duration_seconds histogram
# UNIT kvnode_request_duration_seconds seconds
kvnode_request_duration_seconds_bucket{{operation="put",consistency="strong",le="0.001"}} {quick}
kvnode_request_duration_seconds_bucket{{operation="put",consistency="strong",le="0.1"}} {slow}
kvnode_request_duration_seconds_bucket{{operation="put",consistency="strong",le="+Inf"}} {slow + slower}
kvnode_request_duration_seconds_count{{operation="put",consistency="strong"}} {slow + slower}
kvnode_request_duration_seconds_sum{{operation="put",consistency="strong"}} 3.5
# TYPE kvnode_queue_fill_ratio gauge
# UNIT kvnode_queue_fill_ratio ratio
kvnode_queue_fill_ratio{{queue="reads"}} 0.25
kvnode_queue_fill_ratio{{queue="proposals"}} 0.5
# TYPE kvnode_shard_leader gauge
kvnode_shard_leader{{shard="0"}} 1
kvnode_shard_leader{{shard="1"}} 0
# TYPE kvnode_peer_suspected gauge
kvnode_peer_suspected{{peer="n3"}} {suspects}
# TYPE kvnode_disk_free_bytes gauge
# UNIT kvnode_disk_free_bytes bytes
kvnode_disk_free_bytes 3221225472
# TYPE process_start_time_seconds gauge
process_start_time_seconds {started}
# EOF
"""


def rows(out: str) -> dict[str, list[str]]:
    """A table's cells by their row's title."""
    lines = out.splitlines()
    assert re.split(r"\s{2,}", lines[1].strip()) == ["METRIC", "N1", "N2", "N3"]
    return {cells[0]: cells[1:] for cells in (re.split(r"\s{2,}", line.strip()) for line in lines[2:])}


def test_stats_show_all_nodes_side_by_side(run: Run, cluster: AdminCluster) -> None:
    """A row a metric, a column a node; errors as a share, percentiles from the buckets, sizes for people."""
    cluster.nodes["n1"].metrics = text()
    cluster.nodes["n2"].metrics = text(puts=500, failed=0, quick=495, state="RECOVERING", suspects=1.0)
    cluster.nodes["n3"].metrics = text(full=1)
    out = run("stats").out
    shown = rows(out)
    assert "Since each node's start" in out
    assert shown["state"] == ["ACTIVE", "RECOVERING", "no space"]
    assert shown["requests"] == ["1,010", "500", "1,010"]
    assert shown["errors"] == ["0.99 %", "0.00 %", "0.99 %"]
    assert shown["strong writes p99"] == ["90.9 ms", "1.0 ms", "90.9 ms"]
    assert shown["strong reads p99"] == ["-", "-", "-"]
    assert shown["fullest queue"] == ["proposals 50 %"] * 3
    assert shown["leads"] == ["1/2"] * 3
    assert shown["suspects"] == ["none", "n3", "none"]
    assert shown["disk free"] == ["3.0 GiB"] * 3


def test_stats_of_a_node_that_does_not_answer_are_empty(run: Run, cluster: AdminCluster) -> None:
    """It says so in its column; the others are shown."""
    dead = cluster.nodes["n2"]
    dead_port, dead.port = dead.port, 9
    try:
        out = run("stats").out
        plain = run("stats", "-o", "json").json
        refused = run("stats", "--node", "n2", "--raw")
    finally:
        dead.port = dead_port
    assert "no answer" in out.splitlines()[2]
    assert [node["answers"] for node in plain["nodes"]] == [True, False, True]
    cluster.nodes["n3"].metrics = "no metrics"
    assert "cannot be read" in run("stats", "-o", "json").json["nodes"][2]["error"]
    assert refused.code == 4


def test_stats_over_an_interval_show_what_happened_in_it(
    run: Run, cluster: AdminCluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counters and buckets as differences, rates by the second; a process that started meanwhile shows all that it has."""
    for node in cluster.nodes.values():
        node.metrics = text(puts=1000, failed=10, quick=900)

    def pass_time(seconds: float) -> None:
        assert seconds == 10
        cluster.nodes["n1"].metrics = text(puts=1100, failed=10, quick=1000)
        cluster.nodes["n2"].metrics = text(puts=1000, failed=110, quick=900)
        cluster.nodes["n3"].metrics = text(puts=50, failed=0, quick=50, started=1.8e9)

    monkeypatch.setattr(stats.time, "sleep", pass_time)
    out = run("stats", "--over", "10").out
    shown = rows(out)
    assert "In 10.0 s" in out
    assert shown["requests"] == ["10.0/s", "10.0/s", "5.0/s"]
    assert shown["errors"] == ["0.00 %", "100.00 %", "0.00 %"]
    assert shown["strong writes p99"] == ["1.0 ms", "99.0 ms", "1.0 ms"]
    assert shown["disk free"] == ["3.0 GiB"] * 3


def test_stats_as_json_have_every_sample(run: Run, cluster: AdminCluster) -> None:
    """Of one node, with names, labels, kinds and units."""
    cluster.nodes["n2"].metrics = text()
    (node,) = run("stats", "--node", "n2", "-o", "json").json["nodes"]
    assert (node["name"], node["answers"]) == ("n2", True)
    requests = next(family for family in node["metrics"] if family["name"] == "kvnode_requests")
    assert requests["type"] == "counter"
    assert requests["samples"][0] == {
        "name": "kvnode_requests_total",
        "labels": {"operation": "put", "consistency": "strong", "outcome": "OK"},
        "value": 1000.0,
    }
    assert next(family for family in node["metrics"] if family["name"] == "kvnode_disk_free_bytes")["unit"] == "bytes"


def test_stats_raw_are_the_text_of_one_node(run: Run, cluster: AdminCluster) -> None:
    """Of the one that is named, or of the first that answers; nothing in it commands a terminal."""
    cluster.nodes["n1"].metrics, cluster.nodes["n2"].metrics = text(puts=1), text(puts=2)
    patient = ("--timeout", "60")  # (A node that takes long on a busy machine is passed over.)
    assert run("stats", "--raw", *patient).out == text(puts=1)
    assert run("stats", "--raw", "--node", "n2").out == text(puts=2)
    cluster.nodes["n1"].metrics = 'kvnode_x{a="\x1b[2J"} 1\n'
    assert run("stats", "--raw", *patient).out == 'kvnode_x{a="\\x1b[2J"} 1\n'


def test_stats_of_an_unknown_node_are_a_usage_error(run: Run, cluster: AdminCluster) -> None:
    """The error names those that there are."""
    result = run("stats", "--node", "n9")
    assert result.code == 2
    assert "there is no node n9" in result.err
    assert "n1, n2, n3" in result.err


def test_stats_ask_only_for_metrics_that_nodes_have() -> None:
    """Every name in the command is in the server's catalogue, or one of Prometheus's own."""
    names = re.findall(r'"((?:kvnode|process)_\w+)"|\'((?:kvnode|process)_\w+)\'', inspect.getsource(stats))
    asked = {SUFFIX.sub("", first or second) for first, second in names}
    known = {family.name for family in FAMILIES}
    assert len(asked) > 20
    assert {name for name in asked if name not in known} == {
        "process_cpu_seconds",
        "process_open_fds",
        "process_resident_memory_bytes",
    }
    assert len(ROWS) > 25


def test_percentile_of_a_histogram_is_that_of_prometheus() -> None:
    """Within its bucket by proportion; beyond the last bound, that bound; of nothing, none."""
    metrics = NodeMetrics(text(puts=100, failed=0, quick=50))
    name = "kvnode_request_duration_seconds"
    assert metrics.percentile(name, 25) == pytest.approx(0.0005)
    assert metrics.percentile(name, 75) == pytest.approx(0.001 + 0.099 / 2)
    assert metrics.percentile(name, 99, operation=frozenset(("get",))) is None
    assert NodeMetrics(text(puts=100, failed=0, quick=50, slower=900)).percentile(name, 99) == 0.1
