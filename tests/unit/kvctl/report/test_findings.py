"""What stands out: the worst first, in few sentences, and nothing invented."""

from __future__ import annotations

from dataclasses import replace

from kvctl.availability.model import figures
from kvctl.availability.outcomes import success_rates
from kvctl.report.findings import findings, stage_shares
from kvctl.report.model import Sources
from tests.unit.kvctl.report.made import AT_MS, PUT, availability, over_time, report


def calm() -> dict[str, object]:
    """A cluster without a failure."""
    found = availability()
    nodes = tuple(replace(node, outages=(), figures=figures(node.observed, ())) for node in found.nodes)
    shards = tuple(replace(shard, outages=(), figures=figures(shard.observed, ())) for shard in found.shards)
    system = replace(found.system, outages=(), figures=figures(found.system.observed, ()))
    return {
        "availability": replace(found, nodes=nodes, shards=shards, system=system),
        "outcomes": success_rates({("put", "STRONG", "OK"): 2000, ("put", "STRONG", "COMPARE_FAILED"): 5}),
    }


def test_findings_name_the_node_the_outage_and_the_unanswered() -> None:
    """Who, when, how long, what it meant; how many requests; where the time went."""
    assert findings(report()) == [
        "n2 failed at 2023-11-14T22:13:35.000Z and was down for 15.0 s; shard 0 had no leader for 1.0 s.",
        "10 of 2,100 requests (0.5 %) were not answered: NO_LEADER (10).",
        "Most time went to put strong: 2.0 ms at the median, 3.0 ms at p99; "
        "of those that left spans, above all in fsync (86 %).",
    ]


def test_findings_of_a_calm_cluster_say_so() -> None:
    """An error that the caller earned is an answer."""
    first, *rest = findings(report(**calm()))
    assert first.startswith("Most time went to put strong")
    assert rest == [
        "No node failed and no shard was without a leader in the 1 min 0 s on record.",
        "All 2,005 requests were answered.",
    ]


def test_findings_say_first_who_was_silent() -> None:
    """What is missing bends all else; there are three sentences at most."""
    found = findings(report(sources=Sources(AT_MS, asked=["x"], silent={"n3": "refused"})))
    assert found[0] == "n3 did not answer: what only it knows is missing here."
    assert len(found) == 3


def test_findings_of_files_claim_no_success_rate() -> None:
    """Failed requests always leave spans: their share among those that did says nothing."""
    rates = success_rates({("put", "STRONG", "OK"): 5, ("put", "STRONG", "NO_LEADER"): 5})
    first = findings(report(availability=None, outcomes=(), outcomes_of_traces=rates))[0]
    assert first == "5 requests that left spans were not answered: NO_LEADER (5)."


def test_findings_tell_of_a_long_tail() -> None:
    """Where p99 is many times the median."""
    found = report(**calm())
    assert found.latency is not None
    histogram = found.latency.distributions[PUT]
    for _ in range(100):
        histogram.record(100_000)
    assert "times as long" in findings(found)[0]


def test_findings_of_nothing_are_none() -> None:
    """No data, no words."""
    assert findings(report(latency=None, over_time={}, availability=None, outcomes=())) == []


def test_stage_shares_weigh_intervals_by_their_requests() -> None:
    """Of all time, not of the intervals' means."""
    found = over_time({"fsync": 3.0}, {"network": 1.0})
    few = replace(found.intervals[0], requests=10)
    many = replace(found.intervals[1], requests=30)
    assert stage_shares(replace(found, intervals=[few, many])) == {"fsync": 0.5, "network": 0.5}
