"""Elections: who may ask, who may be granted a vote, when it counts (Ongaro 2014, sections 3.4, 3.6.1, 4.2.3, 9.6)."""

from __future__ import annotations

import pytest

from kvapi.v1 import election_pb2
from kvnode.protocol.raft.role import Role
from tests.unit.protocol.raft.driven import DrivenRaft, led


def test_election_timeout_passed_asks_before_it_campaigns() -> None:
    """Pre-vote: neither term nor vote change until a majority has promised."""
    raft = DrivenRaft((1,), term=1)
    raft.on_time(raft.deadline)
    assert (raft.role, raft.term, raft.vote) == (Role.PRE_CANDIDATE, 1, "")
    assert [(to, m.term, m.pre_vote) for to, m in raft.sent()] == [("b", 2, True), ("c", 2, True)]
    assert raft.hard_state_due() is None


def test_election_deadline_before_it_passes_asks_nobody() -> None:
    """A timer that is due too early is harmless."""
    raft = DrivenRaft()
    raft.on_time(raft.deadline - 0.001)
    assert (raft.role, raft.sent()) == (Role.FOLLOWER, [])


def test_promise_of_a_majority_starts_a_new_term() -> None:
    """The candidate votes for itself, and asks with its last entry."""
    raft = DrivenRaft((1, 1), term=1)
    raft.on_time(raft.deadline)
    raft.sent()
    raft.voted("c", 2, pre=True)
    assert (raft.role, raft.term, raft.vote) == (Role.CANDIDATE, 2, "a")
    assert [(to, m.term, m.last_log_index, m.last_log_term, m.pre_vote) for to, m in raft.sent()] == [
        ("b", 2, 2, 1, False),
        ("c", 2, 2, 1, False),
    ]


def test_own_vote_not_on_disk_does_not_win() -> None:
    """DESIGN 12.1: a crash would forget it, and the replica could vote for another in the same term."""
    raft = DrivenRaft()
    raft.on_time(raft.deadline)
    raft.voted("b", 1, pre=True)
    raft.voted("b", 1)
    assert raft.role is Role.CANDIDATE
    raft.write()
    assert raft.role is Role.LEADER


def test_votes_of_older_questions_are_void() -> None:
    """A late grant of an earlier term counts for nothing; so does a promise when votes are counted."""
    raft = DrivenRaft()
    raft.on_time(raft.deadline)
    raft.voted("b", 1, pre=True)
    raft.write()
    raft.on_time(raft.deadline)
    raft.voted("b", 2, pre=True)
    raft.write()
    assert (raft.role, raft.term) == (Role.CANDIDATE, 2)
    raft.voted("b", 1)
    raft.voted("b", 2, pre=True)
    assert raft.role is Role.CANDIDATE
    raft.voted("b", 2)
    assert raft.role is Role.LEADER


def test_vote_granted_then_a_late_refusal_still_counts() -> None:
    """Of five, one voter's late refusal of an older question must not hide its grant."""
    raft = DrivenRaft(voters="abcde")
    raft.on_time(raft.deadline)
    for voter in "bc":
        raft.voted(voter, 1, pre=True)
    raft.write()
    raft.voted("b", 1)
    raft.voted("b", 0, granted=False)
    raft.voted("c", 1)
    assert raft.role is Role.LEADER


def test_votes_of_strangers_do_not_count() -> None:
    """Only voters vote."""
    raft = DrivenRaft()
    raft.on_time(raft.deadline)
    raft.voted("z", 1, pre=True)
    assert raft.role is Role.PRE_CANDIDATE


def test_refusals_of_a_majority_end_the_campaign() -> None:
    """It waits for its next time-out."""
    raft = DrivenRaft()
    raft.on_time(raft.deadline)
    raft.voted("b", 0, granted=False, pre=True)
    raft.voted("c", 0, granted=False, pre=True)
    assert raft.role is Role.FOLLOWER


def test_vote_answer_of_a_later_term_makes_a_follower() -> None:
    """A refused pre-vote tells a replica that was away what the term is."""
    raft = DrivenRaft(term=1)
    raft.on_time(raft.deadline)
    raft.voted("b", 7, granted=False, pre=True)
    assert (raft.role, raft.term, raft.vote) == (Role.FOLLOWER, 7, "")


def test_vote_granted_is_answered_behind_its_record() -> None:
    """The answer is in the same Ready as the hard state that it depends on."""
    raft = DrivenRaft(term=1)
    assert raft.ask_vote("b", 2).granted
    assert raft.hard_state_due() == (2, "b", 0)


def test_second_candidate_of_a_term_is_refused() -> None:
    """One vote a term; a repeated question of the same candidate is granted again."""
    raft = DrivenRaft(term=1)
    assert raft.ask_vote("b", 2).granted
    assert not raft.ask_vote("c", 2).granted
    assert raft.ask_vote("b", 2).granted
    assert raft.ask_vote("c", 3).granted


def test_vote_remembered_from_disk_holds_after_a_restart() -> None:
    """Hard state is what a restarted voter knows."""
    raft = DrivenRaft(term=2, vote="b")
    assert not raft.ask_vote("c", 2).granted


def test_stranger_asking_for_a_vote_is_refused() -> None:
    """A candidate must be a voter."""
    assert not DrivenRaft().ask_vote("z", 1).granted


@pytest.mark.parametrize(
    ("last", "granted"), [((2, 2), True), ((3, 2), True), ((1, 3), True), ((1, 2), False), ((9, 1), False)]
)
@pytest.mark.parametrize("pre", [False, True])
def test_candidate_with_an_older_log_is_refused(last: tuple[int, int], granted: bool, pre: bool) -> None:
    """Leader Completeness rests on it (section 3.6.1); the promise follows the same rule."""
    assert DrivenRaft((1, 2), term=2).ask_vote("b", 3, last, pre=pre).granted is granted


def test_pre_vote_granted_changes_nothing_on_the_voter() -> None:
    """A promise is no vote: two may have it."""
    raft = DrivenRaft(term=1)
    assert raft.ask_vote("b", 2, pre=True).granted
    assert raft.ask_vote("c", 2, pre=True).granted
    assert (raft.term, raft.vote, raft.hard_state_due()) == (1, "", None)
    assert not raft.ask_vote("b", 1, pre=True).granted


@pytest.mark.parametrize("pre", [False, True])
def test_voter_that_hears_its_leader_refuses_and_keeps_its_term(pre: bool) -> None:
    """Section 4.2.3: nobody disturbs a leader that is heard, not even with a term."""
    raft = DrivenRaft(term=1)
    raft.append("b", 1, (0, 0), now=100.0)
    answer = raft.ask_vote("c", 9, now=100.8, pre=pre)
    assert (answer.granted, answer.term, raft.term) == (False, 1, 1)
    assert raft.ask_vote("c", 9, now=100.81, pre=pre).granted


def test_leadership_transfer_is_not_refused_by_loyal_voters() -> None:
    """The leader itself asked for it (section 3.10)."""
    raft = DrivenRaft(term=1)
    raft.append("b", 1, (0, 0), now=100.0)
    assert raft.ask_vote("c", 2, now=100.1, transfer=True).granted


def test_leader_refuses_candidates_while_it_leads() -> None:
    """It hears itself; check-quorum decides when it must doubt."""
    raft = led()
    answer = raft.ask_vote("c", 9)
    assert (answer.granted, raft.role, raft.term) == (False, Role.LEADER, 1)
    assert raft.ask_vote("c", 9, transfer=True).granted


def test_own_campaign_never_begins_within_its_own_promise() -> None:
    """A candidate votes for itself: were its time-out shorter than its promise, a leader's lease could be broken by it."""
    for seed in range(200):
        raft = DrivenRaft(term=1)
        raft.rng.seed(seed)
        raft.append("b", 1, (0, 0), now=100.0)
        assert not raft.hears_leader(raft.deadline)


def test_restarted_voter_keeps_the_longest_promise_it_can_have_made() -> None:
    """It has forgotten when it last heard its leader."""
    from kvnode.protocol.raft.core import Raft
    from kvnode.protocol.raft.log import RaftLog
    from kvnode.types import HardState

    voter = DrivenRaft(term=3)
    fresh = Raft(0, "a", "abc", RaftLog(), HardState(3, "b", 0), voter.settings, voter.rng, bytes, 50.0)
    assert fresh.hears_leader(50.8)
    assert not fresh.hears_leader(50.81)
    new = Raft(0, "a", "abc", RaftLog(), HardState(), voter.settings, voter.rng, bytes, 50.0)
    assert not new.hears_leader(50.0)


def test_candidate_that_hears_the_terms_leader_follows_it() -> None:
    """Section 3.4: and it keeps its vote, since the term is the same."""
    raft = DrivenRaft()
    raft.on_time(raft.deadline)
    raft.voted("b", 1, pre=True)
    raft.append("c", 1, (0, 0), (1,))
    assert (raft.role, raft.leader, raft.vote) == (Role.FOLLOWER, "c", "a")


def test_single_voter_leads_once_its_vote_is_on_disk() -> None:
    """A majority of one, and the same rule."""
    raft = DrivenRaft(voters="a")
    raft.on_time(raft.deadline)
    assert raft.role is Role.CANDIDATE
    raft.write()
    assert (raft.role, raft.commit) == (Role.LEADER, 0)
    raft.write()
    assert raft.commit == 1


@pytest.mark.parametrize("condition", ["stalled", "full", "learner"])
def test_replica_that_could_not_lead_does_not_campaign(condition: str) -> None:
    """A hanging or full disk, or no vote: it waits for another time-out, and refuses the word to campaign."""
    raft = DrivenRaft(term=1, voters="bcd" if condition == "learner" else "abc")
    if condition == "stalled":
        raft.on_disk_stalled(True, 100.0)
    elif condition == "full":
        raft.on_disk_full(True)
    due = raft.deadline
    raft.on_time(due)
    assert (raft.role, raft.sent()) == (Role.FOLLOWER, [])
    assert raft.deadline > due
    raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=1), due)
    assert raft.role is Role.FOLLOWER


def test_failed_leaders_node_moves_the_campaign_forward_and_no_further() -> None:
    """Detection helps, and grants nothing: not before voters may agree, and one replica after the other."""
    deadlines = []
    for me in "ac":
        raft = DrivenRaft(term=1, me=me)
        raft.append("b", 1, (0, 0), now=100.0)
        raft.on_node_failed("c" if me == "a" else "a", 100.1)
        late = raft.deadline
        raft.on_node_failed("b", 100.1)
        assert raft.deadline <= late
        deadlines.append(raft.deadline)
    assert 100.808 <= deadlines[0] < 100.87
    assert 100.928 <= deadlines[1] < 101.0


def test_word_to_campaign_in_another_term_is_void() -> None:
    """A late or repeated TimeoutNow changes nothing."""
    raft = DrivenRaft(term=3)
    raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=2), 100.0)
    assert raft.role is Role.FOLLOWER
    raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=3), 100.0)
    assert (raft.role, raft.term, [m.leadership_transfer for _, m in raft.sent()]) == (Role.CANDIDATE, 4, [True, True])
    raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=3), 100.0)
    assert raft.term == 4
