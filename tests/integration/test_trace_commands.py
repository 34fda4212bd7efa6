"""Traces of real processes, read by `kvctl trace` and `kvctl latency`: complete, explained, alike from files and live."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor

import kvclient
from kvapi.v1 import message_pb2
from kvclient import Key, Put
from kvclient.otlp_json import JsonLinesExporter
from kvctl.admin import Admin
from kvctl.faults import FaultClient, disk_fault
from kvctl.playground import Playground
from kvctl.traces.critical_path import critical_path
from kvctl.traces.read import Reading, read_files
from kvctl.traces.store import TraceStore
from kvctl.traces.tree import coverage
from tests.integration import harness

COVERED_MIN = 0.95
"""Of the time of each operation, by its stages: what the project promises."""
ROUNDS = 30


@pytest.fixture(scope="module")
def cluster() -> Iterator[Playground]:
    """Three nodes that trace every request into a playground's files."""
    with harness.playground(settings={"tracing.sample_ratio": 1.0, "faults.enabled": True}) as made:
        yield made


@asynccontextmanager
async def traced_client(cluster: Playground, file: Path) -> AsyncIterator[kvclient.AsyncClient]:
    """A client whose spans are in a file afterwards."""
    provider = TracerProvider(resource=Resource({"service.name": "shop", "service.instance.id": "shop-1"}))
    provider.add_span_processor(BatchSpanProcessor(JsonLinesExporter(file)))
    try:
        async with kvclient.connect(
            f"{cluster.uri}?timeout=20&transport={harness.TRANSPORT}", tracer_provider=provider
        ) as client:
            yield client
    finally:
        provider.shutdown()


def kvctl(cluster: Playground, *arguments: str) -> Any:
    """What the program prints with -o json, in a process of its own."""
    command = [sys.executable, "-m", "kvctl", *arguments, "-o", "json", "-e", ",".join(cluster.endpoints), "-t", "30"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def complete(cluster: Playground, client_file: Path) -> TraceStore:
    """All spans, once the nodes have written those of every trace that the client has; they do so a second later."""

    def read() -> TraceStore | None:
        store = TraceStore()
        store.add(read_files([cluster.directory, client_file], Reading()))
        unserved = """select count(*) as number from requests where by_client and error = '' and node = ''"""
        if store.query(unserved)[0]["number"] == 0:
            return store
        store.__exit__(None, None, None)
        return None

    found = harness.until(read, what="the nodes' part of every trace")
    assert found is not None
    return found


async def test_traces_of_all_operations_are_explained_by_their_stages(cluster: Playground, tmp_path: Path) -> None:
    """At least 95 % of the time of each operation, in the client and on every node; critical paths sum to the whole."""
    file = tmp_path / "client.jsonl"
    async with traced_client(cluster, file) as client:
        for number in range(ROUNDS):
            await client.put(f"traces/{number}", "x")
            await client.get(f"traces/{number}")
            await client.get(f"traces/{number}", consistency="eventual")
            await client.put(f"traces/e{number}", "x", consistency="eventual", acks=1 + number % 2)
            await client.delete(f"traces/{number}")
            await client.txn().if_(Key(f"traces/{number}").value != "1").then(Put("traces/t", "0"), Put("traces/u", "1")).run()
        await asyncio.gather(*(client.put(f"traces/b{number}", "x") for number in range(ROUNDS)))
        batch = client.batch()
        for number in range(ROUNDS):
            batch.put(f"traces/b{number}", "y")
        await batch.run()
        assert len([item async for item in client.range(prefix="traces/b")]) == ROUNDS
    with complete(cluster, file) as store:
        covered = [one for trace in store.traces() for one in coverage(trace)]
        kinds = {(one.node.span.operation, one.node.stage) for one in covered}
        operations = ("put", "get", "delete", "txn", "batch", "range")
        assert {(operation, view) for operation in operations for view in ("client", "server")} <= kinds
        worst = min(covered, key=lambda one: one.share)
        assert worst.share >= COVERED_MIN, f"{worst.share:.1%} of {worst.node.span.operation}, trace {worst.node.span.trace_id}"
        for trace in store.traces():
            for request in trace.requests():
                assert sum(step.self_ns for step in critical_path(request)) == request.duration_ns
        for stage in ("network", "fsync", "batch"):  # what tools derive is there, too
            assert store.query("select count(*) as number from steps where stage = ? and ns > 0", [stage])[0]["number"] > 0


async def test_traces_and_latency_of_live_nodes_agree_with_their_files(cluster: Playground, tmp_path: Path) -> None:
    """What nodes tell, and what they have written, are the same requests; histograms count each of them."""
    before = _count(kvctl(cluster, "latency", "--operation", "put"))
    async with traced_client(cluster, tmp_path / "client.jsonl") as client:
        for number in range(ROUNDS):
            await client.put(f"live/{number}", "x")
    complete(cluster, tmp_path / "client.jsonl").__exit__(None, None, None)
    assert _count(kvctl(cluster, "latency", "--operation", "put")) - before >= ROUNDS
    live = {one["trace_id"] for one in kvctl(cluster, "trace", "list", "--limit", "100000")["requests"]}
    everything = kvctl(cluster, "trace", "list", str(cluster.directory), "--limit", "100000")["requests"]
    mine = kvctl(cluster, "trace", "list", str(tmp_path), "--limit", "100000")["requests"]
    assert len(mine) == ROUNDS
    assert {one["trace_id"] for one in mine} <= live
    assert live <= {one["trace_id"] for one in everything}
    drawn = kvctl(cluster, "trace", "show", mine[0]["trace_id"][:16], str(cluster.directory), str(tmp_path))
    assert {"Put", "client.call", "log_write", "fsync", "network"} <= {span["name"] for span in drawn["spans"]}
    exact = kvctl(cluster, "latency", str(tmp_path), "--no-stages")["series"]
    assert [(one["stage"], one["count"]) for one in exact] == [("client", ROUNDS)]


def _count(answer: Any) -> int:
    """Of whole strong puts."""
    return sum(one["count"] for one in answer["series"] if one["stage"] == "" and one["consistency"] == "strong")


async def test_trace_of_a_write_that_waited_for_a_slow_follower_names_it_and_why(cluster: Playground, tmp_path: Path) -> None:
    """One follower is FAILED, the other's disk is slow: the explanation says both, from the nodes' own records."""
    keys = (f"slow/{number}".encode() for number in range(1000))
    key = next(key for key in keys if harness.leader_name(cluster, key) == "n1")
    file = tmp_path / "client.jsonl"
    try:
        cluster.kill("n3")
        harness.until(lambda: _sees_failed(cluster, "n1", "n3"), what="n3 FAILED in the eyes of n1")
        async with traced_client(cluster, file) as client:
            await client.put(key, "before")
            with FaultClient() as faults:
                faults.inject(cluster.node("n2").address, disk_fault(delay_ms=150), for_s=60)
                for number in range(5):
                    await client.put(key, f"{number}")
                faults.heal(cluster.node("n2").address)
        complete(cluster, file).__exit__(None, None, None)
        sources = (str(cluster.directory), str(file))
        answer = kvctl(cluster, "trace", "explain", *sources, "--slowest", "1", "--where", "by_client")
    finally:
        harness.heal(cluster)
    (found,) = answer["explanations"]
    assert found["parts"][0]["node"] == "n2"
    assert found["parts"][0]["stage"] in ("fsync", "log_write", "log_queue")
    assert "n3 was FAILED, so n2 was needed for the quorum" in found["causes"]


def _sees_failed(cluster: Playground, observer: str, name: str) -> bool:
    with Admin([cluster.node(observer).address], 5.0) as admin:
        states = {member.name: member.state for member in admin.members()[1].members}
    return states[name] == message_pb2.NODE_STATE_FAILED
