"""Section: the slowest requests, each with its explanation and its waterfall.

Owns its look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from kvctl.report import charts, palette
from kvctl.report.markup import Markup, join, percent, tag, tip
from kvctl.report.model import Report, Slow
from kvctl.report.scales import round_up
from kvctl.report.sections import at, chip, missing, section
from kvctl.report.words import plural, tick_duration
from kvctl.traces.waterfall import Row
from kvctl.traces.words import duration_words

QUARTERS = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8)
"""Lengths, times a power of ten, of which a quarter is a round number."""
WHOLE = ("client", "server", "application")
"""What is drawn thin: the stages within have the time."""
DEPTH_MAX = 12
"""Nested deeper, rows are not indented further."""


def slowest_section(report: Report) -> Markup:
    """One to expand for each."""
    if not report.slowest:
        return section("slowest", "Slowest requests", "", missing(_why(report)))
    lead = (
        "The slowest of all that left spans, and of each kind the slowest few. The bar is the critical path: what the request "
        "waited for, moment by moment. Expand one for its waterfall."
    )
    first = report.slowest[: report.slowest_of_all]
    rest: dict[str, list[Slow]] = {}
    for one in report.slowest[report.slowest_of_all :]:
        rest.setdefault(f"{one.request.operation} {one.request.consistency}", []).append(one)
    return section(
        "slowest",
        "Slowest requests",
        lead,
        _legend(report.slowest),
        tag("button", "Expand all", type="button", class_="expand", data_expand="slowest"),
        _cards(first, 1),
        *(join([tag("h3", f"Slowest {kind}"), _cards(ones, 1)]) for kind, ones in rest.items()),
    )


def _legend(slowest: Iterable[Slow]) -> Markup:
    """The stages that are anywhere in the bars."""
    stages = {part.stage for one in slowest for part in one.parts if palette.stage_class(part.stage) != "s-rest"}
    entries = (tag("li", chip(palette.stage_class(stage)), stage) for stage in sorted(stages, key=palette.stage_order))
    return tag("ul", *entries, class_="legend")


def _cards(ones: Sequence[Slow], first: int) -> Markup:
    """On one scale."""
    longest = max(one.request.duration_ns for one in ones)
    return join(_card(one, place, longest) for place, one in enumerate(ones, first))


def _why(report: Report) -> str:
    return (
        "No request left spans. Nodes keep those that are sampled (tracing.sample_ratio), slow or failed; is tracing on?"
        if report.sources.asked
        else "No request is in these files."
    )


def _card(slow: Slow, place: int, longest_ns: int) -> Markup:
    request = slow.request
    where = " · ".join(filter(None, (request.node, "" if request.shard is None else f"shard {request.shard}")))
    facts = [
        tag("span", str(place), class_="rank"),
        tag("span", tag("b", request.operation), f" {request.consistency}", class_="what"),
        tag("span", where, class_="where"),
        at(request.start_ns // 1_000_000),
        *([tag("span", request.error, class_="ending bad")] if request.error else []),
        tag("b", duration_words(request.duration_ns), class_="took"),
    ]
    summary = tag(
        "summary",
        tag("span", *facts, class_="facts"),
        _path(slow, longest_ns),
        tag("span", slow.explanation.text, class_="why"),
    )
    return tag("details", summary, _waterfall(slow), class_="slow")


def _path(slow: Slow, longest_ns: int) -> Markup:
    """What it waited for, on the scale of the slowest of all."""
    ranked = sorted(slow.parts.items(), key=lambda item: (palette.stage_order(item[0].stage), item[0].where))
    parts = [
        (
            palette.stage_class(part.stage),
            tip(f"{part.stage}{f' on {part.where}' if part.where else ''}", [("", "", duration_words(ns))]),
            ns / max(longest_ns, 1),
        )
        for part, ns in ranked
    ]
    return charts.composition(parts, "What it waited for")


def _waterfall(slow: Slow) -> Markup:
    whole_ns = int(round_up(max(row.start_ns + row.duration_ns for row in slow.rows) / 1e6, QUARTERS) * 1e6)
    marks = [(quarter / 4, tick_duration(whole_ns * quarter / 4)) for quarter in range(5)]
    head = tag(
        "tr",
        tag("th", "span", scope="col"),
        tag("th", "node", scope="col"),
        tag("th", "time", scope="col", class_="num"),
        tag("th", charts.axis(marks), scope="col", class_="bars", aria_label="when"),
    )
    body = tag("tbody", *(_row(row, whole_ns, on_path) for row, on_path in zip(slow.rows, _on_path(slow.rows), strict=True)))
    made = tag("table", tag("thead", head), body, class_="waterfall")
    return tag("div", made, tag("p", join(_remarks(slow), " "), class_="remark"), class_="opened")


def _on_path(rows: Sequence[Row]) -> list[bool]:
    """Whether the request waited for a row, or for something in it."""
    found = [row.critical_ns > 0 for row in rows]
    above: list[int] = []
    for place, row in enumerate(rows):
        del above[row.depth :]
        if found[place]:
            for one in above:
                found[one] = True
        above.append(place)
    return found


def _row(row: Row, whole_ns: int, on_path: bool) -> Markup:
    name = row.name.removeprefix("kvapi.v1.")
    classes = (
        f"d{min(row.depth, DEPTH_MAX)}",
        "" if on_path else "off",
        "made" if row.derived else "",
        "whole" if _stage(row) in WHOLE else "",
    )
    beside = "∥ " if row.concurrent else ""
    error = [" ", tag("i", row.error, class_="bad")] if row.error else []
    bar = tag(
        "rect",
        class_=palette.stage_class(_stage(row)),
        x=percent(row.start_ns / whole_ns),
        width=percent(row.duration_ns / whole_ns),
    )
    return tag(
        "tr",
        tag("td", f"{beside}{name}", *error),
        tag("td", row.where),
        tag("td", duration_words(row.duration_ns)),
        tag("td", tag("svg", bar)),
        class_=" ".join(filter(None, classes)),
    )


def _stage(row: Row) -> str:
    """Whose colour it has; whole operations have that of what they do themselves."""
    name = row.name.removeprefix("kvnode.")
    if name in palette.STAGES:
        return name
    return "server" if row.where else "client"


def _remarks(slow: Slow) -> Iterator[str]:
    if slow.left_out:
        yield f"{plural(slow.left_out, 'more span')}, for which it waited least, are not drawn."
    yield "Pale: beside the critical path. Italic: derived from other spans. ∥: its parent went on meanwhile. Trace"
    yield tag("code", slow.request.trace_id)
