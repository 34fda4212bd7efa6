"""The peer protocols over real connections on loopback, for every pair of what carries a caller and what carries its peer."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import grpc.aio
import pytest

import kvwire
from kvapi.v1 import failure_detection_pb2 as fd
from kvapi.v1 import failure_detection_pb2_grpc as fd_grpc
from kvapi.v1 import kv_pb2, kv_pb2_grpc, replication_pb2, replication_pb2_grpc
from kvclient.transport import TRANSPORTS
from kvnode.api.status import abort
from kvnode.errors import NotLeader
from kvnode.observe.calls import HOPS
from kvnode.runtime.grpc_transport import GrpcTransport
from kvnode.runtime.transport import PeerUnreachable

SERVERS: dict[str, Any] = {"kvwire": kvwire.server, "grpcio": grpc.aio.server}
PAIRS = list(itertools.product(TRANSPORTS, SERVERS))


class Peer(fd_grpc.FailureDetectionServicer, replication_pb2_grpc.ReplicationServicer, kv_pb2_grpc.KVServicer):
    """Answers, refuses, or says nothing, as told."""

    def __init__(self) -> None:
        self.is_silent = False
        self.asked: asyncio.Event = asyncio.Event()
        self.metadata: dict[str, Any] = {}

    async def Probe(self, request: fd.ProbeRequest, context: Any) -> fd.ProbeResponse:
        self.asked.set()
        if self.is_silent:
            await asyncio.Event().wait()
        if not request.target:
            await abort(context, NotLeader("not me", leader="n3"))
        return fd.ProbeResponse(alive=True, incarnation=7)

    async def Heartbeat(
        self, requests: AsyncIterator[fd.HeartbeatRequest], context: Any
    ) -> AsyncIterator[fd.HeartbeatResponse]:
        async for request in requests:
            self.asked.set()
            if not self.is_silent:
                yield fd.HeartbeatResponse(round=request.round)

    async def InstallSnapshot(
        self, requests: AsyncIterator[replication_pb2.InstallSnapshotRequest], context: Any
    ) -> replication_pb2.InstallSnapshotResponse:
        return replication_pb2.InstallSnapshotResponse(success=[each.shard async for each in requests] == [0, 1, 2])

    async def Get(self, request: kv_pb2.GetRequest, context: Any) -> kv_pb2.GetResponse:
        self.metadata = dict(context.invocation_metadata())
        return kv_pb2.GetResponse(value=request.key)


class World:
    """One peer, and a transport to it."""

    def __init__(self, carrier: str, server: str) -> None:
        self.peer, self._server, self._port = Peer(), server, 0
        self._carrier = carrier

    async def start(self) -> None:
        """The peer listens, on the same port as before."""
        self.server = SERVERS[self._server](options=(("grpc.so_reuseport", 0),))
        fd_grpc.add_FailureDetectionServicer_to_server(self.peer, self.server)
        replication_pb2_grpc.add_ReplicationServicer_to_server(self.peer, self.server)
        kv_pb2_grpc.add_KVServicer_to_server(self.peer, self.server)
        self._port = self.server.add_insecure_port(f"127.0.0.1:{self._port}")
        await self.server.start()

    def connect(self) -> GrpcTransport:
        """Another node's transport."""
        return GrpcTransport({"n2": f"127.0.0.1:{self._port}"}, self._carrier, asyncio.get_running_loop())


@asynccontextmanager
async def world(pair: tuple[str, str]) -> AsyncIterator[tuple[World, GrpcTransport]]:
    """A peer that runs, and a transport to it."""
    made = World(*pair)
    await made.start()
    transport = made.connect()
    try:
        yield made, transport
    finally:
        await transport.close()
        await made.server.stop(None)


@pytest.fixture(params=PAIRS, ids=["-to-".join(pair) for pair in PAIRS])
def pair(request: pytest.FixtureRequest) -> Any:
    """What carries the caller, and its peer."""
    return request.param


async def test_peer_that_answers_is_heard_in_every_kind_of_call(pair: tuple[str, str]) -> None:
    """A call, a stream with its order, a snapshot in parts, and a client's request with its metadata."""
    async with world(pair) as (it, transport):
        assert (await transport.call("n2", fd.ProbeRequest(target="n3"), 5)).incarnation == 7
        rounds = await asyncio.gather(*(transport.call("n2", fd.HeartbeatRequest(round=n), 5) for n in range(50)))
        assert [answer.round for answer in rounds] == list(range(50))
        parts = (replication_pb2.InstallSnapshotRequest(shard=n) for n in range(3))
        assert (await transport.install_snapshot("n2", parts, 5)).success
        assert (await transport.forward("n2", kv_pb2.GetRequest(key=b"k"), 5, hops=1)).value == b"k"
        assert it.peer.metadata[HOPS] == "1"


async def test_peer_that_refuses_is_told_from_one_that_is_not_there(pair: tuple[str, str]) -> None:
    """Its own error arrives as itself, with what it says."""
    async with world(pair) as (_, transport):
        with pytest.raises(NotLeader) as caught:
            await transport.call("n2", fd.ProbeRequest(), 5)
        assert caught.value.metadata["leader"] == "n3"


async def test_peer_that_does_not_listen_has_refused(pair: tuple[str, str]) -> None:
    """Nobody on the port: calls and streams know at once that the process is not there, and that nothing was lost."""
    async with world(pair) as (it, transport):
        await it.server.stop(None)
        for request in (fd.ProbeRequest(target="n3"), fd.HeartbeatRequest(round=1)):
            with pytest.raises(PeerUnreachable) as caught:
                await transport.call("n2", request, 5)
            assert (caught.value.refused, caught.value.lost) == (True, False)


async def test_peer_that_dies_is_lost_and_found_when_it_is_back(pair: tuple[str, str]) -> None:
    """A stream that was open and ends without its answer was lost; once the peer listens again, it is reached again."""
    async with world(pair) as (it, transport):
        await transport.call("n2", fd.HeartbeatRequest(round=1), 5)
        it.peer.is_silent = True
        it.peer.asked.clear()
        unanswered = asyncio.ensure_future(transport.call("n2", fd.HeartbeatRequest(round=2), 5))
        await it.peer.asked.wait()
        await it.server.stop(None)
        with pytest.raises(PeerUnreachable) as caught:
            await unanswered
        assert (caught.value.refused, caught.value.lost) == (False, True)
        it.peer.is_silent = False
        await it.start()
        async with asyncio.timeout(5):
            while True:
                try:
                    assert (await transport.call("n2", fd.HeartbeatRequest(round=3), 5)).round == 3
                    break
                except PeerUnreachable:
                    await asyncio.sleep(0.01)


async def test_peer_that_says_nothing_takes_its_connection_with_it(pair: tuple[str, str]) -> None:
    """A stream without an answer in time gives the connection up: calls under way on it end as lost, the next call has
    another connection."""
    async with world(pair) as (it, transport):
        it.peer.is_silent = True
        under_way = asyncio.ensure_future(transport.call("n2", fd.ProbeRequest(target="n3"), 30))
        await it.peer.asked.wait()
        with pytest.raises(PeerUnreachable) as caught:
            await transport.call("n2", fd.HeartbeatRequest(round=1), 0.1)
        assert not caught.value.refused
        with pytest.raises(PeerUnreachable) as caught:
            await under_way
        assert (caught.value.refused, caught.value.lost) == (False, True)
        it.peer.is_silent = False
        assert (await transport.call("n2", fd.HeartbeatRequest(round=2), 5)).round == 2


async def test_call_cancelled_by_its_caller_is_cancelled_and_harms_nobody(pair: tuple[str, str]) -> None:
    """Who no longer waits sees its own cancellation, no error; the connection goes on."""
    async with world(pair) as (it, transport):
        it.peer.is_silent = True
        victim = asyncio.ensure_future(transport.call("n2", fd.ProbeRequest(target="n3"), 30))
        await it.peer.asked.wait()
        victim.cancel()
        with pytest.raises(asyncio.CancelledError):
            await victim
        it.peer.is_silent = False
        assert (await transport.call("n2", fd.ProbeRequest(target="n3"), 5)).alive


async def test_call_that_takes_too_long_is_unreachable_and_not_refused(pair: tuple[str, str]) -> None:
    """The deadline says nothing about whether the peer is there."""
    async with world(pair) as (it, transport):
        it.peer.is_silent = True
        with pytest.raises(PeerUnreachable, match="DEADLINE_EXCEEDED") as caught:
            await transport.call("n2", fd.ProbeRequest(target="n3"), 0.05)
        assert (caught.value.refused, caught.value.lost) == (False, False)


async def test_member_that_is_not_configured_is_unreachable(pair: tuple[str, str]) -> None:
    """Gossip may name nodes that this one has no address of."""
    async with world(pair) as (_, transport):
        with pytest.raises(PeerUnreachable, match="n9"):
            await transport.call("n9", fd.ProbeRequest(), 1)
