"""Bounded reads are as fresh as was asked (docs/guarantees.md, "Bounded"): what any replica had applied so long before the read
was asked for, its answer has seen.

Owns: when each index was first applied, and what it left of each key. Never: changes anything, or takes random numbers.

The bound is measured on the clocks of the replica and of the leader, which may be slow by `MONOTONIC_DRIFT_MAX`. Commands count
from their first apply, which is never before their commit: what is demanded here is a little less than what is promised.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, Any, NamedTuple

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of
from kvnode.types import Index, Seconds, Shard

from .loop import MONOTONIC_DRIFT_MAX

if TYPE_CHECKING:
    from kvnode.shard.replica import Replica

    from .world import World


class _Left(NamedTuple):
    """What an entry left of a key."""

    place: Index
    revision: Index
    deleted: bool


class Staleness:
    """Of one run."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._times: dict[Shard, list[Seconds]] = {}
        """When each index was first applied; an index's place is its number, less one."""
        self._left: dict[bytes, list[_Left]] = {}
        """Of each key, in the order of the log."""

    def watch(self, replica: Replica) -> None:
        """Looks at what this replica applies."""
        machine, write, apply, shard = replica.machine, replica.machine._write, replica.machine.apply, replica.shard

        def write_and_note(revision: Index, key: bytes, value: bytes | None, *rest: Any) -> None:
            write(revision, key, value, *rest)
            if machine.applied >= len(self._times.get(shard, ())):
                self.on_write(key, machine.applied + 1, revision, deleted=value is None)

        def apply_and_note(entry: Any) -> Any:
            result = apply(entry)
            self.on_applied(shard, machine.applied)
            return result

        machine._write = write_and_note  # type: ignore[method-assign]
        machine.apply = apply_and_note  # type: ignore[method-assign]

    def on_write(self, key: bytes, place: Index, revision: Index, *, deleted: bool) -> None:
        """The entry `place`, applied for the first time, writes a key."""
        self._left.setdefault(key, []).append(_Left(place, revision, deleted))

    def on_applied(self, shard: Shard, index: Index) -> None:
        """Some replica has applied so far."""
        times = self._times.setdefault(shard, [])
        times.extend([self._world.loop.now] * (index - len(times)))

    def check(self, request: kv_pb2.GetRequest, response: kv_pb2.GetResponse, asked_at: Seconds) -> None:
        """An answer to a bounded read that a client asked for at `asked_at`."""
        shard = shard_of(request.key, self._world.config.cluster.shards)
        since = asked_at - request.max_staleness_ms / 1000 / (1 - MONOTONIC_DRIFT_MAX)
        demanded = bisect_right(self._times.get(shard, []), since)
        self._world.counts["bounded reads"] += 1
        what = f"{request.key!r}, asked for at {asked_at:.6f} s, at most {request.max_staleness_ms} ms old"
        what += f", by {response.served.node}"
        if response.served.revision < demanded:
            message = f"{what}: it shows shard {shard} at {response.served.revision}, and {demanded} had been applied by then"
            self._world.violate("a bounded read is as fresh as asked", message)
            return
        history = self._left.get(request.key, [])
        number = bisect_right(history, demanded, key=lambda left: left.place)
        if not number:
            return
        self._world.counts["bounded reads of a key that was written before"] += 1
        last, later = history[number - 1], history[number:]
        gone = any(left.deleted for left in [last, *later] if left.place <= response.served.revision)
        if response.found and response.revision < last.revision:
            message = f"{what}: revision {response.revision}, and {last} had been applied by then"
            self._world.violate("a bounded read is as fresh as asked", message)
        elif not response.found and not gone:
            self._world.violate("a bounded read is as fresh as asked", f"{what}: nothing, and {last} had been applied by then")
