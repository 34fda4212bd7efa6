"""Section: how long requests took.

Owns its look.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvclient.histogram import Histogram, summarize
from kvctl.report import charts, palette
from kvctl.report.markup import Markup, join, tag
from kvctl.report.model import Kind, Latency, Report
from kvctl.report.scales import Log
from kvctl.report.sections import at, missing, section
from kvctl.report.tables import table
from kvctl.report.words import count, plural, tick_duration
from kvctl.traces.words import duration_words

FIGURES = (("average", "mean"), ("p50", "p50"), ("p95", "p95"), ("p99", "p99"), ("p999", "p99.9"), ("max", "max"))
"""Of a summary, and how they are headed."""
LEAST = {"p99": 100, "p999": 1000}
"""Of fewer requests a percentile is no more than the slowest of them."""


def latency_section(report: Report) -> Markup:
    """Percentile curves and a table with the shapes."""
    found = report.latency
    if found is None:
        return section("latency", "Latency", "", missing(nothing_known(report)))
    return section(
        "latency",
        "Latency",
        _lead(found),
        tag("figure", legend(found.distributions), charts.percentile_chart(found.distributions)),
        _table(found),
    )


def nothing_known(report: Report) -> str:
    """Why there is no request."""
    if report.sources.asked and not report.sources.files:
        return "No request is known: nobody asked these nodes for anything since they started."
    return "No request is in these files."


def _lead(found: Latency) -> Markup:
    if found.since_ms is None:
        return join(["Of requests that left spans. Slow and failed ones always do, so that percentiles lean to them."])
    clients = any(kind.by_client for kind in found.distributions)
    view = "Those in the client are of requests that left spans there." if clients else "The way to the client is not in them."
    words = ", merged; percentiles are exact to 3 %. A node counts from its start on, the first since "
    return join(["Of every request, as all nodes counted it", words, at(found.since_ms), ". ", view])


def legend(distributions: Mapping[Kind, Histogram]) -> Markup:
    """What the lines are."""
    return tag(
        "ul", *(_entry(kind, histogram) for kind, histogram in distributions.items() if not kind.is_part), class_="legend"
    )


def _entry(kind: Kind, histogram: Histogram) -> Markup:
    return tag(
        "li",
        swatch(kind),
        kind.words,
        tag("small", f" {plural(histogram.count, 'request')}"),
        data_series=kind.words,
        tabindex=0,
    )


def swatch(kind: Kind) -> Markup:
    """A piece of its line."""
    line = tag(
        "line",
        class_=charts.line_class(kind),
        stroke_dasharray=palette.DASHES.get(kind.consistency),
        x1="0",
        x2="22",
        y1="5",
        y2="5",
    )
    return tag("svg", line, class_="swatch", width=22, height=10, aria_hidden="true")


def _table(found: Latency) -> Markup:
    across = charts.ridge_axis(found.distributions.values())
    headers = ["operation", "consistency", "count", *(header for _, header in FIGURES), "distribution"]
    rows = [
        [
            tag("span", swatch(kind), kind.operation, class_="kind"),
            " ".join(filter(None, (kind.consistency, "in the client" if kind.by_client else ""))),
            count(histogram.count),
            *figures(summarize(histogram)),
            charts.ridge(histogram, across, kind.words, palette.operation_class(kind.operation)),
        ]
        for kind, histogram in found.distributions.items()
    ]
    numeric = "|".join(["count", *(header for _, header in FIGURES)])
    return tag(
        "div",
        table(headers, rows, caption="Latency by operation and consistency", numeric=numeric, class_="latency"),
        tag("p", f"Shapes share one axis, {_ends(across)}, logarithmic; the marks are the median and p99.", class_="remark"),
    )


def _ends(across: Log) -> str:
    return f"{tick_duration(across.low * 1000)} to {tick_duration(across.high * 1000)}"


def figures(summary: object) -> list[str]:
    """The cells of a summary in microseconds; a percentile that is no more than the slowest is pale."""
    number = getattr(summary, "count")  # noqa: B009
    cells: list[str] = []
    for name, _ in FIGURES:
        words = duration_words(getattr(summary, name) * 1000)
        few = number < LEAST.get(name, 0)
        cells.append(tag("span", words, class_="pale", title=f"of {plural(number, 'request')}: its slowest") if few else words)
    return cells
