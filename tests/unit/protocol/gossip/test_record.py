"""Which record wins: a join that no order, grouping or repetition of messages can mislead."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvapi.v1.gossip_pb2 import MemberRecord
from kvapi.v1.message_pb2 import (
    NODE_STATE_ACTIVE,
    NODE_STATE_FAILED,
    NODE_STATE_INACTIVE,
    NODE_STATE_RECOVERING,
    NODE_STATE_UNSPECIFIED,
)
from kvnode.invariant import InvariantViolated
from kvnode.protocol.gossip import merge
from kvnode.protocol.gossip.record import age, next_own_version, suspected

records = st.builds(
    MemberRecord,
    name=st.just("n2"),
    address=st.sampled_from(["a:1", "b:2"]),
    uid=st.sampled_from(["", "u1", "u2"]),
    incarnation=st.integers(0, 2),
    version=st.integers(0, 3),
    state=st.integers(0, 5),
    leads=st.integers(0, 1),
    in_flight=st.integers(0, 1),
    suspected_by=st.sampled_from(["", "n1", "n3"]),
)


@settings(max_examples=300, deadline=None)
@given(records, records, records)
def test_merge_is_commutative_associative_and_idempotent(a: MemberRecord, b: MemberRecord, c: MemberRecord) -> None:
    """The laws of a join semilattice, for any records, also for those no correct node makes."""
    assert merge(a, b) == merge(b, a)
    assert merge(merge(a, b), c) == merge(a, merge(b, c))
    assert merge(a, a) == a
    assert merge(a, b) in (a, b)
    assert age(merge(a, b)) == max(age(a), age(b))


def record(incarnation: int = 1, version: int = 2, **fields: object) -> MemberRecord:
    return MemberRecord(name="n2", incarnation=incarnation, version=version, **fields)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("loser", "winner"),
    [
        (record(1, 9), record(2, 0)),
        (record(1, 2, state=NODE_STATE_FAILED), record(1, 4, state=NODE_STATE_ACTIVE)),
        (record(state=NODE_STATE_UNSPECIFIED), record(state=NODE_STATE_ACTIVE)),
        (record(state=NODE_STATE_ACTIVE), record(state=NODE_STATE_RECOVERING)),
        (record(state=NODE_STATE_RECOVERING), record(state=NODE_STATE_INACTIVE)),
        (record(state=NODE_STATE_INACTIVE), record(state=NODE_STATE_FAILED)),
        (record(), record(suspected_by="n3")),
    ],
)
def test_merge_prefers_the_newer_then_the_graver(loser: MemberRecord, winner: MemberRecord) -> None:
    """Incarnation before version before severity before suspicion."""
    assert merge(loser, winner) == merge(winner, loser) == winner


def test_merge_of_different_members_breaks_an_invariant() -> None:
    """A record never speaks about another member."""
    with pytest.raises(InvariantViolated):
        merge(MemberRecord(name="n1"), MemberRecord(name="n2"))


def test_suspicion_is_above_the_word_it_doubts_and_below_the_next() -> None:
    """Odd versions are suspicions: digests show them, and the member's next even version refutes them."""
    word = record(version=4)
    suspicion = suspected(word, "n3")
    refutation = record(version=next_own_version(suspicion.version))
    assert [word.version, suspicion.version, refutation.version] == [4, 5, 6]
    assert suspected(suspicion, "n1").version == 5
    assert merge(merge(refutation, suspicion), word) == refutation
    assert word.suspected_by == ""
