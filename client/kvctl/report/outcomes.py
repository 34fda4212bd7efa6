"""Section: how requests ended.

Owns its look. What counts as answered is `kvctl.availability.outcomes`'s.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from kvctl.availability.model import SuccessRate
from kvctl.availability.outcomes import ANSWERS, NOT_COUNTED
from kvctl.report.markup import Markup, join, tag
from kvctl.report.model import Report
from kvctl.report.sections import missing, section
from kvctl.report.tables import table
from kvctl.report.words import count, share_text

CARRIER = "batch"
"""Its operations count by themselves."""


def owed(rate: SuccessRate) -> Mapping[str, int]:
    """What the cluster did not answer, by reason."""
    return {outcome: number for outcome, number in rate.counts.items() if outcome not in ANSWERS + NOT_COUNTED}


def of_callers(rates: Iterable[SuccessRate]) -> list[SuccessRate]:
    """Requests that somebody asked for: neither parts of others nor what carries others."""
    return [rate for rate in rates if "/" not in rate.operation and rate.operation != CARRIER]


def outcomes_section(report: Report) -> Markup:
    """Success rates by operation and consistency: as nodes answered, and as clients saw it."""
    lead = (
        "An error that tells the caller something about its own request, such as COMPARE_FAILED, is an answer; what the "
        "cluster owed and did not give is none."
    )
    tables = [*_of_nodes(report), *_of_clients(report)]
    if not tables:
        return section("outcomes", "Outcomes", "", missing("No outcome of any request is known."))
    return section("outcomes", "Outcomes", lead, *tables)


def _of_nodes(report: Report) -> Iterator[Markup]:
    if report.outcomes:
        remark = "Since each node's start. A request that one node forwarded to another counts on both."
        yield from (tag("h3", "As nodes answered"), _rates(report.outcomes, exact=True), tag("p", remark, class_="remark"))
    elif report.outcomes_of_traces:
        remark = (
            "Only requests that left spans: those that fail always do, those that succeed only when they are sampled or slow. "
            "No success rate follows from that; a live cluster counts all."
        )
        rates = _rates(report.outcomes_of_traces, exact=False)
        yield from (tag("h3", "As nodes answered"), rates, tag("p", remark, class_="remark"))


def _of_clients(report: Report) -> Iterator[Markup]:
    if report.outcomes_of_clients:
        remark = "Operations with all their attempts, of clients that left spans; right if they sample whatever the end."
        rates = _rates(report.outcomes_of_clients, exact=True)
        yield from (tag("h3", "As clients saw it"), rates, tag("p", remark, class_="remark"))


def _rates(rates: Iterable[SuccessRate], *, exact: bool) -> Markup:
    headers = [
        "operation",
        "consistency",
        *(["success rate"] if exact else []),
        "answered",
        "not answered",
        "how they ended",
    ]
    rows = [
        [
            rate.operation,
            _consistency(rate),
            *([share_text(rate.share)] if exact else []),
            count(rate.answered),
            tag("strong", count(rate.unanswered), class_="bad") if rate.unanswered else "0",
            _endings(rate),
        ]
        for rate in sorted(rates, key=lambda rate: ("/" in rate.operation, rate.operation, rate.consistency))
    ]
    return table(headers, rows, caption="Outcomes by operation", numeric="success rate|answered|not answered", class_="rates")


def _consistency(rate: SuccessRate) -> str:
    return "" if rate.consistency == "UNSPECIFIED" else rate.consistency.lower()


def _endings(rate: SuccessRate) -> Markup:
    """Every outcome, the most frequent first."""
    ranked = sorted(rate.counts.items(), key=lambda item: (-item[1], item[0]))
    return join(
        (
            tag(
                "span",
                f"{outcome} {count(number)}",
                class_="ending" if outcome in ANSWERS else "ending calm" if outcome in NOT_COUNTED else "ending bad",
            )
            for outcome, number in ranked
        ),
        " ",
    )
