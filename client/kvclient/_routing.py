"""Which node an operation goes to.

Owns the client's copy of the shard map, with leaders as last heard, and the choice. Never sends; `now` is monotonic seconds.

Invariants:
- A wrong or old map costs a hop, never correctness: any node takes any request.
- The map is replaced whole, never to one of an older epoch; a leader's name is replaced by single assignments. Callers on
  several threads therefore need no lock.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2
from kvclient._health import Health
from kvclient._requests import Call
from kvclient._status import CONNECT_FAILED, CONNECTION_LOST
from kvclient.errors import KvError
from kvclient.hashing import KEY_HASH, shard_of

UNHEALTHY_REASONS = frozenset((CONNECT_FAILED, CONNECTION_LOST, "UNAVAILABLE", "DEADLINE_EXCEEDED", "CORRUPT"))
"""Failures that say something about the node, not about the operation."""
REFRESH_REASONS = UNHEALTHY_REASONS | frozenset(("NO_LEADER", "NOT_LEADER", "WRONG_SHARD", "OUTCOME_UNKNOWN"))
"""Failures that say that the map may be old."""
STALLED_S_MIN = 0.25
"""A node that did not answer for less than that is not to blame: the caller was in a hurry."""
_DOWN = (message_pb2.NODE_STATE_FAILED, message_pb2.NODE_STATE_INACTIVE)


class ShardMap:
    """One topology, with addresses instead of names."""

    __slots__ = ("address_of", "down", "epoch", "leaders", "nodes", "replicas", "terms")

    def __init__(self, topology: cluster_pb2.TopologyResponse) -> None:
        self.epoch = topology.epoch
        self.address_of = {member.name: member.address for member in topology.members if member.address}
        self.nodes = tuple(self.address_of.values())
        self.down = tuple(member.address for member in topology.members if member.state in _DOWN and member.address)
        known = sorted(topology.shards, key=lambda placement: placement.shard)
        if topology.key_hash != KEY_HASH or [placement.shard for placement in known] != list(range(len(known))):
            known = []
        self.leaders: list[str | None] = [self.address_of.get(placement.leader) for placement in known]
        self.terms = [placement.term for placement in known]
        self.replicas = [
            tuple(self.address_of[name] for name in placement.replicas if name in self.address_of) or self.nodes
            for placement in known
        ]

    @property
    def shards(self) -> int:
        """How many; 0: keys cannot be routed by this client (another hash), any node takes them."""
        return len(self.leaders)


class Router:
    """Chooses nodes and learns from what comes back."""

    def __init__(self, endpoints: Sequence[str], rng: random.Random) -> None:
        self.endpoints = tuple(endpoints)
        self.health = Health(rng)
        self.map: ShardMap | None = None

    @property
    def nodes(self) -> tuple[str, ...]:
        """All known addresses, the map's if there is one, else those the user gave."""
        shard_map = self.map
        return shard_map.nodes if shard_map is not None and shard_map.nodes else self.endpoints

    def node_for(self, call: Call, now: float, not_this: str | None = None) -> str:
        """The address to send `call` to; `not_this` just failed it.

        1. Strong, leader known and healthy: the leader.
        2. Strong otherwise: another replica, which forwards, or knows the new leader.
        3. Any other level: the nearest healthy replica.
        4. Not about keys of one shard, or no map: the nearest healthy node.
        """
        shard_map = self.map
        if shard_map is None or call.anchor is None or not shard_map.leaders:
            return self.health.nearest(self.nodes, now, not_this)
        shard = shard_of(call.anchor, shard_map.shards)
        if call.strong:
            leader = shard_map.leaders[shard]
            if leader is not None and leader != not_this and self.health.is_healthy(leader, now):
                return leader
            return self.health.nearest(shard_map.replicas[shard], now, not_this or leader)
        return self.health.nearest(shard_map.replicas[shard], now, not_this)

    def shard_for(self, call: Call) -> int | None:
        """The shard that takes `call`; None: any node does, or it is not known."""
        shard_map = self.map
        if shard_map is None or call.anchor is None or not shard_map.leaders:
            return None
        return shard_of(call.anchor, shard_map.shards)

    def load(self, topology: cluster_pb2.TopologyResponse, now: float) -> bool:
        """Take a newer map. False: it was older than ours, or empty. A shard's leader of an older term is not taken."""
        new, old = ShardMap(topology), self.map
        if not new.nodes or (old is not None and new.epoch < old.epoch):
            return False
        if old is not None and old.epoch == new.epoch and old.shards == new.shards:
            for shard, term in enumerate(old.terms):
                if new.terms[shard] < term:
                    new.terms[shard], new.leaders[shard] = term, old.leaders[shard]
        for address in new.down:
            if self.health.is_healthy(address, now):
                self.health.on_failure(address, now)
        self.map = new
        return True

    def on_served(self, served: kv_pb2.Served) -> bool:
        """Learn from an answer who leads. True: it came from a node that the map does not know, or a leader is gone."""
        shard_map = self.map
        if shard_map is None or served.shard >= len(shard_map.leaders) or not served.node:
            return False
        address = shard_map.address_of.get(served.node)
        if address is None:
            return True
        leader = shard_map.leaders[served.shard]
        if served.role == kv_pb2.ROLE_LEADER:
            shard_map.leaders[served.shard] = address
        elif leader == address and served.role != kv_pb2.ROLE_UNSPECIFIED:
            shard_map.leaders[served.shard] = None
            return True
        return False

    def on_error(self, call: Call, node: str, error: KvError, now: float, waited_s: float) -> bool:
        """Learn from a failure after `waited_s` seconds. True: the map should be refreshed."""
        reason = error.reason
        cause = getattr(error, "cause", None)
        if cause is not None:
            reason = cause.reason
        if reason == "DEADLINE_EXCEEDED" and waited_s < STALLED_S_MIN:
            return False
        if reason in UNHEALTHY_REASONS:
            self.health.on_failure(node, now)
        shard_map = self.map
        shard = self.shard_for(call) if reason in ("NOT_LEADER", "NO_LEADER") else None
        if shard is not None and shard_map is not None:
            hinted = error.metadata.get("leader") or None
            if hinted is not None and hinted in shard_map.nodes:
                shard_map.leaders[shard] = hinted
            elif shard_map.leaders[shard] == node:
                shard_map.leaders[shard] = None
        return reason in REFRESH_REASONS
