"""Dialogues of two-phase commit: pure shards that say what happens. See `script.py`."""

from __future__ import annotations

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.errors import KvnodeError
from kvnode.protocol.two_phase_commit.locks import wounded_by
from kvnode.routing.parts import split
from kvnode.shard.state_machine import Applied
from kvnode.shard.transactions import Transactions, txn_of
from kvnode.types import Txn
from tests.scripts.pure_askers import DecideRequest, PrepareRequest, PureAttempt, ResolveRequest
from tests.scripts.pure_shards import Command, ForgetCommand, Message, PureShard, PureShards
from tests.scripts.transaction_words import (
    STATES,
    name_of,
    request,
    said_applied,
    said_command,
    said_end,
    said_outcome,
    said_part,
    said_wish,
)
from tests.scripts.words import chosen


class ScriptShards(PureShards):
    """Shards that say what happens. Keys end with the number of their shard."""

    def __init__(self, shards: int) -> None:
        self.output: list[str] = []
        self.requests: dict[str, kv_pb2.RequestId] = {}
        super().__init__(shards)
        self._shown = [shown(shard) for shard in self.shards]

    @classmethod
    def begin(cls, shards: str) -> ScriptShards:
        """`shards 2`."""
        return cls(int(shards))

    def say(self, line: str) -> None:
        """A line of output."""
        self.output.append(f"  {line}")

    # ---- what happens -----------------------------------------------------------------------------------------------

    def on_sent(self, message: Message) -> None:
        """Shows it."""
        self.say(describe(message))

    def on_applied(self, shard: PureShard, command: Command, result: Applied) -> None:
        """Shows the entry, its outcome, and what changed."""
        self.say(f"{shard.number} applies {len(shard.log)}: {said_command(command)} -> {said_applied(result)}")
        before, now = self._shown[shard.number], shown(shard)
        changes = [f"{what} {value}" for what, value in now.items() if before.get(what) != value]
        changes += [f"{what} {'free' if what.endswith(' locked by') else 'gone'}" for what in before if what not in now]
        if changes:
            self.say(f"{shard.number}: {', '.join(changes)}".replace(" locked by free", " free"))
        self._shown[shard.number] = now

    def on_waits(self, shard: PureShard, txn: Txn, holders: tuple[Txn, ...]) -> None:
        """Shows who waits for whom."""
        wounded = wounded_by(txn, holders)
        text = f"{name_of(txn)} waits for {' '.join(map(name_of, holders))}"
        self.say(f"{shard.number}: {text}" + f", and wounds {' '.join(map(name_of, wounded))}" * bool(wounded))

    def on_outcome(self, attempt: PureAttempt, outcome: kv_pb2.TxnResponse | KvnodeError | None) -> None:
        """Shows what the client gets."""
        self.say(f"{attempt.name} answers: {said_outcome(outcome)}")

    def on_moved(self, attempt: PureAttempt) -> None:
        """Shows the coordinator's state."""
        why = f" ({attempt.machine.why})" if attempt.machine.why else ""
        self.say(f"{attempt.name}: {attempt.machine.state}{why}")

    # ---- transactions -----------------------------------------------------------------------------------------------

    def do_txn(self, name: str, *words: str) -> None:
        """A coordinator begins, as `txn t1 if a0=1 then a0=2 b1=3 else a0 as c.1`; inside one shard the entry is proposed."""
        words, client = self._client(words)
        asked = request(words)
        if client is not None:
            asked.request.CopyFrom(client)
        parts = split(asked, self.map)
        if len(parts.parts) > 1:
            self.coordinate(name, asked)
        else:
            transact = replication_pb2.TransactCommand(part=parts.parts[parts.anchor])
            self.apply(self.shards[parts.anchor], Command(transact=transact, request=client))

    def do_retry(self, old: str, new: str) -> None:
        """Another attempt of the same request, as old as the first."""
        first = self.attempts[old]
        self.coordinate(new, first.request, first)

    def do_again(self, name: str) -> None:
        """The coordinator asks again what was not answered."""
        self.attempts[name].again()

    def do_timeout(self, name: str) -> None:
        """The coordinator's time is over."""
        self.attempts[name].on_time_over()

    def do_crash(self, name: str) -> None:
        """The coordinator dies."""
        self.attempts[name].alive = False

    def do_push(self, shard: str, name: str) -> None:
        """The transaction has been under way in the shard for too long."""
        self.push(int(shard), self.attempts[name].txn)

    # ---- other writes -----------------------------------------------------------------------------------------------

    def do_put(self, pair: str, *words: str) -> None:
        """A strong put is proposed, as `put a0=1 if 3 as c.2`."""
        words, client = self._client(words)
        key, _, value = pair.partition("=")
        put = replication_pb2.PutCommand(key=key.encode(), value=value.encode())
        if words:
            put.if_revision = int(words[1])
        self.apply(self.shards[self.map.shard_of(put.key)], Command(put=put, request=client))

    def do_eventual(self, name: str, pair: str, base: str) -> None:
        """An eventual write NODE.LIFE.SEQUENCE, accepted at the index `base`, gets its place."""
        node, life, sequence = name.split(".")
        key, _, value = pair.partition("=")
        write = replication_pb2.EventualWrite(node=node, incarnation=int(life), sequence=int(sequence), hlc=self.clock())
        write.key, write.value, write.base = key.encode(), value.encode(), int(base)
        self.apply(self.shards[self.map.shard_of(write.key)], Command(sequence=replication_pb2.SequenceCommand(writes=[write])))

    def _client(self, words: tuple[str, ...]) -> tuple[tuple[str, ...], kv_pb2.RequestId | None]:
        """What comes before `as CLIENT.NUMBER`, and whose request it is: in every attempt the same."""
        if "as" not in words:
            return words, None
        at = words.index("as")
        name = words[at + 1]
        if name not in self.requests:
            client, number = name.split(".")
            self.requests[name] = kv_pb2.RequestId(session=client.encode(), sequence=int(number), started=self.clock())
        return words[:at], self.requests[name]

    # ---- the network, and time --------------------------------------------------------------------------------------

    def do_deliver(self, *words: str) -> None:
        """The chosen messages arrive, in order."""
        for message in chosen(self.network, words):
            self.deliver(message)

    def do_repeat(self, *words: str) -> None:
        """The chosen messages arrive, and will arrive once more."""
        for message in chosen(self.network, words):
            self.deliver(message, keep=True)

    def do_drop(self, *words: str) -> None:
        """The chosen messages are lost."""
        for message in chosen(self.network, words):
            self.drop(message)

    def do_settle(self) -> None:
        """Everything is delivered until nothing is under way."""
        while self.network:
            self.deliver(self.network[0])

    def do_sleep(self, milliseconds: str) -> None:
        """So much time passes."""
        self.time_ms += int(milliseconds.removesuffix("ms"))

    # ---- shards -----------------------------------------------------------------------------------------------------

    def do_flush(self, shard: str) -> None:
        """The shard's table goes to its store."""
        self.shards[int(shard)].flush()

    def do_restart(self, shard: str) -> None:
        """The shard starts again from what it has flushed, and from its log; who waited there must ask again."""
        flushed = len(self.shards[int(shard)].log) - self.restart(int(shard))
        self.say(f"{shard}: loads {flushed} entries' rows, applies {len(self.shards[int(shard)].log) - flushed} more")
        assert shown(self.shards[int(shard)]) == self._shown[int(shard)]

    def do_show(self, *names: str) -> None:
        """What shards, or all, know."""
        for shard in self.shards:
            if not names or str(shard.number) in names:
                facts = ", ".join(f"{what} {value}" for what, value in self._shown[shard.number].items())
                self.say(f"{shard.number}: log {len(shard.log)}; {facts or 'empty'}")


def shown(shard: PureShard) -> dict[str, str]:
    """All that a shard knows."""
    machine, transactions = shard.machine, shard.machine.transactions
    facts: dict[str, str] = {}
    for key, version in machine.scan(b"", None):
        value = "deleted" if version.value is None else repr(version.value.decode())
        facts[key.decode()] = f"{value} at {version.revision}" + f" from {version.node}" * bool(version.node)
    facts |= ends(transactions)
    for key, holders in sorted(holders_of(transactions).items()):
        facts[f"{key} locked by"] = " ".join(holders)
    for key in sorted(machine.waiting.keys()):
        facts[f"{key.decode()} awaits"] = " ".join(
            f"{w.node}.{w.incarnation}.{w.sequence}" for w in machine.waiting.at_key(key)
        )
    for (origin, sequence), record in machine.superseded.items():
        reason = kv_pb2.SupersededReason.Name(record.outcome.reason).removeprefix("SUPERSEDED_REASON_")
        facts[f"{origin.node}.{origin.incarnation}.{sequence}"] = f"superseded at {record.revision}: {reason}"
    return facts


def holders_of(transactions: Transactions) -> dict[str, list[str]]:
    """Who has locked what."""
    found: dict[str, list[str]] = {}
    for txn in sorted(transactions.prepared):
        locks, name = transactions.locks.held(txn), name_of(txn)
        for key in locks.writes:
            found.setdefault(key.decode(), []).append(name)
        for shared in (*(key.decode() for key in locks.reads), *(f"{one.start.decode()}*" for one in locks.ranges)):
            found.setdefault(shared, []).append(f"{name} (shared)")
    return found


def ends(transactions: Transactions) -> dict[str, str]:
    """The transactions that a shard remembers, and the horizon of what it does not."""
    facts = {name_of(txn): "PREPARED" for txn in transactions.prepared}
    for txn, end in transactions.spreading.items():
        facts[name_of(txn)] = f"{said_end(end)} (unresolved in {' '.join(map(str, end.unresolved))})"
    facts |= {name_of(txn): said_end(end) for txn, end in transactions.ended.items()}
    if transactions.horizon:
        facts["horizon"] = said_time(transactions.horizon)
    return facts


def said_time(hlc: int) -> str:
    """The clock's readings since the script began."""
    return str((hlc >> 16) - 1_000_000)


def describe(message: Message) -> str:
    """A message as a line."""
    asked, answer = message.request, message.answer
    text = f"{message.source}->{message.to} {message.kind}"
    name = name_of(txn_of(asked.transactions[0] if isinstance(asked, ForgetCommand) else asked.transaction))
    # (Where a coordinator speaks or is spoken to, it need not be named again.)
    text += f" {name}" * (name not in (message.source, message.to))
    if isinstance(asked, ForgetCommand):
        return text
    if answer is None:
        if isinstance(asked, PrepareRequest):
            return f"{text} {said_part(asked.part)}"
        return f"{text} {said_wish(asked) if isinstance(asked, DecideRequest | ResolveRequest) else 'or abort'}"
    if isinstance(answer, KvnodeError):
        return f"{text} {answer.reason}"
    if isinstance(asked, ResolveRequest):
        return text
    state = STATES.Name(answer.state).removeprefix("TRANSACTION_STATE_")
    if isinstance(asked, PrepareRequest):
        if state == "PREPARED":
            return f"{text} yes at {answer.index}" + ", its comparison fails" * (not answer.matched)
        return f"{text} no: {state}" + f", horizon {said_time(answer.horizon)}" * bool(answer.horizon)
    text += f" {state}"
    if isinstance(asked, DecideRequest):
        text += ": executed before" * answer.HasField("executed") + ": too old to know" * answer.HasField("expired_clock")
    return text
