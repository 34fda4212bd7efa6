"""`kvctl bench` as a program, at a cluster of one real node: its processes, its results, its end."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader

import kvclient
from kvctl.playground import Playground
from tests.integration import harness


@pytest.fixture(scope="module")
def node() -> Iterator[Playground]:
    """One node with four shards."""
    with harness.playground(nodes=1, shards=4) as cluster:
        yield cluster


def start(cluster: Playground, *arguments: str) -> subprocess.Popen[str]:
    """`kvctl bench`, in a session of its own, as a terminal has one."""
    command = [sys.executable, "-m", "kvctl", "bench", "-e", ",".join(cluster.endpoints), "--transport", harness.TRANSPORT]
    return subprocess.Popen(
        [*command, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def finish(program: subprocess.Popen[str], code: int = 0) -> str:
    """What it printed, when it has ended with `code`."""
    out, err = program.communicate(timeout=60)
    assert program.returncode == code, err
    return out


def is_any_left(group: int) -> bool:
    """Whether a process group has a process."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def counts_in(path: Path) -> Counter[str]:
    """How many latencies an HdrHistogram log holds, by tag."""
    reader, counts = HistogramLogReader(str(path), HdrHistogram(1, 3_600_000_000_000, 3)), Counter[str]()
    while (histogram := reader.get_next_interval_histogram()) is not None:
        counts[histogram.get_tag()] += histogram.get_total_count()
    reader.close()
    return counts


def test_bench_of_two_processes_agrees_with_its_log_and_leaves_no_key(node: Playground, tmp_path: Path) -> None:
    """Two seconds of every kind of operation: JSON, time line and HdrHistogram log tell of the same operations; half of
    them have spans; the keys are gone afterwards."""
    log, spans = tmp_path / "bench.hlog", tmp_path / "spans.jsonl"
    mix = "read=50,write=20,delete=5,cas=10,txn=10,range=5"
    load = ("--rate", "200", "--duration", "2s", "--warmup", "200ms", "--processes", "2", "--concurrency", "64", "--mix", mix)
    data = ("--keys", "300", "--distribution", "zipf", "--value-size", "10-1000", "--clean")
    results = ("--hdr", str(log), "--interval", "500ms", "--timeline", "-o", "json", "--traces", str(spans))
    out = finish(start(node, *load, *data, *results, "--sample-ratio", "0.5"))
    found: dict[str, Any] = json.loads(out)
    total, kinds = found["total"], found["operations"]
    assert list(kinds) == ["read", "write", "delete", "cas", "txn", "range"]
    assert set(total["errors"]) <= {"COMPARE_FAILED", "CONFLICT"}  # two writers of one hot key, as it should be
    assert total["outcome_unknown"] == 0
    assert 200 < total["count"] + total["not_started"] < 600  # 400 are due, by Poisson's chance; 10 of its deviations
    assert total["count"] == sum(kind["count"] for kind in kinds.values())
    expected = {name: kind["count"] + kind["not_started"] for name, kind in kinds.items()}
    assert counts_in(log) == {name: count for name, count in expected.items() if count}
    assert [line["at_s"] for line in found["timeline"]] == [0.0, 0.5, 1.0, 1.5]
    assert found["measured_s"] == 2.0
    assert (len(found["generator"]["cpu_shares"]), found["interrupted"]) == (2, False)
    assert 0 < kinds["read"]["latency_ms"]["min"] <= kinds["read"]["latency_ms"]["p50"] <= kinds["read"]["latency_ms"]["max"]
    written = [json.loads(line) for line in spans.read_text().splitlines()]
    scopes = [scope for line in written for resource in line["resourceSpans"] for scope in resource["scopeSpans"]]
    names = {span["name"] for scope in scopes for span in scope["spans"]}
    assert {"Get", "Put", "Txn"} <= names
    with kvclient.connect_sync(node.uri) as client:
        assert client.count(prefix="bench/") == 0


def test_bench_of_a_number_of_operations_does_exactly_so_many(node: Playground) -> None:
    """A closed loop; the keys that it has written stay, and are those that it says."""
    found = json.loads(finish(start(node, "--operations", "101", "--concurrency", "8", "--keys", "50", "-o", "json")))
    assert found["total"]["count"] == 101
    assert found["total"]["absent"] == 0
    assert (found["latency_from"], found["intended_per_second"]) == ("actual start", None)
    with kvclient.connect_sync(node.uri) as client:
        assert [item.key for item in client.range(prefix="bench/")] == [b"bench/%08d" % number for number in range(50)]


def test_bench_interrupted_by_ctrl_c_prints_what_it_measured(node: Playground, tmp_path: Path) -> None:
    """It ends long before its time, with a table, the exit code of an interrupted command, and no process left."""
    log = tmp_path / "bench.hlog"
    program = start(node, "--duration", "10min", "--warmup", "0", "--keys", "20", "--hdr", str(log), "--interval", "100ms")
    harness.until(lambda: log.exists() and "Tag=" in log.read_text(), what="a measured interval")
    began = time.monotonic()
    os.killpg(program.pid, signal.SIGINT)  # as a terminal does: the whole group
    out = finish(program, 130)
    assert time.monotonic() - began < 30
    assert "Ctrl-C ended it after" in out
    rows = {line.split()[0]: line.split() for line in out.splitlines() if line.startswith(("read", "write", "all"))}
    assert int(rows["all"][1].replace(",", "")) == sum(counts_in(log).values()) > 0
    harness.until(lambda: not is_any_left(program.pid), what="the end of all processes")
