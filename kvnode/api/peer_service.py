"""The peer protocols' services: every request goes to the node's endpoint, streams keep their order."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Protocol

import grpc

from kvapi.v1 import (
    election_pb2_grpc,
    failure_detection_pb2_grpc,
    gossip_pb2_grpc,
    replication_pb2,
    replication_pb2_grpc,
    two_phase_commit_pb2_grpc,
)
from kvnode import limits
from kvnode.api.status import abort
from kvnode.errors import KvnodeError


class PeerEndpoint(Protocol):
    """Who answers peers; `runtime.endpoint` is the real one."""

    async def handle(self, request: Any) -> Any: ...
    async def install_snapshot(
        self, requests: AsyncIterator[replication_pb2.InstallSnapshotRequest]
    ) -> replication_pb2.InstallSnapshotResponse: ...


class PeerService(
    failure_detection_pb2_grpc.FailureDetectionServicer,
    gossip_pb2_grpc.GossipServicer,
    election_pb2_grpc.ElectionServicer,
    replication_pb2_grpc.ReplicationServicer,
    two_phase_commit_pb2_grpc.TwoPhaseCommitServicer,
):
    """One servicer for all peer protocols."""

    def __init__(self, endpoint: PeerEndpoint) -> None:
        self._endpoint = endpoint
        self._streams: dict[asyncio.Task[Any], None] = {}
        self._ended = False

    async def Heartbeat(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers each heartbeat at once: it waits for nothing, and an idle cluster does little else."""
        if self._ended:
            return
        own = asyncio.current_task()
        assert own is not None
        self._streams[own] = None
        try:
            async for request in requests:
                yield await self._endpoint.handle(request)
        except KvnodeError as error:
            await abort(context, error)
        finally:
            self._streams.pop(own, None)

    async def Append(self, requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        """Answers each append, in order, once it is durable; the next ones are taken meanwhile."""
        async for answer in self._answers(requests, context):
            yield answer

    async def _answers(self, requests: AsyncIterator[Any], context: grpc.aio.ServicerContext[Any, Any]) -> AsyncIterator[Any]:
        if self._ended:
            return
        started: asyncio.Queue[asyncio.Task[Any] | None] = asyncio.Queue(limits.APPENDS_IN_FLIGHT_MAX)
        reader = asyncio.create_task(self._read(requests, started))
        self._streams[reader] = None
        # Not at the end of `_read`: a reader that is cancelled before its first step never gets there.
        reader.add_done_callback(lambda done: self._on_read(done, started))
        try:
            while (answer := await started.get()) is not None:
                try:
                    yield await answer
                except KvnodeError as error:
                    await abort(context, error)
        finally:
            reader.cancel()

    async def _read(self, requests: AsyncIterator[Any], started: asyncio.Queue[asyncio.Task[Any] | None]) -> None:
        try:
            async for request in requests:
                await started.put(asyncio.create_task(self._endpoint.handle(request)))
        except KvnodeError as error:  # a request that could not be read: the stream ends with this answer
            await started.put(asyncio.create_task(_refused(error)))

    def _on_read(self, reader: asyncio.Task[Any], started: asyncio.Queue[asyncio.Task[Any] | None]) -> None:
        # The stream is over, or the server stops: what is not answered yet will be asked again.
        self._streams.pop(reader, None)
        while started.full():
            waiting = started.get_nowait()
            if waiting is not None:
                waiting.cancel()
        started.put_nowait(None)

    def end_streams(self) -> None:
        """Ends what peers keep open, and what they open anew at once, so that the server can stop without waiting for them."""
        self._ended = True
        for reader in list(self._streams):
            reader.cancel()

    async def Probe(self, request: Any, context: Any) -> Any:
        """Tries a third node."""
        return await self._handle(request, context)

    async def Exchange(self, request: Any, context: Any) -> Any:
        """One round of gossip."""
        return await self._handle(request, context)

    async def RequestVote(self, request: Any, context: Any) -> Any:
        """A vote, or the promise of one."""
        return await self._handle(request, context)

    async def TimeoutNow(self, request: Any, context: Any) -> Any:
        """Campaign at once."""
        return await self._handle(request, context)

    async def ReadIndex(self, request: Any, context: Any) -> Any:
        """An index for a linearizable read."""
        return await self._handle(request, context)

    async def ReplicateEventual(self, request: Any, context: Any) -> Any:
        """Eventual writes to hold."""
        return await self._handle(request, context)

    async def Prepare(self, request: Any, context: Any) -> Any:
        """A transaction's part to vote on."""
        return await self._handle(request, context)

    async def Decide(self, request: Any, context: Any) -> Any:
        """A transaction's decision to log."""
        return await self._handle(request, context)

    async def Resolve(self, request: Any, context: Any) -> Any:
        """A transaction's end."""
        return await self._handle(request, context)

    async def Collect(self, request: Any, context: Any) -> Any:
        """A read-only transaction's part to read."""
        return await self._handle(request, context)

    async def TransactionStatus(self, request: Any, context: Any) -> Any:
        """What became of a transaction."""
        return await self._handle(request, context)

    async def InstallSnapshot(self, requests: AsyncIterator[Any], context: Any) -> Any:
        """A snapshot in parts."""
        try:
            return await self._endpoint.install_snapshot(requests)
        except KvnodeError as error:
            await abort(context, error)

    async def _handle(self, request: Any, context: grpc.aio.ServicerContext[Any, Any]) -> Any:
        try:
            return await self._endpoint.handle(request)
        except KvnodeError as error:
            await abort(context, error)


async def _refused(error: KvnodeError) -> Any:
    raise error
