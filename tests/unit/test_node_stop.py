"""The end of a node that serves nobody any more: what is done in time, and what is left to the next start."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from kvnode.node import Node
from kvnode.shard.state_machine import DATA
from tests.unit.observe.whole_nodes import SHARDS, WholeNodes, on_whole_nodes


async def with_writes(nodes: WholeNodes) -> Node:
    """A node that has applied writes and flushed none of them."""
    for number in range(20):
        await nodes.put(b"%d" % number)
    n1 = nodes.nodes["n1"]
    applied = {shard: nodes.leader(shard).replicas[shard].applied for shard in range(SHARDS)}
    await nodes.until(lambda: all(n1.replicas[shard].applied >= index for shard, index in applied.items()))
    return n1


def rows(node: Node) -> int:
    """How many keys the store has."""
    return sum(len(list(node.store.scan(shard, DATA, bytes([DATA[0] + 1])))) for shard in range(SHARDS))


async def stop(nodes: WholeNodes, node: Node, within: float) -> tuple[bool, float, list[str]]:
    """What it answers, how long it took, and its warnings."""
    began = nodes.loop.time()
    with capture_logs() as logs:
        done = await node.stop(within)
    took = nodes.loop.time() - began
    return done, took, [entry["event"] for entry in logs if entry["log_level"] == "warning"]


@on_whole_nodes
async def test_stop_flushes_and_closes(nodes: WholeNodes) -> None:
    """All that was applied is in the store, and the next life's clock goes on here."""
    n1 = await with_writes(nodes)
    done, took, warnings = await stop(nodes, n1, 2.0)
    assert (done, warnings) == (True, [])
    assert took < 0.5
    assert rows(n1) == 20
    assert all(replica.flushed == replica.applied for replica in n1.replicas.values())
    del nodes.nodes["n1"]


@pytest.mark.parametrize(
    ("which", "seconds", "left_out"),
    [("log_worker", 0.7, ["the log takes no more", "clock"]), ("store_worker", 0.5, ["not flushed"])],
)
def test_stop_with_a_disk_that_hangs_ends_in_time_and_says_what_is_left_out(
    which: str, seconds: float, left_out: list[str]
) -> None:
    """The flush is a convenience: the log has everything that was acknowledged. Where only the store hangs, there is time left
    for the log's last word."""

    @on_whole_nodes
    async def check(nodes: WholeNodes) -> None:
        n1 = await with_writes(nodes)
        worker: Any = getattr(n1.ports, which)
        worker.hang()
        await nodes.until(lambda: which == "store_worker" or n1.driver.disk_wait > 0)
        done, took, warnings = await stop(nodes, n1, 0.7)
        assert not done
        assert took == pytest.approx(seconds, abs=0.05)
        assert all(part in warning for part, warning in zip(left_out, warnings, strict=True))
        assert rows(n1) == 0
        del nodes.nodes["n1"]

    check()


@on_whole_nodes
async def test_stop_with_connections_that_do_not_close_is_in_good_order_all_the_same(nodes: WholeNodes) -> None:
    """All is flushed and closed that matters; what is left ends with the process."""
    n1 = await with_writes(nodes)
    ended = asyncio.Event()
    nodes.cut_off.add("n1")  # its server has ended
    n1.transport.close = ended.wait  # type: ignore[method-assign, assignment]
    done, took, warnings = await stop(nodes, n1, 0.7)
    assert done
    assert took == pytest.approx(0.7, abs=0.05)
    assert ["connections to peers" in warning for warning in warnings] == [True]
    ended.set()
    nodes.cut_off.clear()
    del nodes.nodes["n1"]
