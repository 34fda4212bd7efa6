"""Which nodes were down when: the observers' words held against each other, and against each node's own memory of its starts.

Owns the rules, which docs/availability.md explains:

- *Worst first*: of all nodes, the one that the largest share of its observers calls dead is dead, if that is at least half of
  them; then its own words count no more, and the next one is looked for. So a node that was cut off does not accuse the others.
- An observer counts while it ran and has said something of the node in question; not when it was dead itself, nor within
  `MARGIN_MS` of that, since observers notice at different moments and their clocks differ.
- A node's own record of its starts outweighs everybody: it did not run between two lives.
- Where nobody knows, nothing is counted; but what is unknown between two moments of the same outage is a part of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby, pairwise
from typing import NamedTuple

from kvctl.availability.observers import Observer, Statement, Word
from kvctl.availability.panel import NOTHING, Panel, Verdict
from kvctl.availability.spans import Span, Spans, contains, united

MARGIN_MS = 1000
"""Twice the clock skew that nodes tolerate among each other (`clock.max_clock_skew_ms`)."""


class Stretch(NamedTuple):
    """A time in which a node was the same."""

    span: Span
    word: Word
    why: str = ""


@dataclass(frozen=True, slots=True)
class NodeHistory:
    """How a node was, from its first service to the end of the records."""

    name: str
    stretches: tuple[Stretch, ...]
    """One after the other; NONE where nobody knows. Empty: it was never seen to serve."""
    last: Word
    """How it was at last, whether it has ever served or not."""
    starts: tuple[int, ...] = ()
    """When its process started, as far as known."""
    restarts: tuple[int, ...] = ()
    """Starts that nobody saw an outage with, and the node itself does not tell of: known by its incarnation alone."""

    def times(self, *words: Word) -> Spans:
        """When it was one of these."""
        return united(stretch.span for stretch in self.stretches if stretch.word in words)

    def word_at(self, at_ms: int) -> Word:
        """How it was at a moment."""
        held = (stretch.word for stretch in self.stretches if stretch.span.from_ms <= at_ms < stretch.span.to_ms)
        return next(held, Word.NONE)

    @property
    def dead(self) -> Spans:
        """When it was not there."""
        return self.times(Word.STOPPED, Word.FAILED)


def histories(observers: Sequence[Observer], names: Sequence[str], end_ms: int) -> dict[str, NodeHistory]:
    """How each node was, up to `end_ms`, when the records were told."""
    first = _judged(observers, names, {}, end_ms)
    # (Shorter ones may be the misaligned edges of what somebody who was cut off says.)
    dead = {name: [span for span in _dead(found) if span.ms > MARGIN_MS] for name, found in first.items()}
    judged = _judged(observers, names, dead, end_ms)
    return {name: _history(name, judged[name], observers, end_ms) for name in names}


def _dead(stretches: Iterable[Stretch]) -> Spans:
    return united(stretch.span for stretch in stretches if stretch.word.dead)


# ---- what the others say ---------------------------------------------------------------------------------------------


class _Change(NamedTuple):
    at_ms: int
    observer: int
    node: int
    verdict: Verdict = NOTHING
    distrust: int = 0


def _judged(
    observers: Sequence[Observer], names: Sequence[str], dead: Mapping[str, Sequence[Span]], end_ms: int
) -> dict[str, list[Stretch]]:
    """What the others' words together say of each node; `dead` tells when an observer was, by a first judgement."""
    numbers = {name: number for number, name in enumerate(names)}
    panel = Panel(len(names), [numbers.get(observer.name, -1) for observer in observers])
    moments = [end_ms]
    verdicts = [[NOTHING] * len(names)]
    changes = sorted([*_statements(observers, numbers), *_distrusts(observers, dead, end_ms)], key=lambda change: change.at_ms)
    for at_ms, together in groupby(changes, key=lambda change: change.at_ms):
        for change in together:
            if change.distrust:
                panel.distrust(change.observer, change.distrust)
            else:
                panel.say(change.observer, change.node, change.verdict)
        moments.insert(-1, at_ms)
        verdicts.append(panel.verdicts())
    return {
        name: _joined(Stretch(Span(*span), *found[number]) for span, found in zip(pairwise(moments), verdicts[1:], strict=True))
        for name, number in numbers.items()
    }


def _statements(observers: Sequence[Observer], numbers: Mapping[str, int]) -> Iterable[_Change]:
    for observer, record in enumerate(observers):
        for node, statements in record.of_others.items():
            if node in numbers:
                for said in statements:
                    yield _Change(said.at_ms, observer, numbers[node], Verdict(said.word, said.why))


def _distrusts(observers: Sequence[Observer], dead: Mapping[str, Sequence[Span]], end_ms: int) -> Iterable[_Change]:
    """Around the time in which an observer was dead itself. Within it, whether it is believed is decided anew."""
    for observer, record in enumerate(observers):
        for span in dead.get(record.name, ()):
            for from_ms, to_ms in ((span.from_ms - MARGIN_MS, span.from_ms), (span.to_ms, span.to_ms + MARGIN_MS)):
                yield _Change(from_ms, observer, -1, distrust=1)
                yield _Change(min(to_ms, end_ms), observer, -1, distrust=-1)


def _joined(stretches: Iterable[Stretch]) -> list[Stretch]:
    """Neighbours of one word become one, with the first one's reason; empty ones go."""
    result: list[Stretch] = []
    for stretch in stretches:
        if stretch.span.ms <= 0:
            continue
        if result and result[-1].word is stretch.word and result[-1].span.to_ms == stretch.span.from_ms:
            result[-1] = result[-1]._replace(span=Span(result[-1].span.from_ms, stretch.span.to_ms))
        else:
            result.append(stretch)
    return result


# ---- what it knows itself --------------------------------------------------------------------------------------------


def _history(name: str, judged: list[Stretch], observers: Sequence[Observer], end_ms: int) -> NodeHistory:
    own = next((observer for observer in observers if observer.name == name), None)
    stretches = judged
    if own is not None:
        stretches = _overlaid(judged, _own_stretches(own, judged, end_ms))
    last = stretches[-1].word if stretches else Word.NONE
    served = next((number for number, stretch in enumerate(stretches) if stretch.word in (Word.UP, Word.DEGRADED)), None)
    known = _joined(_filled(stretches[served:])) if served is not None else []
    if own is not None:
        return NodeHistory(name, tuple(known), last, tuple(life.from_ms for life in own.lives))
    starts = _starts_seen(name, observers)
    return NodeHistory(name, tuple(known), last, tuple(starts), tuple(_unseen(starts, known)))


def _own_stretches(own: Observer, judged: Sequence[Stretch], end_ms: int) -> list[Stretch]:
    dead = [stretch.span for stretch in judged if stretch.word.dead]
    said = [*own.of_itself, Statement(end_ms, Word.NONE)]
    for number, (statement, following) in enumerate(pairwise(said)):
        if statement.word is Word.FAILED:
            # It died some time after its last sign of life. If others missed it, that was when they last heard it.
            missed = (span.from_ms for span in dead if statement.at_ms < span.to_ms and span.from_ms < following.at_ms)
            said[number] = replace(statement, at_ms=max(statement.at_ms, next(missed, 0)))
    return [Stretch(Span(one.at_ms, following.at_ms), one.word, one.why) for one, following in pairwise(said)]


def _overlaid(one: Sequence[Stretch], other: Sequence[Stretch]) -> list[Stretch]:
    """At each moment the greater word of two."""
    moments = sorted({at for stretch in (*one, *other) for at in (stretch.span.from_ms, stretch.span.to_ms)})
    result = []
    places = [0, 0]
    for from_ms, to_ms in pairwise(moments):
        words = []
        for side, stretches in enumerate((one, other)):
            while places[side] < len(stretches) and stretches[places[side]].span.to_ms <= from_ms:
                places[side] += 1
            found = stretches[places[side]] if places[side] < len(stretches) else None
            covers = found is not None and found.span.from_ms <= from_ms
            words.append(Verdict(found.word, found.why) if found is not None and covers else NOTHING)
        result.append(Stretch(Span(from_ms, to_ms), *max(words, key=lambda verdict: verdict.word)))
    return _joined(result)


def _filled(stretches: Sequence[Stretch]) -> list[Stretch]:
    """Unknown between down and down is down."""
    result = list(stretches)
    for number in range(1, len(result) - 1):
        before, here, after = result[number - 1 : number + 2]
        if here.word is Word.NONE and before.word.down and after.word.down:
            result[number] = here._replace(word=before.word if before.word.dead else Word.FAILED, why=before.why)
    return result


# ---- what its incarnation tells --------------------------------------------------------------------------------------


def _starts_seen(name: str, observers: Sequence[Observer]) -> list[int]:
    """When each incarnation but the first one known was first heard of, by anybody."""
    first: dict[int, int] = {}
    for observer in observers:
        for at_ms, incarnation in observer.incarnations.get(name, ()):
            first[incarnation] = min(at_ms, first.get(incarnation, at_ms))
    return sorted(first[incarnation] for incarnation in sorted(first)[1:])


def _unseen(starts: Sequence[int], known: Sequence[Stretch]) -> list[int]:
    """Starts that no outage explains: it was known to be up just before, and none is under way or ended a moment ago."""
    up = united(stretch.span for stretch in known if stretch.word in (Word.UP, Word.DEGRADED))
    # (A silence that begins at that moment is another matter; a repair that does is that start's own.)
    down = united(Span(s.span.from_ms + s.word.dead, s.span.to_ms + MARGIN_MS) for s in known if s.word.down)
    return [at_ms for at_ms in starts if contains(up, at_ms - 1) and not contains(down, at_ms)]
