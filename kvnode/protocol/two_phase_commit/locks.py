"""Which transaction holds which keys of one shard, and who waits for whom.

Owns the rule which locks exclude each other, and wound-wait (Rosenkrantz, Stearns and Lewis 1978). Never waits.

Keys written are locked exclusively, keys read shared, prefixes read shared with all keys in them, also those that do not exist:
what a range did not find must not appear before the transaction ends.

Invariant: of two transactions whose locks exclude each other the table never holds both (strict two-phase locking: locks are
taken by a vote and given back by the transaction's end, so every serialization follows the order of the ends).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from kvnode.invariant import invariant
from kvnode.types import Txn


class Interval(NamedTuple):
    """The keys in [start, end); end None: to the last."""

    start: bytes
    end: bytes | None

    def holds(self, key: bytes) -> bool:
        """Whether the key is inside."""
        return self.start <= key and (self.end is None or key < self.end)


class Locks(NamedTuple):
    """What one transaction needs in one shard."""

    writes: tuple[bytes, ...] = ()
    reads: tuple[bytes, ...] = ()
    ranges: tuple[Interval, ...] = ()

    def cover(self, key: bytes) -> bool:
        """Whether the key is among them."""
        return key in self.writes or key in self.reads or any(interval.holds(key) for interval in self.ranges)


class LockTable:
    """Locks by key."""

    def __init__(self) -> None:
        self._held: dict[Txn, Locks] = {}
        self._writers: dict[bytes, Txn] = {}
        self._readers: dict[bytes, dict[Txn, None]] = {}
        self._ranges: dict[Txn, tuple[Interval, ...]] = {}

    def __bool__(self) -> bool:
        """Whether anything is locked."""
        return bool(self._held)

    def __contains__(self, txn: Txn) -> bool:
        """Whether the transaction holds locks."""
        return txn in self._held

    @property
    def count(self) -> int:
        """How many locks are held: of keys, and of intervals."""
        return len(self._writers) + sum(map(len, self._readers.values())) + self.ranges

    @property
    def ranges(self) -> int:
        """How many intervals are locked."""
        return sum(map(len, self._ranges.values()))

    def held(self, txn: Txn) -> Locks:
        """What the transaction holds."""
        return self._held.get(txn, Locks())

    def take(self, txn: Txn, locks: Locks) -> None:
        """Gives the locks to the transaction. Nothing of it may be in the way of another's."""
        invariant(txn not in self._held, f"transaction {txn} takes locks twice")
        conflicts = self.conflicts(locks)
        invariant(not conflicts, f"transaction {txn} takes locks that {conflicts} holds")
        self._held[txn] = locks
        for key in locks.writes:
            self._writers[key] = txn
        for key in locks.reads:
            self._readers.setdefault(key, {})[txn] = None
        if locks.ranges:
            self._ranges[txn] = locks.ranges

    def release(self, txn: Txn) -> None:
        """Takes everything back."""
        locks = self._held.pop(txn, Locks())
        for key in locks.writes:
            del self._writers[key]
        for key in locks.reads:
            readers = self._readers[key]
            del readers[txn]
            if not readers:
                del self._readers[key]
        self._ranges.pop(txn, None)

    def writer(self, key: bytes) -> Txn | None:
        """Who has locked the key for writing."""
        return self._writers.get(key)

    def writers_within(self, interval: Interval) -> Iterator[Txn]:
        """Who has locked a key of the interval for writing; a transaction may come several times."""
        return (txn for key, txn in self._writers.items() if interval.holds(key))

    def holders(self, key: bytes) -> Iterator[Txn]:
        """Everybody in whose way a write of the key would be."""
        writer = self._writers.get(key)
        if writer is not None:
            yield writer
        yield from self._readers.get(key, ())
        for txn, intervals in self._ranges.items():
            if any(interval.holds(key) for interval in intervals):
                yield txn

    def is_locked(self, key: bytes) -> bool:
        """Whether a write of the key would be in anybody's way."""
        return bool(self._held) and next(self.holders(key), None) is not None

    def conflicts(self, wanted: Locks, me: Txn | None = None) -> tuple[Txn, ...]:
        """Everybody whose locks exclude the wanted ones, each once, `me` left out."""
        if not self._held:
            return ()
        found: dict[Txn, None] = {}
        for key in wanted.writes:
            found.update(dict.fromkeys(self.holders(key)))
        for key in wanted.reads:
            writer = self._writers.get(key)
            if writer is not None:
                found[writer] = None
        for interval in wanted.ranges:
            found.update(dict.fromkeys(self.writers_within(interval)))
        if me is not None:
            found.pop(me, None)
        return tuple(found)


def wounded_by(asker: Txn, holders: Iterable[Txn]) -> tuple[Txn, ...]:
    """The holders that `asker`, being older, asks to be aborted; for the others, which are older, it waits.

    All waits that last then go from younger to older transactions: there is no circle of them.
    """
    return tuple(holder for holder in holders if asker < holder)
