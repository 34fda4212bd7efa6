"""What prefix, bounds and page token mean together."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvnode.routing.ranges import range_bounds


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, (b"", None)),
        ({"start": b"b"}, (b"b", None)),
        ({"end": b"d"}, (b"", b"d")),
        ({"prefix": b"ab"}, (b"ab", b"ac")),
        ({"prefix": b"a\xff"}, (b"a\xff", b"b")),
        ({"prefix": b"\xff\xff"}, (b"\xff\xff", None)),
        ({"prefix": b"a", "start": b"ab", "end": b"b"}, (b"ab", b"b")),
        ({"prefix": b"a", "start": b"A", "end": b"ac"}, (b"a", b"ac")),
        ({"page_token": b"k"}, (b"k\0", None)),
        ({"prefix": b"a", "page_token": b"ab"}, (b"ab\0", b"b")),
        ({"start": b"z", "page_token": b"k"}, (b"z", None)),
    ],
)
def test_range_bounds_of_each_combination_are_the_narrowest(fields: dict[str, bytes], expected: tuple[bytes, bytes]) -> None:
    """The table."""
    assert range_bounds(kv_pb2.RangeRequest(**fields)) == expected  # type: ignore[arg-type]


KEYS = st.binary(max_size=3)


@given(KEYS, KEYS, KEYS, KEYS, KEYS.filter(bool))
def test_range_bounds_contain_exactly_what_was_asked_for(
    prefix: bytes, start: bytes, end: bytes, after: bytes, key: bytes
) -> None:
    """Whatever the fields: a key is inside if and only if each of them admits it."""
    first, last = range_bounds(kv_pb2.RangeRequest(prefix=prefix, start=start, end=end, page_token=after))
    inside = first <= key and (last is None or key < last)
    wanted = key.startswith(prefix) and key >= start and (not end or key < end) and (not after or key > after)
    assert inside == wanted
