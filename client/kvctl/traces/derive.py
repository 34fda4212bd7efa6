"""What nobody records as a span, and spans tell of: nodes that are made from others.

Owns four of them: the network between two processes (a call minus what the other side took: no clocks are compared), the fsync
in a write of the log, the follower's work that a quorum waited for, and the rest of a batch that an operation waited for. Pure.
"""

from __future__ import annotations

from collections.abc import Sequence

from kvctl.traces.node import Node
from kvctl.traces.related import Related, is_client_batch

_US = 1000
NETWORK, BATCH, FSYNC = "network", "batch", "fsync"


def insert_batches(roots: Sequence[Node], related: Related) -> None:
    """Between a call of the SDK and its operation on a node: the RPC of the batch that carried it, where it is known."""
    nodes = [node for root in roots for node in root.walk()]
    here = {node.span.batch_id: node for node in nodes if is_client_batch(node.span)}
    for call in [node for node in nodes if node.stage == "client.call" and node.span.batch_id and node.children]:
        batch = here.get(call.span.batch_id)
        rpc = next((child.span for child in batch.children), None) if batch else related.batch_on_node(call.span.batch_id)
        if rpc is not None:
            between = Node(rpc, BATCH, rpc.node, rpc.start_ns, rpc.end_ns, derived=True, children=call.children)
            call.children = [between]


def nest_operations(root: Node) -> None:
    """Operations of a batch belong to the stage in which they ran, not beside it."""
    for batch in root.walk():
        stage = next((child for child in batch.children if child.stage == "operations"), None)
        if stage is not None:
            inner = [child for child in batch.children if child.is_operation and not child.concurrent]
            batch.children = [child for child in batch.children if child not in inner]
            stage.children += inner


def derive(node: Node, related: Related) -> None:
    """Add derived nodes, here and below. Times must have been aligned."""
    for child in node.children:
        derive(child, related)
    _add_network(node)
    if node.stage == "log_write":
        _add_fsync(node, related)
    appends = [child for child in node.children if child.stage == "append" and not child.derived]
    for quorum in node.children:
        if quorum.stage == "quorum" and (deciding := _deciding(quorum, appends)):
            _add_follower(quorum, deciding)


def _add(parent: Node, stage: str, where: str, start_ns: int, end_ns: int, source: Node | None = None) -> Node | None:
    """A derived child, within its parent, made from `source` or the parent itself; None if nothing of it is left."""
    start_ns, end_ns = max(start_ns, parent.start_ns), min(end_ns, parent.end_ns)
    if end_ns <= start_ns:
        return None
    child = Node((source or parent).span, stage, where, start_ns, end_ns, derived=True)
    parent.children.append(child)
    return child


def _add_network(node: Node) -> None:
    """Before and after what another process did for it, if that is all it waited for."""
    inner = [child for child in node.children if not child.concurrent]
    if len(inner) == 1 and inner[0].span.process != node.span.process:
        there = inner[0]
        _add(node, NETWORK, there.where, node.start_ns, there.start_ns)
        _add(node, NETWORK, there.where, there.end_ns, node.end_ns)


def _add_fsync(write: Node, related: Related) -> None:
    """At the end of a write of the log; the group commit's own span knows if the request's does not."""
    commit = related.group_commit(write.span.batch_id)
    fsync_us = write.span.number("kvnode.log.fsync_us") or (commit.number("kvnode.log.fsync_us") if commit else 0)
    _add(write, FSYNC, write.where, write.end_ns - int(fsync_us * _US), write.end_ns)


def _deciding(quorum: Node, appends: list[Node]) -> Node | None:
    """The append whose answer completed the quorum."""
    name = quorum.span.attributes.get("kvnode.quorum.node")
    counted = [append for append in appends if append.span.attributes.get("kvnode.quorum")]
    named = [append for append in appends if append.where == name]
    return max(named or counted, key=lambda append: append.end_ns, default=None)


def _add_follower(quorum: Node, append: Node) -> None:
    """What the follower did while the leader waited for it: on the way, behind earlier writes, writing, on the way back."""
    follower = _add(quorum, "append", append.where, append.start_ns, append.end_ns, append)
    if follower is None or "kvnode.append.network_us" not in append.span.attributes:
        return
    network_ns, queue_ns, write_ns, fsync_ns = (
        int(append.span.number(f"kvnode.append.{name}_us") * _US) for name in ("network", "log_queue", "log_write", "fsync")
    )
    arrived_ns, answered_ns = append.start_ns + network_ns // 2, append.end_ns - network_ns // 2
    begun_ns = answered_ns - write_ns
    _add(follower, NETWORK, append.where, append.start_ns, arrived_ns)
    _add(follower, "log_queue", append.where, begun_ns - queue_ns, begun_ns)
    write = _add(follower, "log_write", append.where, begun_ns, answered_ns)
    if write is not None:
        _add(write, FSYNC, append.where, answered_ns - fsync_ns, answered_ns)
    _add(follower, NETWORK, append.where, answered_ns, append.end_ns)
