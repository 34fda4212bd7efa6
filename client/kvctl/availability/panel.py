"""The observers at one moment: who says what of whom, and what follows for each node.

Owns the vote. Knows no time: `kvctl.availability.nodes` moves it from change to change.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from kvctl.availability.observers import Word


class Verdict(NamedTuple):
    """What is believed of a node, and the words of who said so."""

    word: Word
    why: str = ""


NOTHING = Verdict(Word.NONE)


class Panel:
    """Nodes and observers by their numbers; an observer is one of the nodes, or -1 where it is none of those asked about."""

    def __init__(self, nodes: int, observers: Sequence[int]) -> None:
        self._observers = observers
        self._said: list[dict[int, Verdict]] = [{} for _ in range(nodes)]
        """Of each node: by observer."""
        self._distrust = [0] * len(observers)

    def say(self, observer: int, node: int, verdict: Verdict) -> None:
        """From now on the observer says this of a node."""
        self._said[node].pop(observer, None)
        if verdict.word is not Word.NONE:
            self._said[node][observer] = verdict

    def distrust(self, observer: int, step: int) -> None:
        """One reason more, or less, not to believe the observer."""
        self._distrust[observer] += step

    def verdicts(self) -> list[Verdict]:
        """Of every node, worst first: who is dead says nothing any more of those who are judged after it."""
        trusted = {number: node for number, node in enumerate(self._observers) if not self._distrust[number]}
        verdicts = [NOTHING] * len(self._said)
        suspects = [node for node, said in enumerate(self._said) if any(verdict.word.dead for verdict in said.values())]
        while suspects:
            worst = {node: (_share_dead(self._of(node, trusted)), self._accuses(node, suspects, trusted)) for node in suspects}
            share, accuses = max(worst.values())
            if share < 0.5:
                break
            for node in [node for node in suspects if worst[node] == (share, accuses)]:
                verdicts[node] = max(self._of(node, trusted))
                suspects.remove(node)
            trusted = {number: node for number, node in trusted.items() if node < 0 or not verdicts[node].word.dead}
        for node, verdict in enumerate(verdicts):
            if verdict is NOTHING:
                verdicts[node] = _of_living(self._of(node, trusted))
        return verdicts

    def _accuses(self, accuser: int, suspects: Iterable[int], trusted: dict[int, int]) -> int:
        """How many suspects it calls dead itself: of two who are equally suspect, who was cut off says so of more others."""
        said = (
            verdict
            for node in suspects
            for observer, verdict in self._said[node].items()
            if node != accuser and trusted.get(observer) == accuser
        )
        return sum(verdict.word.dead for verdict in said)

    def _of(self, node: int, trusted: dict[int, int]) -> list[Verdict]:
        return [said for observer, said in self._said[node].items() if trusted.get(observer, node) != node]


def _share_dead(said: Sequence[Verdict]) -> float:
    return sum(verdict.word.dead for verdict in said) / len(said) if said else 0.0


def _of_living(said: Iterable[Verdict]) -> Verdict:
    """Of a node that is not dead: in repair, or degraded, if at least half say that, or worse; they have it from itself."""
    words = [verdict.word for verdict in said if not verdict.word.dead]
    for word in (Word.REPAIR, Word.DEGRADED):
        if words and 2 * sum(one >= word for one in words) >= len(words):
            return Verdict(word)
    return Verdict(Word.UP) if words else NOTHING
