"""What a transaction's part means for one shard: its locks, its writes, whether its comparisons hold, what its reads see.

Pure functions over the shard's state. All reads see the state before the transaction's writes. A part's work is bounded: so
many bytes of results, so many rows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Protocol

import xxhash

from kvapi.v1 import kv_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest
from kvnode.protocol.two_phase_commit.locks import Interval, Locks
from kvnode.shard.version import Version
from kvnode.types import Index

Operations = Iterable[kv_pb2.BatchOperation]
Results = list[kv_pb2.BatchResult]


class State(Protocol):
    """What is evaluated against; the state machine is one."""

    horizon: Index

    def version(self, key: bytes) -> Version | None: ...
    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Version]]: ...


def prefix_interval(prefix: bytes) -> Interval:
    """The keys that begin with the prefix."""
    stripped = prefix.rstrip(b"\xff")
    return Interval(prefix, stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None)


def writes_of(operations: Operations) -> Iterator[tuple[bytes, bytes | None]]:
    """Keys and new values, None for a deletion."""
    for operation in operations:
        which = operation.WhichOneof("operation")
        if which == "put":
            yield operation.put.key, operation.put.value
        elif which == "delete":
            yield operation.delete.key, None


def locks_of(part: two_phase_commit_pb2.TransactionPart) -> Locks:
    """What the part needs, whichever branch is taken."""
    writes: dict[bytes, None] = {}
    reads: dict[bytes, None] = {compare.key: None for compare in part.compare}
    ranges: dict[Interval, None] = {}
    for operations in (part.then, part.otherwise):
        for operation in operations:
            which = operation.WhichOneof("operation")
            if which == "get":
                reads[operation.get.key] = None
            elif which == "range":
                ranges[prefix_interval(operation.range.prefix)] = None
        writes.update(dict.fromkeys(key for key, _ in writes_of(operations)))
    return Locks(tuple(writes), tuple(key for key in reads if key not in writes), tuple(ranges))


class Reading:
    """One part's reads of one state, and what they rest on."""

    def __init__(self, state: State) -> None:
        self._state = state
        self._rows_left = limits.RANGE_ROWS_SCANNED_MAX
        self._digest = xxhash.xxh3_64()
        self.newest: Index = 0
        """The latest place of any version that was looked at; of what is not remembered, the collection that forgot it."""

    @property
    def fingerprint(self) -> int:
        """Hash over everything that was looked at, with its place: equal as long as none of it changes."""
        return self._digest.intdigest()

    def _look(self, key: bytes, version: Version | None) -> None:
        # (An absent key may have been written and deleted, and that collected, without leaving more than a new horizon.)
        place = version.place if version is not None else self._state.horizon
        self.newest = max(self.newest, place)
        self._digest.update(b"%d %d " % (len(key), place) + key)

    def _version(self, key: bytes) -> Version | None:
        version = self._state.version(key)
        self._look(key, version)
        return version

    def matches(self, compares: Iterable[kv_pb2.Compare]) -> bool:
        """Whether all hold."""
        held = [_holds(compare, self._version(compare.key)) for compare in compares]
        return all(held)

    def results(self, operations: Operations, revision: Index) -> Results:
        """What the operations answer, should they take effect as `revision`. Raises `InvalidRequest` where that is too much."""
        results: Results = []
        size = 0
        for operation in operations:
            which = operation.WhichOneof("operation")
            if which == "put":
                result = kv_pb2.BatchResult(put=kv_pb2.PutResponse(revision=revision))
            elif which == "delete":
                version = self._version(operation.delete.key)
                found = version is not None and version.value is not None
                result = kv_pb2.BatchResult(delete=kv_pb2.DeleteResponse(found=found, revision=revision))
            elif which == "get":
                result = kv_pb2.BatchResult(get=get_response(self._version(operation.get.key)))
            else:
                result = kv_pb2.BatchResult(range=self._range(operation.range))
            size += result.ByteSize()
            if size > limits.TRANSACTION_RESULTS_SIZE_BYTES_MAX:
                raise InvalidRequest(
                    "then",
                    f"its reads return more than {limits.TRANSACTION_RESULTS_SIZE_BYTES_MAX} bytes from one shard; read less",
                )
            results.append(result)
        return results

    def _range(self, request: kv_pb2.RangeRequest) -> kv_pb2.RangeResponse:
        response = kv_pb2.RangeResponse()
        limit = request.limit or limits.RANGE_LIMIT_DEFAULT
        size = 0
        last = b""
        self._look(request.prefix, None)
        for key, version in self._state.scan(*prefix_interval(request.prefix)):
            value = version.value if version.value is not None and not request.keys_only else b""
            # (Half of what the part may return: the page ends before it is too much by itself.)
            large = size > 0 and 2 * (size + len(key) + len(value)) > limits.TRANSACTION_RESULTS_SIZE_BYTES_MAX
            if len(response.items) == limit or large or not self._rows_left:
                if not last:
                    raise InvalidRequest(
                        "then",
                        f"its ranges look at more than {limits.RANGE_ROWS_SCANNED_MAX} rows of one shard, deleted ones too; "
                        "read fewer at once",
                    )
                response.next_page_token = last
                break
            last = key
            self._rows_left -= 1
            self._look(key, version)
            if version.value is not None:
                size += len(key) + len(value)
                response.items.add(
                    key=key,
                    value=value,
                    revision=version.revision,
                    create_revision=version.create_revision,
                    version=version.version,
                    hlc=version.hlc,
                )
        response.count = len(response.items)
        return response


def _holds(compare: kv_pb2.Compare, version: Version | None) -> bool:
    exists = version is not None and version.value is not None
    operand, operator = compare.WhichOneof("operand"), compare.operator
    equal = operator in (kv_pb2.COMPARE_OPERATOR_UNSPECIFIED, kv_pb2.COMPARE_OPERATOR_EQUAL)
    actual: bytes | int
    expected: bytes | int
    if operand == "exists":
        return (exists == compare.exists) is equal
    if operand == "revision":
        actual, expected = version.revision if version is not None and exists else 0, compare.revision
    else:
        if version is None or version.value is None:
            return operator == kv_pb2.COMPARE_OPERATOR_NOT_EQUAL
        actual, expected = version.value, compare.value
    if equal:
        return actual == expected
    if operator == kv_pb2.COMPARE_OPERATOR_NOT_EQUAL:
        return actual != expected
    # (Both are bytes, or both are numbers.)
    greater: bool = actual > expected  # type: ignore[operator]
    return greater if operator == kv_pb2.COMPARE_OPERATOR_GREATER else not greater and actual != expected


def get_response(version: Version | None) -> kv_pb2.GetResponse:
    """A version as a get shows it."""
    if version is None or version.value is None:
        return kv_pb2.GetResponse(found=False)
    return kv_pb2.GetResponse(
        found=True,
        value=version.value,
        revision=version.revision,
        create_revision=version.create_revision,
        version=version.version,
        hlc=version.hlc,
    )
