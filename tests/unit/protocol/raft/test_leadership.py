"""What a replica remembers of the leader before, when it comes to lead: since when, whom it followed, why it leads."""

from __future__ import annotations

import pytest

from kvapi.v1 import election_pb2
from kvapi.v1.cluster_pb2 import (
    LEADERSHIP_CAUSE_NODE_FAILED,
    LEADERSHIP_CAUSE_START,
    LEADERSHIP_CAUSE_TIMEOUT,
    LEADERSHIP_CAUSE_TRANSFER,
    LEADERSHIP_CAUSE_UNSPECIFIED,
)
from kvnode.protocol.raft.leadership import Leadership, without_leader
from kvnode.protocol.raft.role import Role
from tests.unit.protocol.raft.driven import DrivenRaft, led, take


def told(raft: DrivenRaft) -> list[Leadership]:
    """Its own leaderships."""
    return [leadership for leadership in raft.out_leaderships if leadership.leader == "a"]


def win(raft: DrivenRaft, now: float) -> None:
    """It campaigns at `now`, and b votes for it; its first entry is not on anybody's disk yet."""
    raft.on_time(now)
    raft.voted("b", raft.term + 1, pre=True, now=now)
    raft.write(now)
    raft.voted("b", raft.term, now=now)
    assert raft.role is Role.LEADER


def commit(raft: DrivenRaft, now: float) -> None:
    """Its log is on its own disk and b's."""
    raft.write(now)
    take(raft, "b", now)
    raft.result("b", raft.log.last_index, now=now)


def test_leadership_after_a_time_out_is_counted_from_the_last_word_to_the_first_commit() -> None:
    """Neither the campaign nor the votes are the end of it: only a committed entry lets it serve."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    win(raft, 103.0)
    assert told(raft) == []
    commit(raft, 103.5)
    assert told(raft) == [Leadership(2, "a", "c", 101.0, 103.5, LEADERSHIP_CAUSE_TIMEOUT)]
    raft.result("b", raft.log.last_index, now=104.0)
    assert len(told(raft)) == 1


def test_leadership_of_a_replica_that_heard_nobody_is_a_start() -> None:
    """Since its own start the shard had no leader that it knew of."""
    raft = DrivenRaft(term=7, now=100.0)
    win(raft, 102.0)
    commit(raft, 102.1)
    assert told(raft) == [Leadership(8, "a", "", 100.0, 102.1, LEADERSHIP_CAUSE_START)]


def test_leadership_of_a_single_voter_is_recorded() -> None:
    """It commits without anybody's answer, as soon as its own disk has the entry."""
    raft = DrivenRaft(voters="a", now=100.0)
    raft.on_time(102.0)
    raft.write(102.1)
    raft.write(102.2)
    assert told(raft) == [Leadership(1, "a", "", 100.0, 102.2, LEADERSHIP_CAUSE_START)]


@pytest.mark.parametrize("after_the_campaign", [False, True])
def test_leadership_after_a_failure_names_it(after_the_campaign: bool) -> None:
    """Whether the detector's word comes before the campaign or within it."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    if after_the_campaign:
        raft.on_time(103.0)
        raft.on_node_failed("c", 103.0)
    else:
        raft.on_node_failed("c", 101.1)
    win(raft, 103.2)
    commit(raft, 103.5)
    assert told(raft) == [Leadership(2, "a", "c", 101.0, 103.5, LEADERSHIP_CAUSE_NODE_FAILED)]


def test_leadership_after_a_failure_of_somebody_else_is_a_time_out() -> None:
    """Only the leader's own node is a cause."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    raft.on_node_failed("b", 101.1)
    win(raft, 103.0)
    commit(raft, 103.5)
    assert told(raft)[0].cause == LEADERSHIP_CAUSE_TIMEOUT


def test_leadership_after_a_failure_that_was_none_forgets_it() -> None:
    """The leader was heard again before it went silent for good."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    raft.on_node_failed("c", 101.5)
    raft.heartbeat("c", 1, now=101.6)
    win(raft, 104.0)
    commit(raft, 104.5)
    assert told(raft) == [Leadership(2, "a", "c", 101.6, 104.5, LEADERSHIP_CAUSE_TIMEOUT)]


def test_leadership_handed_over_is_counted_from_that_word() -> None:
    """`TimeoutNow` is the old leader's last word."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=1), 101.2)
    raft.write(101.2)
    raft.voted("b", 2, now=101.3)
    commit(raft, 101.4)
    assert told(raft) == [Leadership(2, "a", "c", 101.2, 101.4, LEADERSHIP_CAUSE_TRANSFER)]


def test_leadership_after_a_handing_over_that_failed_is_no_transfer() -> None:
    """Its election was lost; the next one it called by itself."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=1), 101.2)
    raft.write(101.2)
    win(raft, 104.0)
    commit(raft, 104.5)
    assert told(raft) == [Leadership(3, "a", "c", 101.2, 104.5, LEADERSHIP_CAUSE_TIMEOUT)]


def test_leadership_after_another_candidates_election_counts_from_the_old_leader() -> None:
    """It voted for b, which never led: what it knows of c is not forgotten with c's term."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    raft.on_node_failed("c", 101.5)
    assert raft.ask_vote("b", 2, now=103.0).granted
    win(raft, 106.0)
    commit(raft, 106.5)
    assert told(raft) == [Leadership(3, "a", "c", 101.0, 106.5, LEADERSHIP_CAUSE_NODE_FAILED)]


def test_leadership_regained_after_a_lost_majority_counts_from_the_last_majority() -> None:
    """It led itself; the shard had no leader since its last round that a majority answered."""
    raft = led(now=100.0)
    commit(raft, 100.1)
    raft.ack("b", 1, sent_at=105.0, now=105.01)
    raft.on_time(107.0)
    assert raft.role is Role.FOLLOWER
    win(raft, 110.0)
    commit(raft, 110.2)
    assert told(raft)[1:] == [Leadership(2, "a", "a", 105.0, 110.2, LEADERSHIP_CAUSE_TIMEOUT)]


def test_leadership_that_never_served_is_none() -> None:
    """A leader that lost its majority before its first commit has not ended the time without one."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("c", 1, now=101.0)
    win(raft, 103.0)
    raft.on_time(105.0)
    assert raft.role is Role.FOLLOWER
    win(raft, 108.0)
    commit(raft, 108.5)
    assert told(raft) == [Leadership(3, "a", "c", 101.0, 108.5, LEADERSHIP_CAUSE_TIMEOUT)]


def test_leader_heard_is_told_once_a_term_by_who_follows_it() -> None:
    """Also after a doubt: a follower that asked around, and hears it again, has no new leader."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("b", 1, now=101.0)
    raft.heartbeat("b", 1, now=101.2)
    raft.on_time(103.0)
    assert raft.role is Role.PRE_CANDIDATE
    raft.append("b", 1, (0, 0), now=103.1)
    raft.heartbeat("c", 2, now=105.0)
    assert raft.out_leaderships == [
        Leadership(1, "b", "", 101.0, 101.0, LEADERSHIP_CAUSE_UNSPECIFIED),
        Leadership(2, "c", "b", 103.1, 105.0, LEADERSHIP_CAUSE_TIMEOUT),
    ]


def test_leader_heard_after_a_failure_is_told_with_it() -> None:
    """As the new leader itself would tell it."""
    raft = DrivenRaft(now=100.0)
    raft.heartbeat("b", 1, now=101.0)
    raft.on_node_failed("b", 101.1)
    raft.ask_vote("c", 2, now=103.0)
    raft.heartbeat("c", 2, now=103.1)
    assert raft.out_leaderships[1:] == [Leadership(2, "c", "b", 101.0, 103.1, LEADERSHIP_CAUSE_NODE_FAILED)]


def test_leader_heard_after_a_transfer_is_told_as_one_by_voters_and_by_who_led() -> None:
    """The question for the vote says that the old leader wanted it: that was its last word."""
    voter = DrivenRaft(now=100.0)
    voter.heartbeat("b", 1, now=101.0)
    assert voter.ask_vote("c", 2, now=101.2, transfer=True).granted
    voter.heartbeat("c", 2, now=101.3)
    assert voter.out_leaderships[1:] == [Leadership(2, "c", "b", 101.2, 101.3, LEADERSHIP_CAUSE_TRANSFER)]
    old = led(now=100.0)
    commit(old, 100.1)
    assert old.ask_vote("c", 2, now=101.2, transfer=True).granted
    old.heartbeat("c", 2, now=101.3)
    assert old.out_leaderships[1:] == [Leadership(2, "c", "a", 101.2, 101.3, LEADERSHIP_CAUSE_TRANSFER)]


def test_without_leader_says_since_when_and_who_led() -> None:
    """From the failure on, through the campaign, until it could serve itself; and nothing while somebody leads."""
    raft = DrivenRaft(now=100.0)
    assert without_leader(raft) == ("", 100.0)
    raft.heartbeat("c", 1, now=101.0)
    assert without_leader(raft) is None
    raft.on_node_failed("c", 101.2)
    assert without_leader(raft) == ("c", 101.0)
    win(raft, 103.0)
    assert without_leader(raft) == ("c", 101.0)
    commit(raft, 103.5)
    assert without_leader(raft) is None
