"""Strong reads: ReadIndex (Ongaro 2014, section 6.4), and the opt-in lease (section 6.4.1)."""

from __future__ import annotations

from typing import Any

from kvapi.v1 import election_pb2
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.role import Role
from tests.unit.protocol.raft.driven import DrivenRaft, committed_in_term, led, take


def test_read_before_the_terms_first_commit_waits_for_it() -> None:
    """DESIGN 12.3: until then the leader may not know what its predecessor acknowledged."""
    raft = led((1, 1), term=1, commit=1)
    leader.on_read(raft, "read", 100.0)
    leader.on_round_started(raft, 5)
    raft.ack("b", 5, 100.0, 100.1)
    assert raft.reads_out() == []
    raft.write()
    take(raft, "b")
    raft.result("b", 3)
    assert raft.reads_out() == [("read", 3)]


def test_read_is_released_by_a_round_that_starts_after_it() -> None:
    """A round from before proves nothing about now."""
    raft = committed_in_term()
    leader.on_round_started(raft, 5)
    leader.on_read(raft, "read", 100.0)
    assert raft.round_wanted
    raft.ack("b", 5, 100.0, 100.1)
    raft.ack("c", 5, 100.0, 100.1)
    assert raft.reads_out() == []
    leader.on_round_started(raft, 6)
    assert not raft.round_wanted
    raft.ack("b", 6, 100.2, 100.3)
    assert raft.reads_out() == [("read", 1)]


def test_reads_of_one_round_are_released_together_in_order() -> None:
    """One round for all that wait; a later read waits for the next."""
    raft = committed_in_term()
    for token in ("1", "2"):
        leader.on_read(raft, token, 100.0)
    leader.on_round_started(raft, 1)
    leader.on_read(raft, "3", 100.0)
    raft.ack("c", 1, 100.0, 100.1)
    assert [token for token, _ in raft.reads_out()] == ["1", "2"]
    leader.on_round_started(raft, 2)
    raft.ack("b", 1, 100.0, 100.1)
    assert raft.reads_out() == []
    raft.ack("b", 2, 100.0, 100.1)
    assert [token for token, _ in raft.reads_out()] == ["3"]


def test_read_sees_the_commit_index_of_its_arrival() -> None:
    """Later commits need not be waited for."""
    raft = committed_in_term()
    leader.on_read(raft, "read", 100.0)
    leader.propose(raft, [b""], 100.0)
    raft.write()
    take(raft, "b")
    raft.result("b", 2)
    leader.on_round_started(raft, 1)
    raft.ack("b", 1, 100.0, 100.1)
    assert raft.reads_out() == [("read", 1)]


def test_round_answered_in_another_term_counts_for_nothing() -> None:
    """Nor does one that was not accepted, or a stranger's."""
    raft = committed_in_term()
    leader.on_read(raft, "read", 100.0)
    leader.on_round_started(raft, 1)
    raft.ack("b", 1, 100.0, 100.1, accepted=False)
    raft.ack("b", 1, 100.0, 100.1, term=0)
    raft.ack("z", 1, 100.0, 100.1)
    assert raft.reads_out() == []


def test_round_answered_by_a_minority_releases_nothing() -> None:
    """Of five, the leader and one more are two."""
    raft = committed_in_term_of_five()
    leader.on_read(raft, "read", 100.0)
    leader.on_round_started(raft, 1)
    raft.ack("b", 1, 100.0, 100.1)
    assert raft.reads_out() == []
    raft.ack("e", 1, 100.0, 100.1)
    assert raft.reads_out() == [("read", 1)]


def committed_in_term_of_five() -> DrivenRaft:
    """A leader of five whose first entry is committed."""
    raft = led(voters="abcde")
    raft.write()
    for peer in "bc":
        take(raft, peer)
        raft.result(peer, 1)
    return raft


def test_reads_of_a_deposed_leader_go_elsewhere() -> None:
    """They are answered, not forgotten."""
    raft = committed_in_term()
    leader.on_read(raft, "read", 100.0)
    raft.heartbeat("b", 2)
    assert (raft.role, raft.reads_out()) == (Role.FOLLOWER, [("read", None)])


def test_single_voter_reads_at_once() -> None:
    """There is nobody else to ask; its first entry must be committed all the same."""
    raft = DrivenRaft(voters="a")
    raft.on_time(raft.deadline)
    raft.write()
    leader.on_read(raft, "early", 100.0)
    assert raft.reads_out() == []
    raft.write()
    assert raft.reads_out() == [("early", 1)]
    leader.on_read(raft, "late", 100.0)
    assert raft.reads_out() == [("late", 1)]


# ---- the lease ------------------------------------------------------------------------------------------------------


def lease_holder(**options: Any) -> DrivenRaft:
    """A leader with a lease from heartbeats sent at 110."""
    raft = committed_in_term(leader_lease=True, **options)
    raft.ack("b", 1, sent_at=110.0, now=110.3)
    return raft


def test_lease_counts_from_the_sending_and_ends_before_the_promise() -> None:
    """0.8 s less the leader's drift; the voter's promise is 0.8 s and more, from the receipt."""
    raft = lease_holder()
    assert leader.holds_lease(raft, 110.791)
    assert not leader.holds_lease(raft, 110.793)
    voter = DrivenRaft(term=1)
    voter.heartbeat("a", 1, now=110.0)
    assert voter.hears_leader(110.807)


def test_lease_switched_off_is_never_held() -> None:
    """It is opt-in."""
    raft = committed_in_term()
    raft.ack("b", 1, sent_at=110.0, now=110.1)
    assert not leader.holds_lease(raft, 110.2)


def test_lease_before_the_terms_first_commit_serves_no_read() -> None:
    """The lease says that nobody else leads, not that this leader knows everything."""
    raft = led(leader_lease=True)
    raft.ack("b", 1, sent_at=100.0, now=100.1)
    leader.on_read(raft, "read", 100.1)
    assert raft.reads_out() == []


def test_lease_needs_a_majority_of_recent_answers() -> None:
    """Of five, two followers within the time."""
    raft = led(voters="abcde", leader_lease=True)
    raft.ack("b", 1, sent_at=110.0, now=110.1)
    assert not leader.holds_lease(raft, 110.2)
    raft.ack("c", 1, sent_at=110.0, now=110.1)
    assert leader.holds_lease(raft, 110.2)


def test_lease_is_given_up_with_the_word_to_campaign() -> None:
    """The word may arrive long after the transfer was given up, and voters do not protect the leader against it."""
    raft = lease_holder()
    assert leader.start_transfer(raft, "b", 110.3)
    assert not leader.holds_lease(raft, 110.3)
    assert isinstance(raft.sent()[-1][1], election_pb2.TimeoutNowRequest)
    raft.ack("b", 2, sent_at=111.2, now=111.3)
    raft.on_time(111.3)
    assert raft.transfer is None
    assert not leader.holds_lease(raft, 111.3)


def test_lease_is_held_again_after_a_transfer_that_told_nobody() -> None:
    """No word left, so nobody may campaign upon it."""
    raft = lease_holder()
    assert leader.start_transfer(raft, "c", 110.3)
    raft.ack("b", 2, sent_at=111.2, now=111.3)
    raft.on_time(111.3)
    assert leader.holds_lease(raft, 111.3)
