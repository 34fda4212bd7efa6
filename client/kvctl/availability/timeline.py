"""A timeline as text: a line a node and a shard, a character a stretch of time.

Owns what stands for what. A character shows the worst that happened within its time, so that no outage is too short to be seen.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum
from typing import NamedTuple

from kvctl.availability.model import Availability, NodeAvailability, Outage, ShardAvailability
from kvctl.availability.spans import Span, Spans
from kvctl.output import time_text


class Cell(IntEnum):
    """What a character stands for, the worst last."""

    UNKNOWN = 0
    UP = 1
    ELECTION = 2
    RECOVERING = 3
    PLANNED = 4
    FAILED = 5


SIGNS = {
    Cell.UNKNOWN: "·",
    Cell.UP: "━",
    Cell.ELECTION: "┿",
    Cell.RECOVERING: "▒",
    Cell.PLANNED: "░",
    Cell.FAILED: "█",
}
WORDS = {
    Cell.UNKNOWN: "not known",
    Cell.UP: "up",
    Cell.ELECTION: "a new leader",
    Cell.RECOVERING: "recovering",
    Cell.PLANNED: "stopped, or handed over",
    Cell.FAILED: "failed",
}


class Line(NamedTuple):
    """What it is about, and its characters."""

    label: str
    cells: tuple[Cell, ...]


def lines(found: Availability, width: int) -> list[Line]:
    """The system, every node, every shard, `width` characters each."""
    window = found.window
    return [
        Line("system", _drawn(window, width, found.system.observed, found.system.outages)),
        *(Line(node.name, _of_node(window, width, node)) for node in found.nodes),
        *(Line(f"shard {shard.shard}", _of_shard(window, width, shard)) for shard in found.shards),
    ]


def axis(window: Span, width: int) -> str:
    """Begin and end of the window, at both ends of a line."""
    begin, end = time_text(window.from_ms), time_text(window.to_ms)
    return begin + end.rjust(max(width - len(begin), len(end) + 1))


def _of_node(window: Span, width: int, node: NodeAvailability) -> tuple[Cell, ...]:
    return _drawn(window, width, node.observed, node.outages, [(Cell.RECOVERING, span) for span in node.recovering])


def _of_shard(window: Span, width: int, shard: ShardAvailability) -> tuple[Cell, ...]:
    elections = [(Cell.ELECTION, Span(election.at_ms, election.at_ms)) for election in shard.elections]
    return _drawn(window, width, shard.observed, shard.outages, elections)


def _drawn(
    window: Span, width: int, observed: Spans, outages: Iterable[Outage], more: Iterable[tuple[Cell, Span]] = ()
) -> tuple[Cell, ...]:
    cells = [Cell.UNKNOWN] * width
    marks = [(Cell.UP, span) for span in observed]
    marks += [(Cell.PLANNED if outage.planned else Cell.FAILED, outage.span) for outage in outages]
    for cell, span in (*marks, *more):
        for place in range(_place(span.from_ms, window, width), _place(max(span.to_ms - 1, span.from_ms), window, width) + 1):
            cells[place] = max(cells[place], cell)
    return tuple(cells)


def _place(at_ms: int, window: Span, width: int) -> int:
    return min(max((at_ms - window.from_ms) * width // max(window.ms, 1), 0), width - 1)
