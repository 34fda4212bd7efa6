"""Health and nearness of nodes."""

from __future__ import annotations

import random
from collections import Counter

from kvclient._health import Health


def test_nearest_some_measured_prefers_the_fastest_and_explores_lightly() -> None:
    """Almost all choices go to the lowest smoothed latency, a few elsewhere."""
    health = Health(random.Random(1))
    for node, latency in (("a", 0.003), ("b", 0.001), ("c", 0.002)):
        health.of(node).on_latency(latency)
    chosen = Counter(health.nearest(("a", "b", "c"), 0.0) for _ in range(2_000))
    assert chosen["b"] > 1_900
    assert chosen["a"] > 0
    assert chosen["c"] > 0


def test_nearest_node_that_became_slow_is_left() -> None:
    """The average follows what is measured now."""
    health = Health(random.Random(1))
    health.of("a").on_latency(0.001)
    health.of("b").on_latency(0.002)
    for _ in range(10):
        health.of("a").on_latency(0.010)
    assert Counter(health.nearest(("a", "b"), 0.0) for _ in range(100)).most_common(1)[0][0] == "b"


def test_nearest_failed_node_is_avoided_until_its_back_off_ends() -> None:
    """After a failure others are chosen; later the node is tried again; an answer forgives it."""
    health = Health(random.Random(1))
    health.of("b").on_latency(1.0)
    health.on_failure("a", 0.0)
    assert {health.nearest(("a", "b"), 0.05) for _ in range(200)} == {"b"}
    assert "a" in {health.nearest(("a", "b"), 0.2) for _ in range(200)}
    health.on_failure("a", 0.2)
    assert not health.is_healthy("a", 0.21)
    health.of("a").on_answer()
    assert health.is_healthy("a", 0.21)


def test_on_failure_many_at_once_count_as_one_then_the_back_off_doubles_to_two_seconds() -> None:
    """A broken connection with a hundred operations is one failure; lasting trouble is asked about less and less."""
    health = Health(random.Random(1))
    for _ in range(100):
        health.on_failure("a", 0.0)
    assert health.of("a").failures == 1
    now = 0.0
    for _ in range(12):
        now = health.of("a").avoid_until
        health.on_failure("a", now)
    assert 1.5 <= health.of("a").avoid_until - now <= 2.5


def test_nearest_all_avoided_takes_the_one_whose_turn_comes_first() -> None:
    """There is always a choice; the node that just failed is the last one."""
    health = Health(random.Random(1))
    health.on_failure("b", 0.0)
    health.on_failure("a", 1.0)
    assert health.nearest(("a", "b"), 1.0, None) == "b"
    assert health.nearest(("a", "b"), 1.0, "b") == "a"
    assert health.nearest(("a",), 1.0, "a") == "a"
