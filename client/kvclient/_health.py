"""How well each node serves, as this client sees it: smoothed latency, and a back-off after failures.

Owns one small record a node. Never sends probes: it learns from the calls that are made anyway. `now` is monotonic seconds.

Invariant: a node that failed is avoided, never forgotten: after its back-off it is tried again.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

SMOOTHING = 0.2
"""Weight of a new sample in the exponentially weighted moving average of the latency."""
EXPLORATION = 1 / 64
"""Share of choices that go to a node at random, so that a node that was slow once is noticed when it is fast again."""
AVOID_S_MIN = 0.1
AVOID_S_MAX = 2.0


class NodeHealth:
    """One node's record."""

    __slots__ = ("avoid_until", "failures", "latency_s")

    def __init__(self) -> None:
        self.latency_s = 0.0
        """Of reads that the node answers by itself; 0 until one was measured, which makes a new node attractive."""
        self.failures = 0
        """In a row."""
        self.avoid_until = 0.0

    def on_answer(self) -> None:
        """It answered something."""
        if self.failures:
            self.failures = 0
            self.avoid_until = 0.0

    def on_latency(self, seconds: float) -> None:
        """It answered a read after `seconds`."""
        self.latency_s = seconds if not self.latency_s else self.latency_s + SMOOTHING * (seconds - self.latency_s)

    def on_failure(self, now: float, rng: random.Random) -> None:
        """It could not be reached, or refused to serve: avoid it for 0.1 s, doubling to 2 s, with jitter.

        All that fail while it is avoided already, as the operations of one broken connection do, are one failure.
        """
        if now < self.avoid_until:
            return
        self.failures += 1
        self.avoid_until = now + min(AVOID_S_MAX, AVOID_S_MIN * 2.0 ** min(self.failures - 1, 8)) * rng.uniform(0.75, 1.25)


class Health:
    """The records of all nodes, by address."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._nodes: dict[str, NodeHealth] = {}

    def of(self, node: str) -> NodeHealth:
        """The node's record."""
        record = self._nodes.get(node)
        if record is None:
            record = self._nodes.setdefault(node, NodeHealth())
        return record

    def is_healthy(self, node: str, now: float) -> bool:
        """Whether it is not being avoided."""
        return self.of(node).avoid_until <= now

    def on_failure(self, node: str, now: float) -> None:
        """The node could not be reached or refused to serve."""
        self.of(node).on_failure(now, self._rng)

    def nearest(self, nodes: Sequence[str], now: float, not_this: str | None = None) -> str:
        """The healthy node with the lowest latency, now and then another; if all are avoided, the one whose turn comes first.

        `not_this` is taken only if it is the only one.
        """
        others = [node for node in nodes if node != not_this] if not_this is not None else nodes
        if not others:
            return nodes[0]
        healthy = [node for node in others if self.of(node).avoid_until <= now]
        if not healthy:
            return min(others, key=lambda node: self.of(node).avoid_until)
        if len(healthy) == 1:
            return healthy[0]
        if self._rng.random() < EXPLORATION:
            return self._rng.choice(healthy)
        return min(healthy, key=lambda node: self.of(node).latency_s)
