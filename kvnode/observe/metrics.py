"""A node's metrics, for Prometheus: what `/metrics` and `Cluster.Stats` show.

Two steps, so that a scrape holds the event loop up for a fraction of its cost: `Metrics.read` copies values on the event loop
(`metric_readers`), and `Exposition` makes text of them, wherever there is time. Names and words are in `metric_families`.
"""

from __future__ import annotations

import asyncio
import functools
import time
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, InfoMetricFamily, Metric
from prometheus_client.exposition import choose_encoder

from kvclient.histogram import Histogram
from kvnode.observe import metric_families as families
from kvnode.observe.metric_families import FAMILIES, Family
from kvnode.observe.metric_readers import LogTimes, Reading, Recorder, Sources, read_all

if TYPE_CHECKING:
    from kvnode.node import Node


class Metrics:
    """Of one node. What else than the node is read may be added to `sources` as it comes to be."""

    def __init__(self, node: Node, recorder: Recorder | None = None, log_times: LogTimes | None = None) -> None:
        self.sources = Sources(node, recorder, log_times)

    def read(self) -> list[Reading]:
        """All values as they are now. Call it on the node's event loop."""
        began = time.perf_counter()
        readings = list(read_all(self.sources))
        readings.append(Reading(families.READ, (), time.perf_counter() - began))
        return readings

    async def text(self) -> str:
        """Everything as OpenMetrics text, made beside the event loop."""
        return await asyncio.get_running_loop().run_in_executor(None, as_text, self.read())


def as_text(readings: Iterable[Reading]) -> str:
    """OpenMetrics; some hundredths of a second of work."""
    encode, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
    return encode(Exposition(readings).registry).decode()


class Exposition:
    """Readings as Prometheus's library wants them; and what it knows itself of the process."""

    def __init__(self, readings: Iterable[Reading] = ()) -> None:
        self.readings = readings
        """To be replaced before each use."""
        self.registry = CollectorRegistry(auto_describe=True)
        self.registry.register(self)
        ProcessCollector(registry=self.registry)
        GCCollector(registry=self.registry)

    def describe(self) -> Iterator[Metric]:
        """What there may be: Prometheus may ask for single ones by name."""
        return (_metric(family, ()) for family in FAMILIES)

    def collect(self) -> Iterator[Metric]:
        """All families that have values, in order."""
        by_family: dict[Family, list[Reading]] = {}
        for reading in self.readings:
            by_family.setdefault(reading.family, []).append(reading)
        return (_metric(family, by_family[family]) for family in FAMILIES if family in by_family)


def _metric(family: Family, readings: Iterable[Reading]) -> Metric:
    name, text, labels, unit = family.name, family.help, family.labels, family.unit
    if family.kind == "info":
        info = InfoMetricFamily(name, text)
        for reading in readings:
            info.add_metric((), dict(zip(labels, reading.labels, strict=True)))
        return info
    if family.kind == "histogram":
        distribution = HistogramMetricFamily(name, text, labels=labels, unit=unit)
        for reading in readings:
            assert isinstance(reading.value, Histogram)
            distribution.add_metric(reading.labels, _buckets(family, reading.value), reading.value.sum_us / family.divisor)
        return distribution
    of_kind = CounterMetricFamily if family.kind == "counter" else GaugeMetricFamily
    metric = of_kind(name, text, labels=labels, unit=unit)
    for reading in readings:
        assert not isinstance(reading.value, Histogram)
        metric.add_metric(reading.labels, float(reading.value))
    return metric


def _buckets(family: Family, histogram: Histogram) -> list[tuple[str, float]]:
    """Upper bound -> how many are at most that."""
    return [*zip(_edges(family), histogram.cumulative(family.bounds), strict=True), ("+Inf", histogram.count)]


@functools.cache
def _edges(family: Family) -> tuple[str, ...]:
    """The bounds as labels."""
    return tuple(str(bound / family.divisor) for bound in family.bounds)
