"""The top of the page: which cluster, when, what stands out, and the few figures that everybody looks for.

Owns its look.
"""

from __future__ import annotations

from collections.abc import Iterator

from kvctl.report.findings import findings
from kvctl.report.markup import NOTHING, Markup, join, tag
from kvctl.report.model import Report
from kvctl.report.outcomes import of_callers
from kvctl.report.sections import at
from kvctl.report.tables import table
from kvctl.report.words import count, plural, share_text, span_text
from kvctl.traces.words import duration_words

KINDS_MAX = 2
"""Whose latency is among the first figures."""


def overview(report: Report) -> Markup:
    """All of it."""
    found = findings(report)
    return tag(
        "header",
        tag("p", "kvnode report", class_="label"),
        tag("h1", _title(report)),
        tag("p", join(_when(report)), class_="window"),
        tag("ul", *(tag("li", sentence) for sentence in found), class_="findings") if found else NOTHING,
        tag("dl", *_tiles(report), class_="tiles"),
        _members(report),
        id="overview",
    )


def _title(report: Report) -> str:
    nodes = plural(len(report.members), "node")
    return (
        f"Cluster {report.cluster_id[:8]}, {nodes}"
        if report.cluster_id
        else f"Traces of {nodes}"
        if report.members
        else "Traces"
    )


def _when(report: Report) -> Iterator[str]:
    if report.window is None:
        yield "Nothing is on record."
        return
    from_ms, to_ms = report.window
    yield from (at(from_ms), " – ", at(to_ms), f" · {span_text(to_ms - from_ms)} · all times are UTC")


def _tiles(report: Report) -> Iterator[Markup]:
    rates = of_callers(report.outcomes)
    answered, unanswered = sum(rate.answered for rate in rates), sum(rate.unanswered for rate in rates)
    if answered + unanswered:
        yield _tile("requests", count(answered + unanswered), "as nodes counted them")
        yield _tile("answered", share_text(answered / (answered + unanswered)), f"{count(unanswered)} were not")
    elif report.sources.requests:
        yield _tile("requests", count(report.sources.requests), "that left spans")
    if report.latency is not None:
        known = [kind for kind in report.latency.distributions if not kind.is_part]
        for kind in [kind for kind in known if not kind.by_client or kind._replace(by_client=False) not in known][:KINDS_MAX]:
            histogram = report.latency.distributions[kind]
            p50, p99 = (duration_words(histogram.percentile(one) * 1000) for one in (50, 99))
            yield _tile(kind.words, p50, f"median; p99 {p99}")
    if report.availability is not None:
        system = report.availability.system.figures
        failures = sum(node.figures.failures for node in report.availability.nodes)
        yield _tile("all shards available", share_text(system.uptime_share), f"of {span_text(system.up_ms + system.down_ms)}")
        yield _tile("failures of nodes", count(failures), _stops(sum(n.figures.stops for n in report.availability.nodes)))


def _stops(number: int) -> str:
    return f"and {plural(number, 'stop')} by plan" if number else "no stop by plan"


def _tile(name: str, value: str, remark: str) -> Markup:
    return tag("div", tag("dt", name), tag("dd", tag("b", value), tag("small", remark)))


def _members(report: Report) -> Markup:
    if not report.members:
        return NOTHING
    if not report.cluster_id:
        return tag("p", "Nodes: ", ", ".join(member.name for member in report.members), ".", class_="remark")
    rows = [
        [
            tag("b", one.name),
            tag("span", one.state, class_=f"state {'good' if one.state == 'ACTIVE' else 'bad'}"),
            one.address,
            str(one.incarnation) if one.incarnation else "",
            plural(one.shards, "shard"),
            ", ".join(map(str, one.leads)) or "none",
        ]
        for one in report.members
    ]
    headers = ["node", "state", "address", "incarnation", "holds", "leads shards"]
    return table(headers, rows, caption="Nodes", class_="members")
