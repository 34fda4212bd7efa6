"""Fixtures of the SDK's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest_asyncio

import kvclient
from tests.unit.kvclient.fake_cluster import FakeCluster


@pytest_asyncio.fixture
async def cluster() -> AsyncIterator[FakeCluster]:
    """Three nodes, four shards."""
    async with FakeCluster() as running:
        yield running


@pytest_asyncio.fixture
async def kv(cluster: FakeCluster) -> AsyncIterator[kvclient.AsyncClient]:
    """A client of `cluster` that has its map already."""
    async with kvclient.connect(cluster.uri) as client:
        yield client
