"""Nodes and clients that are carried by different implementations of gRPC are one cluster."""

from __future__ import annotations

import asyncio
import itertools
import re
from collections.abc import Iterator

import pytest

from kvapi.v1 import kv_pb2
from kvclient.transport import TRANSPORTS
from kvctl.playground import Playground
from tests.integration import harness

MIXED = {"n1": "kvwire", "n2": "grpcio", "n3": "kvwire"}
OTHER = {"kvwire": "grpcio", "grpcio": "kvwire"}


def use(cluster: Playground, name: str, transport: str) -> None:
    """What carries a node from its next start on."""
    path = cluster.node(name).config_path
    path.write_text(re.sub(r'(?m)^transport = ".*"$', f'transport = "{transport}"', path.read_text()))


def transports(cluster: Playground) -> dict[str, str]:
    """What the nodes say about it."""
    return {name: answer.transport for name, answer in harness.statuses(cluster).items()}


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Playground]:
    """Two nodes of one kind, and one of the other."""

    def mix(cluster: Playground) -> None:
        for name, transport in MIXED.items():
            use(cluster, name, transport)

    with harness.playground(transport="kvwire", prepare=mix) as cluster:
        yield cluster


async def test_cluster_of_mixed_transports_takes_every_request_at_every_node(cluster: Playground) -> None:
    """Whoever asks, whoever is asked, and whoever leads: requests of a few bytes and of a megabyte are forwarded and
    replicated, and all replicas agree."""
    assert set(transports(cluster).values()) == set(TRANSPORTS)
    for transport, address in itertools.product(TRANSPORTS, cluster.endpoints):
        async with harness.connect_node(address, transport) as node:
            for number in range(8):
                key, value = f"mixed/{number}".encode(), f"{transport} {address}".encode()
                value += bytes(2**20 - 64 if number == 0 else 0)
                await node.kv.Put(kv_pb2.PutRequest(key=key, value=value), timeout=5)
                assert (await node.kv.Get(kv_pb2.GetRequest(key=key), timeout=5)).value == value
            eventual = kv_pb2.PutRequest(key=b"mixed/e", value=b"e", consistency=kv_pb2.CONSISTENCY_EVENTUAL, acks=3)
            assert (await node.kv.Put(eventual, timeout=5)).acks == 3
    harness.await_agreement(cluster)


async def test_nodes_that_change_their_transport_one_by_one_lose_nothing(cluster: Playground) -> None:
    """Switching is a rolling restart, under load from clients of both kinds: what was acknowledged is there."""
    before = transports(cluster)
    async with (
        harness.connect(cluster, transport="kvwire") as first,
        harness.connect(cluster, transport="grpcio") as second,
        harness.Writers(first, "kvwire", strong=3, eventual=2) as writes,
        harness.Writers(second, "grpcio", strong=3, eventual=2) as more,
    ):
        for name in cluster.names:
            await asyncio.to_thread(cluster.stop, name)
            use(cluster, name, OTHER[before[name]])
            await asyncio.to_thread(cluster.start, name)
            await asyncio.to_thread(cluster.wait_caught_up, name, harness.CONVERGENCE_TIMEOUT_S)
    assert transports(cluster) == {name: OTHER[transport] for name, transport in before.items()}
    for name, each in (("kvwire", writes), ("grpcio", more)):
        assert len(each.ledger.strong) > 50
        async with harness.connect(cluster, transport=name) as client:
            await harness.verify(client, each.ledger, name)
    harness.await_agreement(cluster)
