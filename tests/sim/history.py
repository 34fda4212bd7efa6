"""What clients asked and what they were told; what replicas applied; and the checks that need no search.

Owns: the record of a run as seen from outside (`History`), eventual writes and their outcomes, and linear-time checks:
order of revisions, the contract of eventual writes, equal state hashes. The search for a linearization is next door.
Never: guesses. An operation without an answer is *unknown*: it may have happened, may happen later, or never.

Invariants: the order of events is the order in which they were recorded, not their time: two events of one virtual instant
still happened one after the other. A failure is definite: the operation did not and will not take effect.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import TextIO


class Kind(StrEnum):
    """What was asked. A compare-and-set is a put or a delete with `expected`."""

    GET = "get"
    PUT = "put"
    DELETE = "delete"


class Outcome(StrEnum):
    """What the client was told."""

    PENDING = "pending"
    """Nothing yet; at the end of a run the same as unknown."""
    OK = "ok"
    COMPARE_FAILED = "compare failed"
    """Definite, and a read of the key's revision."""
    FAILED = "failed"
    """Definite: no effect."""
    UNKNOWN = "unknown"


def _short(value: bytes | None) -> str:
    return repr(value) if value is None or len(value) <= 40 else f"{value[:32]!r}+{len(value) - 32}"


@dataclass
class Operation:
    """One operation of one client on one key."""

    id: int
    client: str
    kind: Kind
    key: bytes
    value: bytes | None = None
    """A put's new value, or what a get returned; None: no value."""
    expected: int | None = None
    """Only if the key's revision is this; 0: only if it is absent."""
    invoked: int = 0
    """Place in the order of events."""
    invoked_at: float = 0.0
    """Virtual seconds; only shown."""
    answered: int | None = None
    answered_at: float | None = None
    outcome: Outcome = Outcome.PENDING
    revision: int | None = None
    """A write's place in its shard's log; of a failed comparison, or a get that found something, the key's revision. None: not
    told."""
    found: bool | None = None
    """Of a get: whether there was a value. Of a delete: whether there was something to delete. None: not told."""
    shard: int = 0
    note: str = ""
    """Why it failed, or what is unknown."""

    @property
    def is_open(self) -> bool:
        """Whether nobody knows if it took effect."""
        return self.outcome in (Outcome.PENDING, Outcome.UNKNOWN)

    @property
    def is_write(self) -> bool:
        """Whether it may have changed the key."""
        return self.kind is not Kind.GET and self.outcome in (Outcome.OK, Outcome.PENDING, Outcome.UNKNOWN)

    def describe(self) -> str:
        """The request in words."""
        text = str(self.kind)
        if self.kind is Kind.PUT:
            text += f" {_short(self.value)}"
        if self.expected is not None:
            text += f" if revision = {self.expected}"
        return text

    def answer(self) -> str:
        """The answer in words."""
        if self.outcome is not Outcome.OK:
            revision = f", revision is {self.revision}" if self.outcome is Outcome.COMPARE_FAILED else ""
            return f"{self.outcome}{revision}{f' ({self.note})' if self.note else ''}"
        revision = "" if self.revision is None else f" at revision {self.revision}"
        if self.kind is Kind.GET:
            return f"{_short(self.value)}{revision}" if self.found else "not found"
        found = "" if self.found is None else (", was there" if self.found else ", was not there")
        return f"ok{revision}{found}"


@dataclass(frozen=True)
class Violation:
    """A promise that was broken: which one, and how, with every number that a person needs."""

    rule: str
    message: str

    def __str__(self) -> str:
        return f"{self.rule}: {self.message}"


class History:
    """Everything clients asked and were told, in order. `clock` gives virtual seconds."""

    def __init__(self, clock: Callable[[], float] = lambda: 0.0, shard_of: Callable[[bytes], int] = lambda key: 0) -> None:
        self.operations: list[Operation] = []
        self._clock, self._shard_of = clock, shard_of
        self._events = 0

    def invoke(
        self, client: str, kind: Kind, key: bytes, value: bytes | None = None, *, expected: int | None = None
    ) -> Operation:
        """A client asks. Call it before the request leaves."""
        operation = Operation(len(self.operations), client, kind, key, value, expected, shard=self._shard_of(key))
        self._events += 1
        operation.invoked, operation.invoked_at = self._events, self._clock()
        self.operations.append(operation)
        return operation

    def ok(
        self, operation: Operation, *, revision: int | None = None, found: bool | None = None, value: bytes | None = None
    ) -> None:
        """It took effect, or was read: `found` and `value` are a get's."""
        if operation.kind is Kind.GET:
            # Of an absent key nothing but its absence is compared.
            operation.value, revision = (value, revision) if found else (None, None)
        operation.found = found
        self._answer(operation, Outcome.OK, revision, "")

    def compare_failed(self, operation: Operation, revision: int | None) -> None:
        """The key's revision was another one (0: the key was absent)."""
        self._answer(operation, Outcome.COMPARE_FAILED, revision, "")

    def fail(self, operation: Operation, note: str = "") -> None:
        """It definitely had and will have no effect."""
        self._answer(operation, Outcome.FAILED, None, note)

    def unknown(self, operation: Operation, note: str = "", *, revision: int | None = None) -> None:
        """It may take effect at any time from its invocation, or never. With `revision` it certainly did, there, at an
        unknown moment: an eventual write of which the log says that it was applied."""
        self._answer(operation, Outcome.UNKNOWN, revision, note)

    def _answer(self, operation: Operation, outcome: Outcome, revision: int | None, note: str) -> None:
        if operation.outcome is not Outcome.PENDING:
            raise ValueError(f"operation {operation.id} was answered twice: {operation.outcome}, then {outcome}")
        self._events += 1
        operation.answered, operation.answered_at = self._events, self._clock()
        operation.outcome, operation.revision, operation.note = outcome, revision, note

    def by_key(self) -> dict[bytes, list[Operation]]:
        """The operations of each key, in the order of invocation; keys in the order of their first use."""
        keys: dict[bytes, list[Operation]] = {}
        for operation in self.operations:
            keys.setdefault(operation.key, []).append(operation)
        return keys

    def save(self, file: TextIO) -> None:
        """Write it as JSON lines."""
        for operation in self.operations:
            row = asdict(operation)
            row["key"] = operation.key.hex()
            row["value"] = None if operation.value is None else operation.value.hex()
            file.write(json.dumps(row) + "\n")

    @classmethod
    def load(cls, file: Iterable[str]) -> History:
        """Read what `save` wrote."""
        history = cls()
        for line in file:
            row = json.loads(line)
            row["key"] = bytes.fromhex(row["key"])
            row["value"] = None if row["value"] is None else bytes.fromhex(row["value"])
            row["kind"], row["outcome"] = Kind(row["kind"]), Outcome(row["outcome"])
            history.operations.append(Operation(**row))
        history._events = max((max(o.invoked, o.answered or 0) for o in history.operations), default=0)
        return history


def check_revision_order(operations: Iterable[Operation]) -> list[Violation]:
    """What revisions alone prove wrong, in O(n log n), over the strong operations of all keys.

    In a shard: no two acknowledged writes share a revision; a write invoked after another's acknowledgement has a larger one.
    In a key: an operation invoked after a revision was acknowledged or seen never sees an older one; one revision has one
    value. The history may hold eventual writes as unknown operations.
    """
    violations: list[Violation] = []
    writers: dict[tuple[int, int], Operation] = {}
    values: dict[tuple[bytes, int], Operation] = {}
    shard_floor: dict[int, Operation] = {}
    key_floor: dict[bytes, Operation] = {}
    floors: dict[int, tuple[Operation | None, Operation | None]] = {}
    events: list[tuple[int, bool, Operation]] = []
    for operation in operations:
        events.append((operation.invoked, False, operation))
        if operation.answered is not None and operation.revision:
            events.append((operation.answered, True, operation))
    for _, is_answer, operation in sorted(events, key=lambda event: event[0]):
        if not is_answer:
            floors[operation.id] = shard_floor.get(operation.shard), key_floor.get(operation.key)
            continue
        revision = operation.revision or 0
        before_in_shard, before_in_key = floors[operation.id]
        if operation.is_write:
            other = writers.setdefault((operation.shard, revision), operation)
            # One entry gives several eventual writes their places.
            together = other.is_open and operation.is_open
            if other is not operation and not together:
                violations.append(_pair("two writes share a revision", other, operation))
            if before_in_shard is not None and (before_in_shard.revision or 0) >= revision:
                violations.append(_pair("a later write has a smaller revision", before_in_shard, operation))
            if revision > (shard_floor[operation.shard].revision or 0 if operation.shard in shard_floor else 0):
                shard_floor[operation.shard] = operation
        elif before_in_key is not None and (before_in_key.revision or 0) > revision:
            violations.append(_pair("a stale revision was seen", before_in_key, operation))
        if revision > (key_floor[operation.key].revision or 0 if operation.key in key_floor else 0):
            key_floor[operation.key] = operation
        if operation.value is not None and operation.outcome is Outcome.OK:
            other = values.setdefault((operation.key, revision), operation)
            if other.value != operation.value:
                violations.append(_pair("one revision has two values", other, operation))
    return violations


def _pair(rule: str, first: Operation, second: Operation) -> Violation:
    return Violation(rule, f"key {second.key!r}: {_told(first)}, and then {_told(second)}")


def _told(operation: Operation) -> str:
    end = "" if operation.answered_at is None else f"-{operation.answered_at:.6f}"
    return f"[{operation.invoked_at:.6f}{end} s, {operation.client}] {operation.describe()} -> {operation.answer()}"


# --- eventual writes ---------------------------------------------------------------------------------------------------


class EventualState(StrEnum):
    """Where an eventual write ended, as `OperationState` of kv.proto."""

    PENDING = "pending"
    APPLIED = "applied"
    SUPERSEDED = "superseded"
    SETTLED = "settled"
    """In the log, so long ago that no more is known."""
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class EventualWrite:
    """One eventual write as its client knows it at the end. `revision`: its place in the log."""

    operation_id: str
    key: bytes
    acknowledged: bool
    state: EventualState
    revision: int = 0
    superseded_by: int = 0


@dataclass(frozen=True)
class AppliedWrite:
    """One write that took effect on a replica, in the order of the shard's log."""

    key: bytes
    revision: int
    hlc: int
    strong: bool
    base: int = 0
    """Eventual: the log index that the accepting replica had applied."""
    origin: str = ""
    """Eventual: the accepting node and incarnation; breaks ties of the clock."""
    operation_id: str = ""
    forgotten: bool = False
    """The key's earlier versions had been collected: there was nothing to compare with."""
    place: int = 0
    """Where it took effect: of a transaction's write behind its revision, which is the shard's vote. 0: at its revision."""


def check_eventual_contract(
    writes: Iterable[EventualWrite],
    applied: Iterable[AppliedWrite],
    *,
    healed: bool = True,
    horizons: Iterable[int] = (),
) -> list[Violation]:
    """The contract of eventual writes (design section 9) on one shard, from what clients and one replica know.

    An applied eventual write replaced no strong write newer than its base; on each key versions (clock, origin) only grow; no
    write took effect twice or after being reported superseded; a superseded write lost to a write that was applied before
    its place and that it had not seen or that is newer. `healed`: the faults are over and the cluster has had its time, so
    every acknowledged write must have found its place. `horizons`: where the log forgot deletions; a key that is new
    after one counts as written there.
    """
    violations: list[Violation] = []
    last_strong: dict[bytes, AppliedWrite] = {}
    last: dict[bytes, AppliedWrite] = {}
    places: dict[str, AppliedWrite] = {}
    at_revision: dict[tuple[bytes, int], AppliedWrite] = {}
    forgotten = dict.fromkeys(horizons)
    for write in applied:
        before = last.get(write.key)
        what = f"key {write.key!r}: eventual write {write.operation_id} (revision {write.revision}, base {write.base})"
        # Eventual writes that waited for the end of a transaction have its place in common.
        together = before is not None and not before.strong and not write.strong and before.revision == write.revision
        if before is not None and before.revision >= write.revision and not together:
            violations.append(
                Violation("revisions grow", f"key {write.key!r}: {write.revision} was applied after {before.revision}")
            )
        if before is not None and not write.forgotten and (before.hlc, before.origin) >= (write.hlc, write.origin):
            message = f"key {write.key!r}: revision {write.revision} (clock {write.hlc}) replaced a newer version, "
            violations.append(Violation("versions grow", f"{message}revision {before.revision} (clock {before.hlc})"))
        strong = last_strong.get(write.key)
        if not write.strong and strong is not None and (strong.place or strong.revision) > write.base:
            rule = "an eventual write never undoes a strong write that it had not seen"
            violations.append(Violation(rule, f"{what} replaced the strong write of revision {strong.revision}"))
        if write.operation_id:
            first = places.setdefault(write.operation_id, write)
            if first is not write:
                violations.append(Violation("applied once", f"{what} was applied at revision {first.revision} already"))
        if write.strong:
            last_strong[write.key] = write
            at_revision[write.key, write.place or write.revision] = write
        last[write.key] = at_revision[write.key, write.revision] = write
    for outcome in writes:
        if outcome.superseded_by in forgotten:
            outcome = replace(outcome, superseded_by=0)
        violations += _check_outcome(outcome, places.get(outcome.operation_id), at_revision, healed)
    return violations


def _check_outcome(
    write: EventualWrite,
    place: AppliedWrite | None,
    at_revision: Mapping[tuple[bytes, int], AppliedWrite],
    healed: bool,
) -> list[Violation]:
    """One write's reported end against what was applied."""
    what = f"key {write.key!r}: eventual write {write.operation_id} is {write.state}"
    settled = write.state in (EventualState.APPLIED, EventualState.SUPERSEDED, EventualState.SETTLED)
    if healed and write.acknowledged and not settled:
        return [Violation("an acknowledged write finds its place", f"{what}, though the cluster was healed")]
    if write.state is EventualState.APPLIED and (place is None or place.revision != write.revision):
        where = "nowhere" if place is None else f"at revision {place.revision}"
        return [Violation("applied means applied", f"{what} at revision {write.revision}, but took effect {where}")]
    if write.state is EventualState.SUPERSEDED:
        if place is not None:
            return [Violation("superseded means without effect", f"{what}, but took effect at revision {place.revision}")]
        winner = at_revision.get((write.key, write.superseded_by))
        if write.superseded_by and winner is None:
            return [Violation("something supersedes", f"{what} by revision {write.superseded_by}, which wrote nothing there")]
        # (One that waited may lose against another that waited with it.)
        later = winner is not None and winner.revision >= write.revision + (not winner.strong)
        if winner is not None and write.revision and later:
            return [Violation("something supersedes", f"{what} at {write.revision} by the later {winner.revision}")]
    return []


def check_acknowledged_applied(operations: Iterable[Operation], applied: Iterable[AppliedWrite]) -> list[Violation]:
    """No acknowledged strong write is lost: each has its place among what was applied."""
    places = {(write.key, write.revision) for write in applied if write.strong}
    return [
        Violation("an acknowledged strong write is never lost", f"key {operation.key!r}: {_told(operation)}")
        for operation in operations
        if operation.kind is Kind.PUT
        and operation.outcome is Outcome.OK
        and operation.revision
        and (operation.key, operation.revision) not in places
    ]


def check_state_hashes(samples: Iterable[tuple[str, int, int, int]]) -> list[Violation]:
    """Replicas that applied the same index have the same state. Samples are (node, shard, applied index, state hash)."""
    violations: list[Violation] = []
    first: dict[tuple[int, int], tuple[str, int]] = {}
    for node, shard, applied, state_hash in samples:
        other, known = first.setdefault((shard, applied), (node, state_hash))
        if known != state_hash:
            message = f"shard {shard} at applied index {applied}: {other} has {known:016x}, {node} has {state_hash:016x}"
            violations.append(Violation("equal state at equal index", message))
    return violations
