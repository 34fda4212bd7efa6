"""When a cluster serves, and when a node has caught up: decided from the nodes' own answers."""

from __future__ import annotations

import pytest

from kvapi.v1 import cluster_pb2, kv_pb2
from kvctl.probe import missing_to_serve, shards_behind


def view(*leaders: str, replicas: tuple[str, ...] = ("n1", "n2")) -> cluster_pb2.TopologyResponse:
    """A shard map with these leaders."""
    shards = [cluster_pb2.ShardPlacement(shard=shard, leader=leader, replicas=replicas) for shard, leader in enumerate(leaders)]
    return cluster_pb2.TopologyResponse(shards=shards)


@pytest.mark.parametrize(
    ("views", "missing"),
    [
        ({"n1": view("n1", "n2"), "n2": view("n1", "n2")}, []),
        ({"n1": view("n1", "n2")}, ["n2 does not answer"]),
        ({"n1": view("n1", ""), "n2": view("n1", "n2")}, ["no leader known everywhere for shard 1"]),
        ({"n1": view("n1", "n1"), "n2": view("n1", "n2")}, ["nodes name different leaders for shard 1"]),
        ({"n1": view("n1"), "n2": view("n1")}, ["no leader known everywhere for shard 1"]),
        ({}, ["n1 does not answer", "n2 does not answer"]),
    ],
)
def test_cluster_serves_when_every_node_answers_and_all_know_the_same_leaders(
    views: dict[str, cluster_pb2.TopologyResponse], missing: list[str]
) -> None:
    """What is missing is said in words."""
    assert missing_to_serve(["n1", "n2"], views, 2) == missing


def test_node_without_a_replica_has_no_say_in_who_leads() -> None:
    """In a cluster larger than the replication factor some nodes only guess a shard's leader."""
    views = {"n1": view("n1"), "n2": view("n1"), "n3": view("n2")}
    assert missing_to_serve(["n1", "n2", "n3"], views, 1) == []


def status(name: str, **applied: int) -> cluster_pb2.StatusResponse:
    """A node that has applied so much of shard 0 and 1; n1 leads shard 0, n2 shard 1."""
    shards = [
        cluster_pb2.ShardStatus(shard=shard, leader=leader, applied_index=applied[f"s{shard}"], role=kv_pb2.ROLE_FOLLOWER)
        for shard, leader in ((0, "n1"), (1, "n2"))
    ]
    return cluster_pb2.StatusResponse(node=cluster_pb2.Member(name=name), shards=shards)


def test_node_is_behind_where_its_leader_has_applied_more() -> None:
    """Only what a shard's own leader says counts; a shard whose leader says nothing counts as behind."""
    leaders = {"n1": status("n1", s0=10, s1=3), "n2": status("n2", s0=8, s1=7)}
    assert shards_behind("n3", leaders | {"n3": status("n3", s0=9, s1=7)}) == [0]
    assert shards_behind("n3", leaders | {"n3": status("n3", s0=10, s1=8)}) == []
    assert shards_behind("n3", {"n1": leaders["n1"], "n3": status("n3", s0=10, s1=7)}) == [1]
