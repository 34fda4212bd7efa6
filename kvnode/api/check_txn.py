"""Checks transactions at the door and translates their text fields, as `convert` does for single operations."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.api import convert
from kvnode.errors import InvalidRequest

_UNUSED = (
    "consistency",
    "if_revision",
    "acks",
    "session",
    "request",
    "max_staleness_ms",
    "start",
    "end",
    "page_token",
    "shard",
)
"""Fields of single operations that a transaction decides by itself."""


def check_txn(request: kv_pb2.TxnRequest) -> None:
    """Raises `InvalidRequest`; afterwards all keys and values are bytes."""
    count = len(request.compare) + len(request.then) + len(request.otherwise)
    if not count:
        raise InvalidRequest("then", "the transaction is empty; give it a comparison or an operation")
    if count > limits.TRANSACTION_OPERATIONS_MAX:
        raise InvalidRequest(
            "then", f"{count} comparisons and operations, at most {limits.TRANSACTION_OPERATIONS_MAX} make a transaction"
        )
    if request.ByteSize() > limits.REQUEST_SIZE_BYTES_MAX:
        raise InvalidRequest("then", f"{request.ByteSize()} bytes, a request has at most {limits.REQUEST_SIZE_BYTES_MAX}")
    for _ in check_operations(request.compare, request.then, request.otherwise):
        pass
    convert.check_request_id(request, "request")
    convert.check_session(request)


def check_operations(
    compares: Iterable[kv_pb2.Compare],
    then: Iterable[kv_pb2.BatchOperation],
    otherwise: Iterable[kv_pb2.BatchOperation],
) -> Iterator[tuple[str, bytes]]:
    """Yields path and key of everything that has one key, checked. Raises `InvalidRequest`."""
    for number, compare in enumerate(compares):
        _check_compare(f"compare[{number}]", compare)
        yield f"compare[{number}].key", compare.key
    for name, operations in (("then", then), ("else", otherwise)):
        written: dict[bytes, None] = {}
        for number, operation in enumerate(operations):
            path = f"{name}[{number}]"
            key = _check_operation(path, operation)
            writes = key is not None and operation.WhichOneof("operation") != "get"
            if writes and key in written:
                raise InvalidRequest(path, f"key {key!r} is written twice in one branch; write it once")
            if key is not None:
                if writes:
                    written[key] = None
                yield f"{path}.key", key


def _check_compare(path: str, compare: kv_pb2.Compare) -> None:
    if compare.WhichOneof("operand") is None:
        raise InvalidRequest(path, "it compares with nothing; give value, revision or exists")
    if compare.operator not in kv_pb2.CompareOperator.values():
        raise InvalidRequest(f"{path}.operator", f"{compare.operator} is none")
    with inside(path):
        convert.take_text(compare, "key", "key_text")
        if compare.WhichOneof("operand") == "value_text":
            compare.value = compare.value_text.encode()
        convert.check_key(compare.key)
        convert.check_value(compare.value)
    ordered = compare.operator in (kv_pb2.COMPARE_OPERATOR_GREATER, kv_pb2.COMPARE_OPERATOR_LESS)
    if ordered and compare.WhichOneof("operand") == "exists":
        raise InvalidRequest(f"{path}.operator", "a key exists or does not; only equal and not equal compare that")


def _check_operation(path: str, operation: kv_pb2.BatchOperation) -> bytes | None:
    """The key that it reads or writes, if it is one."""
    which = operation.WhichOneof("operation")
    if which is None:
        raise InvalidRequest(path, "it is empty; a transaction takes put, get, delete and range")
    one: Any = getattr(operation, which)
    for name in _UNUSED:
        field = one.DESCRIPTOR.fields_by_name.get(name)
        is_set = field is not None and (one.HasField(name) if field.has_presence else bool(getattr(one, name)))
        strong = name == "consistency" and one.consistency == kv_pb2.CONSISTENCY_STRONG
        if is_set and not strong:
            raise InvalidRequest(f"{path}.{which}.{name}", "is for single operations; a transaction decides it by itself")
    with inside(f"{path}.{which}"):
        if which == "range":
            _check_range(one)
            return None
        convert.take_text(one, "key", "key_text")
        convert.check_key(one.key)
        if which == "put":
            convert.take_text(one, "value", "value_text")
            convert.check_value(one.value)
    return bytes(one.key)


def _check_range(request: kv_pb2.RangeRequest) -> None:
    convert.take_text(request, "prefix", "prefix_text")
    if not request.prefix:
        raise InvalidRequest("prefix", "empty; a range of a transaction is that of one prefix")
    for name in ("count_only", "start_text", "end_text"):
        if getattr(request, name):
            raise InvalidRequest(name, "a range of a transaction has a prefix, a limit and keys_only, and nothing else")
    convert.check_range_limits(request)


class inside:
    """Puts the path of a part in front of the fields of its errors."""

    def __init__(self, path: str) -> None:
        self._path = path

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, InvalidRequest):
            raise InvalidRequest(f"{self._path}.{error.field}", error.description) from None


def show_text(request: kv_pb2.TxnRequest, response: kv_pb2.TxnResponse) -> None:
    """Adds keys and values as text to what was read."""
    for operation, result in zip(request.then if response.succeeded else request.otherwise, response.results, strict=False):
        if result.WhichOneof("result") == "get":
            convert.show_text(result.get, operation.get.key)
        for item in result.range.items if result.WhichOneof("result") == "range" else ():
            convert.show_text(item, item.key)
