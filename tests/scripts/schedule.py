"""Random schedules over pure replicas: loss, duplication, reordering, slow disks, crashes; and what must hold throughout.

`python -m tests.scripts.schedule FIRST LAST` runs the seeds FIRST to LAST - 1 and prints those that fail; one seed alone
prints what happened.

Checked (Ongaro 2014, figure 3.2, and DESIGN section 12): election safety; leader completeness; nothing applied anywhere that
is not durable on a majority; the same entry and the same state hash at an index everywhere; acknowledged strong writes keep
their place; strong reads see every write acknowledged before them; bounds of staleness are true; eventual writes that were
accepted get exactly one place, each origin's in order; what replicas are said to hold they hold. At the end everything is
healed, and must converge.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable
from typing import Any

from kvapi.v1 import replication_pb2
from kvnode.protocol.raft.core import RaftSettings
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Ready, Reply
from kvnode.runtime.recovery import ShardRecovery
from kvnode.shard.state_machine import WriteResult
from kvnode.storage.records import EntryRecord, EventualRecord, Record
from kvnode.types import Entry, Index, NodeName, Origin, Seconds, Term
from tests.scripts.pure_cluster import Message, PureCluster, PureNode

KEYS = (b"a", b"b", b"c")
HEAL_TIME: Seconds = 30.0
PutCommand, DeleteCommand = replication_pb2.PutCommand, replication_pb2.DeleteCommand


class Schedule(PureCluster):
    """One schedule; its seed decides everything."""

    def __init__(self, seed: int) -> None:
        dice = random.Random(seed)
        nodes, retained = dice.choice((3, 3, 5)), dice.choice((0, 2, 4096))
        super().__init__(nodes, seed, RaftSettings(leader_lease=dice.random() < 0.4), retained)
        self.dice = dice
        self.drifts = dice.random() < 0.5
        for node in self.nodes.values():
            node.offset = dice.uniform(0, 1000)
            node.rate = dice.uniform(0.991, 1.009) if self.drifts else 1.0
            node.skew_ms = dice.choice((0, 0, 300, -300, 3000))
        self.cut: dict[tuple[NodeName, NodeName], None] = {}
        self.loss, self.twice, self.disorder = (
            dice.choice((0.0, 0.02, 0.1)),
            dice.choice((0.0, 0.1)),
            dice.choice((0.0, 0.2, 0.6)),
        )
        self.crash_chance = dice.choice((0.0, 0.002, 0.01))
        self.pace = dice.choice((0.01, 0.03, 0.1))
        self.history: list[str] = []
        # What was seen.
        self.leader_of: dict[Term, NodeName] = {}
        self.committed: dict[Index, Entry] = {}
        self.hashes: dict[Index, int] = {}
        self.seen_applied: dict[tuple[NodeName, int], Index] = {}
        self.disks = {name: ShardRecovery() for name in self.names}
        self.disk_eventual: dict[NodeName, dict[tuple[str, int, int], None]] = {name: {} for name in self.names}
        self.proposed: dict[object, bytes] = {}
        self.acknowledged: list[tuple[Seconds, Index, bytes]] = []
        self.reads: dict[object, Index] = {}
        self.accepted: dict[Origin, int] = {}
        self.placed: dict[Origin, int] = {}
        self._tokens = 0

    # ---- what must hold ---------------------------------------------------------------------------------------------

    def on_written(self, node: PureNode, records: Any) -> None:
        """Follows what each disk holds."""
        record: Record
        for record in records:
            if isinstance(record, EntryRecord):
                self.disks[node.name].on_entry(Entry(*record[1:]))
            elif isinstance(record, EventualRecord):
                write = replication_pb2.EventualWrite.FromString(record.data)
                self.disk_eventual[node.name][write.node, write.incarnation, write.sequence] = None

    def on_flushed(self, node: PureNode) -> None:
        """Held writes are on disk by a flush too."""
        for write in node.replica.holder.writes():
            self.disk_eventual[node.name][write.node, write.incarnation, write.sequence] = None

    def on_ready(self, node: PureNode, ready: Ready) -> None:
        """Checks what a node became and applied."""
        raft = node.replica.raft
        if raft.role is Role.LEADER and self.leader_of.get(raft.term) != node.name:
            assert raft.term not in self.leader_of, f"{self.leader_of[raft.term]} and {node.name} lead in term {raft.term}"
            self.leader_of[raft.term] = node.name
            self._check_complete(node)
        before = self.seen_applied.get((node.name, node.life), raft.log.offset)
        for index in range(max(before, raft.log.offset) + 1, node.replica.applied + 1):
            self._check_applied(node, raft.log.entry(index))
        self.seen_applied[node.name, node.life] = node.replica.applied
        digest = node.replica.machine.state_hash
        assert self.hashes.setdefault(node.replica.applied, digest) == digest, f"states differ at {node.replica.applied}"

    def _check_complete(self, node: PureNode) -> None:
        log = node.replica.raft.log
        for index, entry in self.committed.items():
            if index >= log.offset:
                assert log.term(index) == entry.term, f"{node.name} leads without the committed entry {index} of {entry.term}"

    def _check_applied(self, node: PureNode, entry: Entry) -> None:
        known = self.committed.get(entry.index)
        assert known is None or known == entry, f"{node.name} applied another entry at {entry.index}"
        if known is not None:
            return
        self.committed[entry.index] = entry
        holders = [name for name in self.names if self._holds(name, entry)]
        assert len(holders) * 2 > len(self.names), f"entry {entry.index} is applied, and durable on {holders} only"
        assert node.name in holders, f"entry {entry.index} is applied on {node.name}, and not durable there"
        command = replication_pb2.Command.FromString(entry.data)
        for write in command.sequence.writes:
            origin = Origin(write.node, write.incarnation)
            expected = self.placed.get(origin, 0) + 1
            assert write.sequence == expected, f"{origin} {write.sequence} got a place where {expected} was due"
            self.placed[origin] = expected

    def _holds(self, name: NodeName, entry: Entry) -> bool:
        found = self.disks[name].entries
        position = entry.index - found[0].index if found else -1
        if 0 <= position < len(found) and found[position].term == entry.term:
            return True
        return self._flushed(name) >= entry.index

    def _flushed(self, name: NodeName) -> Index:
        from kvnode.shard.state_machine import META, StateMachine
        from tests.scripts.pure_cluster import SHARD

        return StateMachine.position(self.nodes[name].disk.store.get(SHARD, META)).index

    def on_reply(self, node: PureNode, reply: Reply) -> None:
        """Checks what a local caller was told."""
        super().on_reply(node, reply)
        token, result = reply
        if isinstance(result, WriteResult):
            self.acknowledged.append((self.time, result.revision, self.proposed[token]))
        elif token in self.reads and isinstance(result, int):
            assert result >= self.reads[token], f"a read at {node.name} got {result}, {self.reads[token]} was acknowledged"
        elif isinstance(result, replication_pb2.EventualWrite):
            self.accepted[Origin(result.node, result.incarnation)] = result.sequence
            assert (result.node, result.incarnation, result.sequence) in self.disk_eventual[node.name]

    def check_now(self) -> None:
        """What must hold at any moment."""
        for node in self.nodes.values():
            if node.up:
                self._check_staleness(node)
                self._check_held(node)

    def _check_staleness(self, node: PureNode) -> None:
        bound = node.replica.staleness(self.now(node.name))
        if bound is None:
            return
        since = self.time - bound * 1.03 - 0.002
        missed = [revision for at, revision, _ in self.acknowledged if at < since and revision > node.replica.applied]
        assert not missed, f"{node.name} says it is {bound:.3f} s behind, and lacks {missed}"

    def _check_held(self, node: PureNode) -> None:
        holder, machine = node.replica.holder, node.replica.machine
        held = {(w.node, w.incarnation, w.sequence): None for w in holder.writes()}
        for name in self.names:
            for life in range(1, self.nodes[name].life + 1):
                for sequence in range(machine.sequenced.get(Origin(name, life), 0) + 1, holder.held(Origin(name, life)) + 1):
                    assert (name, life, sequence) in held, f"{node.name} says that it holds {name}.{life}.{sequence}"
        me = node.replica.me
        for sequence in range(self.placed.get(me, 0) + 1, self.accepted.get(me, 0) + 1):
            said = holder.replicas_holding(sequence)
            true = sum((*me, sequence) in disk for disk in self.disk_eventual.values())
            assert said <= true, f"{me} {sequence} is said to be on {said} replicas, it is on {true}"

    # ---- what happens -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One random event."""
        dice = self.dice
        self.time += dice.random() * self.pace
        actions: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.38, self._deliver),
            (0.20, self._write_some),
            (0.08, self._tick_some),
            (0.06, self._beat_some),
            (0.12, self._client),
            (0.04, self._eventual),
            (0.04, self._spread_some),
            (0.03, self._flush_some),
            (0.02, self._rare),
            (0.03, self._restart_some),
        )
        pick = dice.random()
        for weight, action in actions:
            pick -= weight
            if pick < 0:
                action()
                break
        if dice.random() < self.crash_chance:
            self._crash_some()
        if len(self.network) > 80:
            self.drop(dice.choice(self.network))
        if dice.random() < 0.1:
            self.check_now()

    def _say(self, what: str) -> None:
        self.history.append(f"{self.time:.3f} {what}")

    def _some(self) -> PureNode:
        return self.nodes[self.dice.choice(self.names)]

    def _token(self) -> int:
        self._tokens += 1
        return self._tokens

    def _deliver(self) -> None:
        for _ in range(self.dice.choice((1, 2, 4, 8))):
            if self.network:
                self._deliver_one()

    def _deliver_one(self) -> None:
        dice = self.dice
        at = dice.randrange(len(self.network)) if dice.random() < self.disorder else 0
        message = self.network[at]
        if (message.source, message.to) in self.cut or dice.random() < self.loss:
            self._say(f"drop {describe(message)}")
            self.drop(message)
        else:
            self._say(describe(message))
            self.deliver(message, keep=dice.random() < self.twice)

    def _write_some(self) -> None:
        node = self._some()
        if node.up and node.pending:
            count = self.dice.choice((1, 100, 100))
            self._say(f"durable {node.name} {count}")
            self.durable(node.name, count)

    def _tick_some(self) -> None:
        for name in self.names:
            if self.nodes[name].up and self.dice.random() < 0.7:
                self.tick(name)

    def _beat_some(self) -> None:
        for name in self.leaders():
            self._say(f"beat {name}")
            self.beat(name)

    def _client(self) -> None:
        leaders = self.leaders()
        name = self.dice.choice(leaders) if leaders and self.dice.random() < 0.9 else self._some().name
        if not self.nodes[name].up:
            return
        token = self._token()
        if self.dice.random() < 0.35:
            self.reads[token] = max((revision for _, revision, _ in self.acknowledged), default=0)
            self._say(f"read {name} #{token}")
            self.read(name, token)
            return
        key = self.dice.choice(KEYS)
        if self.dice.random() < 0.3:
            command = replication_pb2.Command(delete=DeleteCommand(key=key))
        else:
            command = replication_pb2.Command(put=PutCommand(key=key, value=b"%d" % token))
            if self.dice.random() < 0.2:
                command.put.if_revision = self.dice.choice((0, len(self.committed)))
        self.proposed[token] = (command.put.key + command.put.value) or command.delete.key
        self._say(f"propose {name} #{token}")
        self.propose(name, command, token)

    def _eventual(self) -> None:
        node = self._some()
        if node.up:
            value = None if self.dice.random() < 0.3 else b"e"
            self._say(f"accept {node.name}")
            self.accept(node.name, self.dice.choice(KEYS), value, self._token())

    def _spread_some(self) -> None:
        self.spread(self._some().name)

    def _flush_some(self) -> None:
        node = self._some()
        self._say(f"flush {node.name}")
        self.flush(node.name, cut=self.dice.random() < 0.8)

    def _crash_some(self) -> None:
        node = self._some()
        if node.up:
            written = self.dice.randrange(len(node.pending) + 1)
            self._say(f"crash {node.name} after {written} writes")
            self.crash(node.name, written)

    def _restart_some(self) -> None:
        node = self._some()
        if not node.up:
            self._say(f"start {node.name}")
            self.start(node.name)

    def _rare(self) -> None:
        dice, node = self.dice, self._some()
        what = dice.randrange(6)
        if what == 0:
            self.cut = {(a, b): None for a in self.names for b in self.names if dice.random() < 0.3}
            self._say(f"cut {list(self.cut)}")
        elif what == 1:
            self.cut.clear()
            self._say("heal")
        elif not node.up:
            return
        elif what == 2:
            for name in self.leaders():
                self._say(f"hand over {name} to {node.name}")
                self.hand_over(name, node.name)
        elif what == 3:
            stalled = dice.random() < 0.5
            self._say(f"stall {node.name} {stalled}")
            node.replica.raft.on_disk_stalled(stalled, self.now(node.name))
            self.drain(node)
        elif what == 4:
            other = self._some().name
            self._say(f"{node.name} hears that {other} failed")
            node.replica.raft.on_node_failed(other, self.now(node.name))
            self.drain(node)
        else:
            self._say(f"collect {node.name}")
            node.replica.maybe_collect(self.names, self.now(node.name))
            self.drain(node)

    def heal(self) -> None:
        """Everything works again: one leader, one state, nothing left to do."""
        self.cut.clear()
        for name in self.names:
            if not self.nodes[name].up:
                self.start(name)
            self.nodes[name].replica.raft.on_disk_stalled(False, self.now(name))
        until = self.time + HEAL_TIME
        while self.time < until and not self._is_settled():
            self.time += 0.05
            for name in self.names:
                self.tick(name)
                self.beat(name)
                self.spread(name)
            for _ in range(4):
                for name in self.names:
                    self.durable(name)
                for message in list(self.network):
                    self.deliver(message)
            self.check_now()
        assert self._is_settled(), f"not settled after {HEAL_TIME} s: {self.state()}"

    def _is_settled(self) -> bool:
        replicas = [node.replica for node in self.nodes.values()]
        lasts = {replica.raft.log.last_index: None for replica in replicas}
        return (
            len(self.leaders()) == 1
            and len(lasts) == 1
            and all(replica.applied in lasts and not replica.holder.size for replica in replicas)
            and all(replica.staleness(self.now(replica.me.node)) is not None for replica in replicas)
        )

    def check_end(self) -> None:
        """After healing: nothing that was promised is missing."""
        machine = self.nodes["1"].replica.machine
        for _, revision, wanted in self.acknowledged:
            command = replication_pb2.Command.FromString(self.committed[revision].data)
            assert ((command.put.key + command.put.value) or command.delete.key) == wanted, f"{revision} is another write"
        for origin, sequence in self.accepted.items():
            assert machine.sequenced.get(origin, 0) >= sequence, f"{origin} {sequence} was accepted, and is lost"
        for node in self.nodes.values():
            assert node.replica.machine.sequenced == machine.sequenced
            assert node.replica.machine.state_hash == machine.state_hash

    def state(self) -> str:
        """For messages."""
        return "; ".join(
            f"{node.name} {node.replica.raft.role.value} term {node.replica.raft.term} commit {node.replica.raft.commit} "
            f"log ({node.replica.raft.log.offset}, {node.replica.raft.log.last_index}] applied {node.replica.applied} "
            f"holds {node.replica.holder.size} {node.replica.raft.progress}"
            for node in self.nodes.values()
        )

    def run(self, steps: int) -> None:
        """The whole schedule."""
        self.start_all()
        for _ in range(steps):
            self.step()
        self._say("---- heal")
        self.heal()
        self.check_end()


def describe(message: Message) -> str:
    """A line for people."""
    return f"{message.source}->{message.to} {message.kind} {str(message.body)[:150]!r}"


def main() -> None:
    """See the module's text."""
    first, last = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(sys.argv[1]) + 1
    steps = int(sys.argv[3]) if len(sys.argv) > 3 else 500
    failed = 0
    for seed in range(first, last):
        schedule = Schedule(seed)
        try:
            schedule.run(steps)
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {error}"[:400], flush=True)
            if last == first + 1:
                print("\n".join(schedule.history))
                traceback.print_exc()
                print(schedule.state())
    print(f"{last - first} schedules, {failed} failed")


if __name__ == "__main__":
    main()
