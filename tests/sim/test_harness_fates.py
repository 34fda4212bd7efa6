"""What clients are told of eventual writes' fates is held against what became of them."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from tests.sim.history import EventualState, EventualWrite
from tests.sim.outcomes import check_fates

APPLIED, SUPERSEDED = kv_pb2.OPERATION_STATE_APPLIED, kv_pb2.OPERATION_STATE_SUPERSEDED
SETTLED, PENDING = kv_pb2.OPERATION_STATE_SETTLED, kv_pb2.OPERATION_STATE_PENDING
UNKNOWN = kv_pb2.OPERATION_STATE_UNKNOWN


def _check(told: int, revision: int, truth: EventualState, lost: bool = False) -> list[Any]:
    answer = kv_pb2.OperationResponse(state=told, revision=revision, key=b"k")  # type: ignore[arg-type]
    outcome = EventualWrite("0.n1.1.1", b"k", True, truth, 7)
    workload: Any = SimpleNamespace(fates=[(SimpleNamespace(operation_id="0.n1.1.1"), answer)], outcome_of=lambda _: outcome)
    world: Any = SimpleNamespace(nodes={"n1": SimpleNamespace(name="n1", lost=lost)}, counts=Counter())
    return check_fates(world, workload)


@pytest.mark.parametrize(
    ("told", "revision", "truth"),
    [
        (APPLIED, 7, EventualState.APPLIED),
        (SUPERSEDED, 7, EventualState.SUPERSEDED),
        (SETTLED, 0, EventualState.APPLIED),
        (PENDING, 0, EventualState.UNKNOWN),
        (UNKNOWN, 0, EventualState.APPLIED),
    ],
)
def test_fates_that_are_true_pass(told: int, revision: int, truth: EventualState) -> None:
    """Applied or superseded there, in the log somewhere, or nothing yet."""
    assert not _check(told, revision, truth)


@pytest.mark.parametrize(
    ("told", "revision", "truth"),
    [
        (APPLIED, 7, EventualState.SUPERSEDED),
        (APPLIED, 8, EventualState.APPLIED),
        (SUPERSEDED, 7, EventualState.APPLIED),
        (SETTLED, 0, EventualState.UNKNOWN),
    ],
)
def test_fates_that_are_not_true_are_found(told: int, revision: int, truth: EventualState) -> None:
    """Another fate, another place in the log, or a place that does not exist."""
    rules = [violation.rule for violation in _check(told, revision, truth)]
    assert rules == ["what is said of an eventual write is what became of it"]


def test_fates_of_writes_that_a_lost_disk_counted_are_not_judged() -> None:
    """Whoever lost its disk begins to count anew: its writes' ids name others."""
    assert not _check(APPLIED, 8, EventualState.APPLIED, lost=True)
