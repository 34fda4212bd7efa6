"""The database of spans: what goes in comes out, requests are found, filtered and compared with what is usual."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kvctl.failures import Failure
from kvctl.traces.diff import compare
from kvctl.traces.read import Reading, decode
from kvctl.traces.sources import Filter, filter_of, since_ns, split, where_of
from kvctl.traces.store import TraceStore
from tests.unit.kvctl.traces.synthetic import (
    MS,
    TRACE,
    Follower,
    Put,
    Scene,
    slow_put,
    trace_id_of,
    usual_puts,
)


@pytest.fixture
def store() -> Iterator[TraceStore]:
    """Thirty usual puts and a slow one."""
    with TraceStore() as opened:
        opened.add([*usual_puts(30), *slow_put().scene().spans])
        yield opened


def chosen(store: TraceStore, found: Filter) -> list[str]:
    """Trace ids of what a filter lets through, shortened."""
    return sorted(request.trace_id[:4] for request in store.requests(found.where, found.parameters))


def test_store_gives_back_what_it_took() -> None:
    """Attributes of all kinds, links, and an error's words."""
    scene = slow_put().scene()
    scene.add("x", 0, 1, failed=True, links=scene.spans[:2], a=["n1", 2], b=0.5, c=True, d=None, e="é\x1b'")
    with TraceStore() as store:
        store.add(scene.spans)
        ids = {span.span_id: span for span in scene.spans}
        trace = store.trace(TRACE)
        assert {node.span.span_id: node.span for node in trace.walk() if not node.derived} == ids


def test_store_takes_each_span_once(store: TraceStore) -> None:
    """Also within one go; how many were new is told."""
    spans = slow_put().scene(trace_id_of(99)).spans
    assert store.add([*spans, *spans]) == len(spans)
    assert store.add(spans) == 0
    assert store.count() == 32


def test_store_describes_a_request_by_what_its_spans_say(store: TraceStore) -> None:
    """The row that a table shows: the client's duration, the node's name, shard and reason, and the longest part."""
    request = store.requests(limit=1)[0]
    assert (request.trace_id, request.operation, request.consistency) == (TRACE, "put", "strong")
    assert (request.node, request.shard, request.kept, request.error) == ("n1", 3, "slow", "")
    assert (request.duration_ns, request.by_client, request.attempts) == (round(52.22 * MS), True, 1)
    assert (request.worst_stage, request.worst_node, request.worst_ns) == ("fsync", "n2", round(41.6 * MS))


def test_store_finds_a_trace_by_the_beginning_of_its_id(store: TraceStore) -> None:
    """Enough of it, in any case; too little names some of those that begin so; nothing says where to look."""
    assert store.trace("4BF9").trace_id == TRACE
    with pytest.raises(Failure, match=r"no trace begins with '4bf8'"):
        store.trace("4bf8")
    with pytest.raises(Failure, match=r"several traces begin with '0000000': 00000001\d{5}, .*, …"):
        store.trace("0000000")
    with pytest.raises(Failure):
        store.trace("")


def test_store_knows_what_is_usual(store: TraceStore) -> None:
    """The medians of sampled requests: the slow one, kept because it was slow, does not count; a stage by its time on the
    critical path, with 0 for those that did not wait for it.
    """
    typical = store.typical("put", "strong")
    assert typical is not None
    assert typical.count == 30
    assert typical.duration_ns == pytest.approx(1.23 * MS, rel=0.01)
    assert typical.stages_ns["admission"] == 0.1 * MS
    assert typical.stages_ns.get("lock_wait", 0) == 0
    assert store.typical("put", "eventual") is None
    assert store.typical("put", "strong", by_client=False) is None


def test_store_without_sampled_requests_takes_what_there_is() -> None:
    """With all of them slow, that is what is usual; four are too few."""
    for count, usual in ((4, None), (5, 5)):
        with TraceStore() as store:
            for number in range(count):
                store.add(slow_put().scene(trace_id_of(number)).spans)
            typical = store.typical("put", "strong")
            assert (typical.count if typical else None) == usual


def test_store_sums_critical_paths_by_stage_and_node(store: TraceStore) -> None:
    """Shares of all requests' time, which sum to one, with how many had it."""
    parts = store.paths("kept = 'sampled'")
    assert sum(part["share"] for part in parts) == pytest.approx(1)
    assert parts[0] == {
        "stage": "fsync",
        "node": "n1",
        "share": pytest.approx(0.34, abs=0.01),
        "mean_ns": pytest.approx(0.42 * MS, rel=0.01),
        "frequency": 1.0,
        "requests": 30,
    }


def test_store_links_a_trace_to_others(store: TraceStore) -> None:
    """A group commit, in a trace of its own, is found from the write that names it; it is no request."""
    commit = Scene(trace_id_of(77)).add("kvnode.log_batch", 4, 6, node="n1", kvnode__batch__id="n1/3/871")
    store.add([commit])
    assert store.trace(TRACE).related == [commit]
    assert store.count("background") == 1
    assert commit.trace_id not in {request.trace_id for request in store.requests("not background")}


def test_store_slowest_requests_come_each_in_its_trace(store: TraceStore) -> None:
    """Also two of one trace, which an application's may have."""
    scene = Scene(trace_id_of(50))
    handler = scene.add("GET /", 0, 300)
    scene.client("Get", 0, 100, handler)
    scene.client("Get", 100, 290, handler)
    store.add(scene.spans)
    assert [round(node.duration_ns / MS) for _, node in store.slowest(limit=3)] == [190, 100, 52]


def test_filters_of_the_command_line_hold_all_at_once(store: TraceStore) -> None:
    """Operation, reason, node, least duration, time, errors, and conditions of one's own."""
    failed = Scene(trace_id_of(0xFFFF0000))
    failed.server("Get", 0, 2, None, "n3", error__type="NO_LEADER", kvnode__kept="failed", kvnode__shard=5)
    store.add(failed.spans)
    assert chosen(store, filter_of(operation="GET")) == ["ffff"]
    assert chosen(store, filter_of(kept="slow")) == ["4bf9"]
    assert chosen(store, filter_of(node="n3")) == ["ffff"]
    assert chosen(store, filter_of(min_ms=1.5)) == ["4bf9", "ffff"]
    assert chosen(store, filter_of(errors=True)) == ["ffff"]
    assert chosen(store, filter_of(where="shard=5,operation=get")) == ["ffff"]
    assert chosen(store, filter_of(where="shard in (4, 5) or duration_ns > 50e6")) == ["4bf9", "ffff"]
    assert chosen(store, filter_of(where="shard=5", min_ms=3)) == []
    assert len(chosen(store, filter_of(since="2023-11-14T22:13:20.100Z"))) == 21
    assert chosen(store, filter_of(since="1h")) == []
    store.add([Scene(trace_id_of(0xEEEE0000)).add("kvnode.election", 0, 900, node="n2")])
    assert chosen(store, filter_of(background=True)) == ["eeee"]
    assert chosen(store, filter_of(min_ms=500)) == []


def test_filter_that_is_no_sql_is_refused_in_duckdbs_words(store: TraceStore) -> None:
    """With the column's name, on one line, and no way into another statement."""
    with pytest.raises(Failure, match='column "bla" not found') as raised:
        store.requests(filter_of(where="bla > 3").where)
    assert "\n" not in raised.value.message
    assert where_of("node=n1,shard=3") == ("node::varchar = ? and shard::varchar = ?", "n1", "3")
    assert where_of("node = 'n1'") == ("node = 'n1'",)


def test_words_of_the_command_line_are_ids_or_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What exists is a file, even if it looks like an id; hexadecimal digits are an id; the rest is told."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "beef").touch()
    assert split(["4bf9", "beef", "a.jsonl", "d/e"]) == (["4bf9"], [Path("beef"), Path("a.jsonl"), Path("d/e")])
    with pytest.raises(Failure, match="'traces' is neither a trace id nor a file"):
        split(["traces"])


@pytest.mark.parametrize(
    ("text", "seconds_ago"), [("90s", 90), ("15m", 900), ("15min", 900), ("1.5h", 5400), ("2d", 172_800), ("500ms", 0.5)]
)
def test_since_takes_spans_of_time(text: str, seconds_ago: float) -> None:
    """Before now."""
    assert since_ns(text, 1e9) == int((1e9 - seconds_ago) * 1e9)


def test_since_takes_times_and_refuses_the_rest() -> None:
    """ISO 8601, with a hint for what is none."""
    assert since_ns("2001-09-09T01:46:40Z", 0) == 10**18
    with pytest.raises(Failure, match="yesterday") as raised:
        since_ns("yesterday", 0)
    assert "--since 15m" in raised.value.hint


def test_samples_of_two_leaders_say_which_stage_differs() -> None:
    """n2 as a leader has the slow disk: the database's samples make the comparison's sentence."""
    with TraceStore() as store:
        store.add(usual_puts(40))
        followers = {"n1": Follower(), "n3": Follower(fsync=0.6, quorum=False)}
        store.add(usual_puts(40, first=100, put=Put(leader="n2", fsync=9, followers=followers)))
        first, second = (store.samples(*_where(f"node=n{number}")) for number in (1, 2))
        (difference,) = compare(first, second)
    assert difference.text == (
        "Put (strong): slower, median 1.2 ms → 10 ms (+719%); of +8.8 ms in the mean: fsync +8.9 ms (101%)."
    )
    assert math.isclose(sum(stage.share for stage in difference.stages), 1)


def _where(text: str) -> tuple[str, list[object]]:
    found = filter_of(where=text)
    return found.where, found.parameters


TEXTS = st.text(max_size=8) | st.sampled_from(["kvnode", "kvnode.shard", "kvnode.stage", "db.operation.name", "a", "b", "\0"])
VALUES: st.SearchStrategy[object] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    *("kvnode.stage", "kvnode.shard", "kvnode.attempts", "kvnode.node", "kvnode.batch.id", "kvnode.log.fsync_us"),
    *("kvnode.append.network_us", "db.operation.name", "db.system.name", "error.type", "kvnode.nodes.failed"),
)
ATTRIBUTE_VALUES = st.dictionaries(
    st.sampled_from(["intValue", "doubleValue", "stringValue", "arrayValue", "kvlistValue"]), VALUES, max_size=1
)
ATTRIBUTES = st.lists(st.fixed_dictionaries({"key": st.sampled_from(NAMES), "value": ATTRIBUTE_VALUES}), max_size=4)
SPANS = st.fixed_dictionaries(
    {"traceId": st.sampled_from(["a", "b"]), "spanId": st.sampled_from(["1", "2", "3"])},
    optional={
        "parentSpanId": st.sampled_from(["1", "2", "3", "4", ""]),
        "name": TEXTS | st.sampled_from(["kvnode.election", "Batch", "append"]),
        "kind": st.integers(-9, 9) | TEXTS,
        "startTimeUnixNano": st.integers(-10, 1 << 64) | TEXTS,
        "endTimeUnixNano": st.integers(-10, 1 << 64),
        "attributes": ATTRIBUTES | VALUES,
        "links": st.lists(st.fixed_dictionaries({"traceId": TEXTS, "spanId": TEXTS}), max_size=2) | VALUES,
        "status": st.dictionaries(st.sampled_from(["code", "message"]), VALUES, max_size=2),
    },
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.lists(SPANS, max_size=6), max_size=3), st.sampled_from(["kvnode", "shop", ""]))
def test_store_of_whatever_a_file_holds_answers(lines: list[list[object]], service: str) -> None:
    """Damaged and hostile files: what cannot be read is counted, and everything else can be asked for."""
    texts = []
    for spans in lines:
        resource = {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]}
        texts.append(json.dumps({"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}))
    reading = Reading()
    with TraceStore() as store:
        store.add(decode(texts, reading))
        requests = store.requests()
        for trace in store.traces():
            for request in trace.requests():
                assert store.explain(trace, request).text
        assert len(requests) == sum(len(trace.requests()) for trace in store.traces())
