"""Why was this request slow: a sentence with numbers.

Owns the words. Compares with what is usual for its kind where that is known. Pure, and deterministic: the same trace has the
same explanation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kvctl.traces.critical_path import Part
from kvctl.traces.node import Node
from kvctl.traces.tree import Trace


@dataclass(frozen=True, slots=True)
class Typical:
    """What is usual for one operation and consistency: medians, in nanoseconds."""

    count: int
    """Of requests that it is from."""
    duration_ns: float
    stages_ns: Mapping[str, float] = field(default_factory=dict)
    """Time on the critical path by stage, on all nodes together."""


@dataclass(frozen=True, slots=True)
class Share:
    """A part of the time, in words."""

    part: Part
    ns: int
    typical_ns: float | None
    words: str
    """As "waiting for fsync on n2"."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Why one request took as long as it did."""

    trace_id: str
    operation: str
    duration_ns: int
    typical_ns: float | None
    error: str
    """Why it failed; empty: it did not."""
    shares: tuple[Share, ...]
    """What explains most of it, the largest first."""
    causes: tuple[str, ...]
    """Facts behind it, as "n3 was FAILED, so n2 was needed for the quorum"."""

    @property
    def text(self) -> str:
        """All of it, as a few sentences."""
        raise NotImplementedError


def explain(trace: Trace, request: Node, typical: Typical | None = None) -> Explanation:
    """Why `request`, one of `trace.requests()`, took its time."""
    raise NotImplementedError
