"""Clusters of gossiping nodes in virtual rounds with loss: news reaches everybody in O(log n) rounds, doubts too."""

from __future__ import annotations

import math
from random import Random

import pytest

from kvapi.v1.gossip_pb2 import MemberRecord
from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE
from kvnode.protocol.gossip import Gossip, GossipSettings

LOSS = 0.3
ROUND_S = 1.1
"""A little more than the interval, so that jitter keeps every node to one round a turn."""


class Cluster:
    """Nodes that run one round a turn; requests and answers are lost independently."""

    def __init__(self, nodes: int, seed: int, loss: float = LOSS) -> None:
        self.rng = Random(seed)
        self.loss = loss
        self.now = 0.0
        self.dead = ""
        self.requests = self.records = 0
        names = [f"n{n:02}" for n in range(1, nodes + 1)]
        self.nodes = {
            name: Gossip(
                MemberRecord(name=name, address=f"{name}:7400", incarnation=1, state=NODE_STATE_ACTIVE),
                names,
                GossipSettings(),
                Random(seed * 1000 + n),
            )
            for n, name in enumerate(names)
        }

    def lost(self) -> bool:
        return self.rng.random() < self.loss

    def turn(self) -> None:
        """Everybody's round, and after it what was asked for."""
        self.now += ROUND_S
        for name, gossip in self.nodes.items():
            for _ in range(2):
                for peer, request in gossip.step(self.now).exchange:
                    self.requests += 1
                    self.records += len(request.records)
                    if self.dead in (name, peer) or self.lost():
                        continue
                    request.message.from_node = name
                    response = self.nodes[peer].on_exchange(request, self.now)
                    if not self.lost():
                        self.records += len(response.records)
                        gossip.on_exchange_response(peer, response, self.now)

    def turns_until_agreed(self, turns_max: int) -> int:
        """Turns until all living nodes know exactly the same; turns_max + 1 if they do not."""
        for turn in range(turns_max + 1):
            views = [gossip.members() for name, gossip in self.nodes.items() if name != self.dead]
            if all(view == views[0] for view in views) and len(views[0]) == len(self.nodes):
                return turn
            self.turn()
        return turns_max + 1


def rounds_to_spread(nodes: int, seeds: int, loss: float = LOSS) -> list[int]:
    """Rounds in which one node's change reaches all, one number a seed, sorted."""
    rounds = []
    for seed in range(seeds):
        cluster = Cluster(nodes, seed, loss)
        assert cluster.turns_until_agreed(60) <= 60
        for _ in range(30):
            cluster.turn()
        cluster.nodes["n01"].update_self(leads=3)
        rounds.append(cluster.turns_until_agreed(60))
    return sorted(rounds)


@pytest.mark.parametrize("nodes", [3, 10, 20])
def test_news_under_loss_reaches_everybody_in_logarithmic_rounds(nodes: int) -> None:
    """30 % of all messages lost: at most 2 + 2 * log2(n) rounds, for every seed."""
    rounds = rounds_to_spread(nodes, seeds=6)
    assert rounds[-1] <= 2 + 2 * math.log2(nodes)


def test_coverage_under_loss_reaches_all_and_never_claims_too_much() -> None:
    """A node counts a peer as informed only when it is; in the end all are."""
    cluster = Cluster(12, seed=5)
    cluster.turns_until_agreed(60)
    origin = cluster.nodes["n01"]
    origin.update_self(leads=9)
    for _ in range(200):
        members = [gossip.member("n01") for name, gossip in cluster.nodes.items() if name != "n01"]
        informed = sum(member is not None and member.leads == 9 for member in members)
        assert origin.coverage().informed <= informed
        if origin.converged:
            break
        cluster.turn()
    assert origin.converged


def test_suspicion_of_a_living_node_is_refuted_under_loss() -> None:
    """Wherever the doubt came first, in the end everybody has the suspect's later word."""
    cluster = Cluster(10, seed=2)
    cluster.turns_until_agreed(60)
    for suspecting in ("n03", "n07"):
        assert cluster.nodes[suspecting].report_suspicion("n05", suspecting)
    assert cluster.turns_until_agreed(60) <= 30
    for gossip in cluster.nodes.values():
        member = gossip.member("n05")
        assert member is not None
        assert (member.suspected_by, member.version) == ("", 4)


def test_suspicion_of_a_dead_node_spreads_and_stays() -> None:
    """Nobody refutes it, so all the living agree on it."""
    cluster = Cluster(10, seed=3)
    cluster.turns_until_agreed(60)
    cluster.dead = "n05"
    cluster.nodes["n03"].report_suspicion("n05", "n03")
    assert cluster.turns_until_agreed(60) <= 30
    member = cluster.nodes["n09"].member("n05")
    assert member is not None
    assert member.suspected_by == "n03"


def test_quiet_cluster_exchanges_little() -> None:
    """Without news a node sends one request without records about every five rounds."""
    cluster = Cluster(10, seed=4, loss=0.0)
    for _ in range(60):
        cluster.turn()
    cluster.requests = cluster.records = 0
    for _ in range(50):
        cluster.turn()
    assert cluster.records == 0
    assert cluster.requests <= 10 * (50 / 4)
