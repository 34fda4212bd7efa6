"""Nodes that die and freeze while clients write: what was acknowledged stays, and the cluster goes on.

The load is bounded; the bounds on time are generous, since a test machine may be busy. `benchmarks/failover.py` measures.
"""

from __future__ import annotations

import asyncio
import random
import time
from dataclasses import dataclass, field

import grpc
import pytest

import kvclient
from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2
from kvclient import OperationState, SupersededReason
from kvctl.playground import Playground
from tests.integration import harness

FAILOVER_S_MAX = 5.0


async def test_leader_killed_under_load_loses_no_acknowledged_write(cluster: Playground) -> None:
    """Three times kill -9 of the leader of the busy shard: strong writes work again soon, the node comes back and catches up,
    and in the end every acknowledged write is there and all replicas agree."""
    async with harness.connect(cluster) as client:
        async with harness.Writers(client, "kill", strong=8, eventual=2) as writers:
            await writers.acked_after(time.monotonic(), 10)
            for _ in range(3):
                victim = await asyncio.to_thread(harness.leader_name, cluster, writers.BUSY)
                killed_at = time.monotonic()
                await asyncio.to_thread(cluster.kill, victim)
                outage_s = await writers.acked_after(killed_at, 15)
                assert outage_s < FAILOVER_S_MAX
                await asyncio.sleep(0.3)
                await asyncio.to_thread(cluster.start, victim)
                await asyncio.to_thread(cluster.wait_caught_up, victim)
        assert len(writers.ledger.strong) > 100
        await harness.verify(client, writers.ledger, "kill")
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_all_nodes_killed_at_once_under_load_lose_nothing_acknowledged(cluster: Playground) -> None:
    """Every node dies at the same moment, and starts again: strong writes are there, eventual ones too, or superseded."""
    async with harness.connect(cluster) as client, harness.Writers(client, "all", strong=8, eventual=6) as writers:
        await writers.acked_after(time.monotonic(), 10)
        await asyncio.sleep(1.0)
        await asyncio.gather(*(asyncio.to_thread(cluster.kill, name) for name in cluster.names))
        # The writers have something to fail at, then they stop: what counts is what was acknowledged.
        writers._over = True
    ledger = writers.ledger
    assert len(ledger.strong) > 50
    assert len(ledger.eventual) > 50
    await asyncio.to_thread(cluster.up)
    async with harness.connect(cluster) as client:
        await harness.verify(client, ledger, "all")
        fates = await asyncio.gather(*(client.operation(one) for _, one in list(ledger.eventual.values())[-50:]))
        allowed = (OperationState.APPLIED, OperationState.SUPERSEDED, OperationState.SETTLED)
        assert {fate.state for fate in fates} <= set(allowed)
    await asyncio.to_thread(harness.await_agreement, cluster)


@dataclass
class CounterHistory:
    """A counter that only grows by compare-and-set, and what everybody saw of it."""

    acked: list[tuple[float, int]] = field(default_factory=list)
    """When an increment was acknowledged, and to what."""
    begun: list[tuple[float, int]] = field(default_factory=list)
    """When an increment to this was first tried."""
    reads: list[tuple[float, float, int, str]] = field(default_factory=list)
    """Began, ended, value, node that was asked."""

    def check(self) -> None:
        """Linearizability of a register that counts: no read misses what was acknowledged, or read, before it began; none
        shows what nobody had begun to write."""
        seen: list[tuple[float, int, str]] = [(at, value, "acknowledged") for at, value in self.acked]
        seen += [(end, value, f"read at {node}") for _, end, value, node in self.reads]
        seen.sort()
        for began, ended, value, node in self.reads:
            for at, before, how in seen:
                if at >= began:
                    break
                assert value >= before, f"strong read at {node} gave {value}, but {before} was {how} {began - at:.3f} s earlier"
            assert value <= max((number for at, number in self.begun if at <= ended), default=0)


async def _count(client: kvclient.AsyncClient, key: str, history: CounterHistory, over: asyncio.Event) -> None:
    value, revision = 0, 0
    while not over.is_set():
        history.begun.append((time.monotonic(), value + 1))
        try:
            result = await client.compare_and_set(key, str(value + 1), revision, timeout=1)
        except kvclient.KvError:
            # It may have happened: only this task writes, so what is there now is the truth.
            await asyncio.sleep(0.05)
            try:
                found = await client.get(key, timeout=1)
            except kvclient.KvError:
                continue
            if found is not None:
                value, revision = int(found.text), found.revision
            continue
        value, revision = value + 1, result.revision
        history.acked.append((time.monotonic(), value))
        await asyncio.sleep(0.005)


async def _read_at(node: harness.NodeStubs, name: str, key: bytes, history: CounterHistory, over: asyncio.Event) -> None:
    async def one() -> None:
        began = time.monotonic()
        try:
            answer = await node.kv.Get(kv_pb2.GetRequest(key=key), timeout=8)
        except grpc.RpcError:
            return
        if answer.found:
            history.reads.append((began, time.monotonic(), int(answer.value), name))

    under_way: list[asyncio.Task[None]] = []
    while not over.is_set():
        # A new one every so often, also while earlier ones hang at a frozen node: those are what it answers first afterwards.
        under_way.append(asyncio.create_task(one()))
        await asyncio.sleep(0.02)
    await asyncio.gather(*under_way)


async def test_frozen_leader_never_serves_a_stale_strong_read(cluster: Playground) -> None:
    """SIGSTOP of a leader for 3 s: others take over; after SIGCONT it rejoins, and not one strong read that any node served
    in all that time, also those that had waited at the frozen one, missed an acknowledged increment."""
    key = b"counter{busy}"
    frozen = harness.leader_name(cluster, key)
    history, over = CounterHistory(), asyncio.Event()
    async with harness.connect(cluster) as client:
        await client.delete(key)
        addresses = {node.name: node.address for node in cluster.nodes}
        async with (
            harness.connect_node(addresses["n1"]) as n1,
            harness.connect_node(addresses["n2"]) as n2,
            harness.connect_node(addresses["n3"]) as n3,
            asyncio.TaskGroup() as tasks,
        ):
            tasks.create_task(_count(client, key.decode(), history, over))
            for name, node in (("n1", n1), ("n2", n2), ("n3", n3)):
                tasks.create_task(_read_at(node, name, key, history, over))
            try:
                await asyncio.sleep(0.7)
                await asyncio.to_thread(cluster.pause, frozen)
                frozen_at = time.monotonic()
                await asyncio.sleep(3.0)
                resumed_at = time.monotonic()
                await asyncio.to_thread(cluster.resume, frozen)
                await asyncio.sleep(1.5)
            finally:
                over.set()
    assert any(frozen_at + 0.5 < at < resumed_at for at, _ in history.acked), "nobody took over while the leader was frozen"
    assert any(began < resumed_at < ended and node == frozen for began, ended, _, node in history.reads)
    assert any(began > resumed_at and node == frozen for began, _, _, node in history.reads), "it did not come back"
    history.check()
    await asyncio.to_thread(cluster.wait_caught_up, frozen)
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_eventual_write_on_a_cut_off_node_converges_or_is_reported_superseded(cluster: Playground) -> None:
    """A node whose peers are dead accepts eventual writes and shows them as tentative; strong writes it refuses. When the
    others are back, a key that nobody else wrote has its value everywhere; on a contested key the strong write stands, and the
    eventual one is reported as superseded: by Operation and by Cluster.Superseded."""
    island, *others = cluster.names
    free, contested = b"island/free", b"island/contested"
    async with harness.connect(cluster) as client, harness.connect_node(cluster.node(island).address) as node:
        await client.put(contested, "before")
        await asyncio.to_thread(cluster.wait_caught_up, island)
        ids: dict[bytes, str] = {}
        try:
            # (Frozen peers would find the island's writes in their sockets when they go on.)
            for name in others:
                await asyncio.to_thread(cluster.kill, name)
            for key in (free, contested):
                put = kv_pb2.PutRequest(key=key, value=b"eventual", consistency=kv_pb2.CONSISTENCY_EVENTUAL)
                answer = await node.kv.Put(put, timeout=5)
                assert answer.acks == 1
                ids[key] = answer.operation_id
                get = kv_pb2.GetRequest(key=key, consistency=kv_pb2.CONSISTENCY_EVENTUAL)
                got = await node.kv.Get(get, timeout=5)
                assert (got.value, got.tentative) == (b"eventual", True)
            with pytest.raises(grpc.RpcError) as refused:
                await node.kv.Put(kv_pb2.PutRequest(key=b"island/strong", value=b"?"), timeout=2)
            codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            assert refused.value.code() in codes  # type: ignore[attr-defined]
            # The island freezes before the others go on: they cannot have its writes when they take the strong one.
            await asyncio.to_thread(cluster.pause, island)
        finally:
            for name in others:
                await asyncio.to_thread(cluster.start, name)
        try:
            strong = await harness.until_async(lambda: client.put(contested, "strong", timeout=10), what="a strong write")
        finally:
            await asyncio.to_thread(cluster.resume, island)

        async def settled() -> bool:
            fates = [await client.operation(one) for one in ids.values()]
            return all(fate.state not in (OperationState.PENDING, OperationState.UNKNOWN) for fate in fates)

        await harness.until_async(settled, what="the fate of both writes")
        fate = await client.operation(ids[free])
        assert fate.state is OperationState.APPLIED
        fate = await client.operation(ids[contested])
        assert fate.state is OperationState.SUPERSEDED
        assert fate.reason is SupersededReason.STRONG_WRITE
        assert fate.superseded_by == strong.revision
        for address in cluster.endpoints:
            async with harness.connect_node(address) as stubs:
                got = await stubs.kv.Get(kv_pb2.GetRequest(key=contested), timeout=10)
                assert got.value == b"strong"
                got = await stubs.kv.Get(kv_pb2.GetRequest(key=free), timeout=10)
                assert got.value == b"eventual"
                reported = await stubs.cluster.Superseded(cluster_pb2.SupersededRequest(), timeout=10)
                assert reported.total >= 1
                mine = [write for write in reported.writes if write.operation_id == ids[contested]]
                assert [(write.key, write.superseded_by) for write in mine] == [(contested, strong.revision)]
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_random_faults_under_load_lose_nothing_acknowledged(cluster: Playground) -> None:
    """A short storm of kills, freezes and stops of single nodes; afterwards everything acknowledged is there."""
    rng = random.Random(7)
    async with harness.connect(cluster) as client:
        async with harness.Writers(client, "storm", strong=6, eventual=4) as writers:
            for _ in range(3):
                name, fault = rng.choice(cluster.names), rng.choice(["kill", "pause", "stop"])
                await asyncio.sleep(rng.uniform(0.1, 0.5))
                await asyncio.to_thread(getattr(cluster, fault), name)
                await asyncio.sleep(rng.uniform(0.1, 1.0))
                await asyncio.to_thread(cluster.resume if fault == "pause" else cluster.start, name)
            await writers.acked_after(time.monotonic(), 15)
        await asyncio.to_thread(harness.heal, cluster)
        await harness.verify(client, writers.ledger, "storm")
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_killed_node_is_recorded_as_failed_and_back_and_needs_no_snapshot(cluster: Playground) -> None:
    """One crash is one failure in the durable record of who changed state, whatever connections that try again say; and a node
    that was away for a moment is fed from the log."""
    seen = {name: len(harness.log_lines(cluster, name)) for name in cluster.names}
    async with harness.connect(cluster) as client, harness.Writers(client, "events", strong=4) as writers:
        await asyncio.to_thread(cluster.kill, "n3")
        await writers.acked_after(time.monotonic(), 10)
        await asyncio.to_thread(cluster.start, "n3")
        await asyncio.to_thread(cluster.wait_caught_up, "n3")
        await asyncio.sleep(1.0)
    for name in ("n1", "n2"):
        lines = harness.log_lines(cluster, name)[seen[name] :]
        failures = [line for line in lines if line.get("now") == "NODE_STATE_FAILED" and line["peer"] == "n3"]
        assert 1 <= len(failures) <= 2, failures
        async with harness.connect_node(cluster.node(name).address) as node:
            events = (await node.cluster.Events(cluster_pb2.EventsRequest(node="n3"), timeout=5)).events
        assert len([event for event in events if event.to == message_pb2.NODE_STATE_FAILED]) >= len(failures)
        assert events[0].to in (message_pb2.NODE_STATE_ACTIVE, message_pb2.NODE_STATE_RECOVERING)
        assert all(event.why and event.at_ms for event in events)
        assert not [line for line in lines if "snapshot" in line["event"]]
