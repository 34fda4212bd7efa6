"""One trace as a tree: who waited for whom, and for how long.

Owns the shape: parents and children, clocks, and what is missing. A child of another process is moved into its parent, as
Jaeger's adjuster of clock skew does. What no process can measure by itself is `kvctl.traces.derive`'s. Pure: spans in, nodes
out.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from kvctl.traces.derive import derive, insert_batches, nest_operations
from kvctl.traces.node import Node
from kvctl.traces.related import Related, is_background
from kvctl.traces.span import Span

STAGES_OF_CLIENTS = ("client.open", "client.queue", "client.call", "client.resume", "client.pause")
_OTHERS_WORK = ("prepare", "decide", "collect", "acks", "read_index")
"""Stages whose remote spans are other requests than the one that the client asked for."""
_BESIDE = ("append", "resolve")
"""Work that its parent does not wait for as such: a quorum waits for some appends, nobody for a transaction's resolution."""


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
        found = [node for root in self.roots for node in _topmost(root)]
        return sorted(found, key=lambda node: -node.duration_ns)


def _topmost(node: Node) -> Iterator[Node]:
    if node.is_operation or is_background(node.span):
        yield node
        return
    for child in node.children:
        yield from _topmost(child)


def served(node: Node) -> Node | None:
    """The operation on the node that served a request in the end: after retries and forwards. None: not recorded."""
    found = node if node.is_operation and node.span.node else None
    for child in node.children:
        if not child.concurrent and child.stage not in _OTHERS_WORK:
            found = served(child) or found
    return found


def build(spans: Iterable[Span], related: Related | None = None) -> Trace:
    """The tree of one trace's spans (at least one). Duplicates count once."""
    related = related or Related()
    by_id = {span.span_id: span for span in spans}
    nodes = {span_id: _node(span) for span_id, span in by_id.items()}
    children: dict[str, list[Node]] = defaultdict(list)
    for node in nodes.values():
        children[node.span.parent_id].append(node)
    roots = [node for node in nodes.values() if node.span.parent_id not in nodes]
    reached: set[str] = set()
    for root in [*roots, *nodes.values()]:
        if root.span.span_id not in reached:  # of damaged spans that are each other's parents, the first is a root
            if root not in roots:
                roots.append(root)
            _attach(root, children, reached)
    missing = {root.span.parent_id for root in roots} - {""} - set(nodes)
    insert_batches(roots, related)
    for root in roots:
        nest_operations(root)
        _align(root, 0)
        derive(root, related)
        root.sort()
    roots.sort(key=lambda root: (-root.duration_ns, root.span.span_id))
    return Trace(roots[0].span.trace_id, roots, related.of(by_id.values()), len(missing))


def _node(span: Span) -> Node:
    where = span.node if is_background(span) else str(span.attributes.get("kvnode.node", span.node))
    return Node(span, _stage(span), where, span.start_ns, max(span.end_ns, span.start_ns))


def _stage(span: Span) -> str:
    if span.stage:
        return span.stage
    if span.operation or span.kind == "server":
        return "client" if span.kind == "client" else "server"
    return span.name.removeprefix("kvnode.") if span.node else "application"


def _attach(root: Node, children: dict[str, list[Node]], reached: set[str]) -> None:
    """Give nodes their children, from the root down; nobody twice."""
    reached.add(root.span.span_id)
    waiting = [root]
    while waiting:
        node = waiting.pop()
        for child in children.get(node.span.span_id, ()):
            if child.span.span_id not in reached:
                reached.add(child.span.span_id)
                child.concurrent = child.stage in _BESIDE or (node.is_operation and child.span.kind == "client")
                node.children.append(child)
                waiting.append(child)


def _align(node: Node, shift_ns: int) -> None:
    """Move a node, and with it what its process did below; what other processes did, into their parents."""
    node.start_ns += shift_ns
    node.end_ns += shift_ns
    for child in node.children:
        _align(child, shift_ns if child.span.process == node.span.process else _skew(node, child))


def _skew(parent: Node, child: Node) -> int:
    """By how much a child of another process must move to lie within its parent, nanoseconds. It goes to the middle, as if
    the ways there and back took equally long; one that began in time and lasted longer was left by its caller, and stays.
    """
    if parent.start_ns <= child.start_ns and (child.end_ns <= parent.end_ns or child.duration_ns > parent.duration_ns):
        return 0
    return parent.start_ns + max(parent.duration_ns - child.duration_ns, 0) // 2 - child.start_ns


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
    return [
        Coverage(node, _covered_ns(node))
        for node in trace.walk()
        if node.is_operation and not node.concurrent and node.span.kind != "unspecified"
    ]


def _covered_ns(operation: Node) -> int:
    wanted = STAGES_OF_CLIENTS if operation.span.kind == "client" else None
    covered, at = 0, operation.start_ns
    for child in sorted(operation.children, key=lambda child: child.start_ns):
        if child.span.stage and not child.concurrent and (wanted is None or child.stage in wanted):
            begin, end = max(child.start_ns, at), min(child.end_ns, operation.end_ns)
            if end > begin:
                covered, at = covered + end - begin, end
    return covered
