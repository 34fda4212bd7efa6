"""What the page is made of. Data only; sections draw it, `gather` fills it.

Everything in here comes from `kvctl.traces`, `kvctl.availability` or a node's answer as it is: nothing is computed twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from kvclient.histogram import Histogram
from kvctl.availability.model import Availability, SuccessRate
from kvctl.traces.critical_path import Part
from kvctl.traces.explain import Explanation
from kvctl.traces.latency import Row as StageRow
from kvctl.traces.request import Request
from kvctl.traces.waterfall import Row


class Kind(NamedTuple):
    """Requests that can be compared."""

    operation: str
    """As "put"; a part of one as "txn/prepare"."""
    consistency: str
    """As "strong"; empty: the operation has none."""
    by_client: bool = False
    """Whether it is the client's view: with its queue and the network."""

    @property
    def words(self) -> str:
        """As "put strong"."""
        return " ".join(filter(None, (self.operation, self.consistency, "in the client" if self.by_client else "")))

    @property
    def is_part(self) -> bool:
        """Whether it is a part of other requests."""
        return "/" in self.operation


@dataclass(frozen=True, slots=True)
class Latency:
    """How long requests took."""

    since_ms: int | None
    """Since when nodes counted every request; None: these are only those that left spans, as the client's view always is."""
    distributions: Mapping[Kind, Histogram]
    """Microseconds."""
    stages: Mapping[Kind, Sequence[StageRow]]
    """Microseconds; the whole is not among them."""


@dataclass(frozen=True, slots=True)
class Interval:
    """What requests of one kind waited for, of those that began in it."""

    start_ms: int
    requests: int
    means_ns: Mapping[str, float]
    """By stage: time on the critical path a request. They sum to the mean duration."""


@dataclass(frozen=True, slots=True)
class OverTime:
    """The stages of one kind of request over time."""

    step_ms: int
    from_ms: int
    to_ms: int
    intervals: Sequence[Interval]
    """Only those with requests; by start."""
    kept: Mapping[str, int]
    """How many requests left spans because they were sampled, slow, failed or superseded."""


@dataclass(frozen=True, slots=True)
class Slow:
    """One of the slowest requests."""

    request: Request
    explanation: Explanation
    parts: Mapping[Part, int]
    """Its critical path, nanoseconds."""
    rows: Sequence[Row]
    left_out: int
    """Rows that are not drawn: those that it waited for least."""


@dataclass(frozen=True, slots=True)
class Happening:
    """Something that nobody asked for: an election, a snapshot, a stalled disk."""

    at_ms: int
    duration_ns: int
    name: str
    node: str
    shard: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class Member:
    """A node of the cluster."""

    name: str
    address: str = ""
    state: str = ""
    incarnation: int = 0
    shards: int = 0
    """How many it holds."""
    leads: Sequence[int] = ()


@dataclass(slots=True)
class Sources:
    """Where all of it comes from, and what is missing."""

    made_at_ms: int
    files: Sequence[str] = ()
    asked: Sequence[str] = ()
    """Addresses of the cluster; empty: it was not asked."""
    silent: dict[str, str] = field(default_factory=dict)
    """Nodes that did not answer, or not to everything, and why."""
    spans: int = 0
    requests: int = 0
    """Of them, those that left spans."""
    damaged_lines: int = 0


@dataclass(frozen=True, slots=True)
class Report:
    """Everything. None, or empty: it is not known, and the page says why."""

    sources: Sources
    cluster_id: str = ""
    members: Sequence[Member] = ()
    window: tuple[int, int] | None = None
    """Unix milliseconds; from the first to the last that is known."""
    latency: Latency | None = None
    over_time: Mapping[Kind, OverTime] = field(default_factory=dict)
    slowest: Sequence[Slow] = ()
    """The slowest of all first, then those of each kind."""
    slowest_of_all: int = 0
    """So many of them are the slowest of all."""
    happenings: Sequence[Happening] = ()
    availability: Availability | None = None
    outcomes: Sequence[SuccessRate] = ()
    """As nodes answered: all requests."""
    outcomes_of_clients: Sequence[SuccessRate] = ()
    """As clients saw it that left spans."""
    outcomes_of_traces: Sequence[SuccessRate] = ()
    """As nodes answered those that left spans."""
