"""A journal: events of one kind, numbered, durable and bounded. Records of the log until a flush moves them into the store.

Owns their numbers, and where each is. Never waits for the disk: an event is durable with the next batch of the log, and nothing
that the node answers depends on it.

Invariants:
1. Numbers grow from event to event, and an event keeps its own: in the log, in the store, over restarts.
2. The log holds every event that no flush has put into the store: a flush commits its rows before the log is cut.
3. A replay takes an event from the log only if its number is not below that of the first event not stored: none comes twice,
   however long the log keeps what the store has.
4. No more than `EVENTS_KEPT` are kept, in memory and in the store: the transaction that adds rows removes as many old ones.
"""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Generic, NamedTuple, TypeVar

from google.protobuf.message import Message

from kvnode import limits
from kvnode.runtime.driver import Driver
from kvnode.shard.rows import readable
from kvnode.storage.records import NodeRecord

Event = TypeVar("Event", bound=Message)

NUMBER = struct.Struct(">Q")


class Kind(NamedTuple):
    """What a journal is of, and where its events are found."""

    message: type[Message]
    record: int
    """Kind of its records in the log: the number, and the event."""
    row: bytes
    """What its rows in the store begin with; the number follows."""


class Journal(Generic[Event]):
    """The events of one kind. Feed it with `append`; a flush takes `rows` and says `on_flushed`."""

    def __init__(
        self,
        driver: Driver,
        kind: Kind,
        rows: Iterable[tuple[bytes, bytes]],
        logged: Iterable[bytes] = (),
        unnumbered: Iterable[bytes] = (),
    ) -> None:
        """From the store's rows of the kind, in order, and the records of the log; `unnumbered` are those of earlier releases,
        events alone. Raises `Corrupt`."""
        self._driver, self._kind = driver, kind
        with readable(f"a stored {kind.message.DESCRIPTOR.name}"):
            found = {_number(key, kind.row): row for key, row in rows}
            self._flushed = self._in_flush = self._next = max(found, default=-1) + 1
            """Numbers of the first event that the store does not have, of the same once the flush under way is done, and of the
            next event."""
            if len(found) < limits.EVENTS_KEPT:  # else the store may have dropped some of them, and they would come again
                known = dict.fromkeys(found.values())
                for data in unnumbered:
                    if data not in known:
                        found[self._next] = data
                        self._next += 1
            for number, data in sorted((NUMBER.unpack_from(record)[0], record[NUMBER.size :]) for record in logged):
                if number >= self._next:
                    found[number] = data
                    self._next = number + 1
            self._events: deque[tuple[int, Event]] = deque(maxlen=limits.EVENTS_KEPT)
            self._events.extend((number, self._decode(data)) for number, data in found.items())

    def __iter__(self) -> Iterator[Event]:
        """The events, the oldest first."""
        return (event for _, event in self._events)

    def __reversed__(self) -> Iterator[Event]:
        """The events, the latest first."""
        return (event for _, event in reversed(self._events))

    def append(self, event: Event) -> None:
        """Records an event. It is on disk with the next batch of the log."""
        self._events.append((self._next, event))
        self._driver.write_node_record(NodeRecord(self._kind.record, NUMBER.pack(self._next) + event.SerializeToString()))
        self._next += 1

    def rows(self) -> list[tuple[bytes, bytes | None]]:
        """For the next flush: rows of the events that the store does not have, and deletions of those that are too many."""
        rows: list[tuple[bytes, bytes | None]] = []
        for number, event in self._events:
            if number >= self._flushed:
                rows.append((self._key(number), event.SerializeToString()))
        for number in range(max(0, self._flushed - limits.EVENTS_KEPT), min(self._flushed, self._next - limits.EVENTS_KEPT)):
            rows.append((self._key(number), None))
        self._in_flush = self._next
        return rows

    def on_flushed(self) -> None:
        """The rows of the last `rows` are in the store."""
        self._flushed = self._in_flush

    def _key(self, number: int) -> bytes:
        return self._kind.row + NUMBER.pack(number)

    def _decode(self, data: bytes) -> Event:
        event: Event = self._kind.message.FromString(data)  # type: ignore[assignment]
        return event


def _number(key: bytes, row: bytes) -> int:
    number: int = NUMBER.unpack(key.removeprefix(row))[0]
    return number
