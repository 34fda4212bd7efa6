"""Ranges: every shard's part here or on another node, merged by key into one page.

A strong page shows one state of each shard; the parts of several shards are not one state of all (a transaction's are).
"""

from __future__ import annotations

import asyncio
import heapq
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvapi.v1 import kv_pb2
from kvclient.hashing import hashed_part
from kvnode import limits
from kvnode.observe.stages import COLLECT, REPLY
from kvnode.protocol.two_phase_commit.locks import Interval, Locks
from kvnode.routing.context import RequestContext
from kvnode.routing.local import SCAN_ROWS_PER_TURN
from kvnode.routing.ranges import key_value, range_bounds
from kvnode.shard.replica import Replica
from kvnode.types import Index, Shard

if TYPE_CHECKING:
    from kvnode.routing.router import Router

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
SESSION, BOUNDED = kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED


class RangeRouter:
    """`KV.Range`, on checked requests."""

    def __init__(self, router: Router) -> None:
        self._router, self._local = router, router.local

    async def range(self, request: kv_pb2.RangeRequest, context: RequestContext) -> kv_pb2.RangeResponse:
        """Reads a page of a range, or counts it: every shard's part here or on another node, merged by key."""
        start, end = range_bounds(request)
        shards = [request.shard] if request.HasField("shard") else self._shards_of(request)
        if len(shards) > 1:
            context.timeline.enter(COLLECT)
        each = context.untimed() if len(shards) > 1 else context
        parts = await asyncio.gather(*(self._prepare_part(shard, request, each) for shard in shards))
        for at, shard in enumerate(shards):
            # While other parts were waited for, this one may have fallen behind its bound.
            while parts[at] is None and self._is_behind(shard, request):
                parts[at] = await self._prepare_part(shard, request, each)
        if len(shards) > 1:
            context.timeline.enter(REPLY)
        local = [(shard, self._local.replicas[shard]) for shard, part in zip(shards, parts, strict=True) if part is None]
        remote = [part for part in parts if part is not None]
        tentative = request.consistency in (EVENTUAL, SESSION)
        response = kv_pb2.RangeResponse()
        if request.count_only:
            response.count = sum(part.count for part in remote)
            for _, replica in local:
                response.count += await self._count(replica, start, end, tentative)
        if not request.count_only:
            await self._read_page(response, request, Interval(start, end), [replica for _, replica in local], remote, context)
        for _, replica in local:
            writes = replica.holder.positions() if tentative else None
            response.served.append(self._local.served(replica, request.consistency, request.session, writes=writes))
        for part in remote:
            response.served.extend(part.served)
        return response

    async def _read_page(
        self,
        response: kv_pb2.RangeResponse,
        request: kv_pb2.RangeRequest,
        wanted: Interval,
        local: list[Replica],
        remote: list[kv_pb2.RangeResponse],
        context: RequestContext,
    ) -> None:
        """Fills the page; again, if transactions under way would make it no one state of a shard."""
        tentative = request.consistency in (EVENTUAL, SESSION)
        cut = [part for part in remote if part.next_page_token]
        while True:
            rows: list[Iterator[tuple[bytes, Any]]] = [self._local.scan(replica, *wanted, tentative) for replica in local]
            rows.extend(iter([(item.key, item) for item in part.items]) for part in remote)
            self._fill_page(response, request, heapq.merge(*rows, key=lambda row: row[0]), cut)
            end = response.next_page_token + b"\0" if response.next_page_token else wanted.end
            seen = Interval(wanted.start, end)
            torn = [(replica, vote) for replica in local if (vote := self._torn_by(replica, seen, request)) is not None]
            if not torn:
                return
            for replica, vote in torn:
                await self._local.locks.until_readable(replica, seen, vote, context)

    def _torn_by(self, replica: Replica, seen: Interval, request: kv_pb2.RangeRequest) -> Index | None:
        """The first vote of a transaction under way that is older than a row which was seen: its own rows are missing, so that
        the page would be no one state of the shard."""
        vote = self._local.locks.lowest_vote(replica, Locks(ranges=(seen,))) if request.consistency == STRONG else None
        if vote is None:
            return None
        machine = replica.machine
        is_newer = machine.horizon >= vote or any(version.place >= vote for _, version in machine.scan(*seen))
        return vote if is_newer else None

    def _is_behind(self, shard: Shard, request: kv_pb2.RangeRequest) -> bool:
        if request.consistency != BOUNDED:
            return False
        staleness = self._local.replicas[shard].staleness(self._local.driver.loop.time())
        return staleness is None or staleness * 1000 > request.max_staleness_ms

    def _shards_of(self, request: kv_pb2.RangeRequest) -> list[Shard]:
        # A complete {tag} in the prefix decides the shard of every key in the range.
        if hashed_part(request.prefix) != request.prefix:
            return [self._router.map.shard_of(request.prefix)]
        return list(range(self._router.map.shards))

    async def _prepare_part(
        self, shard: Shard, request: kv_pb2.RangeRequest, context: RequestContext
    ) -> kv_pb2.RangeResponse | None:
        replica = self._local.replicas.get(shard)
        forward_to = await self._router.prepare_read(shard, replica, request, Interval(*range_bounds(request)), context)
        if not forward_to:
            return None
        part = kv_pb2.RangeRequest()
        part.CopyFrom(request)
        part.shard = shard
        response: kv_pb2.RangeResponse = await self._router.forward(forward_to, part, context, is_write=False)
        return response

    async def _count(self, replica: Replica, start: bytes, end: bytes | None, tentative: bool) -> int:
        total = 0
        while True:
            scanned = 0
            for key, seen in self._local.scan(replica, start, end, tentative):
                scanned, total, last = scanned + 1, total + (seen is not None), key
                if scanned == SCAN_ROWS_PER_TURN:
                    break
            if scanned < SCAN_ROWS_PER_TURN:
                return total
            start = last + b"\0"
            await asyncio.sleep(0)

    def _fill_page(
        self,
        response: kv_pb2.RangeResponse,
        request: kv_pb2.RangeRequest,
        rows: Iterator[tuple[bytes, Any]],
        cut: list[kv_pb2.RangeResponse],
    ) -> None:
        """Takes rows until the page is full, or enough rows were looked at; the token is the last key that was."""
        limit = request.limit or limits.RANGE_LIMIT_DEFAULT
        del response.items[:]
        response.next_page_token = b""
        # Behind the last key of a part that was cut, that part's next keys are not known: the page ends there at the latest.
        known_to = min((part.next_page_token for part in cut), default=None)
        size = scanned = 0
        last = b""
        for key, row in rows:
            if (
                len(response.items) == limit
                or size > limits.RANGE_RESPONSE_SIZE_BYTES_MAX
                or scanned == limits.RANGE_ROWS_SCANNED_MAX
                or (known_to is not None and key > known_to)
            ):
                response.next_page_token = known_to if known_to is not None and key > known_to else last
                break
            scanned, last = scanned + 1, key
            if row is not None:
                item = row if isinstance(row, kv_pb2.KeyValue) else key_value(key, row, request.keys_only)
                response.items.append(item)
                size += len(key) + len(item.value) + 64
        else:
            response.next_page_token = known_to or b""
        response.count = len(response.items)
