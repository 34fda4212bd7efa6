"""Spans: who is whose child, what time they cover, and the trace context that travels."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.sdk.trace.sampling import ALWAYS_OFF
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

import kvclient
from kvclient import _requests, errors
from kvclient._tracing import LINKS_MAX, Place, Tracing
from kvclient.types import Consistency
from tests.unit.kvclient.fake_cluster import NO_LEADER, FakeCluster, FakeNode, Fault, running_cluster


class Trace:
    """What was recorded: spans by name, and who is below whom."""

    def __init__(self) -> None:
        self.provider, self._exporter = TracerProvider(), InMemorySpanExporter()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def spans(self, name: str) -> list[ReadableSpan]:
        """All of that name, in the order in which they began."""
        return sorted((span for span in self._exporter.get_finished_spans() if span.name == name), key=_start)

    def below(self, parent: ReadableSpan) -> list[ReadableSpan]:
        """Its children, in the order in which they began."""
        wanted = parent.context.span_id if parent.context else 0
        children = [one for one in self._exporter.get_finished_spans() if one.parent and one.parent.span_id == wanted]
        return sorted(children, key=_start)

    def stages(self, operation: ReadableSpan) -> list[ReadableSpan]:
        """Those of an operation, which they must cover from its beginning to its end, without a gap and without overlap."""
        stages = [span for span in self.below(operation) if "kvnode.stage" in _facts(span)]
        ends = [operation.start_time, *(stage.end_time for stage in stages)]
        assert [stage.start_time for stage in stages] == ends[:-1]
        assert operation.end_time == ends[-1]
        assert all(stage.kind is SpanKind.INTERNAL for stage in stages)
        assert all(_facts(stage)["kvnode.stage"] == stage.name for stage in stages)
        return stages

    def clear(self) -> None:
        """Forget all."""
        self._exporter.clear()


def _start(span: ReadableSpan) -> tuple[int, int]:
    return span.start_time or 0, span.end_time or 0


def _facts(span: ReadableSpan) -> dict[str, Any]:
    return dict(span.attributes or {})


def _names(spans: Sequence[ReadableSpan]) -> list[str]:
    return [span.name for span in spans]


def _traceparent(span: ReadableSpan) -> str:
    """What a node must have been sent, to go on from `span`."""
    assert span.context is not None
    return f"00-{span.context.trace_id:032x}-{span.context.span_id:016x}-{span.context.trace_flags:02x}"


def _sent_to(node: FakeNode) -> list[str]:
    """The `traceparent` of each of its RPCs that had one."""
    return [metadata["traceparent"] for metadata in node.metadata if "traceparent" in metadata]


@contextmanager
def application(*, sampled: bool) -> Iterator[str]:
    """An application's own span, from elsewhere; yields its `traceparent`."""
    context = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1 if sampled else 0))
    with trace.use_span(NonRecordingSpan(context)):
        yield f"00-{0xABC:032x}-{0xDEF:016x}-0{context.trace_flags}"


async def _busy(cluster: FakeCluster, kv: kvclient.AsyncClient) -> tuple[asyncio.Event, list[asyncio.Task[Any]]]:
    """Both slots of the only node taken by reads that stall until the event."""
    node, event = cluster.nodes["n1"], asyncio.Event()
    node.faults.extend(Fault(stall=event) for _ in range(2))
    tasks: list[asyncio.Task[Any]] = [asyncio.create_task(kv.get("busy")) for _ in range(2)]
    while node.calls["Get"] < 2:
        await asyncio.sleep(0)
    return event, tasks


async def _steps(count: int = 5) -> None:
    for _ in range(count):
        await asyncio.sleep(0)


async def test_span_of_an_operation_has_the_conventional_attributes(cluster: FakeCluster) -> None:
    """A CLIENT span with db.*, rpc.*, server.* and network.* names, and what kvnode adds."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        await kv.put("k", "v")
    (span,) = traced.spans("Put")
    port = cluster.leader_of("k").port
    assert span.kind is SpanKind.CLIENT
    assert _facts(span) == {
        "db.system.name": "kvnode",
        "db.operation.name": "Put",
        "rpc.system.name": "grpc",
        "rpc.method": "kvapi.v1.KV/Put",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": port,
        "kvnode.consistency": "strong",
        "kvnode.shard": cluster.shard_of("k"),
        "kvnode.attempts": 1,
        "kvnode.key.size": 1,
    }


async def test_stages_of_an_operation_cover_it_and_the_node_goes_on_from_its_call(cluster: FakeCluster) -> None:
    """Queue, then call; what the server gets is the context of the call."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        await kv.put("k", "v")
    (span,) = traced.spans("Put")
    queue, call = traced.stages(span)
    assert [queue.name, call.name] == ["client.queue", "client.call"]
    assert _facts(queue) == {"kvnode.stage": "client.queue", "kvnode.attempt": 1}
    assert _facts(call) == {
        "kvnode.stage": "client.call",
        "kvnode.attempt": 1,
        "server.address": "127.0.0.1",
        "server.port": cluster.leader_of("k").port,
    }
    assert _sent_to(cluster.leader_of("k")) == [_traceparent(call)]


async def test_stages_of_a_first_operation_say_that_it_waited_for_the_map(cluster: FakeCluster) -> None:
    """A client that was not opened learns the map with its first operation."""
    traced = Trace()
    kv = kvclient.connect(cluster.uri, tracer_provider=traced.provider)
    await kv.get("k", consistency="eventual")
    await kv.close()
    (span,) = traced.spans("Get")
    assert _names(traced.stages(span)) == ["client.open", "client.queue", "client.call"]
    assert _facts(span)["kvnode.consistency"] == "eventual"


async def test_stages_of_a_first_operation_nobody_answers_end_with_the_error() -> None:
    """It never came to an attempt."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster:
        uri = cluster.uri
    kv = kvclient.connect(uri, tracer_provider=traced.provider)
    with pytest.raises(errors.KvError):
        await kv.get("k", timeout=0.05)
    await kv.close()
    (span,) = traced.spans("Get")
    (opening,) = traced.stages(span)
    assert (opening.name, _facts(span)["kvnode.attempts"]) == ("client.open", 0)
    assert _facts(opening)["error.type"] == _facts(span)["error.type"]


async def test_stages_of_a_retried_operation_show_every_attempt(cluster: FakeCluster) -> None:
    """A refused call, the pause that follows, and the call that succeeds, each of which its node can name."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        cluster.leader_of("k").refusals.append((lambda kind, key: True, NO_LEADER))
        await kv.put("k", "v")
    (span,) = traced.spans("Put")
    stages = traced.stages(span)
    assert _names(stages) == ["client.queue", "client.call", "client.pause", "client.queue", "client.call"]
    assert [_facts(stage)["kvnode.attempt"] for stage in stages] == [1, 1, 1, 2, 2]
    assert [_facts(stage).get("error.type") for stage in stages] == [None, "NO_LEADER", "NO_LEADER", None, None]
    codes = [stage.status.status_code for stage in stages]
    assert codes == [StatusCode.UNSET, StatusCode.ERROR, *([StatusCode.UNSET] * 3)]
    assert _facts(span)["kvnode.attempts"] == 2
    assert span.status.status_code is StatusCode.UNSET
    sent = [one for node in cluster.nodes.values() for one in _sent_to(node)]
    assert sorted(sent) == sorted(_traceparent(stage) for stage in stages if stage.name == "client.call")


async def test_stages_of_a_redirected_operation_have_no_pause(cluster: FakeCluster) -> None:
    """A first redirect is followed at once."""
    traced = Trace()
    cluster.forwards = False
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        old = cluster.leader_of("k")
        cluster.elect(cluster.shard_of("k"), next(node.name for node in cluster.nodes.values() if node is not old))
        await kv.put("k", "v")
    (span,) = traced.spans("Put")
    stages = traced.stages(span)
    assert _names(stages) == ["client.queue", "client.call", "client.queue", "client.call"]
    assert _facts(stages[1])["server.port"] == old.port
    assert _facts(span)["server.port"] == _facts(stages[3])["server.port"] == cluster.leader_of("k").port


async def test_span_of_a_failed_operation_says_why(cluster: FakeCluster) -> None:
    """The final error is the status of the operation, and of its last call."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        with pytest.raises(errors.CompareFailed) as caught:
            await kv.compare_and_set("k", "v", 99)
    (span,) = traced.spans("Put")
    _, call = traced.stages(span)
    assert span.status.status_code is call.status.status_code is StatusCode.ERROR
    assert span.status.description == str(caught.value)
    assert _facts(span)["error.type"] == _facts(call)["error.type"] == "COMPARE_FAILED"
    assert _facts(span)["db.response.status_code"] == "COMPARE_FAILED"
    assert _facts(span)["rpc.response.status_code"] == "FAILED_PRECONDITION"


async def _range(kv: Any) -> None:
    async for _ in kv.range(prefix="k", consistency="bounded", max_staleness=1.0):
        pass


@pytest.mark.parametrize(
    ("operation", "name", "consistency"),
    [
        (lambda kv: kv.delete("k", consistency="eventual"), "Delete", "eventual"),
        (_range, "Range", "bounded"),
        (lambda kv: kv.count(), "Range", "strong"),
        (lambda kv: kv.session().get("k"), "Get", "session"),
        (lambda kv: kv.txn().then(kvclient.Put("k", "v")).run(), "Txn", "strong"),
        (lambda kv: kv.txn().then(kvclient.Get("k")).run(), "Txn", "strong"),
        (lambda kv: kv.operation("n1.1"), "Operation", None),
        (lambda kv: kv.locate("k"), "Locate", None),
    ],
    ids=["delete", "range", "count", "session", "txn", "txn-read-only", "operation", "locate"],
)
async def test_span_of_every_kind_of_operation_has_its_level_and_its_stages(
    cluster: FakeCluster, operation: Callable[[Any], Coroutine[Any, Any, object]], name: str, consistency: str | None
) -> None:
    """Also of those that never share a call: the node goes on from the call."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        await operation(kv)
    (span,) = traced.spans(name)
    assert _facts(span).get("kvnode.consistency") == consistency
    assert ("kvnode.shard" in _facts(span)) == (name in ("Get", "Delete", "Txn"))
    queue, call = traced.stages(span)
    assert [queue.name, call.name] == ["client.queue", "client.call"]
    assert [one for node in cluster.nodes.values() for one in _sent_to(node)] == [_traceparent(call)]


async def test_spans_of_an_optimistic_transaction_are_those_of_its_reads_and_its_commit(cluster: FakeCluster) -> None:
    """Each an operation."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv, kv.transaction() as t:
        t.put("j", await t.get("k") or b"")
    (read,), (commit,) = traced.spans("Get"), traced.spans("Txn")
    assert _names(traced.stages(read) + traced.stages(commit)) == ["client.queue", "client.call"] * 2


async def test_batch_of_recorded_and_other_operations_names_each_of_the_former() -> None:
    """Five operations leave together, three of them recorded: those are linked, and the node goes on from each one's call."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        with application(sampled=False):
            event, busy = await _busy(cluster, kv)
        tasks: list[asyncio.Task[Any]] = []
        for number in range(5):
            with application(sampled=number % 2 == 0):
                tasks.append(asyncio.create_task(kv.put(f"k{number}", "v")))
        await _steps()
        event.set()
        await asyncio.gather(*busy, *tasks)
    node = cluster.nodes["n1"]
    operations, (batch,) = traced.spans("Put"), traced.spans("Batch")
    assert len(operations) == 3
    assert [link.context for link in batch.links] == [span.context for span in operations]
    assert batch.kind is SpanKind.CLIENT
    assert batch.parent == operations[0].context
    assert batch.context is not None
    batch_id = f"{batch.context.span_id:016x}"
    assert _facts(batch) == {
        "db.system.name": "kvnode",
        "db.operation.name": "Batch",
        "db.operation.batch.size": 5,
        "rpc.system.name": "grpc",
        "rpc.method": "kvapi.v1.KV/Batch",
        "rpc.response.status_code": "OK",
        "server.address": "127.0.0.1",
        "server.port": node.port,
        "network.peer.address": "127.0.0.1",
        "network.peer.port": node.port,
        "kvnode.batch.id": batch_id,
    }
    sent = [operation.traceparent for operation in node.batches[0].operations]
    for index, operation in zip((0, 2, 4), operations, strict=True):
        queue, call, resume = traced.stages(operation)
        assert [queue.name, call.name, resume.name] == ["client.queue", "client.call", "client.resume"]
        assert sent[index] == _traceparent(call)
        assert (call.start_time, call.end_time) == pytest.approx((batch.start_time, batch.end_time), abs=1_000_000)
        facts = _facts(call)
        assert (facts["kvnode.batch.id"], facts["kvnode.batch.size"], facts["kvnode.batch.index"]) == (batch_id, 5, index)
    assert (sent[1], sent[3]) == ("", "")
    assert _sent_to(node)[-1] == _traceparent(batch)


async def test_batch_of_more_recorded_operations_than_links_says_how_many_are_left_out() -> None:
    """The links that SDKs keep; the rest are found by the batch's id."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        event, busy = await _busy(cluster, kv)
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(LINKS_MAX + 2)]
        await _steps()
        event.set()
        await asyncio.gather(*busy, *tasks)
    (batch,) = traced.spans("Batch")
    operations = traced.spans("Put")
    assert [link.context for link in batch.links] == [span.context for span in operations[:LINKS_MAX]]
    assert (batch.dropped_links, _facts(batch)["kvnode.batch.unlinked"]) == (0, 2)
    calls = [traced.stages(operation)[1] for operation in operations]
    assert {_facts(call)["kvnode.batch.id"] for call in calls} == {_facts(batch)["kvnode.batch.id"]}
    assert [_facts(call)["kvnode.batch.index"] for call in calls] == list(range(LINKS_MAX + 2))


async def test_batch_without_recorded_operations_carries_no_context() -> None:
    """Nothing of anybody's trace."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        with application(sampled=False):
            event, busy = await _busy(cluster, kv)
            tasks = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(3)]
            await _steps()
            event.set()
            await asyncio.gather(*busy, *tasks)
    node = cluster.nodes["n1"]
    assert [operation.traceparent for operation in node.batches[0].operations] == ["", "", ""]
    assert "traceparent" not in node.metadata[-1]
    assert traced.spans("Batch") == traced.spans("Put") == []


async def test_batch_that_breaks_off_fails_its_span_and_every_call_in_it() -> None:
    """The answer is lost: the RPC's span says so, and those of its operations."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        event, busy = await _busy(cluster, kv)
        cluster.nodes["n1"].faults.append(Fault(lose_answer=True))
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v", consistency="eventual")) for number in range(2)]
        await _steps()
        event.set()
        await asyncio.gather(*busy)
        for task in tasks:
            with pytest.raises(errors.OutcomeUnknown):
                await task
    (batch,) = traced.spans("Batch")
    assert _facts(batch)["rpc.response.status_code"] == "UNAVAILABLE"
    calls = [traced.stages(operation)[1] for operation in traced.spans("Put")]
    assert [_facts(span)["error.type"] for span in (batch, *calls)] == ["OUTCOME_UNKNOWN"] * 3


async def test_batch_in_which_one_operation_fails_marks_that_one() -> None:
    """Each call has its own operation's outcome, the Batch that of the RPC."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        event, busy = await _busy(cluster, kv)
        tasks = [asyncio.create_task(kv.put(f"k{number}", "v", if_revision=99 * number)) for number in range(2)]
        await _steps()
        event.set()
        await asyncio.gather(*busy, tasks[0])
        with pytest.raises(errors.CompareFailed):
            await tasks[1]
    (batch,) = traced.spans("Batch")
    calls = [traced.stages(operation)[1] for operation in traced.spans("Put")]
    assert [_facts(span).get("error.type") for span in (batch, *calls)] == [None, None, "COMPARE_FAILED"]


async def test_queued_operation_that_leaves_alone_is_no_batch() -> None:
    """It waited, and then had a call of its own."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        event, busy = await _busy(cluster, kv)
        task = asyncio.create_task(kv.put("k", "v"))
        await _steps()
        event.set()
        await asyncio.gather(*busy, task)
    (span,) = traced.spans("Put")
    queue, call, resume = traced.stages(span)
    assert [queue.name, call.name, resume.name] == ["client.queue", "client.call", "client.resume"]
    assert "kvnode.batch.id" not in _facts(call)
    assert _sent_to(cluster.nodes["n1"])[-1] == _traceparent(call)
    assert traced.spans("Batch") == []


async def test_cancelled_operation_ends_its_stage_and_itself() -> None:
    """While it is queued, while it is under way in a batch, and while it is under way alone; late answers add nothing."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        event, busy = await _busy(cluster, kv)
        held = asyncio.Event()
        cluster.nodes["n1"].faults.extend(Fault(stall=held) for _ in range(2))
        queued = asyncio.create_task(kv.put("queued", "v"))
        sent = [asyncio.create_task(kv.delete("sent")) for _ in range(2)]
        await _steps()
        queued.cancel()
        busy[0].cancel()
        event.set()
        while not cluster.calls("Batch"):
            await asyncio.sleep(0)
        sent[0].cancel()
        await asyncio.gather(queued, sent[0], busy[0], return_exceptions=True)
        held.set()
        await asyncio.gather(busy[1], sent[1])
        await kv.put("after", "v")
    withdrawn = traced.spans("Put")[0]
    left = next(span for span in traced.spans("Delete") if "error.type" in _facts(span))
    alone = next(span for span in traced.spans("Get") if "error.type" in _facts(span))
    stages = {span: traced.stages(span) for span in (withdrawn, left, alone)}
    assert _names(stages[withdrawn]) == ["client.queue"]
    assert _names(stages[left]) == _names(stages[alone]) == ["client.queue", "client.call"]
    for span, below in stages.items():
        assert _facts(span)["error.type"] == _facts(below[-1])["error.type"] == "CancelledError"
        assert "rpc.response.status_code" not in _facts(span)


async def test_cancelled_operation_that_pauses_ends_its_pause() -> None:
    """What it waited for was another attempt."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        cluster.elect(cluster.shard_of("k"), None)
        task = asyncio.create_task(kv.put("k", "v"))
        while not cluster.calls("Put"):
            await asyncio.sleep(0)
        while not traced.spans("client.call"):
            await asyncio.sleep(0)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task
    (span,) = traced.spans("Put")
    assert _names(traced.stages(span))[-1] == "client.pause"
    assert _facts(traced.stages(span)[-1])["error.type"] == "NO_LEADER"


async def test_cancelled_at_any_moment_every_operation_is_covered_by_its_stages() -> None:
    """Among operations that share batches, every third is cancelled, a step later each time; one of them is a batch."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        for steps in range(24):
            running: list[asyncio.Task[Any]] = [asyncio.create_task(kv.put(f"k{number}", "v")) for number in range(8)]
            running.append(asyncio.create_task(kv.batch().get("a").get("b").run()))
            await _steps(steps)
            for task in running[2::3]:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
        while kv._background._tasks:
            await asyncio.gather(*kv._background._tasks)
    mine = [span for span in traced.spans("Batch") if span.parent is None]
    outcomes = set()
    for span in traced.spans("Put") + mine:
        traced.stages(span)
        outcomes.add(_facts(span).get("error.type"))
    assert outcomes == {None, "CancelledError"}
    assert len(traced.spans("Put")) == 24 * 8 - 2  # Two were cancelled before their first step: they never began.


async def test_operation_that_runs_out_of_time_says_where() -> None:
    """In the queue it never left; under way it is the call that took too long."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        event, busy = await _busy(cluster, kv)
        with pytest.raises(errors.DeadlineExceeded):
            await kv.put("queued", "v", consistency="eventual", timeout=0.01)
        (span,) = traced.spans("Put")
        (queue,) = traced.stages(span)
        assert (queue.name, _facts(queue)["error.type"]) == ("client.queue", "DEADLINE_EXCEEDED")
        traced.clear()
        event.set()
        await asyncio.gather(*busy)
        held = asyncio.Event()
        cluster.nodes["n1"].faults.append(Fault(stall=held))
        with pytest.raises(errors.OutcomeUnknown):
            await kv.put("sent", "v", consistency="eventual", timeout=0.05)
        held.set()
    (span,) = traced.spans("Put")
    _, call = traced.stages(span)
    assert (call.name, _facts(call)["error.type"]) == ("client.call", "OUTCOME_UNKNOWN")


def test_recording_an_answer_that_comes_too_late_changes_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The first attempt was given up; its answer arrives while the second is under way."""
    traced = Trace()
    call = _requests.put_call("k", "v", Consistency.STRONG, None, None)
    recorded = Tracing(traced.provider).start(call)
    assert recorded is not None
    place, late = Place("n1.example:7401"), errors.DeadlineExceeded("no answer in time")
    recorded.begin(1, None)
    first = recorded.leave(call.started + 1, place, {})
    recorded.settle(late)
    recorded.begin(2, None)
    second = recorded.leave(call.started + 2, place, {})
    recorded.answer(first, call.started + 3, None)
    recorded.answer(second, call.started + 4, None)
    recorded.end(2, None)
    assert caplog.records == []  # The SDK would warn of a span that is ended twice.
    calls = traced.spans("client.call")
    assert [_facts(span).get("error.type") for span in calls] == ["DEADLINE_EXCEEDED", None]
    assert (calls[1].end_time or 0) - (calls[1].start_time or 0) == pytest.approx(2e9, abs=1_000)
    (span,) = traced.spans("Put")
    assert {name: _facts(span).get(name) for name in ("server.address", "server.port", "network.peer.address")} == {
        "server.address": "n1.example",
        "server.port": 7401,
        "network.peer.address": None,
    }


async def test_span_of_a_users_batch_has_the_calls_that_carried_it(cluster: FakeCluster) -> None:
    """One CLIENT span; below it a call for each node, from which the node goes on with each of its operations."""
    traced = Trace()
    keys = [f"k{number}" for number in range(12)]
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        batch = kv.batch()
        for key in keys:
            batch.put(key, "v")
        batch.put(keys[0], "w", if_revision=99)
        await batch.run()
    (mine,) = [span for span in traced.spans("Batch") if span.parent is None]
    facts = _facts(mine)
    assert (facts["db.operation.batch.size"], facts["kvnode.batch.failed"], facts["kvnode.attempts"]) == (13, 1, 1)
    assert (facts["kvnode.consistency"], facts["rpc.response.status_code"]) == ("strong", "OK")
    assert mine.status.status_code is StatusCode.UNSET
    calls = {_traceparent(span): span for span in traced.below(mine) if span.name == "client.call"}
    sent = 0
    for node in cluster.nodes.values():
        for request in node.batches:
            (traceparent,) = {operation.traceparent for operation in request.operations}
            own = _facts(calls[traceparent])
            assert own["kvnode.batch.size"] == own["db.operation.batch.size"] == len(request.operations)
            assert own["server.port"] == node.port
            sent += len(request.operations)
    assert sent == 13
    assert len(calls) == sum(len(node.batches) for node in cluster.nodes.values()) == 3
    assert all(link.context == mine.context for span in traced.spans("Batch") if span is not mine for link in span.links)
    assert all(mine.start_time <= (call.start_time or 0) < (call.end_time or 0) <= mine.end_time for call in calls.values())  # type: ignore[operator]


async def test_stages_of_a_users_batch_on_one_node_cover_it_over_its_attempts() -> None:
    """Queue, call, resume, pause, and again for what is tried again; levels that differ are not named."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        cluster.nodes["n1"].refusals.append((lambda kind, key: key == b"a", NO_LEADER))
        await kv.batch().put("a", "1").get("b", consistency="eventual").run()
    (mine,) = [span for span in traced.spans("Batch") if span.parent is None]
    stages = traced.stages(mine)
    once = ["client.queue", "client.call", "client.resume"]
    assert _names(stages) == [*once, "client.pause", *once]
    assert "kvnode.consistency" not in _facts(mine)
    assert _facts(mine)["kvnode.attempts"] == 2
    assert _sent_to(cluster.nodes["n1"])[-1] == _traceparent(stages[5])


async def test_span_of_a_users_batch_that_leaves_in_several_calls_has_a_queue_for_each() -> None:
    """The third waits for a slot from the beginning, not from the first one's answer."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        batch = kv.batch()
        for number in range(2 * 1_024 + 1):
            batch.put(f"k{number}", b"")
        await batch.run(timeout=60)
    (mine,) = [span for span in traced.spans("Batch") if span.parent is None]
    queues, calls = traced.spans("client.queue"), traced.spans("client.call")
    assert [queue.start_time for queue in queues] == [mine.start_time] * 3
    assert sorted(queue.end_time or 0 for queue in queues) == [call.start_time for call in calls]
    assert [_facts(call).get("kvnode.batch.size") for call in calls] == [1_024, 1_024, None]
    assert (calls[2].start_time or 0) >= min(call.end_time or 0 for call in calls)


async def test_span_of_a_users_batch_that_is_cancelled_ends_with_its_calls() -> None:
    """Also one of which a part was under way."""
    traced = Trace()
    async with FakeCluster(nodes=1) as cluster, kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        held = asyncio.Event()
        cluster.nodes["n1"].faults.append(Fault(stall=held))
        task = asyncio.create_task(kv.batch().put("a", "1").put("b", "1").run())
        while not cluster.calls("Batch"):
            await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        held.set()
        await kv.put("after", "v")
    (mine,) = [span for span in traced.spans("Batch") if span.parent is None]
    assert _names(traced.stages(mine)) == ["client.queue", "client.call"]
    assert _facts(mine)["error.type"] == "CancelledError"


async def test_batch_of_the_user_with_nothing_in_it_leaves_no_span(cluster: FakeCluster) -> None:
    """And one with a single operation is no batch by the conventions: it has no size."""
    traced = Trace()
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        assert await kv.batch().run() == []
        assert traced.spans("Batch") == []
        await kv.batch().get("k").run()
    (mine,) = traced.spans("Batch")
    assert "db.operation.batch.size" not in _facts(mine)


async def test_not_sampled_trace_context_is_passed_on_and_nothing_recorded(cluster: FakeCluster) -> None:
    """A caller's trace that is not sampled stays recognisable to the servers; without a trace nothing is sent."""
    async with kvclient.connect(cluster.uri, tracer_provider=TracerProvider(sampler=ALWAYS_OFF)) as kv:
        await kv.put("k", "v")
        assert "traceparent" not in cluster.leader_of("k").metadata[-1]
        for sampled in (False, True):
            with application(sampled=sampled) as traceparent:
                await kv.put("k", "v")
            assert cluster.leader_of("k").metadata[-1]["traceparent"] == traceparent


async def test_trace_of_the_application_goes_on_in_the_operations_and_the_nodes(cluster: FakeCluster) -> None:
    """Application, operation, call, node: one trace; its state travels too."""
    traced = Trace()
    state = trace.TraceState([("vendor", "x")])
    context = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1), trace_state=state)
    async with kvclient.connect(cluster.uri, tracer_provider=traced.provider) as kv:
        with trace.use_span(NonRecordingSpan(context)):
            await kv.put("k", "v")
    (span,) = traced.spans("Put")
    assert span.parent == context
    metadata = cluster.leader_of("k").metadata[-1]
    assert metadata["traceparent"] == _traceparent(traced.stages(span)[1])
    assert metadata["tracestate"] == "vendor=x"


def test_sync_client_spans_of_threads_that_share_batches_have_their_own_calls() -> None:
    """Eight threads: every operation is covered by its stages, and every context that a node got is that of one call."""
    traced = Trace()
    with (
        running_cluster(nodes=1) as (cluster, _),
        kvclient.connect_sync(cluster.uri, tracer_provider=traced.provider) as kv,
    ):

        def work(number: int) -> None:
            for _ in range(5):
                kv.put(f"k{number}", "v")
                kv.get(f"k{number}")

        threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        kv.batch().get("a").get("b").run()
        kv.txn().then(kvclient.Put("k", "v")).run()
    node = cluster.nodes["n1"]
    operations = [*traced.spans("Put"), *traced.spans("Get"), *traced.spans("Txn")]
    assert len(operations) == 81
    calls = [next(stage for stage in traced.stages(span) if stage.name == "client.call") for span in operations]
    batches = [span for span in traced.spans("Batch") if span.parent is not None]
    (mine,) = [span for span in traced.spans("Batch") if span.parent is None]
    calls += [span for span in traced.stages(mine) if span.name == "client.call"]
    inside = [operation.traceparent for request in node.batches for operation in request.operations]
    assert sorted({*_sent_to(node), *inside}) == sorted(_traceparent(span) for span in [*calls, *batches])
    sizes = {_facts(span)["kvnode.batch.id"]: _facts(span)["db.operation.batch.size"] for span in batches}
    assert len(batches) > 1
    shared = [_facts(call) for call in calls if "kvnode.batch.id" in _facts(call)]
    assert sum(sizes.values()) == len(shared) + 1  # Two of them have one call, in the user's batch.
    assert all(sizes[facts["kvnode.batch.id"]] == facts["kvnode.batch.size"] for facts in shared)
