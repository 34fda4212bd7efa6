"""Runs transactions over several shards: the coordinator's machine says what to send, here it is sent and waited for.

Owns the attempts of one request (each a transaction of its own, all as old as the first), and the resolving after the answer.
Never decides: the anchor's log does; nothing here must survive, `recovery` ends what a dead coordinator left.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Coroutine, Iterable
from typing import Any

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.errors import (
    Conflict,
    DeadlineExpired,
    InvalidRequest,
    KvnodeError,
    OutcomeUnknown,
    Overloaded,
    SessionExpired,
    Unavailable,
)
from kvnode.observe.part import Part
from kvnode.observe.stages import COLLECT, DECIDE, PREPARE, REPLY, RETRY_PAUSE
from kvnode.protocol.two_phase_commit.coordinator import Action, Coordinator, Decide, Forget, Prepare, Resolve
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing.context import RequestContext
from kvnode.routing.local import LocalShards
from kvnode.routing.parts import Parts, ShardResults, joined
from kvnode.routing.shard_leaders import InDoubt, NotAsked, ShardLeaders
from kvnode.types import Hlc, Seconds, Shard, Txn

PREPARED, COMMITTED = two_phase_commit_pb2.TRANSACTION_STATE_PREPARED, two_phase_commit_pb2.TRANSACTION_STATE_COMMITTED
FAILED = two_phase_commit_pb2.TRANSACTION_STATE_FAILED
COLLECTIONS_MAX = 4
"""Collections of a read-only transaction; two that follow each other and are equal end it. Then it takes locks."""
RESOLVE_WITHIN: Seconds = 5.0
"""How long the end is told to participants that cannot be reached; `recovery` tells them later."""
TOMBSTONE_WITHIN: Seconds = 0.5
"""The same for shards that have not voted, where nothing is locked, as far as is known."""
FORGET_AFTER: Seconds = 0.1
"""How long decisions that all have applied are gathered, so that one entry forgets many."""
RETRY_PAUSE_MIN: Seconds = 0.005
RETRY_PAUSE_MAX: Seconds = 0.2


class Coordinators:
    """Of one node."""

    def __init__(
        self,
        local: LocalShards,
        leaders: ShardLeaders,
        clock: Callable[[], Hlc],
        vote_within: Seconds,
        rng: random.Random,
    ) -> None:
        """`vote_within`: whoever has not all votes by then gives up; others would push it anyway."""
        self._local, self._leaders, self._clock = local, leaders, clock
        self._vote_within, self._rng = vote_within, rng
        self._loop = local.driver.loop
        self._start_above: Hlc = 0
        self._running = 0
        self._tasks: dict[asyncio.Task[Any], None] = {}
        self._forgettable: dict[Shard, list[Txn]] = {}
        self._closed = False

    @property
    def under_way(self) -> int:
        """Transactions that this node coordinates now, and requests to shards for them."""
        return self._running + len(self._tasks)

    async def stop(self) -> None:
        """Ends what goes on in the background."""
        self._closed = True
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _spawn(self, coroutine: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any] | None:
        if self._closed:
            coroutine.close()
            return None
        task = self._loop.create_task(coroutine, name=name)
        self._tasks[task] = None
        task.add_done_callback(self._on_task_done)
        return task

    def _on_task_done(self, task: asyncio.Task[Any]) -> None:
        self._tasks.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, KvnodeError):
            self._local.driver.fatal(error)

    # ---- read-only --------------------------------------------------------------------------------------------------

    async def read(self, request: kv_pb2.TxnRequest, parts: Parts, context: RequestContext) -> kv_pb2.TxnResponse | None:
        """A read-only transaction, without locks: two equal collections, one after the other, were one state at every moment
        between them. None: the keys change too often, take locks."""
        before: dict[Shard, two_phase_commit_pb2.CollectResponse] = {}
        for _ in range(COLLECTIONS_MAX):
            try:
                found = await self._collect(parts, context)
            except Conflict:
                return None
            if before and all(found[shard].fingerprint == before[shard].fingerprint for shard in found):
                return self._read_response(request, parts, found)
            before = found
        return None

    async def _collect(self, parts: Parts, context: RequestContext) -> dict[Shard, two_phase_commit_pb2.CollectResponse]:
        asked = [
            self._leaders.ask(shard, two_phase_commit_pb2.CollectRequest(shard=shard, part=part), context.deadline)
            for shard, part in parts.parts.items()
        ]
        try:
            with Part(context.timeline, COLLECT, REPLY):
                answers = await asyncio.gather(*asked)
        except NotAsked as late:
            raise DeadlineExpired(f"the deadline passed before all shards were read: {late.why}") from late
        return dict(zip(parts.parts, answers, strict=True))

    @staticmethod
    def _read_response(
        request: kv_pb2.TxnRequest, parts: Parts, found: dict[Shard, two_phase_commit_pb2.CollectResponse]
    ) -> kv_pb2.TxnResponse:
        succeeded = all(answer.matched for answer in found.values())
        results = {shard: ShardResults(list(answer.then), list(answer.otherwise)) for shard, answer in found.items()}
        response = joined(request, parts, succeeded, results)
        if response.ByteSize() > limits.TRANSACTION_RESPONSE_SIZE_BYTES_MAX:
            raise _too_large()
        response.served.extend(answer.served for answer in found.values())
        return response

    # ---- with two-phase commit --------------------------------------------------------------------------------------

    async def run(self, request: kv_pb2.TxnRequest, parts: Parts, context: RequestContext) -> kv_pb2.TxnResponse:
        """The outcome. Aborted attempts are repeated within the deadline, as old as the first, so that at last nobody is older.

        Raises `Conflict`, `DeadlineExpired`, `OutcomeUnknown`, `SessionExpired`, and what a shard refuses for good.
        """
        if self.under_way >= limits.TRANSACTIONS_COORDINATED_MAX:
            raise Overloaded(f"{limits.TRANSACTIONS_COORDINATED_MAX} transactions are under way here already")
        self._running += 1
        try:
            start, attempt = max(self._clock(), self._start_above), 0
            while True:
                start = max(start, self._start_above)
                one = _Attempt(self, request, parts, Txn(start, self._rng.randbytes(16)), context)
                response = await one.run()
                if response is not None:
                    return response
                attempt += 1
                pause = min(RETRY_PAUSE_MAX, RETRY_PAUSE_MIN * 2 ** min(attempt, 6)) * self._rng.uniform(0.5, 1.0)
                if self._loop.time() + pause >= context.deadline:
                    times = "once" if attempt == 1 else f"{attempt} times, the last time"
                    raise Conflict(f"the transaction was aborted {times}: {one.machine.why}")
                context.timeline.enter(RETRY_PAUSE)
                await asyncio.sleep(pause)
        finally:
            self._running -= 1

    def start_above(self, horizon: Hlc) -> None:
        """A shard has forgotten transactions that started up to here."""
        self._start_above = max(self._start_above, horizon + 1)

    def resolve(self, machine: Coordinator, actions: Iterable[Action]) -> None:
        """Phase two, while nobody waits for it."""
        for action in actions:
            if isinstance(action, Resolve):
                within = RESOLVE_WITHIN if machine.has_voted(action.shard) else TOMBSTONE_WITHIN
                self._spawn(self._resolve(machine, action, within), f"resolve {machine.txn} in shard {action.shard}")
            elif isinstance(action, Forget):
                self.forget(machine.anchor, machine.txn)

    async def _resolve(self, machine: Coordinator, action: Resolve, within: Seconds) -> None:
        until = self._loop.time() + within
        name = two_phase_commit_pb2.TransactionId(start=machine.txn.start, id=machine.txn.id)
        request: Any
        if action.shard == machine.anchor:
            request = two_phase_commit_pb2.DecideRequest(transaction=name, anchor=machine.anchor, commit=False)
        else:
            request = two_phase_commit_pb2.ResolveRequest(
                transaction=name,
                shard=action.shard,
                commit=action.commit,
                succeeded=action.succeeded,
                committed_at=action.committed_at,
            )
        try:
            await self._leaders.ask(action.shard, request, until)
        except NotAsked:
            return
        self.resolve(machine, machine.on_resolved(action.shard))

    # ---- forgetting -------------------------------------------------------------------------------------------------

    def forget(self, anchor: Shard, txn: Txn) -> None:
        """Every participant has applied the decision: the anchor need not keep it for ever. If this gets lost, `recovery` of
        whoever leads the anchor finds out again."""
        waiting = self._forgettable.setdefault(anchor, [])
        waiting.append(txn)
        if len(waiting) == 1:
            self._loop.call_later(FORGET_AFTER, self._forget, anchor)

    def _forget(self, anchor: Shard) -> None:
        txns = self._forgettable.pop(anchor, [])
        replica = self._local.replicas.get(anchor)
        if self._closed or replica is None or not replica.takes_proposals or self._local.driver.out_of_space:
            return
        names = [two_phase_commit_pb2.TransactionId(start=txn.start, id=txn.id) for txn in txns]
        command = replication_pb2.Command(hlc=self._clock(), forget=replication_pb2.ForgetCommand(transactions=names))
        replica.propose([(None, command.SerializeToString())], self._loop.time())
        self._local.driver.wake(anchor)


class _Attempt:
    """One transaction: from its first PREPARE to the anchor's decision."""

    def __init__(
        self, coordinators: Coordinators, request: kv_pb2.TxnRequest, parts: Parts, txn: Txn, context: RequestContext
    ) -> None:
        self._coordinators, self._request, self._parts, self._context = coordinators, request, parts, context
        self._leaders, self._loop = coordinators._leaders, coordinators._loop
        self.machine = Coordinator(txn, parts.anchor, list(parts.parts))
        self._name = two_phase_commit_pb2.TransactionId(start=txn.start, id=txn.id)
        self._votes: dict[Shard, two_phase_commit_pb2.PrepareResponse] = {}
        self._inbox: asyncio.Queue[tuple[Shard, two_phase_commit_pb2.PrepareResponse | BaseException]] = asyncio.Queue()

    async def run(self) -> kv_pb2.TxnResponse | None:
        """The client's answer; None: aborted, try again. Raises what no other attempt would mend."""
        with Part(self._context.timeline, PREPARE, REPLY):
            decide = await self._ask_for_votes()
        if decide is None:
            return None
        with Part(self._context.timeline, DECIDE, REPLY):
            deciding = self._coordinators._spawn(self._decide(decide), f"decide {self.machine.txn}")
            if deciding is None:
                raise Unavailable("the node stops; use another one")
            # (A caller who is gone leaves no locks behind.)
            response: kv_pb2.TxnResponse | None = await asyncio.shield(deciding)
        return response

    # ---- phase one --------------------------------------------------------------------------------------------------

    async def _ask_for_votes(self) -> Decide | None:
        """What to decide; None: aborted, try again."""
        until = min(self._context.deadline, self._loop.time() + self._coordinators._vote_within)
        asking = [
            self._coordinators._spawn(self._vote(action.shard, until), f"prepare {self.machine.txn} in shard {action.shard}")
            for action in self.machine.begin()
            if isinstance(action, Prepare)
        ]
        refused: KvnodeError | None = None
        try:
            while self.machine.state is State.PREPARING:
                if self._coordinators._closed:
                    raise Unavailable("the node stops; use another one")
                shard, answer = await self._inbox.get()
                actions, refused = self._on_answer(shard, answer)
        except (Exception, asyncio.CancelledError):
            # The caller is gone, or the node stops.
            self._coordinators.resolve(self.machine, self.machine.on_out_of_time("its coordinator gave up"))
            raise
        finally:
            for task in asking:
                if task is not None:
                    task.cancel()
        if self.machine.state is State.ABORTED:
            self._coordinators.resolve(self.machine, actions)
            if refused is not None:
                raise refused
            return None
        (decide,) = actions
        assert isinstance(decide, Decide)
        return decide

    async def _vote(self, shard: Shard, until: Seconds) -> None:
        request = two_phase_commit_pb2.PrepareRequest(
            transaction=self._name,
            shard=shard,
            anchor=self._parts.anchor,
            participants=list(self._parts.parts),
            part=self._parts.parts[shard],
        )
        answer: Any
        try:
            with self._context.timeline.aside("prepare", {"kvnode.shard": shard}):
                answer = await self._leaders.ask(shard, request, until)
        except (NotAsked, KvnodeError) as error:
            answer = error
        except asyncio.CancelledError:
            self._inbox.put_nowait((shard, NotAsked("the node stops")))
            raise
        self._inbox.put_nowait((shard, answer))

    def _on_answer(
        self, shard: Shard, answer: two_phase_commit_pb2.PrepareResponse | BaseException
    ) -> tuple[tuple[Action, ...], KvnodeError | None]:
        """What the machine makes of it; with it the error that ends the whole request, if it is one."""
        if isinstance(answer, NotAsked):
            return self.machine.on_out_of_time(f"not all votes came in time: {answer.why}"), None
        if isinstance(answer, KvnodeError):
            return self.machine.on_no(answer.message), answer
        assert isinstance(answer, two_phase_commit_pb2.PrepareResponse)
        if answer.state != PREPARED:
            if answer.horizon >= self.machine.txn.start:
                self._coordinators.start_above(answer.horizon)
            return self.machine.on_no(answer.why), None
        self._votes[shard] = answer
        return self.machine.on_yes(shard, answer.matched), None

    # ---- the decision -----------------------------------------------------------------------------------------------

    async def _decide(self, decide: Decide) -> kv_pb2.TxnResponse | None:
        results = {shard: ShardResults(list(vote.then), list(vote.otherwise)) for shard, vote in self._votes.items()}
        response = joined(self._request, self._parts, decide.succeeded, results)
        response.transaction_id = str(self.machine.txn)
        if response.ByteSize() > limits.TRANSACTION_RESPONSE_SIZE_BYTES_MAX:
            self._coordinators.resolve(self.machine, self.machine.on_out_of_time("its answer is too large"))
            raise _too_large()
        request = two_phase_commit_pb2.DecideRequest(
            transaction=self._name, anchor=self._parts.anchor, commit=True, succeeded=decide.succeeded, response=response
        )
        if self._request.HasField("request"):
            request.request.CopyFrom(self._request.request)
        machine = self.machine
        try:
            with self._context.timeline.aside("decide", {"kvnode.shard": self._parts.anchor}):
                answer = await self._leaders.ask(self._parts.anchor, request, self._context.deadline)
        except InDoubt as lost:
            machine.on_decision_lost()
            raise OutcomeUnknown(
                f"transaction {machine.txn}: its anchor was asked to commit and gave no answer in time ({lost.why}); it may "
                "take effect or not",
                transaction_id=machine.txn,
            ) from lost
        except NotAsked as late:
            self._coordinators.resolve(machine, machine.on_out_of_time(late.why))
            raise DeadlineExpired(f"transaction {machine.txn}: the deadline passed before it was decided: {late.why}") from late
        except KvnodeError as refused:
            self._coordinators.resolve(machine, machine.on_out_of_time(refused.message))
            raise
        return self._on_decided(answer, response)

    def _on_decided(
        self, answer: two_phase_commit_pb2.DecideResponse, response: kv_pb2.TxnResponse
    ) -> kv_pb2.TxnResponse | None:
        if answer.state == FAILED:
            self.machine.on_decision_lost()
            raise OutcomeUnknown(
                f"transaction {self.machine.txn} was decided so long ago that its anchor has forgotten how; it may have taken "
                "effect or not",
                transaction_id=self.machine.txn,
            )
        committed = answer.state == COMMITTED
        why = "somebody who waited for it had it aborted"
        self._coordinators.resolve(self.machine, self.machine.on_decided(committed, answer.committed_at, why))
        if answer.HasField("expired_clock"):
            raise SessionExpired(
                "the request is too old, or from a clock too far ahead, to know whether it was executed before; this "
                "attempt was not",
                clock=answer.expired_clock,
            )
        if answer.HasField("executed"):
            response = answer.executed
        elif not committed:
            return None
        response.served.extend(vote.served for shard, vote in self._votes.items() if shard != self._parts.anchor)
        # (What the anchor has applied includes the decision.)
        response.served.append(answer.served)
        return response


def _too_large() -> InvalidRequest:
    return InvalidRequest(
        "then", f"the answer would have more than {limits.TRANSACTION_RESPONSE_SIZE_BYTES_MAX} bytes; read less at once"
    )
