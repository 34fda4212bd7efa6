"""Metrics of real nodes, scraped over HTTP while they serve."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

import kvclient
from kvctl.playground import Playground
from kvctl.playground_files import PlaygroundError
from tests.integration import harness

OPENMETRICS = {"Accept": "application/openmetrics-text; version=1.0.0"}


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Playground]:
    """Three nodes with metrics, each on a port of its own."""
    with harness.playground(settings={"metrics.listen": "127.0.0.1:0"}) as cluster:
        yield cluster


def address(cluster: Playground, name: str) -> str:
    """Where a node serves its metrics, by its log."""
    line = json.loads(harness.await_log(cluster, name, '"event":"serving"'))
    return str(line["metrics"])


def scrape(where: str) -> tuple[int, dict[str, Metric]]:
    """The status, and the metrics by name."""
    request = urllib.request.Request(f"http://{where}/metrics", headers=OPENMETRICS)
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            families = list(text_string_to_metric_families(answer.read().decode()))
            return answer.status, {family.name: family for family in families}
    except urllib.error.HTTPError as error:
        return error.code, {}


def total(metrics: list[dict[str, Metric]], family: str, sample: str, **labels: str) -> float:
    """Of all nodes."""
    return sum(
        found.value
        for node in metrics
        if family in node
        for found in node[family].samples
        if found.name == sample and all(found.labels[label] == wanted for label, wanted in labels.items())
    )


def all_of(cluster: Playground) -> list[dict[str, Metric]]:
    """Every node's metrics."""
    return [scrape(address(cluster, name))[1] for name in cluster.names]


def served(metrics: list[dict[str, Metric]], operation: str, consistency: str) -> float:
    """Requests of one kind that were answered."""
    wanted = {"operation": operation, "consistency": consistency, "outcome": "OK"}
    return total(metrics, "kvnode_requests", "kvnode_requests_total", **wanted)


async def test_metrics_scraped_after_load_count_the_requests_that_were_sent(
    cluster: Playground, client: kvclient.AsyncClient
) -> None:
    """Puts and gets by their consistency, as many as the client sent; each of them in the histograms; each put in the log."""
    await client.put("warm", "1")  # (The client knows the leaders now: nothing is forwarded.)
    before = all_of(cluster)
    await asyncio.gather(*(client.put(f"metrics/{number}", "v") for number in range(200)))
    await asyncio.gather(*(client.get(f"metrics/{number}") for number in range(100)))
    await asyncio.gather(*(client.put(f"metrics/{number}", "w", consistency="eventual") for number in range(50)))
    after = all_of(cluster)
    for operation, consistency, sent in (("put", "strong", 200), ("get", "strong", 100), ("put", "eventual", 50)):
        assert served(after, operation, consistency) - served(before, operation, consistency) == sent
        name, labels = "kvnode_request_duration_seconds", {"operation": operation, "consistency": consistency}
        counts = [total(each, name, f"{name}_count", **labels) for each in (before, after)]
        assert counts[1] - counts[0] == sent
    for family in ("kvnode_log_fsync_duration_seconds", "kvnode_log_batch_records", "kvnode_event_loop_lag_seconds"):
        assert total(after, family, f"{family}_count") > total(before, family, f"{family}_count")
    assert total(after, "kvnode_shard_leader", "kvnode_shard_leader") == cluster.shards
    assert total(after, "kvnode_wire_calls", "kvnode_wire_calls_total") > total(
        before, "kvnode_wire_calls", "kvnode_wire_calls_total"
    )


async def test_node_scraped_by_many_at_once_keeps_serving(cluster: Playground, client: kvclient.AsyncClient) -> None:
    """Fifty scrapes at once get their text or 503, and requests meanwhile are answered as before."""
    key = "metrics/under scrapes"
    where = address(cluster, harness.leader_name(cluster, key.encode()))
    loop = asyncio.get_running_loop()
    statuses: list[int] = []
    served_meanwhile = 0

    async def round_of_scrapes() -> None:
        found = await asyncio.gather(*(loop.run_in_executor(None, scrape, where) for _ in range(50)))
        statuses.extend(status for status, _ in found)

    scrapes = asyncio.ensure_future(round_of_scrapes())
    while not scrapes.done():
        await client.put(key, "v")
        served_meanwhile += 1
    await scrapes
    assert set(statuses) <= {200, 503}
    assert statuses.count(200) >= 4
    assert served_meanwhile > 0
    status, metrics = scrape(where)
    assert status == 200
    assert metrics["kvnode_node_state"]


def test_node_that_stands_still_answers_503_or_late(cluster: Playground) -> None:
    """A frozen process cannot answer; once it goes on, the scrape is answered, and the next one is good."""
    name = cluster.names[0]
    where = address(cluster, name)
    cluster.pause(name)
    began = time.monotonic()
    child = subprocess.Popen(
        [sys.executable, "-c", f"import urllib.request as r; r.urlopen('http://{where}/metrics', timeout=20)"],
        stderr=subprocess.DEVNULL,
    )
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(1.0)
    finally:
        cluster.resume(name)
    child.wait(20)
    assert time.monotonic() - began < 20
    assert scrape(where)[0] == 200


def test_stats_of_all_nodes_are_shown_without_a_port(cluster: Playground) -> None:
    """`kvctl stats` asks over gRPC."""
    done = subprocess.run(
        [sys.executable, "-m", "kvctl", "stats", "-e", cluster.uri.removeprefix("kv://")],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1].split() == ["METRIC", "N1", "N2", "N3"]
    assert lines[2].split() == ["state", "ACTIVE", "ACTIVE", "ACTIVE"]


def test_metrics_port_that_is_taken_keeps_the_node_from_starting(tmp_path: Path) -> None:
    """With a message that names the setting, as for the port for gRPC."""
    with harness.playground(nodes=1, shards=1, settings={"metrics.listen": "127.0.0.1:0"}, directory=tmp_path / "a") as first:
        taken = address(first, "n1")
        second = harness.create(tmp_path / "b", 1, 1, {"metrics.listen": taken})
        with pytest.raises(PlaygroundError) as failed:
            second.up()
        assert f"cannot listen on {taken}: somebody does already" in failed.value.log_tail
        assert "change metrics.listen" in failed.value.log_tail


def test_node_without_metrics_listen_serves_none(tmp_path: Path) -> None:
    """Off by default: its log names no address."""
    with harness.playground(nodes=1, shards=1, directory=tmp_path) as cluster:
        line = json.loads(harness.await_log(cluster, "n1", '"event":"serving"'))
        assert "metrics" not in line
