"""One process of a run, inside the test's own, at a cluster that is honest and in memory."""

from __future__ import annotations

import asyncio
import itertools
import json
from array import array
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kvclient.errors import KvError
from kvctl.bench.plan import KINDS, Plan
from kvctl.bench.precise_loop import precise_loop
from kvctl.bench.samples import Finished, Message, Notes, Progress, Ready, Sample
from kvctl.bench.worker import Go, Stop, Worker, _Flushes, flush_moments
from tests.sim.loop import SimulatedLoop, run
from tests.unit.kvclient.fake_cluster import NO_SPACE, OVERLOADED, FakeCluster
from tests.unit.kvctl.bench.plans import plan


def keys_in(cluster: FakeCluster) -> dict[bytes, bytes]:
    """What the cluster holds."""
    tables = [shard.tables[-1] for shard in cluster.shards]
    return {key: record.value for table in tables for key, record in table.items() if record.value is not None}


async def work(
    planned: Plan, index: int = 0, on_ready: Callable[[int, Worker], None] = lambda number, worker: None
) -> list[Message]:
    """Run a process through all of its phases, each at once; what it said. `on_ready` is told of each phase's beginning."""
    said: list[Message] = []
    loop = asyncio.get_running_loop()

    def hear(message: Message) -> None:
        said.append(message)
        if isinstance(message, Ready):
            worker.on_order(Go(loop.time()))
            on_ready(sum(isinstance(one, Ready) for one in said), worker)

    worker = Worker(planned, 0, hear)
    await worker.run()
    return said


def at(cluster: FakeCluster, **changes: Any) -> Plan:
    """A plan for the cluster."""
    return plan(endpoints=tuple(cluster.uri.removeprefix("kv://").split(",")), **changes)


async def test_worker_loads_measures_and_cleans_up_its_own_keys_only() -> None:
    """Every key is loaded; as many operations are noted as were ordered; afterwards other people's keys are as they were."""
    async with FakeCluster() as cluster:
        loaded: dict[bytes, bytes] = {}

        def on_ready(number: int, worker: Worker) -> None:
            if number == 2:
                loaded.update(keys_in(cluster))

        others = b"benchmark/7", b"bench/other", b"bench/00000100"
        for key in others:
            cluster.shards[0].append(key, b"mine", True)
        said = await work(at(cluster, load=True, clean=True, operations=60), on_ready=on_ready)
        assert {key: len(value) for key, value in loaded.items() if key not in others}.keys() == {
            b"bench/%08d" % number for number in range(100)
        }
        assert all(10 <= len(value) <= 20 for key, value in loaded.items() if key not in others)
        assert keys_in(cluster) == dict.fromkeys(others, b"mine")
    noted = Counter[str]()
    for sample in said:
        if isinstance(sample, Sample):
            noted.update({kind: len(array("Q", found.latencies_us)) for kind, found in sample.kinds.items()})
            assert not any(found.errors or found.absent for found in sample.kinds.values())
    assert noted.total() == 60
    assert sum(message.keys for message in said if isinstance(message, Progress)) == 200
    others_said = [type(message) for message in said if not isinstance(message, Sample | Progress)]
    assert others_said == [Ready, Ready, Finished, Ready, Ready]


@pytest.mark.parametrize("levels", [{}, {"read_consistency": "session", "write_consistency": "eventual", "acks": 2}])
async def test_worker_does_every_kind_of_operation_without_an_error(levels: dict[str, Any]) -> None:
    """Reads, writes, deletions, compare-and-sets, transactions and ranges; strong, and as weak as they can be."""
    async with FakeCluster() as cluster:
        mix = {kind: 1 / len(KINDS) for kind in KINDS}
        said = await work(at(cluster, mix=mix, concurrency=1, operations=120, rate=1e6, load=True, **levels))
    counted, errors = Counter[str](), Counter[str]()
    for sample in said:
        if isinstance(sample, Sample):
            for kind, found in sample.kinds.items():
                counted[kind] += len(array("Q", found.latencies_us))
                errors.update(found.errors)
                assert len(found.services_us) == len(found.latencies_us)
    assert set(counted) == set(KINDS)
    assert not errors


async def test_worker_counts_refusals_as_errors_of_their_operations() -> None:
    """The run goes on."""
    async with FakeCluster(nodes=1) as cluster:
        cluster.nodes["n1"].refusals.extend([(lambda kind, key: kind == "get", OVERLOADED)] * 1_000)
        said = await work(at(cluster, mix={"read": 1.0}, operations=4, timeout_s=0.2))
    errors = Counter[str]()
    for sample in said:
        if isinstance(sample, Sample):
            for found in sample.kinds.values():
                errors.update(found.errors)
    assert errors.total() == 4


async def test_worker_whose_keys_cannot_be_loaded_fails() -> None:
    """A load on keys that are not there would measure something else."""
    async with FakeCluster(nodes=1) as cluster:
        cluster.nodes["n1"].refusals.append((lambda kind, key: kind == "put", NO_SPACE))
        with pytest.raises(KvError, match="NO_SPACE"):
            await work(at(cluster, load=True))


async def test_worker_told_to_stop_in_the_warm_up_measures_nothing() -> None:
    """It goes through its phases at once; what is to be cleaned up is."""
    async with FakeCluster() as cluster:

        def on_ready(number: int, worker: Worker) -> None:
            if number == 2:
                asyncio.get_running_loop().call_later(0.02, worker.on_order, Stop())

        said = await work(at(cluster, load=True, clean=True, warmup_s=3_600.0), on_ready=on_ready)
        assert keys_in(cluster) == {}
    (end,) = [message for message in said if isinstance(message, Finished)]
    assert end.ended_s == 0.0
    assert not any(isinstance(message, Sample) for message in said)


@pytest.mark.parametrize(("ratio", "spans"), [(1.0, 30), (0.0, 0)])
async def test_worker_writes_spans_of_measured_operations_alone(tmp_path: Path, ratio: float, spans: int) -> None:
    """Neither loading nor the warm-up is traced; what is chosen is written, with the service's name."""
    path = tmp_path / "spans.jsonl"
    async with FakeCluster() as cluster:
        planned = at(cluster, mix={"read": 1.0}, operations=30, load=True, warmup_s=0.05, traces=str(path), sample_ratio=ratio)
        await work(planned)
    resources = [resource for line in path.read_text().splitlines() for resource in json.loads(line)["resourceSpans"]]
    names = [span["name"] for resource in resources for scope in resource["scopeSpans"] for span in scope["spans"]]
    assert names.count("Get") == spans
    assert {name for name in names if not name.startswith("client.")} <= {"Get", "Batch"}
    name = {"key": "service.name", "value": {"stringValue": "kvctl bench"}}
    assert all(name in resource["resource"]["attributes"] for resource in resources)


def test_flush_moments_include_the_ends_of_intervals_and_of_the_run() -> None:
    """Each with the interval that it belongs to."""
    moments = list(itertools.islice(flush_moments(100.0, 1.0, 101.3), 7))
    assert moments == [(100.25, 0), (100.5, 0), (100.75, 0), (101.0, 0), (101.25, 1), (101.3, 1), (101.5, 1)]
    assert list(itertools.islice(flush_moments(0.0, 0.1, 0.2), 3)) == [(0.1, 0), (0.2, 1), (pytest.approx(0.3), 2)]


def test_flushes_after_the_measured_time_say_so() -> None:
    """What ends then is in the percentiles, and not in the rate."""

    async def main(loop: SimulatedLoop) -> list[tuple[int, bool]]:
        said: list[Any] = []
        flushes = _Flushes(0.0, 1.0, 1.5, Notes(["read"]), said.append)
        await asyncio.sleep(1.9)
        flushes.end()
        await asyncio.sleep(10.0)
        return [(sample.interval, sample.in_time) for sample in said]

    assert run(main, 1) == [*[(0, True)] * 4, *[(1, True)] * 2, (1, False), (1, False)]


def test_precise_loop_wakes_up_punctually() -> None:
    """Of many short sleeps the best are late by less than a tenth of what asyncio's own loop has to add (up to 1 ms)."""

    async def main() -> list[float]:
        loop, late = asyncio.get_running_loop(), []
        for _ in range(50):
            due, woken = loop.time() + 0.0003, loop.create_future()
            loop.call_at(due, woken.set_result, None)
            await woken
            late.append(loop.time() - due)
        return late

    loop = precise_loop()
    try:
        assert min(loop.run_until_complete(main())) < 100e-6
    finally:
        loop.close()
