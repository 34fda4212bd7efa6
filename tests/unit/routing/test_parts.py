"""What a transaction's request means for each shard, and one answer from theirs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.routing.parts import Parts, Place, ShardResults, joined, split
from kvnode.routing.shard_map import ShardMap
from kvnode.shard.evaluate import Reading
from tests.unit.shard.machine import Compare, Machine, delete, get, part, put, ranged

SHARDS = 4
MAP = ShardMap(1, {}, (("1",),) * SHARDS)


def key_of(shard: int, name: bytes = b"") -> bytes:
    """A key of the shard; its tag is short, the name is the caller's."""
    return next(key for n in range(99) if MAP.shard_of(key := b"{%d}%b" % (n, name)) == shard)


def txn(*then: kv_pb2.BatchOperation, compare: tuple[Compare, ...] = (), otherwise: object = ()) -> kv_pb2.TxnRequest:
    """A checked request."""
    return kv_pb2.TxnRequest(then=then, compare=compare, otherwise=otherwise)  # type: ignore[arg-type]


def test_request_split_gives_each_shard_what_is_its_own() -> None:
    """In the request's order; each operation has its place in the answer."""
    a, b, c = key_of(0), key_of(1), key_of(2)
    request = txn(put(a), get(b), put(b), compare=(Compare(key=c, exists=True),), otherwise=[get(a), delete(a)])
    parts = split(request, MAP)
    assert parts.parts == {
        0: part(put(a), otherwise=[get(a), delete(a)]),
        1: part(get(b), put(b)),
        2: part(compare=[Compare(key=c, exists=True)]),
    }
    assert parts.then == [[Place(0, 0)], [Place(1, 0)], [Place(1, 1)]]
    assert parts.otherwise == [[Place(0, 0)], [Place(0, 1)]]
    assert not parts.reads_only


def test_shards_of_a_split_request_are_in_order() -> None:
    """Every attempt asks them alike, whatever comes first in the request."""
    assert list(split(txn(get(key_of(3)), get(key_of(0)), get(key_of(2))), MAP).parts) == [0, 2, 3]


@pytest.mark.parametrize(
    ("request_", "anchor"),
    [
        (txn(get(key_of(0)), put(key_of(1)), put(key_of(2))), 1),
        (txn(get(key_of(0)), otherwise=[get(key_of(3)), delete(key_of(2))]), 2),
        (txn(put(key_of(1)), otherwise=[put(key_of(2))], compare=(Compare(key=key_of(0)),)), 1),
        (txn(get(key_of(1)), compare=(Compare(key=key_of(3)), Compare(key=key_of(0)))), 3),
        (txn(ranged(b"p"), get(key_of(1)), otherwise=[get(key_of(2))]), 1),
        (txn(ranged(key_of(2))), 2),
        (txn(ranged(b"p"), otherwise=[ranged(b"q")]), MAP.shard_of(b"p")),
    ],
)
def test_anchor_of_a_request_is_the_shard_of_its_first_write_or_else_first_key(
    request_: kv_pb2.TxnRequest, anchor: int
) -> None:
    """`then` before `else`; without a key that of the first range's prefix. It takes part in any case."""
    parts = split(request_, MAP)
    assert parts.anchor == anchor
    assert parts.anchor in parts.parts


@pytest.mark.parametrize(
    ("request_", "reads_only"),
    [
        (txn(get(b"a"), ranged(b"b"), compare=(Compare(key=b"c"),)), True),
        (txn(compare=(Compare(key=b"c"),)), True),
        (txn(get(b"a"), otherwise=[delete(b"a")]), False),
        (txn(put(b"a")), False),
    ],
)
def test_request_reads_only_if_no_branch_writes(request_: kv_pb2.TxnRequest, reads_only: bool) -> None:
    """Which branch is taken is not known before."""
    assert split(request_, MAP).reads_only is reads_only


@pytest.mark.parametrize(("prefix", "shards"), [(b"p", 4), (b"{p", 4), (b"{}", 4), (b"{p}", 1), (b"x{p}y", 1)])
def test_range_has_a_part_in_every_shard_where_its_keys_may_be(prefix: bytes, shards: int) -> None:
    """A complete tag decides the shard of all its keys."""
    parts = split(txn(ranged(prefix)), MAP)
    assert (len(parts.parts), len(parts.then[0])) == (shards, shards)
    assert all(MAP.shard_of(prefix + suffix) in parts.parts for suffix in (b"1", b"}2", b"{3}", b"4}"))


# ---- joining --------------------------------------------------------------------------------------------------------


def page(*keys: bytes, token: bytes = b"") -> kv_pb2.BatchResult:
    """A shard's page."""
    items = [kv_pb2.KeyValue(key=key) for key in keys]
    return kv_pb2.BatchResult(range=kv_pb2.RangeResponse(items=items, count=len(keys), next_page_token=token))


def merged(limit: int, *pages: kv_pb2.BatchResult) -> tuple[list[bytes], bytes]:
    """The keys and the token of the pages' union."""
    request = txn(ranged(b"p", limit=limit))
    parts = Parts({}, 0, [[Place(shard, 0) for shard in range(len(pages))]], [], True)
    found = {shard: ShardResults([one], []) for shard, one in enumerate(pages)}
    response = joined(request, parts, True, found)
    result = response.results[0].range
    assert result.count == len(result.items)
    return [item.key for item in result.items], result.next_page_token


@pytest.mark.parametrize(
    ("limit", "pages", "keys", "token"),
    [
        (9, [page(b"a", b"c"), page(b"b")], [b"a", b"b", b"c"], b""),
        (9, [page(), page()], [], b""),
        (2, [page(b"a", b"c"), page(b"b")], [b"a", b"b"], b"b"),
        (2, [page(b"a"), page(b"b")], [b"a", b"b"], b""),
        (2, [page(b"a", b"c", token=b"c"), page(b"b", b"d", token=b"d")], [b"a", b"b"], b"b"),
        (2, [page(b"a", b"b", token=b"b"), page()], [b"a", b"b"], b"b"),
        (9, [page(b"a", token=b"b"), page(b"b", b"c", b"d")], [b"a", b"b"], b"b"),
        (9, [page(token=b"b"), page(b"c", token=b"c")], [], b"b"),
        (9, [page(b"a", token=b"a"), page(b"b", b"c")], [b"a"], b"a"),
    ],
)
def test_pages_of_several_shards_make_one_page(
    limit: int, pages: list[kv_pb2.BatchResult], keys: list[bytes], token: bytes
) -> None:
    """In key order; it ends where the first cut page ends, since that shard's next keys are not known."""
    assert merged(limit, *pages) == (keys, token)


def test_pages_without_a_limit_have_the_default() -> None:
    """As a range by itself."""
    keys = [b"p%03d" % number for number in range(limits.RANGE_LIMIT_DEFAULT + 5)]
    found, token = merged(0, page(*keys[::2]), page(*keys[1::2]))
    assert (found, token) == (keys[:100], keys[99])


def test_answer_takes_each_result_from_its_place() -> None:
    """Of the branch that was taken; the other branch's answers are not looked at."""
    a, b = key_of(0), key_of(1)
    request = txn(put(a), otherwise=[get(b), get(a), get(b)])
    results = [kv_pb2.BatchResult(get=kv_pb2.GetResponse(found=True, revision=n)) for n in range(3)]
    found = {0: ShardResults([], [results[0]]), 1: ShardResults([], [results[1], results[2]])}
    response = joined(request, split(request, MAP), False, found)
    assert (response.succeeded, [one.get.revision for one in response.results]) == (False, [1, 0, 2])


KEYS = st.sampled_from([key_of(shard, name) for shard in range(SHARDS) for name in (b"", b"1")] + [b"p", b"p1", b"p2", b"q"])
OPERATIONS = st.one_of(
    st.builds(put, KEYS),
    st.builds(delete, KEYS),
    st.builds(get, KEYS),
    st.builds(ranged, st.sampled_from([b"p", b"{", b"{1}"]), st.integers(0, 4)),
)


@given(
    st.lists(KEYS, unique=True),
    st.lists(OPERATIONS, min_size=1, max_size=5),
    st.lists(OPERATIONS, max_size=3),
    st.lists(st.builds(Compare, key=KEYS, exists=st.booleans()), max_size=2),
)
def test_request_over_shards_answers_as_in_one_shard(
    present: list[bytes], then: list[kv_pb2.BatchOperation], otherwise: list[kv_pb2.BatchOperation], compare: list[Compare]
) -> None:
    """Whatever it asks: the parts' comparisons, results and pages, joined, are those of one state with all keys."""
    whole, shards = Machine(), [Machine() for _ in range(SHARDS)]
    for key in present:
        whole.put(key)
        shards[MAP.shard_of(key)].put(key)
    request = kv_pb2.TxnRequest(compare=compare, then=then, otherwise=otherwise)
    parts = split(request, MAP)
    succeeded = all(Reading(shards[shard]).matches(one.compare) for shard, one in parts.parts.items())
    assert succeeded == Reading(whole).matches(compare)
    found = {
        shard: ShardResults(Reading(shards[shard]).results(one.then, 1), Reading(shards[shard]).results(one.otherwise, 1))
        for shard, one in parts.parts.items()
    }
    response = joined(request, parts, succeeded, found)
    expected = Reading(whole).results(then if succeeded else otherwise, 1)
    assert len(response.results) == len(expected)
    for answer, wanted in zip(response.results, expected, strict=True):
        if answer.HasField("range"):
            assert [item.key for item in answer.range.items] == [item.key for item in wanted.range.items]
            assert answer.range.next_page_token == wanted.range.next_page_token
        elif answer.HasField("get"):
            assert (answer.get.found, answer.get.value) == (wanted.get.found, wanted.get.value)
        else:
            assert answer == wanted
