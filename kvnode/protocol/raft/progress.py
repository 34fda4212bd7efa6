"""What a leader knows of one follower's log.

Three states, as in etcd's raft: PROBE sends one append at a time to find where the logs match, REPLICATE pipelines
optimistically, SNAPSHOT waits until the follower has installed one.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

from kvnode.types import Index, Seconds


class Mode(enum.Enum):
    """How a follower is fed."""

    PROBE = "probe"
    REPLICATE = "replicate"
    SNAPSHOT = "snapshot"


@dataclass(slots=True)
class Progress:
    """One follower. `match < next` always; `match` only grows within a term."""

    next: Index
    match: Index = 0
    mode: Mode = Mode.PROBE
    waiting: bool = False
    """PROBE: an append is unanswered, or must not be sent before `retry_at`."""
    retry_at: Seconds = 0.0
    """PROBE: when to try again though no answer came (an answer or a broken connection comes earlier)."""
    snapshot_index: Index | None = None
    """SNAPSHOT: the entry that the snapshot on its way ends with; the log keeps what follows it."""
    commit_sent: Index = 0
    """The commit index that the last append carried."""
    acked_round: int = 0
    """The latest heartbeat round it accepted in this term."""
    acked_at: Seconds = float("-inf")
    """When that round's heartbeat was *sent*: the follower followed us at some moment after it."""
    applied: Index = 0
    """What it said it has applied."""
    eventual_floor: Index = 0
    """Bases of its own waiting eventual writes are not below this."""

    def probe(self, next_index: Index) -> None:
        """Back to finding the match: one append at a time from `next_index`."""
        self.mode, self.next, self.waiting, self.retry_at = Mode.PROBE, max(next_index, self.match + 1), False, 0.0

    def on_success(self, index: Index) -> bool:
        """The logs match up to `index`, durably. True if that is news."""
        news = index > self.match
        self.match = max(self.match, index)
        if self.mode is Mode.PROBE and index == self.match:
            self.mode, self.next, self.waiting = Mode.REPLICATE, self.match + 1, False
        self.next = max(self.next, self.match + 1)
        return news

    def on_log_reached(self) -> None:
        """SNAPSHOT: the follower has caught up with what the leader's log still has, by appends that were on their way."""
        self.mode, self.next, self.waiting = Mode.REPLICATE, self.match + 1, False
