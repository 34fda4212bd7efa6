"""Random schedules of two-phase commit over pure shards: money moves between accounts while messages are lost, repeated and
reordered, coordinators die, shards restart, and everybody who may push pushes.

`python -m tests.scripts.two_phase_schedule FIRST LAST` runs the seeds FIRST to LAST - 1 and prints those that fail; one seed
alone prints what happened.

Checked (DESIGN section 12): a transaction ends the same in every shard, once; each request is executed at most once, and its
client hears that answer or none; who is told that an attempt was aborted, or refused, is told the truth; whoever reads
all accounts at once finds all the money; a shard that restarts knows what its twin knows (`pure_shards.py`). At the end, with
everything pushed that is under way: no lock, nothing that waits, all the money.
"""

from __future__ import annotations

import random
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import patch

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import KvnodeError, SessionExpired
from kvnode.shard.state_machine import Applied, Decision
from kvnode.shard.transactions import Locked, txn_of
from kvnode.types import Shard, Txn
from tests.scripts.pure_askers import PureAttempt
from tests.scripts.pure_shards import Command, Message, PureShard, PureShards, comparable
from tests.scripts.transaction_words import name_of, request, said_applied, said_command, said_outcome
from tests.scripts.two_phase_script import describe

DEPOSIT = 100
IDLE_MS = limits.CLIENT_SESSION_IDLE_MS_MAX + 1
STEPS = 300
ROUNDS_MAX = 50


@dataclass(slots=True)
class Client:
    """One client's request, in all its attempts; each has one at a time."""

    asked: kv_pb2.TxnRequest
    attempts: list[PureAttempt] = field(default_factory=list)
    answered: bool = False
    """For good."""


class Schedule(PureShards):
    """One schedule; its seed decides everything."""

    def __init__(self, seed: int) -> None:
        dice = self.dice = random.Random(seed)
        super().__init__(dice.choice((2, 2, 3)))
        self.loss, self.twice = dice.choice((0.0, 0.02, 0.1)), dice.choice((0.0, 0.1, 0.3))
        self.disorder = dice.choice((0.0, 0.3, 1.0))
        self.haste = dice.choice((0.0, 0.3))
        self.death = dice.choice((0.0, 0.01, 0.04))
        self.ends_kept = dice.choice((1, 4, limits.TRANSACTIONS_ENDED_PER_SHARD_MAX))
        self.history: list[str] = []
        self.accounts = [f"{name}{shard.number}" for name in "ab" for shard in self.shards]
        self.clients: dict[str, Client] = {}
        self._names = self._sequences = 0
        self._placed = dict.fromkeys(range(len(self.shards)), 0)
        # What was seen.
        self.ends: dict[Txn, bool] = {}
        self.executed: dict[bytes, Txn] = {}
        self.told_aborted: list[PureAttempt] = []
        self.puts: dict[int, tuple[Command, object]] = {}
        self._ends_seen = dict.fromkeys(range(len(self.shards)), 0)

    def looks_first(self) -> bool:
        """Entries that change what a leader has seen are often under way."""
        return self.dice.random() >= self.haste

    # ---- what must hold ---------------------------------------------------------------------------------------------

    def on_sent(self, message: Message) -> None:
        """For the history."""
        self._say(describe(message))

    def on_applied(self, shard: PureShard, command: Command, result: Applied) -> None:
        """A transaction's first end here is its end everywhere."""
        self._say(f"{shard.number} applies {len(shard.log)}: {said_command(command)} -> {said_applied(result)}")
        ended, self._ends_seen[shard.number] = self._ends_seen[shard.number], shard.machine.transactions.ends
        if not isinstance(result, Decision) or ended == self._ends_seen[shard.number]:
            return
        decided = command.decide if command.HasField("decide") else command.resolve
        txn, committed = txn_of(decided.transaction), result.end.committed
        assert self.ends.setdefault(txn, committed) is committed, f"{name_of(txn)} ends in two ways"
        if committed and command.HasField("request"):
            first = self.executed.setdefault(command.request.SerializeToString(), txn)
            assert first == txn, f"{name_of(txn)} executes what {name_of(first)} has executed"

    def on_outcome(self, attempt: PureAttempt, outcome: kv_pb2.TxnResponse | KvnodeError | None) -> None:
        """A client is told the truth."""
        self._say(f"{attempt.name} answers: {said_outcome(outcome)}")
        if outcome is None or isinstance(outcome, SessionExpired):
            self.told_aborted.append(attempt)
        elif not isinstance(outcome, KvnodeError):
            first = self.executed.get(attempt.request.request.SerializeToString())
            assert outcome.transaction_id == str(first), f"{attempt.name} answers what was not executed"
            if not attempt.request.compare:
                found = sum(int(result.get.value) for result in outcome.results if result.HasField("get"))
                assert found == DEPOSIT * len(self.accounts), f"{attempt.name} finds {found}"
        for client in self.clients.values():
            if attempt in client.attempts and outcome is not None:
                client.answered = True

    def check_end(self) -> None:
        """After healing."""
        for attempt in self.told_aborted:
            assert not self.ends.get(attempt.txn), f"{attempt.name} is committed, and said that it was aborted"
        for shard in self.shards:
            transactions = shard.machine.transactions
            assert not transactions.locks, f"shard {shard.number} has locks left"
            assert not transactions.size_bytes
            assert not len(shard.machine.waiting), f"shard {shard.number} has eventual writes that wait"
            assert not shard.queue
            shard.check()
        found = {name: self._balance(name) for name in self.accounts}
        assert sum(found.values()) == DEPOSIT * len(found), f"money came or went: {found}"

    # ---- what happens -----------------------------------------------------------------------------------------------

    def step(self) -> None:
        """One random event."""
        actions: tuple[tuple[float, Callable[[], None]], ...] = (
            (0.60, self._deliver),
            (0.14, self._client),
            (0.05, self._put),
            (0.04, self._eventual),
            (0.05, self._push_some),
            (0.04, self._ask_again),
            (0.03, self._flush_or_restart),
            (0.02, self._time_over),
            (0.03, self._die),
        )
        pick = self.dice.random()
        for weight, action in actions:
            pick -= weight
            if pick < 0:
                action()
                break

    def _say(self, what: str) -> None:
        self.history.append(f"{self.time_ms} {what}")

    def _balance(self, account: str) -> int:
        version = self.shards[int(account[-1])].machine.version(account.encode())
        assert version is not None
        assert version.value is not None
        return int(version.value)

    def _note(self) -> str:
        """A key that is no account."""
        return f"n{self.dice.randrange(len(self.shards))}"

    def _live(self) -> list[PureAttempt]:
        return [attempt for attempt in self.attempts.values() if attempt.alive and attempt.unanswered]

    def _deliver(self) -> None:
        for _ in range(self.dice.choice((1, 2, 4))):
            if not self.network:
                return
            at = self.dice.randrange(len(self.network)) if self.dice.random() < self.disorder else 0
            message = self.network[at]
            if self.dice.random() < self.loss:
                self._say(f"lost: {describe(message)}")
                self.drop(message)
            else:
                self.deliver(message, keep=self.dice.random() < self.twice)

    def _client(self) -> None:
        name = self.dice.choice(("x", "y", "z"))
        client = self.clients.get(name)
        if client is None or client.answered or self.dice.random() < 0.05:
            asked = request(self._audit() if self.dice.random() < 0.2 else self._transfer())
            asked.request.CopyFrom(self._request_id(name))
            client = self.clients[name] = Client(asked)
        elif client.attempts[-1] not in self.told_aborted and self.dice.random() < 0.8:
            return
        self._names += 1
        # The same coordinator goes on, as old as at first; or another one is asked, who may be a second one.
        first = client.attempts[0] if client.attempts and self.dice.random() < 0.5 else None
        self._say(f"client {name} asks t{self._names}: {client.asked.request.sequence}")
        attempt = self.coordinate(f"t{self._names}", client.asked, first)
        client.attempts.append(attempt)

    def _transfer(self) -> list[str]:
        source, to = self.dice.sample(self.accounts, 2)
        while source[-1] == to[-1]:
            source, to = self.dice.sample(self.accounts, 2)
        has, gets, amount = self._balance(source), self._balance(to), self.dice.randrange(1, 10)
        words = ["if", f"{source}={has}", f"{to}={gets}", "then", f"{source}={has - amount}", f"{to}={gets + amount}"]
        if self.dice.random() < 0.3:
            words.append(f"{self._note()}=t")
        if self.dice.random() < 0.1:
            words.append("a*")
        return [*words, "else", source, to]

    def _audit(self) -> list[str]:
        """Reads everything, and writes that it did."""
        return [*self.accounts, f"{self._note()}=audited"]

    def _request_id(self, client: str) -> kv_pb2.RequestId:
        self._sequences += 1
        acknowledged = self._sequences - 1 if self.dice.random() < 0.2 else 0
        return kv_pb2.RequestId(
            session=client.encode(), sequence=self._sequences, acknowledged=acknowledged, started=self.clock()
        )

    def _put(self) -> None:
        """A strong put that executes once, or one from before comes again."""
        if self.puts and self.dice.random() < 0.4:
            number = self.dice.choice(list(self.puts))
        else:
            put = replication_pb2.PutCommand(key=self._note().encode(), value=b"p")
            if self.dice.random() < 0.5:
                put.if_revision = self.dice.randrange(20)
            command = Command(put=put, request=self._request_id("p"))
            number = command.request.sequence
            self.puts[number] = command, None
        command, known = self.puts[number]
        result = self.apply(self.shards[int(command.put.key[-1:])], command)
        if isinstance(result, Locked | SessionExpired):
            return
        assert known in (None, comparable(result)), f"put {number} answers {result}, and {known} before"
        self.puts[number] = command, comparable(result)

    def _eventual(self) -> None:
        key = self._note().encode()
        shard = self.shards[int(key[-1:])]
        sequence = self._placed[shard.number] = self._placed[shard.number] + 1
        base = self.dice.randrange(len(shard.log) + 1)
        write = replication_pb2.EventualWrite(node="n", incarnation=1, sequence=sequence, base=base, key=key, value=b"e")
        write.hlc = self.clock()
        self.apply(shard, Command(sequence=replication_pb2.SequenceCommand(writes=[write])))

    def _under_way(self) -> list[tuple[Shard, Txn]]:
        return [
            (shard.number, txn)
            for shard in self.shards
            for txn in (*shard.machine.transactions.prepared, *shard.machine.transactions.spreading)
        ]

    def _push_some(self) -> None:
        under_way = self._under_way()
        if under_way:
            shard, txn = self.dice.choice(under_way)
            self._say(f"push {shard} {name_of(txn)}")
            self.push(shard, txn)

    def _ask_again(self) -> None:
        if live := self._live():
            self.dice.choice(live).again()

    def _flush_or_restart(self) -> None:
        shard = self.dice.randrange(len(self.shards))
        if self.dice.random() < 0.5:
            self._say(f"flush {shard}")
            self.shards[shard].flush()
        else:
            self._say(f"restart {shard}")
            self.restart(shard)

    def _time_over(self) -> None:
        if live := self._live():
            attempt = self.dice.choice(live)
            self._say(f"timeout {attempt.name}")
            attempt.on_time_over()

    def _die(self) -> None:
        if (live := self._live()) and self.dice.random() < self.death * 25:
            attempt = self.dice.choice(live)
            self._say(f"crash {attempt.name}")
            attempt.alive = False
        elif self.dice.random() < 0.02:
            self._say("half an hour passes")
            self.time_ms += IDLE_MS

    def heal(self) -> None:
        """Messages arrive, and whatever is under way is pushed until nothing is."""
        for _ in range(ROUNDS_MAX):
            while self.network:
                self.deliver(self.network[0])
            under_way = self._under_way()
            if not under_way:
                return
            for shard, txn in under_way:
                self.push(shard, txn)
        raise AssertionError(f"still under way: {self._under_way()}")

    def run(self, steps: int = STEPS) -> None:
        """The whole schedule."""
        with patch.object(limits, "TRANSACTIONS_ENDED_PER_SHARD_MAX", self.ends_kept):
            for account in self.accounts:
                put = replication_pb2.PutCommand(key=account.encode(), value=b"%d" % DEPOSIT)
                self.apply(self.shards[int(account[-1])], Command(put=put))
            for _ in range(steps):
                self.step()
            self._say("---- heal")
            self.heal()
            self.check_end()


def main() -> None:
    """See the module's text."""
    first, last = int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else int(sys.argv[1]) + 1
    failed = 0
    totals: dict[str, Any] = {"committed": 0, "aborted": 0, "requests executed": 0}
    for seed in range(first, last):
        schedule = Schedule(seed)
        try:
            schedule.run()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt):
                raise
            failed += 1
            print(f"seed {seed}: {type(error).__name__}: {error}"[:400], flush=True)
            if last == first + 1:
                print("\n".join(schedule.history))
                traceback.print_exc()
        totals["committed"] += sum(schedule.ends.values())
        totals["aborted"] += len(schedule.ends) - sum(schedule.ends.values())
        totals["requests executed"] += len(schedule.executed)
    print(f"{last - first} schedules, {failed} failed; {totals}")


if __name__ == "__main__":
    main()
