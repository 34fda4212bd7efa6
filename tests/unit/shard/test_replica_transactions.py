"""One shard on one node, with transactions: whose waits end when, and what waiting eventual writes keep from happening."""

from __future__ import annotations

import pytest

from kvapi.v1 import replication_pb2
from kvnode import limits
from kvnode.shard.state_machine import LOCAL, Decision
from kvnode.shard.transactions import Vote
from kvnode.types import Origin
from tests.scripts.pure_cluster import PureCluster
from tests.unit.shard.machine import Command, get, named, part, txn

ONE = txn(1)


@pytest.fixture
def cluster() -> PureCluster:
    """Node 1 leads; transaction one has locked "k" for reading."""
    made = PureCluster(3)
    made.time = 10.0
    made.start_all()
    made.campaign("1")
    made.settle()
    made.beat("1")
    made.settle()
    prepare = replication_pb2.PrepareCommand(transaction=named(ONE), anchor=0, participants=[0, 1], part=part(get()))
    made.propose("1", Command(prepare=prepare), "vote")
    settle(made)
    assert isinstance(made.outcomes["vote"], Vote)
    return made


def settle(cluster: PureCluster) -> None:
    """Everything arrives everywhere, the commit index too."""
    cluster.settle()
    for name in cluster.names:
        cluster.spread(name)
    cluster.settle()
    cluster.time += 0.1
    cluster.tick("1")
    cluster.beat("1")
    cluster.settle()


def end(cluster: PureCluster, commit: bool = True) -> None:
    """The transaction ends."""
    decide = replication_pb2.DecideCommand(transaction=named(ONE), commit=commit, succeeded=True)
    cluster.propose("1", Command(decide=decide), "end")
    settle(cluster)
    assert isinstance(cluster.outcomes["end"], Decision)


def test_waits_for_an_end_are_over_when_it_is_applied_here(cluster: PureCluster) -> None:
    """On the leader and on the followers; other entries wake nobody."""
    for name in cluster.names:
        cluster.nodes[name].replica.waits.for_end(f"waiting {name}")
    cluster.propose("1", Command(put=replication_pb2.PutCommand(key=b"other")), "w")
    settle(cluster)
    assert not [token for token in cluster.outcomes if str(token).startswith("waiting")]
    end(cluster)
    assert sorted(token for token in cluster.outcomes if str(token).startswith("waiting")) == [
        f"waiting {name}" for name in cluster.names
    ]


def test_waits_for_an_end_are_over_with_a_snapshot_that_has_it(cluster: PureCluster) -> None:
    """The state was replaced, and with it the locks: whoever waits must look again, or waits for nothing."""
    follower = cluster.nodes["3"]
    follower.replica.waits.for_end("waiting")
    cluster.drain(follower)
    assert follower.replica.machine.transactions.locks.is_locked(b"k")
    decide = replication_pb2.DecideCommand(transaction=named(ONE), commit=True, succeeded=True)
    cluster.propose("1", Command(decide=decide), "end")
    for message in [one for one in cluster.network if one.to == "3"]:
        cluster.drop(message)
    cluster.settle()
    cluster.flush("1")
    with cluster.nodes["1"].disk.store.snapshot(0) as rows:
        follower.disk.store.replace(0, LOCAL, list(rows))
    follower.table.reset()
    follower.replica.on_snapshot_installed(cluster.nodes["1"].replica.applied, 1)
    cluster.drain(follower)
    assert not follower.replica.machine.transactions.locks.is_locked(b"k")
    assert "waiting" in cluster.outcomes


def test_eventual_write_of_a_locked_key_waits_on_every_replica(cluster: PureCluster) -> None:
    """It is held no more: the log has it; after a restart it waits still."""
    cluster.accept("2", b"k", b"e", "e")
    settle(cluster)
    for name in cluster.names:
        replica = cluster.nodes[name].replica
        assert (replica.holder.size, replica.machine.waiting.has(Origin("2", 1), 1)) == (0, True)
    cluster.flush("3")
    cluster.crash("3")
    cluster.start("3")
    assert cluster.nodes["3"].replica.machine.waiting.has(Origin("2", 1), 1)
    settle(cluster)
    end(cluster)
    for name in cluster.names:
        version = cluster.nodes[name].replica.machine.version(b"k")
        assert version is not None
        assert (version.value, version.node) == (b"e", "2")


def test_tombstones_that_a_waiting_write_has_not_seen_are_not_collected(cluster: PureCluster) -> None:
    """Its base is below them: with the tombstone gone it would be judged by the horizon."""
    cluster.accept("2", b"k", b"e", "e")
    settle(cluster)
    cluster.propose("1", Command(delete=replication_pb2.DeleteCommand(key=b"gone")), "d")
    settle(cluster)
    leader = cluster.nodes["1"].replica
    for _ in range(2):
        leader.maybe_collect(cluster.names, cluster.now("1"))
        settle(cluster)
    assert leader.machine.tombstones == 1
    end(cluster)
    leader.maybe_collect(cluster.names, cluster.now("1"))
    settle(cluster)
    assert leader.machine.tombstones == 0


def test_leader_with_too_many_waiting_writes_sequences_none(cluster: PureCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """They stay held, where their number is bounded, too; when the transaction has ended they go on."""
    monkeypatch.setattr(limits, "TRANSACTION_WAITING_EVENTUAL_MAX", 1)
    cluster.accept("1", b"k", b"1", "e1")
    settle(cluster)
    cluster.accept("1", b"k", b"2", "e2")
    settle(cluster)
    replica = cluster.nodes["1"].replica
    assert (len(replica.machine.waiting), replica.holder.size) == (1, 1)
    end(cluster)
    assert (len(replica.machine.waiting), replica.holder.size) == (0, 0)
    version = replica.machine.version(b"k")
    assert version is not None
    assert version.value == b"2"


def test_eventual_write_after_a_waiting_one_was_shown_is_stamped_above_it(cluster: PureCluster) -> None:
    """The waiting one is shown as tentative: who read it here and then writes must not lose against it, whatever the clocks."""
    cluster.nodes["2"].skew_ms = 400
    cluster.accept("2", b"k", b"shown", "e2")
    settle(cluster)
    replica = cluster.nodes["1"].replica
    assert [write.value for write in replica.machine.waiting.at_key(b"k")] == [b"shown"]
    cluster.accept("1", b"k", b"later", "e1")
    settle(cluster)
    assert cluster.outcomes["e1"].hlc > cluster.outcomes["e2"].hlc
    end(cluster)
    version = replica.machine.version(b"k")
    assert version is not None
    assert version.value == b"later"


def test_leader_with_too_large_waiting_writes_sequences_none(cluster: PureCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their bytes are in every replica's memory."""
    monkeypatch.setattr(limits, "TRANSACTION_WAITING_EVENTUAL_SIZE_BYTES_MAX", 100)
    cluster.accept("1", b"k", bytes(99), "e1")
    settle(cluster)
    cluster.accept("1", b"other", b"2", "e2")
    settle(cluster)
    replica = cluster.nodes["1"].replica
    assert (replica.machine.waiting.size_bytes, replica.holder.size) == (100, 1)
    end(cluster)
    assert (replica.machine.waiting.size_bytes, replica.holder.size) == (0, 0)
