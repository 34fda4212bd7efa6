"""A transport whose messages get lost or come late, as injected: requests where they leave, answers where they arrive.

A lost call ends as on a silent network: with `PeerUnreachable` at its time-out, or when the connection is given up. A lost
*answer* ends so too, and the peer has acted. A call that is late for longer than its time-out was never sent.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any

from kvapi.v1 import replication_pb2
from kvnode.errors import KvnodeError
from kvnode.faults.links import GIVEN_UP_AFTER, IN, ORDERED, OUT, Lanes, Links
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.types import NodeName, Seconds


class FaultyTransport:
    """`Transport` over another one."""

    def __init__(self, transport: Transport, links: Links) -> None:
        self._transport, self._links, self._loop = transport, links, links.loop
        self._lanes = Lanes(links.loop)

    async def call(self, to: NodeName, request: Any, timeout: Seconds) -> Any:
        """See `Transport.call`."""
        lane = (to, type(request)) if type(request) in ORDERED else None
        return await self._carry(to, timeout, lambda left: self._transport.call(to, request, left), lane)

    async def forward(self, to: NodeName, request: Any, timeout: Seconds, hops: int) -> Any:
        """See `Transport.forward`."""
        return await self._carry(to, timeout, lambda left: self._transport.forward(to, request, left, hops))

    async def install_snapshot(
        self, to: NodeName, requests: Iterable[replication_pb2.InstallSnapshotRequest], timeout: Seconds
    ) -> replication_pb2.InstallSnapshotResponse:
        """See `Transport.install_snapshot`. A cut in its middle ends the stream there; the peer leaves everything as it was."""

        async def send(left: Seconds) -> replication_pb2.InstallSnapshotResponse:
            parts = _UntilCut(requests, lambda: self._links.is_cut(to, OUT))
            response = await self._transport.install_snapshot(to, parts, left)
            if parts.cut:
                await self._lose(to, self._loop.time() + left)
            return response

        response: replication_pb2.InstallSnapshotResponse = await self._carry(to, timeout, send)
        return response

    async def close(self) -> None:
        """See `Transport.close`."""
        await self._transport.close()

    async def _carry(
        self, to: NodeName, timeout: Seconds, send: Callable[[Seconds], Awaitable[Any]], lane: object = None
    ) -> Any:
        deadline = self._loop.time() + timeout
        await self._depart(to, deadline, lane)
        # (No other task runs between the departure and the first step of `send`: that keeps the order of a lane.)
        try:
            answer = await send(max(0.001, deadline - self._loop.time()))
        except KvnodeError:
            await self._arrive(to, deadline)
            raise
        await self._arrive(to, deadline)
        return answer

    async def _depart(self, to: NodeName, deadline: Seconds, lane: object) -> None:
        """Waits as long as the request is late. Raises `PeerUnreachable` when it is lost."""
        delay = self._links.draw(to, OUT)
        if delay is None:
            await self._lose(to, deadline)
        elif lane is None or (not delay and self._lanes.is_free(lane)):
            await self._wait(to, delay, deadline)
        else:
            turn = self._lanes.enter(lane)
            try:
                await self._wait(to, delay, deadline)
                async with asyncio.timeout(deadline - self._loop.time()):
                    await turn.come()
            except TimeoutError:
                raise _unreachable(to) from None
            finally:
                turn.leave()

    async def _arrive(self, to: NodeName, deadline: Seconds) -> None:
        """The same for the answer."""
        delay = self._links.draw(to, IN)
        if delay is None:
            await self._lose(to, deadline)
        else:
            await self._wait(to, delay, deadline)

    async def _wait(self, to: NodeName, delay: Seconds, deadline: Seconds) -> None:
        if delay:
            await self._links.wait(to, min(delay, max(0.0, deadline - self._loop.time())))
            if self._loop.time() >= deadline:
                raise _unreachable(to)

    async def _lose(self, to: NodeName, deadline: Seconds) -> None:
        await asyncio.sleep(min(GIVEN_UP_AFTER, max(0.0, deadline - self._loop.time())))
        raise _unreachable(to)


def _unreachable(peer: NodeName) -> PeerUnreachable:
    return PeerUnreachable(f"{peer} did not answer in time (a fault is injected here: kvctl fault list)")


class _UntilCut:
    """Parts of a snapshot, until the link is cut."""

    def __init__(self, requests: Iterable[Any], is_cut: Callable[[], bool]) -> None:
        self._requests, self._is_cut = requests, is_cut
        self.cut = False

    def __iter__(self) -> Iterator[Any]:
        for request in self._requests:
            if self._is_cut():
                self.cut = True
                return
            yield request
