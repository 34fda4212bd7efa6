"""What stands out, in a few sentences.

Owns the choice and the words: first what is wrong, then where the time goes, then what is well. Pure, and deterministic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from kvctl.availability.model import Availability, NodeAvailability
from kvctl.report.model import Kind, OverTime, Report
from kvctl.report.outcomes import of_callers, owed
from kvctl.report.words import count, moment, plural, share_text, span_text
from kvctl.traces.words import duration_words, listed, times

SENTENCES_MAX = 3
FAILED_NAMED_MAX = 3
SHARE_MIN = 0.15
"""Of a kind's time; a stage with less is not worth naming."""
TAIL = 8
"""A p99 so many times the median is worth a word."""


def findings(report: Report) -> list[str]:
    """At most SENTENCES_MAX, the worst first."""
    wrong = [*_silent(report), *_outages(report.availability), *_unanswered(report)]
    well = [*_no_outage(report.availability), *_all_answered(report)]
    return [*wrong[: SENTENCES_MAX - 1], *_slow(report), *wrong[SENTENCES_MAX - 1 :], *well][:SENTENCES_MAX]


def _silent(report: Report) -> Iterator[str]:
    if report.sources.silent:
        names = sorted(report.sources.silent)
        yield f"{listed(names)} did not answer: what only {'it knows' if len(names) == 1 else 'they know'} is missing here."


def _outages(found: Availability | None) -> Iterator[str]:
    if found is None:
        return
    failed = sorted((node for node in found.nodes if node.figures.failures), key=lambda node: -node.figures.failed_ms)
    if failed:
        named = "; ".join(_failures(node) for node in failed[:FAILED_NAMED_MAX])
        others = f"; {plural(len(failed) - FAILED_NAMED_MAX, 'more node')}, too" if len(failed) > FAILED_NAMED_MAX else ""
        yield f"{named}{others}{_leaderless(found)}."
    elif found.system.figures.failures:
        yield f"No node failed, but {_leaderless(found).removeprefix('; ')}."


def _failures(node: NodeAvailability) -> str:
    figures = node.figures
    longest = figures.longest
    if figures.failures == 1 and longest is not None:
        since = f" at {moment(longest.span.from_ms)}"
        end = (
            f"has been down since, for {span_text(longest.span.ms)}"
            if longest.ongoing
            else f"was down for {span_text(longest.span.ms)}"
        )
        return f"{node.name} failed{since} and {end}"
    return f"{node.name} failed {times(figures.failures)} and was down for {span_text(figures.failed_ms)} in all"


def _leaderless(found: Availability) -> str:
    shards = [str(shard.shard) for shard in found.shards if shard.figures.failures]
    if not shards:
        return "; no shard was without a leader for it"
    longest = max(shard.figures.longest.span.ms for shard in found.shards if shard.figures.longest is not None)
    named = (
        f"shard {shards[0]}"
        if len(shards) == 1
        else f"shards {listed(shards)}"
        if len(shards) <= 6
        else f"{len(shards)} shards"
    )
    return f"; {named} had no leader for {'' if len(shards) == 1 else 'up to '}{span_text(longest)}"


def _unanswered(report: Report) -> Iterator[str]:
    """Of what was measured; of nodes' traces alone, without a share: failed requests always leave spans."""
    measured = report.outcomes or report.outcomes_of_clients
    rates = of_callers(measured or report.outcomes_of_traces)
    missing, whole = sum(rate.unanswered for rate in rates), sum(rate.answered + rate.unanswered for rate in rates)
    if not missing:
        return
    reasons: Counter[str] = Counter()
    for rate in rates:
        reasons.update(owed(rate))
    named = listed([f"{reason} ({count(number)})" for reason, number in reasons.most_common(3)])
    of = f"of {count(whole)} requests ({share_text(missing / whole)}) were" if measured else "requests that left spans were"
    yield f"{count(missing)} {of} not answered: {named}."


def _slow(report: Report) -> Iterator[str]:
    """The kind that most time went to, and what it waited for."""
    if report.latency is None:
        return
    kind, histogram = next(iter(report.latency.distributions.items()))
    p50, p99 = histogram.percentile(50), histogram.percentile(99)
    tail = f", {p99 / p50:.0f} times as long" if p50 and p99 / p50 >= TAIL else ""
    yield (
        f"Most time went to {kind.words}: {duration_words(p50 * 1000)} at the median, "
        f"{duration_words(p99 * 1000)} at p99{tail}{_waits(report, kind)}."
    )


def _waits(report: Report, kind: Kind) -> str:
    over_time = report.over_time.get(kind) or report.over_time.get(kind._replace(by_client=True))
    if over_time is None:
        return ""
    shares = stage_shares(over_time)
    named = [f"{stage} ({share:.0%})".replace("%)", " %)") for stage, share in list(shares.items())[:2] if share >= SHARE_MIN]
    return f"; of those that left spans, above all in {listed(named)}" if named else ""


def stage_shares(over_time: OverTime) -> dict[str, float]:
    """Of the time of all traced requests, the share of each stage; the greatest first."""
    sums: dict[str, float] = {}
    for interval in over_time.intervals:
        for stage, mean_ns in interval.means_ns.items():
            sums[stage] = sums.get(stage, 0) + mean_ns * interval.requests
    whole = sum(sums.values()) or 1
    return {stage: sums[stage] / whole for stage in sorted(sums, key=lambda stage: (-sums[stage], stage))}


def _no_outage(found: Availability | None) -> Iterator[str]:
    if found is not None and not any(node.figures.failures for node in found.nodes) and not found.system.figures.failures:
        yield f"No node failed and no shard was without a leader in the {span_text(found.window.ms)} on record."


def _all_answered(report: Report) -> Iterator[str]:
    whole = sum(rate.answered for rate in of_callers(report.outcomes))
    if whole and not any(rate.unanswered for rate in of_callers(report.outcomes)):
        yield f"All {count(whole)} requests were answered."
