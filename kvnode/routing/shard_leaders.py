"""Requests of two-phase commit to whoever leads a shard: found, asked, and asked again elsewhere when leaders change.

Every request of the protocol may be repeated, so it is repeated until it is answered or the time is over. What the caller must
know is whether an attempt may have reached a log without an answer: `InDoubt`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from kvnode.errors import DeadlineExpired, KvnodeError, NotLeader, StaleShardMap
from kvnode.observe.tracing import current, traceparent_of
from kvnode.routing.shard_map import ShardMap
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.types import NodeName, Seconds, Shard

PAUSE_MIN: Seconds = 0.01
PAUSE_MAX: Seconds = 0.2
ATTEMPT_MAX: Seconds = 2.0
"""A leader that does not answer for so long may be frozen: perhaps there is another by then."""
RETRYABLE = ("NO_LEADER", "NOT_LEADER", "WRONG_SHARD", "UNAVAILABLE", "OUTCOME_UNKNOWN", "OVERLOADED", "DEADLINE_EXCEEDED")


class NotAsked(Exception):
    """Time is over, and no attempt can have reached a log."""

    def __init__(self, why: str) -> None:
        super().__init__(why)
        self.why = why


class InDoubt(NotAsked):
    """Time is over; an attempt may have reached a log, or may yet."""


class ShardLeaders:
    """Asks the leaders of shards, this node among them."""

    def __init__(
        self,
        me: NodeName,
        shard_map: ShardMap,
        leader_of: Callable[[Shard], NodeName],
        handlers: Mapping[type, Callable[[Any, Seconds], Awaitable[Any]]],
        envelopes: Envelopes,
        transport: Transport,
        loop: asyncio.AbstractEventLoop,
        rng: random.Random,
    ) -> None:
        self._me, self._map, self._leader_of = me, shard_map, leader_of
        self._handlers, self._envelopes, self._transport = handlers, envelopes, transport
        self._loop, self._rng = loop, rng
        self._hints: dict[Shard, NodeName] = {}

    async def ask(self, shard: Shard, request: Any, until: Seconds) -> Any:
        """The shard's leader's answer. Raises `NotAsked` or `InDoubt` when the time is over, and errors that no other attempt
        would mend."""
        in_doubt, last, attempt, tried = False, "no time was left", 0, ""
        while True:
            now = self._loop.time()
            if now >= until:
                raise (InDoubt if in_doubt else NotAsked)(f"shard {shard}: {last}")
            node = self._target(shard, tried)
            try:
                return await self._once(node, request, min(until - now, ATTEMPT_MAX))
            except PeerUnreachable as error:
                in_doubt = in_doubt or not error.refused
                self._hints.pop(shard, None)
                last, tried = str(error), node
            except KvnodeError as error:
                # (A handler's own deadline may have passed with the entry in the log, or before: see `LocalShards.propose`.)
                in_doubt = in_doubt or not error.definite
                if error.reason not in RETRYABLE:
                    if in_doubt:
                        raise InDoubt(f"shard {shard}: {error.message}") from error
                    raise
                last, tried = error.message, node
                self._learn(shard, error)
            attempt += 1
            pause = min(PAUSE_MAX, PAUSE_MIN * 2 ** min(attempt, 6)) * self._rng.uniform(0.5, 1.0)
            await asyncio.sleep(min(pause, max(0.0, until - self._loop.time())))

    async def _once(self, node: NodeName, request: Any, timeout: Seconds) -> Any:
        if node == self._me:
            return await self._handlers[type(request)](request, self._loop.time() + timeout)
        sealed = self._envelopes.seal(node, request)
        cause = current()
        if cause is not None:
            sealed.message.trace.traceparent = traceparent_of(cause)
        return await self._transport.call(node, sealed, timeout)

    def _target(self, shard: Shard, tried: NodeName) -> NodeName:
        """The leader as this node knows it, or as somebody said; else a replica, another one than just tried."""
        known = self._leader_of(shard) or self._hints.get(shard, "")
        if known:
            return known
        return self._rng.choice([name for name in self._map.replicas[shard] if name != tried] or [tried])

    def _learn(self, shard: Shard, error: KvnodeError) -> None:
        named = error.metadata.get("leader_name", "") if isinstance(error, NotLeader) else ""
        if named in self._map.members:
            self._hints[shard] = named
        elif isinstance(error, NotLeader | StaleShardMap | DeadlineExpired):
            self._hints.pop(shard, None)
