"""A node with several shards and two-phase commit, in virtual time: waits cost nothing, and end when they should."""

from __future__ import annotations

import asyncio
import functools
import inspect
import random
from collections.abc import Awaitable, Callable
from typing import Any

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.observe.observer import Observer
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing.context import RequestContext
from kvnode.routing.two_phase import TwoPhaseCommit
from kvnode.types import Txn
from tests.sim.loop import SimulatedLoop, run
from tests.unit.routing.stand import Stand
from tests.unit.shard.machine import Part, named, part

PUSH_AFTER = 1.0
BEAT = 0.05


class TwoPhaseStand(Stand):
    """Node "1" leads all shards, hears its followers, and is told regularly to recover, if `recovers`."""

    def __init__(self, loop: asyncio.AbstractEventLoop, shards: int = 2) -> None:
        super().__init__(loop, shards)
        self.recovers = False
        transport: Any = self
        self.observer = Observer()
        self.two_phase = TwoPhaseCommit(
            self.router, self.envelopes, transport, self._clock, PUSH_AFTER, random.Random(0), self.observer.recorder
        )
        self.pushed: list[Txn] = []
        self._beat()

    def _beat(self) -> None:
        self.want_round()
        if self.recovers:
            self.two_phase.recovery.step()
        self.loop.call_later(BEAT, self._beat)

    def note_pushes(self) -> None:
        """Whoever is pushed is noted, and lives on."""
        self.local.locks.push = lambda shard, txn: self.pushed.append(txn)

    def context(self, seconds: float = 5.0) -> RequestContext:
        """A caller that waits so long."""
        return RequestContext(self.loop.time() + seconds)

    def key(self, shard: int, name: bytes = b"") -> bytes:
        """A key of the shard."""
        return next(key for n in range(99) if self.map.shard_of(key := b"{%d}%b" % (n, name)) == shard)

    def state(self, one: Txn, shard: int = 0) -> State:
        """What the shard knows of a transaction."""
        return self.replicas[shard].machine.transactions.state_of(one)

    # ---- what others have done ----------------------------------------------------------------------------------------

    async def propose(self, shard: int = 0, **operation: Any) -> Any:
        """An entry of the shard's log, as any leader could have proposed it; its outcome."""
        return await self.local.propose(self.replicas[shard], replication_pb2.Command(**operation), self.context())

    async def prepare(
        self, one: Txn, work: Part, shard: int = 0, anchor: int = 0, participants: tuple[int, ...] = (0, 1)
    ) -> Any:
        """A vote, whose coordinator is somewhere else."""
        return await self.propose(
            shard,
            prepare=replication_pb2.PrepareCommand(transaction=named(one), anchor=anchor, participants=participants, part=work),
        )

    async def lock(self, one: Txn, *operations: kv_pb2.BatchOperation, shard: int = 0) -> Any:
        """A vote that locks what the operations need."""
        return await self.prepare(one, part(*operations), shard)

    async def decide(self, one: Txn, commit: bool = True, shard: int = 0) -> Any:
        """A decision in the anchor's log."""
        return await self.propose(
            shard, decide=replication_pb2.DecideCommand(transaction=named(one), commit=commit, succeeded=True)
        )


async def turns(count: int = 50) -> None:
    """Lets everything happen that needs no time."""
    for _ in range(count):
        await asyncio.sleep(0)


def simulated(test: Callable[..., Awaitable[None]]) -> Callable[..., None]:
    """A test of a stand, which it gets as its first argument, in virtual time."""

    @functools.wraps(test)
    def in_virtual_time(**cases: Any) -> None:
        async def main(loop: SimulatedLoop) -> None:
            stand = TwoPhaseStand(loop)
            await test(stand, **cases)
            await stand.two_phase.stop()

        run(main, 1, until=600.0)

    signature = inspect.signature(test)
    del in_virtual_time.__wrapped__  # type: ignore[attr-defined]
    in_virtual_time.__signature__ = signature.replace(  # type: ignore[attr-defined]
        parameters=list(signature.parameters.values())[1:], return_annotation=None
    )
    return in_virtual_time
