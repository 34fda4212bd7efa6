"""Outgoing messages that get lost or come late, as injected, on virtual time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

import pytest

from kvapi.v1 import election_pb2, failure_detection_pb2, fault_pb2, kv_pb2, replication_pb2
from kvnode.errors import Conflict
from kvnode.faults.links import GIVEN_UP_AFTER, Lanes, Links
from kvnode.faults.transport import FaultyTransport
from kvnode.runtime.transport import PeerUnreachable
from tests.sim.loop import SimulatedLoop, run

OUT, IN, BOTH = fault_pb2.LINK_DIRECTION_OUT, fault_pb2.LINK_DIRECTION_IN, fault_pb2.LINK_DIRECTION_BOTH
Make = Callable[[FaultyTransport], Awaitable[Any]]


class Peers:
    """The transport below: every peer answers at once, and remembers what came when."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.came: list[tuple[str, Any, float]] = []
        self.timeouts: list[float] = []
        self.error: Exception | None = None

    async def call(self, to: str, request: Any, timeout: float) -> Any:
        """One request."""
        self.came.append((to, request, self._loop.time()))
        self.timeouts.append(timeout)
        await asyncio.sleep(0)
        if self.error:
            raise self.error
        return f"{to} answers"

    async def forward(self, to: str, request: Any, timeout: float, hops: int) -> Any:
        """A client's request."""
        return await self.call(to, request, timeout)

    async def install_snapshot(self, to: str, requests: Iterable[Any], timeout: float) -> Any:
        """A snapshot, a part a second."""
        for request in requests:
            await self.call(to, request, timeout)
            await asyncio.sleep(1)
        return f"{to} answers"

    async def close(self) -> None:
        """Nothing is open."""


def world(loop: SimulatedLoop, *faults: fault_pb2.LinkFault) -> tuple[FaultyTransport, Peers, Links]:
    """A node's transport with these faults."""
    links, peers = Links(loop, loop.random("links")), Peers(loop)
    links.set({str(number): fault for number, fault in enumerate(faults)})
    return FaultyTransport(peers, links), peers, links


def beat(number: int = 0) -> failure_detection_pb2.HeartbeatRequest:
    """A heartbeat with a number."""
    return failure_detection_pb2.HeartbeatRequest(round=number)


CALLS: list[Any] = [
    pytest.param(lambda transport: transport.call("n2", beat(), 2.0), id="stream"),
    pytest.param(lambda transport: transport.call("n2", election_pb2.RequestVoteRequest(), 2.0), id="unary"),
    pytest.param(lambda transport: transport.forward("n2", kv_pb2.PutRequest(), 2.0, 1), id="forward"),
    pytest.param(
        lambda transport: transport.install_snapshot("n2", [replication_pb2.InstallSnapshotRequest()], 2.0), id="snapshot"
    ),
]


@pytest.mark.parametrize("make", CALLS)
def test_call_over_a_cut_link_is_never_sent_and_ends_at_its_timeout(make: Make) -> None:
    """Streams, unary calls, forwarded requests and snapshots alike; another peer's link is left alone."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, _ = world(loop, fault_pb2.LinkFault(peer="n2", direction=OUT, loss=1))
        with pytest.raises(PeerUnreachable) as caught:
            await make(transport)
        assert loop.time() == 2.0
        assert (caught.value.refused, caught.value.lost, caught.value.repeated) == (False, False, False)
        assert peers.came == []
        assert await transport.call("n3", beat(), 2.0) == "n3 answers"
        assert loop.time() == 2.0

    run(main, 1)


@pytest.mark.parametrize("make", CALLS)
def test_answer_over_a_cut_link_is_lost_after_the_peer_has_acted(make: Make) -> None:
    """What comes from the peer is cut: the request arrives, and nobody here learns of it."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, _ = world(loop, fault_pb2.LinkFault(direction=IN, loss=1))
        with pytest.raises(PeerUnreachable):
            await make(transport)
        assert loop.time() == 2.0
        assert len(peers.came) == 1

    run(main, 1)


@pytest.mark.parametrize("make", CALLS)
def test_call_without_a_fault_passes_unchanged_and_at_once(make: Make) -> None:
    """A fault of another link, and one of the other direction that delays answers only, do not touch the request."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, _ = world(loop, fault_pb2.LinkFault(peer="n3", loss=1))
        assert await make(transport) == "n2 answers"
        assert peers.came[0][2] == 0.0
        assert peers.timeouts == [2.0]

    run(main, 1)


def test_refusal_that_is_lost_on_its_way_back_is_not_known() -> None:
    """A peer's error is an answer too: it must not pass a cut."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, links = world(loop, fault_pb2.LinkFault(loss=1, direction=IN))
        peers.error = Conflict("told so")
        with pytest.raises(PeerUnreachable):
            await transport.call("n2", beat(), 1.0)
        links.set({})
        with pytest.raises(Conflict):
            await transport.call("n2", beat(), 1.0)

    run(main, 1)


def test_late_call_is_sent_with_what_is_left_of_its_time() -> None:
    """Delays of several faults add up, the answer's too; a call never takes longer than its time-out."""

    async def main(loop: SimulatedLoop) -> None:
        faults = [fault_pb2.LinkFault(delay_ms=300), fault_pb2.LinkFault(peer="n2", direction=OUT, delay_ms=200)]
        transport, peers, _ = world(loop, *faults)
        await transport.call("n2", beat(), 2.0)
        assert peers.came[0][2] == pytest.approx(0.5)
        assert peers.timeouts == [pytest.approx(1.5)]
        assert loop.time() == pytest.approx(0.8)
        with pytest.raises(PeerUnreachable):  # later than its time-out: never sent
            await transport.call("n2", beat(), 0.4)
        assert loop.time() == pytest.approx(1.2)
        with pytest.raises(PeerUnreachable):  # sent, and the answer is too late
            await transport.call("n2", beat(), 0.6)
        assert loop.time() == pytest.approx(1.8)
        assert len(peers.came) == 2

    run(main, 1)


@pytest.mark.parametrize("kind", [failure_detection_pb2.HeartbeatRequest, replication_pb2.AppendRequest])
def test_delays_of_different_length_keep_the_order_of_a_stream(kind: Any) -> None:
    """Jitter of fifty times the distance between two calls: heartbeats and appends to one peer arrive in the order of the
    calls; votes, which promise nothing, do not."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, _ = world(loop, fault_pb2.LinkFault(direction=OUT, delay_ms=10, jitter_ms=50))
        tasks, sent = [], []
        for number in range(200):
            for request in (kind(), election_pb2.RequestVoteRequest()):
                request.message.id = number
                sent.append(request)
                tasks.append(loop.create_task(transport.call("n2", request, 5.0)))
            await asyncio.sleep(0.001)
        await asyncio.gather(*tasks)
        ids = [request.message.id for _, request, _ in peers.came if isinstance(request, kind)]
        votes = [request.message.id for _, request, _ in peers.came if not isinstance(request, kind)]
        assert ids == list(range(200))
        assert sorted(votes) == ids
        assert votes != ids

    run(main, 1)


def test_call_given_up_in_the_middle_of_a_lane_lets_nobody_overtake() -> None:
    """Of three the middle one leaves while the first is still held: the last one waits for the first."""

    async def main(loop: SimulatedLoop) -> None:
        lanes = Lanes(loop)
        first, middle, last = (lanes.enter("lane") for _ in range(3))
        assert lanes.is_free("another")
        middle.leave()
        waiting = loop.create_task(last.come())
        await asyncio.sleep(1)
        assert not waiting.done()
        first.leave()
        await waiting
        assert not lanes.is_free("lane")
        last.leave()
        await asyncio.sleep(0)
        assert lanes.is_free("lane")

    run(main, 1)


def test_messages_held_by_a_fault_leave_in_order_when_it_ends() -> None:
    """A minute's delay is over as soon as it is healed; what is sent right after does not overtake what was held."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, links = world(loop, fault_pb2.LinkFault(peer="n2", delay_ms=60_000, jitter_ms=60_000))
        tasks = [loop.create_task(transport.call("n2", beat(number), 300.0)) for number in range(5)]
        await asyncio.sleep(1)
        assert peers.came == []
        tasks.append(loop.create_task(transport.call("n2", beat(5), 300.0)))  # (begins before those that are held wake up)
        links.set({})
        await asyncio.gather(*tasks)
        assert [request.round for _, request, _ in peers.came] == [0, 1, 2, 3, 4, 5]
        assert loop.time() == 1.0

    run(main, 1)


def test_loss_of_a_fifth_loses_about_a_fifth() -> None:
    """Each message is drawn by itself."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, _ = world(loop, fault_pb2.LinkFault(loss=0.2, direction=OUT))
        calls = [transport.call("n2", beat(), 1.0) for _ in range(1000)]
        answers = await asyncio.gather(*calls, return_exceptions=True)
        assert 720 < len(peers.came) < 880
        assert sum(isinstance(answer, PeerUnreachable) for answer in answers) == 1000 - len(peers.came)

    run(main, 1)


def test_lost_snapshot_is_given_up_with_its_connection() -> None:
    """A snapshot may take ten minutes; a silent connection is noticed earlier, so that the next attempt comes soon."""

    async def main(loop: SimulatedLoop) -> None:
        transport, _, _ = world(loop, fault_pb2.LinkFault(loss=1))
        with pytest.raises(PeerUnreachable):
            await transport.install_snapshot("n2", [replication_pb2.InstallSnapshotRequest()], 600.0)
        assert loop.time() == GIVEN_UP_AFTER

    run(main, 1)


def test_snapshot_on_its_way_when_the_link_is_cut_arrives_in_part_only() -> None:
    """A cut ends the stream where it is; the sender hears nothing."""

    async def main(loop: SimulatedLoop) -> None:
        transport, peers, links = world(loop)
        parts = [replication_pb2.InstallSnapshotRequest(offset=number) for number in range(10)]
        task = loop.create_task(transport.install_snapshot("n2", parts, 600.0))
        await asyncio.sleep(3.5)
        links.set({"1": fault_pb2.LinkFault(peer="n2", loss=1, direction=OUT)})
        with pytest.raises(PeerUnreachable):
            await task
        assert [request.offset for _, request, _ in peers.came] == [0, 1, 2, 3]

    run(main, 1)
