"""Lines of time: what is where on them."""

from __future__ import annotations

from dataclasses import replace

from kvctl.availability.model import NodeAvailability, Outage, figures
from kvctl.availability.spans import Span
from kvctl.report import timeline
from tests.unit.kvctl.report.made import AT_MS, Element, Seen, availability

WINDOW = Span(AT_MS, AT_MS + 60_000)


def node(*outages: Outage, observed: Span = WINDOW, recovering: tuple[Span, ...] = ()) -> NodeAvailability:
    """A node with these."""
    return NodeAvailability("n1", "ACTIVE", figures([observed], outages), outages, (observed,), recovering)


def place(element: Element) -> tuple[str | None, str | None]:
    """Where it begins and how long it is."""
    return element.attributes["x"], element.attributes["width"]


def test_node_line_shows_failures_stops_and_recovery_where_they_were() -> None:
    """Shares of the window; what is up is what is left."""
    failed = Outage(Span(AT_MS + 15_000, AT_MS + 30_000), why="silent for 2 s")
    planned = Outage(Span(AT_MS + 30_000, AT_MS + 36_000), planned=True)
    page = Seen(timeline.node_line(node(failed, planned, recovering=(Span(AT_MS + 36_000, AT_MS + 42_000),)), WINDOW))
    assert [place(rect) for rect in page.all("rect", "failed")] == [("25%", "25%")]
    assert [place(rect) for rect in page.all("rect", "planned")] == [("50%", "10%")]
    assert [place(rect) for rect in page.all("rect", "recovering")] == [("60%", "10%")]
    assert [place(rect) for rect in page.all("rect", "up")] == [("0%", "25%"), ("60%", "40%")]
    told = page.all("rect", "failed")[0].attributes["data-tip"]
    assert told == "n1 down\n\t22:13:35.000Z – 22:13:50.000Z\t15.0 s\n\t\tsilent for 2 s"
    assert page.all("svg")[0].attributes["aria-label"] == "n1, 1 failure, 15.0 s in all"


def test_node_line_is_empty_where_nothing_is_known() -> None:
    """Before its first service there is the ground alone."""
    page = Seen(timeline.node_line(node(observed=Span(AT_MS + 30_000, AT_MS + 60_000)), WINDOW))
    assert [place(rect) for rect in page.all("rect", "up")] == [("50%", "50%")]


def test_node_line_has_an_outage_without_length() -> None:
    """A restart that nobody saw has its place; its border makes it visible."""
    page = Seen(timeline.node_line(node(Outage(Span(AT_MS + 30_000, AT_MS + 30_000))), WINDOW))
    assert [place(rect) for rect in page.all("rect", "failed")] == [("50%", "0%")]


def test_shard_line_shows_leaders_gaps_and_elections() -> None:
    """Who leads long enough is named; an election after a failure is marked as bad, one after a start is not."""
    found = availability()
    page = Seen(timeline.shard_line(found.shards[0], WINDOW, ["n1", "n2", "n3"]))
    assert [(*place(rect), rect.attributes["class"]) for rect in page.all("rect", "led")] == [
        ("0%", "25%", "led n-1"),
        ("26.67%", "73.33%", "led n-0"),
    ]
    assert [text.text for text in page.all("text")] == ["n2", "n1"]
    assert [place(rect) for rect in page.all("rect", "failed")] == [("25%", "1.67%")]
    assert [mark.attributes["x"] for mark in page.all("svg", "calm")] == ["0%"]
    assert [mark.attributes["x"] for mark in page.all("svg", "bad")] == ["26.67%"]
    told = page.all("svg", "bad")[0].attributes["data-tip"] or ""
    assert told.split("\n")[0] == "n1 became the leader of shard 0"
    assert "term 2, before it n2" in told
    assert "1.0 s without a leader" in told


def test_events_strip_has_what_falls_into_the_picture() -> None:
    """Outages are cut to it; without any, and without knowledge, there is no strip."""
    found = availability()
    page = Seen(timeline.events_strip(found, AT_MS + 20_000, AT_MS + 40_000))
    assert [place(rect) for rect in page.all("rect", "failed")] == [("0%", "50%")]
    assert not page.all("svg", "mark")
    assert timeline.events_strip(found, AT_MS + 40_000, AT_MS + 50_000) == ""
    assert timeline.events_strip(None, AT_MS, AT_MS + 1) == ""


def test_lines_of_a_window_without_length_do_not_fail() -> None:
    """All is at its beginning."""
    found = availability()
    instant = Span(AT_MS, AT_MS)
    assert "nan" not in timeline.node_line(found.nodes[1], instant)
    assert "nan" not in timeline.shard_line(replace(found.shards[0], led=()), instant, [])
    assert "nan" not in timeline.system_line(found.system, instant)
