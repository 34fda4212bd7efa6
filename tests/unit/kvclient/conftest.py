"""Fixtures of the SDK's tests."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator

import pytest_asyncio

import kvclient
from kvclient.uri import parse_uri
from tests.unit.kvclient.fake_cluster import FakeCluster


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """Three nodes, four shards."""
    async with FakeCluster() as running:
        yield running


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
