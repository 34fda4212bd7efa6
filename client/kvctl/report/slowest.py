"""Section: the slowest requests, each with its explanation and its waterfall.

Owns its look.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.report import charts, palette
from kvctl.report.markup import Markup, join, percent, tag, tip
from kvctl.report.model import Report, Slow
from kvctl.report.scales import round_up
from kvctl.report.sections import at, missing, section
from kvctl.report.words import plural, tick_duration
from kvctl.traces.waterfall import Row
from kvctl.traces.words import duration_words

QUARTERS = (1, 1.2, 1.6, 2, 2.4, 3.2, 4, 6, 8)
"""Lengths, times a power of ten, of which a quarter is a round number."""
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
    longest = max(one.request.duration_ns for one in report.slowest)
    return section(
        "slowest",
        "Slowest requests",
        lead,
        tag("button", "Expand all", type="button", class_="expand", data_expand="slowest"),
        *(_card(one, place, longest) for place, one in enumerate(report.slowest, 1)),
    )


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
    return tag("details", summary, _waterfall(slow), class_="slow", id=f"slow-{place}")


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
    body = tag("tbody", *(_row(row, whole_ns) for row in slow.rows))
    made = tag("table", tag("thead", head), body, class_="waterfall")
    return tag("div", made, tag("p", join(_remarks(slow), " "), class_="remark"), class_="opened")


def _row(row: Row, whole_ns: int) -> Markup:
    name = row.name.removeprefix("kvapi.v1.")
    marks = " ".join(
        filter(None, (f"d{min(row.depth, DEPTH_MAX)}", "off" if not row.critical_ns else "", "made" if row.derived else ""))
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
        class_=marks,
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
