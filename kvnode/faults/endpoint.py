"""The receiving side of the peer protocols, where requests get lost or come late, as injected.

A lost request is never handled and, as far as the peer can tell, never answered: on a stream that holds up what comes behind
it, as a lost segment does on a TCP connection, until the peer gives the stream up or the fault ends.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from kvapi.v1 import failure_detection_pb2, replication_pb2
from kvnode.api.peer_service import PeerEndpoint
from kvnode.errors import Unavailable
from kvnode.faults.links import GIVEN_UP_AFTER, IN, ORDERED, Lanes, Links


class FaultyEndpoint:
    """`PeerEndpoint` before another one."""

    def __init__(self, endpoint: PeerEndpoint, links: Links) -> None:
        self._endpoint, self._links = endpoint, links
        self._lanes = Lanes(links.loop)

    async def handle(self, request: Any) -> Any:
        """See `Endpoint.handle`."""
        sender = request.message.from_node
        delay = self._links.draw(sender, IN)
        if delay is None:
            await self._lose(request)
        lane = (sender, type(request)) if type(request) in ORDERED else None
        if lane is None or (not delay and self._lanes.is_free(lane)):
            if delay:
                await self._links.wait(sender, delay)
        else:
            turn = self._lanes.enter(lane)
            try:
                if delay:
                    await self._links.wait(sender, delay)
                await turn.come()
            finally:
                turn.leave()
        return await self._endpoint.handle(request)

    async def install_snapshot(
        self, requests: AsyncIterator[replication_pb2.InstallSnapshotRequest]
    ) -> replication_pb2.InstallSnapshotResponse:
        """See `Endpoint.install_snapshot`."""
        return await self._endpoint.install_snapshot(self._parts(requests))

    async def _parts(self, requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
        first = True
        async for request in requests:
            sender = request.message.from_node
            delay = self._links.draw(sender, IN) if first else 0.0
            if delay is None or self._links.is_cut(sender, IN):
                await self._lose(request)
            elif delay:
                await self._links.wait(sender, delay)
            first = False
            yield request

    async def _lose(self, request: Any) -> None:
        """Raises `Unavailable` when the fault ends, so that a stream stalls no longer; or when nobody waits any more."""
        task = asyncio.current_task()
        assert task is not None
        task.add_done_callback(lambda done: done.cancelled() or done.exception())  # (its stream may be gone by then)
        sender = request.message.from_node
        if isinstance(request, failure_detection_pb2.HeartbeatRequest):
            # Its sender gives up soon; and to be refused, or reset, would tell it that something listens here, or died.
            await asyncio.sleep(GIVEN_UP_AFTER)
        else:
            await self._links.wait(sender, GIVEN_UP_AFTER)
        raise Unavailable(f"a message of {sender} was lost: a fault is injected here (kvctl fault list)")
