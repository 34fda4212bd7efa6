"""Trees of spans: parents, clocks, what is derived, what is missing, and how much stages explain."""

from __future__ import annotations

from dataclasses import replace

import pytest

from kvctl.traces.node import Node
from kvctl.traces.related import Related
from kvctl.traces.span import Span
from kvctl.traces.tree import Trace, build, coverage, served
from tests.unit.kvctl.traces.synthetic import EPOCH_NS, MS, Follower, Put, Scene, slow_put, trace_id_of


def find(trace: Trace, stage: str, where: str | None = None) -> Node:
    """The first node of a stage."""
    return next(node for node in trace.walk() if node.stage == stage and where in (None, node.where))


def at_ms(node: Node) -> tuple[float, float]:
    """When it began and ended, in the scene's milliseconds."""
    return round((node.start_ns - EPOCH_NS) / MS, 3), round((node.end_ns - EPOCH_NS) / MS, 3)


def test_tree_of_a_put_has_every_span_once_in_its_place() -> None:
    """Client, call, server, stages; each child within its parent, in the order of their begins."""
    scene = Put().scene()
    trace = build(scene.spans)
    assert [root.stage for root in trace.roots] == ["client"]
    real = [node.span.span_id for node in trace.walk() if not node.derived]
    assert sorted(real) == sorted(span.span_id for span in scene.spans)
    server = find(trace, "server")
    stages = [child.stage for child in server.children if not child.concurrent]
    assert stages == ["admission", "log_queue", "log_write", "quorum", "apply", "reply"]
    assert [child.where for child in server.children if child.concurrent] == ["n2", "n3"]


def test_tree_derives_the_network_from_durations_alone() -> None:
    """The call's time that is not the server's was spent on the way; where clocks agree, each way's own."""
    trace = build(Put(network=2.0).scene().spans)
    call = find(trace, "client.call")
    ways = [child for child in call.children if child.stage == "network"]
    assert [way.where for way in ways] == ["n1", "n1"]
    assert [way.duration_ns / MS for way in ways] == pytest.approx([1.0, 1.0])
    assert all(way.derived for way in ways)


@pytest.mark.parametrize("skew_ms", [-4000, -1.5, 1.5, 250, 86_400_000])
def test_tree_of_a_node_whose_clock_is_wrong_is_as_if_it_were_right(skew_ms: float) -> None:
    """The server's span is moved into the middle of the call, and all that this node did moves with it."""
    right = build(Put(network=2.0).scene().spans)
    wrong = build(Put(network=2.0).scene(skew_ms={"n1": skew_ms}).spans)
    assert [(node.stage, *at_ms(node)) for node in wrong.walk()] == [(node.stage, *at_ms(node)) for node in right.walk()]


def test_tree_of_a_stage_with_several_children_guesses_no_network() -> None:
    """A vote came from here, another from n2: nobody knows when that one was asked for."""
    scene = Scene()
    prepare = scene.stage("prepare", 0, 20, scene.server("Txn", 0, 20, None, "n1"), node="n1")
    scene.add("prepare", 1, 9, prepare, node="n1")
    scene.add("prepare", 12, 19, prepare, node="n2")
    assert [node.stage for node in build(scene.spans).walk()] == ["server", "prepare", "prepare", "prepare"]


def test_tree_of_clocks_that_differ_a_little_keeps_what_fits() -> None:
    """A child that lies within its parent is not moved: then the difference may be the network's."""
    trace = build(Put(network=2.0).scene(skew_ms={"n1": 0.5}).spans)
    ways = [child.duration_ns / MS for child in find(trace, "client.call").children if child.stage == "network"]
    assert ways == pytest.approx([1.5, 0.5])


def test_tree_of_skewed_nodes_in_a_chain_moves_each_into_its_parent() -> None:
    """n1 forwards to n2, both clocks are wrong in other directions: still nested."""
    scene = Scene(skew_ms={"n1": 700, "n2": -300})
    root = scene.client("Put", 0, 20)
    call = scene.stage("client.call", 0, 20, root)
    first = scene.server("Put", 1, 19, call, "n1", kvnode__hops=0)
    forward = scene.stage("forward", 2, 18, first, node="n1", kvnode__node="n2")
    scene.server("Put", 4, 16, forward, "n2", kvnode__hops=1)
    trace = build(scene.spans)
    assert at_ms(find(trace, "forward")) == (2, 18)
    assert at_ms(find(trace, "server", "n2")) == (4, 16)
    assert [at_ms(node) for node in find(trace, "forward").children if node.stage == "network"] == [(2, 4), (16, 18)]
    request = trace.requests()[0]
    assert request.stage == "client"
    server = served(request)
    assert server is not None
    assert server.where == "n2"


def test_tree_of_a_call_that_was_given_up_leaves_the_server_where_it_was() -> None:
    """A node that works on after its caller's deadline ends later, and its clock is not wrong for that."""
    scene = Scene()
    root = scene.client("Put", 0, 50)
    call = scene.stage("client.call", 0, 50, root)
    scene.server("Put", 1, 400, call, "n1")
    assert at_ms(find(build(scene.spans), "server")) == (1, 400)


def test_tree_of_a_quorum_tells_what_the_follower_did() -> None:
    """On its way, behind earlier writes, writing, in fsync, and on its way back; only what fell into the leader's wait."""
    follower = Follower(network=2, log_queue=3, write=1, fsync=5)
    trace = build(Put(fsync=0.4, followers={"n2": follower}).scene().spans)
    quorum = find(trace, "quorum")
    (append,) = quorum.children
    assert (append.stage, append.where, append.derived) == ("append", "n2", True)
    parts = {node.stage: node.duration_ns / MS for node in append.walk() if node.stage in ("log_queue", "log_write", "fsync")}
    assert parts == pytest.approx({"log_queue": 3, "log_write": 6, "fsync": 5})
    ways = [node.duration_ns / MS for node in append.children if node.stage == "network"]
    assert ways == pytest.approx([0.5, 1])  # half of the way there fell into the leader's own write
    assert append.end_ns == quorum.end_ns


def test_tree_of_a_quorum_asks_the_follower_that_completed_it() -> None:
    """With five replicas two followers count: the last of them decides, and it is named."""
    followers = {"n2": Follower(fsync=2), "n3": Follower(fsync=4), "n4": Follower(fsync=9, quorum=False)}
    scene = Put(followers=followers).scene()
    spans = [
        replace(span, attributes=span.attributes | {"kvnode.quorum.node": "n3"}, end_ns=span.end_ns + 2 * MS)
        if span.stage == "quorum"
        else span
        for span in scene.spans
    ]
    assert [node.where for node in find(build(spans), "quorum").children] == ["n3"]
    unnamed = [replace(span, attributes={"kvnode.stage": "quorum"}) if span.stage == "quorum" else span for span in spans]
    assert [node.where for node in find(build(unnamed), "quorum").children] == ["n3"]


def test_tree_of_a_quorum_without_appends_stays_a_leaf() -> None:
    """The followers' answers may have been forgotten."""
    spans = [span for span in Put().scene().spans if span.name != "append"]
    assert find(build(spans), "quorum").children == []


def test_tree_of_a_write_takes_the_fsync_from_its_group_commit() -> None:
    """A stage that names only its batch: the batch's span, of another trace, knows the rest."""
    scene = Put(write=1, fsync=4).scene()
    spans = [
        replace(span, attributes={"kvnode.stage": "log_write", "kvnode.batch.id": "n1/3/871"})
        if span.stage == "log_write"
        else span
        for span in scene.spans
    ]
    other = Scene(trace_id_of(7))
    commit = other.add(
        "kvnode.log_batch", 0, 5, node="n1", kvnode__batch__id="n1/3/871", kvnode__log__fsync_us=4000, kvnode__stage="log_write"
    )
    assert not [node for node in build(spans).walk() if node.stage == "fsync" and node.where == "n1"]
    trace = build(spans, Related([commit]))
    assert find(trace, "fsync", "n1").duration_ns == 4 * MS
    assert trace.related == [commit]


def _batched(batch_in: Scene, operation_in: Scene) -> None:
    """Two operations of one RPC: it takes 1 to 9 ms on n1, the other operation's trace has the Batch; this one 2 to 4 ms."""
    first = batch_in.client("Put", 0, 10)
    batch_in.stage("client.call", 0, 10, first, kvnode__batch__id="c1/5", kvnode__batch__size=2)
    rpc = batch_in.client("Batch", 0, 10, first, kvnode__batch__id="c1/5")
    server = batch_in.server("Batch", 1, 9, rpc, "n1")
    batch_in.stages(server, "n1", 1, {"admission": 0.5, "operations": 7, "reply": 0.5})
    second = operation_in.client("Put", 0, 10)
    call = operation_in.stage("client.call", 0, 10, second, kvnode__batch__id="c1/5", kvnode__batch__size=2)
    operation_in.server("Put", 2, 4, call, "n1", kind="internal", kvnode__batch__index=1)


@pytest.mark.parametrize("skew_ms", [0, 5000])
def test_tree_of_a_coalesced_operation_shows_the_rest_of_its_batch(skew_ms: float) -> None:
    """The RPC is in another trace, and found by its id: what it took beyond the operation was no network."""
    other, scene = Scene(trace_id_of(7), {"n1": skew_ms}), Scene(skew_ms={"n1": skew_ms})
    _batched(other, scene)
    trace = build(scene.spans, Related(other.spans))
    batch = find(trace, "batch", "n1")
    assert at_ms(batch) == (1, 9)
    assert [(child.stage, *at_ms(child)) for child in batch.children] == [("server", 2, 4)]
    ways = [at_ms(child) for child in find(trace, "client.call").children if child.stage == "network"]
    assert ways == [(0, 1), (9, 10)]
    assert "Batch" in [span.name for span in trace.related]


def test_tree_with_the_batch_itself_sets_it_beside_the_operation() -> None:
    """The first operation's trace has the RPC as a child; the operation does not wait for it twice."""
    scene = Scene()
    _batched(scene, scene)
    trace = build(scene.spans)
    assert len(trace.requests()) == 2
    batch = next(node for node in trace.walk() if node.span.name == "Batch" and not node.derived)
    assert batch.concurrent
    assert len([node for node in trace.walk() if node.stage == "batch"]) == 1


def test_tree_of_a_batch_nests_its_operations_in_their_stage() -> None:
    """Operations without a trace of their own are children of the RPC; they ran in its stage `operations`."""
    scene = Scene()
    server = scene.server("Batch", 0, 10, None, "n1")
    scene.stages(server, "n1", 0, {"admission": 1, "operations": 8, "reply": 1})
    scene.server("Put", 1, 5, server, "n1", kind="internal")
    scene.server("Put", 1, 8, server, "n1", kind="internal")
    trace = build(scene.spans)
    assert [child.stage for child in trace.roots[0].children] == ["admission", "operations", "reply"]
    assert len(find(trace, "operations").children) == 2
    assert len(trace.requests()) == 1


def test_tree_with_missing_parents_has_several_roots() -> None:
    """Without the client's file, and with a lost server span: the longest is first, and what is missing is counted."""
    scene = Put().scene()
    server = next(span for span in scene.spans if span.kind == "server")
    known = [span for span in scene.spans if span.node and span is not server]
    trace = build(known)
    assert trace.missing_parents == 1
    assert len(trace.roots) == len(known)
    assert trace.roots[0].duration_ns == max(span.duration_ns for span in known)
    assert trace.requests() == []


def test_tree_of_the_nodes_view_begins_with_the_server() -> None:
    """What live nodes tell: no client."""
    trace = build(Put(by_client=False).scene().spans)
    assert [request.stage for request in trace.requests()] == ["server"]


@pytest.mark.parametrize("parents", [("b", "a"), ("a", "b")])
def test_tree_of_spans_that_are_each_others_parents_ends(parents: tuple[str, str]) -> None:
    """Damaged data: every span is there once, and nothing runs in circles."""
    spans = [
        Span("t", span_id, parent_id, span_id, "internal", 0, 1) for span_id, parent_id in zip(("a", "b"), parents, strict=True)
    ]
    trace = build(spans)
    assert sorted(node.span.span_id for node in trace.walk()) == ["a", "b"]


def test_tree_of_spans_that_came_twice_has_each_once() -> None:
    """A node's memory and its file overlap."""
    spans = Put().scene().spans
    assert len(list(build(spans + spans).walk())) == len(list(build(spans).walk()))


def test_requests_within_an_application_are_found_each() -> None:
    """An application's handler that asks three times: three requests, the longest first; the handler is none."""
    scene = Scene()
    handler = scene.add("GET /cart", 0, 30)
    for at, length in ((0, 2), (5, 9), (20, 4)):
        scene.client("Get", at, at + length, handler)
    trace = build(scene.spans)
    assert [request.duration_ns / MS for request in trace.requests()] == [9, 4, 2]
    assert trace.roots[0].stage == "application"


def test_related_spans_are_found_by_link_time_and_place() -> None:
    """The group commit by its id, the replication by its link, the election by shard and time, the stall by node and time."""
    scene = Scene()
    root = scene.server("Put", 0, 100, None, "n1")
    scene.stages(root, "n1", 0, {"leader_wait": 50, "log_queue": 20, "log_write": 25, "reply": 5})
    other = Scene(trace_id_of(9))
    wanted = [
        other.add("kvnode.election", -5, 49, node="n2", kvnode__shard=3),
        other.add("kvnode.log_batch", 45, 69, node="n1", kvnode__batch__id="n1/3/1"),
        other.add("kvnode.disk_stall", 72, 90, node="n1"),
        other.add("kvnode.eventual.apply", 500, 510, node="n3", links=[root]),
    ]
    unwanted = [
        other.add("kvnode.election", 0, 49, node="n2", kvnode__shard=4),
        other.add("kvnode.election", 60, 70, node="n2", kvnode__shard=3),
        other.add("kvnode.election", -30, -10, node="n1", kvnode__shard=3),
        other.add("kvnode.disk_stall", 72, 90, node="n2"),
        other.add("kvnode.log_batch", 71, 95, node="n1", kvnode__batch__id="n1/3/2"),
    ]
    trace = build(scene.spans, Related(wanted + unwanted))
    assert trace.related == wanted


def test_coverage_of_a_put_is_whole_in_client_and_node() -> None:
    """Queue, call and pause explain the client's time, the stages the node's."""
    found = coverage(build(slow_put().scene().spans))
    assert [(one.node.stage, round(one.share, 6)) for one in found] == [("client", 1), ("server", 1)]


def test_coverage_without_a_stage_says_how_much_is_left() -> None:
    """A gap, an overlap, and what lies outside do not count."""
    scene = Scene()
    server = scene.server("Put", 0, 10, None, "n1")
    scene.stage("admission", 0, 4, server, node="n1")
    scene.stage("apply", 3, 5, server, node="n1")
    scene.stage("reply", 9, 15, server, node="n1")
    scene.add("append", 0, 10, server, node="n1", kvnode__node="n2")
    (one,) = coverage(build(scene.spans))
    assert one.share == pytest.approx(0.6)


def test_coverage_of_a_client_counts_no_stages_of_nodes() -> None:
    """A client's operation that consists of nothing is not explained."""
    scene = Scene()
    scene.client("Get", 0, 10)
    (one,) = coverage(build(scene.spans))
    assert one.share == 0
