"""Replication: what a follower takes, what a leader commits, how it feeds followers (Ongaro 2014, sections 3.5, 3.6, 5)."""

from __future__ import annotations

import pytest

from kvapi.v1 import replication_pb2
from kvnode.invariant import InvariantViolated
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.progress import Mode
from kvnode.protocol.raft.role import Role
from tests.unit.protocol.raft.driven import DrivenRaft, committed_in_term, led, take

# ---- the follower ---------------------------------------------------------------------------------------------------


def test_append_of_an_older_term_is_refused_and_says_nothing_about_the_log() -> None:
    """Its sender may lead again in the term that answers: a place in the answer would send it back for nothing."""
    raft = DrivenRaft((1, 1), term=3)
    answer = raft.append("b", 2, (1, 1), (2,))
    assert (answer.success, answer.term, answer.index) == (False, 3, 0)
    assert (raft.log_terms(), raft.leader) == ([1, 1], "")


def test_append_that_matches_is_taken_and_counts_on_disk_only() -> None:
    """Applied is only what is committed and on this node's disk (DESIGN 12.2)."""
    raft = DrivenRaft((1,), term=1)
    answer = raft.append("b", 1, (1, 1), (1, 1), commit=3)
    assert (answer.success, answer.index, raft.commit, raft.applicable) == (True, 3, 3, 1)
    raft.write()
    assert raft.applicable == 3


def test_append_with_a_later_commit_commits_only_what_it_covers() -> None:
    """Rule 5 of figure 3.1: what lies behind the append may still contradict the leader's log."""
    raft = DrivenRaft((1, 1, 1), term=2)
    raft.append("b", 2, (1, 1), (), commit=3)
    assert raft.commit == 1


@pytest.mark.parametrize(
    ("terms", "previous", "hint"),
    [((1, 1), (5, 3), (2, 1)), ((1, 2, 2, 2), (4, 1), (1, 1)), ((1, 2, 2), (3, 3), (3, 2)), ((), (4, 2), (0, 0))],
)
def test_append_that_does_not_match_is_answered_with_a_hint(
    terms: tuple[int, ...], previous: tuple[int, int], hint: tuple[int, int]
) -> None:
    """The largest place that may match: whole terms are skipped."""
    raft = DrivenRaft(terms, term=3)
    answer = raft.append("b", 3, previous, (3,))
    assert (answer.success, answer.index, (answer.hint_index, answer.hint_term)) == (False, previous[0], hint)
    assert raft.log_terms() == list(terms)


def test_append_that_contradicts_replaces_what_follows() -> None:
    """Rule 3: an entry with another term goes, with everything behind it; what was written again is not stable yet."""
    raft = DrivenRaft((1, 2, 2, 2), term=2)
    raft.append("b", 3, (1, 1), (3, 3))
    assert (raft.log_terms(), raft.log.stable) == ([1, 3, 3], 1)
    assert [entry.index for entry in raft.entries_due()] == [2, 3]


def test_append_repeated_late_and_shorter_removes_nothing() -> None:
    """DESIGN 12.9: only a contradiction truncates; a late duplicate is older, not contradicting."""
    raft = DrivenRaft((1,), term=1)
    raft.append("b", 1, (1, 1), (1, 1, 1))
    raft.entries_due()
    answer = raft.append("b", 1, (1, 1), (1,))
    assert (answer.success, answer.index, raft.log_terms(), raft.entries_due()) == (True, 2, [1, 1, 1, 1], [])


def test_append_that_contradicts_a_committed_entry_halts_the_node() -> None:
    """It cannot happen; if it does, memory and disk no longer say what the cluster agreed on."""
    raft = DrivenRaft((1, 1), term=1, commit=2)
    with pytest.raises(InvariantViolated):
        raft.append("b", 2, (1, 1), (2,))


def test_append_that_begins_before_the_cut_matches_by_completeness() -> None:
    """What is cut is applied, and every later leader has it."""
    raft = DrivenRaft((2, 2), term=2, offset=5, commit=5)
    answer = raft.append("b", 2, (3, 2), (2, 2, 2, 2, 2))
    assert (answer.success, answer.index, raft.log.last_index, raft.log_terms()) == (True, 8, 8, [2, 2, 2])
    answer = raft.append("b", 2, (1, 2), (2,))
    assert (answer.success, answer.index) == (True, 5)


def test_two_leaders_of_one_term_halt_the_node() -> None:
    """Election safety, seen from a follower and from a leader."""
    raft = DrivenRaft(term=1)
    raft.append("b", 1, (0, 0))
    with pytest.raises(InvariantViolated):
        raft.append("c", 1, (0, 0))
    with pytest.raises(InvariantViolated):
        led().append("b", 1, (0, 0))


def test_heartbeat_is_followed_in_a_durable_term_only() -> None:
    """An acknowledgement is an answer, too: the term must be on disk before it counts for a read (DESIGN 12.1)."""
    raft = DrivenRaft(term=1)
    assert not raft.heartbeat("b", 2)
    raft.write()
    assert raft.heartbeat("b", 2)
    assert not raft.heartbeat("c", 1)
    assert raft.leader == "b"


def test_heartbeat_commits_no_further_than_the_known_match() -> None:
    """Behind the match the follower's log may be another one."""
    raft = DrivenRaft((1, 1, 1), term=1)
    raft.heartbeat("b", 1, commit=3, match=2)
    assert raft.commit == 2


def test_commit_index_remembered_from_disk_stays_within_the_log() -> None:
    """It is a hint: never behind the cut, never beyond the last entry."""
    assert DrivenRaft((1, 1), term=1, commit=9).commit == 2
    assert DrivenRaft((1,), term=1, offset=5).commit == 5


# ---- the leader -----------------------------------------------------------------------------------------------------


def test_leader_begins_with_an_entry_of_its_own() -> None:
    """Section 3.6.2: it commits what earlier terms left."""
    raft = led((1, 1), term=1)
    assert (raft.term, raft.log_terms(), raft.term_start_index, raft.commit) == (2, [1, 1, 2], 3, 0)


def test_leader_counts_its_own_copy_only_once_it_is_on_disk() -> None:
    """DESIGN 12.2: one follower and an unsynced leader are no majority of three."""
    raft = led()
    take(raft, "b")
    raft.result("b", 1)
    assert raft.commit == 0
    raft.write()
    assert raft.commit == 1


def test_leader_without_its_own_disk_commits_by_the_others_and_applies_later() -> None:
    """Two followers are a majority; this node applies what its own disk has."""
    raft = led()
    for peer in "bc":
        take(raft, peer)
        raft.result(peer, 1)
    assert (raft.commit, raft.applicable) == (1, 0)


def test_entry_of_an_older_term_on_a_majority_is_not_committed() -> None:
    """Figure 3.7: only the own term's entry commits it."""
    raft = led((1, 1), term=1)
    raft.write()
    take(raft, "b")
    raft.result("b", 2)
    assert raft.commit == 0
    raft.result("b", 3)
    assert raft.commit == 3


@pytest.mark.parametrize("acked", [(5,), (5, 5), (0, 5)])
def test_commit_of_five_needs_three_copies(acked: tuple[int, ...]) -> None:
    """The leader's and two more."""
    raft = led(voters="abcde")
    leader.propose(raft, [b""] * 4, 100.0)
    raft.write()
    for peer, index in zip("bc", acked, strict=False):
        take(raft, peer)
        if index:
            raft.result(peer, index)
    assert raft.commit == (5 if acked == (5, 5) else 0)


def test_answers_of_another_term_or_a_stranger_count_for_nothing() -> None:
    """Late answers to the leader of an earlier term."""
    raft = led(term=3)
    raft.write()
    raft.on_append_result("b", replication_pb2.ShardAppendResult(term=3, success=True, index=1), 100.0)
    raft.result("z", 1)
    assert raft.commit == 0


def test_answer_of_a_later_term_deposes_the_leader() -> None:
    """Figure 3.1, all servers."""
    raft = led()
    raft.on_append_result("b", replication_pb2.ShardAppendResult(term=9), 100.0)
    assert (raft.role, raft.term, raft.progress) == (Role.FOLLOWER, 9, {})


def test_refused_probe_goes_back_by_the_hint_and_is_not_confused_by_older_answers() -> None:
    """A rejection answers the probe with that very place."""
    raft = led((1, 1, 1, 3, 3), term=3)
    append = take(raft, "b")
    assert append is not None
    assert append.previous_index == 5
    raft.result("b", 4, success=False, hint_index=1, hint_term=1)
    assert raft.progress["b"].next == 6
    raft.result("b", 5, success=False, hint_index=4, hint_term=2)
    assert raft.progress["b"].next == 4
    append = take(raft, "b")
    assert append is not None
    assert (append.previous_index, [e.term for e in append.entries]) == (3, [3, 3, 4])


def test_probe_sends_one_append_until_it_is_answered() -> None:
    """PROBE: one at a time, and again after a while."""
    raft = led()
    assert take(raft, "b") is not None
    assert take(raft, "b") is None
    raft.on_time(100.6)
    assert "b" in raft.append_wanted
    assert take(raft, "b", 100.6) is not None


def test_replicate_pipelines_without_waiting_for_answers() -> None:
    """REPLICATE: each append continues the one before."""
    raft = committed_in_term()
    leader.propose(raft, [b"1"], 100.0)
    first = take(raft, "b")
    leader.propose(raft, [b"2"], 100.0)
    second = take(raft, "b")
    assert first is not None
    assert second is not None
    assert (first.previous_index, second.previous_index) == (1, 2)


def test_replicate_stops_so_many_entries_ahead() -> None:
    """A follower that does not answer bounds what is on its way."""
    raft = committed_in_term(append_ahead_entries_max=2, append_size_bytes_max=1)
    leader.propose(raft, [b"x"] * 9, 100.0)
    sent = [append for _ in range(9) if (append := take(raft, "b")) is not None and append.entries]
    assert len(sent) == 2
    raft.result("b", 3)
    assert (take(raft, "b") or sent[0]).entries


def test_broken_connection_probes_again_from_the_match() -> None:
    """What was on its way may be lost."""
    raft = committed_in_term()
    leader.propose(raft, [b"1", b"2"], 100.0)
    take(raft, "b")
    leader.on_append_failed(raft, "b", 100.0)
    assert (raft.progress["b"].mode, raft.progress["b"].next) == (Mode.PROBE, 2)
    assert take(raft, "b", 100.01) is None
    assert take(raft, "b", 100.06) is not None


@pytest.mark.parametrize("how", ["broken", "full"])
def test_follower_that_was_only_down_is_not_sent_a_snapshot(how: str) -> None:
    """A new leader knows no match yet: it asks again where it was, and does not fall back to the beginning that is cut."""
    raft = led((1, 1, 1), term=1, commit=3)
    raft.log.compact(2)
    assert take(raft, "c") is not None
    if how == "broken":
        leader.on_append_failed(raft, "c", 100.0)
    else:
        raft.result("c", 0, success=False, out_of_space=1)
    assert take(raft, "c", 101.0) is not None
    assert (raft.progress["c"].mode, raft.out_snapshot_to) == (Mode.PROBE, [])


def test_follower_whose_next_entry_is_cut_gets_a_snapshot() -> None:
    """Chapter 5; one at a time, and appends only when it is done."""
    raft = led((1, 1, 1), term=1, commit=3)
    raft.write()
    raft.log.compact(3)
    take(raft, "b")
    raft.result("b", 3, success=False, hint_index=1, hint_term=1)
    assert take(raft, "b") is None
    assert (raft.progress["b"].mode, raft.out_snapshot_to) == (Mode.SNAPSHOT, ["b"])
    assert take(raft, "b") is None
    leader.on_snapshot_done(raft, "b", 3, False, 100.0)
    assert take(raft, "b", 100.1) is None
    assert take(raft, "b", 101.0) is None
    assert raft.out_snapshot_to == ["b", "b"]
    leader.on_snapshot_done(raft, "b", 3, True, 101.0)
    append = take(raft, "b", 101.0)
    assert append is not None
    assert (append.previous_index, raft.progress["b"].match) == (3, 3)


def test_appends_on_their_way_may_make_a_snapshot_unnecessary() -> None:
    """The follower caught up meanwhile: it is fed by appends again, and the snapshot's end changes nothing."""
    raft = led((1, 1, 1), term=1, commit=3)
    raft.write()
    raft.log.compact(3)
    raft.progress["b"].mode, raft.progress["b"].next = Mode.SNAPSHOT, 1
    raft.result("b", 2)
    assert raft.progress["b"].mode is Mode.SNAPSHOT
    raft.result("b", 4)
    assert (raft.progress["b"].mode, raft.progress["b"].next) == (Mode.REPLICATE, 5)
    leader.on_snapshot_done(raft, "b", 3, False, 100.0)
    assert raft.progress["b"].mode is Mode.REPLICATE


def test_snapshot_installed_replaces_a_foreign_log_and_continues_its_own() -> None:
    """The log stays where it continues the snapshot."""
    raft = DrivenRaft((1, 1, 1), term=2)
    raft.on_snapshot_installed(2, 1)
    assert (raft.commit, raft.log.last_index, raft.entries_due()) == (2, 3, [])
    raft = DrivenRaft((1, 1, 1), term=2)
    raft.on_snapshot_installed(2, 2)
    assert (raft.commit, raft.log.last_index, raft.entries_due()) == (2, 2, [])


def test_snapshot_of_a_deposed_leader_is_refused() -> None:
    """A later term is known."""
    raft = DrivenRaft(term=4)
    assert not raft.on_snapshot_offered("b", 3, 100.0)
    assert raft.on_snapshot_offered("b", 4, 100.0)
    assert raft.leader == "b"


# ---- doubts and handing over ----------------------------------------------------------------------------------------


def test_leader_that_no_majority_answers_steps_down() -> None:
    """Check-quorum: it may be alone with clients that believe in it."""
    raft = committed_in_term()
    leader.on_read(raft, "read", 100.0)
    raft.ack("b", 1, sent_at=101.0, now=101.1)
    raft.on_time(102.5)
    assert raft.role is Role.LEADER
    raft.on_time(102.61)
    assert (raft.role, raft.term, raft.leader, raft.reads_out()) == (Role.FOLLOWER, 1, "", [("read", None)])


def test_answers_that_do_not_accept_do_not_keep_a_leader() -> None:
    """A follower whose term is not on disk yet, or who follows another, is no support."""
    raft = committed_in_term()
    raft.ack("b", 1, sent_at=101.5, now=101.5, accepted=False)
    raft.ack("b", 1, sent_at=101.5, now=101.5, term=0)
    raft.on_time(101.7)
    assert raft.role is Role.FOLLOWER


def test_leader_whose_disk_hangs_steps_down() -> None:
    """DESIGN 12.6."""
    raft = committed_in_term()
    raft.on_disk_stalled(True, 100.5)
    assert (raft.role, raft.leader) == (Role.FOLLOWER, "")


def test_leader_whose_disk_is_full_goes_on_leading() -> None:
    """Reads need no disk; it hands over where it can."""
    raft = committed_in_term()
    raft.on_disk_full(True)
    assert raft.role is Role.LEADER


def test_transfer_tells_the_successor_only_when_it_has_everything() -> None:
    """Section 3.10, steps 1 to 3."""
    raft = committed_in_term()
    leader.propose(raft, [b"1"], 100.0)
    assert leader.start_transfer(raft, "b", 100.0)
    assert raft.sent() == []
    take(raft, "b")
    raft.result("b", 2)
    assert [(to, type(m).__name__, m.term) for to, m in raft.sent()] == [("b", "TimeoutNowRequest", 1)]
    raft.result("b", 2)
    assert raft.sent() == []


def test_transfer_that_fails_ends_after_a_while() -> None:
    """The leader takes proposals again."""
    raft = committed_in_term()
    assert leader.start_transfer(raft, "c", 100.0)
    assert not leader.start_transfer(raft, "b", 100.0)
    raft.ack("b", 1, sent_at=100.7, now=100.7)
    raft.on_time(100.8)
    assert raft.transfer is None
    assert not leader.start_transfer(raft, "z", 100.8)


def test_rebalancing_hands_over_to_a_preferred_leader_that_stays_well() -> None:
    """By transfer, never by force; the time it must be well begins anew after each doubt."""
    raft = led(voters="cab", me="a")
    raft.write()
    take(raft, "c")
    raft.result("c", 1)
    for now, well in ((100.0, True), (104.0, True), (104.5, False), (105.5, True), (110.0, True)):
        leader.maybe_rebalance(raft, well, now)
        assert raft.transfer is None
    leader.maybe_rebalance(raft, True, 110.6)
    assert raft.transfer is not None
    assert raft.transfer.to == "c"


def test_most_advanced_follower_among_the_healthy_succeeds() -> None:
    """The longest log; who is not healthy is not asked."""
    raft = committed_in_term()
    raft.progress["c"].match = 9
    assert leader.most_advanced_follower(raft, ["b", "c"]) == "c"
    assert leader.most_advanced_follower(raft, ["b"]) == "b"
    assert leader.most_advanced_follower(raft, []) is None
