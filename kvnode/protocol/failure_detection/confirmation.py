"""One round of indirect probes: what others say about a suspect.

Owns whom we asked, what they answered, and the verdict. Never sends, and never marks a node FAILED: detector.py does.

SWIM (Das, Gupta, Motivala, DSN 2002, section 3.1): before a silent member is given up, others try it, so that one bad
link between two healthy nodes does not look like a death.
"""

from __future__ import annotations

import enum
from collections.abc import Sequence
from random import Random

from kvnode.types import NodeName, Seconds


class Verdict(enum.Enum):
    """What a round says so far."""

    PENDING = "pending"
    ALIVE = "alive"
    """Somebody reached the suspect."""
    DEAD = "dead"
    """All who answered could not reach it, and somebody answered."""
    UNANSWERED = "unanswered"
    """Nobody could be asked, or nobody answered in time."""


class Confirmation:
    """A round about one suspect, open until `until` (monotonic seconds)."""

    def __init__(self, asked: Sequence[NodeName], until: Seconds) -> None:
        self.asked = tuple(asked)
        self.until = until
        self._answers: dict[NodeName, bool] = {}

    def on_answer(self, helper: NodeName, alive: bool) -> None:
        """Counts a helper's first answer; one who was not asked has no say."""
        if helper in self.asked:
            self._answers.setdefault(helper, alive)

    def verdict(self, now: Seconds) -> Verdict:
        """One helper who reached the suspect outweighs all who did not: death cannot be seen from one place."""
        if any(self._answers.values()):
            return Verdict.ALIVE
        if len(self._answers) < len(self.asked) and now < self.until:
            return Verdict.PENDING
        return Verdict.DEAD if self._answers else Verdict.UNANSWERED

    def said(self, alive: bool) -> str:
        """Who answered so, in the order asked, for people: "n2, n3"."""
        return ", ".join(helper for helper in self.asked if self._answers.get(helper) is alive)


def choose_helpers(candidates: Sequence[NodeName], count: int, rng: Random) -> tuple[NodeName, ...]:
    """At most `count` of `candidates` (a sequence in a fixed order, so that equal seeds choose alike)."""
    return tuple(rng.sample(candidates, min(count, len(candidates))))
