"""One node's record, read: when it ran, and what it said of every node while it did.

Owns the meaning of `NodeEvent`s. Judges nobody: `kvctl.availability.nodes` holds the observers against each other.

A record is of several *lives*: with each start of its process a node begins to watch anew, and what it said before is void from
its last sign of life on. What it says of another node counts from when it *was* so: FAILED from the last word heard of it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from kvapi.v1 import cluster_pb2
from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE, NODE_STATE_FAILED, NODE_STATE_INACTIVE, NODE_STATE_RECOVERING

STOPPED = "it said that it stops"
DIED = "its process ended without a word"
RESTARTED = "it was started again"


class Word(IntEnum):
    """What is said of a node; of two words about one moment the greater is believed."""

    NONE = 0
    """Nothing is known."""
    UP = 1
    DEGRADED = 2
    """Up, by its own word not able to serve everything: catching up after an absence, or short of disk space."""
    REPAIR = 3
    """It runs again after an outage, and does not serve yet."""
    FAILED = 4
    """It is silent, or its process died."""
    STOPPED = 5
    """It said that it stops: a goodbye comes from nobody else, so who missed it is wrong."""

    @property
    def down(self) -> bool:
        """Not able to serve."""
        return self >= Word.REPAIR

    @property
    def dead(self) -> bool:
        """Not there at all: it neither answers nor votes nor observes."""
        return self >= Word.FAILED


@dataclass(slots=True)
class Life:
    """One run of a process."""

    incarnation: int
    from_ms: int
    to_ms: int
    """Its last sign of life; of the present one, when it told its record."""
    stopped: bool = False
    """It ended by its own word."""


@dataclass(slots=True)
class Statement:
    """From a moment on a node was so, until the next statement."""

    at_ms: int
    word: Word
    why: str = ""


@dataclass(slots=True)
class Observer:
    """What one node's record says."""

    name: str
    lives: list[Life] = field(default_factory=list)
    of_itself: list[Statement] = field(default_factory=list)
    of_others: dict[str, list[Statement]] = field(default_factory=dict)
    incarnations: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    """(when, incarnation) at which it first heard of another node's lives."""


def read(answer: cluster_pb2.AvailabilityResponse) -> Observer:
    """Sorts out a record. Times that go back, as of a clock that was set, count as the latest before."""
    reader = _Reader(answer.node)
    at_ms = 0
    for event in answer.events:
        at_ms = max(at_ms, event.at_ms)
        if event.node == answer.node:
            reader.on_own_event(event, at_ms)
        else:
            reader.on_event(event, at_ms)
    return reader.end(max(at_ms, answer.at_ms), answer.started_ms)


class _Reader:
    def __init__(self, me: str) -> None:
        self._found = Observer(me)
        self._said: dict[str, int] = {}
        """Incarnation that each node's last statement was about."""

    def end(self, at_ms: int, started_ms: int) -> Observer:
        """The record is told."""
        if not self._found.lives:
            self._found.lives.append(Life(0, min(started_ms, at_ms), at_ms))
        self._found.lives[-1].to_ms = at_ms
        return self._found

    def on_own_event(self, event: cluster_pb2.NodeEvent, at_ms: int) -> None:
        """It is born, or changes its own state."""
        lives, said = self._found.lives, self._found.of_itself
        if not lives or event.incarnation > lives[-1].incarnation:
            at_ms = self._begin_life(event, at_ms)
        life = lives[-1]
        life.to_ms = at_ms
        if event.to == NODE_STATE_ACTIVE:
            said.append(Statement(at_ms, Word.UP))
        elif event.to == NODE_STATE_RECOVERING:
            was = said[-1].word if said else Word.NONE
            said.append(Statement(at_ms, Word.DEGRADED if was in (Word.UP, Word.DEGRADED) else _repaired(was)))
        elif event.to == NODE_STATE_INACTIVE:
            life.stopped = True
            said.append(Statement(at_ms, Word.STOPPED, STOPPED))

    def on_event(self, event: cluster_pb2.NodeEvent, at_ms: int) -> None:
        """It saw another node change its state."""
        if not self._found.lives:
            # The beginning of its own record is gone: it watched from here on, at the latest.
            self._found.lives.append(Life(0, at_ms, at_ms))
        self._found.lives[-1].to_ms = at_ms
        said = self._found.of_others.setdefault(event.node, [])
        was = said[-1].word if said else Word.NONE
        never_heard = event.to == NODE_STATE_FAILED and getattr(event, "from") == NODE_STATE_INACTIVE and was is Word.NONE
        if not never_heard:  # else the incarnation says nothing
            self._note_incarnation(event, at_ms - event.silent_ms)
        restarted = self._said.get(event.node, 0) < event.incarnation and was is not Word.NONE
        why = ""
        if event.to == NODE_STATE_ACTIVE:
            word = Word.UP
        elif event.to == NODE_STATE_RECOVERING:
            word = Word.DEGRADED if was in (Word.UP, Word.DEGRADED) and not restarted else _repaired(was)
            why = RESTARTED
        elif event.to == NODE_STATE_INACTIVE:
            word, why = Word.STOPPED, STOPPED
        elif event.to == NODE_STATE_FAILED:
            word, why = Word.FAILED, event.why
            at_ms = max(at_ms - event.silent_ms, said[-1].at_ms if said else 0, self._found.lives[-1].from_ms)
        else:
            return
        if not never_heard:
            self._said[event.node] = event.incarnation
        said.append(Statement(at_ms, word, why))

    def _begin_life(self, event: cluster_pb2.NodeEvent, at_ms: int) -> int:
        lives = self._found.lives
        if lives:
            before = lives[-1]
            if not before.stopped:
                # It ran at least until its last record. Without a later sign of life it may have run until just now.
                ended_ms = max(before.to_ms, event.last_alive_ms or at_ms - 1)
                before.to_ms = max(before.from_ms, min(ended_ms, at_ms - 1))
                self._found.of_itself.append(Statement(before.to_ms, Word.FAILED, DIED))
            for said in self._found.of_others.values():
                said.append(Statement(max(before.to_ms, said[-1].at_ms), Word.NONE))
            at_ms = max(at_ms, before.to_ms + 1)
        lives.append(Life(event.incarnation, at_ms, at_ms))
        return at_ms

    def _note_incarnation(self, event: cluster_pb2.NodeEvent, at_ms: int) -> None:
        known = self._found.incarnations.setdefault(event.node, [])
        if event.incarnation and (not known or event.incarnation > known[-1][1]):
            known.append((at_ms, event.incarnation))


def _repaired(was: Word) -> Word:
    """Who runs and does not serve yet: after an outage that is a part of it; where nothing is known, it says nothing."""
    return Word.REPAIR if was is not Word.NONE else Word.NONE
