"""What an operator may tune in gossip. Owns no behaviour."""

from __future__ import annotations

from dataclasses import dataclass

from kvnode.invariant import invariant


@dataclass(frozen=True, slots=True)
class GossipSettings:
    """The `[gossip]` table."""

    interval_ms: int = 1000
    """Between rounds while there is news; five times as long when there is none. News reaches n nodes within about
    log2(n) rounds."""
    fanout: int = 2
    """Peers a round while there is news. More: faster and more robust against loss, and as much more traffic."""

    def __post_init__(self) -> None:
        invariant(self.interval_ms > 0, "interval_ms must be positive")
        invariant(self.fanout > 0, "fanout must be positive")
