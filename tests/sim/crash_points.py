"""Every point of a transaction at which somebody may die, one after the other: nothing here is left to chance.

A quiet world of three nodes runs one transaction and numbers what happens meanwhile: each message of the transaction and of its
replication, answers too, and each sync. Then it runs again for each of these events and each victim (the coordinator's node,
which leads the anchor; the leader of another participant; both), which dies just before the event (the message is lost, the
sync is not done) or just after it (the message is being handled, the sync is done and nobody knows), and comes back later.
Recovery has its points too: there the coordinator is dead already.

Owns: the world, the events and their order, what must hold after each death. Never: has another fault beside the deaths, or
says which points there are (`test_transaction_crash_points` does).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import structlog

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of
from kvnode.config import Cluster, Config, Election, FailureDetection, Gossip, Storage, Transactions
from kvnode.config import Node as NodeConfig
from kvnode.errors import KvnodeError
from kvnode.routing.shard_map import make_shard_map
from kvnode.runtime.transport import PeerUnreachable
from kvnode.types import Shard, Txn

from .loop import SimulatedLoop, SimulationError, run
from .machine import SimNode
from .network import LinkQuality, Network
from .places import PowerCut
from .trace import Trace
from .world import World, log_to

SHARDS = 3
"""Of the cluster; each is led by another node."""
PUSH_AFTER_S = 0.3
LOCKED_S_MAX = PUSH_AFTER_S + 1.0
"""How long a vote may stand while every shard has a leader and a majority."""
RESTART_AFTER_S = 1.5
SETTLED_WITHIN_S = 15.0
ATTEMPT_S = 1.0
LOOK_S = 0.005
STRONG = kv_pb2.CONSISTENCY_STRONG
KILLED = LinkQuality(spike_probability=0.0, reset_probability=1.0)
"""Where a process was killed its kernel refuses and resets…"""
SILENT = LinkQuality(spike_probability=0.0, reset_probability=0.0)
"""… and where the power failed nobody does."""
REQUESTS = ("TxnRequest", "PrepareRequest", "DecideRequest", "ResolveRequest", "TransactionStatusRequest")
ROLES = ("coordinator", "participant", "third")
"""Whoever leads the transaction's first, second or third shard when the time has come."""


@dataclass(frozen=True)
class Death:
    """Who dies when, and how."""

    event: int
    victims: tuple[int, ...]
    """Whose leaders, by the place of the shard in the transaction."""
    after: bool
    """Else: before."""
    power: bool = False
    """The power fails: what is not synced is lost, and no connection is reset. Else the process is killed."""

    def __str__(self) -> str:
        who = "+".join(ROLES[victim] for victim in self.victims)
        return f"{self.event} {'after' if self.after else 'before'} {who} {'power' if self.power else 'kill'}"


@dataclass(frozen=True)
class Point:
    """One run: a transaction over so many shards, and deaths in it."""

    shards: int
    deaths: tuple[Death, ...] = ()
    insists: bool = True
    """The client asks again at once; else when all is settled, so that only the nodes can end what was begun."""

    def __str__(self) -> str:
        client = "insists" if self.insists else "waits"
        return " / ".join([f"{self.shards} shards, client {client}", *map(str, self.deaths)])


@dataclass
class Outcome:
    """How one run ended."""

    point: Point
    events: list[str] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    locked_s: float = 0.0
    """The longest time for which a vote stood while all shards were available."""
    died: int = 0
    """Nodes that did: in recovery a shard may have no leader when the time has come."""
    attempts: int = 0
    """Transactions that it took until one was committed."""
    first: str = ""
    """What the client that waits was told, and what had become of its request when all was settled."""
    tail: str = ""


# ---- the world ----------------------------------------------------------------------------------------------------------


class Events:
    """Numbers what happens while `running`, and tells when an event is about to happen, or has happened."""

    def __init__(self, deaths: tuple[Death, ...], die: Callable[[Death], None], note: Callable[[str, str], None]) -> None:
        self.running = False
        self.names: list[str] = []
        self._deaths, self._die, self._note = deaths, die, note

    def begin(self, node: str, name: str) -> int:
        """The event's number. Whoever must die before it is dead."""
        if not self.running:
            return -1
        number = len(self.names)
        self.names.append(name)
        self._note(node, f"event {number}: {name}")
        self._at(number, after=False)
        return number

    def is_lost(self, number: int) -> bool:
        """Whether a death prevents the event."""
        return any(death.event == number and not death.after for death in self._deaths)

    def end(self, number: int) -> None:
        """It has happened."""
        self._at(number, after=True)

    def _at(self, number: int, after: bool) -> None:
        for death in self._deaths:
            if (death.event, death.after) == (number, after):
                self._die(death)


class WatchedNetwork(Network):
    """A network on which messages of transactions are events."""

    def __init__(self, world: World, events: Events) -> None:
        super().__init__(world.loop, world.loop.random("network"), quality=KILLED, trace=world.trace)
        self.events = events
        self._watched_calls: dict[int, str] = {}

    def _send(self, source: str, target: str, size: int, deliver: Callable[..., None], *args: Any, stream: str = "") -> None:
        what = self._what(deliver, args)
        number = self.events.begin(source, f"{what} {source} -> {target}") if what else -1
        if self.events.is_lost(number):
            return
        if number >= 0:
            deliver = partial(self._deliver_event, number, deliver)
        super()._send(source, target, size, deliver, *args, stream=stream)

    def _deliver_event(self, number: int, deliver: Callable[..., None], *args: Any) -> None:
        deliver(*args)
        # Once the receiver has begun to handle it.
        self._later(0.0, self.events.end, number)

    def _what(self, deliver: Callable[..., None], args: tuple[Any, ...]) -> str:
        """The name of a message that belongs to a transaction, or carries entries; else nothing."""
        call, kind, *rest = args if len(args) > 1 else (None, None)
        if deliver in (self._deliver, self._deliver_forward):
            name: str = kind.__name__
            if name in REQUESTS or (name == "AppendRequest" and any(a.entries for a in kind.FromString(rest[0]).appends)):
                self._watched_calls[call.number] = name.replace("Request", "")
                return name
        elif deliver in (self._finish, self._finish_error) and call.number in self._watched_calls:
            return self._watched_calls[call.number] + ("Response" if deliver == self._finish else "Error")
        return ""


class QuietWorld(World):
    """Three nodes, three shards, no faults but the deaths of a point."""

    def __init__(self, loop: SimulatedLoop, trace: Trace, point: Point) -> None:
        super().__init__(loop, trace, nodes=3, shards=SHARDS, replication_factor=3)
        self.events = Events(point.deaths, self._die, self.note)
        self.network = WatchedNetwork(self, self.events)
        for sim in self.nodes.values():
            self._watch_syncs(sim)

    def _random_config(self, nodes: int, shards: int, replication_factor: int) -> Config:
        members = {f"n{i + 1}": f"127.0.0.1:{7401 + i}" for i in range(nodes)}
        return Config(
            node=NodeConfig(name="n1", listen=members["n1"], data_dir="simulated"),  # type: ignore[arg-type]
            cluster=Cluster(id="sim", shards=shards, replication_factor=replication_factor, members=members),
            failure_detection=FailureDetection(
                heartbeat_interval_ms=50, silence_ms_min=200, silence_ms_max=600, probe_timeout_ms=100
            ),
            gossip=Gossip(interval_ms=500),
            election=Election(timeout_ms_min=200, timeout_ms_max=400, rebalance_after_ms=1000),
            transactions=Transactions(push_after_ms=int(PUSH_AFTER_S * 1000)),
            storage=Storage(segment_size_bytes=64 * 1024, flush_interval_s=0.5, ballast_size_bytes=0),
        )

    def _watch_syncs(self, sim: SimNode) -> None:
        sync = sim.disk.sync

        def watched_sync(name: str) -> None:
            group = sim.group
            number = self.events.begin(sim.name, f"sync {sim.name}")
            if sim.group is not group:
                raise PowerCut
            sync(name)
            self.events.end(number)
            if sim.group is not group:
                raise PowerCut

        sim.disk.sync = watched_sync  # type: ignore[method-assign]

    def _die(self, death: Death) -> None:
        self.network.set_quality(SILENT if death.power else KILLED)
        leaders = [self.witness.leading[shard][0] for shard in death.victims if shard in self.witness.leading]
        for name in dict.fromkeys(leaders):
            sim = self.nodes[name]
            self.counts["died"] += 1
            sim.kill(f"dies: {death}")
            if death.power:
                # After the call that may be interrupted has left the disk.
                self.outside(0.0, sim.lose_power)
            self.outside(RESTART_AFTER_S, sim.start)

    @property
    def is_available(self) -> bool:
        """Whether every shard has a leader and a majority."""
        return len(self.witness.leading) == SHARDS and len(self.live()) >= 2


# ---- one run ------------------------------------------------------------------------------------------------------------


def _key(what: str, shard: Shard) -> bytes:
    return next(key for n in range(1000) if shard_of(key := b"%s%d" % (what.encode(), n), SHARDS) == shard)


class CrashRun:
    """Sets up, runs the transaction through the deaths, and looks what became of it."""

    def __init__(self, loop: SimulatedLoop, trace: Trace, outcome: Outcome) -> None:
        self.loop, self.outcome, self.point = loop, outcome, outcome.point
        self.world = QuietWorld(loop, trace, outcome.point)
        self._client = self.world.network.endpoint("client")
        shards = range(self.point.shards)
        self._puts, self._gone, self._seen = ([_key(what, shard) for shard in shards] for what in ("put", "gone", "seen"))
        self._votes: dict[tuple[Shard, Txn], float] = {}

    async def run(self) -> None:
        """The whole of it."""
        world = self.world
        log_to(world)
        for sim in world.nodes.values():
            sim.start()
        shard_map = make_shard_map(world.config.cluster.members, SHARDS, world.config.cluster.replication_factor)
        preferred = {shard: holders[0] for shard, holders in enumerate(shard_map.replicas)}
        await self._until(
            lambda: "" if {s: n for s, (n, _) in world.witness.leading.items()} == preferred else f"{world.witness.leading}"
        )
        request = await self._set_up()
        await self._until(self._unsettled)
        world.events.running = True
        watching = self.loop.create_task(self._watch_votes(), name="watch votes")
        answer = await self._commit(request, preferred[0])
        await self._until(self._unsettled)
        world.events.running = False
        if not world.violations:
            await self._check(request, answer)
            await self._until(self._unsettled)
        watching.cancel()

    async def _until(self, why_not: Callable[[], str]) -> None:
        start = self.loop.time()
        while (why := why_not()) and not self.world.violations:
            if self.loop.time() - start > SETTLED_WITHIN_S:
                self.world.violate("everything settles", why)
            await self.world.sleep(0.02)

    async def _set_up(self) -> kv_pb2.TxnRequest:
        """The transaction, and the rows that it is about."""
        for key in (*self._puts, *self._gone, *self._seen):
            put = await self._ask(kv_pb2.PutRequest(key=key, value=b"before", consistency=STRONG), "n1")
        name = kv_pb2.RequestId(session=b"crash points all", sequence=1, started=put.served.hlc)
        request = kv_pb2.TxnRequest(request=name)
        for changed, gone, seen in zip(self._puts, self._gone, self._seen, strict=True):
            request.compare.add(key=changed, operator=kv_pb2.COMPARE_OPERATOR_EQUAL, value=b"before")
            request.then.add(put=kv_pb2.PutRequest(key=changed, value=b"after"))
            request.then.add(delete=kv_pb2.DeleteRequest(key=gone))
            request.then.add(get=kv_pb2.GetRequest(key=seen))
        return request

    async def _commit(self, request: kv_pb2.TxnRequest, coordinator: str) -> kv_pb2.TxnResponse:
        """The client's part: asks the coordinator's node first, and then any, until it has an answer."""
        if not self.point.insists:
            try:
                await self._client.forward(coordinator, request, ATTEMPT_S, 0)
                told, allowed = "answered", ("after",)
            except (KvnodeError, PeerUnreachable) as error:
                self.world.note("client", f"{error!r}")
                definite = error.refused if isinstance(error, PeerUnreachable) else error.definite
                told, allowed = ("refused", ("before",)) if definite else ("in doubt", ("before", "after"))
            await self._until(self._unsettled)
            self.world.events.running = False
            states = await self._states()
            self.outcome.first = f"{told}, {states[0]}"
            if len(set(states)) > 1 or states[0] not in allowed:
                self.world.violate("all or nothing, as told", f"{told}; the shards are {states}")
        answer: kv_pb2.TxnResponse = await self._ask(request, coordinator)
        return answer

    async def _ask(self, request: Any, first: str) -> Any:
        """Asks until there is an answer, another node each time."""
        nodes = sorted(self.world.nodes, key=lambda name: name != first)
        until, attempt = self.loop.time() + SETTLED_WITHIN_S, 0
        while True:
            try:
                return await self._client.forward(nodes[attempt % len(nodes)], request, ATTEMPT_S, 0)
            except (KvnodeError, PeerUnreachable) as error:
                self.world.note("client", f"{nodes[attempt % len(nodes)]}: {error!r}")
                if self.loop.time() > until or getattr(error, "reason", "") == "SESSION_EXPIRED":
                    self.world.violate("a client is answered", f"{type(request).__name__}: {error!r}")
                    raise
            attempt += 1
            await self.world.sleep(0.05)

    # ---- while it runs ----------------------------------------------------------------------------------------------

    async def _watch_votes(self) -> None:
        """No leader has a vote for longer than it may. Only time counts in which every shard is available."""
        world, outcome = self.world, self.outcome
        while True:
            await world.sleep(LOOK_S)
            if not world.is_available:
                continue
            self._votes = {vote: self._votes.get(vote, 0.0) + LOOK_S for vote in self._prepared()}
            longest = max(self._votes.values(), default=0.0)
            if longest > LOCKED_S_MAX >= outcome.locked_s:
                world.violate("locks go in time", f"votes stand for {self._votes}")
            outcome.locked_s = max(outcome.locked_s, longest)

    def _prepared(self) -> Iterator[tuple[Shard, Txn]]:
        """What leaders have voted for."""
        for shard, (name, _) in self.world.witness.leading.items():
            node = self.world.nodes[name].node
            for txn in node.replicas[shard].machine.transactions.prepared if node else ():
                yield shard, txn

    def _unsettled(self) -> str:
        """What goes on yet: dead nodes, transactions, entries that not all have applied. Empty: all replicas agree."""
        for shard in range(SHARDS):
            states = {}
            for name, sim in self.world.nodes.items():
                if sim.node is None:
                    return f"{name} is dead"
                replica = sim.node.replicas[shard]
                transactions = replica.machine.transactions
                if transactions.prepared or transactions.spreading:
                    return f"{name}, shard {shard}: prepared {transactions.prepared}, spreading {transactions.spreading}"
                if not replica.applied == replica.raft.commit == replica.raft.log.last_index or replica.waiting:
                    return f"{name}, shard {shard}: applied {replica.applied} of {replica.raft.log.last_index}"
                states[name] = (replica.applied, replica.machine.state_hash)
            if len(set(states.values())) > 1:
                return f"shard {shard}: {states}"
        return "" if self.world.is_available else f"leaders: {self.world.witness.leading}"

    # ---- the end ----------------------------------------------------------------------------------------------------

    async def _states(self, node: str = "n1") -> list[str]:
        """Each shard's rows in a word, by strong reads: before, after, or what neither is."""
        found = []
        for changed, gone, seen in zip(self._puts, self._gone, self._seen, strict=True):
            rows = [await self._ask(kv_pb2.GetRequest(key=key, consistency=STRONG), node) for key in (changed, gone, seen)]
            told = [(row.value, row.version) if row.found else None for row in rows]
            known = {
                ((b"before", 1), (b"before", 1), (b"before", 1)): "before",
                ((b"after", 2), None, (b"before", 1)): "after",
            }
            found.append(known.get(tuple(told), str(told)))  # type: ignore[call-overload]
        return found

    async def _check(self, request: kv_pb2.TxnRequest, answer: kv_pb2.TxnResponse) -> None:
        violate, nodes = self.world.violate, list(self.world.nodes)
        self.outcome.attempts = len(self._ends())
        if not answer.succeeded:
            violate("the comparisons hold", str(answer))
        for node in nodes:
            again = await self._ask(request, node)
            if (again.succeeded, list(again.results)) != (answer.succeeded, list(answer.results)):
                violate("one request, one answer", f"first {answer}, then {again}")
            states = await self._states(node)
            if states != ["after"] * self.point.shards:
                violate("committed exactly once", f"{node} reads {states}")
        self._check_ends()
        for number, key in enumerate((*self._puts, *self._gone, *self._seen)):
            await self._ask(kv_pb2.PutRequest(key=key, value=b"later", consistency=STRONG), nodes[number % len(nodes)])
            row = await self._ask(kv_pb2.GetRequest(key=key, consistency=STRONG), nodes[(number + 1) % len(nodes)])
            if row.value != b"later":
                violate("strong reads see strong writes", f"{key!r} is {row}")

    def _ends(self) -> dict[Txn, dict[tuple[str, Shard], bool]]:
        """Whether each transaction was committed, as each replica knows it."""
        ends: dict[Txn, dict[tuple[str, Shard], bool]] = {}
        for name, sim in self.world.nodes.items():
            for shard, replica in sim.node.replicas.items() if sim.node else ():
                for txn, end in replica.machine.transactions.ended.items():
                    ends.setdefault(txn, {})[name, shard] = end.committed
        return ends

    def _check_ends(self) -> None:
        """Whoever knows how a transaction ended knows the same, and one was committed, by all its participants."""
        ends = self._ends()
        told = "\n".join(f"{txn}: {known}" for txn, known in ends.items())
        if any(len(set(known.values())) > 1 for known in ends.values()):
            self.world.violate("every transaction ends the same everywhere", told)
        committed = [known for known in ends.values() if any(known.values())]
        if [len(known) for known in committed] != [len(self.world.nodes) * self.point.shards]:
            self.world.violate("one transaction is committed, by all its participants", told)


def run_point(point: Point) -> Outcome:
    """One run. Never raises for what the cluster did; everything is in the outcome."""
    outcome = Outcome(point)
    kept: list[Trace] = []

    async def main(loop: SimulatedLoop) -> None:
        trace = Trace(lambda: loop.now)
        kept.append(trace)
        one = CrashRun(loop, trace, outcome)
        try:
            await one.run()
        except (KvnodeError, PeerUnreachable):
            pass  # It has been told.
        finally:
            world = one.world
            unhandled = [line for line in loop.unhandled if "PowerCut" not in line]
            outcome.events, outcome.died = world.events.names, world.counts["died"]
            outcome.violations += [*map(str, world.violations), *unhandled]
            loop.unhandled.clear()
            world.over = True

    try:
        run(lambda loop: main(loop), seed="crash points", until=120.0, strict=False)
    except SimulationError as error:
        outcome.violations.append(str(error)[:3000])
    finally:
        structlog.reset_defaults()
    if any(death.event >= len(outcome.events) for death in point.deaths) and not outcome.violations:
        outcome.violations.append(f"the run has only {len(outcome.events)} events")
    outcome.tail = kept[0].tail(400) if outcome.violations else ""
    return outcome
