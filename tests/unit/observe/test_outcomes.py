"""How requests that get no answer are counted: by who ended them."""

from __future__ import annotations

import asyncio
from typing import Any

from kvapi.v1 import kv_pb2
from tests.unit.observe.whole_nodes import WholeNodes, on_whole_nodes

DEADLINE_S = 0.4
"""Before the leader gives up, since nobody follows it any more."""
KEY = b"a"
STRONG = kv_pb2.CONSISTENCY_STRONG


class Call:
    """What a servicer is given."""

    def invocation_metadata(self) -> tuple[()]:
        return ()

    def peer(self) -> str:
        return "ipv4:127.0.0.1:5555"

    def time_remaining(self) -> float:
        return DEADLINE_S


async def outcomes(nodes: WholeNodes, method: str, request: Any, cancelled_after: float) -> dict[tuple[str, int, str], int]:
    """Of a request to KEY's leader that cannot be answered, since nobody can be reached, and is cancelled."""
    node = nodes.leader(nodes.nodes["n1"].shard_map.shard_of(KEY))
    nodes.cut_off |= set(nodes.nodes)
    serving = asyncio.ensure_future(getattr(node.kv, method)(request, Call()))
    await asyncio.sleep(cancelled_after)
    serving.cancel()
    await asyncio.wait([serving])
    assert serving.cancelled()
    return node.observer.recorder.outcomes


@on_whole_nodes
async def test_cancellation_at_the_deadline_is_a_deadline_that_expired(nodes: WholeNodes) -> None:
    """The transport's timer, and the caller's, ring some milliseconds before or after the moment that the handler knows."""
    found = await outcomes(nodes, "Put", kv_pb2.PutRequest(key=KEY, value=b"b"), DEADLINE_S - 0.02)
    assert found == {("put", STRONG, "DEADLINE_EXCEEDED"): 1}


@on_whole_nodes
async def test_cancellation_long_before_the_deadline_is_the_callers(nodes: WholeNodes) -> None:
    """Who gives up is no failure of the cluster."""
    found = await outcomes(nodes, "Put", kv_pb2.PutRequest(key=KEY, value=b"b"), DEADLINE_S / 2)
    assert found == {("put", STRONG, "CANCELLED"): 1}


@on_whole_nodes
async def test_batch_that_is_cancelled_counts_its_operations(nodes: WholeNodes) -> None:
    """The SDK sends nearly everything in batches: a timeout of one is a timeout of each operation that had no answer."""
    puts = [kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=KEY, value=b"b")) for _ in range(3)]
    found = await outcomes(nodes, "Batch", kv_pb2.BatchRequest(operations=puts), DEADLINE_S)
    assert found == {("batch", 0, "DEADLINE_EXCEEDED"): 1, ("put", STRONG, "DEADLINE_EXCEEDED"): 3}
