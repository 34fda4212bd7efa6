"""One run: a seed and a scenario in, a verdict out. Two phases, as in TigerBeetle's VOPR: safety under faults, then a majority
is healed and must make progress; at the end everything is healed and must agree.

Owns: the order of the phases, the demands of the second, the checks at the end. Never: takes anything but seed and scenario
into account, so that both replay a run exactly.
"""

from __future__ import annotations

import gc
import random
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TextIO

import structlog

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of
from kvnode.errors import KvnodeError
from kvnode.protocol.raft import leader
from kvnode.runtime.transport import PeerUnreachable

from .bounds import small_bounds
from .faults import Faults
from .history import (
    EventualState,
    EventualWrite,
    Kind,
    Operation,
    Outcome,
    Violation,
    check_acknowledged_applied,
    check_eventual_contract,
    check_revision_order,
)
from .linearizability import check_linearizability
from .loop import SimulatedLoop, SimulationError, run
from .network import KEEPALIVE_S
from .outcomes import check_fates, check_outcomes
from .sdk_client import simulated_sdk
from .sdk_workload import SdkWorkload
from .session_guarantees import check_read_your_writes, check_writes_follow_reads
from .trace import Trace
from .transactions import TransactionWorkload
from .workload import WeakRead, Workload, kind_of
from .world import World, log_to

STEPS_MAX = 6_000_000


@dataclass
class Result:
    """How a run ended."""

    seed: str
    scenario: str
    without: tuple[str, ...] = ()
    """Kinds of faults, and parts of the work, that were left out."""
    trace_hash: str = ""
    simulated_s: float = 0.0
    real_s: float = 0.0
    steps: int = 0
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    """How often each named place was reached…"""
    deaths: Counter[str] = field(default_factory=Counter)
    """… and how often somebody died there."""
    violations: list[Violation] = field(default_factory=list)
    tail: str = ""

    @property
    def ok(self) -> bool:
        """Whether every check passed."""
        return not self.violations


class Simulation:
    """The phases of one run."""

    def __init__(self, loop: SimulatedLoop, trace: Trace, scenario: str, without: Collection[str] = ()) -> None:
        rng = loop.random("shape")
        nodes, factor = rng.choice(((3, 3), (3, 3), (4, 3), (5, 3), (5, 5)))
        shards = rng.choice((2, 3, 4) if scenario == "transactions" else (1, 2, 4))
        leases = True if scenario == "leases" else None
        self.world = World(loop, trace, nodes=nodes, shards=shards, replication_factor=factor, leader_lease=leases)
        self.rng, self.loop = rng, loop
        self.faults = Faults(self.world, scenario, without=without, interval_s_mean=rng.choice((0.1, 0.3, 1.0, 3.0)))
        clients = rng.choice((2, 4, 8, 12))
        self.workload = Workload(self.world, clients=clients, pause_s_mean=clients / rng.choice((20.0, 60.0, 200.0)))
        self.transactions = TransactionWorkload(self.world, self.workload, always=scenario == "transactions")
        if "transactions" in without:
            self.transactions.leave_out()
        self.sdk = SdkWorkload(self.world, self.workload, self.transactions, self.faults, leave_out="sdk" in without)
        self.fault_time = rng.uniform(5.0, 20.0)
        election_s = self.world.config.election.timeout_ms_max / 1000
        detection_s = self.world.config.failure_detection.silence_ms_max / 1000
        # A snapshot on a connection that died is given up only by the keepalive.
        self.progress_bound = 10.0 + KEEPALIVE_S + 4 * election_s + detection_s
        self.progress_bound += self.world.config.transactions.push_after_ms / 1000

    async def run(self) -> None:
        """All phases."""
        world = self.world
        log_to(world)
        for node in world.nodes.values():
            world.outside(self.rng.uniform(0.0, 0.2), node.start)
        await world.sleep(self.rng.uniform(0.0, 3.0))
        self.workload.start()
        self.transactions.start()
        self.sdk.start()
        faults = self.loop.create_task(self.faults.run(), name="faults")
        await world.sleep_unless_broken(self.fault_time)
        self.faults.running = False
        await faults
        if world.violations:
            return
        dead = self._dead()
        world.note("", f"a majority is healed; dead: {dead}")
        self.faults.heal(dead)
        await self._demand_progress("with a majority healed", dead)
        world.note("", "all are healed")
        self.faults.heal()
        await self._demand_progress("with all healed", [])
        await self.workload.stop()
        await self.sdk.stop(self.progress_bound)
        await self.transactions.stop()
        await self._converge()
        if not world.violations:
            await self._drain()
            await check_outcomes(world, self.workload)
        if not world.violations:
            last = await self.transactions.last_states()
            self._check_end()
            self._report(self.transactions.check(last))

    def _dead(self) -> list[str]:
        """A minority of every shard's replicas, lost disks counted."""
        count = (self.world.config.cluster.replication_factor - 1) // 2
        lost = [node.name for node in self.world.nodes.values() if node.lost or node.damage]
        others = [name for name in self.world.nodes if name not in lost]
        return self.rng.sample(others, max(0, self.rng.randint(0, count) - len(lost)))

    # ---- progress ---------------------------------------------------------------------------------------------------

    async def _demand_progress(self, when: str, dead: list[str]) -> None:
        """Every shard takes a strong write, and all of them a transaction, through every live node, within the bound."""
        world, start = self.world, self.loop.now
        shards = range(world.config.cluster.shards)
        keys = [
            next(key for n in range(10_000) if shard_of(key := b"progress%d" % n, len(shards)) == shard) for shard in shards
        ]
        puts = [kv_pb2.PutRequest(key=key, value=b"x") for key in keys]
        demanded: dict[str, Any] = {
            f"strong write of shard {shard}": request for shard, request in zip(shards, puts, strict=True)
        }
        demanded["transaction of all shards"] = kv_pb2.TxnRequest(then=[kv_pb2.BatchOperation(put=request) for request in puts])
        endpoint = world.network.endpoint("progress")
        for what, request in demanded.items():
            for name, node in world.nodes.items():
                if name in dead or node.lost:
                    continue
                last = ""
                while True:
                    if world.violations:
                        return
                    if self.loop.now - start > self.progress_bound:
                        world.violate("progress", f"{when}: no {what} through {name}: {last}")
                        return
                    try:
                        await endpoint.forward(name, request, 2.0, 0)
                        break
                    except (KvnodeError, PeerUnreachable) as error:
                        last = f"{type(error).__name__}: {error}"
                        await world.sleep(0.05)
        world.note("", f"progress {when} after {self.loop.now - start:.3f} s")

    # ---- agreement --------------------------------------------------------------------------------------------------

    def _disagreement(self) -> str:
        """What is not settled yet; empty when all agree."""
        world = self.world
        for shard in range(world.config.cluster.shards):
            states = {}
            for name, sim in world.nodes.items():
                if sim.lost:
                    continue
                if sim.node is None:
                    return f"{name} does not run"
                replica = sim.node.replicas.get(shard)
                if replica is None:
                    continue
                if replica.holder.size:
                    return f"shard {shard}: {name} still holds {replica.holder.size} eventual writes: {_held(replica.holder)}"
                machine = replica.machine
                if machine.transactions.prepared or len(machine.waiting):
                    locked = list(map(str, machine.transactions.prepared))
                    return (
                        f"shard {shard}: {name} holds locks for {locked}, {len(machine.waiting)} eventual writes wait for them"
                    )
                raft = replica.raft
                if raft.log.last_index != raft.commit or replica.applied != raft.commit:
                    return f"shard {shard}: {name} applied {replica.applied}, committed {raft.commit} of {raft.log.last_index}"
                if replica.waiting:
                    return f"shard {shard}: {name} has proposals waiting at {list(replica.waiting)}"
                states[name] = (replica.applied, replica.machine.state_hash)
            if len(set(states.values())) > 1:
                return f"shard {shard}: {states}"
        return ""

    async def _converge(self) -> None:
        world = self.world
        start = self.loop.now
        while (different := self._disagreement()) and not world.violations:
            if self.loop.now - start > 2 * self.progress_bound:
                world.violate("agreement once all are healed", different)
                return
            await world.sleep(0.1)
        world.note("", f"agreed after {self.loop.now - start:.3f} s")
        # A log is cut when its shard is flushed, and what a snapshot needs is kept until it arrived, or its connection died.
        start = self.loop.now
        while (unbounded := self._unbounded_log()) and not world.violations:
            if self.loop.now - start > 2 * self.progress_bound:
                world.violate("the log is bounded", unbounded)
                return
            await self._demand_progress("once all agree", [])
            await world.sleep(world.config.storage.flush_interval_s + 3.0)

    async def _drain(self) -> None:
        """Nobody asks anything any more (but for copies that were long on their way): soon nothing waits."""
        start = self.loop.now
        while left := self.world.witness.bounds.undrained():
            if self.loop.now - start > self.progress_bound:
                self.world.violate("queues drain when nobody asks", left)
                return
            await self.world.sleep(0.1)

    def _unbounded_log(self) -> str:
        """A log that is longer than it need be; empty: none."""
        config = self.world.config
        for sim in self.world.live():
            assert sim.node is not None
            for shard, replica in sim.node.replicas.items():
                log = replica.raft.log
                # (What follows a snapshot that is on its way is kept until it has arrived.)
                floor = leader.snapshot_floor(replica.raft)
                kept_from = log.last_index if floor is None else min(floor, log.last_index)
                if kept_from - log.offset > config.replication.entries_retained + 50:
                    return f"{sim.name}, shard {shard}: {log.last_index - log.offset} entries"
            bound = 4 * (config.storage.memtable_size_bytes + config.storage.segment_size_bytes) + 256 * 1024
            if sim.node.log.size_bytes > bound:
                return f"{sim.name}: {sim.node.log.size_bytes} bytes of at most {bound}"
        return ""

    # ---- the checks -------------------------------------------------------------------------------------------------

    def _check_end(self) -> None:
        world, workload = self.world, self.workload
        found: list[Violation] = []
        lost = [node.name for node in world.nodes.values() if node.lost]
        outcomes: dict[int, list[EventualWrite]] = {}
        for write in workload.eventual:
            outcome = workload.outcome_of(write)
            operation = write.operation
            # The node that lost its disk begins to count anew: its writes' ids name others', and one alone had them.
            doubtful = write.operation_id.split(".")[1:2] == lost
            if not doubtful:
                outcomes.setdefault(operation.shard, []).append(outcome)
            if operation.outcome == "pending":
                revision = outcome.revision if outcome.state is EventualState.APPLIED and not doubtful else None
                if revision is None and operation.value is not None:
                    revision = world.witness.placed_values.get(operation.value)
                if revision is None and write.operation_id and outcome.state is EventualState.SUPERSEDED and not doubtful:
                    workload.history.fail(operation, "superseded")
                elif revision is None and operation.value is not None:
                    workload.history.fail(operation, "without a place at the end")
                else:
                    workload.history.unknown(operation, "eventual", revision=revision)
            elif operation.value is not None and operation.value in world.witness.placed_values:
                found.append(Violation("definite means definite", f"{kind_of(operation)} took effect: {operation.note}"))
        for shard in range(world.config.cluster.shards):
            applied = [w for _, writes in sorted(world.witness.applied.get(shard, {}).items()) for w in writes]
            found += check_eventual_contract(outcomes.get(shard, []), applied, horizons=world.witness.horizons.get(shard, ()))
            found += check_acknowledged_applied(
                (o for o in workload.history.operations if o.shard == shard and o.outcome == "ok"), applied
            )
        found += check_read_your_writes(world, workload)
        found += check_writes_follow_reads(world, workload)
        found += check_fates(world, workload)
        found += check_weak_reads(workload.weak_reads, workload.history.operations, world.witness.placed_values)
        found += world.witness.transaction_promises.check()
        found += check_revision_order(workload.history.operations)
        if not found:
            # (Keys of transactions are checked with all that happens to them.)
            mine = [o for o in workload.history.operations if not self.transactions.has(o.key)]
            report = check_linearizability(mine)
            world.counts["operations in linearizations"] += sum(key.operations for key in report.keys)
            found += [Violation("linearizability", str(failure)) for failure in report.failures]
        self._report(found)

    def _report(self, found: list[Violation]) -> None:
        for violation in found:
            self.world.violate(violation.rule, violation.message)


def check_weak_reads(
    reads: Sequence[WeakRead], operations: Sequence[Operation], placed: Mapping[bytes, int]
) -> list[Violation]:
    """Whatever level a read has, it shows what somebody wrote to the key, where the log has it. `placed`: the places of
    eventual writes, by value."""
    writers = {operation.value: operation for operation in operations if operation.kind is Kind.PUT}
    found = []
    for read in reads:
        writer = writers.get(read.value)
        if writer is None or writer.key != read.key:
            found.append(Violation("a value was written by somebody", str(read)))
            continue
        if writer.outcome is Outcome.FAILED and not writer.note.startswith(("superseded", "without a place")):
            found.append(Violation("definite means definite", f"{read}: {writer.answer()}"))
        place = placed.get(read.value, writer.revision if writer.outcome is Outcome.OK else None)
        if not read.tentative and place is not None and place != read.revision:
            found.append(Violation("a read tells the revision of what it shows", f"{read}, written at {place}"))
    return found


def _held(holder: object) -> list[tuple[str, int, int]]:
    return [(w.node, w.incarnation, w.sequence) for w in holder.writes()][:5]  # type: ignore[attr-defined]


def simulate(
    seed: int | str, scenario: str = "mixed", *, sink: TextIO | None = None, tail: int = 200, without: Sequence[str] = ()
) -> Result:
    """Runs one seed. Never raises for what the cluster did; everything is in the result.

    `without`: kinds of faults, and parts of the clients' work ("transactions"), that are left out; it is another run then.
    """
    result = Result(str(seed), scenario, tuple(without))
    started = time.perf_counter()
    kept: list[tuple[Simulation, Trace]] = []

    async def main(loop: SimulatedLoop) -> None:
        trace = Trace(lambda: loop.now, sink=sink)
        simulation = Simulation(loop, trace, scenario, without)
        kept.append((simulation, trace))
        try:
            with simulated_sdk(simulation.world):
                await simulation.run()
        finally:
            result.trace_hash, result.simulated_s, result.steps = trace.hash(), loop.now, loop.steps
            gc.collect()  # What a task died of is told when the task is gone; some are held by what they died of.
            unhandled = [line for line in loop.unhandled if "PowerCut" not in line]
            for line in unhandled[:5]:
                simulation.world.violate("no error goes unnoticed", line)
            loop.unhandled.clear()
            simulation.world.over = True

    name, fuzz = f"{scenario}/{seed}", _fuzz(seed)
    try:
        with small_bounds(random.Random(f"{name}/bounds")):
            run(lambda loop: main(loop), seed=name, until=600.0, steps_max=STEPS_MAX, strict=False, fuzz=fuzz)
    except SimulationError as error:
        result.violations.append(Violation("the run ends", str(error)[:3000]))
    except Exception as error:
        import traceback

        result.violations.append(Violation("the harness works", "".join(traceback.format_exception(error))))
    finally:
        structlog.reset_defaults()
    if kept:
        simulation, trace = kept[0]
        world = simulation.world
        result.violations += world.violations
        result.faults = world.faults + world.network.faults
        result.counts = world.counts
        result.places, result.deaths = world.places.reached, world.places.deaths
        for operation in simulation.workload.history.operations:
            result.operations[str(operation.outcome)] += 1
        if result.violations:
            result.tail = trace.tail(tail)
    result.real_s = time.perf_counter() - started
    return result


def _fuzz(seed: int | str) -> bool:
    return random.Random(f"{seed}/fuzz").random() < 0.3


__all__ = ["Result", "simulate"]
