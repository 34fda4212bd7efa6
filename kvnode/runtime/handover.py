"""Gives leaderships away: all of them when the node stops, one now and then where its disk is full.

Owns the order in which a node leaves its cluster, and to whom a leadership is offered. Never decides who leads: Raft does, and
refuses what is not safe. How a node leaves, all within `LEAVE_MAX`:

1. While a peer catches up, this node stays and serves as ever: of three replicas the two that are left need a complete log
   each, or nothing is committed until the other one has caught up. So nodes can be restarted one right after the other.
2. It campaigns no more, and says goodbye: nobody takes its silence for a failure, or looks for it.
3. It offers what it leads to the healthy follower that is closest behind, again and with more patience, until it leads nothing.
   For each attempt writes wait, a moment each time; in between they go on.
4. It waits to hear from its successors what became of the writes that wait here, and who leads, so that it can answer.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping

import structlog

from kvapi.v1 import message_pb2
from kvnode.protocol.failure_detection import FailureDetector
from kvnode.protocol.raft import leader
from kvnode.runtime.driver import Driver
from kvnode.runtime.heartbeats import Heartbeats
from kvnode.runtime.tokens import deliver
from kvnode.shard.replica import Replica
from kvnode.types import NodeName, Seconds, Shard

logger = structlog.get_logger(__name__)

LEAVE_MAX: Seconds = 2.0
CATCH_UP_WAIT_MAX: Seconds = 1.0
"""How much of that a node stays for peers that catch up; the rest is for its leaderships."""
SUCCESSOR_WAIT_MAX: Seconds = 0.5
"""How long a node that stops waits to hear from those who lead its shards now: who they are, and what they committed."""
LOOK_INTERVAL: Seconds = 0.02
"""Between two looks at what nobody tells: the states of peers; and before an offer that was refused is repeated."""

ACTIVE, RECOVERING = message_pb2.NODE_STATE_ACTIVE, message_pb2.NODE_STATE_RECOVERING


class Handover:
    """Of one node."""

    def __init__(
        self, driver: Driver, replicas: Mapping[Shard, Replica], detector: FailureDetector, heartbeats: Heartbeats
    ) -> None:
        self._driver, self._replicas, self._detector, self._heartbeats = driver, replicas, detector, heartbeats
        self._loop = driver.loop
        self._offered: dict[Shard, NodeName] = {}
        """To whom each leadership was offered the last time."""

    # ---- one leadership ---------------------------------------------------------------------------------------------

    def offer(self, replica: Replica, within: Seconds | None = None) -> bool:
        """Begins to give a leadership to the healthy follower that is closest behind; rather to one that serves already, and,
        where two are close, to another than last time. False: there is none."""
        raft = replica.raft
        healthy = [peer for peer in raft.progress if self._detector.healthy(peer)]
        ranked = [[peer for peer in healthy if self._detector.state(peer) == state] for state in (ACTIVE, RECOVERING)]
        able = ranked[0] or ranked[1]
        others = [peer for peer in able if peer != self._offered.get(replica.shard) and leader.is_close(raft, peer)]
        successor = leader.most_advanced_follower(raft, others or able)
        if successor is None or not leader.start_transfer(raft, successor, self._loop.time(), within):
            return False
        self._offered[replica.shard] = successor
        self._driver.wake(replica.shard)
        return True

    def others_are_a_majority(self, replica: Replica) -> bool:
        """Whether a successor could commit without this node, whose disk is full. If not, it could not even commit the first
        entry of its term, and strong reads, which this leader still serves, would end. (A node with a full disk is not ACTIVE.)
        """
        detector = self._detector
        well = [peer for peer in replica.raft.progress if detector.healthy(peer) and detector.state(peer) == ACTIVE]
        return len(well) > len(replica.raft.voters) // 2

    # ---- all of them ------------------------------------------------------------------------------------------------

    async def leave(self, on_goodbye: Callable[[], None]) -> None:
        """Leaves, in the order above. `on_goodbye`: from then on the node calls itself INACTIVE."""
        began = self._loop.time()
        until = began + LEAVE_MAX
        await self._wait_for_peers(began + CATCH_UP_WAIT_MAX)
        on_goodbye()
        for shard, replica in self._replicas.items():
            replica.raft.on_leaving(self._loop.time())
            self._driver.wake(shard)
        self._heartbeats.say_goodbye()
        await self._give_all_away(until)
        # Requests that came meanwhile wait to hear who leads now, and writes of the time before for their fate: both come from
        # the successors, who cannot reach this node once its server stops. Without that they would hang for the whole grace.
        successor_until = min(until, self._loop.time() + SUCCESSOR_WAIT_MAX)
        await self._wait_while(lambda replica: not replica.raft.leader or bool(replica.waiting), successor_until)
        await self._heartbeats.wait_heard(until)
        led = [shard for shard, replica in self._replicas.items() if replica.is_leader and replica.raft.progress]
        if led:
            logger.warning("stops as a leader: nobody took over, so writes wait for an election", shards=led)

    async def _wait_for_peers(self, until: Seconds) -> None:
        told: list[NodeName] = []
        while (behind := self._catching_up()) and self._loop.time() < until:
            if behind != told:
                told = behind
                logger.info("stays until its peers have caught up", peers=behind)
            await asyncio.sleep(LOOK_INTERVAL)

    def _catching_up(self) -> list[NodeName]:
        replicas = self._replicas.values()
        peers = dict.fromkeys(voter for replica in replicas for voter in replica.raft.voters if voter != replica.me.node)
        return [peer for peer in peers if self._detector.state(peer) == RECOVERING and self._detector.healthy(peer)]

    async def _give_all_away(self, until: Seconds) -> None:
        within: Seconds | None = None
        while self._loop.time() < until:
            led = [replica for replica in self._replicas.values() if replica.is_leader]
            offered = [replica for replica in led if replica.raft.transfer is not None or self.offer(replica, within)]
            if not offered:
                return
            refused_at = self._loop.time() + LOOK_INTERVAL
            await self._wait_while(lambda replica: replica.is_leader and replica.raft.transfer is not None, until)
            within = 2 * (within or offered[0].raft.settings.transfer_within)
            await asyncio.sleep(max(0.0, min(refused_at, until) - self._loop.time()))

    async def _wait_while(self, holds: Callable[[Replica], bool], until: Seconds) -> None:
        """Waits until no replica's leadership is so any more, or the time has come."""
        while self._loop.time() < until and (waited_for := [r for r in self._replicas.values() if holds(r)]):
            future: asyncio.Future[None] = self._loop.create_future()
            for replica in waited_for:
                replica.waits.for_leader(future)
                replica.waits.for_change(future)
            timer = self._loop.call_at(until, deliver, future, None)
            await future
            timer.cancel()
