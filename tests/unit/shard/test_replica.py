"""One shard on one node: who waits for what, and what each gets."""

from __future__ import annotations

from kvapi.v1 import failure_detection_pb2, replication_pb2
from kvnode.errors import NoLeader, OutcomeUnknown
from kvnode.shard.replica import QUORUM_AGE_UNKNOWN, UNKNOWN_AFTER
from kvnode.shard.state_machine import LOCAL, WriteResult
from kvnode.types import Origin
from tests.scripts.pure_cluster import PureCluster

Command, PutCommand = replication_pb2.Command, replication_pb2.PutCommand


def put(key: bytes = b"k", value: bytes = b"v") -> replication_pb2.Command:
    """A strong put."""
    return Command(put=PutCommand(key=key, value=value))


def led(nodes: int = 3, **options: int) -> PureCluster:
    """A cluster whose node 1 leads, with everything settled."""
    cluster = PureCluster(nodes, **options)
    cluster.time = 10.0
    cluster.start_all()
    cluster.campaign("1")
    cluster.settle()
    cluster.beat("1")
    cluster.settle()
    return cluster


def test_write_is_answered_when_it_is_applied_and_not_before() -> None:
    """Applied: committed, and on this node's disk."""
    cluster = led()
    cluster.propose("1", put(), "w")
    for message in list(cluster.network):
        cluster.deliver(message)
    cluster.durable("2")
    cluster.durable("3")
    for message in list(cluster.network):
        cluster.deliver(message)
    assert (cluster.nodes["1"].replica.raft.commit, "w" in cluster.outcomes) == (2, False)
    cluster.durable("1")
    assert cluster.outcomes["w"] == WriteResult(2, False)


def test_write_at_a_follower_is_refused_for_certain() -> None:
    """It was not proposed; the router forwards."""
    cluster = led()
    cluster.propose("2", put(), "w")
    assert isinstance(cluster.outcomes["w"], NoLeader)
    assert "the leader is 1" in cluster.outcomes["w"].message


def test_write_during_a_handing_over_is_refused_for_certain() -> None:
    """Section 3.10: the successor must catch up."""
    cluster = led()
    cluster.hand_over("1", "2")
    cluster.propose("1", put(), "w")
    assert isinstance(cluster.outcomes["w"], NoLeader)


def test_write_whose_place_another_entry_took_certainly_failed() -> None:
    """Log Matching: it can never be committed any more."""
    cluster = led()
    cluster.propose("1", put(), "w")
    cluster.network.clear()
    cluster.durable("1")
    cluster.time += 2.0
    cluster.tick("1")
    cluster.campaign("2")
    cluster.settle()
    cluster.time += 0.6
    cluster.tick("2")
    cluster.beat("2")
    cluster.settle()
    cluster.beat("2")
    cluster.settle()
    assert isinstance(cluster.outcomes["w"], NoLeader)


def test_write_of_a_deposed_leader_is_unknown_after_a_while() -> None:
    """Nobody told it what became of the entry: it must not be called failed."""
    cluster = led()
    cluster.propose("1", put(), "w")
    cluster.network.clear()
    cluster.durable("1")
    cluster.time += 2.0
    cluster.tick("1")
    cluster.time += UNKNOWN_AFTER - 0.1
    cluster.tick("1")
    assert "w" not in cluster.outcomes
    cluster.time += 0.2
    cluster.tick("1")
    assert isinstance(cluster.outcomes["w"], OutcomeUnknown)


def test_write_covered_by_a_snapshot_is_unknown() -> None:
    """The snapshot holds the state, not who wrote it."""
    cluster = led()
    replica = cluster.nodes["1"].replica
    cluster.propose("1", put(), "w")
    cluster.network.clear()
    cluster.durable("1")
    snapshot = led()
    snapshot.propose("1", put(), "x")
    snapshot.settle()
    snapshot.flush("1")
    disk = snapshot.nodes["1"].disk
    with disk.store.snapshot(0) as rows:
        cluster.nodes["1"].disk.store.replace(0, LOCAL, list(rows))
    cluster.nodes["1"].table.reset()
    replica.on_snapshot_installed(2, 1)
    cluster.drain(cluster.nodes["1"])
    assert (replica.applied, type(cluster.outcomes["w"])) == (2, OutcomeUnknown)


def test_eventual_write_of_a_session_is_stamped_above_what_the_session_saw() -> None:
    """Its earlier write went to a node whose clock is ahead; last writer wins must not turn the two around."""
    cluster = led()
    replica = cluster.nodes["2"].replica
    ahead = replica.clock() + (300 << 16)
    replica.accept(b"k", b"later", ahead, "e", cluster.now("2"))
    assert [write.hlc for write in replica.holder.held_at_key(b"k")] == [ahead + 1]


def test_eventual_write_is_answered_once_durable_and_stamped_above_what_it_shows() -> None:
    """Its base is what this replica has applied; its clock is above the version and above held writes."""
    cluster = led()
    cluster.nodes["1"].skew_ms = 400
    cluster.propose("1", put(), "w")
    cluster.settle()
    cluster.beat("1")
    cluster.settle()
    cluster.accept("2", b"k", b"1", "e1")
    cluster.accept("2", b"k", b"2", "e2")
    assert "e1" not in cluster.outcomes
    cluster.durable("2")
    first, second = cluster.outcomes["e1"], cluster.outcomes["e2"]
    version = cluster.nodes["2"].replica.machine.version(b"k")
    assert version is not None
    assert (first.base, first.sequence, second.sequence) == (2, 1, 2)
    assert version.hlc < first.hlc < second.hlc


def test_held_writes_survive_a_flush_and_a_restart_in_order() -> None:
    """Ten and more: rows of the store come back in byte order, which is not the order of numbers."""
    cluster = led()
    cluster.crash("1")
    for number in range(12):
        cluster.accept("2", b"k", b"%d" % number, number)
    cluster.settle()
    cluster.flush("2")
    cluster.crash("2")
    cluster.start("2")
    holder = cluster.nodes["2"].replica.holder
    assert [write.sequence for write in holder.writes()] == list(range(1, 13))
    assert holder.held(Origin("2", 1)) == 12


def test_rows_of_a_flush_that_failed_are_deleted_by_the_next() -> None:
    """What the store holds is what the last *successful* flush put there."""
    cluster = led()
    replica = cluster.nodes["2"].replica
    cluster.accept("2", b"k", b"v", "e")
    cluster.settle()
    held = [key for key, value in replica.local_rows() if value is not None]
    replica.on_flushed(1, 0)
    replica.holder.on_sequenced(replica.me, 1)
    assert replica.local_rows() == [(held[0], None)]
    # (No `on_flushed`: there was no space.)
    assert replica.local_rows() == [(held[0], None)]
    replica.on_flushed(1, 0)
    assert replica.local_rows() == []


def test_flushed_state_counts_as_committed_after_a_restart() -> None:
    """The commit index of the hard state is only a hint."""
    cluster = led()
    cluster.propose("1", put(), "w")
    cluster.settle()
    cluster.flush("1", cut=False)
    cluster.crash("1")
    cluster.start("1")
    replica = cluster.nodes["1"].replica
    assert (replica.applied, replica.raft.commit, replica.raft.log.offset) == (2, 2, 1)


def test_session_waits_are_woken_by_a_snapshot() -> None:
    """What changed is the applied index, whatever changed it."""
    cluster = led()
    node = cluster.nodes["1"]
    node.replica.waits.for_change("waiting")
    cluster.drain(node)
    assert "waiting" not in cluster.outcomes
    other = led()
    other.propose("1", put(), "w")
    other.settle()
    other.flush("1")
    with other.nodes["1"].disk.store.snapshot(0) as rows:
        node.disk.store.replace(0, LOCAL, list(rows))
    node.table.reset()
    node.replica.on_snapshot_installed(2, 1)
    cluster.drain(node)
    assert cluster.outcomes["waiting"] is None


def test_log_is_cut_behind_the_flush_and_keeps_what_slow_followers_need() -> None:
    """DESIGN 12.14; the entries retained are only a saving of snapshots."""
    cluster = led()
    for number in range(6):
        cluster.propose("1", put(value=b"%d" % number), number)
    cluster.settle()
    replica = cluster.nodes["1"].replica
    replica.on_flushed(5, 2)
    assert replica.raft.log.offset == 3
    replica.on_flushed(5, 100)
    assert replica.raft.log.offset == 3


def test_entries_during_an_installation_are_refused_without_a_place() -> None:
    """The log must not move while a snapshot replaces the state."""
    cluster = led()
    node = cluster.nodes["2"]
    node.replica.installing = True
    cluster.propose("1", put(), "w")
    for message in list(cluster.network):
        if message.to == "2":
            cluster.deliver(message)
    assert node.replica.raft.log.last_index == 1
    assert [m.body.out_of_space for m in cluster.network if m.source == "2"] == [True]


def test_snapshot_that_the_log_continues_keeps_what_follows_over_a_restart() -> None:
    """Entries behind it were acknowledged: a mark in the log would void them at the next start."""
    cluster = led()
    for number in range(3):
        cluster.propose("1", put(value=b"%d" % number), number)
    cluster.settle()
    cluster.flush("1", cut=False)
    cluster.propose("1", put(value=b"last"), "last")
    cluster.settle()
    cluster.crash("2")
    cluster.start("2")
    cluster.network.clear()
    cluster._send_snapshot(cluster.nodes["1"], "2")
    cluster.deliver(cluster.network[-1])
    cluster.durable("2")
    replica = cluster.nodes["2"].replica
    assert (replica.applied, replica.raft.log.last_index) == (4, 5)
    cluster.crash("2")
    cluster.start("2")
    replica = cluster.nodes["2"].replica
    assert (replica.applied, replica.raft.log.last_index) == (4, 5)


# ---- freshness ------------------------------------------------------------------------------------------------------


def test_heartbeat_of_a_leader_without_a_commit_of_its_term_bounds_nothing() -> None:
    """It may lag behind what its predecessor acknowledged: its commit index is not "everything" yet."""
    cluster = PureCluster(3)
    cluster.time = 10.0
    cluster.start_all()
    cluster.campaign("1")
    for _ in range(6):
        for message in [m for m in cluster.network if m.kind.startswith("vote")]:
            cluster.deliver(message)
        for name in cluster.names:
            if not cluster.nodes["1"].replica.is_leader:
                cluster.durable(name)
    replica = cluster.nodes["1"].replica
    assert replica.is_leader
    assert replica.lead("2", cluster.now("1")).quorum_age_ms == QUORUM_AGE_UNKNOWN
    assert replica.staleness(cluster.now("1")) is None
    assert not replica.caught_up
    follower = cluster.nodes["2"].replica
    lead = failure_detection_pb2.ShardLead(term=1, quorum_age_ms=QUORUM_AGE_UNKNOWN)
    assert follower.on_lead("1", lead, 9.9, 10.0)
    assert follower.staleness(10.0) is None


def test_follower_is_as_stale_as_the_leaders_last_quorum() -> None:
    """From the sending of the heartbeat, by its own clock, and the quorum's age; once it has applied that commit index."""
    cluster = led()
    replica = cluster.nodes["2"].replica
    lead = failure_detection_pb2.ShardLead(term=1, commit=1, match=1, quorum_age_ms=50)
    assert replica.on_lead("1", lead, 19.9, 20.0)
    staleness = replica.staleness(20.0)
    assert staleness is not None
    assert abs(staleness - 0.15) < 1e-9
    later = failure_detection_pb2.ShardLead(term=1, commit=9, match=1, quorum_age_ms=0)
    assert replica.on_lead("1", later, 20.5, 20.6)
    later_staleness = replica.staleness(20.6)
    assert later_staleness is not None
    assert abs(later_staleness - 0.75) < 1e-9


def test_leader_whose_disk_is_behind_is_as_stale_as_its_rows() -> None:
    """Others may have applied, and shown, what a majority without this disk has committed."""
    cluster = led()
    replica = cluster.nodes["1"].replica
    began = cluster.now("1")
    cluster.propose("1", put(), "w")
    for message in list(cluster.network):
        cluster.deliver(message)
    cluster.durable("2")
    cluster.durable("3")
    for message in list(cluster.network):
        cluster.deliver(message)
    cluster.time += 0.4
    for progress in replica.raft.progress.values():
        progress.acked_at = cluster.now("1")
    staleness = replica.staleness(cluster.now("1"))
    assert staleness is not None
    assert staleness >= cluster.now("1") - began - 1e-9
    cluster.durable("1")
    assert replica.staleness(cluster.now("1")) == 0.0


def test_leader_that_has_not_applied_its_predecessors_entries_bounds_nothing() -> None:
    """Committed in its term is not applied: what the old leader acknowledged may still be missing from its rows."""
    cluster = led()
    replica = cluster.nodes["1"].replica
    assert replica.staleness(cluster.now("1")) is not None
    replica.raft.term_start_index, replica.raft.commit = 5, 5
    assert replica.staleness(cluster.now("1")) is None
    assert not replica.caught_up or replica.fresh is not None


# ---- tombstones -----------------------------------------------------------------------------------------------------


def test_tombstones_go_when_every_live_replica_is_past_them() -> None:
    """A waiting eventual write's base holds them back, wherever it waits."""
    cluster = led()
    cluster.propose("1", Command(delete=replication_pb2.DeleteCommand(key=b"k")), "d")
    cluster.accept("3", b"k", b"v", "e")
    cluster.settle()
    cluster.propose("1", put(b"other"), "w")
    cluster.settle()
    cluster.beat("1")
    cluster.settle()
    replica = cluster.nodes["1"].replica
    before = replica.raft.log.last_index
    replica.maybe_collect(["1", "2", "3"], cluster.now("1"))
    assert replica.raft.log.last_index == before
    replica.maybe_collect(["1", "2"], cluster.now("1"))
    assert replica.raft.log.last_index == before + 1
