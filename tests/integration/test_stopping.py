"""SIGTERM ends a node in less than 5 s with exit code 0, whatever its clients and peers do; and every call is answered."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from kvapi.v1 import cluster_pb2, kv_pb2
from kvctl.playground import Playground
from tests.integration import gaps, harness
from tests.integration.neighbours import Neighbours
from tests.wire import frames as h2

STOP_S_MAX = 5.0
VICTIM, OTHER = "n2", "n3"
WATCHERS = 10
SERVING, NOT_SERVING = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse.NOT_SERVING


@asynccontextmanager
async def victim(cluster: Playground) -> AsyncIterator[subprocess.Popen[bytes]]:
    """A node of the cluster as a child of this process, whose exit code can be seen; it leads a part of the shards again."""
    await asyncio.to_thread(cluster.stop, VICTIM)
    node = cluster.node(VICTIM)
    command = [sys.executable, "-m", "kvnode", "run", "--config", str(node.config_path)]
    with node.log_path.open("ab") as log:
        daemon = await asyncio.to_thread(subprocess.Popen, command, cwd=node.data_path.parent, stdout=log, stderr=log)
    try:
        async with harness.connect_node(node.address) as stubs:

            async def leads() -> bool:
                answer = await stubs.cluster.Status(cluster_pb2.StatusRequest(), timeout=1)
                return any(shard.role == kv_pb2.ROLE_LEADER for shard in answer.shards)

            await harness.until_async(leads, 20, f"{VICTIM} leading a shard again")
        yield daemon
    finally:
        daemon.kill()
        daemon.wait()


async def watch(channel: grpc.aio.Channel) -> tuple[list[int], str]:
    """What a watcher of the node's health is told, and how that ends."""
    told: list[int] = []
    try:
        async for response in health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest()):
            told.append(response.status)
    except grpc.aio.AioRpcError as error:
        return told, error.details() or ""
    return told, "the end"


async def reflect(channel: grpc.aio.Channel) -> Any:
    """How a reflection stream ends that asks one question and waits for another idea."""
    call: Any = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo()  # type: ignore[no-untyped-call]
    await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
    await call.read()
    return await call.read()


def never_reads(address: str) -> Iterator[socket.socket]:
    """Connections of a caller who asks for much and takes no byte: of health, before a word of it could be sent, too."""
    host, _, port = address.rpartition(":")
    asked = h2.message(kv_pb2.RangeRequest(prefix=b"gaps/", limit=1000).SerializeToString())
    for _ in range(3):
        stuck = socket.create_connection((host, int(port)), 5)
        stuck.sendall(h2.PREFACE + h2.settings({h2.INITIAL_WINDOW_SIZE: 0}))
        for stream in range(1, 40, 2):
            path, body = ("/grpc.health.v1.Health/Watch", h2.message()) if stream == 1 else ("/kvapi.v1.KV/Range", asked)
            stuck.sendall(h2.request(stream, path) + h2.data(stream, body, end=True))
        yield stuck


def last_events(cluster: Playground) -> dict[str, Any]:
    """The last line of the victim's log."""
    line: dict[str, Any] = json.loads(cluster.node(VICTIM).log_path.read_text().splitlines()[-1])
    return line


@pytest.mark.parametrize("peers", ["well", "frozen"])
async def test_node_stops_in_time_under_heavy_load_with_open_streams_and_callers_that_never_read(peers: str) -> None:
    """64 writers; watchers hear NOT_SERVING before their streams end; nobody's write fails, also where a peer has just frozen,
    so that there is no majority without the node that stops: what it could not answer is asked again of others."""
    with Neighbours(), harness.playground(settings={"election.rebalance_after_ms": 500}) as cluster:
        async with victim(cluster) as daemon, harness.connect(cluster, timeout_s=30) as client, AsyncExitStack() as stack:
            load = await stack.enter_async_context(gaps.Load(client, cluster.shards, {"put": 64, "eventual": 2}, pause_s=0.0))
            address = cluster.node(VICTIM).address
            stubs = [await stack.enter_async_context(harness.connect_node(address)) for _ in range(WATCHERS)]
            watching = [asyncio.create_task(watch(one.channel)) for one in stubs]
            reflecting = asyncio.create_task(reflect(stubs[0].channel))
            await asyncio.sleep(1.0)
            for stuck in never_reads(address):
                stack.enter_context(closing(stuck))
            if peers == "frozen":
                await asyncio.to_thread(cluster.pause, OTHER)
            await asyncio.sleep(0.2)
            began = time.monotonic()
            daemon.terminate()
            code = await asyncio.to_thread(daemon.wait, 30)
            took = time.monotonic() - began
            if peers == "frozen":
                await asyncio.to_thread(cluster.resume, OTHER)
            assert await reflecting is grpc.aio.EOF
            assert [await one for one in watching] == [([SERVING, NOT_SERVING], "the node stops")] * WATCHERS
        assert code == 0
        assert took < STOP_S_MAX
        assert last_events(cluster)["event"] == "stopped"
        assert not load.record.failed, gaps.table(load.record.failed[:10], load.record, began)
        assert len(load.record.writes) > 500
