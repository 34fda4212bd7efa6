"""A trace on a terminal: a row a span, nested, with a bar where its time was.

Owns the layout, for any width. Rows are plain data first (`rows`), which programs get as JSON; drawing needs rich.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kvctl.failures import printable
from kvctl.traces.critical_path import Step, critical_path
from kvctl.traces.node import Node
from kvctl.traces.tree import Trace
from kvctl.traces.words import duration_words

if TYPE_CHECKING:
    from rich.console import RenderableType

EIGHTHS = " ▏▎▍▌▋▊▉█"
BAR_WIDTH_MIN, NAME_WIDTH_MIN = 10, 12
ALIKE_MAX = 5
"""Operations of one batch that are drawn."""
NARROW = 60
"""Characters; on a terminal with fewer nesting takes less of them."""


@dataclass(frozen=True, slots=True)
class Row:
    """A node of the tree, as it is drawn."""

    depth: int
    name: str
    where: str
    start_ns: int
    """From the beginning of the picture."""
    duration_ns: int
    critical_ns: int
    """How long the request waited for just this; 0: it ran beside the critical path."""
    derived: bool
    concurrent: bool
    error: str


def rows(trace: Trace, alike_max: int | None = None) -> list[Row]:
    """All of a trace, in the order of a drawing. Of operations of one name in one place at most `alike_max`: those that the
    request waited for, then the longest; a last row counts the others.
    """
    begin_ns = min(node.start_ns for node in trace.walk())
    waited = _waited(step for request in trace.requests() for step in critical_path(request))
    return [row for root in trace.roots for row in _rows(root, 0, begin_ns, waited, alike_max)]


def _waited(steps: Iterable[Step]) -> dict[int, int]:
    """Time on the critical path by node."""
    sums: dict[int, int] = {}
    for step in steps:
        sums[id(step.node)] = sums.get(id(step.node), 0) + step.self_ns
    return sums


def _rows(node: Node, depth: int, begin_ns: int, waited: dict[int, int], alike_max: int | None) -> Iterator[Row]:
    if not (node.duration_ns or node.children or node.span.error):
        return  # a stage that took no time is no news
    start_ns, name = node.start_ns - begin_ns, node.stage if node.derived else node.span.name
    error = "" if node.derived else node.span.error
    critical_ns = waited.get(id(node), 0)
    yield Row(depth, name, node.where, start_ns, node.duration_ns, critical_ns, node.derived, node.concurrent, error)
    left_out = _left_out(node.children, waited, alike_max)
    for child in node.children:
        if id(child) not in left_out:
            yield from _rows(child, depth + 1, begin_ns, waited, alike_max)
    for name, others in itertools.groupby(sorted(left_out.values(), key=_name), key=_name):
        group = list(others)
        first, last = min(one.start_ns for one in group), max(one.end_ns for one in group)
        yield Row(depth + 1, f"… {len(group)} more {name}", group[0].where, first - begin_ns, last - first, 0, True, False, "")


def _left_out(children: Iterable[Node], waited: dict[int, int], alike_max: int | None) -> dict[int, Node]:
    """Operations beyond the limit, by identity."""
    found: dict[int, Node] = {}
    operations = sorted((child for child in children if child.is_operation), key=_name)
    for _, alike in itertools.groupby(operations if alike_max is not None else (), key=_name):
        ranked = sorted(alike, key=lambda one: (-sum(waited.get(id(node), 0) for node in one.walk()), -one.duration_ns))
        found |= {id(one): one for one in ranked[alike_max:]}
    return found


def _name(node: Node) -> str:
    return node.span.name


def bar(start_ns: int, duration_ns: int, whole_ns: int, width: int) -> str:
    """A bar of `width` characters, fine to an eighth at its end; what took any time is visible."""
    scale = width / max(whole_ns, 1)
    begin = min(int(start_ns * scale), width - 1)
    eighths = max(1, min(round((start_ns + duration_ns) * scale * 8), width * 8) - begin * 8)
    full, rest = divmod(eighths, 8)
    return (" " * begin + "█" * full + (EIGHTHS[rest] if rest else "")).ljust(width)[:width]


def draw(trace: Trace, width: int) -> RenderableType:
    """The picture: span, node, duration, bar. Bold bars are on the critical path, dim rows were derived."""
    from rich.table import Table
    from rich.text import Text

    shown = rows(trace, ALIKE_MAX)
    whole_ns = max(row.start_ns + row.duration_ns for row in shown)
    indent = "  " if width >= NARROW else " "
    texts = [(_label(row, indent), printable(row.where), duration_words(row.duration_ns)) for row in shown]
    longest, node_width, time_width = (max(4, *map(len, column)) for column in zip(*texts, strict=True))
    gaps = 6
    name_width = max(NAME_WIDTH_MIN, min(longest, width // 2, width - node_width - time_width - gaps - BAR_WIDTH_MIN))
    bar_width = max(BAR_WIDTH_MIN, width - name_width - node_width - time_width - gaps)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("span", width=name_width, no_wrap=True)
    table.add_column("node", width=node_width, no_wrap=True)
    table.add_column("time", width=time_width, no_wrap=True, justify="right")
    table.add_column(f"0 … {duration_words(whole_ns)}", width=bar_width, no_wrap=True)
    for row, columns in zip(shown, texts, strict=True):
        style = "red" if row.error else "dim" if row.derived or row.concurrent else ""
        drawn = bar(row.start_ns, row.duration_ns, whole_ns, bar_width)
        table.add_row(*(Text(text, style) for text in columns), Text(drawn, _bar_style(row)))
    return table


def _label(row: Row, indent: str) -> str:
    beside = "∥ " if row.concurrent else ""
    error = f" ! {row.error}" if row.error else ""
    return indent * row.depth + beside + printable(row.name.removeprefix("kvapi.v1.") + error)


def _bar_style(row: Row) -> str:
    return "red" if row.error else "bold cyan" if row.critical_ns else "blue dim"
