"""A node's metrics as a program reads them: sums over labels, percentiles, and what happened between two readings.

Owns no names: whoever asks knows them (docs/metrics.md). Reads what `/metrics` and `Cluster.Stats` show, OpenMetrics text.
"""

from __future__ import annotations

import math
from typing import Any, Self

from prometheus_client.openmetrics.parser import text_string_to_metric_families

START_TIME = "process_start_time_seconds"
GROWING = ("counter", "histogram")

Labels = tuple[tuple[str, str], ...]


class NodeMetrics:
    """One reading of one node."""

    def __init__(self, text: str) -> None:
        """Raises ValueError for what is no OpenMetrics text."""
        self._families = list(text_string_to_metric_families(text))  # type: ignore[no-untyped-call]
        self._samples: dict[str, dict[Labels, float]] = {}
        self._grows: dict[str, bool] = {}
        for family in self._families:
            for sample in family.samples:
                self._samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
                self._grows[sample.name] = family.type in GROWING

    def since(self, earlier: Self | None) -> Self:
        """What grew is what was added since an earlier reading; unless the process is another one by now."""
        if earlier is not None and self.sum(START_TIME) == earlier.sum(START_TIME):
            for name, values in self._samples.items():
                if self._grows[name]:
                    before = earlier._samples.get(name, {})
                    self._samples[name] = {labels: value - before.get(labels, 0.0) for labels, value in values.items()}
        return self

    def values(self, name: str, **wanted: str | frozenset[str]) -> list[tuple[dict[str, str], float]]:
        """Samples by name whose labels are as wanted: a value, or one of several."""
        found = ((dict(labels), value) for labels, value in self._samples.get(name, {}).items())
        return [(labels, value) for labels, value in found if _match(labels, wanted)]

    def sum(self, name: str, **wanted: str | frozenset[str]) -> float:
        """Of all such samples; 0 of none."""
        return math.fsum(value for _, value in self.values(name, **wanted))

    def max(self, name: str, **wanted: str | frozenset[str]) -> float:
        """Of all such samples; 0 of none."""
        return max((value for _, value in self.values(name, **wanted)), default=0.0)

    def percentile(self, name: str, percent: float, **wanted: str | frozenset[str]) -> float | None:
        """Of a histogram, over all such labels, as Prometheus's `histogram_quantile` computes it: evenly spread within a
        bucket, at most the last bound. None of nothing."""
        counts: dict[float, float] = {}
        for labels, value in self.values(f"{name}_bucket", **wanted):
            bound = float(labels["le"])
            counts[bound] = counts.get(bound, 0.0) + value
        total = counts.get(math.inf, 0.0)
        if not total:
            return None
        rank, lower, below = total * percent / 100, 0.0, 0.0
        for bound in sorted(counts):
            if counts[bound] >= rank:
                if bound == math.inf:
                    return lower
                return lower + (bound - lower) * (rank - below) / (counts[bound] - below)
            lower, below = bound, counts[bound]
        return lower

    def plain(self) -> list[dict[str, Any]]:
        """All of it as JSON values."""
        return [
            {
                "name": family.name,
                "type": family.type,
                "unit": family.unit,
                "help": family.documentation,
                "samples": [
                    {
                        "name": sample.name,
                        "labels": dict(sample.labels),
                        "value": self._samples[sample.name][tuple(sorted(sample.labels.items()))],
                    }
                    for sample in family.samples
                ],
            }
            for family in self._families
        ]


def _match(labels: dict[str, str], wanted: dict[str, str | frozenset[str]]) -> bool:
    return all(
        labels.get(name) in values if isinstance(values, frozenset) else labels.get(name) == values
        for name, values in wanted.items()
    )
