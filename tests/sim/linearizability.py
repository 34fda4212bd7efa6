"""Is there one order of the operations on each key that explains all answers? The search, and a report for people.

Owns: the sequential model of a key (a register with revisions), the search for a linearization, and the reduction of a
history that has none to the few operations that show it. Never: says yes when it ran out of steps.

The search is that of Wing & Gong (1993) with Lowe's cache of visited (operations done, state) pairs (2017), one key at a
time (Horn & Kroening 2015, locality), as in Porcupine. What makes it fast here, and sound:
- Revisions are places in the shard's log, so along a linearization they grow: whatever is known to be at a smaller revision
  goes first. Histories without revisions are searched without that help.
- A read that the present state explains is taken at once: it cannot become easier later and hinders nothing.
- A write without an answer whose value was read is required, at the revision where it was read; one that nothing could have
  observed is left out; those that cannot be told apart are tried in one order only.

Invariants: the verdict depends on the history alone, not on the speed of the machine: the bound is a number of steps.
UNDECIDED is a failure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from .history import History, Kind, Operation, Outcome, check_revision_order

STEPS_MAX = 1_000_000
"""Applications of the model per key: a few seconds."""
REDUCTION_CHECKS_MAX = 600
"""Searches that may be spent on making a failure small."""
REDUCTION_STEPS_MAX = 50_000

_ANY = -1
"""The revision of a value whose write was never acknowledged: any above the floor."""


class Verdict(StrEnum):
    """What the search found."""

    LINEARIZABLE = "linearizable"
    VIOLATION = "not linearizable"
    UNDECIDED = "undecided"


class _State(NamedTuple):
    """The register: its value (None: absent), its revision (0: absent), and what every later revision must exceed."""

    value: bytes | None
    revision: int
    floor: int


@dataclass(frozen=True)
class KeyReport:
    """The verdict on one key. `window`: of a violation, the operations that show it, in the order of invocation."""

    key: bytes
    verdict: Verdict
    operations: int
    steps: int
    window: list[Operation] = field(default_factory=list)

    def __str__(self) -> str:
        if self.verdict is Verdict.LINEARIZABLE:
            return f"key {self.key!r}: linearizable ({self.operations} operations, {self.steps} steps)"
        if self.verdict is Verdict.UNDECIDED:
            return f"key {self.key!r}: undecided after {self.steps} steps over {self.operations} operations: a failure"
        count = len(self.window)
        head = f"key {self.key!r}: no order of these operations explains their answers ({count} of {self.operations}):"
        reasons = [f"  {violation}" for violation in check_revision_order(self.window)]
        return "\n".join([head, *draw(self.window), *reasons])


@dataclass(frozen=True)
class Report:
    """The verdict on a history: `ok` only if every key is linearizable."""

    keys: list[KeyReport]

    @property
    def ok(self) -> bool:
        """Whether every key has a linearization."""
        return not self.failures

    @property
    def failures(self) -> list[KeyReport]:
        """The keys without one, or undecided."""
        return [report for report in self.keys if report.verdict is not Verdict.LINEARIZABLE]

    def __str__(self) -> str:
        total = sum(report.operations for report in self.keys)
        steps = sum(report.steps for report in self.keys)
        if self.ok:
            return f"linearizable: {total} operations on {len(self.keys)} keys, {steps} steps"
        return "\n".join(str(report) for report in self.failures)


def check_linearizability(history: History | Iterable[Operation], *, steps_max: int = STEPS_MAX) -> Report:
    """Check the strong operations of every key. Failed operations had no effect; unknown ones may take effect or not."""
    keys: dict[bytes, list[Operation]] = {}
    for operation in history.operations if isinstance(history, History) else history:
        keys.setdefault(operation.key, []).append(operation)
    reports = []
    for key, operations in keys.items():
        verdict, steps = check_key(operations, steps_max=steps_max)
        window = reduce_failure(operations) if verdict is Verdict.VIOLATION else []
        reports.append(KeyReport(key, verdict, len(operations), steps, window))
    return Report(reports)


def check_key(operations: Sequence[Operation], *, steps_max: int = STEPS_MAX) -> tuple[Verdict, int]:
    """Check one key's operations; also how many steps it took."""
    return _Search(_prepare(operations)).run(steps_max)


# --- the sequential model ----------------------------------------------------------------------------------------------


def _observe(state: _State, revision: int | None) -> _State | None:
    """The state after somebody saw the key at this revision; None: nobody could have."""
    if revision is None or revision == state.revision:
        return state
    if state.revision == _ANY and revision > state.floor:
        return _State(state.value, revision, revision)
    return None


def _apply(state: _State, operation: Operation) -> _State | None:
    """The state after an operation with this answer; None: it cannot have had this answer here."""
    if operation.kind is Kind.GET:
        if not operation.found:
            return state if state.value is None else None
        if state.value is None or state.value != operation.value:
            return None
        return _observe(state, operation.revision or None)
    if operation.outcome is Outcome.COMPARE_FAILED:
        if operation.revision is None:
            return None if state.revision == operation.expected else state
        return None if operation.revision == operation.expected else _observe(state, operation.revision)
    seen = _observe(state, operation.expected)
    if seen is None:
        return None
    if operation.kind is Kind.DELETE and operation.found is not None and operation.found != (seen.value is not None):
        return None
    revision = operation.revision or _ANY
    if revision != _ANY and revision <= seen.floor:
        return None
    floor = max(revision, seen.floor)
    return _State(operation.value, revision, floor) if operation.kind is Kind.PUT else _State(None, 0, floor)


# --- the search --------------------------------------------------------------------------------------------------------


def _prepare(operations: Sequence[Operation]) -> list[Operation]:
    """Leave out what cannot matter, and settle what reads prove about writes without an answer."""
    live = [
        operation
        for operation in operations
        if operation.outcome is not Outcome.FAILED and not (operation.kind is Kind.GET and operation.is_open)
    ]
    reads = [operation for operation in live if operation.kind is Kind.GET and operation.found]
    writers = Counter(operation.value for operation in live if operation.kind is Kind.PUT and operation.is_write)
    read_at: dict[bytes | None, int | None] = {}
    for read in reads:
        read_at[read.value] = read_at.get(read.value) or read.revision or None
    for place, operation in enumerate(live):
        unique = operation.kind is Kind.PUT and writers[operation.value] == 1
        if operation.is_open and operation.revision is None and unique and read_at.get(operation.value):
            live[place] = replace(operation, revision=read_at[operation.value])
    known = {operation.revision for operation in live if operation.is_write and operation.revision}
    checks = [operation for operation in live if operation.expected is not None]
    seen_revisions = [o.expected for o in checks if o.is_write] + [
        o.revision for o in checks if o.outcome is Outcome.COMPARE_FAILED
    ]
    presence_seen = any(o.kind is Kind.DELETE and o.outcome is Outcome.OK and o.found for o in live) or any(
        revision is None or (revision > 0 and revision not in known) for revision in seen_revisions
    )
    absence_seen = (
        any(o.kind is not Kind.PUT and o.outcome is Outcome.OK and o.found is False for o in live)
        or None in seen_revisions
        or 0 in seen_revisions
    )

    def matters(operation: Operation) -> bool:
        if not operation.is_open or operation.revision is not None:
            return True
        return absence_seen if operation.kind is Kind.DELETE else presence_seen or operation.value in read_at

    kept = [operation for operation in live if matters(operation)]
    return sorted(kept, key=lambda operation: operation.invoked)


class _Frame(NamedTuple):
    """A point of the search to come back to."""

    state: _State
    done: int
    candidates: list[int]


class _Search:
    """A depth-first search over linearizations. Operations are numbered by invocation; `done` is a set of bits."""

    def __init__(self, operations: list[Operation]) -> None:
        self._operations = operations
        end = max((max(o.invoked, o.answered or 0) for o in operations), default=0) + 1
        self._returns = [o.answered if not o.is_open and o.answered is not None else end for o in operations]
        self._optional = [o.is_open and o.revision is None for o in operations]
        self._required = sum(1 << n for n, optional in enumerate(self._optional) if not optional)
        self._before = self._revision_masks()
        self._reads = [o.kind is Kind.GET or o.outcome is Outcome.COMPARE_FAILED for o in operations]
        self._alike = self._classes()
        self._optional_mask = sum(1 << n for n, optional in enumerate(self._optional) if optional)

    def _classes(self) -> list[list[int]]:
        """Optional writes by what they may do; those of one class cannot be told apart but by their invocation."""
        read = {o.value for o in self._operations if o.kind is Kind.GET}
        classes: dict[object, list[int]] = {}
        for number, o in enumerate(self._operations):
            if self._optional[number]:
                value = o.value if o.kind is Kind.PUT and o.value in read else None
                classes.setdefault((o.kind, value, o.expected), []).append(number)
        return list(classes.values())

    def _revision_masks(self) -> list[int]:
        """For each write of a known revision, what is known to be at smaller ones: all of that goes first."""
        masks = [0] * len(self._operations)
        by_revision = sorted(
            (o.revision, n) for n, o in enumerate(self._operations) if o.revision and (o.found or o.kind is not Kind.GET)
        )
        smaller = same = 0
        previous = 0
        for revision, number in by_revision:
            if revision != previous:
                smaller, same, previous = smaller | same, 0, revision
            same |= 1 << number
            if self._operations[number].is_write:
                masks[number] = smaller
        return masks

    def run(self, steps_max: int) -> tuple[Verdict, int]:
        """Search until an order is found, none is left, or the steps are used up."""
        steps = 0
        # For each set of required operations done, and state: with which optional ones it was reached. Reaching it again
        # with those and more of them is no better.
        visited: dict[tuple[int, _State], list[int]] = {}
        start = _State(None, 0, 0)
        frames = [_Frame(start, 0, self._candidates(start, 0))]
        while frames:
            state, done, candidates = frames[-1]
            if self._required & ~done == 0:
                return Verdict.LINEARIZABLE, steps
            if not candidates:
                frames.pop()
                continue
            number = candidates.pop()
            steps += 1
            if steps > steps_max:
                return Verdict.UNDECIDED, steps
            after = _apply(state, self._operations[number])
            if after is None or (self._optional[number] and after == state):
                continue
            done |= 1 << number
            optional = done & self._optional_mask
            reached = visited.setdefault((done & self._required, after), [])
            if any(fewer & ~optional == 0 for fewer in reached):
                continue
            reached.append(optional)
            frames.append(_Frame(after, done, self._candidates(after, done)))
        return Verdict.VIOLATION, steps

    def _candidates(self, state: _State, done: int) -> list[int]:
        """What may come next: invoked before everything required and not done returned. The last is tried first."""
        operations, returns = self._operations, self._returns
        required: list[int] = []
        earliest_return: float = float("inf")
        settled = done | self._optional_mask
        # The lowest bit that is not settled: what comes before it need not be looked at.
        number = (~settled & (settled + 1)).bit_length() - 1
        while number < len(operations) and operations[number].invoked < earliest_return:
            if not settled >> number & 1:
                earliest_return = min(earliest_return, returns[number])
                if self._before[number] & ~done == 0:
                    if self._reads[number] and _apply(state, operations[number]) == state:
                        return [number]
                    required.append(number)
            number += 1
        required.sort(key=lambda n: -returns[n])
        optional = []
        for alike in self._alike:
            first = next((n for n in alike if not done >> n & 1), None)
            if first is not None and operations[first].invoked < earliest_return:
                optional.append(first)
        return optional + required


# --- making a failure small --------------------------------------------------------------------------------------------


def reduce_failure(operations: Sequence[Operation]) -> list[Operation]:
    """The operations, or few of them, that still cannot be linearized.

    First the shortest failing prefix (a prefix of a linearizable history is linearizable), then operations are left out
    together with what was seen of them, which cannot break a linearizable history either.
    """
    checks = 0

    def fails(part: list[Operation]) -> bool:
        nonlocal checks
        checks += 1
        return checks <= REDUCTION_CHECKS_MAX and check_key(part, steps_max=REDUCTION_STEPS_MAX)[0] is Verdict.VIOLATION

    part = sorted((o for o in operations if o.outcome is not Outcome.FAILED), key=lambda operation: operation.invoked)
    ends = sorted(o.answered for o in part if o.answered is not None)
    low, high = 0, len(ends) - 1
    while low < high:
        middle = (low + high) // 2
        if fails(_prefix(part, ends[middle])):
            high = middle
        else:
            low = middle + 1
    if ends and fails(shortest := _prefix(part, ends[high])):
        part = shortest
    size = max(len(part) // 2, 1)
    while True:
        place = len(part) - 1
        shrunk = False
        while place >= 0 and checks < REDUCTION_CHECKS_MAX:
            chunk = part[max(place - size + 1, 0) : place + 1]
            smaller = _without(part, chunk)
            if smaller and fails(smaller):
                part, shrunk = smaller, True
                place = min(place, len(part)) - 1
            else:
                place -= size
        if checks >= REDUCTION_CHECKS_MAX or (size == 1 and not shrunk):
            return part
        size = max(size // 2, 1)


def _prefix(operations: list[Operation], end: int) -> list[Operation]:
    """What was known at this event: later answers are unknown, later invocations did not happen."""
    return [
        o
        if o.answered is None or o.answered <= end
        else replace(
            o,
            outcome=Outcome.PENDING,
            answered=None,
            answered_at=None,
            revision=None,
            found=None,
            value=o.value if o.kind is Kind.PUT else None,
            note="",
        )
        for o in operations
        if o.invoked <= end
    ]


def _without(operations: list[Operation], removed: list[Operation]) -> list[Operation]:
    """Leave operations out, with the reads that may have seen what they wrote; writes that may have are asked no more what
    they saw. All this only takes away from what must be explained."""
    gone = {operation.id for operation in removed}
    effects = _Effects(operations, gone)
    left = []
    for o in operations:
        if o.id in gone:
            continue
        if effects.may_be_seen_by(o):
            if not o.is_write:
                continue
            o = replace(o, expected=None)
        if effects.any and o.kind is Kind.DELETE and o.found is not None:
            o = replace(o, found=None)
        left.append(o)
    return left


class _Effects:
    """What some writes of a history left behind for others to see."""

    def __init__(self, operations: list[Operation], ids: set[int]) -> None:
        writes = [o for o in operations if o.id in ids and o.is_write]
        self.any = bool(writes)
        self._deletes = any(o.kind is Kind.DELETE for o in writes)
        self._values = {o.value for o in writes if o.kind is Kind.PUT}
        self._revisions = {o.revision for o in writes}
        self._others = {o.revision for o in operations if o.is_write and o.id not in ids and o.revision}

    def may_be_seen_by(self, o: Operation) -> bool:
        """Whether the operation's answer may be due to one of the writes."""
        if o.kind is Kind.GET:
            return o.value in self._values if o.found else self._deletes
        seen = o.revision if o.outcome is Outcome.COMPARE_FAILED else o.expected
        if seen is None:
            # A write without a condition sees nothing; of a failed comparison it is not known what it saw.
            return o.outcome is Outcome.COMPARE_FAILED and self.any
        if seen == 0:
            return self._deletes
        return seen in self._revisions or (None in self._revisions and seen not in self._others)


def draw(operations: Sequence[Operation], *, width: int = 60) -> list[str]:
    """A line for each operation: its span on a common axis of events, its client, times, request and answer."""
    marks = sorted({o.invoked for o in operations} | {o.answered for o in operations if o.answered is not None})
    scale = min(4.0, width / max(len(marks), 1))
    column = {mark: round(place * scale) for place, mark in enumerate(marks)}
    end = round(len(marks) * scale) + 2
    client_width = max((len(o.client) for o in operations), default=1)
    lines = []
    for o in operations:
        start = column[o.invoked]
        if o.is_open or o.answered is None:
            bar = "|" + "-" * max(end - start - 4, 0) + "..."
        else:
            bar = "|" + "-" * max(column[o.answered] - start - 1, 0) + "|"
        when = f"{o.invoked_at:.6f}-" + ("?" if o.answered_at is None else f"{o.answered_at:.6f}")
        lines.append(
            f"  {(' ' * start + bar).ljust(end)}  {o.client:<{client_width}}  {when:<25} s  {o.describe()} -> {o.answer()}"
        )
    return lines
