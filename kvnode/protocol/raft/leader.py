"""What a leader does: feeds followers, commits, serves read indexes, hands leadership over, and doubts itself.

A leader that a majority has not answered for the greatest election time-out steps down (check-quorum): it may be alone with
clients that believe in it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from kvapi.v1 import election_pb2, replication_pb2
from kvnode.protocol.raft import leadership
from kvnode.protocol.raft.progress import Mode, Progress
from kvnode.protocol.raft.quorum import reached_by_majority
from kvnode.protocol.raft.role import ENTRY_COMMAND, Role
from kvnode.protocol.ready import Send
from kvnode.types import Entry, Index, NodeName, Seconds, Term

if TYPE_CHECKING:
    from kvnode.protocol.raft.core import Raft

CLOSE_ENTRIES_MAX = 1_000
COMMIT_NEWS_DELAY: Seconds = 0.01
"""How long a new commit index waits for an append to travel with, before followers hear of it by an empty one."""


class ReadReady(NamedTuple):
    """A read that may be served once `index` is applied; index None: leadership was lost first."""

    token: object
    index: Index | None  # type: ignore[assignment]


@dataclass(slots=True)
class PendingRead:
    """A strong read that waits for a heartbeat round which starts after it."""

    token: object
    index: Index | None
    """The commit index on arrival; None until an entry of this term is committed (section 6.4, step 1)."""
    round: int | None = None
    """None: no round has started since it arrived."""


@dataclass(slots=True)
class Transfer:
    """Leadership on its way to `to`; proposals wait meanwhile (section 3.10), and no longer than `until`.

    Before the successor is told, giving up costs nothing, so that comes soon. Afterwards the leader is more patient: with
    proposals of the meantime its log would be ahead of the successor's, whose campaign would still depose it, and fail.
    """

    to: NodeName
    until: Seconds
    told: bool = False


def become_leader(r: Raft, now: Seconds) -> None:
    """Wins: an entry of the own term commits what earlier terms left (section 3.6.2)."""
    r.role, r.leader = Role.LEADER, r.me
    r.wins += 1
    r.votes.clear()
    r.led_since, r.transfer, r.successor_told, r.preferred_well_since = now, None, False, None
    # A fresh leader has just been answered by a majority: its time to hear from one again starts now.
    r.progress = {voter: Progress(next=r.log.last_index + 1, acked_at=now) for voter in r.voters if voter != r.me}
    r.term_start_index = r.log.last_index + 1
    r.log.append([Entry(r.term_start_index, r.term, ENTRY_COMMAND, r.term_start())])
    r.round_wanted = True
    _want_appends(r)
    maybe_commit(r, now)
    _rearm(r, now)


def on_deposed(r: Raft) -> None:
    """No longer leader: reads that wait must go elsewhere."""
    r.out_reads.extend(ReadReady(read.token, None) for read in r.reads)
    r.reads.clear()
    r.progress.clear()
    r.append_wanted.clear()
    r.transfer, r.commit_news_at, r.round_wanted = None, None, False


def propose(r: Raft, commands: Sequence[bytes], now: Seconds) -> Index:
    """Appends commands to the log; answers the first one's index. Only for a leader that is not handing over."""
    first = r.log.last_index + 1
    r.log.append([Entry(first + i, r.term, ENTRY_COMMAND, data) for i, data in enumerate(commands)])
    _want_appends(r)
    return first


def next_append(r: Raft, peer: NodeName, now: Seconds) -> replication_pb2.ShardAppend | None:
    """The next append for a peer whose pipeline has room; None when there is nothing to say now."""
    progress = r.progress.get(peer)
    if (
        progress is None
        or progress.mode is Mode.SNAPSHOT
        or (progress.mode is Mode.PROBE and progress.waiting and now < progress.retry_at)
    ):
        return None
    if progress.next <= r.log.offset:
        # What the follower needs next is cut (section 5): only a snapshot helps.
        progress.mode = Mode.SNAPSHOT
        r.out_snapshot_to.append(peer)
        return None
    entries: list[Entry] = []
    if progress.next <= r.log.last_index and progress.next - progress.match <= r.settings.append_ahead_entries_max:
        entries = r.log.slice(progress.next, r.settings.append_size_bytes_max)
    if progress.mode is Mode.REPLICATE and not entries and progress.commit_sent >= min(r.commit, progress.match):
        return None
    previous = progress.next - 1
    append = replication_pb2.ShardAppend(
        shard=r.shard, term=r.term, previous_index=previous, previous_term=r.log.term(previous) or 0, commit=r.commit
    )
    for entry in entries:
        append.entries.add(term=entry.term, kind=entry.kind, data=entry.data)
    progress.commit_sent = r.commit
    if progress.mode is Mode.PROBE:
        progress.waiting, progress.retry_at = True, now + r.settings.probe_retry
        r.deadline = min(r.deadline, progress.retry_at)
    else:
        progress.next += len(entries)
        if progress.next <= r.log.last_index:
            r.append_wanted[peer] = None
    return append


def on_append_failed(r: Raft, peer: NodeName, now: Seconds) -> None:
    """The connection broke: what was on its way may be lost. Find the match anew."""
    progress = r.progress.get(peer)
    if progress is not None and progress.mode is not Mode.SNAPSHOT:
        if progress.mode is Mode.REPLICATE:
            progress.probe(progress.match + 1)
        # A probe is asked again where it was: a match of 0 means "not known yet", and probing from there would ask for a
        # snapshot of a follower that was only down, as soon as this log has lost its first entry.
        progress.waiting, progress.retry_at = True, now + 0.05
        r.deadline = min(r.deadline, progress.retry_at)


def on_append_result(r: Raft, peer: NodeName, result: replication_pb2.ShardAppendResult, now: Seconds) -> None:
    """AppendEntries, the leader's rules (figure 3.1)."""
    progress = r.progress[peer]
    progress.applied = max(progress.applied, result.applied)
    progress.eventual_floor = result.eventual_floor
    if result.success:
        if progress.on_success(result.index):
            if progress.mode is Mode.SNAPSHOT and progress.match >= r.log.offset:
                progress.on_log_reached()
            maybe_commit(r, now)
            _maybe_tell_successor(r, now)
        if progress.next <= r.log.last_index:
            r.append_wanted[peer] = None
    elif result.out_of_space:
        if progress.mode is Mode.REPLICATE:
            progress.probe(progress.match + 1)
        progress.waiting, progress.retry_at = True, now + r.settings.probe_retry
        r.deadline = min(r.deadline, progress.retry_at)
    elif (
        progress.mode is not Mode.SNAPSHOT
        and result.index > progress.match
        and (progress.mode is Mode.REPLICATE or result.index == progress.next - 1)
    ):
        # Section 3.5: go back, a whole term at a time. Answers to older probes (another index) are void.
        index, _ = (
            r.log.conflict_hint(result.hint_index, result.hint_term)
            if result.hint_index > r.log.offset
            else (result.hint_index, 0)
        )
        progress.probe(min(index, result.index - 1) + 1 if result.index else 1)
        r.append_wanted[peer] = None


def on_snapshot_started(r: Raft, peer: NodeName, index: Index) -> None:
    """A snapshot up to `index` is on its way to the peer: what follows it should still be here when it arrives."""
    progress = r.progress.get(peer)
    if progress is not None and progress.mode is Mode.SNAPSHOT:
        progress.snapshot_index = index


def snapshot_floor(r: Raft) -> Index | None:
    """The lowest index that a snapshot on its way ends with; None without any."""
    return min((p.snapshot_index for p in r.progress.values() if p.snapshot_index is not None), default=None)


def on_snapshot_done(r: Raft, peer: NodeName, index: Index, success: bool, now: Seconds) -> None:
    """A snapshot up to `index` arrived at the peer, or did not."""
    progress = r.progress.get(peer)
    if progress is None or progress.mode is not Mode.SNAPSHOT:
        return
    progress.snapshot_index = None
    if success:
        progress.match = max(progress.match, index)
    progress.probe(progress.match + 1)
    if success:
        r.append_wanted[peer] = None
        maybe_commit(r, now)
    else:
        progress.waiting, progress.retry_at = True, now + r.settings.probe_retry
        r.deadline = min(r.deadline, progress.retry_at)


def maybe_commit(r: Raft, now: Seconds) -> None:
    """Commits what a majority holds durably, this node's share being what its own disk has (section 3.6.2).

    Only an entry of the own term is counted: figure 3.7 shows how an older one, even on a majority, can still be replaced.
    """
    reached = reached_by_majority([r.log.stable, *(p.match for p in r.progress.values())])
    if reached > r.commit and r.log.term(reached) == r.term:
        if not has_committed_in_term(r):
            leadership.on_serving(r, now)
        r.commit = reached
        if r.commit_news_at is None:
            r.commit_news_at = now + COMMIT_NEWS_DELAY
            r.deadline = min(r.deadline, r.commit_news_at)
        release_reads(r, now)


def has_committed_in_term(r: Raft) -> bool:
    """Whether the leader knows everything that earlier leaders committed (DESIGN section 12.3)."""
    return r.commit >= r.term_start_index


def on_read(r: Raft, token: object, now: Seconds) -> None:
    """A strong read arrives. Its round must start after this moment (section 6.4, step 3)."""
    if holds_lease(r, now) and has_committed_in_term(r):
        r.out_reads.append(ReadReady(token, r.commit))
        return
    r.reads.append(PendingRead(token, r.commit if has_committed_in_term(r) else None))
    r.round_wanted = True
    if not r.progress:
        release_reads(r, now)


def on_round_started(r: Raft, round_: int) -> None:
    """A heartbeat round starts now: it serves every read that has arrived."""
    for read in reversed(r.reads):
        if read.round is not None:
            break
        read.round = round_
    r.round_wanted = False


def on_lead_ack(r: Raft, peer: NodeName, round_: int, sent_at: Seconds, now: Seconds) -> None:
    """A follower accepted a heartbeat of this term."""
    progress = r.progress[peer]
    progress.acked_round = max(progress.acked_round, round_)
    progress.acked_at = max(progress.acked_at, sent_at)
    if progress.mode is Mode.PROBE and progress.waiting and now >= progress.retry_at:
        r.append_wanted[peer] = None
    elif progress.mode is Mode.REPLICATE and progress.next <= r.log.last_index:
        r.append_wanted[peer] = None
    if r.reads:
        release_reads(r, now)


def release_reads(r: Raft, now: Seconds) -> None:
    """Reads whose round a majority has answered, in order of arrival."""
    if not r.reads or not has_committed_in_term(r):
        return
    confirmed = reached_by_majority([1 << 62, *(p.acked_round for p in r.progress.values())])
    released = 0
    for read in r.reads:
        if r.progress and (read.round is None or read.round > confirmed):
            break
        r.out_reads.append(ReadReady(read.token, r.commit if read.index is None else read.index))
        released += 1
    del r.reads[:released]


def quorum_heard_at(r: Raft, now: Seconds) -> Seconds:
    """Since when, at the latest, a majority is known to have followed: counted from the sending of the heartbeats."""
    return reached_by_majority([now, *(p.acked_at for p in r.progress.values())])


def holds_lease(r: Raft, now: Seconds) -> bool:
    """Opt-in (section 6.4.1): a majority, asked within the least election time-out, refuses every other candidate still."""
    if not r.settings.leader_lease or r.transfer is not None or r.successor_told:
        return False
    length = r.settings.election_timeout_min * (1 - r.settings.clock_drift_max)
    return now < quorum_heard_at(r, now) + length


def start_transfer(r: Raft, to: NodeName, now: Seconds, within: Seconds | None = None) -> bool:
    """Begins to hand leadership to `to`, which has `within` (`RaftSettings.transfer_within`) to catch up; False where that
    cannot be."""
    if r.transfer is not None or to not in r.progress:
        return False
    r.transfer = Transfer(to, now + (r.settings.transfer_within if within is None else within))
    r.deadline = min(r.deadline, r.transfer.until)
    _maybe_tell_successor(r, now)
    return True


def on_transfer_refused(r: Raft, to: NodeName, term: Term) -> None:
    """The successor will not campaign, or nobody was there to be told: proposals need not wait for it any longer.

    This is about time, never about safety: a campaign that comes all the same is one like any other. The lease stays given up.
    """
    if r.transfer is not None and r.transfer.to == to and r.term == term:
        r.transfer = None


def most_advanced_follower(r: Raft, healthy: Sequence[NodeName]) -> NodeName | None:
    """The healthy follower with the longest matching log; the order of preference decides between equals."""
    candidates = [peer for peer in r.progress if peer in healthy]
    return max(candidates, key=lambda peer: r.progress[peer].match, default=None)


def _maybe_tell_successor(r: Raft, now: Seconds) -> None:
    transfer = r.transfer
    if transfer and not transfer.told and r.progress[transfer.to].match == r.log.last_index:
        # The word may arrive late, and voters do not refuse who campaigns upon it: no lease any more in this term.
        transfer.told = r.successor_told = True
        transfer.until = now + r.settings.election_timeout_min
        r.out_send.append(Send(transfer.to, election_pb2.TimeoutNowRequest(shard=r.shard, term=r.term)))


def on_time(r: Raft, now: Seconds) -> None:
    """Doubts, retries, and news that found no append to travel with."""
    if r.progress and now >= quorum_heard_at(r, now) + r.settings.election_timeout_max:
        r.step_down(now)
        return
    if r.transfer and now >= r.transfer.until:
        r.transfer = None
    if r.commit_news_at is not None and now >= r.commit_news_at:
        r.commit_news_at = None
        for peer, progress in r.progress.items():
            if progress.commit_sent < r.commit:
                r.append_wanted[peer] = None
    for peer, progress in r.progress.items():
        if progress.mode is Mode.PROBE and progress.waiting and now >= progress.retry_at:
            r.append_wanted[peer] = None
    _rearm(r, now)


def maybe_rebalance(r: Raft, preferred_well: bool, now: Seconds) -> None:
    """Hands leadership back to the preferred replica once it has been well and close behind for a while."""
    preferred = r.voters[0]
    if not (preferred_well and is_close(r, preferred) and r.settings.rebalance_after > 0):
        r.preferred_well_since = None
    elif r.preferred_well_since is None:
        r.preferred_well_since = now
    elif now - r.preferred_well_since >= r.settings.rebalance_after and r.transfer is None:
        r.preferred_well_since = None
        start_transfer(r, preferred, now)


def is_close(r: Raft, peer: NodeName) -> bool:
    """Whether all that the follower lacks fits into one append: proposals wait for it during a transfer."""
    progress = r.progress.get(peer)
    if progress is None or progress.mode is not Mode.REPLICATE or r.log.last_index - progress.match >= CLOSE_ENTRIES_MAX:
        return False
    if progress.match < r.log.offset:  # (Large entries that are sent and not acknowledged yet may be cut already.)
        return False
    missing = r.log.slice(progress.match + 1, r.settings.append_size_bytes_max)
    return progress.match + len(missing) == r.log.last_index


def _want_appends(r: Raft) -> None:
    for peer in r.progress:
        r.append_wanted[peer] = None


def _rearm(r: Raft, now: Seconds) -> None:
    deadline = (quorum_heard_at(r, now) if r.progress else now) + r.settings.election_timeout_max
    if r.transfer:
        deadline = min(deadline, r.transfer.until)
    if r.commit_news_at is not None:
        deadline = min(deadline, r.commit_news_at)
    for progress in r.progress.values():
        if progress.mode is Mode.PROBE and progress.waiting and progress.retry_at > now:
            deadline = min(deadline, progress.retry_at)
    r.deadline = deadline
