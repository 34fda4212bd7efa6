"""Any sequence of commands: what two replicas say, one of which reloads whenever; and what a naive model of the shard says."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.shard.state_machine import WriteResult
from kvnode.shard.transactions import Locked, Vote
from kvnode.types import Txn
from tests.unit.shard.machine import NOW, Compare, Machine, Part, delete, eventual, get, part, put, ranged, request, txn

KEYS = st.sampled_from([b"a", b"ab", b"b"])
OPERATIONS = st.one_of(
    st.builds(put, KEYS, st.binary(max_size=2)),
    st.builds(delete, KEYS),
    st.builds(get, KEYS),
    st.builds(ranged, st.sampled_from([b"a", b"b"])),
)


def written(operation: kv_pb2.BatchOperation) -> bytes:
    """The key that it writes."""
    return operation.put.key or operation.delete.key


BRANCHES = st.lists(OPERATIONS, max_size=2, unique_by=lambda operation: written(operation) or operation.SerializeToString())
COMPARES = st.lists(st.builds(Compare, key=KEYS, exists=st.booleans()), max_size=1)
PARTS = st.builds(
    lambda then, compare, otherwise: part(*then, compare=compare, otherwise=otherwise), BRANCHES, COMPARES, BRANCHES
)
NUMBERS = st.integers(1, 5)
COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.none() | st.integers(0, 9), st.booleans()),
        st.tuples(st.just("delete"), KEYS),
        st.tuples(st.just("transact"), PARTS, st.booleans()),
        st.tuples(st.just("prepare"), NUMBERS, PARTS),
        st.tuples(st.just("prepare"), NUMBERS, PARTS),
        st.tuples(st.just("end"), NUMBERS, st.booleans(), st.booleans(), st.booleans()),
        st.tuples(st.just("end"), NUMBERS, st.booleans(), st.booleans(), st.booleans()),
        st.tuples(st.just("forget"), NUMBERS),
        st.tuples(st.just("eventual"), KEYS, st.none() | st.binary(max_size=2), st.integers(0, 30)),
        st.tuples(st.just("eventual"), KEYS, st.none() | st.binary(max_size=2), st.integers(0, 30)),
        st.tuples(st.just("collect"), st.integers(0, 30)),
        st.tuples(st.just("reload")),
    ),
    max_size=40,
)


def transaction(number: int) -> Txn:
    """Odd ones have their anchor here; the later numbers are not the younger."""
    return txn(number, (number * 3) % 7)


class Player:
    """Applies commands as the log of a correct cluster could hold them: ends follow the anchor's first decision."""

    def __init__(self) -> None:
        self.sequence = self.requests = 0
        self.decided: dict[int, tuple[bool, bool]] = {}

    def command(self, state: Callable[[int], State], what: str, *rest: Any) -> Callable[[Machine], object]:
        """One command, to be applied to each machine; `state`: what the shard knows of a transaction."""
        if what in ("put", "transact"):
            *rest, by_client = rest
            self.requests += by_client
            name = request(bytes(16), self.requests, started=NOW) if by_client else None
            if what == "transact":
                return lambda machine: machine.transact(rest[0], NOW, name)
            return lambda machine: machine.put(rest[0], b"v", rest[1])
        if what == "prepare":
            number, one = rest
            return lambda machine: machine.prepare(transaction(number), one, anchor=0 if number % 2 else 1)
        if what == "end":
            return self._end(state, *rest)
        if what == "forget":
            return lambda machine: machine.forget(transaction(rest[0]))
        if what == "eventual":
            self.sequence += 1
            key, value, base = rest
            write = eventual(self.sequence, key, value, base=base, node="b")
            return lambda machine: machine.sequence(write)
        return lambda machine: getattr(machine, what)(*rest)

    def _end(
        self, state: Callable[[int], State], number: int, commit: bool, succeeded: bool, named: bool
    ) -> Callable[[Machine], object]:
        """At an anchor whatever is asked for; elsewhere what its anchor decided once, COMMIT only after the vote here."""
        one = transaction(number)
        if number % 2:
            self.requests += named
            name = request(bytes(16), self.requests, started=NOW) if named and commit else None
            return lambda machine: machine.decide(one, commit, succeeded, request=name, response=b"answer")
        commit = commit and state(number) is State.PREPARED
        commit, succeeded = self.decided.setdefault(number, (commit, succeeded))
        return lambda machine: machine.resolve(one, commit, succeeded)


@given(COMMANDS)
def test_replicas_that_apply_the_same_commands_are_equal_whenever_they_reload(commands: list[tuple[Any, ...]]) -> None:
    """DESIGN 12.13 with transactions: the same answers, rows and hash; small bounds, so that ends and votes are refused."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(limits, "TRANSACTIONS_ENDED_PER_SHARD_MAX", 2)
        patch.setattr(limits, "TRANSACTIONS_PREPARED_PER_SHARD_MAX", 3)
        live, other, player = Machine(), Machine(), Player()
        for what, *rest in commands:
            if what == "reload":
                other = other.reloaded()
                continue
            command = player.command(lambda number: live.transactions.state_of(transaction(number)), what, *rest)
            first, second = command(live), command(other)
            assert type(first) is type(second)
            if isinstance(first, Locked):
                assert isinstance(second, Locked)
                assert sorted(first.holders) == sorted(second.holders)
            elif not isinstance(first, Exception):
                assert first == second
            assert live.state_hash == other.state_hash
        assert live.rows() == other.rows()
        check(live)
        check(other)


def check(machine: Machine) -> None:
    """What must hold in every state."""
    transactions, locks = machine.transactions, machine.transactions.locks
    for one, prepared in transactions.prepared.items():
        assert one not in transactions.ended
        assert one not in transactions.spreading
        assert [locks.writer(key) for key in locks.held(one).writes] == [one] * len(locks.held(one).writes)
        assert prepared.index <= machine.applied
    assert transactions.size_bytes == sum(one.size_bytes for one in transactions.prepared.values())
    assert bool(locks) == bool(transactions.prepared)
    assert all(locks.is_locked(key) for key in list(machine.waiting.keys()))
    assert machine.keys == sum(version.value is not None for _, version in machine.scan(b"", None))
    assert len(transactions.ended) <= limits.TRANSACTIONS_ENDED_PER_SHARD_MAX


# ---- serializability, against a dictionary --------------------------------------------------------------------------


def run_branch(state: dict[bytes, bytes], operations: Any) -> list[object]:
    """What the operations answer, then do, to a dictionary."""
    answers: list[object] = []
    for operation in operations:
        if operation.HasField("get"):
            answers.append(state.get(operation.get.key))
        elif operation.HasField("range"):
            answers.append(sorted(item for item in state.items() if item[0].startswith(operation.range.prefix)))
        elif operation.HasField("delete"):
            answers.append(operation.delete.key in state)
        else:
            answers.append(None)
    for operation in operations:
        if operation.HasField("put"):
            state[operation.put.key] = operation.put.value
        elif operation.HasField("delete"):
            state.pop(operation.delete.key, None)
    return answers


def shown(results: Any) -> list[object]:
    """What the shard answered, likewise."""
    answers: list[object] = []
    for result in results:
        if result.HasField("get"):
            answers.append(result.get.value if result.get.found else None)
        elif result.HasField("range"):
            answers.append([(item.key, item.value) for item in result.range.items])
        else:
            answers.append(result.delete.found if result.HasField("delete") else None)
    return answers


def holds(state: dict[bytes, bytes], one: Part) -> bool:
    """Whether the part's comparisons hold."""
    return all((compare.key in state) == compare.exists for compare in one.compare)


STRONG = st.lists(
    st.one_of(
        st.tuples(st.just("put"), KEYS, st.binary(max_size=2)),
        st.tuples(st.just("transact"), PARTS),
        st.tuples(st.just("prepare"), NUMBERS, PARTS),
        st.tuples(st.just("end"), NUMBERS, st.booleans()),
        st.tuples(st.just("end"), NUMBERS, st.just(True)),
    ),
    max_size=30,
)


@given(STRONG)
def test_transactions_that_overlap_answer_as_if_one_came_after_the_other(steps: list[tuple[Any, ...]]) -> None:
    """A transaction's answer, given at its vote, is what a dictionary answers at its end, and so is what it leaves behind."""
    machine, state = Machine(), dict[bytes, bytes]()
    votes: dict[int, tuple[Vote, Part]] = {}
    for what, *rest in steps:
        if what == "put":
            if isinstance(machine.put(*rest), WriteResult):
                state[rest[0]] = rest[1]
        elif what == "transact":
            result = machine.transact(rest[0])
            if isinstance(result, bytes):
                response = kv_pb2.TxnResponse.FromString(result)
                assert response.succeeded == holds(state, rest[0])
                branch = rest[0].then if response.succeeded else rest[0].otherwise
                assert shown(response.results) == run_branch(state, branch)
        elif what == "prepare":
            vote = machine.prepare(txn(rest[0]), rest[1])
            if isinstance(vote, Vote) and rest[0] not in votes:
                votes[rest[0]] = vote, rest[1]
        else:
            number, commit = rest
            open_ = machine.transactions.state_of(txn(number)) is State.PREPARED
            vote_and_part = votes.get(number) if open_ else None
            succeeded = vote_and_part is not None and vote_and_part[0].matched
            machine.decide(txn(number), commit, succeeded)
            if vote_and_part is not None and commit:
                vote, one = vote_and_part
                assert succeeded == holds(state, one)
                assert shown(vote.then if succeeded else vote.otherwise) == run_branch(
                    state, one.then if succeeded else one.otherwise
                )
        found = {key: version.value for key, version in machine.scan(b"", None) if version.value is not None}
        assert found == state
