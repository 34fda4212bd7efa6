"""What the peers' answers mean."""

from __future__ import annotations

import pytest

from kvnode import __version__
from kvnode.doctor.asking import Answer, Silence
from kvnode.doctor.finding import Finding, Level
from kvnode.doctor.peers import judge_clocks, judge_peer, judge_peers
from tests.unit.doctor.subjects import MEMBERS, make_config

GOOD = Answer("orders", "n2", __version__, MEMBERS, 8, 100.0, 0.002, 0.010)


@pytest.mark.parametrize(
    ("answer", "level", "found", "advice"),
    [
        (GOOD, Level.OK, f"kvnode {__version__}, answers in 2.0 ms", ""),
        (GOOD._replace(version="9.0.0"), Level.OK, "kvnode 9.0.0, answers in 2.0 ms; this is", "while an upgrade rolls"),
        (Silence("refuses connections", is_refused=True), Level.WARNING, "10.0.0.2:7401: refuses", "Start n2"),
        (Silence("no connection within 2 s"), Level.PROBLEM, "no connection within 2 s", "firewalls"),
        (Silence("connected, but", is_other=True), Level.PROBLEM, "connected, but", "See what runs there"),
        (GOOD._replace(cluster_id="play"), Level.PROBLEM, "node n2 of cluster play, not of orders", "refuse each other"),
        (GOOD._replace(name="n3"), Level.PROBLEM, "answers as n3", "Correct cluster.members"),
        (
            GOOD._replace(members={**MEMBERS, "n3": "10.0.0.9:7401"}),
            Level.PROBLEM,
            "its cluster.members.n3 is 10.0.0.9:7401, here it is 10.0.0.3:7401",
            "the same on all nodes",
        ),
        (
            GOOD._replace(members={"n1": MEMBERS["n1"], "n2": MEMBERS["n2"], "n4": "10.0.0.4:7401"}),
            Level.PROBLEM,
            "its cluster.members.n3 is no member, here it is 10.0.0.3:7401; its cluster.members.n4 is 10.0.0.4:7401, here",
            "the same on all nodes",
        ),
        (GOOD._replace(shards=16), Level.PROBLEM, "its cluster.shards is 16, here it is 8", "the same on all nodes"),
    ],
)
def test_peer_by_its_answer_is_judged(answer: Answer | Silence, level: Level, found: str, advice: str) -> None:
    """Who is there, what differs, and what to do."""
    finding = judge_peer(make_config(), "n2", answer)
    assert (finding.name, finding.level) == ("peer n2", level)
    assert "10.0.0.2:7401: " in finding.found
    assert found in finding.found
    assert advice in finding.advice


@pytest.mark.parametrize(
    ("ahead", "round_trip", "level"),
    [
        (0.010, 0.002, Level.OK),
        (-0.240, 0.002, Level.OK),
        (-0.260, 0.002, Level.WARNING),
        (0.495, 0.002, Level.WARNING),
        (0.510, 0.002, Level.PROBLEM),
        (-7.0, 0.002, Level.PROBLEM),
        (0.700, 0.600, Level.WARNING),
        (0.700, 1.000, Level.OK),
    ],
)
def test_clocks_of_peers_by_their_distance_are_judged(ahead: float, round_trip: float, level: Level) -> None:
    """Against clock.max_clock_skew_ms; what the round trip leaves open is no proof."""
    finding = judge_clocks(500, {"n2": GOOD._replace(clock_ahead=ahead, round_trip=round_trip), "n3": GOOD})
    assert finding.level == level
    assert f"n2 {ahead * 1000:+.0f} ms (±{round_trip * 500 + 1:.0f}), n3 +10 ms (±2)" in finding.found


def test_clocks_of_strangers_are_not_compared() -> None:
    """What another cluster's node has for a clock says nothing of this one."""
    findings = judge_peers(make_config(), {"n2": GOOD._replace(cluster_id="play", clock_ahead=99.0), "n3": GOOD})
    assert findings[-1] == Finding(
        "clocks of peers", Level.SKIPPED, "no peer answers"
    )  # (n3's address was answered by n2: it is a stranger, too)


def test_peers_of_a_node_alone_are_skipped() -> None:
    """A cluster of one has nobody to reach."""
    assert judge_peers(make_config(), {}) == [Finding("peers", Level.SKIPPED, "this node is alone")]
