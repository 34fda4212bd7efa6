"""Bounded queues and deadlines, looked at from inside: nothing waits beyond a limit of `kvnode.limits`, all of it drains once
the cluster is well, nothing is proposed, and hardly anything answered, when its caller's time is over.

Owns: what counts as waiting, and its bound. Never: changes anything, or takes random numbers. The limits are those of the run:
`bounds.py` makes them small, else no run of seconds would come near them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kvnode import limits
from kvnode.errors import KvnodeError
from kvnode.routing import recovery
from kvnode.types import NodeName, Seconds, Shard

if TYPE_CHECKING:
    from kvnode.node import Node
    from kvnode.shard.replica import Replica

    from .machine import SimNode
    from .world import World

LATE_MAX: Seconds = 0.02
"""How long after its deadline an answer may leave: a node's timer rings, and a chain of tasks passes the word on."""
CLOCK_ERROR = 0.053
"""Besides, so much of the time that it had: calls to other nodes are timed by true time, not by the node's own clock."""


Queue = tuple[str, int, int]
"""What waits, how many, and how many of it may."""


def of_replica(node: Node, replica: Replica) -> Iterator[Queue]:
    """What waits for a shard on one node."""
    # (What nobody waits for is no request: the word that decisions may be forgotten.)
    asked = sum(1 for waiting in replica.waiting.values() if waiting.token is not None)
    yield "proposals", asked, limits.PROPOSALS_PER_SHARD_MAX
    yield "strong reads", len(replica.raft.reads), limits.READS_PER_SHARD_MAX
    yield "lock waiters", node.local.locks.waiting(replica.shard), limits.LOCK_WAITERS_PER_SHARD_MAX


def of_machine(replica: Replica) -> Iterator[Queue]:
    """What the shard's state remembers in bounds."""
    machine, transactions = replica.machine, replica.machine.transactions
    yield "prepared transactions", len(transactions.prepared), limits.TRANSACTIONS_PREPARED_PER_SHARD_MAX
    yield "ended transactions", len(transactions.ended), limits.TRANSACTIONS_ENDED_PER_SHARD_MAX
    yield "client sessions", len(machine.clients), limits.CLIENT_SESSIONS_PER_SHARD_MAX
    # (Whoever sequences them looks before each of the entries that may be under way.)
    under_way = limits.SEQUENCE_ENTRIES_IN_FLIGHT_MAX * limits.SEQUENCE_ENTRY_WRITES_MAX
    yield "eventual writes behind locks", len(machine.waiting), limits.TRANSACTION_WAITING_EVENTUAL_MAX + under_way
    yield "superseded writes", len(machine.superseded), limits.SUPERSEDED_KEPT_PER_SHARD
    yield "places of eventual writes", len(machine.placed), limits.PLACED_KEPT_PER_SHARD


def of_node(node: Node) -> Iterator[Queue]:
    """What waits on one node for no shard in particular."""
    router, coordinators, shards = node.router, node.two_phase.coordinators, node.config.cluster.shards
    size = sum(
        one.size_bytes for replica in node.replicas.values() for one in replica.waiting.values() if one.token is not None
    )
    yield "bytes of proposals", size, limits.PROPOSED_SIZE_BYTES_MAX
    yield "forwards", router._forwards, limits.FORWARDS_IN_FLIGHT_MAX
    yield "requests without a leader", router._leader_waits, limits.FORWARDS_IN_FLIGHT_MAX
    yield "coordinated transactions", coordinators._running, limits.TRANSACTIONS_COORDINATED_MAX
    pushed = 2 * shards * recovery.AT_ONCE_PER_ANCHOR_MAX
    yield "pushed transactions", len(node.two_phase.recovery._tasks), pushed
    for peer, link in node.outbox._links.items():
        yield f"appends to {peer}", link._in_flight, limits.APPENDS_IN_FLIGHT_MAX


def left_waiting(node: Node) -> Iterator[str]:
    """What should not wait any more when nobody asks anything and the cluster is well."""
    for what, size, _ in of_node(node):
        if size and not what.startswith("appends"):
            yield f"{size} {what}"
    for shard, replica in node.replicas.items():
        waits, where = replica.waits, f"in shard {shard}"
        counts = {
            "proposals": len(replica.waiting),
            "bytes of proposals": replica.waiting_size_bytes,
            "strong reads": len(replica.raft.reads),
            "waits for an index": len(waits._for_applied),
            "waits for a change": len(waits._for_change),
            "waits for a leader": len(waits._for_leader),
            "lock waiters": node.local.locks.waiting(shard),
            "claimed locks": int(bool(node.local.locks._claims.get(shard))),
            "waits for copies": sum(not future.done() for _, _, future in node.local._ack_waiters.get(shard, ())),
            "eventual writes": replica.holder.size,
            "eventual writes behind locks": len(replica.machine.waiting),
            "prepared transactions": len(replica.machine.transactions.prepared),
            "decisions that are not known everywhere": len(replica.machine.transactions.spreading),
        }
        yield from (f"{count} {what} {where}" for what, count in counts.items() if count)
    if node.two_phase.coordinators._tasks:
        yield f"{len(node.two_phase.coordinators._tasks)} requests of coordinators"


class BoundsPromises:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._full: dict[tuple[NodeName, Shard | None, str], None] = {}
        self._deadline: Seconds | None = None
        """Of the request that is being proposed in this very step."""

    def watch_node(self, sim: SimNode, node: Node) -> None:
        """Looks at what a node proposes for its callers."""
        propose: Callable[..., Awaitable[Any]] = node.local.propose

        async def propose_and_note(replica: Replica, command: Any, context: Any) -> Any:
            # (Up to the proposal nothing else runs.)
            self._deadline = context.deadline
            try:
                return await propose(replica, command, context)
            except KvnodeError:
                self._deadline = None
                raise

        node.local.propose = propose_and_note  # type: ignore[method-assign, assignment]

    def watch(self, sim: SimNode, node: Node, replica: Replica) -> None:
        """Looks at a replica's queues after each of its turns, and at the deadline of each proposal."""
        ready, propose, held_at_first, applied = replica.ready, replica.propose, replica.holder.size, -1

        def ready_and_check(now: Seconds) -> Any:
            nonlocal applied
            due = ready(now)
            self.check(sim, replica.shard, of_replica(node, replica))
            # (What was found on the disk at the start may be more: its places are known when the log has been replayed.)
            held = ("eventual writes", replica.holder.size, max(held_at_first, limits.PENDING_EVENTUAL_PER_SHARD_MAX))
            self.check(sim, replica.shard, (held,))
            self.check(sim, None, of_node(node))
            if replica.applied != applied:
                applied = replica.applied
                self.check(sim, replica.shard, of_machine(replica))
            return due

        def propose_and_check(proposals: Any, now: Seconds) -> None:
            deadline, self._deadline = self._deadline, None
            if deadline is not None:
                self.check_deadline(sim, now, deadline)
            propose(proposals, now)

        replica.ready = ready_and_check  # type: ignore[method-assign]
        replica.propose = propose_and_check  # type: ignore[method-assign]

    def check(self, sim: SimNode, shard: Shard | None, queues: Iterable[Queue]) -> None:
        """Whether something waits beyond its bound."""
        for what, size, most in queues:
            if size < most:
                if self._full:
                    self._full.pop((sim.name, shard, what), None)
                continue
            if size == most:
                if (sim.name, shard, what) not in self._full:
                    self._full[sim.name, shard, what] = None
                    self._world.counts[f"full: {what.split(' to ')[0]}"] += 1
                continue
            where = "" if shard is None else f", shard {shard}"
            self._world.violate("queues are bounded", f"{sim.name}{where}: {size} {what}, at most {most} may be")

    # ---- deadlines --------------------------------------------------------------------------------------------------

    def check_deadline(self, sim: SimNode, now: Seconds, deadline: Seconds) -> None:
        """Something is proposed for a caller."""
        self._world.counts["proposals with a deadline"] += 1
        if now > deadline:
            self._world.violate("nothing is proposed after its deadline", f"{sim.name}: {now - deadline:.6f} s after it")

    def check_answered(self, sim: SimNode, now: Seconds, deadline: Seconds, timeout: Seconds, request: object) -> None:
        """A request has been answered, or refused; a process that was paused meanwhile could not be in time."""
        self._world.counts["answers with a deadline"] += 1
        if sim.group is None or deadline < sim.group.resumed_at:
            return
        if now > deadline + LATE_MAX + CLOCK_ERROR * timeout:
            message = f"{sim.name}: {now - deadline:.6f} s after it: {type(request).__name__} {request}"
            self._world.violate("requests are answered by their deadline", message)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def undrained(self) -> str:
        """What still waits, of all nodes; empty: nothing."""
        for sim in self._world.live():
            assert sim.node is not None
            if left := list(left_waiting(sim.node)):
                return f"{sim.name}: {', '.join(left)}"
        return ""
