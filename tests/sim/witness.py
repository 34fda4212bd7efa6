"""The eyes of the checker: what is looked at inside all nodes while they run.

Owns: what was seen of every shard (states by index, what took effect, who led), and the checks that need no more than that.
Never: changes anything, so that a run that is looked at and one that is not are the same run.

Checked all the time (numbers of DESIGN section 12): answers leave only behind their records (1); an entry is applied only when
a majority holds it durably (2); one leader a term; equal state at equal applied index (13); a start finds everything that was
durable (14). `promises` and `transaction_promises` have what needs a memory of its own.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

from kvapi.v1 import election_pb2, replication_pb2
from kvnode.limits import CLOCK_SKEW_MS_MAX
from kvnode.protocol.raft.quorum import majority
from kvnode.protocol.raft.role import Role
from kvnode.shard.superseded import operation_id
from kvnode.shard.version import Version
from kvnode.types import Entry, Hlc, Index, NodeName, Origin, Shard, Term

from .bounds_promises import BoundsPromises
from .history import AppliedWrite
from .lock_age import LockAge
from .promises import Promises
from .staleness import Staleness
from .transaction_promises import TransactionPromises

if TYPE_CHECKING:
    from kvnode.node import Node
    from kvnode.shard.replica import Replica

    from .machine import SimNode
    from .world import World


SKEW: Hlc = CLOCK_SKEW_MS_MAX << 16
"""A clock that is farther ahead is cut down to this."""


class Stamped(NamedTuple):
    """An eventual write's clock: what it said, and what counts."""

    said: Hlc
    counted: Hlc


class Witness:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.hashes: dict[tuple[Shard, Index], tuple[int, NodeName]] = {}
        self.applied: dict[Shard, dict[Index, list[AppliedWrite]]] = {}
        self.placed_values: dict[bytes, Index] = {}
        """The place of every eventual put that took effect, by its (unique) value."""
        self.horizons: dict[Shard, dict[Index, None]] = {}
        self.superseded: dict[str, tuple[Index, int]] = {}
        self.stamps: dict[str, Stamped] = {}
        """The clocks of each eventual write that got its place, whether it took effect or not."""
        self._token_cut_down: dict[str, None] = {}
        self.leaders: dict[tuple[Shard, Term], tuple[NodeName, int]] = {}
        self.leading: dict[Shard, tuple[NodeName, Term]] = {}
        self.promises, self.transaction_promises = Promises(world), TransactionPromises(world)
        self.bounds, self.staleness, self.lock_age = BoundsPromises(world), Staleness(world), LockAge(world)

    def watch(self, sim: SimNode, node: Node) -> None:
        """Hangs the checks into a node that was just built."""
        write = node.log.write

        def write_and_note(records: Any) -> None:
            sim.durable.on_write(records)
            write(records)
            self.promises.check_records(sim, records)
            sim.durable.on_written(records)

        node.log.write = write_and_note  # type: ignore[method-assign]
        self._world.places.watch_log(sim, node)
        self.promises.on_start(sim, node)
        self.bounds.watch_node(sim, node)
        for replica in node.replicas.values():
            for missing in sim.durable.check_start(replica):
                self._world.violate("a start finds everything durable", f"{sim.name}, shard {replica.shard}: {missing}")
            self._check_hash(sim, replica)
            self._watch_replica(sim, node, replica)

    def _watch_replica(self, sim: SimNode, node: Node, replica: Replica) -> None:
        self._watch_writes(replica)
        self._watch_tokens(node, replica)
        machine, ready, installed = replica.machine, replica.ready, replica.on_snapshot_installed
        apply = machine.apply

        def apply_and_check(entry: Entry) -> Any:
            self._check_committed(sim, replica, entry)
            result = apply(entry)
            self._world.counts["applied"] += 1
            self._check_hash(sim, replica)
            return result

        def ready_and_check(now: float) -> Any:
            due = ready(now)
            self._check_role(sim, replica)
            return due

        def on_snapshot_installed(index: Index, term: Term) -> None:
            installed(index, term)
            self._world.counts["snapshots installed"] += 1
            self._check_hash(sim, replica)

        machine.apply = apply_and_check  # type: ignore[method-assign]
        replica.ready = ready_and_check  # type: ignore[method-assign]
        replica.on_snapshot_installed = on_snapshot_installed  # type: ignore[method-assign]
        self.promises.watch(sim, replica)
        self.transaction_promises.watch(sim, replica)
        self.bounds.watch(sim, node, replica)
        self.staleness.watch(replica)
        self.lock_age.watch(sim, replica)
        self._world.places.watch_replica(sim, replica)

    def _watch_tokens(self, node: Node, replica: Replica) -> None:
        """Notes the eventual writes that came with a session's clock which was too far ahead to be followed."""
        accept = replica.accept

        def accept_and_note(key: bytes, value: bytes | None, above: Hlc, token: object, now: float, traceparent: str) -> None:
            cut_down = above == node.clock.last + SKEW
            accept(key, value, above, token, now, traceparent)
            if cut_down:
                write: Any = replica._accepted[-1].result
                origin = Origin(write.node, write.incarnation)
                self._token_cut_down[operation_id(replica.shard, origin, write.sequence)] = None

        replica.accept = accept_and_note  # type: ignore[method-assign]

    def was_cut_down(self, operation: str) -> bool:
        """Whether a clock was too far ahead on an eventual write's way: its session's, or its own."""
        stamped = self.stamps.get(operation)
        return operation in self._token_cut_down or (stamped is not None and stamped.counted < stamped.said)

    def _check_committed(self, sim: SimNode, replica: Replica, entry: Entry) -> None:
        shard = replica.shard
        if not sim.durable.holds(shard, entry.index, entry.term):
            self._world.violate("applied only what is durable here", f"{sim.name}, shard {shard}, entry {entry.index}")
        if (shard, entry.index) in self.hashes:
            return
        voters = replica.raft.voters
        holders = [name for name in voters if self._world.nodes[name].durable.holds(shard, entry.index, entry.term)]
        if len(holders) < majority(len(voters)):
            message = f"{sim.name} applies entry {entry.index} of shard {shard}, term {entry.term}; durable only on {holders}"
            self._world.violate("committed means durable on a majority", message)

    def _check_hash(self, sim: SimNode, replica: Replica) -> bool:
        """True if this is the first replica at its applied index."""
        machine = replica.machine
        key = (replica.shard, machine.applied)
        known = self.hashes.get(key)
        if known is None:
            self.hashes[key] = (machine.state_hash, sim.name)
            self._world.note(sim.name, f"shard {replica.shard} applied {machine.applied} hash {machine.state_hash:016x}")
            return True
        if known[0] != machine.state_hash:
            message = f"shard {replica.shard} at {machine.applied}: {known[1]} has {known[0]:016x}, "
            self._world.violate("equal state at equal applied index", f"{message}{sim.name} has {machine.state_hash:016x}")
        return False

    def _watch_writes(self, replica: Replica) -> None:
        """Notes what takes effect, and what is superseded, when the first replica applies the entry."""
        machine, shard = replica.machine, replica.shard
        write, place_eventual, collect = machine._write, machine._eventual, machine._collect
        placed: list[replication_pb2.EventualWrite] = []
        """The eventual write that gets its place now."""

        def is_first() -> bool:
            return (shard, machine.applied + 1) not in self.hashes

        def write_and_note(
            revision: Index, key: bytes, value: bytes | None, old: Version | None, hlc: int, strong: Index, *origin: Any
        ) -> None:
            write(revision, key, value, old, hlc, strong, *origin)
            if is_first():
                applied = AppliedWrite(key, revision, hlc, not placed, forgotten=old is None, place=machine.applied + 1)
                if placed:
                    applied = self._note_eventual(shard, revision, placed[0], applied)
                self.applied.setdefault(shard, {}).setdefault(machine.applied + 1, []).append(applied)

        def place_and_note(index: Index, now: int, eventual: replication_pb2.EventualWrite) -> None:
            placed.append(eventual)
            place_eventual(index, now, eventual)
            placed.clear()
            origin = Origin(eventual.node, eventual.incarnation)
            self.stamps[operation_id(shard, origin, eventual.sequence)] = Stamped(eventual.hlc, min(eventual.hlc, now + SKEW))
            lost = machine.superseded.get((origin, eventual.sequence))
            if lost is not None and lost.revision == index and is_first():
                self.superseded[operation_id(shard, origin, eventual.sequence)] = (index, lost.outcome.by)
                self._world.counts["superseded"] += 1

        def collect_and_note(horizon: Index) -> None:
            collect(horizon)
            self.horizons.setdefault(shard, {})[machine.horizon] = None

        machine._write = write_and_note  # type: ignore[method-assign]
        machine._eventual = place_and_note  # type: ignore[method-assign]
        machine._collect = collect_and_note  # type: ignore[method-assign]

    def _note_eventual(
        self, shard: Shard, revision: Index, write: replication_pb2.EventualWrite, applied: AppliedWrite
    ) -> AppliedWrite:
        self._world.counts["eventual applied"] += 1
        if not write.deletion:
            self.placed_values[write.value] = revision
        name = operation_id(shard, Origin(write.node, write.incarnation), write.sequence)
        tie = f"{write.node}\0{write.incarnation:020d}"
        return replace(applied, base=write.base, origin=tie, operation_id=name, place=0)

    def _check_role(self, sim: SimNode, replica: Replica) -> None:
        raft = replica.raft
        if raft.role is not Role.LEADER:
            if self.leading.get(raft.shard, ("", 0))[0] == sim.name:
                del self.leading[raft.shard]
            return
        key, me = (raft.shard, raft.term), (sim.name, sim.life)
        known = self.leaders.setdefault(key, me)
        if known != me:
            self._world.violate("one leader a term", f"shard {raft.shard}, term {raft.term}: {known[0]} and {sim.name}")
        if self.leading.get(raft.shard) != (sim.name, raft.term):
            self.leading[raft.shard] = (sim.name, raft.term)
            self._world.counts["elections"] += 1
            self._world.note(sim.name, f"leads shard {raft.shard} in term {raft.term}")

    def forget_leader(self, name: NodeName) -> None:
        """A node died."""
        for shard in [shard for shard, (leader, _) in self.leading.items() if leader == name]:
            del self.leading[shard]

    def log_at_arrival(self, sim: SimNode, request: Any) -> tuple[Term, Index]:
        """A peer's request comes: the end of the log that this disk has of its shard, where it asks for a vote."""
        return sim.durable.shard(request.shard).end if isinstance(request, election_pb2.RequestVoteRequest) else (0, 0)

    def check_answer(self, sim: SimNode, request: Any, response: Any, at_arrival: tuple[Term, Index]) -> None:
        """An answer to a peer leaves: what it promises must be on the disk."""
        durable = sim.durable
        if isinstance(response, election_pb2.RequestVoteResponse):
            model = durable.shard(response.shard)
            self.promises.check_vote(sim, request, response, at_arrival)
            if response.granted and not response.pre_vote:
                vote = request.message.from_node
                if (model.term, model.vote) != (response.term, vote) and model.term <= response.term:
                    self._world.violate(
                        "a vote leaves behind its record", f"{sim.name} -> {vote}: {response}, durable {model.term}"
                    )
        elif isinstance(response, replication_pb2.AppendResponse):
            appends = {append.shard: append for append in request.appends}
            for result in response.results:
                if not result.success:
                    continue
                self._world.counts["append answers held against the disk"] += 1
                term = durable.shard(result.shard).term
                if term < result.term:
                    self._world.violate("an append's answer leaves behind its term", f"{sim.name}: {result}")
                # (Who has gone on to a later term may have other entries there by now.)
                wanted = _last_term(appends.get(result.shard), result.index) if term == result.term else None
                if result.index and not durable.holds(result.shard, result.index, wanted):
                    self._world.violate("an append's answer leaves behind its entries", f"{sim.name}: {result}")
        elif isinstance(response, replication_pb2.ReplicateEventualResponse) and sim.node is not None:
            for held in response.held:
                origin = Origin(held.node, held.incarnation)
                placed = sim.node.replicas[held.shard].machine.sequenced.get(origin, 0)
                known = durable.shard(held.shard).eventual.get(origin, {})
                if any(sequence not in known for sequence in range(placed + 1, held.held + 1)):
                    self._world.violate(
                        "held means durable", f"{sim.name}: {held}, durable {list(known)[-3:]}, placed {placed}"
                    )


def _last_term(append: replication_pb2.ShardAppend | None, index: Index) -> Term | None:
    """The term of the entry that an append has at the index; None: it does not say."""
    if append is None or not append.entries or append.previous_index + len(append.entries) != index:
        return None
    return append.entries[-1].term
