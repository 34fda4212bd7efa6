"""The operations, over real gRPC against the fake cluster."""

from __future__ import annotations

import asyncio
import gc

import pytest

import kvclient
from kvclient import Consistency, OperationState, Role, SupersededReason, errors
from tests.unit.kvclient.fake_cluster import FakeCluster, running_cluster

LONE_SURROGATE = "\ud800"


async def test_put_and_get_strong_text_and_bytes_round_trip(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Text is UTF-8; the answer says revision, version, and that the leader served."""
    first = await kv.put("schlüssel", "wert")
    second = await kv.put("schlüssel".encode(), b"\x00\xff")
    value = await kv.get("schlüssel")
    assert value is not None
    assert (value.value, value.version) == (b"\x00\xff", 2)
    assert (value.revision, value.create_revision) == (second.revision, first.revision)
    assert value.served.role is Role.LEADER
    assert value.served.consistency is Consistency.STRONG
    assert value.served.node == cluster.leader_of("schlüssel").name
    assert value.served.staleness == 0.0


async def test_get_missing_key_is_none_and_get_result_says_who_served(kv: kvclient.AsyncClient) -> None:
    """No value is None; what was served is there nevertheless."""
    assert await kv.get("nothing") is None
    result = await kv.get_result("nothing")
    assert result.value is None
    assert result.served.node


async def test_operations_go_straight_to_the_leader(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """With the map, no strong operation needs forwarding: each leader took exactly the calls of its keys."""
    cluster.forwards = False
    for number in range(12):
        await kv.put(f"key-{number}", "v")
        assert await kv.get(f"key-{number}") is not None
    assert cluster.calls("Put") == 12
    assert cluster.calls("Get") == 12


async def test_compare_and_set_wrong_revision_fails_with_the_actual_one(kv: kvclient.AsyncClient) -> None:
    """0 means absent; a mismatch changes nothing and tells the revision."""
    created = await kv.compare_and_set("k", "1", 0)
    with pytest.raises(errors.CompareFailed) as caught:
        await kv.compare_and_set("k", "2", 0)
    assert caught.value.revision == created.revision
    assert caught.value.definite
    assert caught.value.key == b"k"
    await kv.compare_and_set("k", "3", caught.value.revision)
    value = await kv.get("k")
    assert value is not None
    assert value.text == "3"


async def test_delete_says_whether_the_key_existed_and_compares(kv: kvclient.AsyncClient) -> None:
    """Deleting an absent key succeeds; `if_revision` protects."""
    written = await kv.put("k", "v")
    with pytest.raises(errors.CompareFailed):
        await kv.delete("k", if_revision=written.revision + 1)
    assert (await kv.delete("k", if_revision=written.revision)).found is True
    assert (await kv.delete("k")).found is False
    assert await kv.get("k") is None


async def test_range_more_than_a_page_is_fetched_lazily_in_order(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Pages come as the iteration needs them; bounds, limit, keys_only and count agree."""
    batch = kv.batch()
    for number in range(1_200):
        batch.put(f"p/{number:04}", str(number))
    assert not [result for result in await batch.run(timeout=60) if isinstance(result, errors.KvError)]
    await kv.put("q", "outside")
    iterator = kv.range(prefix="p/")
    assert cluster.calls("Range") == 0
    first = await anext(iterator)
    assert (first.key, first.text, cluster.calls("Range")) == (b"p/0000", "0", 1)
    rest = [item.key async for item in iterator]
    assert rest == [f"p/{number:04}".encode() for number in range(1, 1_200)]
    assert cluster.calls("Range") == 3
    assert [item.key async for item in kv.range(start="p/1198", end="q")] == [b"p/1198", b"p/1199"]
    assert [item.value async for item in kv.range(prefix="p/", limit=2, keys_only=True)] == [b"", b""]
    assert [item async for item in kv.range(prefix="p/", limit=0)] == []
    assert await kv.count(prefix="p/") == 1_200
    assert await kv.count() == 1_201


async def test_range_page_token_continues_where_the_page_ended(kv: kvclient.AsyncClient) -> None:
    """One page at a time, for callers that page themselves."""
    for name in "abc":
        await kv.put(name, name)
    page = await kv.range_page(limit=2)
    assert [item.key for item in page.items] == [b"a", b"b"]
    last = await kv.range_page(limit=2, page_token=page.next_page_token)
    assert ([item.key for item in last.items], last.next_page_token) == ([b"c"], b"")
    assert {served.shard for served in page.served} == {0, 1, 2, 3}


async def test_batch_each_operation_has_its_own_outcome_in_order(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Values and exceptions stand where their operations stood; a node's operations leave in one call."""
    await kv.put("a", "1")
    batch = kv.batch().get("a").put("b", "2").get("none").put("a", "3", if_revision=99).delete("none")
    assert len(batch) == 5
    got, written, missing, failed, deleted = await batch.run()
    assert isinstance(got, kvclient.Value)
    assert got.text == "1"
    assert isinstance(written, kvclient.PutResult)
    assert missing is None
    assert isinstance(failed, errors.CompareFailed)
    assert failed.revision == got.revision
    assert isinstance(deleted, kvclient.DeleteResult)
    assert cluster.calls("Batch") + cluster.calls("Get") + cluster.calls("Put") + cluster.calls("Delete") <= 1 + 3
    with pytest.raises(errors.InvalidArgument) as again:
        await batch.run()
    assert again.value.field == "batch"
    assert await kv.batch().run() == []


async def test_eventual_write_superseded_is_told_by_its_operation_id(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """An eventual write waits, a strong one comes first, and the eventual one's fate can be asked for."""
    cluster.holds_eventual = True
    lost = await kv.put("k", "eventual", consistency="eventual", acks=2)
    assert (lost.revision, lost.acks, bool(lost.operation_id)) == (0, 2, True)
    assert (await kv.operation(lost.operation_id)).state is OperationState.PENDING
    strong = await kv.put("k", "strong")
    cluster.settle()
    fate = await kv.operation(lost.operation_id)
    assert fate.state is OperationState.SUPERSEDED
    assert fate.reason is SupersededReason.STRONG_WRITE
    assert (fate.superseded_by, fate.key) == (strong.revision, b"k")
    assert (await kv.operation("n9.1")).state is OperationState.UNKNOWN


async def test_eventual_read_may_be_tentative_and_prefers_no_leader(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """A replica shows its waiting write, and says that it is tentative."""
    cluster.holds_eventual = True
    node = next(iter(cluster.nodes.values()))
    for other in cluster.nodes.values():
        if other is not node:
            kv._router.health.of(other.address).on_latency(9.0)
    await kv.put("k", "v", consistency="eventual")
    tentative = [await kv.get("k", consistency="eventual") for _ in range(20)]
    assert any(value is not None and value.tentative for value in tentative)


async def test_bounded_read_needs_a_staleness_and_a_staleness_makes_it_bounded(kv: kvclient.AsyncClient) -> None:
    """`max_staleness` alone is enough."""
    await kv.put("k", "v")
    value = await kv.get("k", max_staleness=1.5)
    assert value is not None
    assert value.served.consistency is Consistency.BOUNDED
    with pytest.raises(errors.InvalidArgument) as caught:
        await kv.get("k", consistency="bounded")
    assert caught.value.field == "max_staleness"


async def test_session_reads_its_writes_from_a_lagging_replica(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """All other replicas lag: plain eventual reads miss the write, the session's never do; a handed-over token goes on."""
    leader = cluster.leader_of("k")
    for node in cluster.nodes.values():
        if node is not leader:
            node.lag = {shard.number: 0 for shard in cluster.shards}
    kv._router.health.of(leader.address).on_latency(9.0)
    session = kv.session()
    await session.put("k", "v")
    for _ in range(20):
        value = await session.get("k")
        assert value is not None
        assert value.text == "v"
        assert value.served.consistency is Consistency.SESSION
    eventual = [await kv.get("k", consistency="eventual") for _ in range(3)]
    assert None in eventual
    elsewhere = kv.session(session.token)
    assert await elsewhere.get("k") is not None
    results = await session.batch().get("k").put("k", "w").run()
    assert isinstance(results[0], kvclient.Value)
    assert [item.text async for item in session.range(prefix="k")] == ["w"]


async def test_locate_names_shard_leader_and_replicas(cluster: FakeCluster, kv: kvclient.AsyncClient) -> None:
    """Where a key lives, by address."""
    place = await kv.locate("k")
    assert place.shard == cluster.shard_of("k")
    assert place.leader == cluster.leader_of("k").address
    assert len(place.replicas) == 3


@pytest.mark.parametrize(
    ("name", "arguments", "options", "field"),
    [
        ("get", ("",), {}, "key"),
        ("get", ("k" * 401,), {}, "key"),
        ("get", (7,), {}, "key"),
        ("put", ("k", b"v" * (1024 * 1024 + 1)), {}, "value"),
        ("put", ("k", None), {}, "value"),
        ("put", ("k", "v"), {"consistency": "session"}, "consistency"),
        ("put", ("k", "v"), {"consistency": "strongest"}, "consistency"),
        ("put", ("k", "v"), {"consistency": "eventual", "if_revision": 1}, "if_revision"),
        ("put", ("k", "v"), {"if_revision": -1}, "if_revision"),
        ("put", ("k", "v"), {"acks": 2}, "acks"),
        ("put", ("k", "v"), {"consistency": "eventual", "acks": 0}, "acks"),
        ("put", ("k", "v"), {"timeout": 0}, "timeout"),
        ("get", ("k",), {"consistency": "strong", "max_staleness": 1}, "max_staleness"),
        ("range_page", (), {"limit": 1_001}, "limit"),
        ("operation", ("",), {}, "operation_id"),
        ("operation", (7,), {}, "operation_id"),
        ("operation", (LONE_SURROGATE,), {}, "operation_id"),
        ("get", (None,), {}, "key"),
        ("get", (LONE_SURROGATE,), {}, "key"),
        ("put", ("k", LONE_SURROGATE), {}, "value"),
        ("put", ("k", {}), {}, "value"),
        ("put", ("k", "v"), {"consistency": []}, "consistency"),
        ("put", ("k", "v"), {"consistency": True}, "consistency"),
        ("put", ("k", "v"), {"if_revision": "1"}, "if_revision"),
        ("put", ("k", "v"), {"if_revision": 2**64}, "if_revision"),
        ("put", ("k", "v"), {"if_revision": 10**5_000}, "if_revision"),
        ("delete", ("k",), {"if_revision": True}, "if_revision"),
        ("delete", ("k",), {"if_revision": 1.0}, "if_revision"),
        ("put", ("k", "v"), {"consistency": "eventual", "acks": "2"}, "acks"),
        ("put", ("k", "v"), {"consistency": "eventual", "acks": 2**32}, "acks"),
        ("compare_and_set", ("k", "v", None), {}, "revision"),
        ("compare_and_set", ("k", "v", "1"), {}, "revision"),
        ("compare_and_set", ("k", "v", True), {}, "revision"),
        ("compare_and_set", ("k", "v", -1), {}, "revision"),
        ("compare_and_set", ("k", "v", 2**64), {}, "revision"),
        ("get", ("k",), {"consistency": "session"}, "consistency"),
        ("count", (), {"consistency": Consistency.SESSION}, "consistency"),
        ("get", ("k",), {"max_staleness": "1"}, "max_staleness"),
        ("get", ("k",), {"max_staleness": float("nan")}, "max_staleness"),
        ("get", ("k",), {"max_staleness": 1e300}, "max_staleness"),
        ("count", (), {"prefix": 0}, "prefix"),
        ("range_page", (), {"limit": "1"}, "limit"),
        ("range_page", (), {"page_token": "t"}, "page_token"),
        ("range_page", (), {"keys_only": "yes"}, "keys_only"),
        ("open", (), {"timeout": "1"}, "timeout"),
        *(
            ("get", ("k",), {"timeout": wrong}, "timeout")
            for wrong in (-1, "1", True, float("inf"), float("-inf"), float("nan"), 86_401, 10**5_000)
        ),
    ],
)
async def test_operations_wrong_argument_names_the_field_and_sends_nothing(
    cluster: FakeCluster,
    kv: kvclient.AsyncClient,
    name: str,
    arguments: tuple[object, ...],
    options: dict[str, object],
    field: str,
) -> None:
    """Mistakes are found before anything leaves."""
    before = sum(sum(node.calls.values()) for node in cluster.nodes.values())
    with pytest.raises(errors.InvalidArgument) as caught:
        await getattr(kv, name)(*arguments, **options)
    assert caught.value.field == field
    assert isinstance(caught.value, ValueError)
    assert sum(sum(node.calls.values()) for node in cluster.nodes.values()) == before


async def test_range_wrong_argument_shows_at_the_call_not_at_the_first_item(kv: kvclient.AsyncClient) -> None:
    """An iterator that nobody iterates over must not hide a mistake."""
    with pytest.raises(errors.InvalidArgument):
        kv.range(prefix=7)  # type: ignore[arg-type]
    for limit in (-1, "1", True):
        with pytest.raises(errors.InvalidArgument):
            kv.range(limit=limit)  # type: ignore[arg-type]
    with pytest.raises(errors.InvalidArgument):
        kv.range(timeout=float("inf"))
    with pytest.raises(errors.InvalidArgument):
        kv.range(consistency="session")


async def test_compare_and_set_no_revision_writes_nothing(kv: kvclient.AsyncClient) -> None:
    """None is no way to write unconditionally; the error says what 0 means."""
    await kv.put("k", "mine")
    with pytest.raises(errors.InvalidArgument, match=r"revision: None .* 0 means that the key must not exist"):
        await kv.compare_and_set("k", "stolen", None)  # type: ignore[arg-type]
    value = await kv.get("k")
    assert value is not None
    assert value.text == "mine"


async def test_session_level_without_a_session_points_to_sessions(kv: kvclient.AsyncClient) -> None:
    """Without a token the level would promise nothing: client and batch refuse it, a session takes it."""
    for asked in ("session", Consistency.SESSION):
        with pytest.raises(errors.InvalidArgument, match=r"kv\.session\(\)"):
            await kv.get("k", consistency=asked)
        with pytest.raises(errors.InvalidArgument):
            kv.batch().get("k", consistency=asked)
        assert await kv.session().get("k", consistency=asked) is None
        assert await kv.session().batch().get("k", consistency=asked).run() == [None]


async def test_session_wrong_token_is_an_invalid_argument(kv: kvclient.AsyncClient) -> None:
    """A token is the bytes that another session gave."""
    for token in ("abc", None, 7):
        with pytest.raises(errors.InvalidArgument) as caught:
            kv.session(token)  # type: ignore[arg-type]
        assert caught.value.field == "token"


def test_client_in_a_second_event_loop_says_so_and_leaves_no_coroutine(recwarn: pytest.WarningsRecorder) -> None:
    """Operations, sessions, batches and opening on another loop are refused; closing works once the first loop is gone."""

    def use_twice(uri: str) -> None:
        kv = kvclient.connect(uri)
        asyncio.run(kv.put("k", "v"))
        for again in (lambda: kv.get("k"), kv.session().count, kv.batch().get("k").run, kv.open, kv.__aenter__):
            with pytest.raises(errors.InvalidArgument, match=r"another event loop; make one for each asyncio\.run"):
                asyncio.run(again())
        asyncio.run(kv.close())

    with running_cluster(nodes=1) as (single, _):
        use_twice(single.uri)
        gc.collect()
    # (That the first loop left a connection behind is true, and asyncio may say so.)
    assert not [str(warning.message) for warning in recwarn if not issubclass(warning.category, ResourceWarning)]


async def test_client_closed_on_another_loop_while_its_own_runs_stays_usable(kv: kvclient.AsyncClient) -> None:
    """Closing from elsewhere is refused, and changes nothing."""
    await kv.put("k", "v")
    with pytest.raises(errors.InvalidArgument):
        await asyncio.to_thread(lambda: asyncio.run(kv.close()))
    assert await kv.get("k") is not None


async def test_client_without_open_connects_with_its_first_operation(cluster: FakeCluster) -> None:
    """`connect` sends nothing; the first operation learns the map, once for all that come together."""
    client = kvclient.connect(cluster.uri)
    assert cluster.calls("Topology") == 0
    await client.put("k", "v")
    assert cluster.calls("Topology") == 1
    await client.close()
    with pytest.raises(errors.ClientClosed) as caught:
        await client.get("k")
    assert caught.value.definite


async def test_client_nobody_there_says_so_within_its_timeout() -> None:
    """A wrong address shows when the client is opened, as an error that names it."""
    async with FakeCluster(nodes=1) as cluster:
        uri = cluster.uri
    with pytest.raises(errors.Unavailable) as caught:
        await kvclient.connect(uri + "?timeout=0.1").open()
    assert "Connection refused" in str(caught.value)
    assert f"kv://{caught.value.node}" == uri
