"""One shard's Raft: the state that all roles share, what every message does to the term, and who is in which role.

Owns term, vote, log and commit index. Never applies an entry, never does I/O, has no clock: `now` comes with every event,
randomness from the injected generator. What a role does is in `follower`, `candidate` and `leader`, a function an event.

Invariants (numbers of DESIGN section 12): nothing that depends on term, vote or entries leaves as an *answer* before they
are durable (1); an entry is committed only when a majority, and this node, holds it durably, and only through an entry of
the leader's own term (2); a strong read is released only behind an entry of this term and a round that started after the
read arrived (3); a leader that no majority answers steps down, and nobody campaigns without the promise of a majority (4).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from kvapi.v1 import election_pb2, failure_detection_pb2, replication_pb2
from kvnode.invariant import invariant
from kvnode.protocol.raft import candidate, follower, leader, leadership
from kvnode.protocol.raft.log import RaftLog
from kvnode.protocol.raft.progress import Progress
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Answer, Send
from kvnode.types import Entry, HardState, Index, NodeName, Seconds, Shard, Term


@dataclass(frozen=True, slots=True)
class RaftSettings:
    """Durations in seconds, as DESIGN section 7 and the configuration's [election] explain them."""

    election_timeout_min: Seconds = 0.8
    """A voter that heard its leader within this refuses other candidates; also the earliest campaign."""
    election_timeout_max: Seconds = 1.6
    """A follower campaigns at the latest after this; a leader without a majority's answers steps down after it."""
    campaign_step: Seconds = 0.12
    """When the leader's node is FAILED, the k-th replica campaigns k steps after the earliest moment."""
    probe_retry: Seconds = 0.5
    """A probe whose answer got lost is sent again after this."""
    rebalance_after: Seconds = 5.0
    """A leader that is not the preferred one hands over when the preferred one has been well for this long; 0: never."""
    leader_lease: bool = False
    clock_drift_max: float = 0.01
    append_size_bytes_max: int = 1024 * 1024
    append_ahead_entries_max: int = 4096
    """Entries sent to a follower and not acknowledged yet."""

    @property
    def transfer_within(self) -> Seconds:
        """For so long proposals wait for a successor to catch up; then the leader goes on, and who wanted that asks again."""
        return self.election_timeout_min / 4


class Raft:
    """Feed it with `on_…`, then take what is due: the `out_…` lists, `hard_state_due()`, `entries_due()`."""

    def __init__(
        self,
        shard: Shard,
        me: NodeName,
        voters: Sequence[NodeName],
        log: RaftLog,
        hard_state: HardState,
        settings: RaftSettings,
        rng: random.Random,
        term_start: Callable[[], bytes],
        now: Seconds,
    ) -> None:
        """`voters` in order of preference for leadership; `term_start` makes the data of a leader's first entry."""
        self.shard, self.me, self.voters, self.log = shard, me, tuple(voters), log
        self.settings, self.rng, self.term_start = settings, rng, term_start
        self.term, self.vote = hard_state.term, hard_state.vote
        self.commit: Index = max(log.offset, min(hard_state.commit, log.last_index))
        self.role = Role.FOLLOWER
        self.leader: NodeName = ""
        # A restarted voter has forgotten whom it promised to follow: it keeps the longest promise it can have made.
        self.leader_heard_at: Seconds = now if hard_state.term else float("-inf")
        self.leader_node_failed = False
        self.last_leader = leadership.LastLeader(now)
        self.disk_stalled = self.disk_full = self.leaving = False
        self.votes: dict[NodeName, bool] = {}
        self.progress: dict[NodeName, Progress] = {}
        self.reads: list[leader.PendingRead] = []
        self.term_start_index: Index = 0
        self.led_since: Seconds = 0.0
        self.transfer: leader.Transfer | None = None
        self.successor_told = False
        """Leader: somebody was told to campaign in this term."""
        self.preferred_well_since: Seconds | None = None
        self.campaigns = self.wins = 0
        """Elections since the start: those that it began, and those that it won."""
        self.commit_news_at: Seconds | None = None
        self.out_send: list[Send] = []
        self.out_answers: list[Answer] = []
        self.out_reads: list[leader.ReadReady] = []
        self.out_snapshot_to: list[NodeName] = []
        self.out_leaderships: list[leadership.Leadership] = []
        self.append_wanted: dict[NodeName, None] = {}
        self.round_wanted = False
        self._durable_term = self.term
        self._hard_state_saved = HardState(self.term, self.vote, 0)
        self._entries_saved: Index = log.last_index
        self.deadline: Seconds = 0.0
        self.reset_election_deadline(now)

    # ---- what is due ------------------------------------------------------------------------------------------------

    def hard_state_due(self) -> HardState | None:
        """Term and vote if they changed since the last call."""
        if (self.term, self.vote) == self._hard_state_saved[:2]:
            return None
        self._hard_state_saved = HardState(self.term, self.vote, self.commit)
        return self._hard_state_saved

    def entries_due(self) -> list[Entry]:
        """Entries that were not handed out for writing yet."""
        if self._entries_saved >= self.log.last_index:
            return []
        due = self.log.slice(self._entries_saved + 1, 1 << 62)
        self._entries_saved = self.log.last_index
        return due

    def on_durable(self, index: Index, term: Term, hard_term: Term, now: Seconds) -> None:
        """Everything handed out for writing up to entry (index, term) and hard state `hard_term` is on disk."""
        self._durable_term = max(self._durable_term, hard_term)
        if index:
            self.log.on_durable(index, term)
            if self.role is Role.LEADER:
                leader.maybe_commit(self, now)
        if self.role is Role.CANDIDATE:
            candidate.on_own_vote_durable(self, now)

    @property
    def applicable(self) -> Index:
        """Entries up to here may be applied: committed, and durable on this node (DESIGN section 12.2)."""
        return min(self.commit, self.log.stable)

    @property
    def term_durable(self) -> bool:
        """Whether the current term is on disk."""
        return self._durable_term >= self.term

    # ---- roles ------------------------------------------------------------------------------------------------------

    def become_follower(self, term: Term, leader_name: NodeName, now: Seconds) -> None:
        """A higher term, or a leader in this one. Forgets the vote only with the term."""
        invariant(term >= self.term, f"shard {self.shard}: term goes back from {self.term} to {term}")
        was_leader = self.role is Role.LEADER
        if term > self.term:
            self.term, self.vote = term, ""
        if leader_name != self.leader:
            leadership.on_leader_forgotten(self)
            self.leader_node_failed = False
        self.role, self.leader = Role.FOLLOWER, leader_name
        self.votes.clear()
        if was_leader:
            leadership.on_deposed(self, leader.quorum_heard_at(self, now))
            leader.on_deposed(self)
        self.reset_election_deadline(now)

    def step_down(self, now: Seconds) -> None:
        """Leader: follows nobody in the same term, so that pending reads and transfers end and others may lead."""
        self.become_follower(self.term, "", now)

    def reset_election_deadline(self, now: Seconds) -> None:
        """Section 3.4's randomized time-out; the preferred leader draws from the earliest quarter."""
        settings = self.settings
        spread = settings.election_timeout_max - settings.election_timeout_min
        if self.voters and self.voters[0] == self.me:
            spread /= 4
        # Not before its own promise to the leader ends (`hears_leader`): a candidate votes for itself.
        self.deadline = now + settings.election_timeout_min * (1 + settings.clock_drift_max) + self.rng.random() * spread

    def hears_leader(self, now: Seconds) -> bool:
        """Whether this voter is bound to a leader: it leads, or it heard its leader within the least time-out."""
        if self.role is Role.LEADER:
            return True
        drift = 1 + self.settings.clock_drift_max
        return now < self.leader_heard_at + self.settings.election_timeout_min * drift

    # ---- events -----------------------------------------------------------------------------------------------------

    def on_time(self, now: Seconds) -> None:
        """The deadline passed, or may have."""
        if self.role is Role.LEADER:
            leader.on_time(self, now)
        elif now >= self.deadline:
            if not self.may_campaign:
                self.reset_election_deadline(now)
            else:
                candidate.become_pre_candidate(self, now)

    @property
    def may_campaign(self) -> bool:
        """Whether this replica could lead: it votes, its disk takes entries, and it is here to stay."""
        return self.me in self.voters and not (self.disk_stalled or self.disk_full or self.leaving)

    def on_leaving(self, now: Seconds) -> None:
        """Its node stops: it may lead until somebody else does, and follows and votes to the end, but campaigns no more.

        Otherwise a leadership that it has just given away, or one that a leader which has not heard of the stop gives it, would
        be its again when it ends, and the shard without a leader until others have missed it for an election time-out.
        """
        self.leaving = True
        if self.role in (Role.PRE_CANDIDATE, Role.CANDIDATE):
            self.become_follower(self.term, "", now)

    def on_disk_full(self, full: bool) -> None:
        """The disk takes no entries now (or does again). A leader stays one, since reads need no disk; the driver hands its
        leadership to a follower that has space."""
        self.disk_full = full

    def on_disk_stalled(self, stalled: bool, now: Seconds) -> None:
        """Writes hang, or no longer: such a node must not lead (DESIGN section 12.6)."""
        self.disk_stalled = stalled
        if stalled and self.role is Role.LEADER:
            self.step_down(now)

    def on_node_failed(self, node: NodeName, now: Seconds) -> None:
        """The failure detector says FAILED. It only moves the campaign forward; voters decide as ever."""
        if node == self.leader and self.role is Role.FOLLOWER:
            self.leader_node_failed = True
            follower.campaign_early(self, now)
        leadership.on_node_failed(self, node)

    def on_request_vote(self, request: election_pb2.RequestVoteRequest, token: object, now: Seconds) -> None:
        """Another replica asks for a vote, or for the promise of one."""
        candidate.on_request_vote(self, request, token, now)

    def on_vote(self, voter: NodeName, answer: election_pb2.RequestVoteResponse, now: Seconds) -> None:
        """A vote, or the promise of one."""
        if answer.term > self.term and not (answer.pre_vote and answer.granted):
            self.become_follower(answer.term, "", now)
            return
        candidate.on_vote(self, voter, answer, now)

    def on_timeout_now(self, request: election_pb2.TimeoutNowRequest, now: Seconds) -> bool:
        """The leader wants this replica to lead (section 3.10). Answers whether it campaigns upon that."""
        campaigns = request.term == self.term and self.role is Role.FOLLOWER and self.may_campaign
        if campaigns:
            candidate.become_candidate(self, now, transfer=True)
        return campaigns

    def on_append(self, sender: NodeName, append: replication_pb2.ShardAppend, token: object, now: Seconds) -> None:
        """A leader's entries."""
        if append.term < self.term:
            # No index: it says nothing about the logs. Its sender may lead again by now, in the very term answered here.
            self.out_answers.append(Answer(token, replication_pb2.ShardAppendResult(shard=self.shard, term=self.term)))
            return
        self._follow(sender, append.term, now)
        follower.on_append(self, append, token)

    def on_append_result(self, sender: NodeName, result: replication_pb2.ShardAppendResult, now: Seconds) -> None:
        """A follower's answer to an append."""
        if result.term > self.term:
            self.become_follower(result.term, "", now)
        elif self.role is Role.LEADER and result.term == self.term and sender in self.progress:
            leader.on_append_result(self, sender, result, now)

    def on_lead(self, sender: NodeName, lead: failure_detection_pb2.ShardLead, now: Seconds) -> bool:
        """A leader's heartbeat for this shard. Answers whether this node follows it, in a term that is durable."""
        if lead.term < self.term:
            return False
        self._follow(sender, lead.term, now)
        follower.on_commit(self, min(lead.commit, lead.match))
        return self.term_durable

    def on_lead_ack(
        self, sender: NodeName, ack: failure_detection_pb2.ShardAck, round_: int, sent_at: Seconds, now: Seconds
    ) -> None:
        """A follower's answer to a heartbeat that was sent at `sent_at`."""
        if ack.term > self.term:
            self.become_follower(ack.term, "", now)
        elif self.role is Role.LEADER and ack.accepted and ack.term == self.term and sender in self.progress:
            leader.on_lead_ack(self, sender, round_, sent_at, now)

    def on_snapshot_installed(self, index: Index, term: Term) -> None:
        """The store holds a snapshot up to (index, term), durably."""
        self.log.reset(index, term)
        self.commit = max(self.commit, index)
        self._entries_saved = min(max(self._entries_saved, index), self.log.last_index)

    def on_snapshot_offered(self, sender: NodeName, term: Term, now: Seconds) -> bool:
        """A leader sends a snapshot: whether to take it."""
        if term < self.term:
            return False
        self._follow(sender, term, now)
        return True

    def truncate(self, first_removed: Index) -> None:
        """Removes entries that a leader's log contradicts; never a committed one."""
        invariant(
            first_removed > self.commit,
            f"shard {self.shard}: entry {first_removed} is committed (up to {self.commit}) and contradicted",
        )
        self.log.truncate(first_removed)
        self._entries_saved = min(self._entries_saved, self.log.last_index)

    def _follow(self, sender: NodeName, term: Term, now: Seconds) -> None:
        invariant(
            not (self.role is Role.LEADER and term == self.term),
            f"shard {self.shard}: {sender} and {self.me} both lead in term {term}",
        )
        invariant(
            not (term == self.term and self.leader not in ("", sender)),
            f"shard {self.shard}: {sender} and {self.leader} both lead in term {term}",
        )
        if term > self.term or self.role is not Role.FOLLOWER or self.leader != sender:
            self.become_follower(term, sender, now)
            leadership.on_followed(self, now)
        else:
            self.leader_node_failed = False
            self.reset_election_deadline(now)
        self.leader_heard_at = now
