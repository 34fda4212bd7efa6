"""The fake cluster's transactions, and its memory of requests that execute once.

What it keeps of the real thing: one state for all reads of a transaction, one branch, the anchor's shard as the one that
remembers, and the rules of "Exactly once" in docs/protocols/two_phase_commit.md. What it leaves out: locks and their waits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import grpc

from kvapi.v1 import kv_pb2
from kvclient.hashing import anchor_key, shard_of
from tests.unit.kvclient.refusals import Refusal

if TYPE_CHECKING:
    from tests.unit.kvclient.fake_cluster import FakeNode, Record


class ClientSessions:
    """What one shard remembers of the writes that it executed."""

    def __init__(self) -> None:
        self.results: dict[bytes, dict[int, Any]] = {}
        """Session -> sequence -> answer, or the refusal that was decided."""
        self.forgotten: dict[bytes, int] = {}
        """Session -> sequence up to which nothing is remembered."""
        self.horizon = 0
        """A session that is not known, and did not start above it, may have been forgotten."""

    def forget_all(self, horizon: int) -> None:
        """All sessions were idle for too long."""
        self.results, self.forgotten, self.horizon = {}, {}, horizon

    def once(self, request: kv_pb2.RequestId, execute: Callable[[], Any]) -> Any:
        """Execute, or answer as the first time."""
        results = self.results.get(request.session)
        if results is None:
            if request.started <= self.horizon:
                raise expired(self.horizon + 1)
            results = self.results[request.session] = {}
        if request.sequence not in results:
            if request.sequence <= self.forgotten.get(request.session, 0):
                raise expired(self.horizon + 1)
            try:
                results[request.sequence] = execute()
            except Refusal as refusal:
                if refusal.reason != "COMPARE_FAILED":
                    raise
                results[request.sequence] = refusal
        forgotten = self.forgotten[request.session] = max(request.acknowledged, self.forgotten.get(request.session, 0))
        for sequence in [sequence for sequence in results if sequence <= forgotten]:
            del results[sequence]
        result = results[request.sequence]
        if isinstance(result, Refusal):
            raise result
        return result


def expired(clock: int) -> Refusal:
    """SESSION_EXPIRED."""
    return Refusal(grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", {"clock": str(clock)})


def transact(node: FakeNode, request: kv_pb2.TxnRequest) -> kv_pb2.TxnResponse:
    """Run a transaction where its anchor lives."""
    cluster = node.cluster
    anchor = cluster.shards[shard_of(anchor_key(request), len(cluster.shards))]
    leader = node._leader_of(anchor.number)
    leader.calls["Txn led"] += 1

    def execute() -> kv_pb2.TxnResponse:
        succeeded = all(_holds(compare, _record(node, compare.key)) for compare in request.compare)
        response = kv_pb2.TxnResponse(succeeded=succeeded, transaction_id="t1")
        touched = {anchor.number: None}
        writes = []
        for operation in request.then if succeeded else request.otherwise:
            kind = operation.WhichOneof("operation")
            one, result = getattr(operation, kind or ""), response.results.add()
            record = None if kind == "range" else _record(node, one.key)
            if kind == "range":
                result.range.CopyFrom(node.range(one))
            elif kind == "get":
                result.get.found = record is not None
                if record is not None:
                    result.get.value, result.get.revision = record.value or b"", record.revision
            else:
                getattr(result, kind or "").SetInParent()
                writes.append((one.key, one.value if kind == "put" else None, getattr(result, kind or "")))
                if kind == "delete":
                    result.delete.found = record is not None
            if kind != "range":
                touched[shard_of(one.key, len(cluster.shards))] = None
        for key, value, result in writes:
            result.revision = cluster.shards[shard_of(key, len(cluster.shards))].append(key, value, strong=True)
        token = request.session
        for number in touched:
            holder = cluster.nodes[cluster.leaders[number] or node.name]
            response.served.append(holder._served(number, kv_pb2.CONSISTENCY_STRONG, token, holder))
            token = response.served[-1].session
        return response

    if not request.HasField("request"):
        return execute()
    return anchor.sessions.once(request.request, execute)  # type: ignore[no-any-return]


def _record(node: FakeNode, key: bytes) -> Record | None:
    record = node.cluster.shards[shard_of(key, len(node.cluster.shards))].tables[-1].get(key)
    return record if record is not None and record.value is not None else None


def _holds(compare: kv_pb2.Compare, record: Record | None) -> bool:
    subject = compare.WhichOneof("operand")
    if subject == "exists":
        return (record is not None) == compare.exists
    actual: Any = record.value if record is not None else None
    operand: Any = compare.value
    if subject == "revision":
        actual, operand = record.revision if record is not None else 0, compare.revision
    elif record is None:
        return compare.operator == kv_pb2.COMPARE_OPERATOR_NOT_EQUAL
    return bool(
        {
            kv_pb2.COMPARE_OPERATOR_EQUAL: actual == operand,
            kv_pb2.COMPARE_OPERATOR_NOT_EQUAL: actual != operand,
            kv_pb2.COMPARE_OPERATOR_GREATER: actual > operand,
            kv_pb2.COMPARE_OPERATOR_LESS: actual < operand,
        }[compare.operator]
    )
