"""Who asks shards, without a runtime: coordinators and pushes, as `kvnode/routing/{coordinators,recovery}.py` drive them.

Each says what it asks, and is told what was answered; it may be told once, twice, late or never. Time passes where the test
says so: `again` is what `ShardLeaders.ask` does without an answer, `on_time_over` what a deadline does.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import TYPE_CHECKING, Any, Protocol

from kvapi.v1 import kv_pb2, two_phase_commit_pb2
from kvnode.errors import KvnodeError, OutcomeUnknown, SessionExpired
from kvnode.protocol.two_phase_commit.coordinator import Action, Coordinator, Decide, Forget, Prepare, Resolve
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.routing.coordinators import COMMITTED, FAILED, PREPARED
from kvnode.routing.parts import ShardResults, joined, split
from kvnode.routing.shard_leaders import RETRYABLE
from kvnode.shard.transactions import End
from kvnode.types import Hlc, Shard, Txn

if TYPE_CHECKING:
    from tests.scripts.pure_shards import PureShards

PrepareRequest, PrepareResponse = two_phase_commit_pb2.PrepareRequest, two_phase_commit_pb2.PrepareResponse
DecideRequest, DecideResponse = two_phase_commit_pb2.DecideRequest, two_phase_commit_pb2.DecideResponse
ResolveRequest, ResolveResponse = two_phase_commit_pb2.ResolveRequest, two_phase_commit_pb2.ResolveResponse
StatusRequest, StatusResponse = two_phase_commit_pb2.TransactionStatusRequest, two_phase_commit_pb2.TransactionStatusResponse


class Asker(Protocol):
    """Who asks shards, and may hear the answer once, twice, late or never."""

    name: str

    def on_answer(self, request: Any, answer: Any) -> None:
        """An answer came."""


class PureAttempt:
    """A coordinator: one attempt of one request. As `kvnode.routing.coordinators` drives the machine."""

    def __init__(self, world: PureShards, name: str, request: kv_pb2.TxnRequest, start: Hlc) -> None:
        self.world, self.name, self.request = world, name, request
        self.parts = split(request, world.map)
        self.txn = Txn(start, name.encode().ljust(16, b"\0"))
        self.machine = Coordinator(self.txn, self.parts.anchor, list(self.parts.parts))
        self.alive = True
        self.unanswered: list[Any] = []
        self._votes: dict[Shard, PrepareResponse] = {}
        self._response = kv_pb2.TxnResponse()
        self._shown = State.INIT

    def begin(self) -> None:
        """Phase one."""
        self._act(self.machine.begin())

    def again(self) -> None:
        """Whatever was not answered is asked again, as `ShardLeaders.ask` does in time."""
        for request in list(self.unanswered):
            self.world.ask(self, request)

    def on_time_over(self) -> None:
        """Its time is over: before COMMIT was asked for it aborts, after that nobody can know."""
        if self.machine.state is State.PREPARED:
            self._on_decision_lost("its anchor gave no answer in time")
        elif self.machine.state is State.PREPARING:
            self._act(self.machine.on_out_of_time("not all votes came in time"))
            self.world.on_outcome(self, None)

    def on_answer(self, request: Any, answer: Any) -> None:
        """Feeds the machine."""
        if not self.alive or (isinstance(answer, KvnodeError) and answer.reason in RETRYABLE):
            return
        if request in self.unanswered:
            self.unanswered.remove(request)
        if isinstance(request, PrepareRequest):
            self._on_vote(request.shard, answer)
        elif isinstance(request, DecideRequest) and request.commit:
            self._on_decided(answer)
        else:
            self._act(self.machine.on_resolved(shard_of(request)))

    def _act(self, actions: Iterable[Action]) -> None:
        if self.machine.state is not self._shown:
            self._shown = self.machine.state
            self.world.on_moved(self)
        for action in actions:
            if isinstance(action, Forget):
                self.world.forget(self, self.machine.anchor, self.txn)
                continue
            request = self._request(action)
            self.unanswered.append(request)
            self.world.ask(self, request)

    def _request(self, action: Prepare | Decide | Resolve) -> Any:
        anchor = self.machine.anchor
        if isinstance(action, Prepare):
            return PrepareRequest(
                transaction=id_of(self.txn),
                shard=action.shard,
                anchor=anchor,
                participants=list(self.parts.parts),
                part=self.parts.parts[action.shard],
            )
        if isinstance(action, Resolve):
            if action.shard == anchor:
                return DecideRequest(transaction=id_of(self.txn), anchor=anchor, commit=False)
            return resolve_request(self.txn, action.shard, action)
        results = {shard: ShardResults(list(vote.then), list(vote.otherwise)) for shard, vote in self._votes.items()}
        self._response = joined(self.request, self.parts, action.succeeded, results)
        self._response.transaction_id = str(self.txn)
        request = self.request.request if self.request.HasField("request") else None
        return DecideRequest(
            transaction=id_of(self.txn),
            anchor=anchor,
            commit=True,
            succeeded=action.succeeded,
            response=self._response,
            request=request,
        )

    def _on_vote(self, shard: Shard, answer: PrepareResponse | KvnodeError) -> None:
        if self.machine.state is not State.PREPARING:
            return
        if isinstance(answer, KvnodeError):
            self._act(self.machine.on_no(answer.message))
            self.world.on_outcome(self, answer)
        elif answer.state != PREPARED:
            if answer.horizon >= self.txn.start:
                self.world.start_above(answer.horizon)
            self._act(self.machine.on_no(answer.why))
            self.world.on_outcome(self, None)
        else:
            self._votes[shard] = answer
            self._act(self.machine.on_yes(shard, answer.matched))

    def _on_decision_lost(self, why: str) -> None:
        self._act(self.machine.on_decision_lost())
        self.world.on_outcome(self, OutcomeUnknown(why))

    def _on_decided(self, answer: DecideResponse | KvnodeError) -> None:
        if self.machine.state is not State.PREPARED:
            return
        if isinstance(answer, KvnodeError):
            self._act(self.machine.on_out_of_time(answer.message))
            self.world.on_outcome(self, answer)
            return
        if answer.state == FAILED:
            self._on_decision_lost("its anchor has forgotten how it was decided")
            return
        committed = answer.state == COMMITTED
        self._act(self.machine.on_decided(committed, answer.committed_at, "somebody who waited for it had it aborted"))
        if answer.HasField("expired_clock"):
            self.world.on_outcome(self, SessionExpired("the request is too old", clock=answer.expired_clock))
        elif answer.HasField("executed"):
            self.world.on_outcome(self, answer.executed)
        else:
            self.world.on_outcome(self, self._response if committed else None)


class PurePush:
    """Has a transaction end, for a shard's leader: of a vote it asks the anchor, of its decision it tells the others."""

    def __init__(self, world: PureShards, shard: Shard, txn: Txn) -> None:
        self.world, self.name, self.shard, self.txn = world, str(shard), shard, txn
        transactions = world.shards[shard].machine.transactions
        prepared, end = transactions.prepared.get(txn), transactions.spreading.get(txn)
        self._asked: Any = None
        if prepared is not None:
            self._go_on(self._end(prepared.command.anchor), None)
        elif end is not None:
            self._go_on(self._spread(end), None)

    def on_answer(self, request: Any, answer: Any) -> None:
        """The next question, if this is the answer to the last one."""
        if request is self._asked:
            self._go_on(self._steps, answer)

    def _go_on(self, steps: Generator[Any, Any, None], answer: Any) -> None:
        self._steps = steps
        try:
            self._asked = steps.send(answer)
        except StopIteration:
            self._asked = None
        else:
            self.world.ask(self, self._asked)

    def _end(self, anchor: Shard) -> Generator[Any, Any, None]:
        status = yield StatusRequest(transaction=id_of(self.txn), anchor=anchor, push=True)
        end = End(status.state == COMMITTED, status.succeeded, status.committed_at)
        yield from self._tell(end, [self.shard] if self.shard != anchor else [])

    def _spread(self, end: End) -> Generator[Any, Any, None]:
        yield from self._tell(end, end.unresolved)
        self.world.forget(self, self.shard, self.txn)

    def _tell(self, end: End, shards: Iterable[Shard]) -> Generator[Any, Any, None]:
        for shard in shards:
            yield resolve_request(self.txn, shard, end)


def id_of(txn: Txn) -> two_phase_commit_pb2.TransactionId:
    """As messages name it."""
    return two_phase_commit_pb2.TransactionId(start=txn.start, id=txn.id)


def resolve_request(txn: Txn, shard: Shard, end: Resolve | End) -> ResolveRequest:
    """Tells a participant the end."""
    commit = end.commit if isinstance(end, Resolve) else end.committed
    return ResolveRequest(
        transaction=id_of(txn), shard=shard, commit=commit, succeeded=end.succeeded, committed_at=end.committed_at
    )


def shard_of(request: Any) -> Shard:
    """Who is asked."""
    shard: Shard = request.anchor if isinstance(request, DecideRequest | StatusRequest) else request.shard
    return shard
