"""Section: what requests waited for, over time and in all.

Owns its look: a panel a kind of request, of which the script shows one.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kvclient.histogram import Histogram
from kvctl.report import charts, palette
from kvctl.report.latency import FIGURES, figures, nothing_known
from kvctl.report.markup import NOTHING, Markup, join, tag
from kvctl.report.model import Kind, Latency, OverTime, Report
from kvctl.report.sections import chip, missing, section
from kvctl.report.tables import table
from kvctl.report.timeline import events_strip
from kvctl.report.words import count, plural, share_text
from kvctl.traces.latency import Row as StageRow

KINDS_MAX = 12


def stages_section(report: Report) -> Markup:
    """A panel a kind."""
    kinds = _kinds(report)
    if not kinds:
        return section("stages", "Stages", "", missing(nothing_known(report)))
    lead = (
        "What requests waited for. Over time: the mean of those that left spans, along their critical paths over all nodes. "
        + _of_which(report)
    )
    tabs = [
        tag("button", kind.words, role="tab", id=f"tab-{at}", aria_controls=f"panel-{at}", type="button", aria_selected="false")
        for at, kind in enumerate(kinds)
    ]
    panels = [_panel(report, kind, at) for at, kind in enumerate(kinds)]
    return section(
        "stages",
        "Stages",
        lead,
        tag("div", tag("div", *tabs, role="tablist", aria_label="Kinds of requests"), *panels, class_="tabs"),
    )


def _of_which(report: Report) -> str:
    if report.latency is None or report.latency.since_ms is None:
        return "In the table: their stages as each process measured them."
    return "In the table: the stages of all requests, as nodes measured them."


def _kinds(report: Report) -> list[Kind]:
    """Each in the nodes' view, whoever saw it: a panel shows both views."""
    known = [*(report.latency.distributions if report.latency else ()), *report.over_time]
    return list(dict.fromkeys(kind._replace(by_client=False) for kind in known))[:KINDS_MAX]


def _panel(report: Report, kind: Kind, at: int) -> Markup:
    views = (kind._replace(by_client=True), kind)
    pictures = [_over_time(report, view, report.over_time[view]) for view in views if view in report.over_time]
    if not pictures:
        pictures = [missing(f"No trace of {kind.words} is known, so that there is nothing to show over time.")]
    tables = [_table(report.latency, view) for view in views if report.latency and view in report.latency.distributions]
    return tag(
        "div",
        tag("h3", kind.words),
        *pictures,
        *tables,
        role="tabpanel",
        id=f"panel-{at}",
        aria_labelledby=f"tab-{at}",
    )


def _over_time(report: Report, kind: Kind, found: OverTime) -> Markup:
    stages = charts.layers(found)
    legend = tag("ul", *(_entry(stage) for stage in stages), class_="legend")
    return tag(
        "figure",
        legend,
        charts.stages_chart(found, kind.words, events_strip(report.availability, found.from_ms, found.to_ms)),
        charts.requests_strip(found),
        tag("figcaption", _kept(kind, found)),
    )


def _entry(stage: str) -> Markup:
    return tag("li", chip(palette.stage_class(stage)), stage or "other stages")


def _kept(kind: Kind, found: OverTime) -> str:
    whole = sum(found.kept.values())
    unknown = "sampled by the client alone" if kind.by_client else "for a reason not known"
    ranked = sorted(found.kept.items(), key=lambda one: -one[1])
    named = ", ".join(f"{count(number)} {why or unknown}" for why, number in ranked)
    leaning = any(why in found.kept for why in ("slow", "failed", "superseded"))
    why = " Slow and failed ones are always kept: the mean of all requests is lower." if leaning else ""
    view = "as clients saw them" if kind.by_client else "as nodes saw them"
    return f"{plural(whole, 'request')} that left spans, {view}: {named}.{why} Below: how many began in each interval."


def _table(found: Latency, kind: Kind) -> Markup:
    rows = found.stages.get(kind, ())
    if not rows:
        return NOTHING
    whole = found.distributions[kind]
    first = "in the client" if kind.by_client else "on the nodes"
    headers = [first, "share of the time", "", "count", *(header for _, header in FIGURES)]
    numeric = "|".join(["share of the time", "count", *(header for _, header in FIGURES)])
    return table(headers, _rows(rows, whole), caption=f"Stages of {kind.words}", numeric=numeric, class_="stages")


def _rows(rows: Sequence[StageRow], whole: Histogram) -> Iterator[list[str]]:
    for row in rows:
        share = row.summary.average * row.summary.count / whole.sum_us if whole.sum_us else 0.0
        look = palette.STAGES.get(row.stage, palette.REST)
        class_ = palette.stage_class(row.stage)
        yield [
            join([chip(class_), tag("span", row.stage, class_="stage"), tag("small", look.words)]),
            share_text(share),
            charts.share_bar(share, class_),
            count(row.summary.count),
            *figures(row.summary),
        ]
