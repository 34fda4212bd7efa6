"""What nodes promise each other, looked at from inside: votes behind a leader, its commits and reads, clocks, copies.

Owns: the checks that need every node's disk and memory at one moment. Never: changes anything, or takes random numbers, so that
a run with them and one without are the same run.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

from kvapi.v1 import election_pb2
from kvnode.protocol.raft.quorum import majority, reached_by_majority
from kvnode.protocol.raft.role import Role
from kvnode.shard.superseded import parse_operation_id
from kvnode.storage.records import HardStateRecord, Record
from kvnode.types import Hlc, Index, NodeName, Seconds, Shard, Term

if TYPE_CHECKING:
    from kvnode.node import Node
    from kvnode.protocol.ready import Ready
    from kvnode.shard.replica import Replica

    from .machine import SimNode
    from .world import World


class _Read(NamedTuple):
    """A strong read: when it came, and the largest index that any replica had applied then."""

    at: Seconds
    applied: Index


class Promises:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._leading: dict[tuple[Shard, NodeName], tuple[int, Term, Index]] = {}
        """Which life leads in which term, and its commit index when it was last looked at."""
        self._stamps: dict[NodeName, Hlc] = {}
        """The last stamp of each node's earlier lives."""
        self._applied: dict[Shard, Index] = {}
        """The largest index that any replica has applied."""

    def watch(self, sim: SimNode, replica: Replica) -> None:
        """Looks at this replica's strong reads, and at what it leads."""
        read, ready, shard, waiting = replica.read, replica.ready, replica.shard, dict[object, _Read]()

        def read_and_note(token: object, now: Seconds) -> None:
            waiting[token] = _Read(now, self._applied.get(shard, 0))
            read(token, now)
            self._check_reads(sim, replica, waiting, now)

        def ready_and_check(now: Seconds) -> Ready:
            self._check_reads(sim, replica, waiting, now)
            due = ready(now)
            self._applied[shard] = max(self._applied.get(shard, 0), replica.applied)
            self._check_leader(sim, replica)
            self._check_clock(sim)
            return due

        replica.read = read_and_note  # type: ignore[method-assign]
        replica.ready = ready_and_check  # type: ignore[method-assign]

    # ---- strong reads -----------------------------------------------------------------------------------------------

    def _check_reads(self, sim: SimNode, replica: Replica, waiting: dict[object, _Read], now: Seconds) -> None:
        """Reads that were released just now: by a majority that was asked after they came, or by a lease (12.3)."""
        raft, where = replica.raft, f"{sim.name}, shard {replica.shard}, term {replica.raft.term}"
        for released in raft.out_reads:
            read = waiting.pop(released.token, None)
            if read is None or released.index is None:
                continue
            if released.index < read.applied:
                message = f"{where}: it may see {released.index}, and {read.applied} was applied before it came"
                self._world.violate("a strong read sees what was applied before it", message)
            if raft.role is not Role.LEADER or not raft.progress:
                continue
            asked_at = reached_by_majority([now, *(progress.acked_at for progress in raft.progress.values())])
            if asked_at >= read.at:
                continue
            if not raft.settings.leader_lease:
                message = f"{where}: it came at {read.at}, a majority answered what was sent at {asked_at}"
                self._world.violate("a strong read's round starts after it came", message)
            elif others := self._later_leaders(sim, replica):
                self._world.violate("who serves reads by a lease leads alone", f"{where}: {others} lead in later terms")

    def _later_leaders(self, sim: SimNode, replica: Replica) -> list[NodeName]:
        nodes = [other.node for other in self._world.nodes.values() if other is not sim and other.node is not None]
        others = [node.replicas[replica.shard].raft for node in nodes if replica.shard in node.replicas]
        return [raft.me for raft in others if raft.role is Role.LEADER and raft.term > replica.raft.term]

    # ---- leaders ----------------------------------------------------------------------------------------------------

    def _check_leader(self, sim: SimNode, replica: Replica) -> None:
        """After each turn of a shard: a new leader has a majority's votes on their disks (DESIGN section 12.1, its own
        too), and an old one has committed through an entry of its term only (12.2)."""
        raft, key = replica.raft, (replica.shard, sim.name)
        if raft.role is not Role.LEADER:
            self._leading.pop(key, None)
            return
        life, term, commit = self._leading.get(key, (0, 0, 0))
        if (life, term) != (sim.life, raft.term):
            self._check_votes(sim, replica)
        elif raft.commit > commit and raft.log.term(raft.commit) not in (raft.term, None):
            self._world.violate(
                "a leader commits through its own term",
                f"{sim.name}, shard {replica.shard}, term {raft.term}: {raft.commit} of term {raft.log.term(raft.commit)}",
            )
        self._leading[key] = (sim.life, raft.term, raft.commit)

    def _check_votes(self, sim: SimNode, replica: Replica) -> None:
        raft, voted = replica.raft, []
        for name in raft.voters:
            voter = self._world.nodes[name]
            # (What a node with a new disk says is no vote.)
            model = (voter.former or voter.durable).shard(replica.shard)
            # (Who has gone on to a later term may have voted.)
            if model.term > raft.term or (model.term, model.vote) == (raft.term, sim.name):
                voted.append(name)
        if len(voted) < majority(len(raft.voters)) or sim.name not in voted:
            self._world.violate(
                "a leader has a majority's durable votes, its own too",
                f"{sim.name} leads shard {replica.shard} in term {raft.term} by the votes of {voted}",
            )

    def check_vote(
        self,
        sim: SimNode,
        request: election_pb2.RequestVoteRequest,
        response: election_pb2.RequestVoteResponse,
        at_arrival: tuple[Term, Index],
    ) -> None:
        """A vote leaves: the candidate's log is at least as complete as what this disk has of earlier terms (Raft, 5.4.1); a
        pre-vote binds nobody and may have waited for the disk, so it is held against what was there when the request came."""
        mine = at_arrival if response.pre_vote else sim.durable.shard(response.shard).end
        theirs = request.last_log_term, request.last_log_index
        if response.granted and 0 < mine[0] < request.term and mine > theirs:
            message = f"{sim.name}, shard {response.shard}, to {request.message.from_node}: it has {mine}, they have {theirs}"
            self._world.violate("nobody votes for a log that lacks what it has", message)

    def check_records(self, sim: SimNode, records: Sequence[Record]) -> None:
        """The log has written: a vote does not change within its term, and terms do not go back."""
        for record in records:
            if type(record) is HardStateRecord:
                model = sim.durable.shard(record.shard)
                before, after = (model.term, model.vote), (record.term, record.vote)
                if record.term < model.term or (record.term == model.term and model.vote not in ("", record.vote)):
                    message = f"{sim.name}, shard {record.shard}: term and vote were {before}, and are {after}"
                    self._world.violate("a vote does not change within its term", message)

    # ---- clocks -----------------------------------------------------------------------------------------------------

    def _check_clock(self, sim: SimNode) -> None:
        """After each turn of a shard: no stamp is beyond the bound that is on the disk."""
        node = sim.node
        if node is not None and node.clock.last >= node.clock.bound > 0:
            self._world.violate(
                "stamps stay below their durable bound", f"{sim.name}: {node.clock.last}, the bound is {node.clock.bound}"
            )

    def on_start(self, sim: SimNode, node: Node) -> None:
        """A life begins: the clock goes on where the last one was."""
        before = self._stamps.get(sim.name, 0)
        if not sim.lost and node.clock.last < before:
            self._world.violate("a clock does not go back", f"{sim.name} starts at {node.clock.last}, it was at {before}")

    def on_end(self, sim: SimNode) -> None:
        """A life ends."""
        if sim.node is not None:
            self._stamps[sim.name] = sim.node.clock.last

    # ---- copies -----------------------------------------------------------------------------------------------------

    def check_copies(self, sim: SimNode, operation: str, acks: int) -> None:
        """An eventual write is answered: as many replicas hold it on their disks, or it has its place in the log."""
        shard, origin, sequence = parse_operation_id(operation)
        holders = []
        for name, other in self._world.nodes.items():
            replica = other.node.replicas.get(shard) if other.node is not None else None
            if replica is not None and replica.machine.sequenced.get(origin, 0) >= sequence:
                return
            if other.lost or sequence in other.durable.shard(shard).eventual.get(origin, {}):
                holders.append(name)
        if len(holders) < acks:
            self._world.violate("as many replicas hold it as was said", f"{operation} by {sim.name}: {acks}, not {holders}")
