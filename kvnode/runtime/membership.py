"""Who is alive: runs the failure detector and gossip, and has every change of a node's state, and who leads, recorded.

What it finds out chooses routes and lets followers campaign early; it never grants a vote, a lease or a commit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

import structlog

from kvapi.v1 import failure_detection_pb2, message_pb2
from kvnode.errors import KvnodeError
from kvnode.protocol.failure_detection import FailureDetector
from kvnode.protocol.failure_detection.actions import Transition
from kvnode.protocol.gossip import Gossip
from kvnode.protocol.raft.leadership import Leadership
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.history import History
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.shard.replica import Replica
from kvnode.types import NodeName, Seconds, Shard

logger = structlog.get_logger(__name__)

FAILED, ACTIVE = message_pb2.NODE_STATE_FAILED, message_pb2.NODE_STATE_ACTIVE
GOSSIP_TIMEOUT: Seconds = 1.0


class Membership:
    """The detector and gossip of one node, with their record."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        envelopes: Envelopes,
        transport: Transport,
        detector: FailureDetector,
        gossip: Gossip,
        probe_timeout: Seconds,
        history: History,
    ) -> None:
        self._driver, self._replicas, self._envelopes, self._transport = driver, replicas, envelopes, transport
        self.detector, self.gossip, self.history = detector, gossip, history
        self._probe_timeout = probe_timeout
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False
        self.on_leadership: Callable[[Shard, Leadership], None] = lambda shard, leadership: None

    async def stop(self) -> None:
        """Ends all tasks."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Any, name: str) -> None:
        if self._closed:
            coroutine.close()
            return
        task = self._driver.loop.create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(lambda done: self._tasks.pop(done, None))

    # ---- failure detection ------------------------------------------------------------------------------------------

    def step(self) -> None:
        """To be called regularly, and when a connection was lost."""
        now = self._driver.loop.time()
        self.history.step(now)
        actions = self.detector.step(now)
        for helper, target in actions.probe:
            self._spawn(self._probe(helper, target), f"probe {target} through {helper}")
        for change in actions.suspicions:
            if change.suspected:
                self.gossip.report_suspicion(change.node, self._envelopes.me)
        for transition in actions.transitions:
            self._record(transition)
            if transition.to_state == FAILED:
                for shard, replica in self._replicas.items():
                    replica.raft.on_node_failed(transition.node, now)
                    self._driver.wake(shard)
        for shard, replica in self._replicas.items():
            if leaderships := replica.raft.out_leaderships:
                for leadership in leaderships:
                    self.history.on_leadership(shard, leadership)
                    if leadership.leader == self._envelopes.me:
                        self.on_leadership(shard, leadership)
                leaderships.clear()
        for peer, request in self.gossip.step(now).exchange:
            self._spawn(self._gossip_with(peer, request), f"gossip with {peer}")

    async def _probe(self, helper: NodeName, target: NodeName) -> None:
        request = self._envelopes.seal(helper, failure_detection_pb2.ProbeRequest(target=target))
        try:
            response = await self._transport.call(helper, request, self._probe_timeout * 1.5)
        except (PeerUnreachable, KvnodeError):
            return
        self.detector.on_probe_result(helper, target, response.alive, self._driver.loop.time())
        self.step()

    async def on_probe(self, request: failure_detection_pb2.ProbeRequest) -> failure_detection_pb2.ProbeResponse:
        """A peer asks whether a third node lives; or, as that node, whether this one does."""
        me = self._envelopes.me
        if request.target in ("", me):
            return failure_detection_pb2.ProbeResponse(alive=True, incarnation=self._envelopes.incarnation)
        if request.target not in self._envelopes.members:
            return failure_detection_pb2.ProbeResponse(alive=False)
        asked = self._envelopes.seal(request.target, failure_detection_pb2.ProbeRequest(target=request.target))
        try:
            answer = await self._transport.call(request.target, asked, self._probe_timeout)
        except (PeerUnreachable, KvnodeError):
            return failure_detection_pb2.ProbeResponse(alive=False)
        return failure_detection_pb2.ProbeResponse(alive=answer.alive, incarnation=answer.incarnation)

    def failed_nodes(self) -> list[NodeName]:
        """Who is FAILED, as this node sees it."""
        return [name for name in self._envelopes.members if self.detector.state(name) == FAILED]

    def _record(self, transition: Transition) -> None:
        self.history.on_transition(transition)
        logger.info(
            "node state changed",
            peer=transition.node,
            was=message_pb2.NodeState.Name(transition.from_state),
            now=message_pb2.NodeState.Name(transition.to_state),
            why=transition.why,
        )

    # ---- gossip -----------------------------------------------------------------------------------------------------

    async def _gossip_with(self, peer: NodeName, request: Any) -> None:
        try:
            response = await self._transport.call(peer, self._envelopes.seal(peer, request), GOSSIP_TIMEOUT)
        except (PeerUnreachable, KvnodeError):
            return
        self.gossip.on_exchange_response(peer, response, self._driver.loop.time())
