"""A shard's table: the newest writes in memory, over those being flushed, over the store.

Owns: the memory table and the frozen one. Never: writes to the store (the flush does), or decides when to flush.

Invariants:
- A read sees the newest write of a key: memory over frozen over store; a deletion hides what is below it.
- While a frozen table is being flushed it does not change, so the flush thread may iterate over it; it is dropped only after
  the store has it, so no read misses a row in between.
- Lists of keys are replaced, never changed in place: a scan goes on over the order it began with. A row that is written behind
  a scan's back may or may not be seen by it.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final

from kvnode.invariant import invariant
from kvnode.types import Shard

if TYPE_CHECKING:
    from kvnode.storage.store import Store

ROW_OVERHEAD_BYTES = 160
"""What a row takes in memory beyond the bytes of its key and value: two object headers, a dictionary's slot, a list's."""
INSERTED_SHARE = 32
"""New keys are inserted one by one if they are fewer than a 32nd of the sorted ones; else all are sorted anew."""
_ABSENT: Final[Any] = object()


class _Keys:
    """The keys of a table, put in order only when a scan needs it: sorting at every write, or when a flush begins, would stall
    the event loop."""

    __slots__ = ("_sorted", "new")

    def __init__(self, new: list[bytes] | None = None) -> None:
        self._sorted: list[bytes] = []
        self.new = new or []

    def ordered(self) -> list[bytes]:
        """Return all keys, sorted, in a list that never changes."""
        new = self.new
        if new:
            if len(new) * INSERTED_SHARE < len(self._sorted):
                keys = self._sorted.copy()
                for key in new:
                    insort(keys, key)
            else:
                # Timsort finds the sorted run, and merges.
                keys = self._sorted + new
                keys.sort()
            self._sorted, self.new = keys, []
        return self._sorted


class Table:
    """The ordered rows of one shard. Used by one thread, the event loop's."""

    __slots__ = ("_frozen", "_frozen_keys", "_keys", "_memory", "_shard", "_size_bytes", "_store")

    def __init__(self, shard: Shard, store: Store) -> None:
        self._shard, self._store = shard, store
        self._memory: dict[bytes, bytes | None] = {}
        self._keys = _Keys()
        self._size_bytes = 0
        self._frozen: dict[bytes, bytes | None] | None = None
        self._frozen_keys = _Keys()

    def get(self, key: bytes) -> bytes | None:
        """Return the key's value, or None."""
        value: bytes | None = self._memory.get(key, _ABSENT)
        if value is not _ABSENT:
            return value
        if self._frozen is not None:
            value = self._frozen.get(key, _ABSENT)
            if value is not _ABSENT:
                return value
        return self._store.get(self._shard, key)

    def put(self, key: bytes, value: bytes) -> None:
        """Set the key's value."""
        memory = self._memory
        old: bytes | None = memory.get(key, _ABSENT)
        if old is _ABSENT:
            self._keys.new.append(key)
            self._size_bytes += len(key) + len(value) + ROW_OVERHEAD_BYTES
        else:
            self._size_bytes += len(value) - (len(old) if old else 0)
        memory[key] = value

    def delete(self, key: bytes) -> None:
        """Remove the key, if it is there."""
        memory = self._memory
        old: bytes | None = memory.get(key, _ABSENT)
        if old is _ABSENT:
            self._keys.new.append(key)
            self._size_bytes += len(key) + ROW_OVERHEAD_BYTES
        elif old:
            self._size_bytes -= len(old)
        memory[key] = None

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        """Yield the rows of [start, end) in byte order; `end` None: to the last. Valid while no other code runs than the
        caller's own, which may write; see the module's invariants."""
        newer = _overlay(self._memory, self._keys.ordered(), start, end)
        if self._frozen is not None:
            newer = _merge(newer, _overlay(self._frozen, self._frozen_keys.ordered(), start, end))
        first = next(newer, None)
        rows = self._store.scan(self._shard, start, end)
        return rows if first is None else _merge_live(first, newer, rows)

    def freeze(self) -> Mapping[bytes, bytes | None]:
        """Begin a flush: return the memory table (None: deleted), which does not change until `thaw`; new writes go to a new
        one."""
        invariant(self._frozen is None, f"shard {self._shard}: a second flush begins before the first ended")
        self._frozen, self._frozen_keys = self._memory, self._keys
        self._memory, self._keys, self._size_bytes = {}, _Keys(), 0
        return MappingProxyType(self._frozen)

    def thaw(self, flushed: bool) -> None:
        """End a flush: the store has the frozen table (or does not, then it returns under the newer writes). Does nothing if
        `reset` came in between."""
        if self._frozen is None:
            return
        if not flushed:
            self._memory = {**self._frozen, **self._memory}
            self._keys = _Keys(list(self._memory))
            self._size_bytes = sum(len(key) + len(value or b"") + ROW_OVERHEAD_BYTES for key, value in self._memory.items())
        self._frozen, self._frozen_keys = None, _Keys()

    def reset(self) -> None:
        """Forget memory and frozen table: the store's rows were replaced by a snapshot."""
        self._memory, self._keys, self._size_bytes = {}, _Keys(), 0
        self._frozen, self._frozen_keys = None, _Keys()

    @property
    def size_bytes(self) -> int:
        """What the memory table takes in memory, about; the frozen one not counted."""
        return self._size_bytes

    def __len__(self) -> int:
        """The rows (and deletions) in the memory table."""
        return len(self._memory)


Change = tuple[bytes, bytes | None]


def _overlay(values: Mapping[bytes, bytes | None], keys: list[bytes], start: bytes, end: bytes | None) -> Iterator[Change]:
    for at in range(bisect_left(keys, start), len(keys) if end is None else bisect_left(keys, end)):
        key = keys[at]
        yield key, values[key]


def _merge(newer: Iterator[Change], older: Iterator[Change]) -> Iterator[Change]:
    """Merge by key; where both have a key, the newer one counts."""
    above, below = next(newer, None), next(older, None)
    while above is not None and below is not None:
        if below[0] < above[0]:
            yield below
            below = next(older, None)
        else:
            if below[0] == above[0]:
                below = next(older, None)
            yield above
            above = next(newer, None)
    if above is not None:
        yield above
        yield from newer
    elif below is not None:
        yield below
        yield from older


def _merge_live(first: Change, newer: Iterator[Change], older: Iterator[tuple[bytes, bytes]]) -> Iterator[tuple[bytes, bytes]]:
    """Merge changes over rows, and leave out what is deleted."""
    above: Change | None = first
    for row in older:
        while above is not None and above[0] < row[0]:
            if above[1] is not None:
                yield above[0], above[1]
            above = next(newer, None)
        if above is None:
            yield row
            yield from older
            return
        if above[0] != row[0]:
            yield row
    while above is not None:
        if above[1] is not None:
            yield above[0], above[1]
        above = next(newer, None)
