"""Lines of time: when something was there, and when not.

Owns their geometry: shares of a window, as percentages. What is not known is empty. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from kvctl.availability.model import Availability, Election, NodeAvailability, Outage, ShardAvailability, SystemAvailability
from kvctl.availability.spans import Span, without
from kvctl.report import palette
from kvctl.report.markup import NOTHING, Markup, join, percent, tag, tip
from kvctl.report.scales import Linear
from kvctl.report.words import clock, moment, plural, span_text

HEIGHT, STRIP = 22, 10
NAME_SHARE = 0.1
"""Of the window: who leads longer is named on the line."""
CAUSES = {
    "START": "the first leader after a start",
    "NODE_FAILED": "the leader before had failed",
    "TIMEOUT": "the leader before was not heard",
    "TRANSFER": "handed over",
}


def node_line(node: NodeAvailability, window: Span) -> Markup:
    """Up, down (failed or by plan), recovering; a mark at each start."""
    across = Linear(window.from_ms, window.to_ms)
    up = without(node.observed, [outage.span for outage in sorted(node.outages, key=lambda outage: outage.span)])
    drawn = [
        *(_block(across, span, "up", tip(f"{node.name} up", [_when(span)])) for span in up),
        *(_block(across, span, "recovering", tip(f"{node.name} recovering", [_when(span)])) for span in node.recovering),
        *(_outage(across, outage, node.name) for outage in node.outages),
        *(_mark(across, start, "start", tip(f"{node.name} started", [("", "", moment(start))])) for start in node.starts),
    ]
    return _line(drawn, f"{node.name}, {_sum(node.outages)}")


def shard_line(shard: ShardAvailability, window: Span, names: list[str]) -> Markup:
    """Who led it when; gaps are outages, marks are elections."""
    across = Linear(window.from_ms, window.to_ms)
    name = f"shard {shard.shard}"
    drawn = [
        *(part for leader, span in shard.led for part in _led(across, leader, span, name, names)),
        *(_outage(across, outage, name) for outage in shard.outages),
        *(_election(across, election) for election in shard.elections),
    ]
    return _line(drawn, f"{name}, {_sum(shard.outages)}, {plural(len(shard.elections), 'election')}")


def system_line(system: SystemAvailability, window: Span) -> Markup:
    """When all shards were there."""
    across = Linear(window.from_ms, window.to_ms)
    up = without(system.observed, [outage.span for outage in sorted(system.outages, key=lambda outage: outage.span)])
    drawn = [
        *(_block(across, span, "up", tip("all shards available", [_when(span)])) for span in up),
        *(_outage(across, outage, "the system") for outage in system.outages),
    ]
    return _line(drawn, f"all shards, {_sum(system.outages)}")


def events_strip(found: Availability | None, from_ms: int, to_ms: int) -> Markup:
    """Above a picture over time: when nodes were down, and elections; empty where nothing is known or nothing was."""
    if found is None:
        return NOTHING
    across, window = Linear(from_ms, to_ms), Span(from_ms, to_ms)
    drawn = [
        _outage(across, outage, node.name)
        for node in found.nodes
        for outage in node.outages
        if outage.span.to_ms > window.from_ms and outage.span.from_ms < window.to_ms
    ]
    drawn += [
        _election(across, election, STRIP / 2)
        for shard in found.shards
        for election in shard.elections
        if window.from_ms <= election.at_ms <= window.to_ms
    ]
    if not drawn:
        return NOTHING
    label = "Above the picture: when nodes were down, and elections"
    line = tag("svg", *drawn, class_="lane", height=STRIP, role="img", aria_label=label)
    return tag("div", tag("span", "events"), line, class_="events")


def _line(drawn: Iterable[str], label: str) -> Markup:
    ground = tag("rect", class_="ground", x="0", y="3", width="100%", height=HEIGHT - 6)
    return tag("svg", ground, join(drawn), class_="lane", height=HEIGHT, role="img", aria_label=label)


def _block(across: Linear, span: Span, class_: str, words: str) -> Markup:
    begin, end = across.share(span.from_ms), across.share(span.to_ms)
    return tag("rect", class_=class_, x=percent(begin), width=percent(end - begin), y="3", height=HEIGHT - 6, data_tip=words)


def _outage(across: Linear, outage: Outage, name: str) -> Markup:
    """However short, it is to be seen: its border has a width of its own."""
    kind = "stopped by plan" if outage.planned else "down"
    words = tip(f"{name} {kind}", [_when(outage.span), *([("", "", outage.why)] if outage.why else [])])
    return _block(across, outage.span, "planned" if outage.planned else "failed", words)


def _led(across: Linear, leader: str, span: Span, name: str, names: list[str]) -> Iterator[Markup]:
    """The time of one leader, with its name if there is room."""
    yield _block(across, span, f"led {palette.node_class(names, leader)}", tip(f"{leader} led {name}", [_when(span)]))
    begin, end = across.share(span.from_ms), across.share(span.to_ms)
    if end - begin >= NAME_SHARE:
        yield tag("text", leader, x=percent((begin + end) / 2), y="15", text_anchor="middle", class_="name")


def _election(across: Linear, election: Election, middle: float = HEIGHT / 2) -> Markup:
    previous = f", before it {election.previous}" if election.previous else ""
    lines = [
        ("", "", moment(election.at_ms)),
        ("", "", f"term {election.term}{previous}"),
        ("", "", CAUSES.get(election.cause, election.cause.lower())),
        ("", "", f"{span_text(election.leaderless_ms)} without a leader"),
    ]
    words = tip(f"{election.leader} became the leader of shard {election.shard}", lines)
    return _mark(
        across, election.at_ms, f"election {'calm' if election.cause in ('TRANSFER', 'START') else 'bad'}", words, middle
    )


def _mark(across: Linear, at_ms: int, class_: str, words: str, middle: float = HEIGHT / 2) -> Markup:
    """A diamond."""
    size = min(5.0, middle)
    shape = tag("path", d=f"M0 {-size:g}L{size:g} 0L0 {size:g}L{-size:g} 0z")
    return tag("svg", shape, class_=f"mark {class_}", x=percent(across.share(at_ms)), y=middle, data_tip=words)


def _when(span: Span) -> tuple[str, str, str]:
    return "", f"{clock(span.from_ms)} – {clock(span.to_ms)}", span_text(span.ms)


def _sum(outages: Iterable[Outage]) -> str:
    failed = [outage for outage in outages if not outage.planned]
    return (
        f"{plural(len(failed), 'failure')}, {span_text(sum(outage.span.ms for outage in failed))} in all"
        if failed
        else "no failure"
    )
