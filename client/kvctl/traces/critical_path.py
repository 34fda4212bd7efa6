"""The critical path of a request: what it waited for, moment by moment, over all nodes.

Follows CRISP (Zhang et al., USENIX ATC '22): from the end backwards, always into the child that ended last. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kvctl.traces.tree import Node


class Part(NamedTuple):
    """A kind of work in a place: what steps are added up by."""

    stage: str
    where: str


@dataclass(frozen=True, slots=True)
class Step:
    """A stretch of time in which the request waited for this node itself, and for none of its children."""

    node: Node
    start_ns: int
    end_ns: int

    @property
    def self_ns(self) -> int:
        """Its length."""
        return self.end_ns - self.start_ns

    @property
    def part(self) -> Part:
        """What it was, and where."""
        return Part(self.node.stage, self.node.where)


def critical_path(root: Node) -> list[Step]:
    """The steps from the root's start to its end, without a gap: their lengths sum to its duration."""
    raise NotImplementedError


def by_part(steps: Iterable[Step]) -> dict[Part, int]:
    """Nanoseconds by what and where; the longest first."""
    raise NotImplementedError
