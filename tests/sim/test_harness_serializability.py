"""The checker of transactions: it passes what a serial store did, and names the cycle in each way of not being serial."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .history import Outcome
from .linearizability import check_linearizability
from .serializability import Seen, Transaction, Transactions, Writes, check_serializability, project

X, Y = b"x", b"y"


def done(
    history: Transactions,
    reads: dict[bytes, tuple[bytes | None, int]],
    writes: dict[bytes, tuple[bytes, int]],
    client: str = "c1",
) -> Transaction:
    """A transaction that is answered at once. Values come with their revisions."""
    transaction = history.invoke(client, {key: value for key, (value, _) in writes.items()})
    answer(history, transaction, reads, writes)
    return transaction


def answer(
    history: Transactions,
    transaction: Transaction,
    reads: dict[bytes, tuple[bytes | None, int]],
    writes: dict[bytes, tuple[bytes, int]],
) -> None:
    """Its answer."""
    seen = {key: Seen(value, revision) for key, (value, revision) in reads.items()}
    history.ok(transaction, seen, {key: revision for key, (_, revision) in writes.items()})


def start(history: Transactions) -> None:
    """Both keys have a value."""
    done(history, {}, {X: (b"x0", 5), Y: (b"y0", 5)})


def serial_history(seed: int, count: int, *, unknown: float = 0.15) -> Transactions:
    """What clients of a serial store see: each transaction takes place at one moment between its call and its answer."""
    rng = random.Random(seed)
    history = Transactions()
    store: dict[bytes, Seen] = {}
    revision = 0
    waiting: list[Transaction] = []
    keys = [b"a", b"b", b"c", b"d"]
    for number in range(count):
        then: Writes = dict.fromkeys(rng.sample(keys, rng.choice((0, 1, 2, 2))), b"%d" % number)
        otherwise: Writes = dict.fromkeys(rng.sample(keys, rng.choice((0, 0, 1))), b"%d'" % number)
        if rng.random() < 0.2:
            then[rng.choice(keys)] = None
        expected = {key: store.get(key, Seen(None, 0)).revision for key in rng.sample(keys, rng.choice((0, 0, 1, 2)))}
        if rng.random() < 0.2:
            expected = {key: rng.randrange(revision + 1) for key in expected}
        waiting.append(history.invoke(f"c{rng.randrange(4)}", then, otherwise, expected))
        while waiting and rng.random() < 0.6:
            transaction = waiting.pop(rng.randrange(len(waiting)))
            if rng.random() < unknown / 2:
                history.unknown(transaction)
                continue
            reads = {key: store.get(key, Seen(None, 0)) for key in rng.sample(keys, rng.randrange(4))}
            succeeded = all(store.get(key, Seen(None, 0)).revision == at for key, at in transaction.expected.items())
            revision += rng.randrange(1, 3)
            writes = transaction.then if succeeded else transaction.otherwise
            for key, value in writes.items():
                store[key] = Seen(None, 0) if value is None else Seen(value, revision)
            if rng.random() < unknown:
                history.unknown(transaction)
            else:
                history.ok(transaction, reads, dict.fromkeys(writes, revision), succeeded=succeeded)
    return history


@settings(max_examples=80, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 80), st.floats(0, 0.5))
def test_serial_store_any_history_passes(seed: int, count: int, unknown: float) -> None:
    """What a serial store did passes, whatever answers were lost; and so does each of its keys."""
    history = serial_history(seed, count, unknown=unknown)
    assert check_serializability(history.all) == []
    report = check_linearizability(project(history.all, lambda key: 0))
    assert report.ok, str(report)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_serial_store_one_stale_snapshot_is_found(seed: int) -> None:
    """A transaction at the end that sees the first of two states, though the second was acknowledged, is found."""
    history = serial_history(seed, 60)
    done(history, {}, {X: (b"x0", 1001), Y: (b"y0", 1001)})
    done(history, {}, {X: (b"x1", 1002)})
    done(history, {X: (b"x0", 1001), Y: (b"y0", 1001)}, {})
    (violation,) = check_serializability(history.all)
    assert violation.rule == "strict serializability"
    assert "these 2 transactions" in violation.message


def write_skew(history: Transactions) -> None:
    start(history)
    first, second = history.invoke("c1", {X: b"x1"}), history.invoke("c2", {Y: b"y1"})
    both: dict[bytes, tuple[bytes | None, int]] = {X: (b"x0", 5), Y: (b"y0", 5)}
    answer(history, first, both, {X: (b"x1", 7)})
    answer(history, second, both, {Y: (b"y1", 8)})


def lost_update(history: Transactions) -> None:
    start(history)
    first, second = history.invoke("c1", {X: b"x1"}), history.invoke("c2", {X: b"x2"})
    answer(history, first, {X: (b"x0", 5)}, {X: (b"x1", 7)})
    answer(history, second, {X: (b"x0", 5)}, {X: (b"x2", 8)})


def half_of_a_transaction_is_seen(history: Transactions) -> None:
    start(history)
    writer, reader = history.invoke("c1", {X: b"x1", Y: b"y1"}), history.invoke("c2")
    answer(history, writer, {}, {X: (b"x1", 7), Y: (b"y1", 9)})
    answer(history, reader, {X: (b"x1", 7), Y: (b"y0", 5)}, {})


def half_of_an_unknown_transaction_is_seen(history: Transactions) -> None:
    start(history)
    history.unknown(history.invoke("c1", {X: b"x1", Y: b"y1"}))
    done(history, {X: (b"x1", 7)}, {})
    done(history, {Y: (b"y0", 5)}, {})
    done(history, {Y: (b"y1", 8)}, {})


def long_fork(history: Transactions) -> None:
    start(history)
    first, second = history.invoke("c1", {X: b"x1"}), history.invoke("c2", {Y: b"y1"})
    one, other = history.invoke("c3"), history.invoke("c4")
    answer(history, one, {X: (b"x1", 7), Y: (b"y0", 5)}, {})
    answer(history, other, {X: (b"x0", 5), Y: (b"y1", 8)}, {})
    answer(history, first, {}, {X: (b"x1", 7)})
    answer(history, second, {}, {Y: (b"y1", 8)})


def stale_read_of_one_key(history: Transactions) -> None:
    start(history)
    done(history, {}, {X: (b"x1", 7)})
    done(history, {X: (b"x0", 5)}, {}, "c2")


def acknowledged_write_is_not_there(history: Transactions) -> None:
    done(history, {}, {X: (b"x0", 5)})
    done(history, {X: (None, 0)}, {}, "c2")


def revisions_against_real_time(history: Transactions) -> None:
    start(history)
    done(history, {}, {X: (b"x1", 9)})
    done(history, {}, {X: (b"x2", 8)})


def comparison_held_of_what_was_overwritten(history: Transactions) -> None:
    start(history)
    done(history, {}, {X: (b"x1", 7)})
    late = history.invoke("c2", {Y: b"y1"}, expected={X: 5})
    answer(history, late, {}, {Y: (b"y1", 9)})


def phantom(history: Transactions) -> None:
    done(history, {}, {b"list/a": (b"a", 3)})
    listing, writer = history.invoke("c1", {X: b"x1"}), history.invoke("c2", {b"list/b": b"b"})
    listing.prefixes.append(b"list/")
    answer(history, writer, {X: (None, 0)}, {b"list/b": (b"b", 7)})
    answer(history, listing, {b"list/a": (b"a", 3)}, {X: (b"x1", 6)})
    done(history, {b"list/b": (b"b", 7), X: (None, 0)}, {}, "c3")


@pytest.mark.parametrize(
    "happen",
    [
        *(write_skew, lost_update, half_of_a_transaction_is_seen, half_of_an_unknown_transaction_is_seen, long_fork),
        *(stale_read_of_one_key, acknowledged_write_is_not_there, revisions_against_real_time),
        *(comparison_held_of_what_was_overwritten, phantom),
    ],
    ids=lambda happen: happen.__name__,
)
def test_cycle_of_dependencies_is_found_and_explained(happen: Callable[[Transactions], None]) -> None:
    """Each anomaly makes a cycle, and the words name every transaction in it."""
    history = Transactions()
    happen(history)
    (violation,) = check_serializability(history.all)
    assert violation.rule == "strict serializability"
    assert violation.message.count("\n  T") >= 4


def value_from_nowhere(history: Transactions) -> str:
    done(history, {X: (b"x1", 7)}, {})
    return "a value was written by somebody"


def failed_transaction_is_seen(history: Transactions) -> str:
    history.fail(history.invoke("c1", {X: b"x1", Y: b"y1"}))
    done(history, {Y: (b"y1", 7)}, {})
    return "definite means definite"


def retry_is_executed_twice(history: Transactions) -> str:
    done(history, {}, {X: (b"x1", 7)})
    done(history, {X: (b"x1", 9)}, {})
    return "a write takes effect once"


def unknown_transaction_is_executed_twice(history: Transactions) -> str:
    history.unknown(history.invoke("c1", {X: b"x1"}))
    done(history, {X: (b"x1", 7)}, {})
    done(history, {X: (b"x1", 9)}, {})
    return "a write takes effect once"


def both_branches_are_seen(history: Transactions) -> str:
    history.unknown(history.invoke("c1", {X: b"x1"}, {Y: b"y1"}))
    done(history, {X: (b"x1", 7), Y: (b"y1", 7)}, {})
    return "one branch is taken"


def other_branch_is_seen(history: Transactions) -> str:
    history.ok(history.invoke("c1", {X: b"x1"}, {Y: b"y1"}), {}, {Y: 7}, succeeded=False)
    done(history, {X: (b"x1", 7)}, {})
    return "one branch is taken"


def two_transactions_share_a_place(history: Transactions) -> str:
    done(history, {}, {X: (b"x1", 7)})
    done(history, {}, {X: (b"x2", 7)})
    return "two writes share a revision"


@pytest.mark.parametrize(
    "happen",
    [
        *(value_from_nowhere, failed_transaction_is_seen, retry_is_executed_twice, unknown_transaction_is_executed_twice),
        *(both_branches_are_seen, other_branch_is_seen, two_transactions_share_a_place),
    ],
    ids=lambda happen: happen.__name__,
)
def test_broken_evidence_is_found_without_a_cycle(happen: Callable[[Transactions], str]) -> None:
    """What one value or revision proves wrong is named as such."""
    history = Transactions()
    rule = happen(history)
    assert [violation.rule for violation in check_serializability(history.all)] == [rule]


def test_unknown_transaction_seen_once_counts_as_committed() -> None:
    """Its branch, its place and its comparisons follow from one value that somebody saw."""
    history = Transactions()
    start(history)
    lost = history.invoke("c1", {X: b"x1"}, {X: b"x2"}, {Y: 5})
    history.unknown(lost)
    done(history, {X: (b"x1", 7)}, {})
    assert check_serializability(history.all) == []
    assert (lost.succeeded, lost.revisions, lost.reads) == (True, {X: 7}, {Y: Seen(None, 5)})


def test_concurrent_transactions_any_order_passes() -> None:
    """Without an answer before the other's call there is no order between two transactions that do not touch."""
    history = Transactions()
    start(history)
    writer, reader = history.invoke("c1", {X: b"x1", Y: b"y1"}), history.invoke("c2")
    answer(history, writer, {}, {X: (b"x1", 7), Y: (b"y1", 9)})
    answer(history, reader, {X: (b"x0", 5), Y: (b"y0", 5)}, {})
    assert check_serializability(history.all) == []


def test_projection_deletion_undone_is_found() -> None:
    """A value that was deleted for certain and is back: the graph cannot place absences, the key's own history can."""
    history = Transactions()
    done(history, {}, {X: (b"x0", 5)})
    deletion = history.invoke("c1", {X: None, Y: b"y1"})
    history.ok(deletion, {}, {X: 7, Y: 9})
    done(history, {X: (None, 0)}, {})
    assert check_serializability(history.all) == []
    assert check_linearizability(project(history.all, lambda key: 0)).ok
    done(history, {}, {X: (b"x1", 8)})
    done(history, {X: (None, 0)}, {})
    assert not check_linearizability(project(history.all, lambda key: 0)).ok


def test_transaction_answered_twice_is_refused() -> None:
    """A record has one answer."""
    history = Transactions()
    transaction = done(history, {}, {})
    with pytest.raises(ValueError, match="answered twice"):
        history.fail(transaction)
    assert transaction.outcome is Outcome.OK
