"""Checks peers' requests at the door, as `convert` and `check_txn` check clients'.

Peers are trusted not to lie, but not to be well-formed: a damaged or misbuilt message must neither reach a log, where it would
halt every replica at its apply and again at each start, nor halt this node. What is refused here, no correct node of this
release sends. Never: decides whether what is well-formed is true.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kvapi.v1 import election_pb2, failure_detection_pb2, replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.api import check_txn, convert
from kvnode.errors import InvalidRequest
from kvnode.protocol.raft import door
from kvnode.protocol.raft.door import NUMBER_MAX
from kvnode.routing.shard_map import ShardMap
from kvnode.shard.replica import Replica
from kvnode.types import NodeName, Shard


class PeerChecks:
    """Of one node: what its shards and their replicas make of a request."""

    def __init__(self, me: NodeName, shard_map: ShardMap, replicas: Mapping[Shard, Replica]) -> None:
        self._me, self._map, self._replicas = me, shard_map, replicas
        self._requests: dict[type, Callable[[Any], None]] = {
            failure_detection_pb2.HeartbeatRequest: self._heartbeat,
            election_pb2.RequestVoteRequest: self._vote,
            replication_pb2.AppendRequest: self._append,
            replication_pb2.InstallSnapshotRequest: self._snapshot,
            replication_pb2.ReplicateEventualRequest: self._eventual,
            two_phase_commit_pb2.PrepareRequest: self._prepare,
            two_phase_commit_pb2.DecideRequest: self._decide,
            two_phase_commit_pb2.ResolveRequest: self._resolve,
            two_phase_commit_pb2.CollectRequest: self._collect,
            two_phase_commit_pb2.TransactionStatusRequest: lambda request: _check_start(request.transaction),
        }
        self._answers: dict[type, Callable[[Any], None]] = {
            failure_detection_pb2.HeartbeatResponse: self._acks,
            election_pb2.RequestVoteResponse: lambda answer: self._check_term("term", answer.shard, answer.term),
            replication_pb2.AppendResponse: self._appended,
            replication_pb2.ReplicateEventualResponse: self._held,
        }

    def request(self, request: Any) -> None:
        """Raises `InvalidRequest` for a request that no correct peer sends. Of other nodes' shards the handler speaks."""
        check = self._requests.get(type(request))
        if check is not None:
            check(request)

    def answer(self, answer: Any) -> None:
        """The same for an answer."""
        check = self._answers.get(type(answer))
        if check is not None:
            check(answer)

    # ---- consensus --------------------------------------------------------------------------------------------------

    def _check_term(self, field: str, shard: Shard, term: int) -> None:
        replica = self._replicas.get(shard)
        if replica is not None:
            _refuse(field, door.why_not_term(replica.raft, term))

    def _vote(self, request: election_pb2.RequestVoteRequest) -> None:
        self._check_term("term", request.shard, request.term)
        if max(request.last_log_index, request.last_log_term) > NUMBER_MAX:
            raise InvalidRequest("last_log_index", f"no log ends at {request.last_log_index}, term {request.last_log_term}")

    def _heartbeat(self, request: failure_detection_pb2.HeartbeatRequest) -> None:
        sender = request.message.from_node
        for number, lead in enumerate(request.leads):
            replica = self._replicas.get(lead.shard)
            if replica is not None and (why := door.why_not_leader(replica.raft, sender, lead.term)):
                raise InvalidRequest(f"leads[{number}].term", why)

    def _append(self, request: replication_pb2.AppendRequest) -> None:
        sender = request.message.from_node
        for number, append in enumerate(request.appends):
            replica = self._replicas.get(append.shard)
            if replica is None:
                continue
            if why := door.why_not_leader(replica.raft, sender, append.term):
                raise InvalidRequest(f"appends[{number}].term", why)
            if why := door.why_not_append(replica.raft, append):
                raise InvalidRequest(f"appends[{number}].entries", why)

    def _snapshot(self, request: replication_pb2.InstallSnapshotRequest) -> None:
        replica = self._replicas.get(request.shard)
        if replica is not None:
            _refuse("term", door.why_not_leader(replica.raft, request.message.from_node, request.term))
        if not 0 < request.last_index <= NUMBER_MAX or not 0 < request.last_term <= request.term:
            raise InvalidRequest(
                "last_index", f"no snapshot of term {request.term} ends at {request.last_index}, term {request.last_term}"
            )

    def _acks(self, answer: failure_detection_pb2.HeartbeatResponse) -> None:
        for number, ack in enumerate(answer.acks):
            replica = self._replicas.get(ack.shard)
            if replica is not None and (why := door.why_not_term(replica.raft, ack.term)):
                raise InvalidRequest(f"acks[{number}].term", why)

    def _appended(self, answer: replication_pb2.AppendResponse) -> None:
        for number, result in enumerate(answer.results):
            replica = self._replicas.get(result.shard)
            if replica is None:
                raise self._not_asked(f"results[{number}]", result.shard)
            if why := door.why_not_term(replica.raft, result.term):
                raise InvalidRequest(f"results[{number}].term", why)
            if result.index > NUMBER_MAX:
                raise InvalidRequest(f"results[{number}].index", f"no log has an entry {result.index}")

    # ---- eventual writes --------------------------------------------------------------------------------------------

    def _eventual(self, request: replication_pb2.ReplicateEventualRequest) -> None:
        for number, batch in enumerate(request.batches):
            replica = self._replicas.get(batch.shard)
            if replica is None:
                continue
            path = f"batches[{number}]"
            if batch.node not in replica.raft.voters or batch.node == self._me:
                raise InvalidRequest(
                    f"{path}.node", f"{self._me} takes no eventual writes of {batch.node[:64]!r} for shard {batch.shard}"
                )
            if max(batch.incarnation, batch.sequenced) > NUMBER_MAX:
                raise InvalidRequest(f"{path}.sequenced", f"nobody has numbered {batch.sequenced} writes")
            for position, write in enumerate(batch.writes):
                self._check_write(f"{path}.writes[{position}]", batch, write)

    def _check_write(self, path: str, batch: replication_pb2.EventualBatch, write: replication_pb2.EventualWrite) -> None:
        if (write.node, write.incarnation) != (batch.node, batch.incarnation):
            raise InvalidRequest(f"{path}.node", f"the write is of {write.node[:64]!r}, its batch of {batch.node!r}")
        if not write.sequence or max(write.sequence, write.hlc, write.base) > NUMBER_MAX:
            raise InvalidRequest(
                f"{path}.sequence", f"no write has number {write.sequence}, clock {write.hlc}, base {write.base}"
            )
        with check_txn.inside(path):
            self._check_key(batch.shard, write.key)
            convert.check_value(write.value)

    def _held(self, answer: replication_pb2.ReplicateEventualResponse) -> None:
        for number, held in enumerate(answer.held):
            if held.shard not in self._replicas:
                raise self._not_asked(f"held[{number}]", held.shard)

    def _not_asked(self, path: str, shard: Shard) -> InvalidRequest:
        return InvalidRequest(f"{path}.shard", f"{self._me} did not ask for shard {shard}, which it does not hold")

    def _check_key(self, shard: Shard, key: bytes) -> None:
        convert.check_key(key)
        if self._map.shard_of(key) != shard:
            raise InvalidRequest("key", f"it belongs to shard {self._map.shard_of(key)}, not to {shard}")

    # ---- two-phase commit -------------------------------------------------------------------------------------------

    def _prepare(self, request: two_phase_commit_pb2.PrepareRequest) -> None:
        _check_start(request.transaction)
        participants = dict.fromkeys(request.participants)
        if len(participants) != len(request.participants) or not {request.shard, request.anchor} <= participants.keys():
            raise InvalidRequest("participants", "each comes once; the anchor and the shard that is asked are among them")
        self._check_part(request.shard, request.part)

    def _collect(self, request: two_phase_commit_pb2.CollectRequest) -> None:
        self._check_part(request.shard, request.part)

    def _check_part(self, shard: Shard, part: two_phase_commit_pb2.TransactionPart) -> None:
        with check_txn.inside("part"):
            count = len(part.compare) + len(part.then) + len(part.otherwise)
            if count > limits.TRANSACTION_OPERATIONS_MAX:
                raise InvalidRequest(
                    "then", f"{count} operations, at most {limits.TRANSACTION_OPERATIONS_MAX} make a transaction"
                )
            for path, key in check_txn.check_operations(part.compare, part.then, part.otherwise):
                if self._map.shard_of(key) != shard:
                    raise InvalidRequest(path, f"key {key!r} belongs to shard {self._map.shard_of(key)}, not to {shard}")

    @staticmethod
    def _decide(request: two_phase_commit_pb2.DecideRequest) -> None:
        _check_start(request.transaction)
        convert.check_request_id(request, "request")
        size = request.response.ByteSize()
        if size > limits.CLIENT_RESULTS_PER_SESSION_SIZE_BYTES_MAX:
            raise InvalidRequest(
                "response", f"{size} bytes, at most {limits.CLIENT_RESULTS_PER_SESSION_SIZE_BYTES_MAX} are remembered"
            )

    @staticmethod
    def _resolve(request: two_phase_commit_pb2.ResolveRequest) -> None:
        _check_start(request.transaction)
        if request.committed_at > NUMBER_MAX:
            raise InvalidRequest("committed_at", f"{request.committed_at} is no time that a clock of this cluster shows")


def _refuse(field: str, why: str | None) -> None:
    if why is not None:
        raise InvalidRequest(field, why)


def _check_start(transaction: two_phase_commit_pb2.TransactionId) -> None:
    if transaction.start > NUMBER_MAX:
        raise InvalidRequest("transaction.start", f"{transaction.start} is no time that a clock of this cluster shows")
