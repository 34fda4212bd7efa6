"""Who is alive: runs the failure detector and gossip, and records every change of a node's state durably.

What it finds out chooses routes and lets followers campaign early; it never grants a vote, a lease or a commit.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import structlog

from kvapi.v1 import cluster_pb2, failure_detection_pb2, message_pb2
from kvnode import limits
from kvnode.errors import KvnodeError
from kvnode.protocol.failure_detection import FailureDetector
from kvnode.protocol.gossip import Gossip
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.recovery import EVENT_RECORD
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.shard.replica import Replica
from kvnode.shard.rows import readable
from kvnode.storage.records import NodeRecord
from kvnode.types import NodeName, Seconds, Shard

logger = structlog.get_logger(__name__)

FAILED, ACTIVE = message_pb2.NODE_STATE_FAILED, message_pb2.NODE_STATE_ACTIVE
GOSSIP_TIMEOUT: Seconds = 1.0
EVENT_ROW = b"e"


class StoredEvents(NamedTuple):
    """What is known of the past at the start."""

    events: list[cluster_pb2.NodeEvent]
    stored: int
    """Number of the first event that is not in the store yet."""
    next: int
    """Number of the next event."""


@readable("a stored event of the failure detector")
def stored_events(rows: Iterable[tuple[bytes, bytes]], logged: Sequence[cluster_pb2.NodeEvent]) -> StoredEvents:
    """Events of the store's rows and, behind them, those that only the log has."""
    events: list[cluster_pb2.NodeEvent] = []
    stored = 0
    for key, row in rows:
        stored = int.from_bytes(key[1:], "big") + 1
        events.append(cluster_pb2.NodeEvent.FromString(row))
    known = dict.fromkeys(event.SerializeToString() for event in events)
    news = [event for event in logged if event.SerializeToString() not in known]
    return StoredEvents([*events, *news], stored, stored + len(news))


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
        wall_ms: Callable[[], int],
        stored: StoredEvents,
    ) -> None:
        self._driver, self._replicas, self._envelopes, self._transport = driver, replicas, envelopes, transport
        self.detector, self.gossip = detector, gossip
        self._probe_timeout, self._wall_ms = probe_timeout, wall_ms
        self.events: deque[cluster_pb2.NodeEvent] = deque(stored.events, maxlen=limits.EVENTS_KEPT)
        self._event_number = stored.next
        """Number of the next event; events below `_flushed_number` are in the store."""
        self._flushed_number = self._in_flush_number = stored.stored
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._closed = False

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

    def _record(self, transition: Any) -> None:
        # (`from` is a word of Python: the field cannot be named as a keyword argument.)
        event = cluster_pb2.NodeEvent(
            node=transition.node,
            to=transition.to_state,
            at_ms=self._wall_ms(),
            why=transition.why,
            incarnation=transition.incarnation or self._envelopes.incarnation,
            **{"from": transition.from_state},
        )
        self.events.append(event)
        self._event_number += 1
        self._driver.write_node_record(NodeRecord(EVENT_RECORD, event.SerializeToString()))
        logger.info(
            "node state changed",
            peer=transition.node,
            was=message_pb2.NodeState.Name(transition.from_state),
            now=message_pb2.NodeState.Name(transition.to_state),
            why=transition.why,
        )

    def rows(self) -> list[tuple[bytes, bytes | None]]:
        """The store's rows of events that are in no flush yet, and deletions of the oldest: for the next flush."""
        rows: list[tuple[bytes, bytes | None]] = []
        news = self._event_number - self._flushed_number
        for number, event in zip(
            range(self._flushed_number, self._event_number), list(self.events)[-news:] if news else [], strict=False
        ):
            rows.append((EVENT_ROW + number.to_bytes(8, "big"), event.SerializeToString()))
            if number >= limits.EVENTS_KEPT:
                rows.append((EVENT_ROW + (number - limits.EVENTS_KEPT).to_bytes(8, "big"), None))
        self._in_flush_number = self._event_number
        return rows

    def on_flushed(self) -> None:
        """The rows of the last `rows` are in the store."""
        self._flushed_number = self._in_flush_number

    # ---- gossip -----------------------------------------------------------------------------------------------------

    async def _gossip_with(self, peer: NodeName, request: Any) -> None:
        try:
            response = await self._transport.call(peer, self._envelopes.seal(peer, request), GOSSIP_TIMEOUT)
        except (PeerUnreachable, KvnodeError):
            return
        self.gossip.on_exchange_response(peer, response, self._driver.loop.time())
