"""A leadership on its way to another replica: for how long writes wait for it, and who does not take it."""

from __future__ import annotations

import pytest

from kvapi.v1 import election_pb2
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.progress import Mode
from kvnode.protocol.raft.role import Role
from kvnode.types import Entry
from tests.unit.protocol.raft.driven import COMMAND, DrivenRaft, committed_in_term, led, take


def test_successor_that_does_not_catch_up_is_waited_for_a_quarter_of_the_election_timeout() -> None:
    """200 ms of 800: a caller should not notice it. Who stops may be more patient."""
    raft = committed_in_term()
    leader.propose(raft, [b"1"], 100.0)
    assert leader.start_transfer(raft, "b", 100.0)
    raft.on_time(100.199)
    assert raft.transfer is not None
    raft.on_time(100.2)
    assert raft.transfer is None
    assert leader.start_transfer(raft, "b", 100.2, within=0.4)
    raft.on_time(100.599)
    assert raft.transfer is not None


def test_successor_that_was_told_is_waited_for_longer() -> None:
    """It may be slow to campaign. With proposals in between it would depose its leader, and lose for its shorter log."""
    raft = committed_in_term()
    leader.propose(raft, [b"1"], 100.0)
    assert leader.start_transfer(raft, "b", 100.0)
    take(raft, "b")
    raft.result("b", 2, now=100.15)
    assert [to for to, _ in raft.sent()] == ["b"]
    raft.on_time(100.949)
    assert raft.transfer is not None
    raft.ack("c", 1, sent_at=100.9, now=100.9)
    raft.on_time(100.95)
    assert (raft.role, raft.transfer) == (Role.LEADER, None)


@pytest.mark.parametrize(("to", "term", "goes_on"), [("b", 1, True), ("c", 1, False), ("b", 0, False)])
def test_successor_that_refuses_ends_the_transfer_it_was_asked_for(to: str, term: int, goes_on: bool) -> None:
    """The leader takes writes again at once; a late refusal of another transfer changes nothing. The lease stays given up: the
    word may have been heard."""
    raft = committed_in_term(leader_lease=True)
    raft.ack("b", 1, sent_at=100.0, now=100.0)
    assert leader.holds_lease(raft, 100.0)
    assert leader.start_transfer(raft, "b", 100.0)
    assert [to for to, _ in raft.sent()] == ["b"]
    leader.on_transfer_refused(raft, to, term)
    assert (raft.transfer is None) == goes_on
    assert not leader.holds_lease(raft, 100.0)


def test_leaving_replica_does_not_campaign_by_itself_or_on_the_leaders_word() -> None:
    """It would take a leadership with it. It follows and votes to the end."""
    raft = DrivenRaft(term=3)
    raft.on_leaving(100.0)
    assert not raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=3), 100.0)
    raft.on_time(200.0)
    assert (raft.role, raft.term, raft.sent()) == (Role.FOLLOWER, 3, [])
    assert raft.deadline > 200.0
    assert raft.ask_vote("b", 4, now=200.0).granted
    raft.append("b", 4, (0, 0), now=200.0)
    assert raft.leader == "b"


@pytest.mark.parametrize("votes", ["promise", "vote"])
def test_candidate_that_leaves_gives_up_the_election(votes: str) -> None:
    """The vote it still gets is void, and its own stays given."""
    raft = DrivenRaft(term=3)
    raft.on_time(raft.deadline)
    if votes == "vote":
        raft.voted("b", 4, pre=True)
        raft.write()
    term, vote = raft.term, raft.vote
    raft.on_leaving(101.0)
    raft.voted("b", 4, pre=votes == "promise", now=101.0)
    assert (raft.role, raft.term, raft.vote) == (Role.FOLLOWER, term, vote)


def test_leader_that_leaves_leads_until_somebody_else_does() -> None:
    """Writes go on while it looks for a successor."""
    raft = committed_in_term()
    raft.on_leaving(100.0)
    assert raft.role is Role.LEADER
    assert leader.propose(raft, [b"1"], 100.0) == 2


def test_word_to_campaign_that_is_taken_says_so() -> None:
    """So the leader waits; a second word, for the same term, is refused."""
    raft = DrivenRaft(term=3)
    assert raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=3), 100.0)
    assert not raft.on_timeout_now(election_pb2.TimeoutNowRequest(term=3), 100.0)


@pytest.mark.parametrize(("entries", "size", "close"), [(999, 100, True), (1_000, 100, False), (3, 500_000, False)])
def test_follower_is_close_while_one_append_brings_all_it_lacks(entries: int, size: int, close: bool) -> None:
    """Writes wait for the rest of it: neither many entries nor large ones may be on their way."""
    raft = led(voters="cab", me="a")
    raft.write()
    take(raft, "c")
    raft.result("c", 1)
    raft.log.append([Entry(2 + number, 1, COMMAND, bytes(size)) for number in range(entries)])
    assert leader.is_close(raft, "c") == close
    for now in (100.0, 106.0):
        leader.maybe_rebalance(raft, True, now)
    assert (raft.transfer is not None) == close
    assert not leader.is_close(raft, "b"), "nothing is known of it yet"


def test_follower_that_lacks_entries_which_are_cut_is_not_close() -> None:
    """They were sent, and the log keeps no more than some megabytes behind its flush: neither who rebalances nor who leaves may
    ask for them."""
    raft = led(voters="cab", me="a")
    raft.write()
    take(raft, "c")
    raft.result("c", 1)
    raft.log.append([Entry(2 + number, 1, COMMAND, b"large") for number in range(3)])
    take(raft, "c")
    raft.write()
    raft.log.compact(3)
    assert raft.progress["c"].mode is Mode.REPLICATE
    assert not leader.is_close(raft, "c")
