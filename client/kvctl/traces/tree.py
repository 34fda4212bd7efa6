"""One trace as a tree: who waited for whom, and for how long.

Owns what is derived from spans: children of other processes are moved into their parents (clocks differ), and what nobody
records as a span becomes a node of its own: the network, the fsync in a write of the log, the follower in a quorum, the rest
of a batch. Tolerates spans that are missing. Pure: spans in, nodes out.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kvctl.traces.span import Span


@dataclass(slots=True, eq=False)
class Node:
    """A span in its place, or a part of one. Times are nanoseconds by the root's clock."""

    span: Span
    """What it was made from; of a derived node, the span that tells of it."""
    stage: str
    """As "log_write"; of a whole operation "client" or "server", of other spans "application"."""
    where: str
    """The node that did it; of "network" the far end; empty: the client."""
    start_ns: int
    end_ns: int
    derived: bool = False
    """Whether it is no span of its own."""
    concurrent: bool = False
    """Whether its parent went on meanwhile: it explains the time of others (`append`, the SDK's `Batch`)."""
    children: list[Node] = field(default_factory=list)
    """By start."""

    @property
    def duration_ns(self) -> int:
        """Never negative."""
        return max(self.end_ns - self.start_ns, 0)

    def walk(self) -> Iterator[Node]:
        """This one and all below it, parents first."""
        yield self
        for child in self.children:
            yield from child.walk()


@dataclass(slots=True)
class Trace:
    """All that is known of one trace."""

    trace_id: str
    roots: list[Node]
    """The longest first: a client's span if it was recorded, else what the nodes know."""
    related: list[Span] = field(default_factory=list)
    """Spans of other traces that have to do with it: group commits, elections, later replication; by start."""
    missing_parents: int = 0
    """Spans that are not there, and are named as parents."""

    def walk(self) -> Iterator[Node]:
        """All nodes, parents first."""
        for root in self.roots:
            yield from root.walk()

    def requests(self) -> list[Node]:
        """The operations that somebody asked for: those that are no part of another one; the longest first."""
        raise NotImplementedError


class Related:
    """An index of spans that others have to do with: the SDK's batches, group commits, elections, stalls."""

    def __init__(self, spans: Iterable[Span] = ()) -> None: ...


def build(spans: Iterable[Span], related: Related | None = None) -> Trace:
    """The tree of one trace's spans (at least one). Duplicates count once."""
    raise NotImplementedError


@dataclass(frozen=True, slots=True)
class Coverage:
    """How much of an operation's time its stages explain."""

    node: Node
    covered_ns: int

    @property
    def share(self) -> float:
        """Of the operation's duration; 1 is all of it."""
        return self.covered_ns / self.node.duration_ns if self.node.duration_ns else 1.0


def coverage(trace: Trace) -> Sequence[Coverage]:
    """Of each operation, in clients (queue, call, pause) and on nodes (all stages), how much its stages cover."""
    raise NotImplementedError
