"""The history of a run: every operation and every fault, one JSON object a line.

Owns the shapes, the file, and the order of events. Never judges.

Invariants: an operation is recorded when it is answered; those that never were are written as unknown at the end. The order of
events is the order in which this process saw them (`invoked`, `answered`), not their times, which are for people: `*_at` are
monotonic seconds since the run began, `*_wall` Unix seconds. A file without its last line, `end`, is not a history: operations
may be missing.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TextIO

from tests.sim.history import Outcome


@dataclass
class Op:
    """One operation of one client. What `key` and `value` are is the workload's business; both are text, or JSON."""

    id: int
    workload: str
    client: str
    op: str
    """What was asked: get, put, delete, transfer, audit, add, read, ..."""
    key: str = ""
    value: Any = None
    """What was written, or what was read."""
    expected: int | None = None
    """Only if the key's revision is this; 0: only if it is absent."""
    outcome: Outcome = Outcome.PENDING
    revision: int | None = None
    found: bool | None = None
    """Of a read: whether there was a value. Of a deletion: whether there was something to delete. None: not told."""
    node: str = ""
    """Who served or refused it, where that is known."""
    note: str = ""
    """Why it failed, or what is unknown."""
    final: bool = False
    """Asked after all faults were healed."""
    invoked: int = 0
    answered: int | None = None
    invoked_at: float = 0.0
    answered_at: float | None = None
    invoked_wall: float = 0.0
    answered_wall: float | None = None
    timeout: float = 0.0
    """Seconds that it was allowed to take."""
    more: dict[str, Any] = field(default_factory=dict)
    """What only its workload understands."""

    @property
    def is_open(self) -> bool:
        """Whether nobody knows if it took effect."""
        return self.outcome in (Outcome.PENDING, Outcome.UNKNOWN)

    def __str__(self) -> str:
        end = "?" if self.answered_at is None else f"{self.answered_at:.3f}"
        facts = [f"{name}={shown}" for name, shown in (("expected", self.expected), ("revision", self.revision)) if shown]
        text = f"[{self.invoked_at:.3f}-{end} s, {self.client}] {self.op} {self.key} {_short(self.value)} -> {self.outcome}"
        return " ".join([text, *facts, *([f"by {self.node}"] if self.node else []), *([self.note] if self.note else [])])


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 120 else text[:117] + "..."


@dataclass(frozen=True)
class FaultEvent:
    """A fault began, ended, or something happened on the way."""

    kind: str
    number: int
    """The fault's place in the schedule; -1: not a fault of the schedule."""
    event: str
    """begin, end, or note."""
    nodes: list[str]
    at: float
    wall: float
    text: str = ""


@dataclass
class History:
    """A run, as its file has it."""

    header: dict[str, Any] = field(default_factory=dict)
    """Seed, number of nodes and shards, workloads, kinds of faults."""
    ops: list[Op] = field(default_factory=list)
    faults: list[FaultEvent] = field(default_factory=list)
    findings: list[str] = field(default_factory=list)
    """What was found broken while the run went on: a node that died by itself, a shard without progress."""
    complete: bool = False

    def of(self, workload: str) -> list[Op]:
        """The operations of a workload, in the order of invocation."""
        return sorted((op for op in self.ops if op.workload == workload), key=lambda op: op.invoked)


class Recorder:
    """Writes a history while it happens; also keeps it."""

    def __init__(self, file: TextIO, header: Mapping[str, Any]) -> None:
        self.history = History(dict(header))
        self._file = file
        self._began = time.monotonic()
        self._events = 0
        self._pending: dict[int, Op] = {}
        self._write("run", {**header, "wall": time.time()})

    def now(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._began

    def invoke(self, workload: str, client: str, op: str, key: str = "", value: Any = None, **facts: Any) -> Op:
        """A client asks. Call it before the request leaves."""
        made = Op(len(self.history.ops), workload, client, op, key, value, **facts)
        made.invoked, made.invoked_at, made.invoked_wall = self._next(), self.now(), time.time()
        self.history.ops.append(made)
        self._pending[made.id] = made
        return made

    def answer(self, op: Op, outcome: Outcome, **facts: Any) -> None:
        """A client was told. Call it as soon as the answer is there."""
        if self._pending.pop(op.id, None) is None:
            raise ValueError(f"operation {op.id} was answered twice: {op}, then {outcome}")
        op.outcome = outcome
        for name, fact in facts.items():
            setattr(op, name, fact)
        op.answered, op.answered_at, op.answered_wall = self._next(), self.now(), time.time()
        self._write("op", asdict(op))

    def fault(self, kind: str, number: int, event: str, nodes: Iterable[str], text: str = "") -> None:
        """The nemesis did something."""
        made = FaultEvent(kind, number, event, list(nodes), self.now(), time.time(), text)
        self.history.faults.append(made)
        self._write("fault", asdict(made))

    def finding(self, text: str) -> None:
        """Something is broken, whatever the operations say."""
        self.history.findings.append(text)
        self._write("finding", {"text": text, "at": self.now(), "wall": time.time()})

    def end(self) -> None:
        """The last line. What has no answer by now never gets one."""
        for op in list(self._pending.values()):
            op.outcome, op.note = Outcome.UNKNOWN, "the run ended before the answer"
            self._write("op", asdict(op))
        self._pending.clear()
        self._write("end", {"at": self.now(), "wall": time.time()})
        self.history.complete = True
        self._file.flush()

    def _next(self) -> int:
        self._events += 1
        return self._events

    def _write(self, kind: str, row: Mapping[str, Any]) -> None:
        self._file.write(json.dumps({"type": kind, **row}) + "\n")


def load(lines: Iterable[str]) -> History:
    """Read what a `Recorder` wrote. Raises ValueError for what is no history."""
    history = History()
    known = {one.name for one in fields(Op)}
    for number, line in enumerate(lines, 1):
        try:
            row = json.loads(line)
            kind = row.pop("type")
            if kind == "run":
                history.header = row
            elif kind == "op":
                history.ops.append(Op(**{**{name: row[name] for name in known}, "outcome": Outcome(row["outcome"])}))
            elif kind == "fault":
                history.faults.append(FaultEvent(**row))
            elif kind == "finding":
                history.findings.append(row["text"])
            elif kind == "end":
                history.complete = True
            else:
                raise ValueError(f"unknown type {kind!r}")
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"line {number} is no part of a history: {error}") from None
    return history
