"""`kvctl locate | status | members | topology | transfer | superseded | events`, against a fake cluster over real gRPC."""

from __future__ import annotations

import grpc

from tests.unit.kvclient.fake_cluster import Refusal
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run


def test_locate_names_the_shard_its_leader_and_replicas(run: Run, cluster: AdminCluster) -> None:
    """What locate prints is where the key lives; a shard without a leader says none."""
    answer = run("locate", "k", "-o", "json").json
    assert answer["shard"] == cluster.shard_of("k")
    assert answer["leader"] == cluster.leader_of("k").address
    assert len(answer["replicas"]) == 3
    cluster.leaders = [None] * 4
    assert "none" in run("locate", "k").out.split()


def test_status_shows_every_node_also_those_that_do_not_answer(run: Run, cluster: AdminCluster) -> None:
    """A dead node is a row that says so, not an error."""
    rows = [line.split() for line in run("status").out.splitlines()]
    assert rows[0][:3] == ["NODE", "ADDRESS", "STATE"]
    assert [row[0] for row in rows[1:]] == ["n1", "n2", "n3"]
    assert "1 min 1 s" in run("status").out
    assert "50.0 MiB" in run("status").out
    plain = run("status", "-o", "json").json
    assert plain["nodes"][0]["shards"][0]["state_hash"] == "0000000000000abc"


def test_status_with_a_dead_node_still_answers(run: Run, cluster: AdminCluster) -> None:
    """The first endpoint being dead is no obstacle either."""
    dead = cluster.nodes["n1"]
    dead_port = dead.port
    dead.port = 9  # nobody listens there; the live server stays on its own port
    try:
        nodes = run("status", "-o", "json").json["nodes"]
    finally:
        dead.port = dead_port
    assert [node["answers"] for node in nodes] == [False, True, True]


def test_status_of_shards_lists_each_replica(run: Run, cluster: AdminCluster) -> None:
    """--shards adds a row for each shard and node."""
    out = run("status", "--shards").out
    assert len([line for line in out.splitlines() if line.split()[1:2] in (["n1"], ["n2"], ["n3"])]) == 12


def test_members_and_topology_show_the_cluster(run: Run, cluster: AdminCluster) -> None:
    """Members by name with their states; shards with their leaders."""
    assert [line.split()[0] for line in run("members").out.splitlines()[2:]] == ["n1", "n2", "n3"]
    assert run("members", "-o", "json").json["members"][2]["state"] == "NODE_STATE_ACTIVE"
    assert [shard["leader"] for shard in run("topology", "-o", "json").json["shards"]] == cluster.leaders
    assert "Cluster fake" in run("topology").out


def test_transfer_moves_a_leadership(run: Run, cluster: AdminCluster) -> None:
    """The answer names the new leader and its term."""
    assert run("transfer", "2", "n1").out == "n1 leads shard 2 in term 2\n"
    assert cluster.leaders[2] == "n1"


def test_transfer_to_the_present_leader_is_done_already(run: Run, cluster: AdminCluster) -> None:
    """Whether the node answers with success or refuses as older ones do, what was asked for is so."""
    leader = cluster.leaders[2]
    assert leader is not None
    expected = f"{leader} leads it already: shard 2, term 1\n"
    assert run("transfer", "2", leader).out == expected
    cluster.nodes[leader].refusals.append(
        (lambda kind, key: kind == "TransferLeadership", Refusal(grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT"))
    )
    result = run("transfer", "2", leader)
    assert (result.code, result.out) == (0, expected)


def test_superseded_lists_what_lost_and_counts_each_once(run: Run, cluster: AdminCluster) -> None:
    """A shard's superseded writes are asked for at its leader, so that replicas do not count twice."""
    cluster.holds_eventual = True
    for key in ("k1", "k2", "k3"):
        run("put", key, "old", "-c", "eventual")
        run("put", key, "new")
    cluster.settle()
    plain = run("superseded", "-o", "json").json
    assert plain["total"] == 3
    assert {write["key"] for write in plain["writes"]} == {"k1", "k2", "k3"}
    assert plain["writes"][0]["reason"] == "SUPERSEDED_REASON_STRONG_WRITE"
    one = run("superseded", "--shard", str(cluster.shard_of("k1"))).out
    assert "k1" in one
    assert "STRONG_WRITE" in one
    assert len(run("superseded", "--limit", "1", "-o", "json").json["writes"]) == 1


def test_events_say_who_saw_what(run: Run, cluster: AdminCluster) -> None:
    """Every node's record, with the observer."""
    events = run("events", "-o", "json").json["events"]
    assert [event["observer"] for event in events] == ["n1", "n2", "n3"]
    assert (events[0]["node"], events[0]["to"], events[0]["time"]) == ("n3", "NODE_STATE_FAILED", "2023-11-14T22:13:20.000Z")
    assert "silent" in run("events").out


def test_command_where_nobody_listens_exits_with_4(run: Run) -> None:
    """The error lists every endpoint that was tried."""
    result = run("topology", "-e", "127.0.0.1:9,127.0.0.1:11", "-o", "json")
    assert result.code == 4
    assert "127.0.0.1:9, 127.0.0.1:11" in result.error["message"]
    assert result.error["reason"] == "UNAVAILABLE"


def test_options_before_the_command_count_too(run: Run, cluster: AdminCluster) -> None:
    """Common options may stand on either side; the later one wins."""
    assert run("-o", "json", "topology").json["cluster_id"] == "fake"
    assert "Cluster fake" in run("-o", "json", "topology", "-o", "table").out
