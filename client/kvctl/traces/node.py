"""A node of a trace's tree.

Owns nothing but the form. Who makes them: `kvctl.traces.tree` of spans, `kvctl.traces.derive` of what spans tell.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from kvctl.traces.span import Span


@dataclass(slots=True, eq=False)
class Node:
    """A span in its place, or a part of one. Times are nanoseconds by the root's clock."""

    span: Span
    """What it was made from; of a derived node, the span that tells of it."""
    stage: str
    """As "log_write"; of a whole operation "client" or "server"; "application" of what is not the store's."""
    where: str
    """The node that did it; of "network" the far end; empty: the client."""
    start_ns: int
    end_ns: int
    derived: bool = False
    """Whether it is no span of its own."""
    concurrent: bool = False
    """Whether its parent went on meanwhile: it explains the time of others (`append`, `resolve`, the SDK's `Batch`)."""
    children: list[Node] = field(default_factory=list)
    """By start."""

    @property
    def duration_ns(self) -> int:
        """Never negative."""
        return max(self.end_ns - self.start_ns, 0)

    @property
    def is_operation(self) -> bool:
        """Whether it is a whole operation of the store, in a client or on a node."""
        return not self.derived and self.span.operation != ""

    def walk(self) -> Iterator[Node]:
        """This one and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()

    def sort(self) -> None:
        """Children by start, here and below."""
        self.children.sort(key=lambda child: (child.start_ns, child.end_ns, child.span.span_id))
        for child in self.children:
            child.sort()
