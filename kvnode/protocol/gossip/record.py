"""Which of two records about one member wins, and how a suspicion is said and refuted.

Owns the order of records and the meaning of `version`. Pure functions over `MemberRecord`; they never change an argument.

Records about one member are totally ordered, and merging takes the greater: a join of a semilattice, so it does not
matter how often, in which order, or in which grouping records arrive (Shapiro et al., "Conflict-free replicated data
types", SSS 2011, state-based objects).

Within an incarnation a member's own words have even versions. A suspicion of the word `v` is the odd version `v | 1`:
above the word that it doubts, below the member's next word, which refutes it (SWIM section 4.2, where the incarnation
number does this). So a digest of (incarnation, version) alone shows that a suspicion is news, and no node but the member
itself ever produces a version that the member could want to use.
"""

from __future__ import annotations

from typing import Final

from kvapi.v1.gossip_pb2 import MemberDigest, MemberRecord
from kvapi.v1.message_pb2 import (
    NODE_STATE_ACTIVE,
    NODE_STATE_FAILED,
    NODE_STATE_INACTIVE,
    NODE_STATE_RECOVERING,
    NODE_STATE_UNSPECIFIED,
)
from kvnode.invariant import invariant
from kvnode.types import NodeName

VERSION_MAX: Final = 1 << 62
"""A version beyond is nonsense, and ignored, lest a member run out of numbers to refute it."""

Age = tuple[int, int]
"""(incarnation, version): the part of a record's rank that digests carry."""

_SEVERITY: Final = {
    NODE_STATE_UNSPECIFIED: 0,
    NODE_STATE_ACTIVE: 1,
    NODE_STATE_RECOVERING: 2,
    NODE_STATE_INACTIVE: 3,
    NODE_STATE_FAILED: 4,
}
_Rank = tuple[int, int, int, int, int, str, str, str, int, int]


def age(record: MemberRecord | MemberDigest) -> Age:
    """How new a record or digest is; the greater is the newer."""
    return (record.incarnation, record.version)


def digest(record: MemberRecord) -> MemberDigest:
    """A record without its contents."""
    return MemberDigest(name=record.name, incarnation=record.incarnation, version=record.version)


def _rank(record: MemberRecord) -> _Rank:
    """A total order: every field takes part, so that equal ranks mean equal records.

    At the same age the graver word wins: to avoid a good node costs less than to use a bad one. What follows after the
    suspicion only breaks ties between records that no correct member makes.
    """
    return (
        record.incarnation,
        record.version,
        _SEVERITY.get(record.state, len(_SEVERITY)),
        record.state,
        int(bool(record.suspected_by)),
        record.suspected_by,
        record.uid,
        record.address,
        record.leads,
        record.in_flight,
    )


def merge(mine: MemberRecord, theirs: MemberRecord) -> MemberRecord:
    """The record that wins: commutative, associative, idempotent. Both must be about the same member."""
    invariant(mine.name == theirs.name, f"records of {mine.name} and {theirs.name} cannot be merged")
    return mine if _rank(mine) >= _rank(theirs) else theirs


def suspected(record: MemberRecord, suspected_by: NodeName) -> MemberRecord:
    """The record with a suspicion of its member's present word."""
    suspicion = MemberRecord()
    suspicion.CopyFrom(record)
    suspicion.version = record.version | 1
    suspicion.suspected_by = suspected_by
    return suspicion


def next_own_version(known: int) -> int:
    """The member's own version above `known`, which may be a suspicion: the next even number."""
    return (known | 1) + 1
