"""Elections: pre-vote (section 9.6), votes (section 3.4), and who may refuse them.

Pre-vote and the voters' loyalty to a leader they hear go together: without pre-vote a cut-off node returns with a higher
term and deposes a good leader; without loyalty it wins promises from those who hear the leader still.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvapi.v1 import election_pb2
from kvnode.protocol.raft import leader, leadership
from kvnode.protocol.raft.quorum import majority
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Answer, Send
from kvnode.types import Seconds

if TYPE_CHECKING:
    from kvnode.protocol.raft.core import Raft


def become_pre_candidate(r: Raft, now: Seconds) -> None:
    """Asks whether an election could be won; term and vote stay."""
    leadership.on_leader_forgotten(r)
    r.role, r.leader = Role.PRE_CANDIDATE, ""
    _ask(r, now, term=r.term + 1, pre_vote=True, transfer=False)


def become_candidate(r: Raft, now: Seconds, transfer: bool = False) -> None:
    """A new term, a vote for itself; both durable before the requests' answers can count (see `on_vote`)."""
    leadership.on_leader_forgotten(r)
    if transfer:
        leadership.on_handed_over(r, r.term + 1, now)
    r.role, r.leader = Role.CANDIDATE, ""
    r.term, r.vote = r.term + 1, r.me
    r.campaigns += 1
    _ask(r, now, term=r.term, pre_vote=False, transfer=transfer)


def _ask(r: Raft, now: Seconds, term: int, pre_vote: bool, transfer: bool) -> None:
    r.votes.clear()
    r.reset_election_deadline(now)
    for voter in r.voters:
        if voter != r.me:
            request = election_pb2.RequestVoteRequest(
                shard=r.shard,
                term=term,
                last_log_index=r.log.last_index,
                last_log_term=r.log.last_term,
                pre_vote=pre_vote,
                leadership_transfer=transfer,
            )
            r.out_send.append(Send(voter, request))
    r.votes[r.me] = True
    _maybe_win(r, now)


def on_request_vote(r: Raft, request: election_pb2.RequestVoteRequest, token: object, now: Seconds) -> None:
    """RequestVote, receiver's rules (figure 3.1), with pre-vote and loyalty."""
    candidate = request.message.from_node
    loyal = r.hears_leader(now) and not request.leadership_transfer
    up_to_date = r.log.is_up_to_date(request.last_log_index, request.last_log_term)
    answer = election_pb2.RequestVoteResponse(shard=r.shard, pre_vote=request.pre_vote)
    if request.pre_vote:
        answer.granted = request.term > r.term and up_to_date and not loyal
        answer.term = request.term if answer.granted else r.term
    elif request.term >= r.term and not (loyal and request.term > r.term):
        if request.term > r.term:
            r.become_follower(request.term, "", now)
            if request.leadership_transfer:
                leadership.on_handed_over(r, request.term, now)
        answer.granted = up_to_date and r.vote in ("", candidate) and candidate in r.voters
        answer.term = r.term
        if answer.granted:
            r.vote = candidate
            r.reset_election_deadline(now)
    else:
        # A voter that hears its leader does not even adopt the term (section 4.2.3).
        answer.term = r.term
    r.out_answers.append(Answer(token, answer))


def on_vote(r: Raft, voter: str, answer: election_pb2.RequestVoteResponse, now: Seconds) -> None:
    """Counts an answer to the current question; answers to an older one are void."""
    asked = r.term + 1 if answer.pre_vote else r.term
    role = Role.PRE_CANDIDATE if answer.pre_vote else Role.CANDIDATE
    if r.role is not role or voter not in r.voters or (answer.granted and answer.term != asked):
        return
    # A grant is not taken back: a late refusal of an older question must not hide it.
    r.votes[voter] = answer.granted or r.votes.get(voter, False)
    _maybe_win(r, now)


def on_own_vote_durable(r: Raft, now: Seconds) -> None:
    """The candidate's own vote counts once it is on disk, as anybody's (DESIGN section 12.1)."""
    _maybe_win(r, now)


def _maybe_win(r: Raft, now: Seconds) -> None:
    granted = sum(r.votes.values())
    if granted >= majority(len(r.voters)):
        if r.role is Role.PRE_CANDIDATE:
            become_candidate(r, now)
        elif r.role is Role.CANDIDATE and r.term_durable:
            leader.become_leader(r, now)
    elif len(r.votes) - granted >= majority(len(r.voters)) and r.role is not Role.LEADER:
        r.role = Role.FOLLOWER
        r.votes.clear()
