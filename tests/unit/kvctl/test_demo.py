"""The demo's parts that need no daemons: the open loop, the ledger, the gap between acknowledgements, the story."""

from __future__ import annotations

import asyncio
import io

import pytest
from rich.console import Console

import kvclient
from kvctl.demo_load import EVENTUAL_PUT, STRONG_GET, STRONG_PUT, Latencies, Load, longest_gap_s
from kvctl.demo_story import Story, ms, span
from tests.unit.kvclient.fake_cluster import FakeCluster, Refusal


async def run_load(cluster: FakeCluster, operations: int = 60, timeout_s: float = 5.0) -> Load:
    """So many operations, as fast as they come due."""
    async with kvclient.connect(f"{cluster.uri}?timeout={timeout_s}") as client:
        load = Load(client, rate=2000.0)
        asyncio.get_running_loop().call_later(operations / load.rate, load.stop)
        await load.run()
    return load


def test_load_records_every_operation_and_every_promise() -> None:
    """What was issued is what the latencies count, and every acknowledged put is in the ledger and in the cluster."""

    async def scenario() -> None:
        async with FakeCluster() as cluster:
            load = await run_load(cluster)
            assert sum(row.operations for row in load.latencies.rows()) == load.issued
            assert not load.ledger.failures
            assert not load.ledger.stale_strong_reads
            stored = {key: record.value for shard in cluster.shards for key, record in shard.tables[-1].items()}
            assert stored == load.ledger.strong | load.ledger.eventual
            busy = {ack.shard for ack in load.ledger.acks if ack.busy}
            assert len(busy) == 1
            assert len(load.ledger.acks) == len(load.ledger.strong)

    asyncio.run(scenario())


def test_load_notices_a_strong_read_that_misses_an_acknowledged_write() -> None:
    """A cluster that forgets is caught by the load itself."""

    async def scenario() -> None:
        async with FakeCluster() as cluster, kvclient.connect(cluster.uri) as client:
            load = Load(client, rate=1000.0)
            await load._put(STRONG_PUT, 1)
            await load._get(STRONG_GET)
            assert load.ledger.stale_strong_reads == []
            for shard in cluster.shards:
                shard.tables.append({})
            await load._get(STRONG_GET)
            assert load.ledger.stale_strong_reads == [b"load/strong/0000001"]

    asyncio.run(scenario())


def test_load_keeps_puts_of_unknown_outcome_apart() -> None:
    """A put whose fate nobody knows is neither acknowledged nor lost."""

    async def scenario() -> None:
        import grpc

        async with FakeCluster(nodes=1) as cluster:
            refusal = Refusal(grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN")
            cluster.nodes["n1"].refusals.extend([(lambda kind, key: kind == "put", refusal)] * 1_000)
            load = await run_load(cluster, timeout_s=0.6)
            failed = {(row.operation, row.consistency): row.failed for row in load.latencies.rows()}
            assert load.ledger.failures["OUTCOME_UNKNOWN"] == sum(failed.values())
            assert len(load.ledger.unknown) == failed[STRONG_PUT] > 0
            assert not load.ledger.strong

    asyncio.run(scenario())


def test_latencies_say_what_was_recorded() -> None:
    """Counts, average, extremes and percentiles, in milliseconds."""
    latencies = Latencies()
    for milliseconds in range(1, 101):
        latencies.record(EVENTUAL_PUT, milliseconds / 1e3, ok=milliseconds != 7)
    (row,) = latencies.rows()
    assert (row.operation, row.consistency, row.operations, row.failed) == ("put", "eventual", 100, 1)
    assert row.average_ms == pytest.approx(50.5)
    assert [row.min_ms, row.p50_ms, row.p95_ms, row.p99_ms, row.max_ms] == pytest.approx([1, 50, 95, 99, 100], rel=1e-2)


@pytest.mark.parametrize(
    ("times", "expected"),
    [
        ([0.0, 1.0, 2.0, 3.0], 1.0),
        ([0.0, 0.9, 2.4, 3.0], 1.5),
        ([0.0, 0.5], 2.5),
        ([], 2.0),
        ([1.5, 2.9], 1.4),
        ([0.0, 2.95, 9.0], 2.95),
    ],
)
def test_longest_gap_touches_the_window(times: list[float], expected: float) -> None:
    """A stall that began before the window, or that has not ended with it, counts."""
    assert longest_gap_s(times, 1.0, 3.0) == pytest.approx(expected)


def test_story_without_a_terminal_is_plain_text() -> None:
    """No escape codes where nobody can see colours; a claim that fails is named at the end."""
    text = io.StringIO()
    story = Story(Console(file=text, width=100))
    story.title("Title", "subtitle")
    story.chapter("A chapter")
    story.fact("it took [bold]5 ms[/]")
    with story.waiting("…"):
        story.claim(True, "this holds")
    assert story.held
    story.claim(False, "that [bold]does not[/]")
    story.end()
    lines = text.getvalue().splitlines()
    assert "\x1b" not in text.getvalue()
    assert not story.held
    assert [line.strip() for line in lines[-2:]] == ["1 of 2 claims did not hold:", "✗ that does not"]
    assert any("✓ this holds" in line for line in lines)


def test_durations_read_well() -> None:
    """Three digits are enough, and seconds are seconds."""
    assert [ms(0.8512), ms(12.34), ms(432.1), ms(1240.0)] == ["0.851 ms", "12.3 ms", "432 ms", "1.24 s"]
    assert span(0.0021) == "2.1 ms"
