"""Eventual writes that got their place in the log while a transaction had their key locked: the locks' queue.

Replicated state. They wait in the order of the log; a write leaves when no lock is in its way any more, together with all
others of its key, so a key's writes keep their order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from kvapi.v1 import replication_pb2
from kvnode.protocol.two_phase_commit.locks import Locks
from kvnode.types import Index, Origin

EventualWrite = replication_pb2.EventualWrite


class WaitingWrites:
    """By number, from 1; numbers begin anew when none waits."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._writes: dict[int, EventualWrite] = {}
        self._by_key: dict[bytes, list[EventualWrite]] = {}

    def __len__(self) -> int:
        return len(self._writes)

    def add(self, write: EventualWrite) -> int:
        """The write waits; answers its number."""
        number = next(reversed(self._writes), 0) + 1
        self.restore(number, write)
        return number

    def restore(self, number: int, write: EventualWrite) -> None:
        """A stored write; in the order of the numbers."""
        self._writes[number] = write
        self.size_bytes += len(write.key) + len(write.value)
        self._by_key.setdefault(write.key, []).append(write)

    def take_unlocked(self, released: Locks, is_locked: Callable[[bytes], bool]) -> list[tuple[int, EventualWrite]]:
        """Takes out, in order, what need not wait any more now that these locks were given back."""
        free = {key for key in self._by_key if released.cover(key) and not is_locked(key)}
        if not free:
            return []
        taken = [(number, write) for number, write in self._writes.items() if write.key in free]
        for number, write in taken:
            del self._writes[number]
            self.size_bytes -= len(write.key) + len(write.value)
            self._by_key.pop(write.key, None)
        return taken

    def at_key(self, key: bytes) -> list[EventualWrite]:
        """What waits for the key, in order."""
        return self._by_key.get(key, [])

    def keys(self) -> Iterator[bytes]:
        """Keys with waiting writes, in no useful order."""
        return iter(self._by_key)

    def has(self, origin: Origin, sequence: int) -> bool:
        """Whether this very write waits."""
        return any(w.sequence == sequence and Origin(w.node, w.incarnation) == origin for w in self._writes.values())

    def floor(self, applied: Index) -> Index:
        """No waiting write has a base below this."""
        return min((write.base for write in self._writes.values()), default=applied)
