"""What transactions are made of: comparisons, and the operations of their branches.

    Key("stock/1").value == "3", Key("stock/1").revision > 7, Key("a").exists(), Key("a").absent()
    Put("stock/1", "2"), Get("stock/1"), Delete("a"), Range(prefix="stock/")

Owns their checks, which are made when they are made, and their encoding. Never sends. All are immutable and can be used in any
number of transactions.

Invariant: a comparison is never taken for a truth value: what it says is known only inside its transaction.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, NoReturn, TypeVar

from kvapi.v1 import kv_pb2
from kvclient._requests import invalid, key_bytes, range_call, revision_of, value_bytes
from kvclient.types import Bytes, Consistency

T = TypeVar("T")

_OPERATORS = {
    "==": kv_pb2.COMPARE_OPERATOR_EQUAL,
    "!=": kv_pb2.COMPARE_OPERATOR_NOT_EQUAL,
    ">": kv_pb2.COMPARE_OPERATOR_GREATER,
    "<": kv_pb2.COMPARE_OPERATOR_LESS,
}


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition on one key. Made by `Key`."""

    key: bytes
    subject: str
    """ "value", "revision" or "exists"."""
    operator: str
    """ "==", "!=", "<" or ">"."""
    operand: bytes | int

    def encoded(self) -> kv_pb2.Compare:
        """As the protocol has it."""
        compare = kv_pb2.Compare(key=self.key, operator=_OPERATORS[self.operator])
        setattr(compare, self.subject, self.operand)
        return compare

    def __bool__(self) -> NoReturn:
        raise invalid(
            "compare",
            "is neither true nor false before its transaction runs; give each comparison to if_() by itself, without and, or, "
            "not, in, or a chain as in a == b == c",
        )


class Key:
    """A key to compare: `Key("a").value == "1"`, `Key("a").revision == 7`, `Key("a").exists()`, `Key("a").absent()`.

    Values (bytes, or str, which is UTF-8) are compared byte by byte. An absent key's value is unequal to any, neither less nor
    greater; its revision is 0. All of it raises `InvalidArgument` for what cannot be compared.
    """

    __slots__ = ("_key",)

    def __init__(self, key: Bytes) -> None:
        self._key = key_bytes(key)

    @property
    def value(self) -> ValueOf:
        """What it holds."""
        return ValueOf(self._key)

    @property
    def revision(self) -> RevisionOf:
        """The log index of its last write; 0: it does not exist."""
        return RevisionOf(self._key)

    def exists(self) -> Compare:
        """It has a value."""
        return Compare(self._key, "exists", "==", True)

    def absent(self) -> Compare:
        """It has none."""
        return Compare(self._key, "exists", "==", False)

    def __repr__(self) -> str:
        return f"Key({self._key!r})"


class _Operand(Generic[T]):
    """The left side of a comparison."""

    __slots__ = ("_key",)
    __hash__ = None  # type: ignore[assignment]

    def __init__(self, key: bytes) -> None:
        self._key = key

    def _compare(self, operator: str, operand: T) -> Compare:
        raise NotImplementedError

    def __eq__(self, other: T) -> Compare:  # type: ignore[override]
        return self._compare("==", other)

    def __ne__(self, other: T) -> Compare:  # type: ignore[override]
        return self._compare("!=", other)

    def __lt__(self, other: T) -> Compare:
        return self._compare("<", other)

    def __gt__(self, other: T) -> Compare:
        return self._compare(">", other)

    def __le__(self, other: object) -> NoReturn:
        raise invalid("compare", "knows ==, !=, < and >; neither <= nor >=")

    __ge__ = __le__

    def __bool__(self) -> NoReturn:
        raise invalid("compare", "has no right side: write Key(...).value == ..., Key(...).exists(), or Key(...).absent()")


class ValueOf(_Operand[Bytes]):
    """A key's value, to be compared with bytes or str."""

    __slots__ = ()

    def _compare(self, operator: str, operand: Bytes) -> Compare:
        return Compare(self._key, "value", operator, value_bytes(operand))


class RevisionOf(_Operand[int]):
    """A key's revision, to be compared with an int."""

    __slots__ = ()

    def _compare(self, operator: str, operand: int) -> Compare:
        return Compare(self._key, "revision", operator, revision_of("revision", operand))


@dataclass(frozen=True, slots=True, init=False)
class Put:
    """Write a key."""

    key: bytes
    value: bytes

    def __init__(self, key: Bytes, value: Bytes) -> None:
        _set(self, key=key_bytes(key), value=value_bytes(value))

    def encoded(self) -> kv_pb2.BatchOperation:
        """As the protocol has it."""
        return kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=self.key, value=self.value))


@dataclass(frozen=True, slots=True, init=False)
class Get:
    """Read a key, as it is before the transaction's writes."""

    key: bytes

    def __init__(self, key: Bytes) -> None:
        _set(self, key=key_bytes(key))

    def encoded(self) -> kv_pb2.BatchOperation:
        """As the protocol has it."""
        return kv_pb2.BatchOperation(get=kv_pb2.GetRequest(key=self.key))


@dataclass(frozen=True, slots=True, init=False)
class Delete:
    """Delete a key; that it does not exist is no error."""

    key: bytes

    def __init__(self, key: Bytes) -> None:
        _set(self, key=key_bytes(key))

    def encoded(self) -> kv_pb2.BatchOperation:
        """As the protocol has it."""
        return kv_pb2.BatchOperation(delete=kv_pb2.DeleteRequest(key=self.key))


@dataclass(frozen=True, slots=True, init=False)
class Range:
    """Read the first keys with `prefix`, as they are before the transaction's writes: one page, at most `limit` (to 1,000)."""

    prefix: bytes
    limit: int
    """0: 100."""
    keys_only: bool

    def __init__(self, *, prefix: Bytes, limit: int = 0, keys_only: bool = False) -> None:
        if prefix is None:
            raise invalid("prefix", "is missing; all keys have the prefix b''")
        request = range_call(prefix, None, None, Consistency.STRONG, None, limit=limit, keys_only=keys_only).request
        _set(self, prefix=request.prefix, limit=limit, keys_only=keys_only)

    def encoded(self) -> kv_pb2.BatchOperation:
        """As the protocol has it."""
        request = kv_pb2.RangeRequest(prefix=self.prefix, limit=self.limit, keys_only=self.keys_only)
        return kv_pb2.BatchOperation(range=request)


Operation = Put | Get | Delete | Range


def checked_compares(compares: tuple[Compare, ...]) -> tuple[Compare, ...]:
    """What was given to `if_`. Raises `InvalidArgument`."""
    for compare in compares:
        if not isinstance(compare, Compare):
            raise invalid(
                "compare", f"is {type(compare).__name__}; give comparisons, as Key('k').value == 'v' or Key('k').exists()"
            )
    return compares


def checked_operations(branch: str, operations: tuple[Operation, ...]) -> tuple[Operation, ...]:
    """What was given to `then` or `else_`. Raises `InvalidArgument`."""
    for operation in operations:
        if not isinstance(operation, (Put, Get, Delete, Range)):
            hint = " one by one, or with *" if isinstance(operation, (list, tuple)) else ""
            raise invalid(branch, f"has a {type(operation).__name__}; give kvclient.Put, Get, Delete or Range{hint}")
    return operations


def _set(target: object, **fields: object) -> None:
    """Set the fields of something frozen that is being made."""
    for name, value in fields.items():
        object.__setattr__(target, name, value)
