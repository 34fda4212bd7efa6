"""A node in one line."""

from __future__ import annotations

from kvnode.node import Node
from kvnode.observe.status_line import status_line
from tests.unit.observe.whole_nodes import SHARDS, WholeNodes, on_whole_nodes


def line_of(node: Node) -> str:
    """As `systemctl status` would show it."""
    return status_line(node.state, node.driver.out_of_space, node.replicas, node.loop.time())


@on_whole_nodes
async def test_status_of_a_serving_node_has_role_term_and_lag(nodes: WholeNodes) -> None:
    """What it leads, the highest term, and nothing that is wrong."""
    await nodes.put(b"a")
    node = nodes.leader(0)
    await nodes.until(lambda: all(replica.applied == replica.raft.commit for replica in node.replicas.values()))
    leads = sum(replica.is_leader for replica in node.replicas.values())
    term = max(replica.raft.term for replica in node.replicas.values())
    assert line_of(node) == f"ACTIVE: leads {leads} of {SHARDS} shards, term {term}, lag 0 entries"


@on_whole_nodes
async def test_status_of_a_node_cut_off_names_what_it_lacks(nodes: WholeNodes) -> None:
    """Followers that hear nobody any more campaign: no leader is known; what they had grows old."""
    node = nodes.nodes["n3"]
    nodes.cut_off.add("n3")
    await nodes.until(lambda: not any(replica.raft.leader for replica in node.replicas.values()))
    assert line_of(node).endswith(f"no leader of shards {', '.join(map(str, range(SHARDS)))}")


@on_whole_nodes
async def test_status_of_a_node_with_a_full_disk_says_so(nodes: WholeNodes) -> None:
    """Before anything else that is wrong."""
    node = nodes.nodes["n1"]
    node.driver.set_out_of_space(True, "a test's")
    assert "disk full: writes are refused" in line_of(node)
    node.driver.set_out_of_space(False)
