"""What carries a client's calls."""

from __future__ import annotations

import asyncio

import pytest

import kvclient
from kvclient import errors
from kvclient.transport import TRANSPORTS
from tests.unit.kvclient.fake_cluster import FakeCluster

NAMES = {"kvwire": "kvwire", "grpcio": "grpc-c"}
"""What each transport calls itself, in the user agent."""


def carriers(cluster: FakeCluster) -> set[str]:
    """What the nodes saw."""
    agents = [metadata["user-agent"] for node in cluster.nodes.values() for metadata in node.metadata]
    return {transport for agent in agents for transport, name in NAMES.items() if name in agent}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_connect_transport_in_the_address_carries_all_calls(cluster: FakeCluster, transport: str) -> None:
    """The first question for the map as well as operations and batches."""
    async with kvclient.connect(f"{cluster.uri}?transport={transport}") as kv:
        await kv.put("k", "v")
        assert not [one for one in await kv.batch().get("k").get("j").run() if isinstance(one, errors.KvError)]
    assert carriers(cluster) == {transport}


async def test_connect_sync_whatever_the_address_says_is_carried_by_grpcio() -> None:
    """One address serves both kinds of clients."""

    def put(uri: str) -> None:
        with kvclient.connect_sync(f"{uri}?transport=kvwire") as kv:
            kv.put("k", "v")

    async with FakeCluster() as cluster:
        await asyncio.to_thread(put, cluster.uri)
        assert carriers(cluster) == {"grpcio"}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_put_nobody_listening_certainly_did_not_happen(transport: str) -> None:
    """The transport's own word that it could not connect makes a failed write definite."""
    async with FakeCluster(nodes=2) as cluster, kvclient.connect(f"{cluster.uri}?transport={transport}") as kv:
        await kv.put("k", "1", consistency="eventual")
        for node in cluster.nodes.values():
            await node.stop()
        for connection in kv._connections.values():
            while connection._channel.get_state().name == "READY":
                await asyncio.sleep(0)
        with pytest.raises(errors.Unavailable) as caught:
            await kv.put("k", "2", consistency="eventual", timeout=0.5)
        assert caught.value.definite
        assert caught.value.reason == "CONNECT_FAILED"
