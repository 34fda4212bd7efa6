"""Comparisons and operations: what they encode, and that misuse does not pass silently."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from kvclient import Compare, Delete, Get, Key, Put, Range, errors


@pytest.mark.parametrize(
    ("compare", "encoded"),
    [
        (Key("a").value == "3", kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_EQUAL, value=b"3")),
        (Key(b"\xff").value != b"", kv_pb2.Compare(key=b"\xff", operator=kv_pb2.COMPARE_OPERATOR_NOT_EQUAL, value=b"")),
        (Key("a").value < "\u00fc", kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_LESS, value=b"\xc3\xbc")),
        (Key("a").value > "3", kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_GREATER, value=b"3")),
        ("3" < Key("a").value, kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_GREATER, value=b"3")),  # noqa: SIM300
        (Key("a").revision == 0, kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_EQUAL, revision=0)),
        (Key("a").revision < 2**64 - 1, kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_LESS, revision=2**64 - 1)),
        (Key("a").exists(), kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_EQUAL, exists=True)),
        (Key("a").absent(), kv_pb2.Compare(key=b"a", operator=kv_pb2.COMPARE_OPERATOR_EQUAL, exists=False)),
    ],
    ids=repr,
)
def test_compare_each_expression_encodes_what_it_says(compare: Compare, encoded: kv_pb2.Compare) -> None:
    """Key, operator, and operand of the right kind, 0 and empty ones too."""
    assert compare.encoded() == encoded
    assert compare.encoded().WhichOneof("operand") is not None


@pytest.mark.parametrize(
    ("misuse", "field"),
    [
        (lambda: bool(Key("a").exists()), "compare"),
        (lambda: Key("a").exists() and Key("b").exists(), "compare"),
        (lambda: not Key("a").exists(), "compare"),
        (lambda: 1 < Key("a").revision < 7, "compare"),
        (lambda: Key("a").value == "1" == "2", "compare"),
        (lambda: bool(Key("a").value), "compare"),
        (lambda: Key("a").value <= "1", "compare"),
        (lambda: Key("a").revision >= 1, "compare"),
        (lambda: Key("a").value == None, "value"),  # noqa: E711
        (lambda: Key("a").value == Key("b").value, "value"),
        (lambda: Key("a").revision == "7", "revision"),
        (lambda: Key("a").revision == -1, "revision"),
        (lambda: Key("a").revision == True, "revision"),  # noqa: E712
        (lambda: Key(""), "key"),
        (lambda: Put("", "v"), "key"),
        (lambda: Put("k", None), "value"),  # type: ignore[arg-type]
        (lambda: Get("k" * 401), "key"),
        (lambda: Delete(7), "key"),  # type: ignore[arg-type]
        (lambda: Range(prefix=None), "prefix"),  # type: ignore[arg-type]
        (lambda: Range(prefix="p", limit=1_001), "limit"),
        (lambda: Range(prefix="p", keys_only="yes"), "keys_only"),  # type: ignore[arg-type]
    ],
)
def test_expression_misuse_is_an_invalid_argument_at_once(misuse: Callable[[], Any], field: str) -> None:
    """What would be a silent True, or an error of the server later, is an error where it is written."""
    with pytest.raises(errors.InvalidArgument) as caught:
        misuse()
    assert caught.value.field == field


def test_operations_encode_only_what_the_transaction_does_not_decide() -> None:
    """No consistency, revision or acks in them; text is UTF-8; the same operation encodes the same again."""
    put = Put("k", "\u00fc")
    assert put.encoded() == kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=b"k", value=b"\xc3\xbc"))
    assert put == Put(b"k", b"\xc3\xbc")
    assert Get("k").encoded() == kv_pb2.BatchOperation(get=kv_pb2.GetRequest(key=b"k"))
    assert Delete("k").encoded() == kv_pb2.BatchOperation(delete=kv_pb2.DeleteRequest(key=b"k"))
    ranged = Range(prefix="p", limit=3, keys_only=True)
    assert ranged.encoded() == kv_pb2.BatchOperation(range=kv_pb2.RangeRequest(prefix=b"p", limit=3, keys_only=True))
    assert Range(prefix="").prefix == b""


def test_operations_and_comparisons_cannot_be_changed() -> None:
    """They can be shared between transactions."""
    for one in (Put("k", "v"), Get("k"), Delete("k"), Key("k").exists()):
        with pytest.raises(AttributeError):
            one.key = b"other"
    with pytest.raises(AttributeError):
        Range(prefix="p").prefix = b"other"  # type: ignore[misc]
