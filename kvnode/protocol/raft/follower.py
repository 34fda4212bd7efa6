"""What a follower does: keeps its log equal to the leader's, and campaigns early when the leader's node has failed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvapi.v1 import replication_pb2
from kvnode.protocol.ready import Answer
from kvnode.types import Entry, Index, Seconds

if TYPE_CHECKING:
    from kvnode.protocol.raft.core import Raft


def on_append(r: Raft, append: replication_pb2.ShardAppend, token: object) -> None:
    """AppendEntries, receiver's rules 2 to 5 (figure 3.1). The answer waits until the entries are durable."""
    previous = append.previous_index
    log = r.log
    result = replication_pb2.ShardAppendResult(shard=r.shard, term=r.term)
    # Entries up to the offset are applied and flushed: they match any leader's log (Leader Completeness, section 3.6.3).
    skip = max(0, log.offset - previous)
    matches = skip > 0 or log.term(previous) == append.previous_term
    if not matches:
        hint_index, hint_term = log.conflict_hint(previous, append.previous_term)
        result.index = previous
        result.hint_index, result.hint_term = max(hint_index, min(r.commit, previous)), hint_term
        if result.hint_index != hint_index:
            result.hint_term = log.term(result.hint_index) or 0
    else:
        last = previous + len(append.entries)
        _adopt(r, previous, append, skip)
        on_commit(r, min(append.commit, last))
        result.success, result.index = True, max(last, min(log.offset, r.commit))
    r.out_answers.append(Answer(token, result))


def _adopt(r: Raft, previous: Index, append: replication_pb2.ShardAppend, skip: int) -> None:
    """Rules 3 and 4: only a *contradicting* entry removes what follows; a late, shorter append changes nothing."""
    log = r.log
    incoming = append.entries
    for position in range(skip, len(incoming)):
        index = previous + 1 + position
        if index <= log.last_index:
            if log.term(index) == incoming[position].term:
                continue
            r.truncate(index)
        log.append([Entry(previous + 1 + i, e.term, e.kind, e.data) for i, e in enumerate(incoming) if i >= position])
        return


def on_commit(r: Raft, index: Index) -> None:
    """The leader committed up to `index`, and the log matches the leader's that far."""
    if index > r.commit:
        r.commit = min(index, r.log.last_index)


def campaign_early(r: Raft, now: Seconds) -> None:
    """The leader's node is FAILED: campaign as soon as voters may grant it, one replica after the other.

    Voters refuse until they have not heard the leader for the least election time-out (section 4.2.3); asking earlier is
    pointless. The steps keep two replicas from splitting the vote.
    """
    earliest = r.leader_heard_at + r.settings.election_timeout_min * (1 + r.settings.clock_drift_max)
    others = [voter for voter in r.voters if voter != r.leader]
    rank = others.index(r.me) if r.me in others else len(others)
    jitter = r.rng.random() * r.settings.campaign_step / 2
    r.deadline = min(r.deadline, max(now, earliest) + rank * r.settings.campaign_step + jitter)
