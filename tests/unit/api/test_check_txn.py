"""What is refused of a transaction, and of a request's name, at the door: rule by rule, with the field's path."""

from __future__ import annotations

from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.api import convert
from kvnode.api.check_txn import check_txn, show_text
from kvnode.errors import InvalidRequest

Compare, Operation, Txn, RequestId = kv_pb2.Compare, kv_pb2.BatchOperation, kv_pb2.TxnRequest, kv_pb2.RequestId
Put, Get, Delete, Range = kv_pb2.PutRequest, kv_pb2.GetRequest, kv_pb2.DeleteRequest, kv_pb2.RangeRequest
STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
GREATER, LESS = kv_pb2.COMPARE_OPERATOR_GREATER, kv_pb2.COMPARE_OPERATOR_LESS
NAME = RequestId(session=bytes(16), sequence=2, acknowledged=1)
LONG_KEY, LARGE_VALUE = bytes(limits.KEY_SIZE_BYTES_MAX + 1), bytes(limits.VALUE_SIZE_BYTES_MAX + 1)


def put(**fields: Any) -> Operation:
    """An operation of key "k", unless they say otherwise."""
    return Operation(put=Put(**({"key": b"k"} | fields)))


def get(**fields: Any) -> Operation:
    """An operation."""
    return Operation(get=Get(**({"key": b"k"} | fields)))


def delete(**fields: Any) -> Operation:
    """An operation."""
    return Operation(delete=Delete(**({"key": b"k"} | fields)))


def ranged(**fields: Any) -> Operation:
    """An operation of prefix "p", unless they say otherwise."""
    return Operation(range=Range(**({"prefix": b"p"} | fields)))


def txn(*then: Operation, **fields: Any) -> Txn:
    """A request."""
    return Txn(then=then, **fields)


BAD: dict[str, tuple[Txn, str]] = {
    "empty": (Txn(), "then"),
    "empty but for a name": (Txn(request=NAME), "then"),
    "too many operations": (txn(*[get()] * (limits.TRANSACTION_OPERATIONS_MAX + 1)), "then"),
    "too many in all": (
        txn(*[get()] * 43, otherwise=[get()] * 43, compare=[Compare(key=b"k", revision=0)] * 43),
        "then",
    ),
    "too large": (txn(*[put(key=b"%d" % n, value=bytes(limits.VALUE_SIZE_BYTES_MAX)) for n in range(5)]), "then"),
    # comparisons
    "compare with nothing": (txn(compare=[Compare(key=b"k")]), "compare[0]"),
    "second compare with nothing": (txn(compare=[Compare(key=b"k", exists=True), Compare(key=b"k")]), "compare[1]"),
    "compare without a key": (txn(compare=[Compare(exists=True)]), "compare[0].key"),
    "compare of a long key": (txn(compare=[Compare(key=LONG_KEY, exists=True)]), "compare[0].key"),
    "compare with key and text": (txn(compare=[Compare(key=b"k", key_text="k", exists=True)]), "compare[0].key_text"),
    "compare with a large value": (txn(compare=[Compare(key=b"k", value=LARGE_VALUE)]), "compare[0].value"),
    "compare with a large text": (
        txn(compare=[Compare(key=b"k", value_text="v" * (limits.VALUE_SIZE_BYTES_MAX + 1))]),
        "compare[0].value",
    ),
    "unknown operator": (txn(compare=[Compare(key=b"k", revision=1, operator=99)]), "compare[0].operator"),  # type: ignore[arg-type]
    "existence above": (txn(compare=[Compare(key=b"k", exists=True, operator=GREATER)]), "compare[0].operator"),
    "existence below": (txn(compare=[Compare(key=b"k", exists=False, operator=LESS)]), "compare[0].operator"),
    # operations
    "operation of nothing": (txn(Operation()), "then[0]"),
    "second operation of nothing": (txn(get(), Operation()), "then[1]"),
    "operation of nothing else": (txn(get(), otherwise=[Operation()]), "else[0]"),
    "put without a key": (txn(put(key=b"")), "then[0].put.key"),
    "get without a key": (txn(get(key=b"")), "then[0].get.key"),
    "delete without a key": (txn(otherwise=[delete(key=b"")]), "else[0].delete.key"),
    "put of a long key": (txn(put(key=LONG_KEY)), "then[0].put.key"),
    "put of key and text": (txn(put(key_text="k")), "then[0].put.key_text"),
    "put of value and text": (txn(put(value=b"v", value_text="v")), "then[0].put.value_text"),
    "put of a large value": (txn(put(value=LARGE_VALUE)), "then[0].put.value"),
    "range without a prefix": (txn(ranged(prefix=b"")), "then[0].range.prefix"),
    "range of a long prefix": (txn(ranged(prefix=bytes(limits.KEY_SIZE_BYTES_MAX + 2))), "then[0].range.prefix"),
    "range of prefix and text": (txn(ranged(prefix_text="p")), "then[0].range.prefix_text"),
    "range of a large page": (txn(ranged(limit=limits.RANGE_LIMIT_MAX + 1)), "then[0].range.limit"),
    "range that counts": (txn(ranged(count_only=True)), "then[0].range.count_only"),
    "written twice": (txn(put(), get(), put()), "then[2]"),
    "written and deleted": (txn(otherwise=[put(), delete()]), "else[1]"),
    "written twice by text": (txn(put(key=b"", key_text="k"), delete()), "then[1]"),
    # what the transaction decides
    "consistency": (txn(get(consistency=EVENTUAL)), "then[0].get.consistency"),
    "consistency of a put": (txn(put(consistency=EVENTUAL)), "then[0].put.consistency"),
    "if_revision of a put": (txn(put(if_revision=0)), "then[0].put.if_revision"),
    "if_revision of a delete": (txn(delete(if_revision=3)), "then[0].delete.if_revision"),
    "acks": (txn(put(acks=1)), "then[0].put.acks"),
    "session of a put": (txn(put(session=b"s")), "then[0].put.session"),
    "session of a range": (txn(ranged(session=b"s")), "then[0].range.session"),
    "name of a put": (txn(put(request=NAME)), "then[0].put.request"),
    "name of a delete": (txn(otherwise=[delete(request=RequestId())]), "else[0].delete.request"),
    "staleness": (txn(get(max_staleness_ms=1)), "then[0].get.max_staleness_ms"),
    "start": (txn(ranged(start=b"p1")), "then[0].range.start"),
    "end": (txn(ranged(end=b"p2")), "then[0].range.end"),
    "page token": (txn(ranged(page_token=b"p2")), "then[0].range.page_token"),
    "shard": (txn(ranged(shard=0)), "then[0].range.shard"),
    # the whole
    "token of nonsense": (txn(get(), session=b"\xff\xff"), "session"),
    "name without a session": (txn(put(), request=RequestId(sequence=1)), "request.session"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_transaction_at_the_door_is_refused_by_its_path(case: str) -> None:
    """Definite, with the path to the field, and a text that says what to do."""
    request, field = BAD[case]
    with pytest.raises(InvalidRequest) as error:
        check_txn(request)
    assert (error.value.field, error.value.definite) == (field, True)
    assert error.value.message.startswith(f"{field}: ")


@pytest.mark.parametrize("bound", ["start_text", "end_text"])
def test_range_with_bounds_in_a_transaction_is_refused(bound: str) -> None:
    """As text, too, and by the field that was set."""
    with pytest.raises(InvalidRequest) as error:
        check_txn(txn(ranged(**{bound: "p1"})))
    assert error.value.field == f"then[0].range.{bound}"


GOOD = {
    "as many as there may be": txn(*[get()] * limits.TRANSACTION_OPERATIONS_MAX),
    "a comparison alone": txn(compare=[Compare(key=b"k", value=b"")]),
    "the same key in both branches": txn(put(), otherwise=[delete()]),
    "a key that is read and written": txn(get(), put(), get(), compare=[Compare(key=b"k", revision=0)]),
    "strong operations": txn(get(consistency=STRONG), put(key=b"a", consistency=STRONG)),
    "a large page of keys": txn(ranged(limit=limits.RANGE_LIMIT_MAX, keys_only=True)),
    "a name and a session": txn(put(), request=NAME, session=kv_pb2.SessionToken().SerializeToString()),
    "values in order": txn(
        compare=[Compare(key=b"k", value=b"v", operator=GREATER), Compare(key=b"k", revision=1, operator=LESS)]
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_good_transaction_at_the_door_is_taken(case: str) -> None:
    """Bounds are inclusive."""
    check_txn(GOOD[case])


def test_text_fields_of_a_transaction_checked_become_bytes() -> None:
    """Behind the door there are only bytes, in comparisons and in both branches."""
    request = txn(
        Operation(put=Put(key_text="ä", value_text="1")),
        Operation(range=Range(prefix_text="p")),
        compare=[Compare(key_text="c", value_text="ö"), Compare(key_text="d", value_text="")],
        otherwise=[Operation(get=Get(key_text="g")), Operation(delete=Delete(key_text="h"))],
    )
    check_txn(request)
    assert request == txn(
        Operation(put=Put(key="ä".encode(), value=b"1")),
        Operation(range=Range(prefix=b"p")),
        compare=[Compare(key=b"c", value="ö".encode()), Compare(key=b"d", value=b"")],
        otherwise=[Operation(get=Get(key=b"g")), Operation(delete=Delete(key=b"h"))],
    )


def test_text_shown_in_a_transactions_answer_is_that_of_its_reads() -> None:
    """Of the branch that was taken."""
    request = txn(put(), otherwise=[get(key=b"g"), ranged(), put()])
    items = [kv_pb2.KeyValue(key=b"p1", value=b"\xff")]
    results = [
        kv_pb2.BatchResult(get=kv_pb2.GetResponse(value=b"v")),
        kv_pb2.BatchResult(range=kv_pb2.RangeResponse(items=items)),
        kv_pb2.BatchResult(put=kv_pb2.PutResponse(revision=3)),
    ]
    response = kv_pb2.TxnResponse(succeeded=False, results=results)
    show_text(request, response)
    assert (response.results[0].get.key_text, response.results[0].get.value_text) == ("g", "v")
    assert [(item.key_text, item.value_text) for item in response.results[1].range.items] == [("p1", "\ufffd")]
    assert response.results[2] == results[2]


# ---- the names of requests ------------------------------------------------------------------------------------------

BAD_NAMES = {
    "none of it": (RequestId(), "request.session"),
    "a short session": (RequestId(session=bytes(15), sequence=1), "request.session"),
    "a long session": (RequestId(session=bytes(17), sequence=1), "request.session"),
    "no sequence": (RequestId(session=bytes(16)), "request.acknowledged"),
    "itself acknowledged": (RequestId(session=bytes(16), sequence=3, acknowledged=3), "request.acknowledged"),
    "later ones acknowledged": (RequestId(session=bytes(16), sequence=3, acknowledged=4), "request.acknowledged"),
}


@pytest.mark.parametrize("case", BAD_NAMES)
@pytest.mark.parametrize("kind", ["put", "delete", "txn"])
def test_name_of_a_request_that_names_nothing_is_refused(case: str, kind: str) -> None:
    """Else two clients could share a session, or a result be forgotten before it is known."""
    name, field = BAD_NAMES[case]
    check = {
        "put": lambda: convert.check_put(Put(key=b"k", request=name)),
        "delete": lambda: convert.check_delete(Delete(key=b"k", request=name)),
        "txn": lambda: check_txn(txn(put(), request=name)),
    }
    with pytest.raises(InvalidRequest) as error:
        check[kind]()
    assert error.value.field == field


def test_name_of_an_eventual_write_is_refused() -> None:
    """Only strong writes execute once by name."""
    for request, check in (
        (Put(key=b"k", consistency=EVENTUAL, request=NAME), convert.check_put),
        (Delete(key=b"k", consistency=EVENTUAL, request=NAME), convert.check_delete),
    ):
        with pytest.raises(InvalidRequest) as error:
            check(request)  # type: ignore[operator]
        assert error.value.field == "request"


def test_name_of_a_strong_write_is_taken() -> None:
    """The first request of a client, with nothing acknowledged; whatever its clock says."""
    name = RequestId(session=bytes(16), sequence=1, started=0)
    convert.check_put(Put(key=b"k", request=name, if_revision=0))
    convert.check_delete(Delete(key=b"k", request=name))
    check_txn(txn(get(), request=name))
