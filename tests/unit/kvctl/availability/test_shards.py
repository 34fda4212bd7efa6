"""Shards without a leader: from leaderships on record, and from what became of the nodes that led."""

from __future__ import annotations

import pytest

from kvapi.v1 import cluster_pb2
from kvctl.availability.merge import availability
from kvctl.availability.model import Availability, ShardAvailability
from tests.unit.kvctl.availability.world import EPOCH_MS, HEARTBEAT_MS, REPAIR_MS, STEP_MS, World

LATE_MS = HEARTBEAT_MS + 2 * STEP_MS
REPLICAS = {0: ("n1", "n2", "n3"), 1: ("n2", "n3", "n1")}


def shard(found: Availability, number: int = 0) -> ShardAvailability:
    """One of the shards."""
    return next(one for one in found.shards if one.shard == number)


def gaps(found: ShardAvailability) -> list[tuple[int, int, bool]]:
    """(from, to, planned) of its outages, since the beginning."""
    return [(o.span.from_ms - EPOCH_MS, o.span.to_ms - EPOCH_MS, o.planned) for o in found.outages]


def led_world(*shards: int) -> World:
    """Three nodes; n1 leads the shards from 1 s on."""
    world = World()
    for number in shards or (0,):
        world.at(1000, world.lead, "n1", number, 1, "", 1000, "START")
    return world


def test_shard_before_its_first_leader_is_not_counted() -> None:
    """It has not been in service yet."""
    world = led_world()
    world.run(10_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    assert (found.leader, found.outages, found.figures.uptime_share) == ("n1", (), 1.0)
    assert found.figures.up_ms == 9000
    assert [(e.leader, e.cause, e.leaderless_ms) for e in found.elections] == [("n1", "START", 1000)]


def test_shard_is_down_from_its_leaders_last_word_to_the_next_ones_first_commit() -> None:
    """A crash of the leader, and an election."""
    world = led_world()
    world.crash("n1", 10_000, 20_000)
    world.at(11_200, world.lead, "n2", 0, 2, "n1", 1300, "NODE_FAILED")
    world.run(30_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    ((begin, end, planned),) = gaps(found)
    assert (end, planned, found.leader) == (11_200, False, "n2")
    assert begin == pytest.approx(10_000, abs=LATE_MS)
    assert found.outages[0].why == "n1 was FAILED, n2 leads"
    assert found.figures.failures == 1
    assert [(name, span.to_ms - EPOCH_MS) for name, span in found.led] == [("n1", begin), ("n2", 30_000)]


def test_shard_handed_over_is_down_by_plan() -> None:
    """As at a graceful stop: some milliseconds, and no failure."""
    world = led_world()
    world.at(10_000, world.lead, "n2", 0, 2, "n1", 30, "TRANSFER")
    world.run(20_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    assert gaps(found) == [(9970, 10_000, True)]
    assert (found.figures.failures, found.figures.stops, found.figures.planned_ms) == (0, 1, 30)


def test_shard_whose_leader_was_paused_and_went_on_was_down_meanwhile() -> None:
    """Nobody took over, as nobody could: the old leadership goes on."""
    world = led_world()
    world.pause("n1", 10_000, 14_000)
    world.run(20_000)
    found = shard(availability(world.answers()))
    ((begin, end, planned),) = gaps(found)
    assert (begin, end) == (pytest.approx(10_000, abs=LATE_MS), pytest.approx(14_000, abs=LATE_MS))
    assert (planned, found.leader, found.outages[0].why) == (False, "n1", "n1 was not there")


def test_shard_whose_leader_restarted_has_none_until_the_next_election() -> None:
    """Its own record of a start ends its leadership, noticed by others or not."""
    world = led_world()
    world.crash("n1", 10_000, 10_200)
    world.at(12_000, world.lead, "n1", 0, 2, "", 1700, "START")
    world.run(20_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    ((begin, end, planned),) = gaps(found)
    assert (end, planned) == (12_000, False)
    assert 10_000 - 2050 <= begin <= 10_000


def test_shard_without_a_majority_of_its_replicas_is_down_although_its_leader_lives() -> None:
    """n1 leads, and can commit nothing; n2, which wins later, has only just started and knows of no leader."""
    world = led_world()
    world.crash("n2", 10_000, 20_000)
    world.crash("n3", 10_000)
    world.at(20_600, world.lead, "n2", 0, 2, "", 600, "START")
    world.run(30_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    ((begin, end, _),) = gaps(found)
    assert (begin, end) == (pytest.approx(10_000, abs=LATE_MS), 20_600)


def test_shard_without_a_leader_now_is_down_since_the_last_word_that_anybody_heard() -> None:
    """All its replicas that answer say so."""
    world = led_world()
    world.run(20_000)
    answers = world.answers()
    for answer, since_ms in zip(answers, (5000, 3000, 4000), strict=True):
        answer.without_leader.add(shard=0, since_ms=since_ms, previous="n1")
    found = shard(availability(answers, replicas=REPLICAS))
    assert gaps(found) == [(17_000, 20_000, False)]
    assert found.outages[0].ongoing
    assert found.leader == ""


def test_shard_that_one_replica_knows_a_leader_of_has_one() -> None:
    """The others may be cut off from it."""
    world = led_world()
    world.run(20_000)
    answers = world.answers()
    for answer in answers[1:]:
        answer.without_leader.add(shard=0, since_ms=5000, previous="n1")
    assert shard(availability(answers, replicas=REPLICAS)).outages == ()


def test_leadership_of_a_node_that_does_not_answer_is_told_by_its_followers() -> None:
    """n2 took over, and is dead itself now: without the followers' word n1 would seem to have led all the time."""
    world = led_world()
    world.crash("n1", 10_000, 15_000)
    world.at(11_200, world.lead, "n2", 0, 2, "n1", 1300, "NODE_FAILED")
    world.crash("n2", 20_000)
    world.at(21_000, world.lead, "n3", 0, 3, "n2", 1100, "NODE_FAILED")
    world.run(30_000)
    answers = world.answers()
    assert [answer.node for answer in answers] == ["n1", "n3"]
    found = shard(availability(answers, {"n2": "it does not answer"}, REPLICAS))
    assert [(e.leader, e.previous, e.cause) for e in found.elections] == [
        ("n1", "", "START"),
        ("n2", "n1", "NODE_FAILED"),
        ("n3", "n2", "NODE_FAILED"),
    ]
    (first, second) = gaps(found)
    assert first == (pytest.approx(10_000, abs=LATE_MS), 11_200 + STEP_MS, False)
    assert second == (pytest.approx(20_000, abs=LATE_MS), 21_000, False)


def test_leadership_of_which_only_a_newcomer_tells_ends_the_one_before_and_invents_no_outage() -> None:
    """It cannot know for how long the leader that it hears has led."""
    world = led_world()
    world.run(20_000)
    answers = world.answers("n2")
    unknown = cluster_pb2.LEADERSHIP_CAUSE_UNSPECIFIED
    answers[1].leaderships.add(shard=0, term=2, leader="n2", at_ms=EPOCH_MS + 15_000, cause=unknown)
    found = shard(availability(answers, {"n2": "it does not answer"}, REPLICAS))
    assert (found.outages, found.leader) == ((), "n2")


def test_leadership_that_the_next_leader_never_heard_of_is_not_forgotten() -> None:
    """n3 counts from n1's last word, since n2, which led between, never reached it; n2's record tells."""
    world = led_world()
    world.at(10_000, world.lead, "n2", 0, 2, "n1", 500, "TIMEOUT")
    world.at(15_000, world.lead, "n3", 0, 3, "n1", 5500, "TIMEOUT")
    world.run(20_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    assert gaps(found) == [(9500, 15_000, False)]
    assert [election.leader for election in found.elections] == ["n1", "n2", "n3"]


def test_system_is_down_while_any_shard_is_and_overlapping_outages_are_one() -> None:
    """Two shards lose their leader with the same node; a third moment is a transfer."""
    world = led_world(0, 1)
    world.crash("n1", 10_000, 20_000)
    world.at(11_200, world.lead, "n2", 0, 2, "n1", 1300, "NODE_FAILED")
    world.at(11_500, world.lead, "n3", 1, 2, "n1", 1600, "NODE_FAILED")
    world.at(25_000, world.lead, "n1", 1, 3, "n3", 40, "TRANSFER")
    world.run(30_000)
    found = availability(world.answers(), replicas=REPLICAS)
    failure, transfer = found.system.outages
    assert (failure.span.to_ms, failure.planned) == (EPOCH_MS + 11_500, False)
    assert failure.why == "shards 0, 1: n1 was FAILED, n2 leads"
    assert (transfer.span.ms, transfer.planned, transfer.why) == (40, True, "shard 1: n3 handed over to n1")
    figures = found.system.figures
    assert (figures.failures, figures.stops) == (1, 1)
    assert figures.up_ms + figures.down_ms == 29_000


def test_cluster_stopped_and_started_by_plan_has_no_failure() -> None:
    """Every node said goodbye."""
    world = led_world()
    for number, name in enumerate(("n3", "n2", "n1")):
        world.stop(name, 10_000 + number * STEP_MS, 20_000)
    world.at(21_000, world.lead, "n3", 0, 2, "", 900, "START")
    world.run(30_000)
    found = availability(world.answers(), replicas=REPLICAS)
    ((begin, end, planned),) = gaps(shard(found))
    assert (begin, end, planned) == (pytest.approx(10_000, abs=LATE_MS), 21_000, True)
    assert [one.figures.failures for one in found.nodes] == [0, 0, 0]
    assert found.system.figures.failures == 0


def test_crash_of_the_leader_while_another_node_is_stopped_by_plan_is_a_failure() -> None:
    """Without the crash there would have been a majority."""
    world = led_world()
    world.stop("n3", 8_000, 25_000)
    world.crash("n1", 12_000, 20_000)
    world.at(21_000, world.lead, "n2", 0, 2, "", 9_000, "START")
    world.run(40_000)
    ((begin, end, planned),) = gaps(shard(availability(world.answers(), replicas=REPLICAS)))
    assert (begin, end, planned) == (pytest.approx(12_000, abs=LATE_MS), 21_000, False)


def test_window_cuts_shards_too() -> None:
    """Elections, outages and who led."""
    world = led_world()
    world.crash("n1", 10_000, 20_000)
    world.at(12_000, world.lead, "n2", 0, 2, "n1", 2100, "NODE_FAILED")
    world.run(30_000)
    found = availability(world.answers(), replicas=REPLICAS, window=(EPOCH_MS + 11_000, EPOCH_MS + 15_000))
    (outage,) = shard(found).outages
    assert (outage.span.ms, outage.began_before, outage.ongoing) == (1000, True, False)
    assert [election.term for election in shard(found).elections] == [2]
    assert [(name, span.ms) for name, span in shard(found).led] == [("n2", 3000)]
    assert found.system.figures.uptime_share == pytest.approx(0.75)


def test_shard_of_which_no_record_is_left_has_no_figures_and_takes_none_from_the_system() -> None:
    """Its leaders do not answer, or are of a release that kept no record."""
    world = led_world(0)
    world.run(10_000)
    found = availability(world.answers(), replicas=REPLICAS)
    assert shard(found, 1).figures.uptime_share is None
    assert found.system.figures.uptime_share == 1.0


def test_outcomes_are_added_up_over_nodes_and_answers_are_no_debt() -> None:
    """A refusal that a perfect cluster would have given, too, is an answer; a caller that gave up is neither.

    What nodes ask each other is no request of a client.
    """
    answers = [cluster_pb2.AvailabilityResponse(node=name, at_ms=EPOCH_MS) for name in ("n1", "n2")]
    for answer in answers:
        for outcome, count in (("OK", 90), ("COMPARE_FAILED", 5), ("NO_LEADER", 5), ("CANCELLED", 7)):
            answer.outcomes.add(operation="put", consistency=2, outcome=outcome, count=count)
    answers[0].outcomes.add(operation="get", consistency=1, outcome="OVERLOADED", count=1)
    for nobodys in ("cluster.Status", "txn/prepare"):
        answers[0].outcomes.add(operation=nobodys, consistency=2, outcome="NOT_LEADER", count=1)
    get, put = availability(answers).outcomes
    assert (put.operation, put.consistency, put.answered, put.unanswered, put.share) == ("put", "STRONG", 190, 10, 0.95)
    assert put.counts == {"OK": 180, "COMPARE_FAILED": 10, "NO_LEADER": 10, "CANCELLED": 14}
    assert (get.consistency, get.share) == ("EVENTUAL", 0.0)


def test_system_recovers_with_the_nodes_that_repair_themselves() -> None:
    """A node in repair votes and leads: the shard is back before the node is."""
    world = led_world()
    for name in world.nodes:
        world.crash(name, 10_000, 20_000)
    world.at(20_000 + REPAIR_MS - 2 * STEP_MS, world.lead, "n2", 0, 2, "", 200, "START")
    world.run(30_000)
    found = shard(availability(world.answers(), replicas=REPLICAS))
    assert gaps(found)[0][1] == 20_000 + REPAIR_MS - 2 * STEP_MS
