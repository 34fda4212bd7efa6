"""Section: how long requests took.

Owns its look.
"""

from __future__ import annotations

from collections.abc import Mapping

from kvclient.histogram import Histogram, summarize
from kvctl.report import charts, palette
from kvctl.report.markup import Markup, tag
from kvctl.report.model import Kind, Latency, Report
from kvctl.report.scales import Log
from kvctl.report.sections import missing, section
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
    lead = f"Of {found.source}. {_exactness(found)}"
    return section(
        "latency",
        "Latency",
        lead,
        tag("figure", legend(found.distributions), charts.percentile_chart(found.distributions)),
        _table(found),
    )


def nothing_known(report: Report) -> str:
    """Why there is no request."""
    if report.sources.asked and not report.sources.files:
        return "No request is known: nobody asked these nodes for anything since they started."
    return "No request is in these files."


def _exactness(found: Latency) -> str:
    if found.exact:
        return "Merged over nodes; percentiles are exact to 3 %. The client's own queue and the network to it are not in them."
    return "Slow and failed requests always leave spans, so that percentiles lean to them."


def legend(distributions: Mapping[Kind, Histogram]) -> Markup:
    """What the lines are."""
    return tag("ul", *(_entry(kind, histogram) for kind, histogram in distributions.items()), class_="legend")


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
        class_=f"line {palette.operation_class(kind.operation)}",
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
