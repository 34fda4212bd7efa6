"""What nobody records as a span, and spans tell of: nodes that are made from others.

Owns four of them: the network between two processes (a call minus what the other side took: no clocks are compared), the fsync
in a write of the log, the follower's work that a quorum waited for, and the rest of a batch that an operation waited for. Pure.
"""

from __future__ import annotations

from kvctl.traces.node import Node
from kvctl.traces.related import Related, is_client_batch

_US = 1000
NETWORK, BATCH, FSYNC = "network", "batch", "fsync"


def insert_batches(root: Node, related: Related) -> None:
    """Between a call of the SDK and its operation on a node: the RPC of the batch that carried it, where it is known."""
    here = {node.span.batch_id: node for node in root.walk() if is_client_batch(node.span)}
    for call in [node for node in root.walk() if node.stage == "client.call" and node.span.batch_id and node.children]:
        batch = here.get(call.span.batch_id)
        rpc = next((child.span for child in batch.children), None) if batch else related.batch_on_node(call.span.batch_id)
        if rpc is not None:
            between = Node(rpc, BATCH, rpc.node, rpc.start_ns, rpc.end_ns, derived=True, children=call.children)
            call.children = [between]


def derive(node: Node) -> None:
    """Add derived nodes, here and below. Times must have been aligned."""
    for child in node.children:
        derive(child)
    _add_network(node)
    if node.stage == "log_write":
        _add(node, FSYNC, node.where, node.end_ns - int(node.span.number("kvnode.log.fsync_us") * _US), node.end_ns)
    appends = [child for child in node.children if child.stage == "append" and not child.derived]
    for quorum in node.children:
        if quorum.stage == "quorum" and (deciding := _deciding(quorum, appends)):
            _add_follower(quorum, deciding)


def _add(parent: Node, stage: str, where: str, start_ns: int, end_ns: int) -> Node | None:
    """A derived child, within its parent; None if nothing of it is left."""
    start_ns, end_ns = max(start_ns, parent.start_ns), min(end_ns, parent.end_ns)
    if end_ns <= start_ns:
        return None
    child = Node(parent.span, stage, where, start_ns, end_ns, derived=True)
    parent.children.append(child)
    return child


def _add_network(node: Node) -> None:
    """Before the first and after the last thing that another process did for it."""
    remote = [child for child in node.children if child.span.process != node.span.process and not child.concurrent]
    if remote:
        first, last = min(remote, key=lambda child: child.start_ns), max(remote, key=lambda child: child.end_ns)
        _add(node, NETWORK, first.where, node.start_ns, first.start_ns)
        _add(node, NETWORK, last.where, last.end_ns, node.end_ns)


def _deciding(quorum: Node, appends: list[Node]) -> Node | None:
    """The append whose answer completed the quorum."""
    name = quorum.span.attributes.get("kvnode.quorum.node")
    counted = [append for append in appends if append.span.attributes.get("kvnode.quorum")]
    named = [append for append in appends if append.where == name]
    return max(named or counted, key=lambda append: append.end_ns, default=None)


def _add_follower(quorum: Node, append: Node) -> None:
    """What the follower did while the leader waited for it: on the way, behind earlier writes, writing, on the way back."""
    follower = _add(quorum, "append", append.where, append.start_ns, append.end_ns)
    total_ns, queue_ns, write_ns, fsync_ns = (
        int(append.span.number(f"kvnode.append.{name}_us") * _US) for name in ("total", "log_queue", "log_write", "fsync")
    )
    if follower is None or not total_ns:
        return
    network_ns = max(append.duration_ns - total_ns, 0) // 2
    arrived_ns, answered_ns = append.start_ns + network_ns, append.end_ns - network_ns
    _add(follower, NETWORK, append.where, append.start_ns, arrived_ns)
    written_ns = answered_ns
    _add(follower, "log_queue", append.where, written_ns - write_ns - queue_ns, written_ns - write_ns)
    write = _add(follower, "log_write", append.where, written_ns - write_ns, written_ns)
    if write is not None:
        _add(write, FSYNC, append.where, written_ns - fsync_ns, written_ns)
    _add(follower, NETWORK, append.where, answered_ns, append.end_ns)
