"""Shards without a runtime: state machines behind logs of one replica each, and a network that does what the test says.

Owns what `kvnode/routing` does between the pure parts, without its waiting: `participants` (a request becomes an entry, its
outcome the answer) and `locks` (who waits, who is wounded); who asks is in `pure_askers.py`. What a shard applies is committed:
replication has scripts of its own.

Every shard has a twin that applies the same entries and never restarts: both must say the same for ever.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass, field
from typing import Any

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.errors import InvalidRequest, KvnodeError, Overloaded
from kvnode.protocol.two_phase_commit.locks import wounded_by
from kvnode.routing.coordinators import FAILED
from kvnode.routing.participants import ABORTED, COMMITTED, PREPARED
from kvnode.routing.shard_map import ShardMap
from kvnode.shard.evaluate import locks_of
from kvnode.shard.state_machine import Applied, Decision, StateMachine
from kvnode.shard.transactions import End, Ended, Locked, Vote, txn_of
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import Table
from kvnode.types import Entry, Hlc, Shard, Txn
from tests.scripts.pure_askers import (
    Asker,
    DecideRequest,
    DecideResponse,
    PrepareRequest,
    PrepareResponse,
    PureAttempt,
    PurePush,
    ResolveRequest,
    ResolveResponse,
    StatusRequest,
    StatusResponse,
    id_of,
    shard_of,
)

WALL_MS = 1_000_000
Command = replication_pb2.Command
ForgetCommand = replication_pb2.ForgetCommand
KINDS = {PrepareRequest: "prepare", DecideRequest: "decide", ResolveRequest: "resolve", StatusRequest: "status"}


class LastDigit(ShardMap):
    """Key "b1" is in shard 1."""

    def shard_of(self, key: bytes) -> Shard:
        """What the key ends with."""
        return int(key[-1:])


@dataclass(slots=True)
class Message:
    """On its way. `answer`: None in a question; a `KvnodeError` in a refusal."""

    number: int
    source: str
    to: str
    kind: str
    asker: Asker
    request: Any
    answer: Any = None


@dataclass(slots=True)
class PureShard:
    """One shard's log, its store, and while its leader lives the state machine and who waits for locks."""

    number: Shard
    store: MemoryStore = field(default_factory=MemoryStore)
    log: list[Entry] = field(default_factory=list)
    queue: list[tuple[Txn, int, Message]] = field(default_factory=list)
    """PREPAREs that wait for locks, the oldest transaction first."""
    machine: StateMachine = field(init=False)
    twin: StateMachine = field(init=False)
    table: Table = field(init=False)

    def __post_init__(self) -> None:
        """Empty."""
        self.twin = StateMachine(Table(self.number, MemoryStore()))
        self.restart()

    def apply(self, command: Command) -> Applied:
        """One more entry."""
        entry = Entry(len(self.log) + 1, 1, replication_pb2.ENTRY_KIND_COMMAND, command.SerializeToString())
        self.log.append(entry)
        result, same = self.machine.apply(entry), self.twin.apply(entry)
        assert comparable(result) == comparable(same), f"entry {entry.index}: {result} after a restart, {same} without"
        assert self.machine.state_hash == self.twin.state_hash, f"entry {entry.index}: another state after a restart"
        return result

    def flush(self) -> None:
        """The table goes to the store."""
        self.machine.before_freeze()
        self.store.commit({self.number: list(self.table.freeze().items())})
        self.table.thaw(flushed=True)

    def restart(self) -> int:
        """The leader dies; what it had flushed is loaded, the rest of the log applied again. Answers how many entries."""
        self.queue.clear()
        self.table = Table(self.number, self.store)
        self.machine = StateMachine(self.table)
        rest = self.log[self.machine.applied :]
        for entry in rest:
            self.machine.apply(entry)
        self.check()
        return len(rest)

    def check(self) -> None:
        """All rows are those of the twin, also the ones that are written when the table is frozen."""
        rows = []
        for machine in (self.machine, self.twin):
            machine.before_freeze()
            rows.append(list(machine.table.scan(b"", None)))
        assert rows[0] == rows[1], f"shard {self.number}: other rows after a restart"


def comparable(result: object) -> object:
    """The same for results that mean the same."""
    if isinstance(result, KvnodeError):
        return type(result), result.message, result.metadata
    if isinstance(result, Locked):
        return sorted(result.holders)
    if isinstance(result, Decision):
        return result._replace(refused=None), comparable(result.refused)
    return result


class PureShards:
    """Shards 0, 1, …, and a network. Subclasses watch `on_…`."""

    def __init__(self, shards: int) -> None:
        self.map = LastDigit(1, {}, ((),) * shards)
        self.shards = [PureShard(number) for number in range(shards)]
        self.attempts: dict[str, PureAttempt] = {}
        self.network: list[Message] = []
        self.time_ms = 0
        self._start_above: Hlc = 0
        self._number = 0

    # ---- watched by subclasses --------------------------------------------------------------------------------------

    def on_sent(self, message: Message) -> None:
        """A message left."""

    def on_applied(self, shard: PureShard, command: Command, result: Applied) -> None:
        """A shard applied an entry."""

    def on_waits(self, shard: PureShard, txn: Txn, holders: tuple[Txn, ...]) -> None:
        """A PREPARE waits for locks."""

    def on_moved(self, attempt: PureAttempt) -> None:
        """A coordinator is in another state."""

    def on_outcome(self, attempt: PureAttempt, outcome: kv_pb2.TxnResponse | KvnodeError | None) -> None:
        """The client is answered; None: aborted, the coordinator may try again."""

    def looks_first(self) -> bool:
        """Whether a leader sees what the entries before do; else they are proposed, and not applied when it looks."""
        return True

    # ---- what happens -----------------------------------------------------------------------------------------------

    def clock(self) -> Hlc:
        """Every node's clock: a millisecond later each time."""
        self.time_ms += 1
        return (WALL_MS + self.time_ms) << 16

    def start_above(self, horizon: Hlc) -> None:
        """A shard has forgotten transactions that started up to here."""
        self._start_above = max(self._start_above, horizon + 1)

    def coordinate(self, name: str, request: kv_pb2.TxnRequest, first: PureAttempt | None = None) -> PureAttempt:
        """A coordinator begins; a later attempt is as old as the first."""
        start = max(first.txn.start if first else self.clock(), self._start_above)
        attempt = self.attempts[name] = PureAttempt(self, name, request, start)
        attempt.begin()
        return attempt

    def push(self, shard: Shard, txn: Txn) -> None:
        """Has the transaction end in this shard, where it is under way."""
        PurePush(self, shard, txn)

    def restart(self, shard: Shard) -> int:
        """The shard's leader dies, another leads."""
        return self.shards[shard].restart()

    def apply(self, shard: PureShard, command: Command) -> Applied:
        """Proposes a command; what a transaction's end has set free goes on."""
        command.hlc = self.clock()
        result = shard.apply(command)
        self.on_applied(shard, command, result)
        if isinstance(result, Decision):
            queue, shard.queue = shard.queue, []
            for _, _, message in queue:
                self._serve(shard, message)
        return result

    # ---- the network ------------------------------------------------------------------------------------------------

    def _send(self, source: str, to: str, kind: str, asker: Asker, request: Any, answer: Any = None) -> None:
        self._number += 1
        message = Message(self._number, source, to, kind, asker, request, answer)
        self.network.append(message)
        self.on_sent(message)

    def ask(self, asker: Asker, request: Any) -> None:
        """A question leaves."""
        self._send(asker.name, str(shard_of(request)), KINDS[type(request)] + "?", asker, request)

    def forget(self, asker: Asker, anchor: Shard, txn: Txn) -> None:
        """The anchor need not keep its decision for ever; nobody waits for an answer."""
        self._send(asker.name, str(anchor), "forget", asker, ForgetCommand(transactions=[id_of(txn)]))

    def deliver(self, message: Message, keep: bool = False) -> None:
        """It arrives, and with `keep` once more later."""
        if not keep:
            self.drop(message)
        if message.answer is not None:
            message.asker.on_answer(message.request, message.answer)
        else:
            self._serve(self.shards[int(message.to)], message)

    def drop(self, message: Message) -> None:
        """It is lost."""
        self.network = [other for other in self.network if other is not message]

    # ---- participants -----------------------------------------------------------------------------------------------

    def _serve(self, shard: PureShard, message: Message) -> None:
        request = message.request
        if isinstance(request, ForgetCommand):
            self.apply(shard, Command(forget=request))
            return
        if isinstance(request, PrepareRequest):
            answer = self._prepare(shard, message)
        elif isinstance(request, DecideRequest):
            answer = self._decide(shard, request)
        elif isinstance(request, ResolveRequest):
            answer = self._resolve(shard, request)
        else:
            answer = self._status(shard, request)
        if answer is not None:
            self._send(str(shard.number), message.asker.name, message.kind[:-1] + "!", message.asker, request, answer)

    def _prepare(self, shard: PureShard, message: Message) -> PrepareResponse | KvnodeError | None:
        request, txn = message.request, txn_of(message.request.transaction)
        transactions, looks = shard.machine.transactions, self.looks_first()
        end = transactions.end_of(txn) if looks else None
        if end is not None:
            return self._ended(shard, end, transactions.horizon)
        holders = transactions.locks.conflicts(locks_of(request.part), txn) if looks else ()
        if holders:
            return self._wait(shard, txn, message, holders)
        if shard.machine.transactions.is_full:
            return Overloaded(f"shard {shard.number} has as many transactions under way as it may")
        prepare = replication_pb2.PrepareCommand(
            transaction=request.transaction, anchor=request.anchor, participants=request.participants, part=request.part
        )
        result = self.apply(shard, Command(prepare=prepare))
        if isinstance(result, Locked):
            return self._wait(shard, txn, message, result.holders)
        if isinstance(result, Ended):
            return self._ended(shard, *result)
        if isinstance(result, KvnodeError):
            return result
        assert isinstance(result, Vote)
        return PrepareResponse(
            state=PREPARED, index=result.index, matched=result.matched, then=result.then, otherwise=result.otherwise
        )

    @staticmethod
    def _ended(shard: PureShard, end: End, horizon: Hlc) -> PrepareResponse:
        state = COMMITTED if end.committed else ABORTED
        return PrepareResponse(state=state, why=f"shard {shard.number}: it was aborted", horizon=horizon)

    def _wait(self, shard: PureShard, txn: Txn, message: Message, holders: tuple[Txn, ...]) -> None:
        insort(shard.queue, (txn, message.number, message), key=lambda one: one[:2])
        self.on_waits(shard, txn, holders)
        for holder in wounded_by(txn, holders):
            self.push(shard.number, holder)

    def _decide(self, shard: PureShard, request: DecideRequest) -> DecideResponse | KvnodeError:
        transactions, txn = shard.machine.transactions, txn_of(request.transaction)
        ended = transactions.ended.get(txn) or transactions.spreading.get(txn)
        if ended is not None and self.looks_first():
            decision: Applied = Decision(ended)
        else:
            asked = request.request if request.HasField("request") else None
            decide = replication_pb2.DecideCommand(
                transaction=request.transaction,
                commit=request.commit,
                succeeded=request.succeeded,
                response=request.response.SerializeToString() if asked else b"",
            )
            decision = self.apply(shard, Command(decide=decide, request=asked))
        assert isinstance(decision, Decision)
        end, refused = decision.end, decision.refused
        if isinstance(refused, InvalidRequest):
            return refused
        if decision.forgotten:
            return DecideResponse(state=FAILED if request.commit else ABORTED)
        return DecideResponse(
            state=COMMITTED if end.committed else ABORTED,
            succeeded=end.succeeded,
            committed_at=end.committed_at,
            executed=kv_pb2.TxnResponse.FromString(decision.executed) if decision.executed is not None else None,
            expired_clock=int(refused.metadata["clock"]) if refused is not None else None,
        )

    def _resolve(self, shard: PureShard, request: ResolveRequest) -> ResolveResponse:
        if shard.machine.transactions.ended.get(txn_of(request.transaction)) is None:
            resolve = replication_pb2.ResolveCommand(
                transaction=request.transaction,
                commit=request.commit,
                succeeded=request.succeeded,
                committed_at=request.committed_at,
            )
            decision = self.apply(shard, Command(resolve=resolve))
            assert isinstance(decision, Decision)
            assert decision.end.committed is request.commit, f"it ended twice in shard {shard.number}"
        return ResolveResponse()

    def _status(self, shard: PureShard, request: StatusRequest) -> StatusResponse:
        end = shard.machine.transactions.end_of(txn_of(request.transaction)) if self.looks_first() else None
        if end is None:
            abort = replication_pb2.DecideCommand(transaction=request.transaction, commit=False)
            decision = self.apply(shard, Command(decide=abort))
            assert isinstance(decision, Decision)
            end = decision.end
        return StatusResponse(
            state=COMMITTED if end.committed else ABORTED, succeeded=end.succeeded, committed_at=end.committed_at
        )
