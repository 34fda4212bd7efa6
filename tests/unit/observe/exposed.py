"""A node's metrics with everything there is to measure, and what was exposed, read back as Prometheus would."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any

from prometheus_client import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from kvapi.v1 import kv_pb2
from kvclient.histogram import Histogram
from kvnode.node import Node
from kvnode.observe.gc_pauses import GcPauses
from kvnode.observe.loop_lag import LoopLag
from kvnode.observe.metric_readers import Reading
from kvnode.observe.metrics import Metrics, as_text

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL


def histogram(*values_us: int) -> Histogram:
    """With these values."""
    made = Histogram()
    for value in values_us:
        made.record(value)
    return made


class Recorded:
    """A recorder, and the log's times."""

    def __init__(self) -> None:
        self.latency = {
            ("put", STRONG, ""): histogram(900, 3_000, 70_000),
            ("put", STRONG, "log_write"): histogram(500, 2_000, 60_000),
            ("get", EVENTUAL, ""): histogram(40),
        }
        self.outcomes = {("put", STRONG, "OK"): 2, ("put", STRONG, "NO_LEADER"): 1, ("get", EVENTUAL, "OK"): 1}
        self.write_durations, self.fsync_durations = histogram(1_100), histogram(900)
        self.batch_sizes = histogram(1, 3, 200)


class Wire:
    """A server that counts."""

    def __init__(self) -> None:
        self.in_flight, self.calls, self.connections_opened, self.connections, self.buffered_bytes = 1, 20, 3, 2, 4_096
        self.refusals = {"streams": 0, "memory": 2}


def metrics_of(node: Node) -> Metrics:
    """With every source that there is."""
    recorded: Any = Recorded()
    wire: Any = Wire()
    metrics = Metrics(node, recorded, recorded)
    metrics.sources.wire, metrics.sources.gc_pauses = wire, GcPauses()
    metrics.sources.loop_lag = LoopLag(asyncio.get_running_loop())
    return metrics


def parsed(text: str) -> dict[str, Metric]:
    """By name; strictly, as OpenMetrics has it."""
    families = list(text_string_to_metric_families(text))
    found = {family.name: family for family in families}
    assert len(found) == len(families)
    return found


def exposed(readings: Iterable[Reading]) -> dict[str, Metric]:
    """The same of readings."""
    return parsed(as_text(readings))


def value(families: dict[str, Metric], name: str, **labels: str) -> float:
    """The one sample with this name and these labels."""
    found = [
        sample.value
        for family in families.values()
        for sample in family.samples
        if sample.name == name and all(sample.labels.get(label) == wanted for label, wanted in labels.items())
    ]
    assert len(found) == 1, f"{name} {labels}: {len(found)} samples"
    return float(found[0])
