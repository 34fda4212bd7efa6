"""`kvctl health`: the judgement, and what a script gets."""

from __future__ import annotations

import pytest

from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2
from kvctl.failures import ExitCode, Failure
from kvctl.health import LAG_ENTRIES_MAX, judge, show
from tests.unit.kvctl.admin_cluster import AdminCluster
from tests.unit.kvctl.conftest import Run

NAMES = ("n1", "n2", "n3")
Answers = dict[str, cluster_pb2.StatusResponse | Failure]


def shape(replicas: int = 3) -> cluster_pb2.TopologyResponse:
    """Three nodes, two shards on so many of them."""
    answer = cluster_pb2.TopologyResponse()
    for name in NAMES:
        answer.members.add(name=name, address=f"{name}:7401")
    for shard in range(2):
        answer.shards.add(shard=shard, replicas=NAMES[:replicas])
    return answer


def statuses(state: str = "ACTIVE", lag: int = 0) -> Answers:
    """n1 leads shard 0, n2 leads shard 1; n3 has `state` and is `lag` entries behind n1."""
    answers: Answers = {}
    for name in NAMES:
        answer = cluster_pb2.StatusResponse()
        answer.node.state = message_pb2.NodeState.Value(f"NODE_STATE_{state if name == 'n3' else 'ACTIVE'}")
        for shard, leader in enumerate(("n1", "n2")):
            status = answer.shards.add(shard=shard, term=3, role=kv_pb2.ROLE_FOLLOWER, leader=leader)
            if name == leader:
                status.role = kv_pb2.ROLE_LEADER
                for follower in NAMES:
                    if follower != leader:
                        status.lag[follower] = lag if (follower, shard) == ("n3", 0) else 0
        answers[name] = answer
    return answers


def test_health_of_nodes_that_are_all_active_and_caught_up_has_no_problems() -> None:
    """A few entries on their way are no lag."""
    found = judge(shape(), statuses(lag=LAG_ENTRIES_MAX))
    assert found.problems == []
    assert found.nodes[2] == {"name": "n3", "address": "n3:7401", "state": "ACTIVE", "leads": 0, "shards": 2, "behind": 1_000}


@pytest.mark.parametrize("state", ["RECOVERING", "INACTIVE"])
def test_health_with_a_node_that_is_not_active_names_it(state: str) -> None:
    """It replays, catches up, or stops: stopping another one now would stop its shards."""
    assert judge(shape(), statuses(state)).problems == [f"n3 is {state}, not ACTIVE"]


def test_health_with_a_replica_behind_names_node_and_shard() -> None:
    """By the word of the leader."""
    found = judge(shape(), statuses(lag=LAG_ENTRIES_MAX + 1))
    assert found.problems == ["n3 is 1,001 entries behind the leader of shard 0"]


def test_health_with_a_silent_leader_names_node_and_shard() -> None:
    """Nobody else says that it leads shard 1."""
    answers = statuses()
    answers["n2"] = Failure(ExitCode.UNAVAILABLE, "UNAVAILABLE", "connection refused")
    assert judge(shape(), answers).problems == [
        "n2 at n2:7401 does not answer: connection refused",
        "shard 1 has no leader",
    ]


def test_health_believes_the_leader_of_the_later_term() -> None:
    """One that was cut off still thinks that it leads, and that nobody lags."""
    answers = statuses(lag=LAG_ENTRIES_MAX + 1)
    forgotten = answers["n3"]
    assert isinstance(forgotten, cluster_pb2.StatusResponse)
    forgotten.shards[0].role, forgotten.shards[0].term = kv_pb2.ROLE_LEADER, 2
    forgotten.shards[0].leader, forgotten.shards[0].lag["n3"] = "n3", 0
    assert judge(shape(), answers).problems == [
        "n3 does not follow the leader of shard 0",
        "n3 is 1,001 entries behind the leader of shard 0",
    ]


def test_health_with_a_node_that_is_cut_off_names_it_although_nobody_is_behind() -> None:
    """Where nothing is written it stays ACTIVE, and lacks nothing; but whoever stops another one now stops all shards."""
    answers = statuses()
    cut_off = answers["n3"]
    assert isinstance(cut_off, cluster_pb2.StatusResponse)
    cut_off.shards[1].leader = ""
    assert judge(shape(), answers).problems == ["n3 does not follow the leader of shard 1"]
    cut_off.shards[0].leader = ""
    assert judge(shape(), answers).problems == ["n3 does not follow the leader of shards 0, 1"]


@pytest.mark.parametrize(("replicas", "can_spare"), [(3, True), (2, False), (1, False)])
def test_health_with_few_replicas_does_not_say_that_a_node_may_be_stopped(
    replicas: int, can_spare: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of two replicas both are needed, on however many nodes."""
    found = judge(shape(replicas), statuses())
    assert found.problems == []
    show(found)
    assert ("may be stopped without an outage" in capsys.readouterr().out) == can_spare


def test_health_with_a_full_disk_says_so() -> None:
    """It serves reads, but a majority without it might not take writes."""
    answers = statuses(state="RECOVERING")
    full = answers["n3"]
    assert isinstance(full, cluster_pb2.StatusResponse)
    full.out_of_space = True
    assert judge(shape(), answers).problems == ["n3 has no space: it refuses writes"]


def test_health_command_answers_scripts_with_its_exit_code(run: Run, cluster: AdminCluster) -> None:
    """0 and a sentence; 4 with what is wrong, in a table and in JSON; --wait gives up when its time is over."""
    healthy = run("health")
    assert (healthy.code, healthy.out.splitlines()[-1]) == (0, "healthy: one node may be stopped without an outage")
    cluster.leaders[1] = None
    for arguments in (("health",), ("health", "--wait", "0.3")):
        ill = run(*arguments)
        assert (ill.code, ill.out.splitlines()[-1]) == (4, "shard 1 has no leader")
    told = run("health", "-o", "json")
    assert (told.code, told.json["healthy"], told.json["problems"]) == (4, False, ["shard 1 has no leader"])


def test_health_of_a_cluster_that_is_not_there_is_a_finding(run: Run) -> None:
    """While all nodes restart nobody answers: --wait goes on, and the end says so."""
    silent = run("health", "--endpoints", "127.0.0.1:9", "-o", "json")
    assert silent.code == 4
    assert silent.json["nodes"] == []
    assert "127.0.0.1:9" in silent.json["problems"][0]
