"""Tokens: an outcome reaches whoever still waits."""

from __future__ import annotations

import asyncio

import pytest

from kvnode.errors import NoLeader
from kvnode.runtime.tokens import Collector, deliver


async def test_outcome_delivered_is_a_result_or_an_error() -> None:
    """Errors are raised in the waiting task."""
    loop = asyncio.get_running_loop()
    good, bad = loop.create_future(), loop.create_future()
    deliver(good, 5)
    deliver(bad, NoLeader("none"))
    assert await good == 5
    with pytest.raises(NoLeader):
        await bad


async def test_outcome_for_nobody_is_dropped() -> None:
    """No token, a token that has its outcome, one whose caller went away."""
    future: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    deliver(None, 1)
    deliver(future, 1)
    deliver(future, 2)
    assert await future == 1
    gone: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    gone.cancel()
    deliver(gone, 1)
    assert gone.cancelled()


async def test_collector_of_several_results_gives_them_together() -> None:
    """In the order of their arrival; an empty one at once."""
    loop = asyncio.get_running_loop()
    collector: Collector[int] = Collector(2, loop)
    deliver(collector, 1)
    assert not collector.done()
    deliver(collector, 2)
    assert await collector.future == [1, 2]
    empty: Collector[int] = Collector(0, loop)
    assert await empty.future == []


async def test_collector_fails_with_the_first_failure() -> None:
    """Later results find nobody."""
    collector: Collector[int] = Collector(3, asyncio.get_running_loop())
    deliver(collector, NoLeader("none"))
    deliver(collector, 1)
    with pytest.raises(NoLeader):
        await collector.future
