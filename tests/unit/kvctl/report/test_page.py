"""The page as a whole: it is complete, it loads nothing, and nothing in it that comes from data is markup."""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import replace

import pytest

from kvclient.histogram import summarize
from kvctl.availability.outcomes import success_rates
from kvctl.report import gather
from kvctl.report.model import Happening, Kind, Latency, Member, Report, Slow, Sources
from kvctl.report.page import PARTS, page
from kvctl.traces.critical_path import Part
from kvctl.traces.explain import Explanation
from kvctl.traces.latency import Row as StageRow
from kvctl.traces.request import Request
from kvctl.traces.waterfall import Row
from tests.unit.kvctl.report.made import AT_MS, PUT, Seen, availability, histogram, over_time, report

EVIL = "<img src=x onerror=alert(1)>\"'&</script><script>alert(1)</script>\x00\x1b[2J\u202e"
SHOWN = EVIL.replace("\x00", "\\x00").replace("\x1b", "\\x1b").replace("\u202e", "\\u202e")
ELEMENTS = {
    *("html", "head", "meta", "title", "style", "body", "a", "nav", "main", "header", "section", "figure", "figcaption"),
    *("h1", "h2", "h3", "p", "ul", "li", "dl", "dt", "dd", "div", "span", "b", "i", "strong", "small", "code", "time"),
    *("table", "caption", "thead", "tbody", "tr", "th", "td", "button", "details", "summary"),
    *("svg", "text", "line", "path", "rect", "script"),
}


def slow(rows: list[Row], name: str = "put", node: str = "n1", error: str = "") -> Slow:
    """A slow request with these rows."""
    request = Request(
        "ab" * 16, "cd" * 8, name, "strong", node, 3, AT_MS * 10**6, 50_000_000, "slow", error, 1, True, False, "", "", 0
    )
    explanation = Explanation("ab" * 16, name, node, 50_000_000, None, error, (), ())
    return Slow(request, explanation, {Part("fsync", node): 40_000_000, Part(name, node): 10_000_000}, rows, 7)


def evil() -> Report:
    """Every text that can come from outside is an attack."""
    kind = Kind(EVIL, EVIL)
    values = histogram([1000])
    return Report(
        Sources(AT_MS, files=[EVIL], asked=[EVIL], silent={EVIL: EVIL}, damaged_lines=1),
        cluster_id=EVIL,
        members=[Member(EVIL, EVIL, EVIL, 1, 1, (0,))],
        window=(AT_MS, AT_MS + 60_000),
        latency=Latency(None, {kind: values}, {kind: [StageRow(EVIL, EVIL, EVIL, summarize(values))]}),
        over_time={kind: replace(over_time({EVIL: 1.0}), kept={EVIL: 1})},
        slowest=[slow([Row(0, EVIL, EVIL, 0, 5, 5, False, True, EVIL)], EVIL, EVIL, EVIL)],
        slowest_of_all=1,
        availability=replace(availability(EVIL, EVIL, EVIL), missing={EVIL: EVIL}),
        outcomes=success_rates({(EVIL, EVIL, EVIL): 1}),
        outcomes_of_clients=success_rates({(EVIL, EVIL, EVIL): 1}),
    )


def evil_files() -> Report:
    """The same, without a cluster."""
    happening = Happening(AT_MS, 5, EVIL, EVIL, 3, EVIL)
    return replace(
        evil(), cluster_id="", availability=None, outcomes=(), outcomes_of_traces=evil().outcomes, happenings=[happening]
    )


@pytest.mark.parametrize("made", [evil, evil_files])
def test_page_of_hostile_names_holds_them_as_text(made: object) -> None:
    """No element, no handler, no address and no style that this package did not write; the texts are there to be read."""
    seen = Seen(page(made()))  # type: ignore[operator]
    assert {element.name for element in seen.elements} <= ELEMENTS
    for element in seen.elements:
        names = set(element.attributes)
        assert not {name for name in names if name.startswith("on")}
        assert not names & {"style", "src", "srcset", "action", "formaction", "xlink:href"}
        assert (element.attributes.get("href") or "#").startswith("#")
        assert not re.search(r"[^\w -]", element.attributes.get("class") or "")
    assert len(seen.all("script")) == len(seen.all("style")) == 1
    shown = seen.all("body")[0].text
    assert shown.count(SHOWN) > 20
    assert not re.search("[\x00\x1b\u202e]", shown)


def test_page_allows_only_its_own_style_and_script() -> None:
    """The policy forbids all else, and its hashes are those of what is there."""
    seen = Seen(page(report()))
    (policy,) = seen.all("meta", http_equiv="Content-Security-Policy")
    rules = dict(rule.strip().split(" ", 1) for rule in (policy.attributes["content"] or "").split(";"))

    def hash_of(name: str) -> str:
        (element,) = seen.all(name)
        return f"'sha256-{base64.b64encode(hashlib.sha256(element.text.encode()).digest()).decode()}'"

    assert rules == {
        "default-src": "'none'",
        "style-src": hash_of("style"),
        "script-src": hash_of("script"),
        "base-uri": "'none'",
        "form-action": "'none'",
    }


def test_page_names_no_address_outside_itself() -> None:
    """Nothing to load, nothing to follow: not in its style or its script either."""
    content = page(report(slowest=[slow([Row(0, "Put", "n1", 0, 5, 5, False, False, "")])], slowest_of_all=1))
    assert not re.search(r"https?:|//[a-z]|url\(|@import|fetch\(|XMLHttp|innerHTML|eval\(", content)


def test_page_has_every_section_and_its_link() -> None:
    """The navigation leads somewhere; each heading names its section."""
    seen = Seen(page(report()))
    ids = {element.attributes["id"] for element in seen.elements if "id" in element.attributes}
    assert {id_ for id_, _ in PARTS} <= ids
    assert [link.attributes["href"] for link in seen.all("nav")[0:1] and seen.all("a")][1:] == [f"#{id_}" for id_, _ in PARTS]
    for section in seen.all("section"):
        assert section.attributes["aria-labelledby"] in ids
    assert len(ids) == len([element for element in seen.elements if "id" in element.attributes])


def test_page_of_a_cluster_shows_its_figures() -> None:
    """The overview's tiles, the nodes, the rates."""
    seen = Seen(page(report()))
    tiles = dict(zip([dt.text for dt in seen.all("dt")], [dd.text for dd in seen.all("dd")], strict=True))
    assert tiles["requests"] == "2,100as nodes counted them"
    assert tiles["answered"] == "99.5 %10 were not"
    assert tiles["put strong"] == "2.0 msmedian; p99 3.0 ms"
    assert tiles["all shards available"] == "98.3 %of 1 min 0 s"
    assert tiles["failures of nodes"] == "1no stop by plan"
    assert seen.all("h1")[0].text == "Cluster 01234567, 3 nodes"
    rows = [row.text for row in seen.all("tr")]
    assert any(row.startswith("putstrong99.5 %1,99010OK 1,990 NO_LEADER 10") for row in rows)
    assert any(row.startswith("n275 %145.0 s15.0 s15.0 s") for row in rows)


def test_page_without_a_cluster_says_what_is_missing_and_why() -> None:
    """Availability is left out with a word; rates are none; no figure stands for what is not known."""
    shown = Seen(
        page(
            Report(
                Sources(AT_MS, files=["a.jsonl"], spans=5, requests=1),
                latency=Latency(None, {PUT: histogram([1000])}, {PUT: []}),
                outcomes_of_traces=success_rates({("put", "STRONG", "OK"): 1}),
            )
        )
    )
    text = shown.all("main")[0].text
    assert "Left out: files of traces do not tell when nodes were up." in text
    assert "No success rate follows from that" in text
    assert "a.jsonl" in text
    assert "uptime" not in text
    assert "success rate" not in [header.text for header in shown.all("th")]


@pytest.mark.parametrize("asked", [[], ["127.0.0.1:7401"]])
def test_page_of_nothing_is_whole(asked: list[str]) -> None:
    """Each section says that it knows nothing."""
    seen = Seen(page(Report(Sources(AT_MS, asked=asked))))
    assert len(seen.all("p", "none")) == 5
    assert "nan" not in seen.all("main")[0].text


def test_page_names_who_did_not_answer() -> None:
    """At the top, and with the reason at the end."""
    seen = Seen(page(report(sources=Sources(AT_MS, asked=["x"], silent={"n3": "connection refused"}))))
    assert "n3 did not answer" in seen.all("header")[0].text
    assert "missing: n3connection refused" in seen.all(id="about")[0].text


def test_page_with_a_hundred_long_traces_is_below_three_megabytes() -> None:
    """As many rows as are ever drawn, with long names."""
    each = gather.ROWS_IN_ALL // 100
    rows = [
        Row(at % 9, f"kvapi.v1.KV/operation-{at:06}", "node-12", at * 997, 1234567, at % 2, True, True, "")
        for at in range(each)
    ]
    content = page(report(slowest=[slow(rows) for _ in range(100)], slowest_of_all=100))
    assert 1_000_000 < len(content.encode()) < 3_000_000


def test_waterfall_fades_what_was_not_waited_for_and_not_its_parents() -> None:
    """A parent is on the path where a child is."""
    rows = [
        Row(0, "kvapi.v1.KV/Put", "n1", 0, 100, 0, False, False, ""),
        Row(1, "log_write", "n1", 0, 60, 60, False, False, ""),
        Row(1, "append", "n2", 0, 90, 0, False, True, "LOST"),
    ]
    seen = Seen(page(report(slowest=[slow(rows)], slowest_of_all=1)))
    classes = [row.attributes["class"] for row in seen.all("tr") if row.attributes.get("class")]
    assert classes == ["d0 whole", "d1", "d1 off"]
    (write,) = [rect for rect in seen.all("rect", "s-log-write") if rect.attributes.get("data-tip") is None]
    assert (write.attributes["x"], write.attributes["width"]) == ("0%", "60%")
    assert "∥ append LOST" in seen.all("table", "waterfall")[0].text
    assert "7 more spans, for which it waited least, are not drawn." in seen.all("details", "slow")[0].text
