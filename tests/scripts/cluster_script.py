"""Dialogues of one shard's replicas: a pure cluster that says what happens. See `script.py`."""

from __future__ import annotations

from typing import Any

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.errors import KvnodeError
from kvnode.protocol.raft.core import RaftSettings
from kvnode.protocol.ready import Ready, Reply
from kvnode.shard.replica import QUORUM_AGE_UNKNOWN
from kvnode.shard.state_machine import WriteResult
from kvnode.types import Origin
from tests.scripts.pure_cluster import Message, PureCluster, PureNode
from tests.scripts.words import chosen, held_write


class ScriptCluster(PureCluster):
    """A cluster that says what happens."""

    def __init__(self, nodes: int, **options: Any) -> None:
        self.output: list[str] = []
        self.quiet = False
        self.cut_links: dict[tuple[str, str], None] = {}
        self._shown: dict[str, dict[str, object]] = {}
        super().__init__(nodes, **options)

    @classmethod
    def begin(cls, nodes: str, *options: str) -> ScriptCluster:
        """`cluster 3 append_size=1 retained=2`."""
        numbers = {name: int(value) for name, value in (word.split("=") for word in options)}
        settings = RaftSettings(append_size_bytes_max=numbers.pop("append_size", 1 << 20))
        cluster = cls(int(nodes), settings=settings, **numbers)
        cluster.time = 10.0
        cluster.start_all()
        return cluster

    def say(self, line: str) -> None:
        """A line of output."""
        if not self.quiet or " answers " in line:
            self.output.append(line)

    # ---- what happens -----------------------------------------------------------------------------------------------

    def on_sent(self, message: Message) -> None:
        """Shows it; on a cut link it is lost."""
        lost = (message.source, message.to) in self.cut_links
        self.say(f"  {describe(message)}" + ("  (lost)" if lost else ""))
        if lost:
            self.network.remove(message)

    def on_reply(self, node: PureNode, reply: Reply) -> None:
        """Shows the outcome of a local request."""
        super().on_reply(node, reply)
        self.say(f"  {node.name} answers {reply.token}: {outcome(reply.result)}")

    def on_ready(self, node: PureNode, ready: Ready) -> None:
        """Shows what changed, and what has to be written."""
        raft, replica = node.replica.raft, node.replica
        now: dict[str, object] = {"role": raft.role.value, "term": raft.term, "vote": raft.vote, "leader": raft.leader}
        now |= {"commit": raft.commit, "applied": replica.applied, "held": replica.holder.size, "offset": raft.log.offset}
        before = self._shown.get(node.name, {})
        changed = [f"{name} {value if value != '' else 'none'}" for name, value in now.items() if value != before.get(name)]
        self._shown[node.name] = now
        if changed and before:
            self.say(f"  {node.name}: {', '.join(changed)}")
        if ready.durable is not None:
            parts = []
            if ready.hard_state:
                parts.append(f"term {ready.hard_state.term} vote {ready.hard_state.vote or 'none'}")
            parts.extend(f"entry {entry.index}/{entry.term} {command(entry.data)}" for entry in ready.entries)
            parts.extend(held_write(replication_pb2.EventualWrite.FromString(data)) for data in ready.eventual)
            self.say(f"  {node.name} writes {'; '.join(parts)}")

    # ---- commands ---------------------------------------------------------------------------------------------------

    def do_campaign(self, name: str) -> None:
        """The node's election time-out passes."""
        self.campaign(name)

    def do_time(self, milliseconds: str) -> None:
        """So much time passes, and every node is told."""
        self.time += int(milliseconds.removesuffix("ms")) / 1000
        for name in self.names:
            self.tick(name)

    def do_sleep(self, milliseconds: str) -> None:
        """So much time passes, and no node notices yet."""
        self.time += int(milliseconds.removesuffix("ms")) / 1000

    def do_durable(self, name: str, writes: str = "") -> None:
        """The node's disk has the first so many writes, or all."""
        for one in self.names if name == "all" else [name]:
            if self.nodes[one].up:
                self.durable(one, int(writes) if writes else None)

    def do_deliver(self, *words: str) -> None:
        """The chosen messages arrive, in order."""
        for message in chosen(self.network, words):
            self.deliver(message)

    def do_repeat(self, *words: str) -> None:
        """The chosen messages arrive, and will arrive once more."""
        for message in chosen(self.network, words):
            self.deliver(message, keep=True)

    def do_drop(self, *words: str) -> None:
        """The chosen messages are lost; who waits for an answer learns that in time."""
        for message in chosen(self.network, words):
            self.drop(message)

    def do_cut(self, *links: str) -> None:
        """What is sent on the links "1->2" is lost from now on."""
        for link in links:
            source, to = link.split("->")
            self.cut_links[source, to] = None

    def do_heal(self) -> None:
        """Every link works."""
        self.cut_links.clear()

    def do_settle(self) -> None:
        """Everything is delivered and written until nothing happens; only answers and the end are shown."""
        self.quiet = True
        self.settle()
        self.quiet = False
        self.do_show("all")

    def do_propose(self, name: str, token: str, *words: str) -> None:
        """A strong write, as `put a=1`, `delete a`, `cas a=1 if 3`."""
        key, _, value = words[1].partition("=")
        if words[0] == "delete":
            proposal = replication_pb2.Command(delete=replication_pb2.DeleteCommand(key=key.encode()))
        else:
            put = replication_pb2.PutCommand(key=key.encode(), value=value.encode())
            if words[0] == "cas":
                put.if_revision = int(words[3])
            proposal = replication_pb2.Command(put=put)
        self.propose(name, proposal, token)

    def do_read(self, name: str, token: str) -> None:
        """A strong read asks a leader for its index."""
        self.read(name, token)

    def do_eventual(self, name: str, token: str, what: str, pair: str) -> None:
        """An eventual write, as `put a=1` or `delete a`."""
        key, _, value = pair.partition("=")
        self.accept(name, key.encode(), value.encode() if what == "put" else None, token)

    def do_spread(self, name: str) -> None:
        """The node passes eventual writes on."""
        self.spread(name)

    def do_beat(self, name: str) -> None:
        """The node starts a round of heartbeats."""
        self.beat(name)

    def do_failed(self, name: str, peer: str) -> None:
        """The node's failure detector says that the peer has failed."""
        node = self.nodes[name]
        node.replica.raft.on_node_failed(peer, self.now(name))
        self.drain(node)

    def do_stall(self, name: str) -> None:
        """The node's disk hangs."""
        node = self.nodes[name]
        node.replica.raft.on_disk_stalled(True, self.now(name))
        self.drain(node)

    def do_transfer(self, name: str, to: str) -> None:
        """The leader hands over."""
        self.say(f"  {'started' if self.hand_over(name, to) else 'refused'}")

    def do_flush(self, name: str) -> None:
        """Table to store; the log is cut."""
        self.flush(name)
        self.drain(self.nodes[name])

    def do_crash(self, name: str, written: str = "0") -> None:
        """The node dies with so many of its pending writes on disk."""
        self.crash(name, int(written))

    def do_start(self, name: str) -> None:
        """The node starts from its disk."""
        self._shown.pop(name, None)
        self.start(name)
        self.do_show(name)

    def do_show(self, name: str) -> None:
        """What a node is, and its log."""
        for one in self.names if name == "all" else [name]:
            node = self.nodes[one]
            if not node.up:
                self.say(f"  {one}: down")
                continue
            raft, replica = node.replica.raft, node.replica
            log = " ".join(f"{e.index}/{e.term}" for e in raft.log.slice(raft.log.first_index, 1 << 62))
            cut = f"({raft.log.offset}/{raft.log.offset_term}) " if raft.log.offset else ""
            held = f" holds {replica.holder.size}" if replica.holder.size else ""
            self.say(
                f"  {one}: {raft.role.value} term {raft.term} leader {raft.leader or 'none'} "
                f"commit {raft.commit} applied {replica.applied}{held}  log {cut}{log}".rstrip()
            )

    def do_get(self, name: str, key: str) -> None:
        """What a node has applied for a key."""
        version = self.nodes[name].replica.machine.version(key.encode())
        if version is None:
            self.say("  nothing is known")
        else:
            value = "deleted" if version.value is None else repr(version.value.decode())
            by = f"eventual, from {version.node}" if version.node else "strong"
            self.say(f"  {value}, revision {version.revision}, {by}")

    def do_fate(self, name: str, operation: str) -> None:
        """What became of the eventual write NODE.LIFE.SEQUENCE."""
        node, life, sequence = operation.split(".")
        replica, origin = self.nodes[name].replica, Origin(node, int(life))
        lost = replica.machine.superseded.get((origin, int(sequence)))
        if lost is not None:
            reason = kv_pb2.SupersededReason.Name(lost.outcome.reason).removeprefix("SUPERSEDED_REASON_")
            self.say(f"  superseded at {lost.revision}: {reason} by {lost.outcome.by}")
        elif replica.machine.sequenced.get(origin, 0) >= int(sequence):
            self.say(f"  applied at {replica.machine.placed.get((origin, int(sequence)), (0,))[0]}")
        else:
            self.say("  held" if replica.holder.held(origin) >= int(sequence) else "  unknown")


def describe(message: Message) -> str:
    """A message as a line."""
    body: Any = message.body
    kind, text = message.kind, ""
    if kind == "vote?":
        text = f"term {body.term} log {body.last_log_index}/{body.last_log_term}"
        text += " pre-vote" * body.pre_vote + " transfer" * body.leadership_transfer
    elif kind == "vote!":
        text = f"term {body.term} {'granted' if body.granted else 'refused'}{' pre-vote' * body.pre_vote}"
    elif kind == "timeout-now":
        text = f"term {body.term}"
    elif kind == "append?":
        entries = " ".join(f"{body.previous_index + 1 + i}/{e.term}" for i, e in enumerate(body.entries))
        text = f"term {body.term} after {body.previous_index}/{body.previous_term} commit {body.commit} [{entries}]"
    elif kind == "append!":
        if body.success:
            text = f"term {body.term} matches to {body.index}"
        else:
            text = f"term {body.term} refused {body.index}, try {body.hint_index}/{body.hint_term}"
    elif kind == "heartbeat?":
        lead, round_, _, _ = body
        text = f"round {round_}"
        if lead is not None:
            unknown = " (no entry of the term is committed)" if lead.quorum_age_ms == QUORUM_AGE_UNKNOWN else ""
            text += f" term {lead.term} commit {lead.commit} match {lead.match}{unknown}"
    elif kind == "heartbeat!":
        ack, round_, _, _ = body
        text = f"round {round_}" + (f" term {ack.term} {'follows' if ack.accepted else 'does not follow'}" if ack else "")
    elif kind == "eventual?":
        writes = ", ".join(held_write(write) for write in body.writes)
        text = f"of {body.node}.{body.incarnation}, placed to {body.sequenced}: [{writes}]"
    elif kind == "eventual!":
        text = f"of {body.node}.{body.incarnation}: holds to {body.held}"
    elif kind == "snapshot?":
        text = f"term {body[0]} up to {body[1]}/{body[2]}, {len(body[3])} rows"
    elif kind == "snapshot!":
        text = f"up to {body[0]} {'installed' if body[1] else 'refused'}"
    return f"{message.source}->{message.to} {kind} {text}"


def command(data: bytes) -> str:
    """An entry's command in words."""
    parsed = replication_pb2.Command.FromString(data)
    operation = parsed.WhichOneof("operation")
    if operation == "put":
        return f"put {parsed.put.key.decode()}={parsed.put.value.decode()}"
    if operation == "delete":
        return f"delete {parsed.delete.key.decode()}"
    if operation == "sequence":
        return "sequence [" + ", ".join(held_write(write) for write in parsed.sequence.writes) + "]"
    if operation == "collect":
        return f"collect up to {parsed.collect.horizon}"
    return "term start"


def outcome(result: object) -> str:
    """What a caller gets."""
    if isinstance(result, WriteResult):
        return f"done, revision {result.revision}"
    if isinstance(result, KvnodeError):
        return result.reason
    if isinstance(result, replication_pb2.EventualWrite):
        return f"accepted as {result.node}.{result.incarnation}.{result.sequence}"
    return f"read at {result}"
