"""What injected faults do to messages: the draw of each message's fate, and the waiting that comes of it.

Owns which link faults last. Never looks into a message. Faults of one link add up: a message is lost if any of them loses it,
and late by the sum of their delays. Invariant: what waits here waits no longer than the fault for which it does.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Hashable, Mapping

from kvapi.v1 import failure_detection_pb2, fault_pb2, replication_pb2
from kvnode.types import NodeName, Seconds

Direction = fault_pb2.LinkDirection
IN, OUT = fault_pb2.LINK_DIRECTION_IN, fault_pb2.LINK_DIRECTION_OUT
BOTH_WAYS = (fault_pb2.LINK_DIRECTION_UNSPECIFIED, fault_pb2.LINK_DIRECTION_BOTH)
ORDERED = (failure_detection_pb2.HeartbeatRequest, replication_pb2.AppendRequest)
"""Requests that arrive in the order of the calls, unless lost (`runtime.transport`)."""
GIVEN_UP_AFTER: Seconds = 15.0
"""A connection on which nothing comes through is given up after so long (gRPC's keepalive, `runtime.grpc_transport`)."""


class Links:
    """All links of this node."""

    def __init__(self, loop: asyncio.AbstractEventLoop, rng: random.Random) -> None:
        self.loop, self._rng = loop, rng
        self._faults: Mapping[str, fault_pb2.LinkFault] = {}
        self._waiting: dict[asyncio.Future[None], NodeName] = {}

    def set(self, faults: Mapping[str, fault_pb2.LinkFault]) -> None:
        """From now on these faults last, by id, and no others. What waits for one that has ended goes on."""
        ended = [fault.peer for fault_id, fault in self._faults.items() if fault_id not in faults]
        self._faults = faults
        for future, peer in list(self._waiting.items()):
            if not future.done() and ("" in ended or peer in ended):
                future.set_result(None)

    def _hurting(self, peer: NodeName, direction: Direction) -> list[fault_pb2.LinkFault]:
        return [
            fault
            for fault in self._faults.values()
            if fault.peer in ("", peer) and (fault.direction == direction or fault.direction in BOTH_WAYS)
        ]

    def is_cut(self, peer: NodeName, direction: Direction) -> bool:
        """Whether nothing passes."""
        return any(fault.loss >= 1 for fault in self._hurting(peer, direction))

    def draw(self, peer: NodeName, direction: Direction) -> Seconds | None:
        """How late one message comes; None: never."""
        delay_ms = 0.0
        for fault in self._hurting(peer, direction):
            if self._rng.random() < fault.loss:
                return None
            delay_ms += fault.delay_ms + self._rng.random() * fault.jitter_ms
        return delay_ms / 1000

    async def wait(self, peer: NodeName, delay: Seconds) -> None:
        """Waits so long, or until a fault of the peer's link ends."""
        future: asyncio.Future[None] = self.loop.create_future()
        timer = self.loop.call_later(delay, _finish, future)
        self._waiting[future] = peer
        try:
            await future
        finally:
            timer.cancel()
            del self._waiting[future]


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Lanes:
    """Whatever each is delayed, those in one lane leave in the order in which they came."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._last: dict[Hashable, asyncio.Future[None]] = {}

    def is_free(self, lane: Hashable) -> bool:
        """Whether nobody waits in it."""
        return lane not in self._last

    def enter(self, lane: Hashable) -> Turn:
        """A place behind all who are in the lane."""
        left: asyncio.Future[None] = self._loop.create_future()
        turn = Turn(self._last.get(lane), left)
        self._last[lane] = left
        left.add_done_callback(lambda done: self._last.pop(lane) if self._last.get(lane) is done else None)
        return turn


class Turn:
    """A place in a lane. Whoever has one must `leave` it, however it ends."""

    def __init__(self, before: asyncio.Future[None] | None, left: asyncio.Future[None]) -> None:
        self._before, self._left = before, left

    async def come(self) -> None:
        """Waits until those before have left."""
        if self._before is not None:
            await asyncio.shield(self._before)

    def leave(self) -> None:
        """Those behind may go once this step of the event loop is over, and when those before have left, too."""
        if self._before is None or self._before.done():
            _finish(self._left)
        else:
            self._before.add_done_callback(lambda done: _finish(self._left))
