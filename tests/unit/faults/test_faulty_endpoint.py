"""Incoming messages that get lost or come late, as injected, on virtual time."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from typing import Any

import pytest

from kvapi.v1 import election_pb2, failure_detection_pb2, fault_pb2, replication_pb2
from kvnode.errors import Unavailable
from kvnode.faults.endpoint import FaultyEndpoint
from kvnode.faults.links import GIVEN_UP_AFTER, Links
from tests.sim.loop import SWEEP_TASKS, SimulatedLoop, run

OUT, IN = fault_pb2.LINK_DIRECTION_OUT, fault_pb2.LINK_DIRECTION_IN


class Node:
    """The endpoint behind: remembers what it handled."""

    def __init__(self) -> None:
        self.handled: list[Any] = []

    async def handle(self, request: Any) -> Any:
        """One request."""
        self.handled.append(request)
        return "answer"

    async def install_snapshot(self, requests: AsyncIterator[Any]) -> Any:
        """All parts."""
        async for request in requests:
            self.handled.append(request)
        return "answer"


def world(loop: SimulatedLoop, *faults: fault_pb2.LinkFault) -> tuple[FaultyEndpoint, Node, Links]:
    """A node's endpoint with these faults before it."""
    links, node = Links(loop, loop.random("links")), Node()
    links.set({str(number): fault for number, fault in enumerate(faults)})
    return FaultyEndpoint(node, links), node, links


def of(sender: str, request: Any, number: int = 0) -> Any:
    """The request, as that peer sends it."""
    request.message.from_node, request.message.id = sender, number
    return request


def test_request_over_a_cut_link_is_not_handled_and_not_answered() -> None:
    """Until the fault ends: then the stream that it was on need not stall any longer. Other peers' requests are handled."""

    async def main(loop: SimulatedLoop) -> None:
        endpoint, node, links = world(loop, fault_pb2.LinkFault(peer="n2", direction=IN, loss=1))
        lost = loop.create_task(endpoint.handle(of("n2", replication_pb2.AppendRequest())))
        assert await endpoint.handle(of("n3", replication_pb2.AppendRequest())) == "answer"
        await asyncio.sleep(5)
        assert not lost.done()
        links.set({})
        with pytest.raises(Unavailable, match="n2"):
            await lost
        assert [request.message.from_node for request in node.handled] == ["n3"]
        assert await endpoint.handle(of("n2", replication_pb2.AppendRequest())) == "answer"

    run(main, 1)


def test_lost_heartbeat_gets_no_word_when_the_fault_ends() -> None:
    """A refusal, or a stream that is reset, would tell its sender something about this node: it hears nothing at all."""

    async def main(loop: SimulatedLoop) -> None:
        endpoint, _, links = world(loop, fault_pb2.LinkFault(direction=IN, loss=1))
        lost = loop.create_task(endpoint.handle(of("n2", failure_detection_pb2.HeartbeatRequest())))
        await asyncio.sleep(1)
        links.set({})
        await asyncio.sleep(GIVEN_UP_AFTER - 2)
        assert not lost.done()
        lost.cancel()

    run(main, 1)


def test_lost_request_that_nobody_waits_for_leaves_no_error_behind() -> None:
    """The task of a request whose stream is gone fails unseen; that is no defect to report."""

    async def main(loop: SimulatedLoop) -> None:
        endpoint, _, _ = world(loop, fault_pb2.LinkFault(loss=1))
        task = loop.create_task(endpoint.handle(of("n2", replication_pb2.AppendRequest())))
        await asyncio.sleep(GIVEN_UP_AFTER + 1)
        assert task.done()
        del task
        for _ in range(SWEEP_TASKS + 1):  # the loop lets go of finished tasks now and then
            await loop.create_task(asyncio.sleep(0))
        gc.collect()

    run(main, 1)  # (strict: fails for errors that nobody looked at)


def test_cut_of_what_leaves_lets_requests_in() -> None:
    """Directions are told apart."""

    async def main(loop: SimulatedLoop) -> None:
        endpoint, _, _ = world(loop, fault_pb2.LinkFault(direction=OUT, loss=1))
        assert await endpoint.handle(of("n2", replication_pb2.AppendRequest())) == "answer"

    run(main, 1)


def test_late_requests_of_one_stream_are_handled_in_order() -> None:
    """Whatever each is delayed; and those that come after the fault's end stay behind those that it holds."""

    async def main(loop: SimulatedLoop) -> None:
        endpoint, node, links = world(loop, fault_pb2.LinkFault(direction=IN, delay_ms=5, jitter_ms=100))
        tasks = []
        for number in range(100):
            for request in (replication_pb2.AppendRequest(), election_pb2.RequestVoteRequest()):
                tasks.append(loop.create_task(endpoint.handle(of("n2", request, number))))
            await asyncio.sleep(0.001)
        links.set({})
        tasks.append(loop.create_task(endpoint.handle(of("n2", replication_pb2.AppendRequest(), 100))))
        await asyncio.gather(*tasks)
        appends = [request.message.id for request in node.handled if isinstance(request, replication_pb2.AppendRequest)]
        votes = [request.message.id for request in node.handled if not isinstance(request, replication_pb2.AppendRequest)]
        assert appends == list(range(101))
        assert votes != sorted(votes)

    run(main, 1)


def test_snapshot_that_arrives_when_the_link_is_cut_comes_in_part_only() -> None:
    """The parts after the cut are lost, and the transfer fails."""

    async def main(loop: SimulatedLoop) -> None:
        endpoint, node, links = world(loop, fault_pb2.LinkFault(direction=IN, delay_ms=300))

        async def parts() -> AsyncIterator[Any]:
            for number in range(10):
                yield of("n2", replication_pb2.InstallSnapshotRequest(), number)
                await asyncio.sleep(1)

        task = loop.create_task(endpoint.install_snapshot(parts()))
        await asyncio.sleep(3)
        links.set({"cut": fault_pb2.LinkFault(peer="n2", loss=1)})
        with pytest.raises(Unavailable):
            await task
        assert [request.message.id for request in node.handled] == [0, 1, 2]

    run(main, 1)
