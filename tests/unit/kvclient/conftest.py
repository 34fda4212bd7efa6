"""Fixtures of the SDK's tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

import kvclient
from kvclient._backend import async_ as backend
from kvclient.transport import TRANSPORTS, insecure_channel
from kvclient.uri import parse_uri
from tests.unit.kvclient.fake_cluster import FakeCluster


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """Three nodes, four shards."""
    async with FakeCluster() as running:
        yield running


@pytest.fixture(params=TRANSPORTS)
def carried_by(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What carries every asyncio client's calls, whatever its address says: either, one after the other."""
    monkeypatch.setattr(backend, "insecure_channel", lambda _, *rest: insecure_channel(request.param, *rest))


class Unadventurous(random.Random):
    """Never explores, always pauses the same."""

    def random(self) -> float:
        """Always the same."""
        return 0.9


@pytest_asyncio.fixture
async def kv(cluster: FakeCluster) -> AsyncIterator[kvclient.AsyncClient]:
    """A client of `cluster` that has its map already, and always takes the nearest node."""
    async with kvclient.AsyncClient(parse_uri(cluster.uri), rng=Unadventurous()) as client:
        yield client
