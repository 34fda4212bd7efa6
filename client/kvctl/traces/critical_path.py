"""The critical path of a request: what it waited for, moment by moment, over all nodes.

Follows CRISP (Zhang et al., USENIX ATC '22): from the end backwards, always into the child that ended last. Pure.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from kvctl.traces.node import Node


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
    steps: list[Step] = []
    _follow(root, root.start_ns, root.end_ns, steps)
    steps.reverse()
    return steps


def _follow(node: Node, begin_ns: int, until_ns: int, steps: list[Step]) -> None:
    """The path through `node` between two moments, backwards. What was still running at the end of them was waited for up to
    then: a caller who gives up ends before its call. What ran beside the path and ended later is not on it.
    """
    at_ns = until_ns
    for child in sorted(node.children, key=lambda child: (-min(child.end_ns, until_ns), child.start_ns)):
        start_ns, end_ns = max(child.start_ns, begin_ns), min(child.end_ns, until_ns)
        if child.concurrent or end_ns > at_ns or end_ns <= start_ns:
            continue
        if end_ns < at_ns:
            steps.append(Step(node, end_ns, at_ns))
        _follow(child, start_ns, end_ns, steps)
        at_ns = start_ns
    if begin_ns < at_ns:
        steps.append(Step(node, begin_ns, at_ns))


def by_part(steps: Iterable[Step]) -> dict[Part, int]:
    """Nanoseconds by what and where; the longest first."""
    sums: dict[Part, int] = {}
    for step in steps:
        sums[step.part] = sums.get(step.part, 0) + step.self_ns
    return dict(sorted(sums.items(), key=lambda item: (-item[1], item[0])))
