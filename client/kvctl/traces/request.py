"""One request as a row: what a table shows of it, and what filters look at.

Owns which of its spans tells what. Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from kvctl.traces.critical_path import Part
from kvctl.traces.node import Node
from kvctl.traces.related import is_background
from kvctl.traces.tree import Trace, served

ATTEMPTS_MAX = 1_000_000


@dataclass(frozen=True, slots=True)
class Request:
    """An operation that is no part of another one, or a piece of background work."""

    trace_id: str
    span_id: str
    operation: str
    """As "put"; of background work as "election"."""
    consistency: str
    node: str
    """Which served it in the end; empty: unknown."""
    shard: int | None
    start_ns: int
    duration_ns: int
    kept: str
    """sampled, slow, failed, superseded; empty: unknown."""
    error: str
    """Why it failed, as "NO_LEADER"; empty: it did not."""
    attempts: int
    by_client: bool
    """Whether the client's own span is there: else it is the node's view."""
    background: bool
    """Whether nobody asked for it: an election, a stall, the replication of an eventual write."""
    worst_stage: str
    """What it waited longest for, on `worst_node`, for `worst_ns`."""
    worst_node: str
    worst_ns: int


def describe(trace: Trace, node: Node, parts: Mapping[Part, int]) -> Request:
    """The row of one of `trace.requests()`; `parts`: of its critical path, the longest first."""
    server = served(node)
    about = [one.span for one in (server, node) if one is not None]
    worst, worst_ns = next(iter(parts.items()), (Part("", ""), 0))
    return Request(
        trace_id=trace.trace_id,
        span_id=node.span.span_id,
        operation=node.span.operation or node.span.name.removeprefix("kvnode."),
        consistency=next((span.consistency for span in about if span.consistency), ""),
        node=next((span.node for span in about if span.node), ""),
        shard=next((span.shard for span in about if span.shard is not None), None),
        start_ns=node.start_ns,
        duration_ns=node.duration_ns,
        kept=next((str(span.attributes["kvnode.kept"]) for span in about if "kvnode.kept" in span.attributes), ""),
        error=next((span.error for span in reversed(about) if span.error), ""),
        attempts=min(max(1, int(node.span.number("kvnode.attempts"))), ATTEMPTS_MAX),
        by_client=node.span.kind == "client",
        background=is_background(node.span),
        worst_stage=worst.stage,
        worst_node=worst.where,
        worst_ns=worst_ns,
    )
