"""Heartbeats to all peers, for all shards at once: liveness, commit indexes, read-index rounds, check-quorum.

At most one heartbeat to a peer is unanswered. A round is a number: every heartbeat sent after the round started carries it,
or a later one, and a strong read is released when a majority has answered its round. A round that is wanted while every
peer is busy starts with the first heartbeat that can leave: so rounds batch by themselves under load.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterable, Mapping

import structlog

from kvapi.v1 import failure_detection_pb2, message_pb2
from kvnode.errors import KvnodeError
from kvnode.protocol.failure_detection import FailureDetector
from kvnode.protocol.raft import leader
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.shard.replica import Replica
from kvnode.types import NodeName, Seconds, Shard

logger = structlog.get_logger(__name__)

HEARTBEAT_TIMEOUT: Seconds = 1.0
"""After this a heartbeat's connection is given up; less than a leader may go without a majority's answers."""
HEARD_WAIT_MAX: Seconds = 0.5
"""How long a node waits for its peers to hear that it is there, or that it goes."""
STAMP_BITS = 44
"""Of a heartbeat's stamp, for milliseconds; above them the node's incarnation, modulo `LIVES`: after a reboot the monotonic
clock begins anew, and a peer still echoes the last stamp of the life before."""
LIVES = 1 << 20


class Heartbeats:
    """Sends to every peer each interval, and at once when a round is wanted; answers the peers' heartbeats."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        peers: Mapping[NodeName, str],
        envelopes: Envelopes,
        transport: Transport,
        detector: FailureDetector,
        interval: Seconds,
        progress: Callable[[], failure_detection_pb2.Progress],
        own_state: Callable[[], message_pb2.NodeState],
        on_news: Callable[[], None],
    ) -> None:
        self._driver, self._replicas, self._envelopes, self._transport = driver, replicas, envelopes, transport
        self._detector, self._interval = detector, interval
        self._progress, self._own_state, self._on_news = progress, own_state, on_news
        self._loop = driver.loop
        self._round = 0
        self._round_wanted = False
        self._wakes = {peer: asyncio.Event() for peer in peers}
        self._sent_round = dict.fromkeys(peers, 0)
        self._busy: dict[NodeName, None] = {}
        self._echoes: dict[NodeName, int] = {}
        """The stamp of each peer's last answer, to be sent back to it."""
        self._unheard: dict[NodeName, None] = {}
        """Peers that refused a connection, or closed it, since they last answered."""
        self._back: dict[NodeName, None] = {}
        """Those of them that have been heard since: they live, whatever the connection's last attempt said."""
        self._refusals: dict[NodeName, str] = {}
        """Why the last heartbeat to a peer was refused, by it or by us."""
        self._reached: dict[NodeName, None] = {}
        """Peers whose last heartbeat was answered; the others are tried once an interval, rounds or not."""
        self._leaving = False
        self._to_hear: dict[NodeName, None] = {}
        """Peers that have not heard this node's greeting yet, or its goodbye."""
        self._all_heard = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    def start(self) -> None:
        """Begins to beat: greets every peer."""
        self._want_heard(self._wakes)
        self._tasks = [self._loop.create_task(self._beat(peer), name=f"heartbeat {peer}") for peer in self._wakes]
        for task in self._tasks:
            task.add_done_callback(self._on_task_done)

    def _on_task_done(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self._driver.fatal(error)

    async def stop(self) -> None:
        """Ends all tasks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def is_outcast(self) -> bool:
        """Whether peers refuse to talk to this node and none does talk: it lost its disk, or is configured for another cluster.

        What it accepted then could never reach anybody.
        """
        return bool(self._refusals) and not self._reached

    def want_round(self) -> None:
        """Strong reads wait: start a round with the first heartbeat that can leave."""
        self._round_wanted = True
        for peer, wake in self._wakes.items():
            if peer not in self._busy:
                wake.set()

    def say_goodbye(self) -> None:
        """This node stops: recorded here, and told to every peer with the next heartbeat, which leaves at once."""
        self._detector.set_own_state(message_pb2.NODE_STATE_INACTIVE, self._loop.time())
        self._on_news()
        self._leaving = True
        serving = (message_pb2.NODE_STATE_ACTIVE, message_pb2.NODE_STATE_RECOVERING)
        self._want_heard([peer for peer in self._wakes if self._detector.state(peer) in serving])
        if self._to_hear:
            self.want_round()

    async def wait_heard(self, until: Seconds) -> None:
        """Waits until the peers that can be reached have heard the greeting, or the goodbye, a little while: they would take
        this node for dead, or not know yet that it catches up."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout_at(min(until, self._loop.time() + HEARD_WAIT_MAX)):
                await self._all_heard.wait()

    def _want_heard(self, peers: Iterable[NodeName]) -> None:
        self._to_hear = dict.fromkeys(peers)
        self._all_heard.clear()
        self._note_heard("")

    def _note_heard(self, peer: NodeName) -> None:
        self._to_hear.pop(peer, None)
        if not self._to_hear:
            self._all_heard.set()

    def _start_round_if_wanted(self) -> None:
        if self._round_wanted:
            self._round_wanted = False
            self._round += 1
            for replica in self._replicas.values():
                if replica.is_leader:
                    leader.on_round_started(replica.raft, self._round)
            for peer, wake in self._wakes.items():
                if peer not in self._busy:
                    wake.set()

    async def _beat(self, peer: NodeName) -> None:
        wake = self._wakes[peer]
        due = self._loop.time()
        while True:
            wake.clear()
            self._start_round_if_wanted()
            self._busy[peer] = None
            due = self._loop.time() + self._interval
            try:
                await self._beat_once(peer)
            finally:
                self._busy.pop(peer, None)
            if peer not in self._reached:
                await asyncio.sleep(max(0.0, due - self._loop.time()))
            elif not self._round_wanted and self._sent_round[peer] >= self._round:
                await self._wait_until(due, wake)

    async def _wait_until(self, due: Seconds, wake: asyncio.Event) -> None:
        timer = self._loop.call_at(due, wake.set)
        try:
            await wake.wait()
        finally:
            timer.cancel()

    async def _beat_once(self, peer: NodeName) -> None:
        loop, now = self._loop, self._loop.time()
        leads = [
            replica.lead(peer, now)
            for replica in self._replicas.values()
            if replica.is_leader and peer in replica.raft.progress
        ]
        self._sent_round[peer] = self._round
        request = failure_detection_pb2.HeartbeatRequest(
            round=self._round, leads=leads, echo=self._echoes.get(peer, 0), progress=self._progress(), state=self._own_state()
        )
        try:
            response = await self._transport.call(peer, self._envelopes.seal(peer, request), HEARTBEAT_TIMEOUT)
        except PeerUnreachable as error:
            self._reached.pop(peer, None)
            self._note_heard(peer)
            if error.lost or (error.refused and not (error.repeated and peer in self._back)):
                self._unheard[peer] = None
                self._detector.on_connection_lost(peer, loop.time(), refused=error.refused)
                self._on_news()
            return
        except KvnodeError as error:
            self._reached.pop(peer, None)
            self._note_heard(peer)
            self._on_refused(peer, error)
            return
        self._reached[peer] = None
        if not self._leaving or request.state == message_pb2.NODE_STATE_INACTIVE:
            self._note_heard(peer)
        for known in (self._refusals, self._unheard, self._back):
            known.pop(peer, None)
        heard_at = loop.time()
        self._echoes[peer] = response.stamp
        self._detector.on_heard(peer, heard_at, response.message.from_incarnation, response.state, response.progress)
        for ack in response.acks:
            replica = self._replicas.get(ack.shard)
            if replica is not None:
                replica.raft.on_lead_ack(peer, ack, response.round, now, heard_at)
                self._driver.wake(ack.shard)

    def _on_refused(self, peer: NodeName, error: KvnodeError) -> None:
        """One of us will not talk to the other: said once, since it is asked again every interval."""
        if self._refusals.get(peer) != error.message:
            self._refusals[peer] = error.message
            logger.error("heartbeat refused", peer=peer, error=error.message)

    def on_heartbeat(self, request: failure_detection_pb2.HeartbeatRequest) -> failure_detection_pb2.HeartbeatResponse:
        """A peer's heartbeat: its shards' followers here listen, and it is told whether they follow."""
        now = self._loop.time()
        sender = request.message.from_node
        self._detector.on_heard(sender, now, request.message.from_incarnation, request.state, request.progress)
        if sender in self._unheard:
            self._back[sender] = None
        response = failure_detection_pb2.HeartbeatResponse(
            round=request.round, stamp=self._stamp(now), progress=self._progress(), state=self._own_state()
        )
        heard_after = self._time_of(request.echo)
        if heard_after is not None and heard_after > now:
            heard_after = None  # A time to come was given out by nobody.
        for lead in request.leads:
            replica = self._replicas.get(lead.shard)
            if replica is not None:
                accepted = replica.on_lead(sender, lead, heard_after, now)
                response.acks.add(shard=lead.shard, term=replica.raft.term, accepted=accepted)
                self._driver.wake(lead.shard)
        return response

    def _stamp(self, now: Seconds) -> int:
        return self._envelopes.incarnation % LIVES << STAMP_BITS | int(now * 1000) % (1 << STAMP_BITS)

    def _time_of(self, echo: int) -> Seconds | None:
        """The local time of a stamp that this life of the node gave out; None for another life's: its clock was another."""
        if echo >> STAMP_BITS != self._envelopes.incarnation % LIVES:
            return None
        return echo % (1 << STAMP_BITS) / 1000
