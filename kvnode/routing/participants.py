"""Two-phase commit's requests, on the shards that this node leads: each is answered by what the shard's log says.

Owns the way from a request to a log entry and back. Never decides: the state machine does, at apply. Every request may come
twice, or late; its answer is then what stands (DESIGN section 12.9).
"""

from __future__ import annotations

from typing import Any, TypeVar

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode.errors import Conflict, InvalidRequest, NotLeader, Overloaded, StaleShardMap
from kvnode.invariant import invariant
from kvnode.observe.recorder import Recorder
from kvnode.observe.stages import UNTIMED, Timeline
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing.context import RequestContext
from kvnode.routing.local import LocalShards
from kvnode.shard.evaluate import Reading, locks_of
from kvnode.shard.replica import Replica
from kvnode.shard.state_machine import Applied, Decision
from kvnode.shard.transactions import End, Ended, Locked, Vote, txn_of
from kvnode.types import Seconds, Shard

STRONG = kv_pb2.CONSISTENCY_STRONG
COMMITTED, ABORTED = two_phase_commit_pb2.TRANSACTION_STATE_COMMITTED, two_phase_commit_pb2.TRANSACTION_STATE_ABORTED
PREPARED, FAILED = two_phase_commit_pb2.TRANSACTION_STATE_PREPARED, two_phase_commit_pb2.TRANSACTION_STATE_FAILED
STATES: dict[State, two_phase_commit_pb2.TransactionState] = {
    State.INIT: two_phase_commit_pb2.TRANSACTION_STATE_INIT,
    State.PREPARED: PREPARED,
    State.COMMITTED: COMMITTED,
    State.ABORTED: ABORTED,
}
"""What a shard may know of a transaction."""
TRANSACTION_ID_SIZE_BYTES = 16
QUIET_ROUNDS_MAX = 3
"""How often a collection waits for locks before it leaves the field to transactions that lock."""

Answer = TypeVar("Answer")


class Participants:
    """The receiving side, for peers and for this node's own coordinators."""

    def __init__(self, local: LocalShards, shards: int, vote_within: Seconds, recorder: Recorder) -> None:
        """`shards`: of the cluster. `vote_within`: how long a vote may wait for locks."""
        self._local, self._shards, self._vote_within = local, shards, vote_within
        self._loop = local.driver.loop
        self.handlers: dict[type, Any] = {
            two_phase_commit_pb2.PrepareRequest: recorder.timed("txn/prepare", STRONG, self.prepare),
            two_phase_commit_pb2.DecideRequest: recorder.timed("txn/decide", STRONG, self.decide),
            two_phase_commit_pb2.ResolveRequest: recorder.timed("txn/resolve", STRONG, self.resolve),
            two_phase_commit_pb2.CollectRequest: recorder.timed("txn/collect", STRONG, self.collect),
            two_phase_commit_pb2.TransactionStatusRequest: self.status,
        }

    def _context(self, deadline: Seconds | None, timeline: Timeline = UNTIMED) -> RequestContext:
        latest = self._loop.time() + self._vote_within
        return RequestContext(latest if deadline is None else min(latest, deadline), timeline=timeline)

    def _check(self, transaction: two_phase_commit_pb2.TransactionId, *shards: Shard) -> None:
        """What a coordinator of this release never sends must not reach a log."""
        if len(transaction.id) != TRANSACTION_ID_SIZE_BYTES or any(shard >= self._shards for shard in shards):
            raise InvalidRequest("transaction", f"none has an id of {len(transaction.id)} bytes and the shards {shards}")

    def _led(self, shard: Shard) -> Replica:
        replica = self._local.replicas.get(shard)
        if replica is None:
            raise StaleShardMap(f"this node holds no replica of shard {shard}", shard=shard)
        if not replica.is_leader:
            raise NotLeader(f"shard {shard}: this node does not lead it", shard=shard, leader_name=replica.raft.leader)
        return replica

    # ---- phase one --------------------------------------------------------------------------------------------------

    async def prepare(
        self, request: two_phase_commit_pb2.PrepareRequest, deadline: Seconds | None = None, timeline: Timeline = UNTIMED
    ) -> two_phase_commit_pb2.PrepareResponse:
        """Takes the locks and votes; waits for older transactions, has younger ones pushed."""
        self._check(request.transaction, request.anchor, *request.participants)
        replica, txn, context = self._led(request.shard), txn_of(request.transaction), self._context(deadline, timeline)
        prepare = replication_pb2.PrepareCommand(
            transaction=request.transaction, anchor=request.anchor, participants=request.participants, part=request.part
        )
        wanted, locks = locks_of(request.part), self._local.locks
        transactions = replica.machine.transactions
        result: Applied
        while True:
            await locks.until_free(replica, wanted, context, txn, txn)
            end = transactions.end_of(txn)
            if end is not None:
                result = Ended(end, transactions.horizon)
                break
            if transactions.is_full and txn not in transactions.prepared:
                raise Overloaded(f"shard {request.shard} has as many transactions under way as it may", shard=request.shard)
            with locks.claim(replica, txn, wanted):
                result = await self._local.propose(replica, replication_pb2.Command(prepare=prepare), context)
            if not isinstance(result, Locked):
                break
        if isinstance(result, Ended):
            state = COMMITTED if result.end.committed else ABORTED
            return two_phase_commit_pb2.PrepareResponse(
                state=state, why=f"shard {request.shard}: it was aborted", horizon=result.horizon
            )
        vote = _expect(result, Vote)
        return two_phase_commit_pb2.PrepareResponse(
            state=PREPARED,
            index=vote.index,
            matched=vote.matched,
            then=vote.then,
            otherwise=vote.otherwise,
            served=self._local.served(replica, STRONG, b"", revision=vote.index),
        )

    # ---- the decision -----------------------------------------------------------------------------------------------

    async def decide(
        self, request: two_phase_commit_pb2.DecideRequest, deadline: Seconds | None = None, timeline: Timeline = UNTIMED
    ) -> two_phase_commit_pb2.DecideResponse:
        """Asks the anchor's log to decide; what it says may differ. FAILED: nobody knows any more how it was decided."""
        self._check(request.transaction)
        replica, txn = self._led(request.anchor), txn_of(request.transaction)
        transactions = replica.machine.transactions
        ended = transactions.ended.get(txn) or transactions.spreading.get(txn)
        decision = (
            Decision(ended) if ended is not None else await self._decide(replica, request, self._context(deadline, timeline))
        )
        end = decision.end
        if isinstance(decision.refused, InvalidRequest):
            raise decision.refused
        if decision.forgotten:
            return two_phase_commit_pb2.DecideResponse(state=FAILED if request.commit else ABORTED)
        response = two_phase_commit_pb2.DecideResponse(
            state=COMMITTED if end.committed else ABORTED,
            succeeded=end.succeeded,
            committed_at=end.committed_at,
            served=self._local.served(replica, STRONG, b""),
        )
        if decision.executed is not None:
            response.executed.ParseFromString(decision.executed)
        if decision.refused is not None:
            response.expired_clock = int(decision.refused.metadata["clock"])
        return response

    async def _decide(self, replica: Replica, request: two_phase_commit_pb2.DecideRequest, context: RequestContext) -> Decision:
        decide = replication_pb2.DecideCommand(
            transaction=request.transaction,
            commit=request.commit,
            succeeded=request.succeeded,
            response=request.response.SerializeToString() if request.HasField("request") else b"",
        )
        command = replication_pb2.Command(decide=decide)
        if request.HasField("request"):
            command.request.CopyFrom(request.request)
        return _expect(await self._local.propose(replica, command, context), Decision)

    async def status(
        self, request: two_phase_commit_pb2.TransactionStatusRequest, deadline: Seconds | None = None
    ) -> two_phase_commit_pb2.TransactionStatusResponse:
        """What the anchor's log says; with `push` it says something final."""
        self._check(request.transaction)
        replica, txn = self._led(request.anchor), txn_of(request.transaction)
        transactions = replica.machine.transactions
        end: End | None = transactions.end_of(txn)
        if request.push and end is None:
            abort = replication_pb2.DecideCommand(transaction=request.transaction, commit=False)
            command = replication_pb2.Command(decide=abort)
            end = _expect(await self._local.propose(replica, command, self._context(deadline)), Decision).end
        if end is None:
            return two_phase_commit_pb2.TransactionStatusResponse(state=STATES[transactions.state_of(txn)])
        return two_phase_commit_pb2.TransactionStatusResponse(
            state=COMMITTED if end.committed else ABORTED, succeeded=end.succeeded, committed_at=end.committed_at
        )

    # ---- phase two --------------------------------------------------------------------------------------------------

    async def resolve(
        self, request: two_phase_commit_pb2.ResolveRequest, deadline: Seconds | None = None, timeline: Timeline = UNTIMED
    ) -> two_phase_commit_pb2.ResolveResponse:
        """Applies what was decided; answered once that is committed in this shard's log, too."""
        self._check(request.transaction)
        replica = self._led(request.shard)
        await self._check_voted(replica, request, self._context(deadline, timeline))
        if replica.machine.transactions.ended.get(txn_of(request.transaction)) is None:
            resolve = replication_pb2.ResolveCommand(
                transaction=request.transaction,
                commit=request.commit,
                succeeded=request.succeeded,
                committed_at=request.committed_at,
            )
            command = replication_pb2.Command(resolve=resolve)
            end = _expect(await self._local.propose(replica, command, self._context(deadline, timeline)), Decision).end
            txn = txn_of(request.transaction)
            invariant(end.committed == request.commit, f"transaction {txn} ended twice in shard {request.shard}, as {end}")
        return two_phase_commit_pb2.ResolveResponse()

    async def _check_voted(
        self, replica: Replica, request: two_phase_commit_pb2.ResolveRequest, context: RequestContext
    ) -> None:
        """A commit where there was no vote must not reach the log: it would halt every replica at its apply."""
        txn = txn_of(request.transaction)
        if not request.commit or replica.machine.transactions.state_of(txn) is not State.INIT:
            return
        # (The vote may be in the log of an earlier leader, and not be applied here yet.)
        await self._local.read_barrier(replica, replica.raft.leader, context)
        if replica.machine.transactions.state_of(txn) is State.INIT:
            raise InvalidRequest(
                "transaction", f"shard {request.shard} has not voted for {txn}: nothing of it can be committed"
            )

    # ---- reading without locks --------------------------------------------------------------------------------------

    async def collect(
        self, request: two_phase_commit_pb2.CollectRequest, deadline: Seconds | None = None, timeline: Timeline = UNTIMED
    ) -> two_phase_commit_pb2.CollectResponse:
        """One shard's part of a read-only transaction, at a moment when nothing of it is locked for writing."""
        replica, context = self._led(request.shard), self._context(deadline, timeline)
        await self._local.read_barrier(replica, replica.raft.leader, context)
        if not await self._local.locks.until_quiet(replica, locks_of(request.part), QUIET_ROUNDS_MAX, context):
            raise Conflict(f"shard {request.shard}: transactions that write hold the keys all the time", shard=request.shard)
        reading, part = Reading(replica.machine), request.part
        matched = reading.matches(part.compare)
        then = reading.results(part.then, 0) if matched else []
        otherwise = reading.results(part.otherwise, 0)
        return two_phase_commit_pb2.CollectResponse(
            matched=matched,
            then=then,
            otherwise=otherwise,
            fingerprint=reading.fingerprint,
            served=self._local.served(replica, STRONG, b""),
        )


def _expect(result: object, kind: type[Answer]) -> Answer:
    """The entry's outcome, which is of this kind."""
    invariant(isinstance(result, kind), f"{kind.__name__} expected, and not {type(result).__name__}")
    assert isinstance(result, kind)
    return result
