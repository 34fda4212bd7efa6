"""The peer protocols over gRPC: two connections to each peer, one for heartbeats and votes, one for everything else.

Heartbeats and appends go through long-lived streams, whose messages are cheaper than calls and keep their order; everything
else is a unary call. A stream that breaks fails what is unanswered on it and is opened anew by the next call.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import grpc

from kvapi.v1 import (
    election_pb2,
    election_pb2_grpc,
    failure_detection_pb2,
    failure_detection_pb2_grpc,
    gossip_pb2,
    gossip_pb2_grpc,
    kv_pb2,
    kv_pb2_grpc,
    replication_pb2,
    replication_pb2_grpc,
    two_phase_commit_pb2,
    two_phase_commit_pb2_grpc,
)
from kvclient.transport import insecure_channel
from kvnode import limits
from kvnode.api.status import from_rpc_error
from kvnode.observe.calls import HOPS
from kvnode.observe.tracing import inject
from kvnode.runtime.transport import PeerUnreachable
from kvnode.types import NodeName, Seconds

CHANNEL_OPTIONS: Sequence[tuple[str, Any]] = (
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    # A peer that is back must be heard and fed soon: until it has caught up, no other may go. An attempt on a dead one costs
    # next to nothing.
    ("grpc.max_reconnect_backoff_ms", 300),
    ("grpc.max_receive_message_length", limits.PEER_MESSAGE_SIZE_BYTES_MAX),
    ("grpc.max_send_message_length", limits.PEER_MESSAGE_SIZE_BYTES_MAX),
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.max_pings_without_data", 0),
)


_BULK = (
    replication_pb2.AppendRequest,
    replication_pb2.ReplicateEventualRequest,
    two_phase_commit_pb2.PrepareRequest,
    two_phase_commit_pb2.DecideRequest,
    two_phase_commit_pb2.ResolveRequest,
    two_phase_commit_pb2.CollectRequest,
)


class _Stream:
    """One open stream: requests in, answers out, in the same order."""

    def __init__(self, peer: NodeName, call: Any, loop: asyncio.AbstractEventLoop) -> None:
        self.peer, self._call, self._loop = peer, call, loop
        self._waiting: deque[asyncio.Future[Any]] = deque()
        self._outgoing: asyncio.Queue[Any] = asyncio.Queue()
        self.broken = False
        self._answered = False
        self._tasks = (loop.create_task(self._write()), loop.create_task(self._read()))

    def send(self, request: Any) -> asyncio.Future[Any]:
        """The future of the answer."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.append(future)
        self._outgoing.put_nowait(request)
        return future

    async def _write(self) -> None:
        try:
            while True:
                await self._call.write(await self._outgoing.get())
        except (grpc.RpcError, asyncio.InvalidStateError):
            pass  # The reader sees why, and says so.

    async def _read(self) -> None:
        error: Exception = PeerUnreachable(f"{self.peer} ended the stream", lost=True)
        try:
            while (answer := await self._call.read()) is not grpc.aio.EOF:
                self._answered = True
                future = self._waiting.popleft()
                if not future.done():
                    future.set_result(answer)
            code = await self._call.code()
            if code is not grpc.StatusCode.OK:
                error = translate(self.peer, await _error_of(self._call), was_open=self._answered)
        except grpc.RpcError as broken:
            error = translate(self.peer, broken, was_open=self._answered)
        self.fail(error)

    def fail(self, error: Exception) -> None:
        """Ends the stream; what is unanswered fails with the error."""
        if self.broken:
            return
        self.broken = True
        self._call.cancel()
        for task in self._tasks:
            if task is not asyncio.current_task():
                task.cancel()
        for future in self._waiting:
            if not future.done():
                future.set_exception(error)
        self._waiting.clear()


async def _error_of(call: Any) -> grpc.RpcError:
    return grpc.aio.AioRpcError(
        await call.code(), await call.initial_metadata(), await call.trailing_metadata(), details=await call.details()
    )


def translate(peer: NodeName, error: grpc.RpcError, was_open: bool = False) -> Exception:
    """What a failed call says about the peer: its own error, that nobody listens, or that the connection was lost."""
    answered = from_rpc_error(error)
    if answered is not None:
        return answered
    details = error.details() or ""
    refused = "failed to connect" in details.lower() or "connection refused" in details.lower()
    return PeerUnreachable(f"{peer}: {error.code().name}: {details}", refused=refused, lost=was_open and not refused)


class _Connection:
    """One channel to a peer, with the streams that are open on it."""

    def __init__(self, peer: NodeName, channel: grpc.aio.Channel, loop: asyncio.AbstractEventLoop) -> None:
        self.peer, self.channel, self._loop = peer, channel, loop
        detection = failure_detection_pb2_grpc.FailureDetectionStub(self.channel)
        election = election_pb2_grpc.ElectionStub(self.channel)
        replication = replication_pb2_grpc.ReplicationStub(self.channel)
        transactions = two_phase_commit_pb2_grpc.TwoPhaseCommitStub(self.channel)
        kv = kv_pb2_grpc.KVStub(self.channel)
        self.install_snapshot: Any = replication.InstallSnapshot
        self.streams: dict[type, Any] = {
            failure_detection_pb2.HeartbeatRequest: detection.Heartbeat,
            replication_pb2.AppendRequest: replication.Append,
        }
        self.calls: dict[type, Any] = {
            failure_detection_pb2.ProbeRequest: detection.Probe,
            election_pb2.RequestVoteRequest: election.RequestVote,
            election_pb2.TimeoutNowRequest: election.TimeoutNow,
            gossip_pb2.ExchangeRequest: gossip_pb2_grpc.GossipStub(self.channel).Exchange,
            replication_pb2.ReadIndexRequest: replication.ReadIndex,
            replication_pb2.ReplicateEventualRequest: replication.ReplicateEventual,
            two_phase_commit_pb2.PrepareRequest: transactions.Prepare,
            two_phase_commit_pb2.DecideRequest: transactions.Decide,
            two_phase_commit_pb2.ResolveRequest: transactions.Resolve,
            two_phase_commit_pb2.CollectRequest: transactions.Collect,
            two_phase_commit_pb2.TransactionStatusRequest: transactions.TransactionStatus,
            kv_pb2.PutRequest: kv.Put,
            kv_pb2.GetRequest: kv.Get,
            kv_pb2.DeleteRequest: kv.Delete,
            kv_pb2.RangeRequest: kv.Range,
            kv_pb2.TxnRequest: kv.Txn,
            kv_pb2.OperationRequest: kv.Operation,
        }
        self._open: dict[type, _Stream] = {}

    def stream(self, kind: type) -> _Stream:
        """The open stream for requests of a kind."""
        stream = self._open.get(kind)
        if stream is None or stream.broken:
            stream = self._open[kind] = _Stream(self.peer, self.streams[kind](), self._loop)
        return stream

    async def close(self, why: str) -> None:
        """Ends streams and channel; what is unanswered fails."""
        for stream in self._open.values():
            stream.fail(PeerUnreachable(f"{self.peer}: {why}"))
        await self.channel.close(None)


class _Peer:
    """The two connections to one peer: a quick one for what is small and urgent, one for the bulk.

    A connection can be dead without a word (a cable, a firewall that forgot it); TCP takes a minute or more to find out. So a
    stream that got no answer in time takes its connection with it, and the next call opens a new one.
    """

    def __init__(self, name: NodeName, address: str, transport: str, loop: asyncio.AbstractEventLoop) -> None:
        self.name, self._address, self._transport, self._loop = name, address, transport, loop
        self.quick, self.bulk = self._connect(), self._connect()
        self._closing: dict[asyncio.Task[None], None] = {}

    def _connect(self) -> _Connection:
        return _Connection(self.name, insecure_channel(self._transport, self._address, CHANNEL_OPTIONS), self._loop)

    def connection(self, kind: type) -> _Connection:
        """Where requests of a kind go."""
        return self.bulk if kind in _BULK else self.quick

    def renew(self, connection: _Connection) -> None:
        """Gives a connection up for a new one; a second word about the same one changes nothing."""
        if connection is self.quick:
            self.quick = self._connect()
        elif connection is self.bulk:
            self.bulk = self._connect()
        else:
            return
        task = self._loop.create_task(connection.close("the connection gave no answer in time"))
        self._closing[task] = None
        task.add_done_callback(lambda done: self._closing.pop(done, None))

    async def close(self) -> None:
        """Ends streams and connections."""
        await self.quick.close("this node stops")
        await self.bulk.close("this node stops")
        await asyncio.gather(*self._closing, return_exceptions=True)


class GrpcTransport:
    """`Transport` over gRPC, carried by `carrier`: "kvwire" or "grpcio"."""

    def __init__(self, peers: Mapping[NodeName, str], carrier: str, loop: asyncio.AbstractEventLoop) -> None:
        self._peers = {name: _Peer(name, address, carrier, loop) for name, address in peers.items()}
        self._loop = loop

    async def call(self, to: NodeName, request: Any, timeout: Seconds) -> Any:
        """See `Transport.call`."""
        peer, kind = self._peer(to), type(request)
        connection = peer.connection(kind)
        if kind in connection.streams:
            backs_off = connection.channel.get_state() is grpc.ChannelConnectivity.TRANSIENT_FAILURE
            try:
                return await self._call_stream(peer, connection, request, timeout)
            except PeerUnreachable as error:
                error.repeated = backs_off
                raise
        return await self._unary(to, connection.calls[kind](request, timeout=max(timeout, 0.001)))

    def _peer(self, name: NodeName) -> _Peer:
        peer = self._peers.get(name)
        if peer is None:  # (Gossip may speak of members that this node's configuration does not name.)
            raise PeerUnreachable(f"{name} is not among the cluster.members of this node")
        return peer

    @staticmethod
    async def _unary(to: NodeName, call: Any) -> Any:
        try:
            return await call
        except grpc.RpcError as error:
            raise translate(to, error) from None
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is not None and not task.cancelling():
                # It was not us who was cancelled: the connection was given up for a new one.
                raise PeerUnreachable(f"{to}: the connection was given up while the call was under way", lost=True) from None
            raise

    async def _call_stream(self, peer: _Peer, connection: _Connection, request: Any, timeout: Seconds) -> Any:
        stream = connection.stream(type(request))
        answer = stream.send(request)
        timer = self._loop.call_later(timeout, self._give_up, peer, connection, stream, timeout)
        try:
            return await answer
        finally:
            timer.cancel()

    def _give_up(self, peer: _Peer, connection: _Connection, stream: _Stream, timeout: Seconds) -> None:
        stream.fail(PeerUnreachable(f"{peer.name} did not answer within {timeout:.1f} s"))
        peer.renew(connection)

    async def forward(self, to: NodeName, request: Any, timeout: Seconds, hops: int) -> Any:
        """See `Transport.forward`."""
        call = self._peer(to).bulk.calls[type(request)]
        return await self._unary(to, call(request, timeout=timeout, metadata=[(HOPS, str(hops)), *inject()]))

    async def install_snapshot(
        self, to: NodeName, requests: Iterable[replication_pb2.InstallSnapshotRequest], timeout: Seconds
    ) -> replication_pb2.InstallSnapshotResponse:
        """See `Transport.install_snapshot`."""
        try:
            call = self._peer(to).bulk.install_snapshot(_drip(requests), timeout=timeout)
            response: replication_pb2.InstallSnapshotResponse = await call
            return response
        except grpc.RpcError as error:
            raise translate(to, error) from None

    async def close(self) -> None:
        """See `Transport.close`."""
        await asyncio.gather(*(peer.close() for peer in self._peers.values()))


async def _drip(requests: Iterable[Any]) -> Any:
    for request in requests:
        yield request
        await asyncio.sleep(0)
