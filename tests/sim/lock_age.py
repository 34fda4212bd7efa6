"""No stuck lock (DESIGN section 12.10): where a transaction's shards are well, it ends within the push time-out and some
rounds.

Owns: since when each shard has been well, each replica's vote been there, and how long both may last together. Never: changes
anything, takes random numbers, or sets a timer: it looks when a replica has a turn, which heartbeats give it all the time.

A shard is well while one leader leads it in one term, and a majority with it runs, neither paused nor stopping, with disks that
answer, over links that are neither cut nor slow, to followers that take entries. (Faults of the network's quality make all
shards unwell; so do full disks.)
"""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, NamedTuple

from kvnode.protocol.raft.progress import Mode
from kvnode.protocol.raft.quorum import majority
from kvnode.protocol.raft.role import Role
from kvnode.routing import recovery, shard_leaders
from kvnode.types import NodeName, Seconds, Shard, Term, Txn

from .loop import MONOTONIC_DRIFT_MAX
from .network import LinkQuality

if TYPE_CHECKING:
    from kvnode.shard.replica import Replica

    from .machine import SimNode
    from .world import World

LOOK_EVERY: Seconds = 0.05
BLIND_AFTER: Seconds = 0.5
"""Who has not looked for so long does not know what was well meanwhile."""
SETTLED_AFTER: Seconds = shard_leaders.ATTEMPT_MAX + recovery.PAUSE_MAX + 0.5
"""An attempt that began while a shard was unwell may be in vain for so long, and then there is a pause."""
ROUNDS_MAX: Seconds = 1.5
"""From the push to the end: the step that finds the vote, the anchor's decision, the word to the shard, their entries."""
GOOD = LinkQuality()


class _Well(NamedTuple):
    """One leader in one term, since then."""

    leader: NodeName
    term: Term
    since: Seconds


class LockAge:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._looked: Seconds = -1.0
        self._well: dict[Shard, _Well] = {}
        self._parted: dict[tuple[NodeName, NodeName], Seconds] = {}
        """When two nodes were seen without a good link between them the last time."""
        self._held: dict[tuple[Shard, Txn], Seconds] = {}
        """Since when the leader of a shard that is well has had the vote."""

    def watch(self, sim: SimNode, replica: Replica) -> None:
        """Looks at everything whenever this replica has had a turn."""
        ready = replica.ready

        def ready_and_look(now: Seconds) -> object:
            due = ready(now)
            self.look()
            return due

        replica.ready = ready_and_look  # type: ignore[method-assign, assignment]

    @property
    def age_max(self) -> Seconds:
        """How long a vote may stand where all is well."""
        return (self._world.config.transactions.push_after_ms / 1000 + ROUNDS_MAX) / (1 - MONOTONIC_DRIFT_MAX)

    def look(self) -> None:
        """At all shards and their locks."""
        world = self._world
        now = world.loop.now
        if now - self._looked < LOOK_EVERY:
            return
        if now - self._looked > BLIND_AFTER:
            self._well.clear()
        self._looked = now
        for ends in itertools.permutations(world.nodes, 2):
            if not self._linked(*ends):
                self._parted[ends] = now
        known, self._well = self._well, {}
        for shard in range(world.config.cluster.shards):
            leader = self._leader(shard)
            if leader is not None:
                before = known.get(shard)
                same = before is not None and before[:2] == leader
                self._well[shard] = before if before is not None and same else _Well(*leader, now)
        held, self._held = self._held, {}
        for shard, well in self._well.items():
            node = world.nodes[well.leader].node
            assert node is not None
            for txn, prepared in node.replicas[shard].machine.transactions.prepared.items():
                since = self._held[shard, txn] = held.get((shard, txn), now)
                self._check(shard, txn, since, tuple(dict.fromkeys((prepared.command.anchor, *prepared.command.participants))))

    def _check(self, shard: Shard, txn: Txn, since: Seconds, shards: tuple[Shard, ...]) -> None:
        states = [self._well.get(one) for one in shards]
        if any(state is None for state in states):
            return
        settled = max(state.since for state in states if state is not None) + SETTLED_AFTER
        leaders = [state.leader for state in states if state is not None]
        parted = [self._parted.get((a, b), 0.0) for a in leaders for b in leaders if a != b]
        settled = max(settled, max(parted, default=0.0) + SETTLED_AFTER)
        if self._looked < settled:
            return
        self._world.counts["locks looked at where all is well"] += 1
        age = self._looked - max(since, settled)
        if age > self.age_max:
            message = f"shard {shard}, led by {self._well[shard].leader}: {txn} holds locks for {age:.3f} s, at most "
            message += f"{self.age_max:.3f} s while shards {list(shards)} are well"
            self._world.violate("no lock is stuck", message)

    # ---- what is well -----------------------------------------------------------------------------------------------

    def _leader(self, shard: Shard) -> tuple[NodeName, Term] | None:
        world = self._world
        for sim in world.nodes.values():
            replica = sim.node.replicas.get(shard) if sim.node is not None else None
            if replica is None or replica.raft.role is not Role.LEADER or not replica.takes_proposals or not self._runs(sim):
                continue
            voters = replica.raft.voters
            others = [world.nodes[name] for name in voters if name != sim.name]
            # (Who needs a snapshot takes no entries, and one whose connection died is given up only after a while.)
            fed = [other for other in others if replica.raft.progress[other.name].mode is Mode.REPLICATE]
            reached = [other for other in fed if self._runs(other) and self._linked(sim.name, other.name)]
            if len(reached) + 1 >= majority(len(voters)) and world.network.quality == GOOD:
                return sim.name, replica.raft.term
        return None

    @staticmethod
    def _runs(sim: SimNode) -> bool:
        if sim.node is None or sim.group is None or sim.lost or sim.failed or sim.stopping or sim.group.paused:
            return False
        hung = any(worker is None or worker._hung for worker in (sim.log_worker, sim.store_worker))
        return not hung and not sim.node.driver.out_of_space and sim.disk.capacity_bytes == 2**40

    def _linked(self, one: NodeName, other: NodeName) -> bool:
        links = [self._world.network._link(*ends) for ends in ((one, other), (other, one))]
        return all(not link.is_cut and not link.flapping and link.quality == GOOD for link in links)
