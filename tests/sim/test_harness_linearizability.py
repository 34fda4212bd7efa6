"""The checkers: they pass what a real register did, and find each way in which a store can lie."""

from __future__ import annotations

import io
import itertools
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from .history import (
    AppliedWrite,
    EventualState,
    EventualWrite,
    History,
    Kind,
    Operation,
    Outcome,
    check_acknowledged_applied,
    check_eventual_contract,
    check_revision_order,
    check_state_hashes,
)
from .linearizability import Verdict, check_key, check_linearizability

K = b"k"


def put(history: History, value: bytes, revision: int | None, client: str = "c1", expected: int | None = None) -> Operation:
    """A put that is answered at once; `revision` None: without an answer."""
    operation = history.invoke(client, Kind.PUT, K, value, expected=expected)
    if revision is None:
        history.unknown(operation, "timeout")
    else:
        history.ok(operation, revision=revision)
    return operation


def get(history: History, value: bytes | None, revision: int = 0, client: str = "c2") -> None:
    """A get that is answered at once."""
    history.ok(history.invoke(client, Kind.GET, K), found=value is not None, value=value, revision=revision)


def delete(history: History, revision: int, found: bool = True, client: str = "c1") -> None:
    """A delete that is answered at once."""
    history.ok(history.invoke(client, Kind.DELETE, K), revision=revision, found=found)


def atomic_register_history(
    seed: int, count: int, *, clients: int = 5, keys: int = 1, unknown: float = 0.15, revisions: bool = True
) -> History:
    """What clients of a real atomic register see: each operation takes effect somewhere between its call and its answer."""
    rng = random.Random(seed)
    history = History()
    register: dict[bytes, tuple[bytes | None, int]] = {}
    log = 0
    idle = [f"c{number}" for number in range(clients)]
    running: list[tuple[Operation, tuple[Outcome, int | None, bool | None, bytes | None] | None]] = []
    started = 0
    while started < count or running:
        if started < count and idle and (not running or rng.random() < 0.5):
            started += 1
            client, key = idle.pop(rng.randrange(len(idle))), b"k" + b"+" * rng.randrange(keys)
            kind = rng.choice([Kind.GET, Kind.GET, Kind.PUT, Kind.PUT, Kind.DELETE])
            expected = None
            if kind is not Kind.GET and rng.random() < 0.3:
                expected = register.get(key, (None, 0))[1] if rng.random() < 0.7 else rng.randrange(log + 1)
            value = b"%d" % started if kind is Kind.PUT else None
            running.append((history.invoke(client, kind, key, value, expected=expected), None))
            continue
        place = rng.randrange(len(running))
        operation, answer = running[place]
        if answer is None:
            value, revision = register.get(operation.key, (None, 0))
            if operation.kind is Kind.GET:
                answer = Outcome.OK, revision, value is not None, value
            elif operation.expected is not None and operation.expected != revision:
                answer = Outcome.COMPARE_FAILED, revision, None, None
            else:
                log += rng.randrange(1, 4)
                was_put = operation.kind is Kind.PUT
                register[operation.key] = (operation.value, log) if was_put else (None, 0)
                answer = Outcome.OK, log, None if was_put else value is not None, None
            running[place] = (operation, answer)
            if rng.random() >= unknown:
                continue
            history.unknown(operation)
            running.pop(place)
            idle.append(operation.client + "'")
            continue
        outcome, told, found, value = answer
        if outcome is Outcome.OK:
            history.ok(operation, revision=told if revisions else None, found=found, value=value)
        else:
            history.compare_failed(operation, told if revisions else None)
        running.pop(place)
        idle.append(operation.client)
    return history


def is_linearizable_by_force(operations: list[Operation]) -> bool:
    """Every subset of the unknown operations, in every order: the definition itself, revisions as the log would give them."""
    certain = [o for o in operations if not o.is_open and o.outcome is not Outcome.FAILED]
    maybe = [o for o in operations if o.is_open and o.kind is not Kind.GET]

    def explains(order: tuple[Operation, ...]) -> bool:
        for place, first in enumerate(order):
            if any(o.answered is not None and not o.is_open and o.answered < first.invoked for o in order[place + 1 :]):
                return False
        value: bytes | None = None
        present: object = 0
        bound: dict[int, int] = {}
        floor = 0

        def sees(revision: int) -> bool:
            nonlocal present, floor
            if isinstance(present, tuple):
                if revision <= floor:
                    return False
                present = floor = revision
                bound[revision] = revision
            return present == revision

        for o in order:
            if o.kind is Kind.GET:
                if o.value != value or (value is not None and o.revision and not sees(o.revision)):
                    return False
                continue
            if o.outcome is Outcome.COMPARE_FAILED:
                if o.revision is None:
                    if present == o.expected:
                        return False
                elif not sees(o.revision) or o.revision == o.expected:
                    return False
                continue
            if o.expected is not None and not sees(o.expected):
                return False
            if o.kind is Kind.DELETE and o.found is not None and o.found != (value is not None):
                return False
            if o.revision and o.revision <= floor:
                return False
            floor = max(floor, o.revision or 0)
            value, present = o.value, (o.revision or ("any", o.id)) if o.kind is Kind.PUT else 0
        return True

    return any(
        explains(order)
        for count in range(len(maybe) + 1)
        for chosen in itertools.combinations(maybe, count)
        for order in itertools.permutations(certain + list(chosen))
    )


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 60), st.booleans(), st.floats(0, 0.4))
def test_atomic_register_any_history_passes(seed: int, count: int, revisions: bool, unknown: float) -> None:
    """What a real register did is linearizable, with and without revisions, whatever was lost."""
    history = atomic_register_history(seed, count, keys=2, revisions=revisions, unknown=unknown)
    report = check_linearizability(history)
    assert report.ok, str(report)
    assert check_revision_order(history.operations) == []


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32), st.booleans(), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_small_history_mutated_same_verdict_as_by_force(
    seed: int, revisions: bool, place: int, other: int, lose_answers: bool
) -> None:
    """The search agrees with brute force over all orders, on histories that may be wrong."""
    history = atomic_register_history(seed, 6, clients=3, unknown=0.2, revisions=revisions)
    changed, source = history.operations[place], history.operations[other]
    if changed.kind is Kind.GET and changed.outcome is Outcome.OK:
        changed.value, changed.found, changed.revision = source.value, source.value is not None, source.revision
    elif changed.outcome is Outcome.OK and source.outcome is Outcome.OK:
        changed.revision, source.revision = source.revision, changed.revision
    verdict, _ = check_key(history.operations)
    assert (verdict is Verdict.LINEARIZABLE) == is_linearizable_by_force(history.operations)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 2**32))
def test_stale_read_planted_in_a_long_history_is_found_and_made_small(seed: int) -> None:
    """One lie among hundreds of operations is found, and shown with a handful of them."""
    history = atomic_register_history(seed, 200, unknown=0.05)
    writes = [o for o in history.operations if o.kind is Kind.PUT and o.outcome is Outcome.OK]
    get(history, writes[0].value, writes[0].revision or 0, client="liar")
    report = check_linearizability(history)
    assert not report.ok
    window = report.failures[0].window
    assert report.failures[0].operations == 201
    assert len(window) <= 4
    assert any(o.client == "liar" for o in window)
    assert "liar" in str(report)


def stale_read(history: History) -> None:
    put(history, b"1", 5)
    put(history, b"2", 7)
    get(history, b"1", 5)


def lost_write(history: History) -> None:
    put(history, b"1", 5)
    get(history, None)


def resurrected_write(history: History) -> None:
    put(history, b"1", 5)
    delete(history, 6)
    get(history, b"1", 5)


def unknown_write_seen_then_gone(history: History) -> None:
    put(history, b"1", 5)
    put(history, b"2", None)
    get(history, b"2", 7)
    get(history, b"1", 5)


def unknown_write_executed_twice(history: History) -> None:
    put(history, b"1", None)
    get(history, b"1", 5)
    put(history, b"2", 6)
    get(history, b"1", 7)


def compare_and_set_succeeds_twice(history: History) -> None:
    put(history, b"0", 5)
    first = history.invoke("c1", Kind.PUT, K, b"1", expected=5)
    second = history.invoke("c2", Kind.PUT, K, b"2", expected=5)
    history.ok(first, revision=6)
    history.ok(second, revision=7)


def failed_write_is_seen(history: History) -> None:
    operation = history.invoke("c1", Kind.PUT, K, b"1")
    history.fail(operation, "NO_LEADER")
    get(history, b"1", 5)


def comparison_failed_though_equal(history: History) -> None:
    put(history, b"0", 5)
    history.compare_failed(history.invoke("c1", Kind.PUT, K, b"1", expected=5), 5)


def value_from_nowhere(history: History) -> None:
    get(history, b"1", 5)


def deletion_of_nothing_found_something(history: History) -> None:
    delete(history, 5, found=True)


def revisions_against_real_time(history: History) -> None:
    put(history, b"1", 7)
    put(history, b"2", 5)


@pytest.mark.parametrize(
    "tell",
    [
        stale_read,
        lost_write,
        resurrected_write,
        unknown_write_seen_then_gone,
        unknown_write_executed_twice,
        compare_and_set_succeeds_twice,
        failed_write_is_seen,
        comparison_failed_though_equal,
        value_from_nowhere,
        deletion_of_nothing_found_something,
        revisions_against_real_time,
    ],
)
def test_bad_history_is_a_violation(tell: object) -> None:
    """Each classic lie is found, also in the middle of honest work, and the report names it."""
    history = History()
    assert callable(tell)
    tell(history)
    report = check_linearizability(history)
    assert [failure.verdict for failure in report.failures] == [Verdict.VIOLATION]
    assert "no order of these operations" in str(report)
    assert 1 <= len(report.failures[0].window) <= 5


def test_good_histories_with_unknown_outcomes_pass() -> None:
    """A write without an answer may appear late, or never, or be seen by a failed comparison; concurrency explains the rest."""
    history = History()
    put(history, b"1", None)
    get(history, None)
    get(history, b"1", 5)
    put(history, b"2", None)
    history.compare_failed(history.invoke("c3", Kind.PUT, K, b"3", expected=5), 9)
    get(history, b"2", 9)
    slow = history.invoke("c4", Kind.DELETE, K)
    get(history, None)
    history.ok(slow, revision=10, found=True)
    put(history, b"4", 11, expected=0)
    placed = history.invoke("c5", Kind.PUT, K, b"5")
    history.unknown(placed, "acknowledged as eventual", revision=13)
    get(history, b"4", 11)
    get(history, b"5", 13)
    report = check_linearizability(history)
    assert report.ok, str(report)


def test_too_few_steps_is_a_failure() -> None:
    """A checker that cannot decide does not say yes."""
    history = atomic_register_history(1, 100)
    report = check_linearizability(history, steps_max=5)
    assert not report.ok
    assert "undecided" in str(report)


def test_long_history_is_checked_fast() -> None:
    """Thousands of operations on one key, a third of them without an answer, stay far below the bound of steps."""
    history = atomic_register_history(1, 3_000, unknown=0.3)
    report = check_linearizability(history)
    assert report.ok
    assert report.keys[0].steps < 200_000


def test_revision_order_finds_what_revisions_prove() -> None:
    """Shared, falling, stale and ambiguous revisions are found without a search, also across the keys of one shard."""
    for tell, rule in (
        (stale_read, "stale revision"),
        (unknown_write_seen_then_gone, "stale revision"),
        (revisions_against_real_time, "smaller revision"),
    ):
        history = History()
        tell(history)
        assert any(rule in violation.rule for violation in check_revision_order(history.operations))
    history = History()
    history.ok(history.invoke("c1", Kind.PUT, b"a", b"1"), revision=5)
    history.ok(history.invoke("c1", Kind.PUT, b"b", b"1"), revision=5)
    get(history, b"1", 9)
    get(history, b"2", 9)
    rules = {violation.rule for violation in check_revision_order(history.operations)}
    assert rules == {"two writes share a revision", "a later write has a smaller revision", "one revision has two values"}


def test_history_saved_and_loaded_is_the_same() -> None:
    """JSON lines keep everything the checkers need; an operation is answered once."""
    history = atomic_register_history(3, 50)
    file = io.StringIO()
    history.save(file)
    assert History.load(file.getvalue().splitlines()).operations == history.operations
    with pytest.raises(ValueError, match="twice"):
        history.fail(history.operations[0])


def test_eventual_contract_kept_passes() -> None:
    """Applied over what it had seen, superseded by what it had not: nothing to complain about."""
    applied = [
        AppliedWrite(K, 3, 30, strong=True),
        AppliedWrite(K, 5, 50, strong=False, base=3, origin="n1#1", operation_id="a"),
        AppliedWrite(K, 8, 80, strong=True),
    ]
    writes = [
        EventualWrite("a", K, True, EventualState.APPLIED, 5),
        EventualWrite("b", K, True, EventualState.SUPERSEDED, 9, superseded_by=8),
        EventualWrite("c", K, False, EventualState.UNKNOWN),
    ]
    assert check_eventual_contract(writes, applied) == []


@pytest.mark.parametrize(
    ("write", "applied", "rule"),
    [
        (None, AppliedWrite(K, 9, 90, strong=False, base=7, operation_id="a"), "never undoes a strong write"),
        (None, AppliedWrite(K, 9, 70, strong=False, base=8, operation_id="a"), "versions grow"),
        (None, AppliedWrite(K, 8, 90, strong=True), "revisions grow"),
        (EventualWrite("a", K, True, EventualState.PENDING), None, "finds its place"),
        (EventualWrite("a", K, True, EventualState.APPLIED, 9), None, "applied means applied"),
        (
            EventualWrite("a", K, True, EventualState.SUPERSEDED, 9),
            AppliedWrite(K, 9, 90, strong=False, base=8, operation_id="a"),
            "superseded means without effect",
        ),
        (EventualWrite("a", K, True, EventualState.SUPERSEDED, 9, superseded_by=6), None, "something supersedes"),
        (EventualWrite("a", K, True, EventualState.SUPERSEDED, 7, superseded_by=8), None, "something supersedes"),
    ],
)
def test_eventual_contract_broken_is_named(write: EventualWrite | None, applied: AppliedWrite | None, rule: str) -> None:
    """Each promise of section 9, broken once."""
    log = [AppliedWrite(K, 8, 80, strong=True)] + ([applied] if applied else [])
    violations = check_eventual_contract([write] if write else [], log)
    assert len(violations) == 1
    assert rule in violations[0].rule


def test_eventual_write_applied_twice_is_named() -> None:
    """A duplicate that slipped through deduplication."""
    twice = [AppliedWrite(K, r, r, strong=False, base=1, origin="n1#1", operation_id="a") for r in (3, 4)]
    assert [v.rule for v in check_eventual_contract([], twice)] == ["applied once"]


def test_lost_strong_write_and_diverged_state_are_named() -> None:
    """Acknowledged strong writes are in the log, and replicas at one index have one hash."""
    history = History()
    put(history, b"1", 5)
    assert check_acknowledged_applied(history.operations, [AppliedWrite(K, 5, 1, strong=True)]) == []
    assert len(check_acknowledged_applied(history.operations, [])) == 1
    samples = [("n1", 0, 5, 1), ("n2", 0, 5, 1), ("n1", 1, 5, 2)]
    assert check_state_hashes(samples) == []
    assert "n3" in str(check_state_hashes([*samples, ("n3", 0, 5, 7)])[0])
