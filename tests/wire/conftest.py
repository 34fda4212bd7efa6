"""The fixtures of the conformance suite: see pairs.py for how to use them."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio

from tests.wire.pairs import PAIRS, WIRES, Pair, Rig, Wire, names, opened

HERE = f"{Path(__file__).parent}{os.sep}"
SECONDS_MAX = 30
"""A test of this suite that takes longer hangs."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if str(item.path).startswith(HERE) and item.get_closest_marker("timeout") is None:
            item.add_marker(pytest.mark.timeout(SECONDS_MAX))


@pytest.fixture(params=PAIRS, ids=names(PAIRS))
def pair(request: pytest.FixtureRequest) -> Pair:
    """Each pairing of a server with a client."""
    chosen: Pair = request.param
    return chosen


@pytest.fixture(params=WIRES, ids=names(WIRES))
def server_wire(request: pytest.FixtureRequest) -> Wire:
    """Each transport that serves, for tests which speak to it by raw frames or with a foreign client."""
    chosen: Wire = request.param
    return chosen


@pytest.fixture(params=WIRES, ids=names(WIRES))
def client_wire(request: pytest.FixtureRequest) -> Wire:
    """Each transport that calls, for tests which answer it by raw frames or with a foreign server."""
    chosen: Wire = request.param
    return chosen


@pytest_asyncio.fixture
async def rig(pair: Pair) -> AsyncIterator[Rig]:
    """Servers and channels of each pairing, closed after the test."""
    async with opened(pair) as made:
        yield made
