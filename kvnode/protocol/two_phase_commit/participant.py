"""What one shard knows of a transaction, and how that may change; in tables. What is not in a table is a broken invariant.

The docs' diagrams are made from these tables (`tools/state_tables.py`). Sources: Gray 1978; Gray and Lamport 2006, section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

from kvnode.invariant import invariant


class State(StrEnum):
    """Of a transaction, as the textbooks name it."""

    INIT = "INIT"
    """Of a shard: nothing is known of it."""
    PREPARING = "PREPARING"
    PREPARED = "PREPARED"
    """Of a shard: it has voted yes, holds locks, and must wait for the decision."""
    COMMITTING = "COMMITTING"
    COMMITTED = "COMMITTED"
    ABORTED = "ABORTED"
    FAILED = "FAILED"


class Event(StrEnum):
    """What an entry of the shard's log wants."""

    PREPARE = "prepare"
    COMMIT = "commit"
    ABORT = "abort"


Table = Mapping[tuple[State, Event], State]

PARTICIPANT: Table = {
    (State.INIT, Event.PREPARE): State.PREPARED,
    # A tombstone: a PREPARE that comes later finds it.
    (State.INIT, Event.ABORT): State.ABORTED,
    # Repeated messages change nothing (DESIGN section 12.9).
    (State.PREPARED, Event.PREPARE): State.PREPARED,
    (State.PREPARED, Event.COMMIT): State.COMMITTED,
    (State.PREPARED, Event.ABORT): State.ABORTED,
    (State.COMMITTED, Event.PREPARE): State.COMMITTED,
    (State.COMMITTED, Event.COMMIT): State.COMMITTED,
    (State.ABORTED, Event.PREPARE): State.ABORTED,
    (State.ABORTED, Event.ABORT): State.ABORTED,
}
"""A shard that only learns decisions. No COMMIT without its vote; no second decision that differs from the first."""

ANCHOR: Table = {
    **PARTICIPANT,
    # The first decision in this log wins (section 12.10), whatever is asked for later.
    (State.COMMITTED, Event.ABORT): State.COMMITTED,
    (State.ABORTED, Event.COMMIT): State.ABORTED,
    # Without the anchor's own vote in the same log nothing can be committed: a push came first, and its tombstone is forgotten.
    (State.INIT, Event.COMMIT): State.ABORTED,
}
"""The shard whose log decides."""


def next_state(table: Table, state: State, event: Event, what: str) -> State:
    """The state after the event. `what` names the transaction where the table has none."""
    following = table.get((state, event))
    invariant(following is not None, f"{what}: {event} in state {state} cannot be")
    assert following is not None
    return following
