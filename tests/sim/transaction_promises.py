"""What transactions and named requests promise, looked at from inside: what a vote rests on stays, one end, one execution.

Owns: the checks at each replica's apply, from the words of the log's commands alone: what a transaction needs locked is derived
here once more. Never: changes anything, or takes random numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from kvapi.v1 import kv_pb2, two_phase_commit_pb2
from kvnode.types import Index, Shard, Txn

from .history import Violation

if TYPE_CHECKING:
    from kvnode.shard.replica import Replica
    from kvnode.shard.transactions import End, Prepared

    from .machine import SimNode
    from .world import World


ANYBODYS = b"x"
"""The only value that is written again and again: see `Simulation._demand_progress`."""


class Footprint:
    """The keys that a transaction reads, compares or writes in one shard, in any branch."""

    def __init__(self, part: two_phase_commit_pb2.TransactionPart) -> None:
        self._keys: dict[bytes, None] = dict.fromkeys(compare.key for compare in part.compare)
        self._prefixes: list[bytes] = []
        for operation in (*part.then, *part.otherwise):
            which = operation.WhichOneof("operation")
            if which == "range":
                self._prefixes.append(operation.range.prefix)
            elif which is not None:
                self._keys[getattr(operation, which).key] = None

    def has(self, key: bytes) -> bool:
        """Whether the key is one of them."""
        return key in self._keys or any(key.startswith(prefix) for prefix in self._prefixes)


class TransactionPromises:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._footprints: dict[tuple[Shard, Txn], Footprint] = {}
        self._ends: dict[tuple[int, bytes], tuple[bool, Shard]] = {}
        """Whether each transaction was committed, and the shard that ended it first."""
        self._committed: dict[tuple[int, bytes], tuple[tuple[Shard, ...], dict[Shard, None]]] = {}
        """Of the committed ones the participants, and those that have applied it."""
        self._executed: dict[tuple[Shard, bytes, int], Index] = {}
        self._written: dict[tuple[Shard, bytes, bytes], Index] = {}
        self.values_are_unique = True
        """Whether all clients keep to it that nobody writes the same value of a key twice (`ANYBODYS` apart)."""

    def watch(self, sim: SimNode, replica: Replica) -> None:
        """Looks at everything that this replica applies."""
        machine, shard = replica.machine, replica.shard
        write, end_of, record = machine._write, machine._end, machine._record

        def write_and_check(revision: Index, key: bytes, value: bytes | None, *rest: Any) -> None:
            self._check_unlocked(sim, replica, key)
            if self.values_are_unique and value is not None and value != ANYBODYS:
                self._check_written_once(sim, shard, key, value, machine.applied + 1)
            write(revision, key, value, *rest)

        def end_and_check(
            index: Index, now: int, name: two_phase_commit_pb2.TransactionId, end: End, prepared: Prepared | None
        ) -> None:
            if prepared is not None:
                self._on_end(sim, shard, (name.start, name.id), end.committed, tuple(prepared.command.participants))
            end_of(index, now, name, end, prepared)

        def record_and_check(index: Index, request: kv_pb2.RequestId, result: Any) -> None:
            first = self._executed.setdefault((shard, request.session, request.sequence), index)
            if first != index:
                which = f"request {request.sequence} of {request.session.hex()[:8]}"
                message = f"{sim.name}, shard {shard}: {which} is executed by entry {index}, and was by {first}"
                self._world.violate("a request is executed once", message)
            record(index, request, result)

        machine._write = write_and_check  # type: ignore[method-assign]
        machine._end = end_and_check  # type: ignore[method-assign]
        machine._record = record_and_check  # type: ignore[method-assign]

    def _check_written_once(self, sim: SimNode, shard: Shard, key: bytes, value: bytes, index: Index) -> None:
        """Nobody writes the same value twice: what was sent again must not take effect again."""
        first = self._written.setdefault((shard, key, value), index)
        if first != index:
            message = f"{sim.name}, shard {shard}: {key!r} becomes {value[:20]!r} by entry {index}, and did by {first}"
            self._world.violate("a write takes effect once", message)

    def _check_unlocked(self, sim: SimNode, replica: Replica, key: bytes) -> None:
        """From a transaction's vote to its end nothing that it rests on changes (strict two-phase locking)."""
        for txn, prepared in replica.machine.transactions.prepared.items():
            footprint = self._footprints.get((replica.shard, txn))
            if footprint is None:
                footprint = self._footprints[replica.shard, txn] = Footprint(prepared.command.part)
            if footprint.has(key):
                message = f"{sim.name}, shard {replica.shard}: {key!r} is written, and transaction {txn} has voted on it"
                self._world.violate("what a vote rests on does not change", message)

    def _on_end(
        self, sim: SimNode, shard: Shard, name: tuple[int, bytes], committed: bool, participants: tuple[Shard, ...]
    ) -> None:
        known, first = self._ends.setdefault(name, (committed, shard))
        if known != committed:
            words = {True: "committed", False: "aborted"}
            message = f"{Txn(*name)} is {words[committed]} in shard {shard} ({sim.name}), and {words[known]} in shard {first}"
            self._world.violate("a transaction ends alike in all its shards", message)
        if committed:
            self._committed.setdefault(name, (participants, {}))[1][shard] = None

    def check(self) -> Iterator[Violation]:
        """At the end, with everything healed: what was committed has been applied by all its participants."""
        for name, (participants, applied) in self._committed.items():
            missing = [shard for shard in participants if shard not in applied]
            if missing:
                message = f"transaction {Txn(*name)}: not in shards {missing} of {list(participants)}"
                yield Violation("a committed transaction is applied by all its participants", message)
