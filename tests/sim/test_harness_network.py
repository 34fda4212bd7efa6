"""The simulated network: delivery, every fault it can inject, and that a call always ends."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from google.protobuf.message import Message

from kvapi.v1.election_pb2 import TimeoutNowRequest, TimeoutNowResponse
from kvapi.v1.failure_detection_pb2 import HeartbeatRequest, HeartbeatResponse
from kvapi.v1.replication_pb2 import InstallSnapshotRequest, InstallSnapshotResponse
from kvnode.errors import OutcomeUnknown
from kvnode.runtime.transport import PeerUnreachable

from .loop import Group, SimulatedLoop, run
from .network import Endpoint, LinkQuality, Network


class Peer:
    """A node that counts what reaches it and answers after `work_s`."""

    def __init__(self, network: Network, loop: SimulatedLoop, name: str, work_s: float = 0.0) -> None:
        self.requests: list[Any] = []
        self.answered = 0
        self.cancelled = 0
        self.work_s = work_s
        self.group: Group = loop.group(name)
        self.group.run(network.register, name, self.handle, self.install)
        self.endpoint: Endpoint = network.endpoint(name)

    async def handle(self, request: Any) -> Message:
        self.requests.append(request)
        try:
            await asyncio.sleep(self.work_s)
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        self.answered += 1
        if isinstance(request, HeartbeatRequest):
            return HeartbeatResponse(round=request.round)
        assert isinstance(request, TimeoutNowRequest)
        if request.shard == 99:
            raise OutcomeUnknown("told so", shard=99)
        return TimeoutNowResponse(message=request.message)

    async def install(self, parts: AsyncIterator[InstallSnapshotRequest]) -> InstallSnapshotResponse:
        size = 0
        async for part in parts:
            self.requests.append(part)
            size += len(part.data)
        return InstallSnapshotResponse(success=True, last_index=size)


def world(loop: SimulatedLoop, quality: LinkQuality | None = None) -> tuple[Network, Peer, Peer]:
    """Two nodes."""
    network = Network(loop, loop.random("network"), quality=quality)
    return network, Peer(network, loop, "n1"), Peer(network, loop, "n2")


def test_call_good_network_is_answered_with_a_copy() -> None:
    """The answer is the handler's, no object is shared, and time passes."""

    async def main(loop: SimulatedLoop) -> None:
        _, n1, n2 = world(loop)
        request = TimeoutNowRequest(shard=3, term=7)
        request.message.id = 5
        answer = await n1.endpoint.call("n2", request, 1.0)
        assert answer.message.id == 5
        assert n2.requests == [request]
        assert n2.requests[0] is not request
        assert 200e-6 < loop.time() < 0.2
        with pytest.raises(OutcomeUnknown, match="told so") as caught:
            await n1.endpoint.call("n2", TimeoutNowRequest(shard=99), 1.0)
        assert caught.value.metadata == {"shard": "99"}

    run(main, 1)


def test_cut_one_way_request_or_answer_vanishes() -> None:
    """A cut loses messages of one direction only: the request, or the answer of work that was done."""

    async def main(loop: SimulatedLoop) -> None:
        network, n1, n2 = world(loop)
        network.cut("n1", "n2")
        with pytest.raises(PeerUnreachable):
            await n1.endpoint.call("n2", TimeoutNowRequest(), 0.5)
        assert loop.time() == 0.5
        assert n2.requests == []
        with pytest.raises(PeerUnreachable):
            await n2.endpoint.call("n1", TimeoutNowRequest(), 0.5)
        assert len(n1.requests) == 1
        network.heal()
        await n1.endpoint.call("n2", TimeoutNowRequest(), 0.5)
        assert network.faults["cut"] == 1
        assert network.faults["cut message"] >= 2
        assert network.faults["timeout"] == 2

    run(main, 1)


def test_call_bad_network_loses_duplicates_reorders_and_always_ends() -> None:
    """With every fault on, each call is answered or unreachable within its timeout, and all kinds of faults occur."""
    bad = LinkQuality(loss_probability=0.1, duplicate_probability=0.1, spike_probability=0.1)

    async def main(loop: SimulatedLoop) -> tuple[int, int]:
        network, n1, n2 = world(loop, bad)
        network.flap("n1", "n2", 0.02, 0.005)

        async def call(number: int) -> bool:
            start = loop.time()
            try:
                await n1.endpoint.call("n2", TimeoutNowRequest(term=number), 0.1)
                return True
            except PeerUnreachable:
                return False
            finally:
                assert loop.time() <= start + 0.1 + 1e-9

        async def later(number: int) -> bool:
            await asyncio.sleep(number * 0.0002)
            return await call(number)

        answered = await asyncio.gather(*[later(number) for number in range(500)])
        terms = [request.term for request in n2.requests]
        assert len(terms) > len(set(terms))
        assert terms != sorted(terms)
        for kind in ("loss", "duplicate", "reorder", "spike", "flap", "cut message", "timeout"):
            assert network.faults[kind] > 0, kind
        return sum(answered), len(terms)

    outcome = run(main, 4)
    assert 100 < outcome[0] < 500
    assert outcome == run(main, 4)


def test_streamed_requests_are_never_reordered() -> None:
    """Heartbeats arrive in the order of the calls, however bad the link."""

    async def main(loop: SimulatedLoop) -> None:
        _, n1, n2 = world(loop, LinkQuality(spike_probability=0.3, loss_probability=0.1, duplicate_probability=0.1))
        calls = [n1.endpoint.call("n2", HeartbeatRequest(round=number), 1.0) for number in range(200)]
        await asyncio.gather(*calls, return_exceptions=True)
        rounds = [request.round for request in n2.requests]
        assert rounds == sorted(rounds)
        assert len(set(rounds)) > 150

    run(main, 2)


def test_crash_of_the_target_resets_or_times_out() -> None:
    """Calls to a node that crashes fail, some at once and some at their timeout; a new life of it answers."""

    async def main(loop: SimulatedLoop) -> None:
        network, n1, n2 = world(loop, LinkQuality(reset_probability=0.5))
        n2.work_s = 0.5
        calls = [asyncio.create_task(n1.endpoint.call("n2", TimeoutNowRequest(), 2.0)) for _ in range(40)]
        await asyncio.sleep(0.1)
        n2.group.kill()
        network.crash("n2")
        await asyncio.sleep(0.2)
        at_once = [call for call in calls if call.done()]
        assert 0 < len(at_once) < 40
        errors = await asyncio.gather(*calls, return_exceptions=True)
        assert all(isinstance(error, PeerUnreachable) for error in errors)
        assert any(error.lost for error in errors if isinstance(error, PeerUnreachable))
        assert n2.answered == 0
        assert n2.cancelled == 0
        with pytest.raises(PeerUnreachable):
            await n2.endpoint.call("n1", TimeoutNowRequest(), 1.0)
        again = Peer(network, loop, "n2")
        await n1.endpoint.call("n2", TimeoutNowRequest(), 1.0)
        assert len(again.requests) == 1

    run(main, 1)


def test_crash_of_the_caller_lets_some_of_its_messages_through() -> None:
    """Of what a crashed node had sent, part arrives, and nothing it would have sent later."""

    async def main(loop: SimulatedLoop) -> int:
        network, n1, n2 = world(loop)
        for _ in range(40):
            n1.group.create_task(n1.endpoint.call("n2", TimeoutNowRequest(), 2.0))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        n1.group.kill()
        network.crash("n1")
        await asyncio.sleep(5)
        return len(n2.requests)

    assert 0 < run(main, 1) < 40


def test_caller_that_stops_waiting_cancels_the_handler() -> None:
    """As with unary gRPC calls; handlers of streamed messages go on."""

    async def main(loop: SimulatedLoop) -> None:
        _, n1, n2 = world(loop)
        n2.work_s = 5.0
        for request in (TimeoutNowRequest(), HeartbeatRequest()):
            call = asyncio.create_task(n1.endpoint.call("n2", request, 10.0))
            await asyncio.sleep(1)
            call.cancel()
            await asyncio.sleep(10)
        assert n2.cancelled == 1
        assert n2.answered == 1

    run(main, 1)


def test_paused_peer_answers_late() -> None:
    """Messages wait at a paused node, and messages on their way from it do not wait."""

    async def main(loop: SimulatedLoop) -> None:
        _, n1, n2 = world(loop)
        n2.group.pause()
        call = asyncio.create_task(n1.endpoint.call("n2", TimeoutNowRequest(), 10.0))
        await asyncio.sleep(3)
        assert not call.done()
        assert n2.requests == []
        n2.group.resume()
        await call
        assert 3.0 < loop.time() < 3.1

    run(main, 1)


def test_snapshot_arrives_in_order_or_not_at_all() -> None:
    """A snapshot is one stream: whole and in order, or unreachable; a closed transport ends its calls."""

    async def main(loop: SimulatedLoop) -> None:
        network, n1, n2 = world(loop)
        parts = [InstallSnapshotRequest(offset=number, data=b"x" * 100, done=number == 19) for number in range(20)]
        answer = await n1.endpoint.install_snapshot("n2", parts, 5.0)
        assert answer.success
        assert answer.last_index == 2_000
        assert n2.requests == parts
        network.set_quality(LinkQuality(loss_probability=0.3), "n1", "n2")
        with pytest.raises(PeerUnreachable):
            await n1.endpoint.install_snapshot("n2", iter(parts), 5.0)
        n2.work_s = 100.0
        network.heal()
        call = asyncio.create_task(n1.endpoint.call("n2", TimeoutNowRequest(), 50.0))
        await asyncio.sleep(1)
        await n1.endpoint.close()
        with pytest.raises(PeerUnreachable, match="closed"):
            await call

    run(main, 1)


def test_partition_and_isolation_cut_both_ways() -> None:
    """A partition cuts every link between its sides and none within."""

    async def main(loop: SimulatedLoop) -> None:
        network, *_ = world(loop)
        Peer(network, loop, "n3")
        network.partition(["n1"], ["n2", "n3"])
        assert network.is_cut("n1", "n2")
        assert network.is_cut("n3", "n1")
        assert not network.is_cut("n2", "n3")
        network.heal("n1", "n2")
        assert not network.is_cut("n1", "n2")
        assert network.is_cut("n2", "n1")
        network.heal()
        network.isolate("n3")
        assert network.is_cut("n3", "n2")
        assert network.is_cut("n1", "n3")
        assert not network.is_cut("n1", "n2")

    run(main, 1)
