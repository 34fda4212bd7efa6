"""Is there one order of all transactions that explains what they saw, and does it keep to real time? Strict serializability.

Owns: the record of transactions as their clients saw them (`Transactions`), the graph of their dependencies, and the words for
a cycle. Never: searches. Revisions order the versions of each key, so the graph is known, and a cycle in it proves that there
is no such order (Adya 1999; Kingsbury & Alvaro, "Elle", 2020). A strong operation on one key is a transaction too, and so is
an eventual write that was seen by somebody.

Invariants: every value is written by one transaction only, so that who saw a value knows who wrote it. A transaction without an
answer counts as committed if something that it wrote was seen, else as if it had not been.
"""

from __future__ import annotations

import itertools
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from .history import Kind, Operation, Outcome, Violation

CYCLES_COMPARED_MAX = 50
"""Of so many cycles the shortest is shown."""

Writes = dict[bytes, bytes | None]
"""Key -> value; None: a deletion."""


class Seen(NamedTuple):
    """What a transaction saw of a key."""

    value: bytes | None
    """None: absent, or not told."""
    revision: int
    """0: absent."""
    version: int = 0
    """Writes since the key was created; 0: absent, or not told."""


@dataclass
class Transaction:
    """One transaction of one client."""

    id: int
    client: str
    then: Writes
    otherwise: Writes
    expected: dict[bytes, int]
    """Revisions that it compares: `then` is taken only where they hold."""
    invoked: int = 0
    """Place in the order of events."""
    invoked_at: float = 0.0
    answered: int | None = None
    answered_at: float | None = None
    outcome: Outcome = Outcome.PENDING
    succeeded: bool | None = None
    """Which branch was taken, where that is known."""
    reads: dict[bytes, Seen] = field(default_factory=dict)
    prefixes: list[bytes] = field(default_factory=list)
    """All keys with one of these that are not among `reads` were absent."""
    revisions: dict[bytes, int] = field(default_factory=dict)
    """Of what it wrote, as far as they are known."""
    note: str = ""

    @property
    def is_open(self) -> bool:
        """Whether nobody told if it took place."""
        return self.outcome in (Outcome.PENDING, Outcome.UNKNOWN)

    @property
    def took_place(self) -> bool:
        """Whether it certainly did: it was acknowledged, or something that it wrote was seen."""
        return self.outcome is Outcome.OK or bool(self.revisions)

    @property
    def writes(self) -> Writes:
        """What it wrote, where the branch is known."""
        return {} if self.succeeded is None else self.then if self.succeeded else self.otherwise

    def __str__(self) -> str:
        end = "" if self.answered_at is None else f"-{self.answered_at:.6f}"
        seen = ", ".join(f"{key.decode()}@{seen.revision}" for key, seen in self.reads.items())
        wrote = ", ".join(f"{key.decode()}@{self.revisions.get(key, '?')}" for key in self.writes or self.then)
        facts = f"saw {seen or 'nothing'}; {'would write' if self.succeeded is None else 'wrote'} {wrote or 'nothing'}"
        return f"T{self.id} [{self.invoked_at:.6f}{end} s, {self.client}, {self.outcome}] {facts} {self.note}".rstrip()


class Transactions:
    """Every transaction of a run, in order. `clock` gives virtual seconds."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0) -> None:
        self.all: list[Transaction] = []
        self._clock = clock
        self._events = 0

    def invoke(
        self,
        client: str,
        then: Writes | None = None,
        otherwise: Writes | None = None,
        expected: dict[bytes, int] | None = None,
    ) -> Transaction:
        """A client asks. Call it before the request leaves."""
        transaction = Transaction(len(self.all), client, then or {}, otherwise or {}, expected or {})
        self._events += 1
        transaction.invoked, transaction.invoked_at = self._events, self._clock()
        self.all.append(transaction)
        return transaction

    def ok(
        self,
        transaction: Transaction,
        reads: Mapping[bytes, Seen] | None = None,
        revisions: Mapping[bytes, int] | None = None,
        *,
        succeeded: bool = True,
    ) -> None:
        """It took place."""
        transaction.succeeded = succeeded
        transaction.reads.update(reads or {})
        transaction.revisions.update(revisions or {})
        self._answer(transaction, Outcome.OK, "")

    def fail(self, transaction: Transaction, note: str = "") -> None:
        """It definitely did not and will not take place."""
        self._answer(transaction, Outcome.FAILED, note)

    def unknown(self, transaction: Transaction, note: str = "") -> None:
        """It may take place at any time, or never."""
        self._answer(transaction, Outcome.UNKNOWN, note)

    def _answer(self, transaction: Transaction, outcome: Outcome, note: str) -> None:
        if transaction.outcome is not Outcome.PENDING:
            raise ValueError(f"{transaction} was answered twice")
        self._events += 1
        transaction.answered, transaction.answered_at = self._events, self._clock()
        transaction.outcome, transaction.note = outcome, note


def check_serializability(transactions: Sequence[Transaction]) -> list[Violation]:
    """What proves that the transactions were not executed one after the other, within their calls and answers.

    Completes the transactions without an answer by what others saw of them.
    """
    violations = _identify(transactions)
    placed = [t for t in transactions if t.took_place]
    _complete(placed)
    versions: dict[bytes, dict[int, Transaction]] = {}
    for transaction in placed:
        for key, revision in transaction.revisions.items():
            other = versions.setdefault(key, {}).setdefault(revision, transaction)
            if other is not transaction:
                violations.append(Violation("two writes share a revision", f"{_at(key, revision)}: {other}; {transaction}"))
    if violations:
        return violations
    cycle = _shortest_cycle(_dependencies(placed, transactions, versions))
    return [] if cycle is None else [Violation("strict serializability", _explain(cycle, transactions))]


def _complete(placed: Sequence[Transaction]) -> None:
    """What follows from what they were told: the comparisons held, and who listed keys saw that the others were absent."""
    written = dict.fromkeys(key for transaction in placed for key in transaction.revisions)
    for transaction in placed:
        if transaction.succeeded:
            for key, revision in transaction.expected.items():
                transaction.reads.setdefault(key, Seen(None, revision))
        for prefix in transaction.prefixes:
            for key in written:
                if key.startswith(prefix):
                    transaction.reads.setdefault(key, Seen(None, 0))


def _at(key: bytes, revision: int) -> str:
    return f"key {key!r} at revision {revision}"


def _identify(transactions: Sequence[Transaction]) -> list[Violation]:
    """Tells who wrote what was seen, and thereby which transactions without an answer took place."""
    violations = []
    writers = {
        (key, value): (transaction, branch)
        for transaction in transactions
        for branch, writes in ((True, transaction.then), (False, transaction.otherwise))
        for key, value in writes.items()
        if value is not None
    }
    for reader in transactions:
        for key, seen in reader.reads.items() if reader.outcome is Outcome.OK else ():
            if seen.value is None:
                continue
            what = f"{_at(key, seen.revision)} is {seen.value[:40]!r}"
            writer, branch = writers.get((key, seen.value), (None, None))
            if writer is None:
                violations.append(Violation("a value was written by somebody", f"{what}; {reader}"))
                continue
            if writer.outcome is Outcome.FAILED:
                violations.append(Violation("definite means definite", f"{what}, seen by {reader}, of {writer}"))
                continue
            if writer.succeeded not in (None, branch):
                violations.append(Violation("one branch is taken", f"{what}, seen by {reader}, of {writer}"))
                continue
            writer.succeeded = branch
            if writer.revisions.setdefault(key, seen.revision) != seen.revision:
                violations.append(Violation("a write takes effect once", f"{what}, seen by {reader}, of {writer}"))
    return violations


# --- the graph ---------------------------------------------------------------------------------------------------------

Edges = dict[int, dict[int, str]]
"""What must come before what, and why."""


def _dependencies(
    placed: Sequence[Transaction], transactions: Sequence[Transaction], versions: Mapping[bytes, Mapping[int, Transaction]]
) -> Edges:
    edges: Edges = {transaction.id: {} for transaction in placed}

    def before(first: Transaction, second: Transaction, why: str) -> None:
        if first is not second:
            edges[first.id].setdefault(second.id, why)

    orders = {key: sorted(writers) for key, writers in versions.items()}
    for key, order in orders.items():
        for revision, following in itertools.pairwise(order):
            why = f"wrote {key!r} at revision {revision}, and at {following} it was overwritten by"
            before(versions[key][revision], versions[key][following], why)
    # Whoever finds nothing where something may have been deleted does not know which absence it saw.
    deleted = {key for t in transactions for writes in (t.then, t.otherwise) for key, value in writes.items() if value is None}
    for reader in placed:
        for key, seen in reader.reads.items():
            if key not in versions or (not seen.revision and key in deleted):
                continue
            if seen.revision in versions[key]:
                before(versions[key][seen.revision], reader, f"wrote {key!r} at revision {seen.revision}, which was seen by")
            place = bisect_right(orders[key], seen.revision)
            if place < len(orders[key]):
                following = orders[key][place]
                why = f"saw {key!r} at revision {seen.revision}, before revision {following} was written by"
                before(reader, versions[key][following], why)
    _keep_real_time(placed, before)
    return edges


def _keep_real_time(placed: Sequence[Transaction], before: Callable[[Transaction, Transaction, str], None]) -> None:
    """Who was answered before another one began comes before it; what follows from other such pairs is left out."""
    events = [(t.invoked, False, t) for t in placed] + [(t.answered, True, t) for t in placed if t.outcome is Outcome.OK]
    latest: dict[int, Transaction] = {}
    preceding: dict[int, list[Transaction]] = {}
    for _, is_answer, transaction in sorted(events, key=lambda event: event[0]):
        if not is_answer:
            preceding[transaction.id] = list(latest.values())
            for earlier in latest.values():
                before(earlier, transaction, "was answered before the call of")
        else:
            for earlier in preceding[transaction.id]:
                latest.pop(earlier.id, None)
            latest[transaction.id] = transaction


# --- cycles ------------------------------------------------------------------------------------------------------------


def _shortest_cycle(edges: Edges) -> list[tuple[int, str]] | None:
    """One of the shortest cycles among the first transactions that are in one: (transaction, what it did to the next)."""
    cyclic = _cyclic(edges)
    found: list[list[tuple[int, str]]] = []
    for start in cyclic:
        came_from: dict[int, int] = {}
        queue = deque([start])
        while queue and start not in came_from:
            here = queue.popleft()
            for following in edges[here]:
                if following in cyclic and following not in came_from:
                    came_from[following] = here
                    queue.append(following)
        if start not in came_from:
            continue
        place, cycle = start, []
        while not cycle or place != start:
            earlier = came_from[place]
            cycle.append((earlier, edges[earlier][place]))
            place = earlier
        found.append(cycle[::-1])
        if len(found) == CYCLES_COMPARED_MAX:
            break
    return min(found, key=len, default=None)


def _cyclic(edges: Edges) -> dict[int, None]:
    """What is in a cycle, or between two: the rest is peeled off, sources first, then sinks."""
    left = dict.fromkeys(edges)
    for _ in range(2):
        incoming = dict.fromkeys(left, 0)
        for source in left:
            for target in edges[source]:
                if target in left:
                    incoming[target] += 1
        free = [transaction for transaction in left if not incoming[transaction]]
        while free:
            source = free.pop()
            del left[source]
            for target in edges[source]:
                if target in left:
                    incoming[target] -= 1
                    if not incoming[target]:
                        free.append(target)
        reversed_edges: Edges = {transaction: {} for transaction in left}
        for source in left:
            for target in edges[source]:
                if target in left:
                    reversed_edges[target][source] = ""
        edges = reversed_edges
    return left


def _explain(cycle: Sequence[tuple[int, str]], transactions: Sequence[Transaction]) -> str:
    by_id = {transaction.id: transaction for transaction in transactions}
    arrows = [f"T{transaction} {why} T{cycle[(place + 1) % len(cycle)][0]}" for place, (transaction, why) in enumerate(cycle)]
    members = [str(by_id[transaction]) for transaction, _ in cycle]
    return "\n  ".join([f"no order of these {len(cycle)} transactions explains what they saw:", *arrows, *members])


# --- one key at a time -------------------------------------------------------------------------------------------------


def project(transactions: Iterable[Transaction], shard_of: Callable[[bytes], int]) -> list[Operation]:
    """The transactions as operations on single keys, for the checks of those: with deletions, which the graph cannot place."""
    operations: list[Operation] = []

    def add(t: Transaction, kind: Kind, key: bytes, value: bytes | None, expected: int | None, found: bool | None) -> None:
        seen = t.reads[key].revision if kind is Kind.GET else t.revisions.get(key)
        operations.append(
            Operation(
                len(operations),
                t.client,
                kind,
                key,
                value,
                expected,
                t.invoked,
                t.invoked_at,
                t.answered,
                t.answered_at,
                t.outcome,
                seen or None,
                found,
                shard_of(key),
                f"T{t.id} {t.note}",
            )
        )

    for t in transactions:
        if t.outcome is Outcome.OK:
            for key, value in t.writes.items():
                seen = t.reads.get(key)
                expected, found = (None, None) if seen is None else (seen.revision, seen.revision > 0)
                deletes = value is None
                add(t, Kind.DELETE if deletes else Kind.PUT, key, value, expected, found if deletes else None)
            for key, seen in t.reads.items():
                if key not in t.writes and (seen.value is not None or not seen.revision):
                    add(t, Kind.GET, key, seen.value, None, seen.revision > 0)
        elif t.is_open:
            for branch, writes in ((True, t.then), (False, t.otherwise)):
                for key, value in writes.items() if t.succeeded in (None, branch) else ():
                    expected = t.expected.get(key) if branch else None
                    add(t, Kind.DELETE if value is None else Kind.PUT, key, value, expected, None)
    return operations
