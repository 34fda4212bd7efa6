"""What is refused at the door, field by field."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.api import convert
from kvnode.errors import InvalidRequest

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
SESSION, BOUNDED = kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED
LONG_KEY, LONG_TOKEN = bytes(limits.KEY_SIZE_BYTES_MAX + 1), bytes(limits.SESSION_TOKEN_SIZE_BYTES_MAX + 1)

Put, Get, Delete, Range = kv_pb2.PutRequest, kv_pb2.GetRequest, kv_pb2.DeleteRequest, kv_pb2.RangeRequest
SINGLE: dict[type, Callable[[Any], None]] = {Put: convert.check_put, Get: convert.check_get, Delete: convert.check_delete}


def check(request: Any) -> None:
    """The check for its type."""
    if isinstance(request, Range):
        convert.check_range(request, shards=8)
    elif isinstance(request, kv_pb2.BatchRequest):
        convert.check_batch(request)
    else:
        SINGLE[type(request)](request)


BAD: dict[str, tuple[Any, str]] = {
    "put without a key": (Put(), "key"),
    "get without a key": (Get(), "key"),
    "delete without a key": (Delete(), "key"),
    "put of a long key": (Put(key=LONG_KEY), "key"),
    "get of a long text key": (Get(key_text="é" * 201), "key"),
    "key and text": (Put(key=b"k", key_text="k"), "key_text"),
    "value and text": (Put(key=b"k", value=b"v", value_text="v"), "value_text"),
    "large value": (Put(key=b"k", value=bytes(limits.VALUE_SIZE_BYTES_MAX + 1)), "value"),
    "write at session level": (Put(key=b"k", consistency=SESSION), "consistency"),
    "write at bounded level": (Delete(key=b"k", consistency=BOUNDED), "consistency"),
    "unknown level": (Get(key=b"k", consistency=77), "consistency"),  # type: ignore[arg-type]
    "eventual compare": (Put(key=b"k", consistency=EVENTUAL, if_revision=0), "if_revision"),
    "eventual compare of a delete": (Delete(key=b"k", consistency=EVENTUAL, if_revision=3), "if_revision"),
    "too many acks": (Put(key=b"k", consistency=EVENTUAL, acks=limits.ACKS_MAX + 1), "acks"),
    "acks of a strong write": (Put(key=b"k", acks=1), "acks"),
    "acks of a strong delete": (Delete(key=b"k", consistency=STRONG, acks=2), "acks"),
    "bounded without a bound": (Get(key=b"k", consistency=BOUNDED), "max_staleness_ms"),
    "bound without bounded": (Get(key=b"k", max_staleness_ms=5), "max_staleness_ms"),
    "range bound without bounded": (Range(consistency=SESSION, max_staleness_ms=5), "max_staleness_ms"),
    "long token": (Get(key=b"k", consistency=SESSION, session=LONG_TOKEN), "session"),
    "token of nonsense": (Get(key=b"k", consistency=SESSION, session=b"\xff\xff"), "session"),
    "token of nonsense with a write": (Put(key=b"k", session=b"\xff\xff"), "session"),
    "token of nonsense with a delete": (Delete(key=b"k", session=b"\xff\xff"), "session"),
    "token of nonsense with a range": (Range(session=b"\xff\xff"), "session"),
    "end at start": (Range(start=b"b", end=b"b"), "end"),
    "end below start": (Range(start=b"b", end=b"a"), "end"),
    "text end below start": (Range(start_text="b", end_text="a"), "end"),
    "long prefix": (Range(prefix=bytes(limits.KEY_SIZE_BYTES_MAX + 2)), "prefix"),
    "prefix and text": (Range(prefix=b"a", prefix_text="a"), "prefix_text"),
    "large page": (Range(limit=limits.RANGE_LIMIT_MAX + 1), "limit"),
    "long page token": (Range(page_token=LONG_KEY), "page_token"),
    "unknown shard": (Range(shard=8), "shard"),
    "large batch": (
        kv_pb2.BatchRequest(operations=[kv_pb2.BatchOperation()] * (limits.BATCH_OPERATIONS_MAX + 1)),
        "operations",
    ),
    "heavy batch": (
        kv_pb2.BatchRequest(
            operations=[kv_pb2.BatchOperation(put=Put(key=b"k", value=bytes(limits.VALUE_SIZE_BYTES_MAX)))] * 5
        ),
        "operations",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_request_at_the_door_is_refused_by_its_field(case: str) -> None:
    """Definite, with the field's name, and a text that says what to do."""
    request, field = BAD[case]
    with pytest.raises(InvalidRequest) as error:
        check(request)
    assert (error.value.field, error.value.definite) == (field, True)
    assert error.value.message.startswith(f"{field}: ")


GOOD = [
    Put(key=b"k"),
    Put(key=bytes(limits.KEY_SIZE_BYTES_MAX), value=bytes(limits.VALUE_SIZE_BYTES_MAX), if_revision=0),
    Put(key=b"\0", consistency=EVENTUAL, acks=limits.ACKS_MAX),
    Delete(key=b"k", if_revision=1),
    Get(key=b"k", consistency=BOUNDED, max_staleness_ms=1),
    Get(key=b"k", consistency=SESSION, session=kv_pb2.SessionToken().SerializeToString()),
    Range(),
    Range(prefix=LONG_KEY, limit=limits.RANGE_LIMIT_MAX, shard=7),
    Range(start=b"a", end=b"b", page_token=b"a"),
    kv_pb2.BatchRequest(),
]


@pytest.mark.parametrize("request_", GOOD, ids=lambda request: type(request).__name__)
def test_good_request_at_the_door_is_taken(request_: Any) -> None:
    """Bounds are inclusive."""
    check(request_)


def test_text_fields_checked_become_bytes() -> None:
    """Behind the door there is one key, one value, one level."""
    request = Put(key_text="schlüssel", value_text="wert")
    convert.check_put(request)
    assert (request.key, request.value, request.key_text, request.value_text) == ("schlüssel".encode(), b"wert", "", "")
    assert request.consistency == STRONG
    ranged = Range(prefix_text="a", start_text="ab", end_text="b")
    convert.check_range(ranged, 8)
    assert (ranged.prefix, ranged.start, ranged.end) == (b"a", b"ab", b"b")


def test_text_shown_of_undecodable_bytes_is_replaced() -> None:
    """For people; the bytes are there too."""
    response = kv_pb2.GetResponse(value=b"\xffv")
    convert.show_text(response, b"k\xfe")
    assert (response.key_text, response.value_text) == ("k\ufffd", "\ufffdv")
