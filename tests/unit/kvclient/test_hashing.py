"""Key to shard."""

from __future__ import annotations

import re

import pytest
import xxhash
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvclient.expressions import Delete, Get, Key, Operation, Put, Range
from kvclient.hashing import anchor_key, hashed_part, shard_of

KEYS = st.lists(st.sampled_from([b"{", b"}", b"a", b"b", b"\xff", b"user"]), max_size=8).map(b"".join)


@pytest.mark.parametrize(
    ("key", "part"),
    [
        (b"plain", b"plain"),
        (b"{user1000}.following", b"user1000"),
        (b"a{tag}b", b"tag"),
        (b"foo{}{bar}", b"foo{}{bar}"),
        (b"foo{{bar}}zap", b"{bar"),
        (b"foo{bar}{zap}", b"bar"),
        (b"foo{bar", b"foo{bar"),
        (b"}foo{", b"}foo{"),
        (b"}a{b}", b"b"),
        (b"{", b"{"),
        (b"{}", b"{}"),
    ],
)
def test_hashed_part_examples_of_the_redis_rule(key: bytes, part: bytes) -> None:
    """The examples of the Redis Cluster specification, and the corners around them."""
    assert hashed_part(key) == part


@given(KEYS)
def test_hashed_part_any_key_agrees_with_a_regular_expression(key: bytes) -> None:
    """The rule, written down a second time in another way, gives the same bytes."""
    found = re.match(rb"[^{]*\{([^}]+)\}", key)
    assert hashed_part(key) == (found.group(1) if found else key)


@given(KEYS, st.integers(1, 1024))
def test_shard_of_any_key_is_in_range_and_decided_by_its_tag(key: bytes, shards: int) -> None:
    """A shard exists, and all keys with the same tag share it."""
    shard = shard_of(key, shards)
    assert 0 <= shard < shards
    assert shard == xxhash.xxh3_64(hashed_part(key), seed=0).intdigest() % shards


def test_shard_of_known_keys_never_changes() -> None:
    """Placement is on disk: these numbers must stay for ever."""
    keys = (b"a", b"b", b"greeting", b"{user1000}.following", b"user1000")
    assert [shard_of(key, 1000) for key in keys] == [719, 615, 425, 708, 708]
    assert xxhash.xxh3_64_intdigest(b"") == 0x2D06800538D394C2


@pytest.mark.parametrize(
    ("then", "otherwise", "compared", "anchor"),
    [
        ([Get("g"), Delete("d"), Put("p", "")], [Put("o", "")], ["c"], b"d"),
        ([Get("g")], [Get("h"), Put("o", "")], ["c"], b"o"),
        ([Get("g")], [Get("h")], ["c", "b"], b"c"),
        ([Range(prefix="r"), Get("g")], [Get("h")], [], b"g"),
        ([Range(prefix="r")], [Range(prefix="s"), Get("h")], [], b"h"),
        ([], [Range(prefix="s"), Range(prefix="t")], [], b"s"),
        ([], [], [], b""),
    ],
)
def test_anchor_key_each_shape_of_transaction_has_the_first_key_that_matters(
    then: list[Operation], otherwise: list[Operation], compared: list[str], anchor: bytes
) -> None:
    """Writes before comparisons before reads before ranges; `then` before `else`."""
    request = kv_pb2.TxnRequest(
        compare=[Key(key).exists().encoded() for key in compared],
        then=[operation.encoded() for operation in then],
        otherwise=[operation.encoded() for operation in otherwise],
    )
    assert anchor_key(request) == anchor


def test_anchor_key_key_given_as_text_is_the_same_key() -> None:
    """Terminals write `key_text`; the anchor does not depend on whether it was translated already."""
    request = kv_pb2.TxnRequest(then=[kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key_text="\u00fc"))])
    assert anchor_key(request) == "\u00fc".encode()
    assert anchor_key(kv_pb2.TxnRequest(compare=[kv_pb2.Compare(key_text="c")])) == b"c"
    ranged = kv_pb2.BatchOperation(range=kv_pb2.RangeRequest(prefix_text="r"))
    assert anchor_key(kv_pb2.TxnRequest(then=[ranged])) == b"r"
