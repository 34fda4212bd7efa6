"""Replicas without a runtime: one shard's pure cores, their disks, and a network that does what the test says.

Owns the driver's duties as `kvnode.protocol.ready` numbers them, in the loosest order that it permits: every `Ready` is a
write of its own, nothing is durable before `durable` says so, nothing arrives before `deliver` says so. Never a clock, a
thread or an event loop. A restart goes through the real recovery, the rows through the real table.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kvapi.v1 import failure_detection_pb2, replication_pb2
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.core import RaftSettings
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Answer, DurableMark, Ready, Reply
from kvnode.runtime.recovery import SNAPSHOT_MARK, replay
from kvnode.shard.replica import Replica
from kvnode.shard.state_machine import LOCAL, META, StateMachine
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, Record
from kvnode.storage.table import Table
from kvnode.types import Index, NodeName, Origin, Seconds, Term

SHARD = 0
WALL_MS = 1_000_000


@dataclass(slots=True)
class Message:
    """On its way. `life`: of an answer, the life of the asker: nobody else can get it."""

    number: int
    source: NodeName
    to: NodeName
    kind: str
    body: Any
    life: int = 0


@dataclass(slots=True)
class Asked:
    """The token of a peer's request."""

    source: NodeName
    life: int
    kind: str


@dataclass(slots=True)
class Write:
    """What one `Ready` wants on disk, and what waits for that."""

    records: list[Record]
    mark: DurableMark | None
    answers: Sequence[Answer] = ()
    accepted: Sequence[Reply] = ()
    then: Callable[[], None] | None = None


@dataclass(slots=True)
class Disk:
    """What survives a crash."""

    records: list[Record] = field(default_factory=list)
    store: MemoryStore = field(default_factory=MemoryStore)
    life: int = 0


class PureNode:
    """One node: its disk, and while it is up its replica."""

    def __init__(self, name: NodeName) -> None:
        self.name = name
        self.disk = Disk()
        self.up = False
        self.life = 0
        self.offset, self.rate, self.skew_ms = 0.0, 1.0, 0
        self.round = 0
        self.echoes: dict[NodeName, Seconds] = {}
        self.pending: deque[Write] = deque()
        self.replica: Replica
        self.table: Table
        self._stamp = 0

    def clock(self, time: Seconds) -> Seconds:
        """The node's monotonic clock: off by a constant, and a little too fast or slow."""
        return self.offset + self.rate * time

    def stamp(self, time: Seconds) -> int:
        """The node's wall clock, never twice the same."""
        self._stamp = max(self._stamp + 1, (WALL_MS + self.skew_ms + int(time * 1000)) << 16)
        return self._stamp


class PureCluster:
    """Nodes "1", "2", … with one shard. Subclasses watch `on_…`."""

    def __init__(self, nodes: int = 3, seed: int = 0, settings: RaftSettings | None = None, retained: int = 4096) -> None:
        self.rng = random.Random(seed)
        self.settings, self.retained = settings or RaftSettings(), retained
        self.relay_after: Seconds = 0.5
        self.time: Seconds = 0.0
        self.names = [str(number) for number in range(1, nodes + 1)]
        self.nodes = {name: PureNode(name) for name in self.names}
        self.network: list[Message] = []
        self.outcomes: dict[object, Any] = {}
        self._number = 0

    # ---- watched by subclasses --------------------------------------------------------------------------------------

    def on_ready(self, node: PureNode, ready: Ready) -> None:
        """A node was drained."""

    def on_written(self, node: PureNode, records: Sequence[Record]) -> None:
        """Records are on a node's disk."""

    def on_flushed(self, node: PureNode) -> None:
        """A node's table, and the eventual writes that it holds, are in its store."""

    def on_sent(self, message: Message) -> None:
        """A message left."""

    def on_reply(self, node: PureNode, reply: Reply) -> None:
        """A local request has its outcome."""
        self.outcomes[reply.token] = reply.result

    # ---- life and death ---------------------------------------------------------------------------------------------

    def now(self, name: NodeName) -> Seconds:
        """The node's time."""
        return self.nodes[name].clock(self.time)

    def start(self, name: NodeName) -> None:
        """Starts a node from what its disk holds."""
        node = self.nodes[name]
        disk = node.disk
        disk.life += 1
        node.up, node.life = True, disk.life
        node.pending.clear()
        node.echoes.clear()
        found = replay(disk.records).shard(SHARD)
        node.table = Table(SHARD, disk.store)
        position = StateMachine.position(disk.store.get(SHARD, META))
        node.replica = Replica(
            shard=SHARD,
            me=Origin(name, node.life),
            voters=self.names,
            table=node.table,
            log=found.log(SHARD, position.index, position.term, self.retained),
            hard_state=found.hard_state,
            settings=self.settings,
            relay_after=self.relay_after,
            rng=self.rng,
            clock=lambda: node.stamp(self.time),
            now=self.now(name),
        )
        now = self.now(name)
        node.replica.restore_local_rows(disk.store.scan(SHARD, LOCAL, bytes([LOCAL[0] + 1])), now)
        node.replica.restore_held(found.eventual, now)
        self.drain(node)

    def start_all(self) -> None:
        """Starts every node."""
        for name in self.names:
            self.start(name)

    def crash(self, name: NodeName, written: int = 0) -> None:
        """Kills a node; the first `written` of its pending writes are on disk, though it never learnt that."""
        node = self.nodes[name]
        for write in list(node.pending)[:written]:
            self._write(node, write)
        node.pending.clear()
        node.up = False
        for other in self.nodes.values():
            if other.up and other.replica.is_leader:
                self._lose_connection(other, name)

    def _lose_connection(self, node: PureNode, peer: NodeName) -> None:
        # What is still on its way fails by itself, once it arrives nowhere.
        on_its_way = any(m.source == node.name and m.to == peer and m.kind == "snapshot?" for m in self.network)
        raft, now = node.replica.raft, self.now(node.name)
        leader.on_append_failed(raft, peer, now)
        if not on_its_way:
            leader.on_snapshot_done(raft, peer, 0, False, now)
        self.drain(node)

    # ---- the driver's duties ----------------------------------------------------------------------------------------

    def drain(self, node: PureNode) -> None:
        """Takes what is due, until nothing is."""
        while node.up:
            ready = node.replica.ready(self.now(node.name))
            self._collect(node, ready)
            self.on_ready(node, ready)
            if not (ready.more or ready.append_to or ready.snapshot_to or ready.round_wanted):
                return

    def _collect(self, node: PureNode, ready: Ready) -> None:
        raft, now = node.replica.raft, self.now(node.name)
        for send in ready.send:
            kind = type(send.message).__name__
            send.message.message.from_node = node.name
            self._send(node.name, send.to, "vote?" if kind == "RequestVoteRequest" else "timeout-now", send.message)
        for peer in ready.append_to:
            append = leader.next_append(raft, peer, now) if node.replica.is_leader else None
            if append is not None:
                self._send(node.name, peer, "append?", append)
        for peer in ready.snapshot_to:
            self._send_snapshot(node, peer)
        if ready.durable is not None or ready.answers or ready.accepted:
            records: list[Record] = []
            if ready.hard_state is not None:
                term, vote, commit = ready.hard_state
                records.append(HardStateRecord(SHARD, term, vote, commit))
            records.extend(EntryRecord(SHARD, *entry) for entry in ready.entries)
            records.extend(EventualRecord(SHARD, data) for data in ready.eventual)
            write = Write(records, ready.durable, ready.answers, ready.accepted)
            if records or node.pending:
                node.pending.append(write)
            else:
                self._complete(node, write)
        for reply in ready.replies:
            self.on_reply(node, reply)
        if ready.round_wanted:
            self.beat(node.name)

    def durable(self, name: NodeName, writes: int | None = None) -> None:
        """The disk has the first `writes` of what the node wants written; None: everything."""
        node = self.nodes[name]
        for _ in range(len(node.pending) if writes is None else min(writes, len(node.pending))):
            write = node.pending.popleft()
            self._write(node, write)
            self._complete(node, write)
        # Answers without anything to write leave with the write that they waited for.
        while node.pending and not node.pending[0].records:
            self._complete(node, node.pending.popleft())
        self.drain(node)

    def _write(self, node: PureNode, write: Write) -> None:
        node.disk.records.extend(write.records)
        self.on_written(node, write.records)

    def _complete(self, node: PureNode, write: Write) -> None:
        if write.mark is not None:
            node.replica.on_durable(write.mark, self.now(node.name))
        for answer in write.answers:
            asked = answer.token
            assert isinstance(asked, Asked)
            self._send(node.name, asked.source, asked.kind, answer.message, asked.life)
        for reply in write.accepted:
            self.on_reply(node, reply)
        if write.then is not None:
            write.then()

    def flush(self, name: NodeName, cut: bool = True) -> None:
        """Moves the table into the store, and cuts the log behind it."""
        node = self.nodes[name]
        if not node.up or node.replica.installing:
            return
        written = len(node.disk.records)
        index = node.replica.before_freeze()
        rows: list[tuple[bytes, bytes | None]] = list(node.table.freeze().items())
        rows.extend(node.replica.local_rows())
        node.disk.store.commit({SHARD: rows})
        node.table.thaw(flushed=True)
        node.replica.on_flushed(index, self.retained)
        if cut:
            self._cut(node.disk, index, written)

        self.on_flushed(node)

    def _cut(self, disk: Disk, flushed: Index, written: int) -> None:
        end, hard_state = 0, None
        for record in disk.records[:written]:
            if isinstance(record, EntryRecord) and record.index > flushed:
                break
            if isinstance(record, HardStateRecord):
                hard_state = record
            end += 1
        disk.records[:end] = [hard_state] if hard_state else []

    # ---- events -----------------------------------------------------------------------------------------------------

    def tick(self, name: NodeName) -> None:
        """Tells a node what time it is."""
        node = self.nodes[name]
        if node.up:
            node.replica.on_time(self.now(name))
            self.drain(node)

    def campaign(self, name: NodeName) -> None:
        """The node's election time-out passes, and no leader was heard for long."""
        raft = self.nodes[name].replica.raft
        raft.deadline = self.now(name)
        self.tick(name)

    def propose(self, name: NodeName, command: replication_pb2.Command, token: object) -> None:
        """A strong write arrives at a node."""
        node = self.nodes[name]
        command.hlc = node.stamp(self.time)
        node.replica.propose([(token, command.SerializeToString())], self.now(name))
        self.drain(node)

    def read(self, name: NodeName, token: object) -> None:
        """A strong read arrives at a node."""
        node = self.nodes[name]
        node.replica.read(token, self.now(name))
        self.drain(node)

    def accept(self, name: NodeName, key: bytes, value: bytes | None, token: object) -> None:
        """An eventual write arrives at a node."""
        node = self.nodes[name]
        node.replica.accept(key, value, 0, token, self.now(name))
        self.drain(node)

    def beat(self, name: NodeName) -> None:
        """Starts a round, and sends a heartbeat to every peer."""
        node = self.nodes[name]
        if not node.up:
            return
        raft, now = node.replica.raft, self.now(name)
        node.round += 1
        if node.replica.is_leader:
            leader.on_round_started(raft, node.round)
        for peer in self.names:
            if peer != name:
                lead = node.replica.lead(peer, now) if node.replica.is_leader else None
                self._send(name, peer, "heartbeat?", (lead, node.round, node.echoes.get(peer), now))

    def spread(self, name: NodeName) -> None:
        """Passes eventual writes on to every peer that may lack them."""
        node = self.nodes[name]
        if node.up:
            for peer in self.names:
                if peer != name:
                    for batch in node.replica.holder.batches_for(peer, 64, 1 << 20, self.now(name)):
                        self._send(name, peer, "eventual?", batch)

    def hand_over(self, name: NodeName, to: NodeName) -> bool:
        """Begins a leadership transfer."""
        node = self.nodes[name]
        started = node.replica.is_leader and leader.start_transfer(node.replica.raft, to, self.now(name))
        self.drain(node)
        return started

    # ---- the network ------------------------------------------------------------------------------------------------

    def _send(self, source: NodeName, to: NodeName, kind: str, body: Any, life: int = 0) -> None:
        self._number += 1
        message = Message(self._number, source, to, kind, body, life)
        self.network.append(message)
        self.on_sent(message)

    def _send_snapshot(self, node: PureNode, peer: NodeName) -> None:
        with node.disk.store.snapshot(SHARD) as rows:
            shared = [row for row in rows if not row[0].startswith(LOCAL)]
        position = StateMachine.position(node.disk.store.get(SHARD, META))
        self._send(node.name, peer, "snapshot?", (node.replica.raft.term, position.index, position.term, shared))

    def deliver(self, message: Message, keep: bool = False) -> None:
        """A message arrives; `keep`: and once more later."""
        if not keep:
            self.network.remove(message)
        node = self.nodes[message.to]
        if not node.up or (message.life and message.life != node.life):
            if not keep and message.kind.endswith("?"):
                self._fail(message)
            return
        asked = Asked(message.source, self.nodes[message.source].life, message.kind.replace("?", "!"))
        handler = getattr(self, "_on_" + message.kind.replace("?", "").replace("!", "_answer").replace("-", "_"))
        handler(node, message.source, message.body, asked, self.now(message.to))
        self.drain(node)

    def drop(self, message: Message) -> None:
        """A message is lost. Of a request that waits for an answer the sender learns that, by a time-out."""
        self.network.remove(message)
        self._fail(message)

    def _fail(self, message: Message) -> None:
        asker = message.source if message.kind.endswith("?") else message.to
        peer = message.to if message.kind.endswith("?") else message.source
        node = self.nodes[asker]
        if not node.up or (message.life and message.life != node.life):
            return
        raft, now = node.replica.raft, self.now(asker)
        if message.kind.startswith("append") and node.replica.is_leader and raft.term == message.body.term:
            leader.on_append_failed(raft, peer, now)
        elif message.kind.startswith("snapshot"):
            leader.on_snapshot_done(raft, peer, 0, False, now)
        self.drain(node)

    def _on_vote(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.raft.on_request_vote(body, asked, now)

    def _on_vote_answer(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.raft.on_vote(source, body, now)

    def _on_timeout_now(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.raft.on_timeout_now(body, now)

    def _on_append(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.on_append(source, body, asked, now)

    def _on_append_answer(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.raft.on_append_result(source, body, now)

    def _on_heartbeat(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        lead, round_, echo, sent_at = body
        ack = None
        if lead is not None:
            accepted = node.replica.on_lead(source, lead, echo, now)
            ack = failure_detection_pb2.ShardAck(shard=SHARD, term=node.replica.raft.term, accepted=accepted)
        self._send(node.name, source, "heartbeat!", (ack, round_, now, sent_at), asked.life)

    def _on_heartbeat_answer(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        ack, round_, stamp, sent_at = body
        node.echoes[source] = stamp
        if ack is not None:
            node.replica.raft.on_lead_ack(source, ack, round_, sent_at, now)

    def _on_eventual(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.on_eventual(body, asked, now)

    def _on_eventual_answer(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        node.replica.holder.on_peer_holds(source, Origin(body.node, body.incarnation), body.held)

    def _on_snapshot(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        term, index, index_term, rows = body
        replica = node.replica
        if not replica.raft.on_snapshot_offered(source, term, now) or replica.installing:
            self._send(node.name, source, "snapshot!", (index, False), asked.life)
        elif index <= replica.applied:
            self._send(node.name, source, "snapshot!", (index, True), asked.life)
        else:
            self._install(node, index, index_term, rows, asked)

    def _install(self, node: PureNode, index: Index, term: Term, rows: list[tuple[bytes, bytes]], asked: Asked) -> None:
        node.replica.installing = True
        node.disk.store.replace(SHARD, LOCAL, rows)

        def finish() -> None:
            node.table.reset()
            node.replica.on_snapshot_installed(index, term)
            node.replica.installing = False
            self._send(node.name, asked.source, "snapshot!", (index, True), asked.life)

        # (What was proposed to the log before has its place before the mark.)
        self.drain(node)
        continued = node.replica.log_continues(index, term)
        mark: list[Record] = [] if continued else [EntryRecord(SHARD, index, term, SNAPSHOT_MARK, b"")]
        node.pending.append(Write(mark, None, then=finish))
        if not node.pending[0].records:
            self.durable(node.name, 0)

    def _on_snapshot_answer(self, node: PureNode, source: NodeName, body: Any, asked: Asked, now: Seconds) -> None:
        index, success = body
        leader.on_snapshot_done(node.replica.raft, source, index, success, now)

    # ---- looking ----------------------------------------------------------------------------------------------------

    def leaders(self) -> list[NodeName]:
        """Nodes that believe to lead, the latest term last."""
        up = [node for node in self.nodes.values() if node.up and node.replica.raft.role is Role.LEADER]
        return [node.name for node in sorted(up, key=lambda node: node.replica.raft.term)]

    def settle(self, rounds: int = 200) -> None:
        """Delivers everything and lets every disk write, until nothing happens any more."""
        for _ in range(rounds):
            for name in self.names:
                if self.nodes[name].up:
                    self.durable(name)
            if not self.network:
                return
            for message in list(self.network):
                if message in self.network:
                    self.deliver(message)
