"""Key -> shard -> replicas: pure, and the same on every node and in every SDK.

Replicas are chosen by rendezvous hashing (Thaler and Ravishankar 1998): adding a node moves only what it takes over.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import xxhash

from kvclient.hashing import KEY_HASH, shard_of
from kvnode.types import NodeName, Shard

__all__ = ["KEY_HASH", "ShardMap", "make_shard_map"]


@dataclass(frozen=True, slots=True)
class ShardMap:
    """Where every shard lives. Replicas are in order of preference for leadership."""

    epoch: int
    members: Mapping[NodeName, str]
    replicas: tuple[tuple[NodeName, ...], ...]

    @property
    def shards(self) -> int:
        """How many there are."""
        return len(self.replicas)

    def shard_of(self, key: bytes) -> Shard:
        """The key's shard."""
        return shard_of(key, len(self.replicas))

    def address(self, node: NodeName) -> str:
        """The member's "host:port"; empty for a stranger."""
        return self.members.get(node, "")


def make_shard_map(members: Mapping[NodeName, str], shards: int, replication_factor: int, epoch: int = 1) -> ShardMap:
    """Places the shards; every node computes the same.

    Which nodes hold a shard is decided by rendezvous hashing alone. Who of them is preferred to lead is then dealt out so
    that no node is preferred for more than its share: each shard takes its replica that is preferred least often so far.
    """
    names = sorted(members)
    led = dict.fromkeys(names, 0)
    replicas: list[tuple[NodeName, ...]] = []
    for shard in range(shards):
        ranked = sorted(names, key=lambda name: (-xxhash.xxh3_64_intdigest(f"{shard}/{name}".encode()), name))
        holders = ranked[:replication_factor]
        preferred = min(holders, key=lambda name: (led[name], holders.index(name)))
        led[preferred] += 1
        replicas.append((preferred, *(name for name in holders if name != preferred)))
    return ShardMap(epoch, dict(members), tuple(replicas))
