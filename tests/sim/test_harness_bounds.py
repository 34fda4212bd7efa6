"""Queues, deadlines, ages of locks, freshness of reads, outcomes: each check passes what is right, and names what is not."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.protocol.raft.progress import Mode
from kvnode.protocol.raft.role import Role
from kvnode.routing.context import RequestContext
from kvnode.routing.local import LocalShards
from kvnode.routing.locks import LockWaits
from kvnode.routing.recovery import Recovery
from kvnode.shard.replica import Replica
from kvnode.types import Txn

from .bounds_promises import CLOCK_ERROR, LATE_MAX, BoundsPromises, of_node, of_replica
from .history import EventualState, EventualWrite, Kind, Operation, Outcome
from .lock_age import BLIND_AFTER, SETTLED_AFTER, LockAge
from .loop import MONOTONIC_DRIFT_MAX
from .network import LinkQuality
from .outcomes import contradiction
from .simulation import check_weak_reads, simulate
from .staleness import Staleness
from .workload import WeakRead

STUCK_SEED, STALE_SEED, LATE_SEED = "40", "40", "46"
"""Seeds that catch the canaries."""


class FakeWorld:
    """Two nodes with a shard, of which `n1` leads; links and time are the test's."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.counts: Counter[str] = Counter()
        self.loop = SimpleNamespace(now=0.0)
        self.links: dict[tuple[str, str], Any] = {}
        self.network = SimpleNamespace(quality=LinkQuality(), _link=self._link)
        transactions = SimpleNamespace(push_after_ms=1000)
        self.config = SimpleNamespace(cluster=SimpleNamespace(shards=1), transactions=transactions)
        self.prepared: dict[Txn, Any] = {}
        self.nodes = {name: self._node(name) for name in ("n1", "n2", "n3")}

    def _link(self, source: str, target: str) -> Any:
        return self.links.setdefault((source, target), SimpleNamespace(is_cut=False, flapping=0, quality=LinkQuality()))

    def _node(self, name: str) -> Any:
        role = Role.LEADER if name == "n1" else Role.FOLLOWER
        progress = {other: SimpleNamespace(mode=Mode.REPLICATE) for other in ("n1", "n2", "n3")}
        raft = SimpleNamespace(role=role, term=3, voters=("n1", "n2", "n3"), reads=[], progress=progress)
        machine = SimpleNamespace(transactions=SimpleNamespace(prepared=self.prepared))
        replica = SimpleNamespace(shard=0, raft=raft, takes_proposals=True, machine=machine, waiting={})
        worker = SimpleNamespace(_hung=False)
        return SimpleNamespace(
            name=name,
            node=SimpleNamespace(replicas={0: replica}, driver=SimpleNamespace(out_of_space=False)),
            group=SimpleNamespace(paused=False, resumed_at=0.0),
            lost=False,
            failed=False,
            stopping=False,
            log_worker=worker,
            store_worker=worker,
            disk=SimpleNamespace(capacity_bytes=2**40),
        )

    def violate(self, rule: str, message: str) -> None:
        """Notes the rule."""
        self.rules.append(rule)


# ---- queues and deadlines -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("waiting", "passes"), [(4, True), (5, False)])
def test_queue_beyond_its_limit_is_found(monkeypatch: pytest.MonkeyPatch, waiting: int, passes: bool) -> None:
    """A queue may be full, and no fuller."""
    monkeypatch.setattr(limits, "PROPOSALS_PER_SHARD_MAX", 4)
    world = FakeWorld()
    sim = world.nodes["n1"]
    replica = sim.node.replicas[0]
    replica.waiting.update({index: SimpleNamespace(token=object()) for index in range(waiting)})
    replica.waiting[99] = SimpleNamespace(token=None)
    locks = LockWaits(None, lambda: 0)  # type: ignore[arg-type]
    node: Any = SimpleNamespace(local=SimpleNamespace(locks=locks))
    BoundsPromises(world).check(sim, 0, of_replica(node, replica))  # type: ignore[arg-type]
    assert (world.rules == []) == passes
    assert world.counts["full: proposals"] == (waiting == 4)


@pytest.mark.parametrize(("now", "passes"), [(5.0, True), (5.001, False)])
def test_proposal_after_its_deadline_is_found(now: float, passes: bool) -> None:
    """Work whose caller does not wait any more is dropped before it is proposed."""
    world = FakeWorld()
    BoundsPromises(world).check_deadline(world.nodes["n1"], now, 5.0)  # type: ignore[arg-type]
    assert (world.rules == []) == passes


@pytest.mark.parametrize(
    ("late", "resumed_at", "passes"),
    [(0.0, 0.0, True), (0.1, 0.0, False), (0.1, 5.05, True)],
    ids=["in time", "late", "paused"],
)
def test_answer_after_its_deadline_is_found(late: float, resumed_at: float, passes: bool) -> None:
    """A request is answered, or refused, by its deadline, unless its node was paused."""
    world = FakeWorld()
    sim = world.nodes["n1"]
    sim.group.resumed_at = resumed_at
    now = 5.0 + LATE_MAX + CLOCK_ERROR * 1.0 + late
    BoundsPromises(world).check_answered(sim, now, 5.0, 1.0, "get")  # type: ignore[arg-type]
    assert (world.rules == []) == passes


def test_node_that_bounds_nothing_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every queue of a node is looked at: a limit of nothing is broken by whatever waits."""
    for name in ("PROPOSED_SIZE_BYTES_MAX", "FORWARDS_IN_FLIGHT_MAX", "TRANSACTIONS_COORDINATED_MAX", "APPENDS_IN_FLIGHT_MAX"):
        monkeypatch.setattr(limits, name, 0)
    waiting = {1: SimpleNamespace(token=object(), size_bytes=3)}
    node: Any = SimpleNamespace(
        config=SimpleNamespace(cluster=SimpleNamespace(shards=1)),
        replicas={0: SimpleNamespace(waiting=waiting)},
        router=SimpleNamespace(_forwards=1, _leader_waits=1),
        two_phase=SimpleNamespace(coordinators=SimpleNamespace(_running=1), recovery=SimpleNamespace(_tasks=range(33))),
        outbox=SimpleNamespace(_links={"n2": SimpleNamespace(_in_flight=1)}),
    )
    world = FakeWorld()
    BoundsPromises(world).check(world.nodes["n1"], None, of_node(node))  # type: ignore[arg-type]
    assert len(world.rules) == len(list(of_node(node))) == 6


# ---- locks --------------------------------------------------------------------------------------------------------------


def look_until(world: FakeWorld, age: LockAge, until: float) -> None:
    """Looks all the time, until then."""
    while world.loop.now < until:
        world.loop.now += BLIND_AFTER / 5
        age.look()


@pytest.mark.parametrize("unwell", ["", "cut", "behind", "paused", "another term", "hung", "not looked at"])
def test_lock_that_is_stuck_while_all_is_well_is_found(unwell: str) -> None:
    """A vote stands no longer than the push time-out and some rounds, counted from when its shards were well."""
    world = FakeWorld()
    age = LockAge(world)  # type: ignore[arg-type]
    world.prepared[Txn(1, b"a")] = SimpleNamespace(command=SimpleNamespace(anchor=0, participants=[0]))
    look_until(world, age, SETTLED_AFTER + age.age_max - 0.3)
    assert world.rules == []
    if unwell == "cut":
        world._link("n1", "n2").is_cut = world._link("n3", "n1").is_cut = True
    elif unwell == "behind":
        for other in world.nodes["n1"].node.replicas[0].raft.progress.values():
            other.mode = Mode.SNAPSHOT
    elif unwell == "paused":
        world.nodes["n1"].group.paused = True
    elif unwell == "another term":
        world.nodes["n1"].node.replicas[0].raft.term = 4
    elif unwell == "hung":
        world.nodes["n1"].log_worker._hung = True
    elif unwell:
        world.loop.now += 2 * BLIND_AFTER
    look_until(world, age, SETTLED_AFTER + age.age_max + 1.5)
    assert (world.rules == []) == bool(unwell)
    assert world.counts["locks looked at where all is well"]


def test_lock_between_leaders_that_were_parted_is_judged_from_then_on() -> None:
    """Each shard may be well without a link between their leaders: what was asked over it was asked in vain."""
    world = FakeWorld()
    world.config.cluster.shards = 2
    for sim in world.nodes.values():
        first = sim.node.replicas[0]
        leads = Role.LEADER if sim.name == "n2" else Role.FOLLOWER
        raft = SimpleNamespace(role=leads, term=1, voters=first.raft.voters, reads=[], progress=first.raft.progress)
        nothing = SimpleNamespace(transactions=SimpleNamespace(prepared={}))
        sim.node.replicas[1] = SimpleNamespace(shard=1, raft=raft, takes_proposals=True, machine=nothing, waiting={})
    age = LockAge(world)  # type: ignore[arg-type]
    world.prepared[Txn(1, b"a")] = SimpleNamespace(command=SimpleNamespace(anchor=1, participants=[0, 1]))
    link = world._link("n1", "n2")
    link.is_cut = True
    look_until(world, age, 5.0)
    link.is_cut = False
    look_until(world, age, 5.0 + SETTLED_AFTER + age.age_max - 0.3)
    assert world.rules == []
    look_until(world, age, 5.0 + SETTLED_AFTER + age.age_max + 0.5)
    assert world.rules


def test_lock_that_its_recovery_leaves_is_found_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: nodes that push nothing, neither by themselves nor when asked, leave locks behind where all is well."""
    monkeypatch.setattr(Recovery, "push", lambda self, shard, txn: None)
    assert any(violation.rule == "no lock is stuck" for violation in simulate(STUCK_SEED, "transactions").violations)


def test_replica_that_calls_any_state_fresh_is_found_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: replicas that claim to be up to date whatever they have heard serve bounded reads that are too old."""
    monkeypatch.setattr(Replica, "staleness", lambda self, now: 0.0)
    broken = simulate(STALE_SEED, "partitions").violations
    assert any(violation.rule == "a bounded read is as fresh as asked" for violation in broken)


def test_node_that_keeps_no_deadline_is_found_in_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: requests that wait for their outcome for as long as it takes are answered too late."""

    async def wait(self: LocalShards, future: Any, context: RequestContext, late: object) -> Any:
        return await future

    monkeypatch.setattr(LocalShards, "_wait", wait)
    broken = simulate(LATE_SEED, "partitions").violations
    assert any(violation.rule == "requests are answered by their deadline" for violation in broken)


# ---- bounded reads ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("served", "found", "revision", "asked_at", "passes"),
    [
        (3, True, 3, 9.5, True),
        (2, True, 2, 9.5, False),
        (3, True, 1, 9.5, False),
        (3, False, 0, 9.5, False),
        (2, True, 1, 4.0 + 1 / (1 - MONOTONIC_DRIFT_MAX) - 0.01, True),
        (4, False, 0, 9.5, True),
    ],
    ids=["fresh", "index too old", "version too old", "missing", "written within the bound", "deleted since"],
)
def test_bounded_read_of_an_older_state_is_found(
    served: int, found: bool, revision: int, asked_at: float, passes: bool
) -> None:
    """What was applied anywhere before the bound is seen by a bounded read."""
    world = FakeWorld()
    staleness = Staleness(world)  # type: ignore[arg-type]
    log = ((1, 2.0, b"k", False), (2, 3.0, b"other", False), (3, 4.0, b"k", False), (4, 9.0, b"k", True))
    for place, at, key, deleted in log:
        world.loop.now = at
        staleness.on_write(key, place, place, deleted=deleted)
        staleness.on_applied(0, place)
    request = kv_pb2.GetRequest(key=b"k", max_staleness_ms=1000)
    response = kv_pb2.GetResponse(found=found, revision=revision, served=kv_pb2.Served(node="n1", revision=served))
    staleness.check(request, response, asked_at)
    assert (world.rules == []) == passes


# ---- what is said of writes, and shown of them --------------------------------------------------------------------------

APPLIED, SUPERSEDED = kv_pb2.OPERATION_STATE_APPLIED, kv_pb2.OPERATION_STATE_SUPERSEDED
SETTLED, PENDING = kv_pb2.OPERATION_STATE_SETTLED, kv_pb2.OPERATION_STATE_PENDING


@pytest.mark.parametrize(
    ("said", "known", "passes"),
    [
        ((APPLIED, 7, 0), (EventualState.APPLIED, 7, 0), True),
        ((APPLIED, 8, 0), (EventualState.APPLIED, 7, 0), False),
        ((APPLIED, 7, 0), (EventualState.SUPERSEDED, 7, 5), False),
        ((SUPERSEDED, 7, 5), (EventualState.SUPERSEDED, 7, 5), True),
        ((SUPERSEDED, 7, 4), (EventualState.SUPERSEDED, 7, 5), False),
        ((SETTLED, 0, 0), (EventualState.SUPERSEDED, 7, 5), True),
        ((SETTLED, 0, 0), (EventualState.UNKNOWN, 0, 0), False),
        ((PENDING, 0, 0), (EventualState.APPLIED, 7, 0), False),
    ],
)
def test_operation_whose_outcome_is_told_wrongly_is_found(
    said: tuple[kv_pb2.OperationState, int, int], known: tuple[EventualState, int, int], passes: bool
) -> None:
    """`KV.Operation` says what became of a write, or that it is so long ago that nobody knows."""
    answer = kv_pb2.OperationResponse(state=said[0], revision=said[1], superseded_by=said[2], key=b"k")
    write = EventualWrite("0.n1.1.1", b"k", True, *known)
    assert (contradiction(answer, write) is None) == passes


@pytest.mark.parametrize(
    ("value", "outcome", "revision", "rules"),
    [
        (b"v", Outcome.OK, 7, []),
        (b"v", Outcome.OK, 6, ["a read tells the revision of what it shows"]),
        (b"v", Outcome.FAILED, 7, ["definite means definite"]),
        (b"w", Outcome.OK, 7, ["a value was written by somebody"]),
    ],
)
def test_weak_read_of_what_nobody_wrote_is_found(value: bytes, outcome: Outcome, revision: int, rules: list[str]) -> None:
    """Weak reads show what was written, at its revision."""
    written = Operation(1, "c1", Kind.PUT, b"k", b"v", outcome=outcome, revision=7)
    found = check_weak_reads([WeakRead(b"k", value, revision, False, "c2")], [written], {})
    assert [violation.rule for violation in found] == rules
