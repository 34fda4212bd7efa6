"""A Raft core without a shard around it: what it sends, answers and wants written, as lists."""

from __future__ import annotations

import random
from typing import Any

from kvapi.v1 import election_pb2, failure_detection_pb2, replication_pb2
from kvnode.protocol.raft import leader
from kvnode.protocol.raft.core import Raft, RaftSettings
from kvnode.protocol.raft.log import RaftLog
from kvnode.types import Entry, HardState

COMMAND = 1


class DrivenRaft(Raft):
    """Replica "a" of "a", "b", "c" (or more), with helpers that do what its driver and its peers do."""

    def __init__(
        self,
        terms: tuple[int, ...] = (),
        term: int = 0,
        vote: str = "",
        voters: str = "abc",
        now: float = 100.0,
        commit: int = 0,
        me: str = "a",
        offset: int = 0,
        **settings: Any,
    ) -> None:
        entries = [Entry(offset + i + 1, t, COMMAND, b"") for i, t in enumerate(terms)]
        log = RaftLog(offset, term if offset and not terms else (terms[0] if offset else 0), entries)
        hard_state = HardState(term, vote, commit)
        options = RaftSettings(**settings)
        super().__init__(0, me, tuple(voters), log, hard_state, options, random.Random(1), lambda: b"start", now)
        # Nobody was heard for long, unless a test says so.
        self.leader_heard_at = float("-inf")

    def write(self, now: float = 100.0) -> None:
        """The disk takes everything that is due."""
        hard_state, entries = self.hard_state_due(), self.entries_due()
        index, term = (entries[-1].index, entries[-1].term) if entries else (0, 0)
        self.on_durable(index, term, hard_state.term if hard_state else 0, now)

    def sent(self) -> list[tuple[str, Any]]:
        """Requests that left since the last call."""
        sent = [(send.to, send.message) for send in self.out_send]
        self.out_send.clear()
        return sent

    def answers(self) -> list[Any]:
        """Answers that wait for the disk since the last call."""
        answers = [answer.message for answer in self.out_answers]
        self.out_answers.clear()
        return answers

    def reads_out(self) -> list[tuple[object, int | None]]:
        """Reads that were released since the last call."""
        reads = [(read.token, read.index) for read in self.out_reads]
        self.out_reads.clear()
        return reads

    def ask_vote(
        self,
        candidate: str,
        term: int,
        last: tuple[int, int] = (99, 99),
        now: float = 100.0,
        pre: bool = False,
        transfer: bool = False,
    ) -> election_pb2.RequestVoteResponse:
        """A peer asks for a vote; the answer that would leave."""
        request = election_pb2.RequestVoteRequest(
            term=term, last_log_index=last[0], last_log_term=last[1], pre_vote=pre, leadership_transfer=transfer
        )
        request.message.from_node = candidate
        self.on_request_vote(request, None, now)
        answer: election_pb2.RequestVoteResponse = self.answers()[-1]
        return answer

    def voted(self, voter: str, term: int, granted: bool = True, pre: bool = False, now: float = 100.0) -> None:
        """A peer answers a question for a vote."""
        self.on_vote(voter, election_pb2.RequestVoteResponse(term=term, granted=granted, pre_vote=pre), now)

    def append(
        self,
        sender: str,
        term: int,
        previous: tuple[int, int],
        terms: tuple[int, ...] = (),
        commit: int = 0,
        now: float = 100.0,
    ) -> replication_pb2.ShardAppendResult:
        """A leader's entries arrive; the answer that would leave."""
        request = replication_pb2.ShardAppend(term=term, previous_index=previous[0], previous_term=previous[1], commit=commit)
        for one in terms:
            request.entries.add(term=one, kind=COMMAND)  # type: ignore[arg-type]
        self.on_append(sender, request, None, now)
        answer: replication_pb2.ShardAppendResult = self.answers()[-1]
        return answer

    def result(self, peer: str, index: int, success: bool = True, now: float = 100.0, **fields: int) -> None:
        """A follower's answer to an append of this term."""
        answer = replication_pb2.ShardAppendResult(term=self.term, success=success, index=index, **fields)
        self.on_append_result(peer, answer, now)

    def heartbeat(self, sender: str, term: int, commit: int = 0, match: int = 0, now: float = 100.0) -> bool:
        """A leader's heartbeat arrives."""
        return self.on_lead(sender, failure_detection_pb2.ShardLead(term=term, commit=commit, match=match), now)

    def ack(self, peer: str, round_: int, sent_at: float, now: float, accepted: bool = True, term: int | None = None) -> None:
        """A follower's answer to a heartbeat."""
        ack = failure_detection_pb2.ShardAck(term=self.term if term is None else term, accepted=accepted)
        self.on_lead_ack(peer, ack, round_, sent_at, now)

    def log_terms(self) -> list[int]:
        """The terms of the entries."""
        return [entry.term for entry in self.log.slice(self.log.first_index, 1 << 60)]


def led(terms: tuple[int, ...] = (), term: int = 0, now: float = 100.0, **options: Any) -> DrivenRaft:
    """A replica that has just won an election in `term + 1` by b's vote, everything but its first entry on disk."""
    raft = DrivenRaft(terms, term, now=now, **options)
    raft.deadline = now
    raft.on_time(now)
    majority = [voter for voter in raft.voters if voter != raft.me][: len(raft.voters) // 2]
    for voter in majority:
        raft.voted(voter, term + 1, pre=True, now=now)
    raft.write(now)
    for voter in majority:
        raft.voted(voter, term + 1, now=now)
    raft.sent()
    return raft


def committed_in_term(now: float = 100.0, **options: Any) -> DrivenRaft:
    """A leader whose first entry is committed."""
    raft = led(now=now, **options)
    raft.write(now)
    take(raft, "b", now)
    raft.result("b", raft.log.last_index, now=now)
    return raft


def take(raft: Raft, peer: str, now: float = 100.0) -> replication_pb2.ShardAppend | None:
    """The next append for a peer."""
    return leader.next_append(raft, peer, now)
