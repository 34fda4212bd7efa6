"""Injected faults under real processes: what they break, and that it is whole again when they end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from kvapi.v1 import cluster_pb2, fault_pb2, fault_pb2_grpc, kv_pb2
from kvclient.errors import NoSpace
from kvctl.failures import Failure
from kvctl.faults import DISABLED, FaultClient, clock_fault, cut, disk_fault, link_fault
from kvctl.playground import Playground
from tests.integration import harness

KEY = b"game{day}"


@pytest.fixture(scope="module")
def faulty_cluster() -> Iterator[Playground]:
    """Three nodes that serve faults."""
    with harness.playground(settings={"faults.enabled": True}) as cluster:
        yield cluster


@pytest.fixture
def cluster(faulty_cluster: Playground, faults: FaultClient) -> Playground:
    """The module's cluster, healthy and without faults."""
    faulty_cluster.up()
    for node in faulty_cluster.nodes:
        faults.heal(node.address)
    harness.heal(faulty_cluster)
    return faulty_cluster


@pytest.fixture
def faults() -> Iterator[FaultClient]:
    """What the tests inject with."""
    with FaultClient() as client:
        yield client


def _kvctl(cluster: Playground, *arguments: str) -> str:
    """Run kvctl as a program of its own; what it printed."""
    command = [sys.executable, "-m", "kvctl", *arguments, "-e", ",".join(cluster.endpoints)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


async def _leads_nothing(cluster: Playground, name: str) -> bool:
    """Whether a node says so; one that does not answer in time says nothing."""
    status = (await asyncio.to_thread(harness.statuses, cluster)).get(name)
    return status is not None and all(shard.role != kv_pb2.ROLE_LEADER for shard in status.shards)


async def _put_at(cluster: Playground, name: str, value: bytes, timeout: float = 2.0, **more: Any) -> kv_pb2.PutResponse:
    """A write through one node."""
    async with harness.connect_node(cluster.node(name).address) as node:
        answer: kv_pb2.PutResponse = await node.kv.Put(kv_pb2.PutRequest(key=KEY, value=value, **more), timeout=timeout)
        return answer


async def _get_at(cluster: Playground, name: str, timeout: float = 2.0, **more: Any) -> bytes:
    async with harness.connect_node(cluster.node(name).address) as node:
        answer = await node.kv.Get(kv_pb2.GetRequest(key=KEY, **more), timeout=timeout)
        return bytes(answer.value)


async def test_leader_partitioned_away_is_replaced_and_follows_again_when_healed(cluster: Playground) -> None:
    """kvctl fault partition: the others elect and write, the old leader serves no strong request, its clients' eventual writes
    are kept; after kvctl fault heal it follows, and everything agrees."""
    lone = await asyncio.to_thread(harness.leader_name, cluster, KEY)
    others = [name for name in cluster.names if name != lone]
    await _put_at(cluster, lone, b"before")
    said = await asyncio.to_thread(_kvctl, cluster, "fault", "partition", lone)
    assert said.count(": cut") == 4, said
    await harness.until_async(lambda: _put_at(cluster, others[0], b"during"), what="a write without the old leader")
    await harness.until_async(lambda: _leads_nothing(cluster, lone), what="the end of its leaderships")
    for call in (_get_at(cluster, lone), _put_at(cluster, lone, b"lost")):
        with pytest.raises(grpc.RpcError):
            await call
    assert await _get_at(cluster, others[1]) == b"during"
    async with harness.connect_node(cluster.node(lone).address) as node:
        alone = kv_pb2.PutRequest(key=b"alone", value=b"1", consistency=kv_pb2.CONSISTENCY_EVENTUAL)
        await node.kv.Put(alone, timeout=2)
    healed = await asyncio.to_thread(_kvctl, cluster, "fault", "heal")
    assert healed.count("healed") == 4, healed
    await harness.until_async(lambda: _get_at(cluster, lone), what="a strong read at the healed node")
    assert await _get_at(cluster, lone) in (b"during", b"lost")  # (its own attempt may have been under way)
    await asyncio.to_thread(cluster.wait_caught_up, lone)
    await asyncio.to_thread(harness.await_agreement, cluster)
    async with harness.connect(cluster) as client:
        await harness.until_async(lambda: client.get("alone"), what="the eventual write that it took alone")


async def test_node_that_hears_nobody_steps_down_while_its_requests_arrive(cluster: Playground, faults: FaultClient) -> None:
    """One way only, injected at one node: what comes to it is lost, answers too. It cannot lead; the fault ends by itself."""
    lone = await asyncio.to_thread(harness.leader_name, cluster, KEY)
    address, other = cluster.node(lone).address, next(name for name in cluster.names if name != lone)
    begun = faults.inject(address, cut(direction="in"), for_s=6)
    assert begun.duration_ms == 6000
    await harness.until_async(lambda: _leads_nothing(cluster, lone), what="the end of its leaderships")
    await harness.until_async(lambda: _put_at(cluster, other, b"one way"), what="a write without it")
    await harness.until_async(lambda: asyncio.to_thread(lambda: not faults.active(address)), what="the fault's own end")
    await asyncio.to_thread(cluster.wait_caught_up, lone)
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_slow_links_make_writes_slow_and_lose_none(cluster: Playground, faults: FaultClient) -> None:
    """Every link delayed, with jitter, and a fifth of what leaves one node lost: a write takes as long, and what is
    acknowledged stays."""
    await _put_at(cluster, "n1", b"fast")
    for node in cluster.nodes:
        faults.inject(node.address, link_fault(delay_ms=100, jitter_ms=50, direction="out"))
    leader = await asyncio.to_thread(harness.leader_name, cluster, KEY)
    began = time.monotonic()
    await harness.until_async(lambda: _put_at(cluster, leader, b"slow"), what="a slow write")
    assert time.monotonic() - began >= 0.1
    faults.inject(cluster.node(leader).address, link_fault(loss=0.2, direction="out"))
    async with harness.connect(cluster) as client, harness.Writers(client, "slow", strong=6, eventual=2) as writers:
        await writers.acked_after(time.monotonic(), 20)
        await asyncio.sleep(3)
    for node in cluster.nodes:
        faults.heal(node.address)
    async with harness.connect(cluster) as client:
        await harness.verify(client, writers.ledger, "slow")
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_full_disks_refuse_writes_serve_reads_and_take_writes_when_healed(
    cluster: Playground, faults: FaultClient
) -> None:
    """NO_SPACE at once, for strong and eventual writes; status says so."""
    async with harness.connect(cluster) as client:
        await client.put(KEY, "before")
        for node in cluster.nodes:
            faults.inject(node.address, disk_fault(full=True))
        for consistency in ("strong", "eventual"):
            with pytest.raises(NoSpace):
                await client.put(KEY, "refused", consistency=consistency)
        found = await client.get(KEY)
        assert found is not None
        assert found.text == "before"
        for status in harness.statuses(cluster).values():
            assert (status.out_of_space, status.free_bytes) == (True, 0)
        for node in cluster.nodes:
            faults.heal(node.address)
        await harness.until_async(lambda: client.put(KEY, "after"), what="a write after the space came back")
        assert not any(status.out_of_space for status in harness.statuses(cluster).values())


async def test_slow_disks_make_writes_slow_and_leave_the_event_loop_alone(cluster: Playground, faults: FaultClient) -> None:
    """A write waits for the log's write and its sync; meanwhile the nodes answer other calls at once."""
    async with harness.connect(cluster) as client:
        await client.put(KEY, "fast")
        for node in cluster.nodes:
            faults.inject(node.address, disk_fault(delay_ms=200))
        began = time.monotonic()
        writing = asyncio.create_task(client.put(KEY, "slow", timeout=10))
        longest_s = 0.0
        async with harness.connect_node(cluster.node("n1").address) as node:
            while not writing.done():
                asked = time.monotonic()
                await node.cluster.Topology(cluster_pb2.TopologyRequest(), timeout=2)
                longest_s = max(longest_s, time.monotonic() - asked)
                await asyncio.sleep(0.01)
        await writing
        assert time.monotonic() - began >= 0.4
        assert longest_s < 0.2
        for healed in cluster.nodes:
            faults.heal(healed.address)


async def test_failed_sync_stops_the_node_and_nothing_is_lost(cluster: Playground, faults: FaultClient) -> None:
    """As after a real I/O error: the node ends with a message, the others go on, and the node comes back with what it had."""
    async with harness.connect(cluster) as client, harness.Writers(client, "fail", strong=4) as writers:
        await writers.acked_after(time.monotonic(), 10)
        victim = await asyncio.to_thread(harness.leader_name, cluster, writers.BUSY)
        faults.inject(cluster.node(victim).address, disk_fault(fail=True))
        failed_at = time.monotonic()
        await asyncio.to_thread(
            harness.until, lambda: next(node for node in cluster.nodes if node.name == victim).state == "died", 15, "its end"
        )
        await writers.acked_after(failed_at, 15)
    line = await asyncio.to_thread(harness.await_log, cluster, victim, "fatal")
    assert "an injected fault" in line
    await asyncio.to_thread(cluster.start, victim)
    assert faults.active(cluster.node(victim).address) == []
    async with harness.connect(cluster) as client:
        await harness.verify(client, writers.ledger, "fail")
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_wrong_clock_shows_in_the_nodes_stamps(cluster: Playground, faults: FaultClient) -> None:
    """Five seconds ahead at one node: its hybrid logical clock follows, the others' do not, and it never goes back."""
    faults.inject(cluster.node("n2").address, clock_fault(offset_ms=5000))

    async def ahead_ms(name: str) -> float:
        async with harness.connect_node(cluster.node(name).address) as node:
            answer = await node.cluster.Topology(cluster_pb2.TopologyRequest(), timeout=2)
            return (answer.hlc >> 16) - time.time() * 1000  # type: ignore[no-any-return]

    await harness.until_async(lambda: _is_ahead(ahead_ms), what="a clock that is ahead")
    for name in ("n1", "n3"):
        assert await ahead_ms(name) < 1000
    faults.heal(cluster.node("n2").address)
    assert await ahead_ms("n2") > 2000
    await harness.until_async(lambda: _put_at(cluster, "n2", b"after"), what="a write afterwards")


async def _is_ahead(ahead_ms: Any) -> bool:
    return bool(await ahead_ms("n2") > 4000)


def test_fault_out_of_bounds_is_refused_with_its_field(cluster: Playground, faults: FaultClient) -> None:
    """The server's own check, as a client sees it; and each injection is a warning in the node's log."""
    address = cluster.node("n1").address
    with pytest.raises(Failure) as caught:
        faults.inject(address, cut("n4"))
    assert (caught.value.reason, caught.value.metadata["field"]) == ("INVALID_ARGUMENT", "fault.link.peer")
    faults.inject(address, link_fault("n2", delay_ms=1))
    faults.heal(address)
    warnings = [line["event"] for line in harness.log_lines(cluster, "n1") if line["level"] == "warning"]
    assert any(event.startswith("FAULT INJECTION IS ENABLED") for event in warnings)
    assert warnings.index("fault injected") < len(warnings) - 1 - warnings[::-1].index("fault ended")


async def test_node_that_was_not_told_to_serves_no_faults() -> None:
    """By default the service does not exist: UNIMPLEMENTED, and reflection does not list it."""
    with harness.playground(nodes=1, shards=1) as cluster:
        address = cluster.node("n1").address
        async with harness.connect_node(address) as node:
            stub: Any = fault_pb2_grpc.FaultStub(node.channel)
            with pytest.raises(grpc.RpcError) as caught:
                await stub.InjectFault(fault_pb2.InjectFaultRequest(fault=cut()), timeout=2)
            assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
        with grpc.insecure_channel(address) as channel:
            services = await asyncio.to_thread(ProtoReflectionDescriptorDatabase(channel).get_services)
        assert "kvapi.v1.Cluster" in services
        assert "kvapi.v1.Fault" not in services
        with FaultClient() as client, pytest.raises(Failure) as failed:
            await asyncio.to_thread(client.active, address)
        assert failed.value.reason == DISABLED
        assert "FAULT INJECTION" not in cluster.node("n1").log_path.read_text()
