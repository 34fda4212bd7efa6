"""Ends transactions whose coordinator does not: by push, from every side that is blocked (DESIGN section 8).

A shard's leader that has had a vote for longer than the push time-out asks the anchor's log for the decision, which is ABORT
where there is none. An anchor's leader that has a decision not known to be applied everywhere tells the participants again.

Owns how long this node has known what; time never decides an outcome, only when to ask.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Coroutine, Iterable, Mapping
from typing import Any

import structlog

from kvapi.v1 import two_phase_commit_pb2
from kvnode.errors import KvnodeError, Unavailable
from kvnode.routing.coordinators import COMMITTED, Coordinators
from kvnode.routing.shard_leaders import NotAsked, ShardLeaders
from kvnode.runtime.driver import Driver
from kvnode.shard.replica import Replica
from kvnode.shard.transactions import End
from kvnode.types import Seconds, Shard, Txn

logger = structlog.get_logger(__name__)

ASK_WITHIN: Seconds = 5.0
AT_ONCE_PER_ANCHOR_MAX = 16
"""Transactions with one anchor that a node pushes at once, and as many whose decision it spreads: neither an anchor without a
leader nor a participant without one keeps the others waiting."""
PAUSE_MIN: Seconds = 0.1
PAUSE_MAX: Seconds = 1.0
"""Between two attempts for one transaction, doubling."""


class Recovery:
    """Of one node, for the shards that it leads."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        leaders: ShardLeaders,
        coordinators: Coordinators,
        push_after: Seconds,
    ) -> None:
        self._driver, self._replicas, self._leaders, self._coordinators = driver, replicas, leaders, coordinators
        self._push_after = push_after
        self._loop = driver.loop
        self._since: dict[tuple[Shard, Txn], Seconds] = {}
        self._tasks: dict[tuple[Shard, Txn], asyncio.Task[Any]] = {}
        self._in_flight: Counter[tuple[str, Shard]] = Counter()
        """Tasks by what they do, and the anchor that they ask, or speak for."""
        self._backlog: dict[tuple[str, Shard], dict[tuple[Shard, Txn], None]] = {}
        """What found no place, in order."""
        self._pauses: dict[tuple[Shard, Txn], tuple[Seconds, Seconds]] = {}
        """When to try again, and how long the pause was."""
        self._closed = False

    async def stop(self) -> None:
        """Ends all tasks."""
        self._closed = True
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def known_for(self, shard: Shard, txn: Txn) -> Seconds:
        """How long this node, as the shard's leader, has known that the transaction is under way."""
        since = self._since.get((shard, txn))
        return 0.0 if since is None else self._loop.time() - since

    def step(self) -> None:
        """To be called regularly: pushes whatever has been under way for too long."""
        now, known = self._loop.time(), self._since
        self._since = {}
        self._pauses = {what: pause for what, pause in self._pauses.items() if what in known}
        for shard, replica in self._replicas.items():
            transactions = replica.machine.transactions
            if not replica.is_leader or not (transactions.prepared or transactions.spreading):
                continue
            for txn in (*transactions.prepared, *transactions.spreading):
                since = self._since[shard, txn] = known.get((shard, txn), now)
                if now - since >= self._push_after:
                    self.push(shard, txn)

    def push(self, shard: Shard, txn: Txn) -> None:
        """Has the transaction end in this shard, unless that is under way already."""
        transactions = self._replicas[shard].machine.transactions
        prepared, end = transactions.prepared.get(txn), transactions.spreading.get(txn)
        coroutine: Coroutine[Any, Any, Any]
        if prepared is not None:
            lane, coroutine = ("push", prepared.command.anchor), self._end(txn, prepared.command.anchor, (shard,))
        elif end is not None:
            lane, coroutine = ("spread", shard), self._spread(shard, txn, end)
        else:
            return
        due, _ = self._pauses.get((shard, txn), (0.0, 0.0))
        full = self._in_flight[lane] >= AT_ONCE_PER_ANCHOR_MAX
        if (shard, txn) in self._tasks or full or self._closed or self._loop.time() < due:
            coroutine.close()
            if full:
                self._backlog.setdefault(lane, {})[shard, txn] = None
            return
        task = self._loop.create_task(coroutine, name=f"end {txn} in shard {shard}")
        self._tasks[shard, txn] = task
        self._in_flight[lane] += 1
        task.add_done_callback(lambda done: self._on_done(shard, txn, lane, done))

    def _on_done(self, shard: Shard, txn: Txn, lane: tuple[str, Shard], task: asyncio.Task[Any]) -> None:
        self._tasks.pop((shard, txn), None)
        self._in_flight[lane] -= 1
        waiting = self._backlog.get(lane, {})
        while waiting and self._in_flight[lane] < AT_ONCE_PER_ANCHOR_MAX:
            following = next(iter(waiting))
            del waiting[following]
            self.push(*following)
        # (Also after a success: its effect on this replica may take a moment.)
        pause = min(PAUSE_MAX, max(PAUSE_MIN, 2 * self._pauses.get((shard, txn), (0.0, 0.0))[1]))
        self._pauses[shard, txn] = (self._loop.time() + pause, pause)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KvnodeError | NotAsked):
            self._driver.fatal(error)

    async def end(self, txn: Txn, anchor: Shard) -> bool:
        """Has a transaction that is under way end in all its shards, and answers whether it is committed. Raises `Unavailable`
        where its anchor cannot be asked."""
        shards: dict[Shard, None] = {}
        for replica in self._replicas.values():
            prepared = replica.machine.transactions.prepared.get(txn)
            spreading = replica.machine.transactions.spreading.get(txn)
            shards.update(
                dict.fromkeys(prepared.command.participants if prepared else spreading.unresolved if spreading else ())
            )
        try:
            return await self._end(txn, anchor, tuple(shards))
        except NotAsked as error:
            raise Unavailable(f"transaction {txn}: {error.why}; its anchor is shard {anchor}", shard=anchor) from error

    async def _end(self, txn: Txn, anchor: Shard, shards: tuple[Shard, ...]) -> bool:
        """What does the anchor's log say? It must say something final now; then these shards are told."""
        name = two_phase_commit_pb2.TransactionId(start=txn.start, id=txn.id)
        request = two_phase_commit_pb2.TransactionStatusRequest(transaction=name, anchor=anchor, push=True)
        status = await self._leaders.ask(anchor, request, self._loop.time() + ASK_WITHIN)
        committed: bool = status.state == COMMITTED
        end = End(committed, status.succeeded, status.committed_at)
        await self._tell(txn, end, [shard for shard in shards if shard != anchor])
        logger.info("transaction pushed", shards=list(shards), anchor=anchor, transaction=str(txn), committed=committed)
        return committed

    async def _spread(self, anchor: Shard, txn: Txn, end: End) -> None:
        """The anchor: tells every participant the decision, again."""
        await self._tell(txn, end, end.unresolved)
        logger.info("decision spread again", anchor=anchor, transaction=str(txn), participants=list(end.unresolved))
        self._coordinators.forget(anchor, txn)

    async def _tell(self, txn: Txn, end: End, shards: Iterable[Shard]) -> None:
        name = two_phase_commit_pb2.TransactionId(start=txn.start, id=txn.id)
        until = self._loop.time() + ASK_WITHIN
        asked = [
            self._leaders.ask(
                shard,
                two_phase_commit_pb2.ResolveRequest(
                    transaction=name,
                    shard=shard,
                    commit=end.committed,
                    succeeded=end.succeeded,
                    committed_at=end.committed_at,
                ),
                until,
            )
            for shard in shards
        ]
        # All of them are told, also where one cannot be reached.
        for outcome in await asyncio.gather(*asked, return_exceptions=True):
            if isinstance(outcome, BaseException):
                raise outcome
