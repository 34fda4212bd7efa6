"""Reports to draw, and a look at what was drawn.

Owns no judgement: `report` makes a whole report of small parts, `Seen` reads a page as a browser would.
"""

from __future__ import annotations

import html.parser
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from kvclient.histogram import Histogram
from kvctl.availability.model import (
    Availability,
    Election,
    NodeAvailability,
    Outage,
    ShardAvailability,
    SystemAvailability,
    figures,
)
from kvctl.availability.outcomes import success_rates
from kvctl.availability.spans import Span
from kvctl.report.model import Interval, Kind, Latency, Member, OverTime, Report, Sources

AT_MS = 1_700_000_000_000
PUT = Kind("put", "strong")
GET = Kind("get", "strong")


def histogram(values_us: Iterable[int]) -> Histogram:
    """Of some values."""
    made = Histogram()
    for value in values_us:
        made.record(value)
    return made


def over_time(*means_ms: dict[str, float] | None, requests: int = 10, step_ms: int = 1000) -> OverTime:
    """Intervals with these means; None: one without requests."""
    intervals = [
        Interval(AT_MS + place * step_ms, requests, {stage: ms * 1e6 for stage, ms in means.items()})
        for place, means in enumerate(means_ms)
        if means is not None
    ]
    return OverTime(step_ms, AT_MS, AT_MS + len(means_ms) * step_ms, intervals, {"sampled": requests * len(intervals)})


def availability(node: str = "n2", why: str = "silent", leader: str = "n1") -> Availability:
    """A minute of three nodes and one shard: one was down from the 15th to the 30th second and led the shard before."""
    window = Span(AT_MS, AT_MS + 60_000)
    outage = Outage(Span(AT_MS + 15_000, AT_MS + 30_000), why=why)
    gap = Outage(Span(AT_MS + 15_000, AT_MS + 16_000), why=why)
    names = sorted({node, leader, "n3"})
    outages = {name: (outage,) if name == node else () for name in names}
    nodes = tuple(
        NodeAvailability(name, "ACTIVE", figures([window], outages[name]), outages[name], (window,)) for name in names
    )
    elections = (
        Election(0, 1, node, "", AT_MS, 900, "START"),
        Election(0, 2, leader, node, AT_MS + 16_000, 1000, "NODE_FAILED"),
    )
    led = ((node, Span(AT_MS, AT_MS + 15_000)), (leader, Span(AT_MS + 16_000, AT_MS + 60_000)))
    shard = ShardAvailability(0, leader, figures([window], [gap]), (gap,), (window,), elections, led)
    system = SystemAvailability(figures([window], [gap]), (gap,), (window,))
    return Availability(window, tuple(names), {}, 3, nodes, (shard,), system)


def report(**changes: Any) -> Report:
    """A live cluster's, with everything but slow requests; `changes`: fields that differ."""
    given: dict[str, Any] = {
        "sources": Sources(AT_MS, asked=["127.0.0.1:7401"], spans=100, requests=20),
        "cluster_id": "0123456789abcdef",
        "members": [Member(name, f"127.0.0.1:740{at}", "ACTIVE", 1, 1, ()) for at, name in enumerate(("n1", "n2", "n3"), 1)],
        "window": (AT_MS, AT_MS + 60_000),
        "latency": Latency(AT_MS, {PUT: histogram(range(1000, 3000)), GET: histogram([500] * 100)}, {PUT: [], GET: []}),
        "over_time": {PUT: over_time({"fsync": 2, "network": 1}, None, {"fsync": 4})},
        "availability": availability(),
        "outcomes": success_rates(
            {("put", "STRONG", "OK"): 1990, ("put", "STRONG", "NO_LEADER"): 10, ("get", "STRONG", "OK"): 100}
        ),
    }
    return Report(**given | changes)


@dataclass
class Element:
    """One of a page."""

    name: str
    attributes: dict[str, str | None]
    text: str = ""
    """All that is in it."""


@dataclass
class Seen(html.parser.HTMLParser):
    """A page, read."""

    elements: list[Element] = field(default_factory=list)

    def __init__(self, page: str) -> None:
        self.elements = []
        self._open: list[Element] = []
        super().__init__()
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element begins."""
        made = Element(tag, dict(attrs))
        self.elements.append(made)
        if tag not in ("meta", "link", "br", "hr", "col", "img"):
            self._open.append(made)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """An element without content."""
        self.elements.append(Element(tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """An element ends; of what is well formed the last that began."""
        assert self._open, f"</{tag}> ends nothing"
        assert self._open.pop().name == tag

    def handle_data(self, data: str) -> None:
        """Text."""
        for element in self._open:
            element.text += data

    def all(self, name: str = "", class_: str = "", **attributes: str) -> list[Element]:
        """Elements of a name, with a class among theirs, and with attributes; "_" stands for "-"."""
        wanted = {key.rstrip("_").replace("_", "-"): value for key, value in attributes.items()}
        return [
            element
            for element in self.elements
            if (not name or element.name == name)
            and (not class_ or class_ in (element.attributes.get("class") or "").split())
            and all(element.attributes.get(key) == value for key, value in wanted.items())
        ]
