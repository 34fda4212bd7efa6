"""How requests ended: what counts as answered, and the share of it.

Owns which outcomes are the cluster's debt. An error that tells the caller something about its own request, as COMPARE_FAILED,
is an answer: a perfect cluster would have given the same one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final

from kvapi.v1 import cluster_pb2, kv_pb2
from kvctl.availability.model import SuccessRate

ANSWERS: Final = ("OK", "COMPARE_FAILED", "CONFLICT", "INVALID_ARGUMENT", "NOT_FOUND", "COMPACTED", "SESSION_EXPIRED")
"""Outcomes that count as answered."""
NOT_COUNTED: Final = ("CANCELLED",)
"""Callers that gave up on their own."""
PREFIX = "CONSISTENCY_"


def success_rates(counts: Mapping[tuple[str, str, str], int]) -> tuple[SuccessRate, ...]:
    """By (operation, consistency, outcome), summed up: by operation and consistency."""
    by_kind: dict[tuple[str, str], dict[str, int]] = {}
    for (operation, consistency, outcome), count in sorted(counts.items()):
        kind = by_kind.setdefault((operation, consistency), {})
        kind[outcome] = kind.get(outcome, 0) + count
    return tuple(
        SuccessRate(
            operation,
            consistency,
            kind,
            answered=sum(count for outcome, count in kind.items() if outcome in ANSWERS),
            unanswered=sum(count for outcome, count in kind.items() if outcome not in ANSWERS + NOT_COUNTED),
        )
        for (operation, consistency), kind in by_kind.items()
    )


def of_nodes(answers: Iterable[cluster_pb2.AvailabilityResponse]) -> tuple[SuccessRate, ...]:
    """As the nodes answered, since each one's start. Without calls to other services ("cluster.Status"), and without what nodes
    ask each other ("txn/prepare"): whatever becomes of that, the transaction has an outcome of its own."""
    counts: dict[tuple[str, str, str], int] = {}
    for answer in answers:
        for each in (each for each in answer.outcomes if each.operation.isalpha()):
            consistency = kv_pb2.Consistency.Name(each.consistency).removeprefix(PREFIX)
            key = each.operation, consistency, each.outcome
            counts[key] = counts.get(key, 0) + each.count
    return success_rates(counts)
