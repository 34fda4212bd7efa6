"""A node in one line, for `systemctl status`: its state, what it leads, its term, how far it is behind.

Owns the wording. Never decides anything.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from kvapi.v1 import message_pb2
from kvnode.shard.replica import Replica
from kvnode.types import Seconds, Shard

STALENESS_TOLD_MIN: Seconds = 2.0
"""A replica that heard its leader this recently is as fresh as any."""
SHARDS_NAMED_MAX = 8


def status_line(state: message_pb2.NodeState, out_of_space: bool, replicas: Mapping[Shard, Replica], now: Seconds) -> str:
    """As in "ACTIVE: leads 3 of 8 shards, term 12, lag 0 entries".

    The term is the highest, the lag what is committed and not applied here, of all shards together. What is wrong is said
    after that: shards without a known leader, replicas that have not heard one lately, a full disk.
    """
    leads = sum(replica.is_leader for replica in replicas.values())
    term = max((replica.raft.term for replica in replicas.values()), default=0)
    lag = sum(replica.raft.commit - replica.applied for replica in replicas.values())
    parts = [f"leads {leads} of {len(replicas)} shards", f"term {term}", f"lag {lag:,} entries"]
    if out_of_space:
        parts.append("disk full: writes are refused")
    if leaderless := [shard for shard, replica in replicas.items() if not replica.raft.leader]:
        parts.append(f"no leader of {_shards(leaderless)}")
    ages = {shard: replica.staleness(now) for shard, replica in replicas.items() if replica.raft.leader}
    if stale := [shard for shard, age in ages.items() if age is None or age > STALENESS_TOLD_MIN]:
        known = [age for age in ages.values() if age is not None]
        parts.append(f"{_shards(stale)} not up to date" + (f" for {max(known):.0f} s" if known and max(known) >= 1 else ""))
    return f"{message_pb2.NodeState.Name(state).removeprefix('NODE_STATE_')}: {', '.join(parts)}"


def _shards(shards: Iterable[Shard]) -> str:
    numbers = [str(shard) for shard in shards]
    more = f" and {len(numbers) - SHARDS_NAMED_MAX} more" if len(numbers) > SHARDS_NAMED_MAX else ""
    return f"shard{'s' if len(numbers) > 1 else ''} {', '.join(numbers[:SHARDS_NAMED_MAX])}{more}"
