"""Coalescing: the operations of one client that wait for one node leave together.

Owns one node's queue and its slots. Never sends, never waits, knows neither tasks nor threads: `_async` and `_sync` drive it,
the latter under a lock.

The pattern is combining (Hendler, Incze, Shavit, Tzafrir: "Flat Combining", SPAA 2010): the first operation goes out at once;
while `pipeline` calls are in flight the next ones queue; whoever frees a slot takes all that wait as one Batch. A single
caller never waits; many callers share the fixed cost of a call, the more the busier the node is. No timer is involved.

Invariants: `in_flight` <= `pipeline`; while anything live is queued, all slots are taken; a batch keeps the bounds below.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from typing import Any

from kvclient._requests import GET, Call
from kvclient.errors import KvError

OPERATIONS_MAX = 1_024
"""Operations of one Batch: the protocol's limit."""
SIZE_BYTES_MAX = 3 * 1024 * 1024
"""Of a Batch, under the protocol's 4 MiB; and what the values that it reads are expected to come to."""
QUEUED_MAX = 65_536
"""Operations that may wait for one node; beyond, the client is overloaded and says so."""

QUEUED, SENT, DONE, WITHDRAWN = range(4)


class Ticket:
    """One operation in a lane, until its answer or its error is here."""

    __slots__ = ("call", "error", "offered", "outcome", "response", "state")

    def __init__(self, call: Call, outcome: Any = None) -> None:
        self.call = call
        self.state = QUEUED
        self.offered = 0.0
        """When it was offered to the lane, monotonic seconds; set where it may have to wait."""
        self.outcome = outcome
        """What its caller waits on (`_backend`); None for a caller that sends by itself."""
        self.response: Any = None
        self.error: KvError | None = None


class Lane:
    """One node's queue and slots."""

    def __init__(self, pipeline: int) -> None:
        self._pipeline = pipeline
        self._queue: deque[Ticket] = deque()
        self._live = 0
        self._value_size_bytes = 16 * 1024.0
        """What a read value is expected to have: the largest seen, decaying, so that answers stay small too."""
        self.in_flight = 0

    @property
    def queued(self) -> int:
        """Operations that wait."""
        return self._live

    def offer(self, tickets: Iterable[Ticket]) -> list[list[Ticket]] | None:
        """Take operations in; returns the batches that go out now, each in a slot of its own. None: the queue is full."""
        tickets = list(tickets)
        if self._live + len(tickets) > QUEUED_MAX:
            return None
        self._queue.extend(tickets)
        self._live += len(tickets)
        return self._fill()

    def release(self) -> list[list[Ticket]]:
        """A call ended and its slot is free; returns the batches that go out now."""
        self.in_flight -= 1
        return self._fill()

    def withdraw(self, ticket: Ticket) -> bool:
        """A caller gives up. True: the operation was not sent and will not be."""
        if ticket.state != QUEUED:
            return False
        ticket.state = WITHDRAWN
        self._live -= 1
        if not self._live:
            self._queue.clear()
        return True

    def drain(self) -> list[Ticket]:
        """Withdraw all that wait: the lane closes."""
        waiting = [ticket for ticket in self._queue if ticket.state == QUEUED]
        for ticket in waiting:
            ticket.state = WITHDRAWN
        self._queue.clear()
        self._live = 0
        return waiting

    def on_value(self, size_bytes: int) -> None:
        """A read returned a value of this size."""
        self._value_size_bytes = max(size_bytes, self._value_size_bytes * 0.98, 256)

    def _fill(self) -> list[list[Ticket]]:
        batches = []
        while self.in_flight < self._pipeline and self._live:
            batches.append(self._next_batch())
            self.in_flight += 1
        return batches

    def _next_batch(self) -> list[Ticket]:
        """The longest run from the queue's head that keeps the bounds; at least one."""
        batch: list[Ticket] = []
        size, answer_size = 0, 0.0
        while self._queue and len(batch) < OPERATIONS_MAX:
            ticket = self._queue[0]
            if ticket.state == QUEUED:
                size += ticket.call.size_bytes
                answer_size += self._value_size_bytes if ticket.call.method is GET else 64
                if batch and (size > SIZE_BYTES_MAX or answer_size > SIZE_BYTES_MAX):
                    break
                ticket.state = SENT
                self._live -= 1
                batch.append(ticket)
            self._queue.popleft()
        return batch
