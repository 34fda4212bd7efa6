"""The critical path: what a request waited for, to the nanosecond."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from kvctl.traces.critical_path import Part, by_part, critical_path
from kvctl.traces.node import Node
from kvctl.traces.span import Span
from kvctl.traces.tree import build
from tests.unit.kvctl.traces.synthetic import MS, Put, Scene, slow_put


def node(name: str, start: int, end: int, *children: Node, concurrent: bool = False) -> Node:
    """A node of a tree, by hand."""
    span = Span("t", name, "", name, "internal", start, end)
    return Node(span, name, "", start, end, concurrent=concurrent, children=list(children))


def path(root: Node) -> list[tuple[str, int, int]]:
    """Its steps, in short."""
    return [(step.node.stage, step.start_ns, step.end_ns) for step in critical_path(root)]


@st.composite
def trees(draw: st.DrawFn, depth: int = 3) -> Node:
    """Any tree, with children that overlap, begin early, or outlive their parents."""
    start = draw(st.integers(0, 100))
    children = draw(st.lists(trees(depth=depth - 1), max_size=4)) if depth else []
    root = node("n", start, start + draw(st.integers(0, 100)), *children, concurrent=draw(st.booleans()))
    return root


@given(trees())
def test_path_of_any_tree_is_without_gap_and_as_long_as_its_root(root: Node) -> None:
    """Steps follow each other from the root's start to its end, whatever is below; each lies within its own node."""
    steps = critical_path(root)
    moments = [root.start_ns, *(step.end_ns for step in steps)]
    assert [step.start_ns for step in steps] == moments[:-1]
    assert sum(step.self_ns for step in steps) == root.duration_ns
    assert all(step.node.start_ns <= step.start_ns < step.end_ns <= step.node.end_ns for step in steps)
    assert sum(by_part(steps).values()) == root.duration_ns


def test_path_of_a_leaf_is_itself() -> None:
    """And of nothing that took no time, nothing."""
    assert path(node("a", 5, 9)) == [("a", 5, 9)]
    assert path(node("a", 5, 5)) == []


def test_path_goes_through_children_one_after_the_other() -> None:
    """What lies between them is the parent's own."""
    root = node("a", 0, 10, node("b", 1, 4), node("c", 4, 8))
    assert path(root) == [("a", 0, 1), ("b", 1, 4), ("c", 4, 8), ("a", 8, 10)]


def test_path_of_parallel_children_follows_the_last_to_end() -> None:
    """Two shards vote: the slower one was waited for, the other ran beside it, also if it began first."""
    root = node("a", 0, 10, node("quick", 0, 5), node("slow", 1, 9))
    assert path(root) == [("a", 0, 1), ("slow", 1, 9), ("a", 9, 10)]


def test_path_leaves_out_what_is_said_to_run_beside() -> None:
    """An append, or a transaction's resolution, is nobody's wait as such."""
    root = node("a", 0, 10, node("b", 0, 10, concurrent=True), node("c", 2, 6))
    assert path(root) == [("a", 0, 2), ("c", 2, 6), ("a", 6, 10)]


def test_path_of_a_caller_that_gave_up_ends_in_what_was_still_running() -> None:
    """The call timed out at 10; the node waited for a leader until 50: up to 10 that is what the request waited for."""
    root = node(
        "call", 0, 10, node("server", 1, 60, node("admission", 1, 3), node("leader_wait", 3, 50), node("reply", 50, 60))
    )
    assert path(root) == [("call", 0, 1), ("admission", 1, 3), ("leader_wait", 3, 10)]


def test_path_of_a_child_that_began_before_its_parent_is_cut_there() -> None:
    """Clocks of one process do not run backwards, but spans may be damaged."""
    assert path(node("a", 5, 10, node("b", 0, 8))) == [("b", 5, 8), ("a", 8, 10)]


def test_path_of_a_slow_put_says_where_the_time_went() -> None:
    """The fsync of n2 in the leader's quorum, and the rest in order."""
    request = build(slow_put().scene().spans).requests()[0]
    steps = critical_path(request)
    assert [tuple(step.part) for step in steps] == [
        ("client.queue", ""),
        ("network", "n1"),
        ("admission", "n1"),
        ("log_write", "n1"),
        ("fsync", "n1"),
        ("log_write", "n2"),
        ("fsync", "n2"),
        ("network", "n2"),
        ("apply", "n1"),
        ("reply", "n1"),
        ("network", "n1"),
    ]
    assert next(iter(by_part(steps))) == Part("fsync", "n2")
    assert by_part(steps)[Part("fsync", "n2")] / MS == 41.6
    assert by_part(steps)[Part("network", "n1")] / MS == 4


def test_path_of_a_put_is_the_same_whatever_the_clocks_say() -> None:
    """Skew changes no explanation."""
    put = Put(network=3)
    plain, skewed = (build(put.scene(skew_ms=skew).spans).requests()[0] for skew in ({}, {"n1": -90_000}))
    assert by_part(critical_path(plain)) == by_part(critical_path(skewed))


def test_path_of_a_transaction_descends_into_the_last_vote() -> None:
    """Over nodes: the vote that came last, and in it what that node waited for."""
    scene = Scene()
    server = scene.server("Txn", 0, 30, None, "n1")
    prepare = scene.stage("prepare", 0, 20, server, node="n1")
    scene.stage("decide", 20, 29, server, node="n1")
    scene.stage("reply", 29, 30, server, node="n1")
    for node_name, end in (("n2", 12), ("n3", 19)):
        vote = scene.add("prepare", 1, end, prepare, node=node_name)
        scene.stages(vote, node_name, 1, {"admission": 1, "log_write": end - 2})
    parts = by_part(critical_path(build(scene.spans).roots[0]))
    assert {tuple(part): ns / MS for part, ns in parts.items()} == {
        ("log_write", "n3"): 17,
        ("decide", "n1"): 9,
        ("prepare", "n1"): 2,
        ("admission", "n3"): 1,
        ("reply", "n1"): 1,
    }
