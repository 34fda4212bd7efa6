"""What a participant takes from a coordinator, and what it refuses before it reaches the log."""

from __future__ import annotations

import pytest

from kvapi.v1 import two_phase_commit_pb2
from kvnode.errors import InvalidRequest
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.types import Txn
from tests.unit.routing.two_phase_stand import TwoPhaseStand, simulated
from tests.unit.shard.machine import named

ONE = Txn(1, b"i" * 16)


@simulated
async def test_resolve_to_commit_without_a_vote_is_refused_and_halts_nobody(stand: TwoPhaseStand) -> None:
    """In the log it would break an invariant on every replica, now and at each start."""
    resolve = two_phase_commit_pb2.ResolveRequest(transaction=named(ONE), shard=0, commit=True)
    last = stand.replicas[0].raft.log.last_index
    with pytest.raises(InvalidRequest, match="has not voted"):
        await stand.two_phase.participants.resolve(resolve)
    assert stand.replicas[0].raft.log.last_index == last
    assert stand.state(ONE) is State.INIT


@simulated
async def test_resolve_to_abort_without_a_vote_leaves_a_tombstone(stand: TwoPhaseStand) -> None:
    """A vote that comes later finds it."""
    await stand.two_phase.participants.resolve(two_phase_commit_pb2.ResolveRequest(transaction=named(ONE), shard=0))
    assert stand.state(ONE) is State.ABORTED
