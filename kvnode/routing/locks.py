"""Waiting for the locks of transactions, on the node that wants something done.

Owns who waits, in which order they go on, and wound-wait: an older transaction has younger ones that are in its way pushed, a
younger one waits. The locks themselves are in the shard's replicated state; here nothing survives, and nothing need.

Invariants: whoever waits for ever waits for somebody older (`protocol/two_phase_commit/locks.py`); who waited longest goes on
first; a strong read waits only for votes at or below its index, so later transactions cannot hold it up. (A read of several
rows also waits for a later vote, where a row that it saw is newer than that vote: else the rows would be no one state.)
"""

from __future__ import annotations

import asyncio
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from kvnode import limits
from kvnode.errors import DeadlineExpired, NoLeader, Overloaded
from kvnode.observe.stages import ADMISSION, LOCK_WAIT, REPLY
from kvnode.protocol.two_phase_commit.locks import Interval, Locks, LockTable, wounded_by
from kvnode.routing.context import RequestContext
from kvnode.runtime.tokens import deliver
from kvnode.shard.replica import Replica
from kvnode.types import Hlc, Index, Seconds, Shard, Txn

ANSWER_SHARE = 0.1
ANSWER_MAX: Seconds = 0.1
"""What is left of a caller's time when the waiting ends, so that the word that nothing happened still arrives in time."""
WOUND_AFTER: Seconds = 0.05
"""How long an older transaction waits for a younger one that may be about to end, before it has it pushed."""


class _Waiter(NamedTuple):
    """The age of a request, and what wakes it."""

    age: Txn
    number: int
    future: asyncio.Future[None]


class _Queue:
    """Who waits for locks of one shard. As a token it wakes all, the oldest first."""

    def __init__(self) -> None:
        self._waiters: list[_Waiter] = []
        self._number = 0

    def __len__(self) -> int:
        return len(self._waiters)

    def add(self, age: Txn, future: asyncio.Future[None]) -> _Waiter:
        """One more waits."""
        self._number += 1
        waiter = _Waiter(age, self._number, future)
        insort(self._waiters, waiter, key=lambda one: one[:2])
        return waiter

    def remove(self, waiter: _Waiter) -> None:
        """It waits no more."""
        if waiter in self._waiters:
            self._waiters.remove(waiter)

    def done(self) -> bool:
        """Never: see `tokens.Token`."""
        return False

    def set_result(self, _: object, /) -> None:
        """Something was given back."""
        waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            deliver(waiter.future, None)

    def set_exception(self, exception: object, /) -> None:
        """Likewise; each looks for itself."""
        self.set_result(exception)


class LockWaits:
    """Of one node, over all its shards."""

    def __init__(
        self, loop: asyncio.AbstractEventLoop, clock: Callable[[], Hlc], check_serving: Callable[[], None] = lambda: None
    ) -> None:
        """`check_serving` raises where it would be in vain to wait: the node stops."""
        self._loop, self._clock, self._check_serving = loop, clock, check_serving
        self._queues: dict[Shard, _Queue] = {}
        self._claims: dict[Shard, LockTable] = {}
        self.push: Callable[[Shard, Txn], None] = lambda shard, txn: None
        """Has a transaction that is prepared in the shard decided, as an abort if it must be; see `recovery`."""

    def waiting(self, shard: Shard) -> int:
        """How many wait for locks of the shard."""
        queue = self._queues.get(shard)
        return len(queue) if queue else 0

    # ---- strong writes and votes ------------------------------------------------------------------------------------

    def age(self) -> Txn:
        """The age of a request that is no transaction and arrives now."""
        return Txn(self._clock(), b"")

    async def until_free(
        self, replica: Replica, wanted: Locks, context: RequestContext, age: Txn, me: Txn | None = None
    ) -> None:
        """Waits until nothing is in the way of `wanted`; `me`: the transaction that wants to vote, may wound others, and need
        not wait any more when it has ended here.

        Raises `DeadlineExpired` naming who holds what, `NoLeader` when this node leads no more, `Overloaded`.
        """
        if not self._conflicts(replica, wanted, me):
            return
        wound_at, latest = self._loop.time() + WOUND_AFTER, self._latest(context)
        context.timeline.enter(LOCK_WAIT)
        while conflicts := self._conflicts(replica, wanted, me):
            if me is not None and replica.machine.transactions.end_of(me) is not None:
                return
            now = self._loop.time()
            if now >= latest:
                raise DeadlineExpired(self._late(replica, conflicts) + "; nothing was stored")
            if not replica.takes_proposals:
                raise NoLeader(f"shard {replica.shard}: this node leads it no more; try again", shard=replica.shard)
            if me is not None and now >= wound_at:
                for holder in wounded_by(me, conflicts):
                    self.push(replica.shard, holder)
            until = wound_at if me is not None and now < wound_at else latest
            await self._woken(replica, age, min(until, latest))
        context.timeline.enter(ADMISSION)

    def _conflicts(self, replica: Replica, wanted: Locks, me: Txn | None) -> tuple[Txn, ...]:
        locks, claims = replica.machine.transactions.locks, self._claims.get(replica.shard)
        if not locks and not claims:
            return ()
        return locks.conflicts(wanted, me) + (claims.conflicts(wanted, me) if claims else ())

    @contextmanager
    def claim(self, replica: Replica, me: Txn, wanted: Locks) -> Iterator[None]:
        """While a vote is on its way through the log, nobody else need try the same locks."""
        claims = self._claims.setdefault(replica.shard, LockTable())
        if me in claims or claims.conflicts(wanted):
            # The same request twice at once: the log tells them apart.
            yield
            return
        claims.take(me, wanted)
        try:
            yield
        finally:
            claims.release(me)
            queue = self._queues.get(replica.shard)
            if queue:
                queue.set_result(None)

    # ---- reads ------------------------------------------------------------------------------------------------------

    async def until_readable(self, replica: Replica, what: bytes | Interval, index: Index, context: RequestContext) -> None:
        """Waits until the transactions that had locked the key, or a key of the interval, for writing by a vote at or below
        `index` have ended on this replica. Raises `DeadlineExpired` naming them."""
        if not replica.machine.transactions.locks:
            return
        latest = self._latest(context)
        if not self._blocking(replica, what, index):
            return
        context.timeline.enter(LOCK_WAIT)
        while blocking := self._blocking(replica, what, index):
            if self._loop.time() >= latest:
                raise DeadlineExpired(self._late(replica, blocking))
            await self._woken(replica, Txn(index, b""), latest)
        context.timeline.enter(REPLY)

    @staticmethod
    def _blocking(replica: Replica, what: bytes | Interval, index: Index) -> tuple[Txn, ...]:
        transactions = replica.machine.transactions
        if isinstance(what, bytes):
            writer = transactions.locks.writer(what)
            writers: tuple[Txn, ...] = () if writer is None else (writer,)
        else:
            writers = tuple(dict.fromkeys(transactions.locks.writers_within(what)))
        return tuple(txn for txn in writers if transactions.prepared[txn].index <= index)

    @staticmethod
    def lowest_vote(replica: Replica, wanted: Locks) -> Index | None:
        """The index of the first vote, of those whose transactions are under way, to write anything of `wanted`."""
        transactions = replica.machine.transactions
        if not transactions.locks:
            return None
        reads = Locks((), wanted.writes + wanted.reads, wanted.ranges)
        return min((transactions.prepared[txn].index for txn in transactions.locks.conflicts(reads)), default=None)

    async def until_quiet(self, replica: Replica, wanted: Locks, rounds_max: int, context: RequestContext) -> bool:
        """Waits until nobody has locked anything of `wanted` for writing, at most so many times; False: still locked."""
        reads = Locks((), wanted.writes + wanted.reads, wanted.ranges)
        for _ in range(rounds_max):
            if not replica.machine.transactions.locks.conflicts(reads):
                return True
            if self._loop.time() >= context.deadline:
                break
            await self._woken(replica, Txn(0, b""), context.deadline)
        return not replica.machine.transactions.locks.conflicts(reads)

    def _latest(self, context: RequestContext) -> Seconds:
        now = self._loop.time()
        return context.deadline - min(ANSWER_MAX, ANSWER_SHARE * max(0.0, context.deadline - now))

    # ---- waiting ----------------------------------------------------------------------------------------------------

    async def _woken(self, replica: Replica, age: Txn, until: Seconds) -> None:
        """Waits until something was given back in the shard, its leader changed, or the time has come."""
        self._check_serving()
        queue = self._queues.setdefault(replica.shard, _Queue())
        if len(queue) >= limits.LOCK_WAITERS_PER_SHARD_MAX:
            raise Overloaded(
                f"shard {replica.shard}: {limits.LOCK_WAITERS_PER_SHARD_MAX} requests wait for transactions already",
                shard=replica.shard,
            )
        future: asyncio.Future[None] = self._loop.create_future()
        waiter = queue.add(age, future)
        replica.waits.for_end(queue)
        replica.waits.for_leader(future)
        timer = self._loop.call_at(until, deliver, future, None)
        try:
            await future
        finally:
            timer.cancel()
            queue.remove(waiter)
            replica.waits.forget(future)

    def _late(self, replica: Replica, holders: tuple[Txn, ...]) -> str:
        prepared = replica.machine.transactions.prepared.get(holders[0])
        who = f"transaction {holders[0]}" + (f" (its anchor is shard {prepared.command.anchor})" if prepared else "")
        more = f" and {len(holders) - 1} more" if len(holders) > 1 else ""
        return f"shard {replica.shard}: the time is over while {who}{more} has locked what was asked for"
