"""Why a request was slow: one test for each reason, by the exact sentence."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest

from kvctl.traces.explain import Typical, explain
from kvctl.traces.related import Related
from kvctl.traces.span import Span
from kvctl.traces.tree import build
from kvctl.traces.words import MS, duration_words, listed, of_words
from tests.unit.kvctl.traces.synthetic import Follower, Put, Scene, slow_put, trace_id_of

USUAL = Typical(500, 3.1 * MS, {"fsync": 0.4 * MS, "network": 0.3 * MS, "log_queue": 0.1 * MS})


def told(spans: Iterable[Span], typical: Typical | None = None, others: Iterable[Span] = ()) -> str:
    """The explanation of a trace's longest request."""
    trace = build(spans, Related(others))
    return explain(trace, trace.requests()[0], typical).text


def one_stage(stage: str, length_ms: float = 41, others_ms: float = 3, operation: str = "Put", **attributes: Any) -> Scene:
    """A request at n1 that spent its time in one stage."""
    scene = Scene()
    server = scene.server(operation, 0, length_ms + others_ms, None, "n1", **attributes)
    scene.stages(server, "n1", 0, {"admission": others_ms / 2, stage: length_ms, "reply": others_ms / 2})
    return scene


def test_explain_slow_disk_of_a_needed_follower_says_who_was_failed() -> None:
    """The sentence that the whole is for."""
    spans = slow_put().scene().spans
    assert told(spans, USUAL) == (
        "Put took 52 ms (usually 3.1 ms): 42 of 52 ms waiting for fsync on n2 (usually 0.40 ms); "
        "n3 was FAILED, so n2 was needed for the quorum."
    )
    assert told(spans) == (
        "Put took 52 ms: 42 of 52 ms waiting for fsync on n2; n3 was FAILED, so n2 was needed for the quorum."
    )


def test_explain_is_the_same_each_time() -> None:
    """The order of spans in a file does not matter."""
    spans = slow_put().scene().spans
    assert {told(order, USUAL) for order in (spans, spans[::-1], sorted(spans, key=lambda span: span.name))} == {
        told(spans, USUAL)
    }


def test_explain_of_a_usual_request_says_so() -> None:
    """What takes no longer than such requests do needs no excuse."""
    usual = Typical(20, 1.2 * MS, {"fsync": 0.4 * MS})
    assert told(Put().scene().spans, usual) == (
        "Put took 1.2 ms, as usual: 0.40 of 1.2 ms waiting for fsync on n1, 0.20 ms on the way between the client and n1."
    )


def test_explain_counts_what_took_longer_than_usual_not_what_took_long() -> None:
    """A stage that always takes 30 ms is no reason."""
    scene = Scene()
    server = scene.server("Put", 0, 55, None, "n1")
    scene.stages(server, "n1", 0, {"acks": 30, "lock_wait": 25})
    usual = Typical(99, 31 * MS, {"acks": 30 * MS})
    assert told(scene.spans, usual) == (
        "Put took 55 ms on n1 (usually 31 ms): 25 of 55 ms waiting on n1 for the lock that a transaction held (usually 0 ms)."
    )


@pytest.mark.parametrize(
    ("stage", "words"),
    [
        ("leader_wait", "waiting for a leader on n1"),
        ("lock_wait", "waiting on n1 for the lock that a transaction held"),
        ("log_queue", "waiting on n1 for an earlier write of the log"),
        ("log_write", "writing the log of n1"),
        ("quorum", "waiting for a quorum"),
        ("apply", "being applied on n1"),
        ("read_index", "confirming with a quorum what n1 may read"),
        ("session_wait", "waiting until n1 had what the session saw"),
        ("acks", "waiting for other replicas to acknowledge"),
        ("prepare", "waiting for votes on the transaction"),
        ("decide", "waiting for the transaction's decision"),
        ("collect", "collecting the reads of all shards"),
        ("invented_later", "in invented_later on n1"),
    ],
)
def test_explain_names_each_stage_in_words(stage: str, words: str) -> None:
    """Also one that this version does not know."""
    assert told(one_stage(stage).spans) == f"Put took 44 ms on n1: 41 of 44 ms {words}."


@pytest.mark.parametrize(
    ("follower", "words"),
    [
        (Follower(network=80), "80 of 81 ms on the way between n1 and n2"),
        (Follower(log_queue=80), "80 of 81 ms waiting on n2 for an earlier write of the log"),
        (Follower(write=80), "80 of 81 ms writing the log of n2"),
        (Follower(fsync=80), "80 of 81 ms waiting for fsync on n2"),
    ],
)
def test_explain_of_a_quorum_says_what_the_follower_did(follower: Follower, words: str) -> None:
    """The way to it, its queue, its write, or its disk."""
    text = told(Put(followers={"n2": follower}).scene().spans)
    assert text == f"Put took {words.split()[2]} ms: {words}."


def test_explain_of_a_quorum_without_failures_names_who_was_slower_still() -> None:
    """Both followers were slow: neither is to blame alone."""
    followers = {"n2": Follower(fsync=40), "n3": Follower(fsync=70, quorum=False)}
    assert told(Put(followers=followers).scene().spans).endswith(
        "40 of 41 ms waiting for fsync on n2; n2 answered first (40 ms), before n3 (70 ms)."
    )


def test_explain_of_a_leaders_own_slow_disk_says_why_it_was_needed() -> None:
    """With both followers there, they would have been a majority without it."""
    put = Put(fsync=80, followers={"n2": Follower()}, attributes={"kvnode__nodes__failed": ["n3"]})
    assert told(put.scene().spans) == (
        "Put took 81 ms: 80 of 81 ms waiting for fsync on n1; "
        "n3 was FAILED, so the disk of n1 itself was needed for the quorum."
    )


def test_explain_of_a_read_with_failed_nodes_names_them() -> None:
    """A round of heartbeats has no span a follower: who was FAILED is what is known."""
    scene = one_stage("read_index", operation="Get", kvnode__nodes__failed=["n3", "n2"])
    assert told(scene.spans) == (
        "Get took 44 ms on n1: 41 of 44 ms confirming with a quorum what n1 may read; n2 and n3 were FAILED then."
    )


def test_explain_of_an_election_says_who_was_elected_and_why() -> None:
    """From the election's own trace: by shard and time."""
    election = Scene(trace_id_of(9)).add(
        *("kvnode.election", 2, 40),
        node="n2",
        kvnode__shard=3,
        kvnode__term=5,
        kvnode__leader="n2",
        kvnode__leader__previous="n1",
        kvnode__cause="n1 was declared FAILED",
    )
    assert told(one_stage("leader_wait", 1200).spans, others=[election]) == (
        "Put took 1203 ms on n1: 1200 of 1203 ms waiting for a leader on n1; "
        "n2 was elected leader of shard 3 after n1 in term 5: n1 was declared FAILED."
    )


def test_explain_of_a_queue_for_the_log_tells_of_the_write_before() -> None:
    """It waited behind a group commit with a long fsync, which has a span of its own."""
    before = Scene(trace_id_of(9)).add(
        *("kvnode.log_batch", 0, 40),
        node="n1",
        kvnode__batch__id="n1/3/1",
        kvnode__batch__records=1512,
        kvnode__log__fsync_us=38_000,
    )
    assert told(one_stage("log_queue").spans, others=[before]) == (
        "Put took 44 ms on n1: 41 of 44 ms waiting on n1 for an earlier write of the log; "
        "the group commit before it (1,512 records) took 40 ms, 38 ms of it fsync."
    )


def test_explain_of_a_stalled_disk_says_so() -> None:
    """The disk's own report goes with waiting for it."""
    stall = Scene(trace_id_of(9)).add("kvnode.disk_stall", 1, 2100, node="n1")
    put = Put(fsync=2100, followers={"n2": Follower()})
    assert told(put.scene().spans, others=[stall]) == (
        "Put took 2101 ms: 2100 of 2101 ms waiting for fsync on n1; the disk of n1 stalled for 2099 ms."
    )


def test_explain_of_a_large_group_commit_tells_its_size() -> None:
    """A batch of a thousand records takes its time."""
    scene = Scene()
    server = scene.server("Put", 0, 30, None, "n1")
    size = {"kvnode__batch__records": 1024, "kvnode__batch__size_bytes": 5 << 20}
    scene.stage("log_write", 0, 29, server, node="n1", kvnode__log__fsync_us=2000, **size)
    assert told(scene.spans) == (
        "Put took 30 ms on n1: 27 of 30 ms writing the log of n1; its group commit on n1 held 1,024 records, 5.0 MiB."
    )


def test_explain_of_retries_tells_what_went_wrong_before() -> None:
    """Attempts that failed, and the pauses between them."""
    scene = Scene()
    root = scene.client("Put", 0, 700, kvnode__attempts=4)
    at = 0
    for error in ("NO_LEADER", "NO_LEADER", "CONNECTION_LOST"):
        call = scene.stage("client.call", at, at + 10, root)
        scene.server("Put", at + 1, at + 9, call, "n1", error__type=error)
        scene.stage("client.pause", at + 10, at + 210, root, error__type=error)
        at += 210
    call = scene.stage("client.call", at, 700, root)
    scene.server("Put", at + 1, 699, call, "n2")
    assert told(scene.spans) == (
        "Put took 700 ms: 600 of 700 ms pausing before another attempt; "
        "it was tried again after CONNECTION_LOST (once) and NO_LEADER (twice)."
    )


def test_explain_of_a_full_client_says_that_it_waited_there() -> None:
    """The node never saw it before."""
    assert told(Put(queue=300).scene().spans) == "Put took 301 ms: 300 of 301 ms waiting in the client for a free slot."


def test_explain_of_a_coalesced_operation_tells_of_its_batch() -> None:
    """It was done early, and its answer came with the last of 27."""
    other, scene = Scene(trace_id_of(7)), Scene()
    first = other.client("Put", 0, 60)
    rpc = other.client("Batch", 0, 60, first, kvnode__batch__id="c/1")
    other.server("Batch", 1, 59, rpc, "n1")
    root = scene.client("Put", 0, 60)
    call = scene.stage("client.call", 0, 60, root, kvnode__batch__id="c/1", kvnode__batch__size=27)
    scene.server("Put", 1, 6, call, "n1", kind="internal")
    assert told(scene.spans, others=other.spans) == (
        "Put took 60 ms: 53 of 60 ms waiting for other operations of its batch on n1; it travelled in a batch of 27 operations."
    )


def test_explain_of_a_forwarded_request_says_by_whom() -> None:
    """The client asked a node that was not the leader."""
    scene = Scene()
    root = scene.client("Put", 0, 50)
    call = scene.stage("client.call", 0, 50, root)
    first = scene.server("Put", 1, 49, call, "n1")
    forward = scene.stage("forward", 1, 49, first, node="n1", kvnode__node="n2")
    scene.server("Put", 40, 48, forward, "n2")
    assert told(scene.spans) == "Put took 50 ms: 40 of 50 ms on the way between n1 and n2; n1 forwarded it to n2."


def test_explain_of_a_transaction_names_its_phase() -> None:
    """The same fsync means another thing while votes are collected."""
    scene = Scene()
    server = scene.server("Txn", 0, 50, None, "n1")
    prepare = scene.stage("prepare", 0, 45, server, node="n1")
    scene.stage("reply", 45, 50, server, node="n1")
    vote = scene.add("prepare", 1, 44, prepare, node="n2")
    scene.stage("log_write", 1, 44, vote, node="n2", kvnode__log__fsync_us=42_000)
    assert told(scene.spans) == "Txn took 50 ms on n1: 42 of 50 ms waiting for fsync on n2 (prepare)."


def test_explain_of_a_failure_begins_with_it() -> None:
    """Why it failed comes before where the time went."""
    scene = one_stage("leader_wait", 4997, error__type="NO_LEADER")
    assert told(scene.spans, USUAL) == (
        "Put failed with NO_LEADER after 5000 ms on n1 (usually 3.1 ms): 4997 of 5000 ms waiting for a leader on n1 "
        "(usually 0 ms)."
    )


def test_explain_of_a_superseded_write_says_what_became_of_it() -> None:
    """It was answered, and lost later: the span of its application, on some node, is linked to it."""
    scene = one_stage("log_write")
    outcome = {"kvnode__outcome": "superseded", "kvnode__cause": "SUPERSEDED_REASON_STRONG_WRITE"}
    other = Scene(trace_id_of(9))
    applied = [
        other.add("kvnode.eventual.apply", 60, 300, node=name, links=scene.spans[:1], **outcome) for name in ("n1", "n2")
    ]
    assert told(scene.spans, others=applied) == (
        "Put took 44 ms on n1: 41 of 44 ms writing the log of n1; it was superseded (STRONG_WRITE) and took no effect."
    )


def test_explain_without_the_nodes_spans_says_what_is_missing() -> None:
    """A client's file alone cannot tell more."""
    scene = Scene()
    root = scene.client("Get", 0, 30)
    scene.stage("client.call", 0, 30, root)
    assert told(scene.spans) == "Get took 30 ms: 30 of 30 ms in a call of whose node no span is known."


def test_explain_of_background_work_names_it() -> None:
    """An election is no request, and may be slow, too."""
    scene = Scene()
    scene.add("kvnode.election", 0, 1500, node="n2", kvnode__shard=3, kvnode__cause="the leader before was FAILED")
    assert told(scene.spans) == (
        "Election took 1500 ms on n2: 1500 of 1500 ms without a leader that could serve; the leader before was FAILED."
    )


def test_words_of_durations_keep_two_digits() -> None:
    """Small ones in fractions, large ones whole, very large ones in seconds; a part in the unit of its whole."""
    texts = [duration_words(ms * MS) for ms in (0, 0.0001, 0.004, 0.42, 0.999, 3.14, 9.99, 41.4, 9999, 12_345)]
    assert texts == [
        *("0 ms", "0 ms", "0.004 ms", "0.42 ms", "1.0 ms", "3.1 ms", "10 ms", "41 ms", "9999 ms", "12.3 s"),
    ]
    assert (of_words(41 * MS, 52 * MS), of_words(400 * MS, 12_000 * MS)) == ("41 of 52 ms", "0.4 of 12.0 s")
    assert [listed(names) for names in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == ["", "a", "a and b", "a, b and c"]
