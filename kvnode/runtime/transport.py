"""How nodes reach each other, as a port: gRPC implements it in `grpc_transport`, the simulator in its own network.

A call carries one protocol message with its envelope and brings back the answer. Heartbeats and appends to one peer arrive
in the order of the calls unless lost; nothing else is promised. An answer that does not come is `PeerUnreachable`, which
says nothing about whether the peer acted.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol

from kvapi.v1 import message_pb2, replication_pb2
from kvnode.types import NodeName, Seconds


class PeerUnreachable(Exception):
    """No answer from a peer. `refused`: nobody listens there; `lost`: an open connection was closed by the other side;
    `repeated`: nobody tried just now, it is why the last attempt failed."""

    def __init__(self, message: str, refused: bool = False, lost: bool = False) -> None:
        super().__init__(message)
        self.refused, self.lost, self.repeated = refused, lost, False


class Transport(Protocol):
    """Calls to peers, by name."""

    async def call(self, to: NodeName, request: Any, timeout: Seconds) -> Any:
        """One request, one answer. Raises `PeerUnreachable`, or `KvnodeError` when the peer refused."""
        ...

    async def install_snapshot(
        self, to: NodeName, requests: Iterable[replication_pb2.InstallSnapshotRequest], timeout: Seconds
    ) -> replication_pb2.InstallSnapshotResponse:
        """Sends a snapshot in parts. Raises as `call`."""
        ...

    async def forward(self, to: NodeName, request: Any, timeout: Seconds, hops: int) -> Any:
        """Passes a client's `KV` request on. Raises `PeerUnreachable`, or the `KvnodeError` that the node answered."""
        ...

    async def close(self) -> None:
        """Ends every connection."""
        ...


class CheckedTransport:
    """A transport whose answers are checked as requests are on arrival: a node that came back without its disk under its old
    name must not be counted in a quorum, whoever asked first; and what no correct peer answers is refused."""

    def __init__(
        self, transport: Transport, check: Callable[[message_pb2.Message], None], check_answer: Callable[[Any], None]
    ) -> None:
        self._transport, self._check, self._check_answer = transport, check, check_answer

    async def call(self, to: NodeName, request: Any, timeout: Seconds) -> Any:
        """See `Transport.call`."""
        response = await self._transport.call(to, request, timeout)
        self._check(response.message)
        self._check_answer(response)
        return response

    async def install_snapshot(
        self, to: NodeName, requests: Iterable[replication_pb2.InstallSnapshotRequest], timeout: Seconds
    ) -> replication_pb2.InstallSnapshotResponse:
        """See `Transport.install_snapshot`."""
        response = await self._transport.install_snapshot(to, requests, timeout)
        self._check(response.message)
        return response

    async def forward(self, to: NodeName, request: Any, timeout: Seconds, hops: int) -> Any:
        """See `Transport.forward`."""
        return await self._transport.forward(to, request, timeout, hops)

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._transport.close()
