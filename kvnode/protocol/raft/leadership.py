"""Who led before, since when nobody could, and why the next leadership began: for the record.

Owns the memory of the last leader, which campaigns forget. Decides nothing: no vote, campaign or commit looks at it. Every
replica tells of each leadership, the leader and those who follow: the node that led may be the one that cannot be asked later.

A shard has no leader from the last word of the old one until the new one has committed an entry of its term, and so can serve
(section 6.4, step 1). The last word is the latest append, heartbeat or `TimeoutNow` that this replica heard of the old leader;
of a replica that led itself, the latest moment at which a majority is known to have followed.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kvapi.v1.cluster_pb2 import (
    LEADERSHIP_CAUSE_NODE_FAILED,
    LEADERSHIP_CAUSE_START,
    LEADERSHIP_CAUSE_TIMEOUT,
    LEADERSHIP_CAUSE_TRANSFER,
    LEADERSHIP_CAUSE_UNSPECIFIED,
    LeadershipCause,
)
from kvnode.protocol.raft.role import Role
from kvnode.types import NodeName, Seconds, Term

if TYPE_CHECKING:
    from kvnode.protocol.raft.core import Raft


class Leadership(NamedTuple):
    """A replica became the leader: this one, or another that this one follows. Moments are those that the core was told."""

    term: Term
    leader: NodeName
    previous: NodeName
    """Who led before, as far as this replica knows; empty: nobody since it started."""
    leaderless_since: Seconds
    serves_since: Seconds
    """Of another one: when it was first heard."""
    cause: LeadershipCause


class LastLeader:
    """What a replica remembers of the leader before."""

    def __init__(self, now: Seconds) -> None:
        self.name: NodeName = ""
        """Empty: none since this replica started."""
        self.heard_at: Seconds = now
        """Its last word; before there was one, when this replica started."""
        self.failed = False
        """Whether the failure detector has declared its node FAILED."""
        self.transfer_term: Term = 0
        """The latest term that somebody campaigned for because the leader said so."""
        self.told_term: Term = 0
        """The latest term whose leader was told to the record."""


def on_leader_forgotten(r: Raft) -> None:
    """A follower is about to follow somebody else, or nobody: what it knows of its leader is kept."""
    last = r.last_leader
    if r.role is Role.FOLLOWER and r.leader:
        last.name, last.heard_at, last.failed = r.leader, r.leader_heard_at, r.leader_node_failed


def on_deposed(r: Raft, quorum_heard_at: Seconds) -> None:
    """It led, and could serve: the shard's last leader was this replica, as long as a majority followed."""
    last = r.last_leader
    if r.commit >= r.term_start_index:
        last.name, last.heard_at, last.failed = r.me, quorum_heard_at, False


def on_handed_over(r: Raft, term: Term, now: Seconds) -> None:
    """This replica, or one that asks for its vote, campaigns for `term` because the leader has just said so."""
    r.last_leader.transfer_term, r.last_leader.heard_at = term, now


def on_node_failed(r: Raft, node: NodeName) -> None:
    """The failure detector says FAILED, maybe when this replica has given its leader up already."""
    if node == r.last_leader.name:
        r.last_leader.failed = True


def on_serving(r: Raft, now: Seconds) -> None:
    """Leader: the first entry of its term is committed."""
    _tell(r, now)


def on_followed(r: Raft, now: Seconds) -> None:
    """Follower: it hears a leader. Told once a term, also for the case that the leader's own record cannot be asked for."""
    if r.term > r.last_leader.told_term:
        _tell(r, now)


def _tell(r: Raft, now: Seconds) -> None:
    last = r.last_leader
    since, cause = last.heard_at, LEADERSHIP_CAUSE_TIMEOUT
    if last.transfer_term == r.term:
        cause = LEADERSHIP_CAUSE_TRANSFER
    elif not last.name and r.role is Role.LEADER:
        cause = LEADERSHIP_CAUSE_START
    elif not last.name:
        # A follower that has just started: this leader may have led for long.
        since, cause = now, LEADERSHIP_CAUSE_UNSPECIFIED
    elif last.failed:
        cause = LEADERSHIP_CAUSE_NODE_FAILED
    last.told_term = r.term
    r.out_leaderships.append(Leadership(r.term, r.leader, last.name, since, now, cause))


def without_leader(r: Raft) -> tuple[NodeName, Seconds] | None:
    """Who led last, and its last word, while this replica knows of no leader that could serve; None: there is one."""
    if r.role is Role.LEADER:
        serves = r.commit >= r.term_start_index
    else:
        serves = r.role is Role.FOLLOWER and bool(r.leader) and not r.leader_node_failed
    if serves:
        return None
    if r.role is Role.FOLLOWER and r.leader:
        return r.leader, r.leader_heard_at
    return r.last_leader.name, r.last_leader.heard_at
