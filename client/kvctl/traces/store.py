"""All spans that were read, in a DuckDB in memory: filters, percentiles, groups.

Owns the tables. `spans` has a row a span; `requests` a row a request (an operation that is no part of another); `steps` what
its critical path consists of. Users may query them, too.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from kvctl.traces.explain import Typical
from kvctl.traces.span import Span
from kvctl.traces.tree import Trace


@dataclass(frozen=True, slots=True)
class Request:
    """A row of `requests`."""

    trace_id: str
    span_id: str
    operation: str
    consistency: str
    node: str
    """Which served it in the end; empty: unknown."""
    shard: int | None
    start_ns: int
    duration_ns: int
    kept: str
    """sampled, slow, failed, superseded; empty: unknown."""
    error: str
    attempts: int
    by_client: bool
    """Whether the client's own span is there: else it is the node's view."""
    worst_stage: str
    """What it waited longest for, on `worst_node`, for `worst_ns`."""
    worst_node: str
    worst_ns: int


class TraceStore:
    """Spans to query; `with` closes it."""

    def __init__(self) -> None: ...

    def add(self, spans: Iterable[Span]) -> int:
        """Take spans, each (trace id, span id) once; how many were new."""
        raise NotImplementedError

    def requests(
        self, where: str = "", parameters: Sequence[Any] = (), order: str = "duration_ns desc", limit: int | None = None
    ) -> list[Request]:
        """Requests; `where` and `order` are SQL over the columns of `Request`."""
        raise NotImplementedError

    def trace(self, trace_id: str) -> Trace:
        """One trace, by the beginning of its id. Raises Failure when none or several begin so."""
        raise NotImplementedError

    def typical(self, operation: str, consistency: str) -> Typical | None:
        """What is usual for its kind; None where there are too few. Of sampled requests, where there are enough."""
        raise NotImplementedError

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a query over `spans`, `requests` and `steps`, by column."""
        raise NotImplementedError
