"""Sets of time as sorted, disjoint spans of Unix milliseconds.

Owns their algebra only. A span contains its beginning and not its end; empty ones are never in a set.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """From a moment up to, and without, another one."""

    from_ms: int
    to_ms: int

    @property
    def ms(self) -> int:
        """Its length."""
        return self.to_ms - self.from_ms


Spans = tuple[Span, ...]


def united(spans: Iterable[Span]) -> Spans:
    """The set of all moments within any of them; spans that touch become one."""
    result: list[Span] = []
    for span in sorted(span for span in spans if span.ms > 0):
        if result and span.from_ms <= result[-1].to_ms:
            result[-1] = Span(result[-1].from_ms, max(result[-1].to_ms, span.to_ms))
        else:
            result.append(span)
    return tuple(result)


def clipped(spans: Iterable[Span], window: Span) -> Spans:
    """What of a set is within a window."""
    within = (Span(max(span.from_ms, window.from_ms), min(span.to_ms, window.to_ms)) for span in spans)
    return tuple(span for span in within if span.ms > 0)


def without(spans: Iterable[Span], removed: Iterable[Span]) -> Spans:
    """The moments of one set that are not in the other; both sorted and disjoint."""
    result: list[Span] = []
    holes = tuple(removed)
    first = 0
    for span in spans:
        begin = span.from_ms
        while first < len(holes) and holes[first].to_ms <= begin:
            first += 1
        for hole in holes[first:]:
            if hole.from_ms >= span.to_ms:
                break
            if hole.from_ms > begin:
                result.append(Span(begin, hole.from_ms))
            begin = max(begin, hole.to_ms)
        if begin < span.to_ms:
            result.append(Span(begin, span.to_ms))
    return tuple(result)


def shared_by(sets: Iterable[Iterable[Span]], least: int) -> Spans:
    """The moments that are in at least so many of the sets."""
    changes = sorted((at, step) for spans in sets for span in spans for at, step in ((span.from_ms, 1), (span.to_ms, -1)))
    result: list[Span] = []
    depth, began = 0, 0
    for at, step in changes:
        if step > 0 and depth + 1 == least:
            began = at
        elif step < 0 and depth == least:
            result.append(Span(began, at))
        depth += step
    return united(result)


def total_ms(spans: Iterable[Span]) -> int:
    """Their lengths together."""
    return sum(span.ms for span in spans)


def contains(spans: Iterable[Span], at_ms: int) -> bool:
    """Whether a moment is in the set."""
    return any(span.from_ms <= at_ms < span.to_ms for span in spans)
