"""The operators' view of transactions: which are under way on this node's replicas, what they hold, and a way to end one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from kvapi.v1 import cluster_pb2, two_phase_commit_pb2
from kvnode.errors import InvalidRequest
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing.participants import ABORTED, COMMITTED, STATES
from kvnode.shard.replica import Replica
from kvnode.types import Txn

if TYPE_CHECKING:
    from kvnode.node import Node

COMMITTING = two_phase_commit_pb2.TRANSACTION_STATE_COMMITTING
LIMIT_DEFAULT = 100
KEYS_SHOWN_MAX = 256


def parse_transaction_id(text: str) -> Txn:
    """The transaction that "start.id" names. Raises `InvalidRequest`."""
    start, _, name = text.partition(".")
    try:
        txn = Txn(int(start), bytes.fromhex(name))
    except ValueError:
        txn = Txn(0, b"")
    if str(txn) != text or not txn.id:
        raise InvalidRequest(
            "transaction_id", f"{text[:200]!r} is none: it looks like 117163420942532608.0f3a… (see kvctl txn list)"
        )
    return txn


class TransactionAdmin:
    """`Cluster.Transactions` and `Cluster.ResolveTransaction`."""

    def __init__(self, node: Node) -> None:
        self._node = node

    async def list(self, request: cluster_pb2.TransactionsRequest) -> cluster_pb2.TransactionsResponse:
        """Under way first, the oldest first; then those that ended, the latest first."""
        node = self._node
        if request.HasField("shard") and request.shard >= node.shard_map.shards:
            raise InvalidRequest("shard", f"there is no shard {request.shard}, the cluster has {node.shard_map.shards}")
        only = parse_transaction_id(request.transaction_id) if request.transaction_id else None
        replicas = [r for shard, r in node.replicas.items() if not request.HasField("shard") or shard == request.shard]
        active = [info for replica in replicas for info in self._active(replica, only)]
        active.sort(key=lambda info: int(info.transaction_id.partition(".")[0]))
        if request.ended or only is not None:
            ended = [info for replica in replicas for info in self._ended(replica, only)]
            ended.sort(key=lambda info: -int(info.transaction_id.partition(".")[0]))
            active.extend(ended[: request.limit or LIMIT_DEFAULT])
        return cluster_pb2.TransactionsResponse(transactions=active)

    def _active(self, replica: Replica, only: Txn | None) -> Iterator[cluster_pb2.TransactionInfo]:
        transactions, shard = replica.machine.transactions, replica.shard
        for txn, prepared in transactions.prepared.items():
            if only in (None, txn):
                locks = transactions.locks.held(txn)
                yield cluster_pb2.TransactionInfo(
                    transaction_id=str(txn),
                    shard=shard,
                    state=STATES[State.PREPARED],
                    anchor=prepared.command.anchor,
                    participants=prepared.command.participants,
                    age_ms=int(self._node.two_phase.recovery.known_for(shard, txn) * 1000),
                    index=prepared.index,
                    write_keys=locks.writes[:KEYS_SHOWN_MAX],
                    read_keys=locks.reads[:KEYS_SHOWN_MAX],
                    read_prefixes=[interval.start for interval in locks.ranges[:KEYS_SHOWN_MAX]],
                    waiting_eventual=sum(len(replica.machine.waiting.at_key(key)) for key in (*locks.writes, *locks.reads)),
                    leader=replica.is_leader,
                )
        for txn, end in transactions.spreading.items():
            if only in (None, txn):
                yield cluster_pb2.TransactionInfo(
                    transaction_id=str(txn),
                    shard=shard,
                    state=COMMITTING,
                    anchor=shard,
                    participants=sorted({shard, *end.unresolved}),
                    age_ms=int(self._node.two_phase.recovery.known_for(shard, txn) * 1000),
                    unresolved=end.unresolved,
                    leader=replica.is_leader,
                )

    @staticmethod
    def _ended(replica: Replica, only: Txn | None) -> Iterator[cluster_pb2.TransactionInfo]:
        for txn, end in replica.machine.transactions.ended.items():
            if only in (None, txn):
                yield cluster_pb2.TransactionInfo(
                    transaction_id=str(txn),
                    shard=replica.shard,
                    state=COMMITTED if end.committed else ABORTED,
                    leader=replica.is_leader,
                )

    async def resolve(self, request: cluster_pb2.ResolveTransactionRequest) -> cluster_pb2.ResolveTransactionResponse:
        """Asks the anchor of a transaction that a replica here knows, and has it end wherever it is still under way."""
        txn = parse_transaction_id(request.transaction_id)
        states = [replica.machine.transactions.state_of(txn) for replica in self._node.replicas.values()]
        anchor = self._anchor_of(txn)
        if anchor is not None:
            committed = await self._node.two_phase.recovery.end(txn, anchor)
        elif State.COMMITTED in states or any(txn in r.machine.transactions.ended for r in self._node.replicas.values()):
            committed = State.COMMITTED in states
        else:
            raise InvalidRequest("transaction_id", f"{self._node.me.node} knows no transaction {txn}; ask another node")
        return cluster_pb2.ResolveTransactionResponse(state=COMMITTED if committed else ABORTED)

    def _anchor_of(self, txn: Txn) -> int | None:
        for shard, replica in self._node.replicas.items():
            transactions = replica.machine.transactions
            if txn in transactions.prepared:
                return transactions.prepared[txn].command.anchor
            if txn in transactions.spreading:
                return shard
        return None
