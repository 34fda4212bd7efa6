"""One transaction's coordinator: votes in, requests out. Pure; who runs it sends, waits, and feeds back what came.

It owns nothing that anybody else needs: all that must survive is in the participants' logs, and whoever is blocked by its death
asks the anchor (`routing/recovery.py`). Sources: Gray 1978 for the two phases; Gray and Lamport 2006 for why the decision is a
record in a replicated log and not this machine's.

Invariants: COMMIT is asked for only with every participant's yes, and at most ABORT otherwise; the client hears COMMITTED only
after the anchor's log has said so; once COMMIT may be in that log nobody but that log says what became of the transaction.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from typing import NamedTuple

from kvnode.invariant import invariant
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.types import Hlc, Shard, Txn


class Event(StrEnum):
    """What moves a coordinator from state to state."""

    BEGIN = "begin"
    ALL_VOTED_YES = "all voted yes"
    VOTED_NO = "one voted no"
    OUT_OF_TIME = "out of time"
    ANCHOR_COMMITTED = "anchor committed"
    ANCHOR_ABORTED = "anchor aborted"
    DECISION_LOST = "decision lost"
    ALL_RESOLVED = "all resolved"


TRANSITIONS: Mapping[tuple[State, Event], State] = {
    (State.INIT, Event.BEGIN): State.PREPARING,
    (State.PREPARING, Event.ALL_VOTED_YES): State.PREPARED,
    (State.PREPARING, Event.VOTED_NO): State.ABORTED,
    # Nobody has been asked to commit: it never will be.
    (State.PREPARING, Event.OUT_OF_TIME): State.ABORTED,
    (State.PREPARED, Event.ANCHOR_COMMITTED): State.COMMITTING,
    # Somebody pushed, or the client's request was executed before under another transaction.
    (State.PREPARED, Event.ANCHOR_ABORTED): State.ABORTED,
    # Every attempt to ask the anchor was refused before it reached a log.
    (State.PREPARED, Event.OUT_OF_TIME): State.ABORTED,
    # COMMIT may be in the anchor's log, or may yet come there, or its end is forgotten: nobody can know now. Recovery ends it.
    (State.PREPARED, Event.DECISION_LOST): State.FAILED,
    (State.COMMITTING, Event.ALL_RESOLVED): State.COMMITTED,
}


class Prepare(NamedTuple):
    """Ask the shard to vote."""

    shard: Shard


class Decide(NamedTuple):
    """Ask the anchor to commit; the branch that is taken."""

    succeeded: bool


class Resolve(NamedTuple):
    """Tell the shard the end. To the anchor: ask it to abort."""

    shard: Shard
    commit: bool
    succeeded: bool
    committed_at: Hlc


class Forget(NamedTuple):
    """Tell the anchor that every participant has resolved."""


Action = Prepare | Decide | Resolve | Forget


class Coordinator:
    """Feed with `begin` and `on_…`; each answers what to do next. Late and repeated events change nothing."""

    def __init__(self, txn: Txn, anchor: Shard, participants: Sequence[Shard]) -> None:
        """`participants`: every shard, the anchor too, each once."""
        invariant(anchor in participants, f"transaction {txn}: the anchor {anchor} is no participant")
        self.txn, self.anchor, self.participants = txn, anchor, tuple(participants)
        self.state = State.INIT
        self.why = ""
        """Why it was aborted, in words."""
        self._matched: dict[Shard, bool] = {}
        self._resolved: dict[Shard, None] = {}

    def _move(self, event: Event) -> None:
        following = TRANSITIONS.get((self.state, event))
        invariant(following is not None, f"transaction {self.txn}: {event} in state {self.state} cannot be")
        assert following is not None
        self.state = following

    @property
    def succeeded(self) -> bool:
        """Whether all comparisons hold, of those shards that have voted."""
        return all(self._matched.values())

    def has_voted(self, shard: Shard) -> bool:
        """Whether the shard's yes has come."""
        return shard in self._matched

    def begin(self) -> tuple[Action, ...]:
        """Phase one: all shards at once."""
        self._move(Event.BEGIN)
        return tuple(Prepare(shard) for shard in self.participants)

    def on_yes(self, shard: Shard, matched: bool) -> tuple[Action, ...]:
        """A shard has voted for it, durably; `matched`: its comparisons hold."""
        if self.state is not State.PREPARING:
            return ()
        self._matched[shard] = matched
        if len(self._matched) < len(self.participants):
            return ()
        self._move(Event.ALL_VOTED_YES)
        return (Decide(self.succeeded),)

    def on_no(self, why: str) -> tuple[Action, ...]:
        """A shard will not vote for it."""
        if self.state is not State.PREPARING:
            return ()
        self._move(Event.VOTED_NO)
        return self._abort(why)

    def on_out_of_time(self, why: str) -> tuple[Action, ...]:
        """Time is over and no COMMIT can be in the anchor's log."""
        if self.state not in (State.PREPARING, State.PREPARED):
            return ()
        self._move(Event.OUT_OF_TIME)
        return self._abort(why)

    def on_decided(self, committed: bool, committed_at: Hlc, why: str = "") -> tuple[Action, ...]:
        """The anchor's log has spoken."""
        if self.state is not State.PREPARED:
            return ()
        if not committed:
            self._move(Event.ANCHOR_ABORTED)
            return self._abort(why)
        self._move(Event.ANCHOR_COMMITTED)
        others = [shard for shard in self.participants if shard != self.anchor]
        # (The anchor's own part was applied by the very entry that decided.)
        self._resolved[self.anchor] = None
        return tuple(Resolve(shard, True, self.succeeded, committed_at) for shard in others) or self._end()

    def on_decision_lost(self) -> tuple[Action, ...]:
        """Time is over and COMMIT may be in the anchor's log."""
        if self.state is State.PREPARED:
            self._move(Event.DECISION_LOST)
        return ()

    def on_resolved(self, shard: Shard) -> tuple[Action, ...]:
        """A participant has applied the end, durably."""
        if self.state is not State.COMMITTING:
            return ()
        self._resolved[shard] = None
        return self._end() if len(self._resolved) == len(self.participants) else ()

    def _end(self) -> tuple[Action, ...]:
        self._move(Event.ALL_RESOLVED)
        return (Forget(),)

    def _abort(self, why: str) -> tuple[Action, ...]:
        # All of them, also those that have not voted: their tombstones meet a PREPARE that comes late.
        self.why = why
        return tuple(Resolve(shard, False, False, 0) for shard in self.participants)
