"""What a shard's pure core asks of its driver, and in which order the driver must do it.

The core is fed with `on_<event>(…, now)` and drained with `ready(now)`. A driver (the asyncio one, or the simulator) must:

1. Start `send` at once: nothing in it depends on this node's disk (a leader's appends go out in parallel with its own
   write; it counts itself only after `on_durable`).
2. Write `hard_state`, `entries` and `eventual` to the log, in the order of the `Ready`s, and sync.
3. Only then hand out `answers` and `accepted`, and call `on_durable(durable)`. Without anything to write they still wait
   for every earlier write of the shard: an answer may depend on it (DESIGN section 12.1).
4. Hand out `replies` at once: what they say is committed, and durable here (section 12.2).
5. Call `on_time(now)` when `deadline` has passed.
6. If a write or sync fails, none of 3 happens, ever (section 12.8).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

from kvnode.types import Entry, HardState, Index, NodeName, Seconds, Term


class Send(NamedTuple):
    """A request for a peer. Losing it is safe."""

    to: NodeName
    message: Any


class Answer(NamedTuple):
    """The answer to the peer's request that came with `token`."""

    token: object
    message: Any


class Reply(NamedTuple):
    """The outcome of a local request that came with `token`: a result, or a `KvnodeError`."""

    token: object
    result: Any


class DurableMark(NamedTuple):
    """What the core learns when a `Ready` is on disk."""

    index: Index  # type: ignore[assignment]
    term: Term
    """Of the last entry written, or zeros."""
    hard_term: Term
    """The term of the hard state written, or 0."""
    eventual: tuple[tuple[str, int, int], ...]
    """(node, incarnation, last sequence) of the eventual writes written."""


@dataclass(frozen=True, slots=True)
class Ready:
    """Everything that became due since the last one."""

    hard_state: HardState | None
    entries: tuple[Entry, ...]
    eventual: tuple[bytes, ...]
    durable: DurableMark | None
    """None: nothing to write."""
    send: tuple[Send, ...]
    answers: tuple[Answer, ...]
    accepted: tuple[Reply, ...]
    replies: tuple[Reply, ...]
    append_to: tuple[NodeName, ...]
    """Peers for which `next_append` has something."""
    snapshot_to: tuple[NodeName, ...]
    """Peers that need a snapshot."""
    round_wanted: bool
    """A heartbeat round should start now: strong reads wait for it."""
    more: bool
    """Call `ready` again soon: committed entries wait for their turn."""
    deadline: Seconds
    settled: tuple[Any, ...] = ()
    """Eventual writes that got their place, where somebody may want to hear of it. Losing it is safe."""
