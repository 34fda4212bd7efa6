"""Two-phase commit on one node, wired: participants, coordinators and recovery around the shards that the node holds."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

from kvnode.observe.recorder import Recorder
from kvnode.routing.coordinators import Coordinators
from kvnode.routing.participants import Participants
from kvnode.routing.recovery import Recovery
from kvnode.routing.router import Router
from kvnode.routing.shard_leaders import ShardLeaders
from kvnode.routing.transactions import TransactionRouter
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.transport import Transport
from kvnode.types import Hlc, Seconds


class TwoPhaseCommit:
    """What is wired to what."""

    def __init__(
        self,
        router: Router,
        envelopes: Envelopes,
        transport: Transport,
        clock: Callable[[], Hlc],
        push_after: Seconds,
        rng: random.Random,
        recorder: Recorder,
    ) -> None:
        local, driver = router.local, router.local.driver
        # A vote that waits longer is one for a transaction that others push by now.
        self.participants = Participants(local, router.map.shards, vote_within=push_after, recorder=recorder)
        handlers = self.participants.handlers
        leaders = ShardLeaders(router.me, router.map, router.leader_of, handlers, envelopes, transport, driver.loop, rng)
        self.coordinators = Coordinators(local, leaders, clock, push_after, rng)
        self.recovery = Recovery(driver, local.replicas, leaders, self.coordinators, push_after)
        self.router = TransactionRouter(router, self.coordinators)
        local.locks.push = self.recovery.push

    async def stop(self) -> None:
        """Ends what goes on in the background; others push what is left."""
        await asyncio.gather(self.coordinators.stop(), self.recovery.stop())
