"""Section: when nodes and shards were there.

Owns its look. Figures and their definitions are `kvctl.availability`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvctl.availability.model import Availability, Election, Figures, Outage
from kvctl.report import charts, timeline
from kvctl.report.markup import NOTHING, Markup, join, tag
from kvctl.report.model import Happening, Report
from kvctl.report.sections import at, missing, section
from kvctl.report.tables import table
from kvctl.report.words import NONE, count, plural, share_text, span_text
from kvctl.traces.words import duration_words

LISTED_MAX = 100
"""Of outages and of elections, the latest."""
LEGEND = (
    ("up", "up"),
    ("failed", "down: failed"),
    ("planned", "down by plan, or handed over"),
    ("recovering", "recovering"),
    ("ground", "not known"),
)


def availability_section(report: Report) -> Markup:
    """Lines of time with their figures, then the lists."""
    found = report.availability
    if found is None:
        return section("availability", "Availability", "", missing(_why(report)), _happenings(report.happenings))
    lead = (
        f"From the durable records of {plural(len(found.observers), 'node')}. A failure is an outage that nobody planned; a "
        "shard is available while it has a leader that can serve, the system while all shards are."
    )
    return section("availability", "Availability", lead, _lines(found), _outages(found), _elections(found), _doubts(found))


def _why(report: Report) -> str:
    if report.sources.asked:
        return "No node told its record of failures and elections, so that nothing is known of availability."
    return (
        "Left out: files of traces do not tell when nodes were up. Nodes keep that record; kvctl report without files, or with "
        "--endpoints, asks them for it."
    )


def _lines(found: Availability) -> Markup:
    names = [node.name for node in found.nodes]
    headers = ["", "timeline", "uptime", "failures", "MTTF", "MTTR", "longest"]
    window = found.window
    marks = charts.axis(charts.time_marks(window.from_ms, window.to_ms))
    groups: list[tuple[str, list[list[str]]]] = [
        ("System", [["all shards", timeline.system_line(found.system, window), *_figures(found.system.figures)]]),
        ("Nodes", [[node.name, timeline.node_line(node, window), *_figures(node.figures)] for node in found.nodes]),
        (
            "Shards",
            [[str(one.shard), timeline.shard_line(one, window, names), *_figures(one.figures)] for one in found.shards],
        ),
    ]
    rows = [row for title, lines in groups for row in ([tag("b", title), marks, *[""] * 5], *lines)]
    legend = [
        tag("li", tag("svg", tag("rect", class_=class_, width=14, height=14), class_="key"), words) for class_, words in LEGEND
    ]
    election = tag(
        "svg", tag("svg", tag("path", d="M0 -5L5 0L0 5L-5 0z"), class_="mark election bad", x="7", y="7"), class_="key"
    )
    return tag(
        "figure",
        tag("ul", *legend, tag("li", election, "an election"), class_="legend"),
        table(headers, rows, caption="Availability over time", numeric="|".join(headers[2:]), class_="lines"),
    )


def _figures(figures: Figures) -> list[str]:
    longest = NONE if figures.longest is None else span_text(figures.longest.span.ms)
    mttf = span_text(figures.mttf_ms) if figures.mttf_ms is not None else f"> {span_text(figures.up_ms)}"
    return [share_text(figures.uptime_share), count(figures.failures), mttf, span_text(figures.mttr_ms), longest]


def _outages(found: Availability) -> Markup:
    """Every outage of nodes, and of shards; the latest."""
    named = [(outage, node.name) for node in found.nodes for outage in node.outages]
    named += [(outage, f"shard {shard.shard}") for shard in found.shards for outage in shard.outages]
    named.sort(key=lambda one: (one[0].span, one[1]))
    rows = [
        [
            at(one.span.from_ms),
            what,
            _length(one),
            "by plan" if one.planned else tag("strong", "failure", class_="bad"),
            one.why,
        ]
        for one, what in named[-LISTED_MAX:]
    ]
    headers = ["since", "what", "for", "kind", "why"]
    return _list("Outages", len(named), table(headers, rows, caption="Outages", numeric="for"))


def _length(outage: Outage) -> str:
    before, after = "began before, " if outage.began_before else "", ", not over" if outage.ongoing else ""
    return f"{before}{span_text(outage.span.ms)}{after}"


def _elections(found: Availability) -> Markup:
    elections = sorted((one for shard in found.shards for one in shard.elections), key=lambda one: (one.at_ms, one.shard))
    headers = ["at", "shard", "term", "leader", "before", "without a leader", "why"]
    table_ = table(headers, _election_rows(elections[-LISTED_MAX:]), caption="Elections", numeric="shard|term|without a leader")
    return _list("Elections", len(elections), table_)


def _election_rows(elections: Iterable[Election]) -> Iterator[list[str]]:
    for one in elections:
        why = timeline.CAUSES.get(one.cause, one.cause.lower())
        gap = span_text(one.leaderless_ms)
        yield [at(one.at_ms), str(one.shard), str(one.term), one.leader, one.previous or NONE, gap, why]


def _list(title: str, number: int, made: Markup) -> Markup:
    if not number:
        return NOTHING
    latest = f", the latest {LISTED_MAX}" if number > LISTED_MAX else ""
    return tag("details", tag("summary", title, tag("small", f" {count(number)}{latest}")), made, class_="list")


def _doubts(found: Availability) -> Markup:
    """How far the lines can be trusted."""
    words = [f"The observers' clocks are at most {span_text(found.clock_spread_ms)} apart."]
    for node, why in sorted(found.missing.items()):
        words.append(f"Without the record of {node}: {why}.")
    words.append("MTTF is up time per failure, MTTR failed time per failure; > stands before what is only known to be longer.")
    return tag("p", join(words, " "), class_="remark")


def _happenings(found: Iterable[Happening]) -> Markup:
    rows = [
        [
            at(one.at_ms),
            one.name.replace(".", " ").replace("_", " "),
            one.node,
            "" if one.shard is None else str(one.shard),
            duration_words(one.duration_ns),
            one.cause,
        ]
        for one in found
    ]
    if not rows:
        return NOTHING
    headers = ["at", "what", "node", "shard", "took", "why"]
    made = table(headers, rows, caption="What the traces tell", numeric="shard|took")
    return tag("div", tag("h3", "What the traces tell of"), made)
