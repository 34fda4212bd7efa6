"""How answers about traces look: tables for people, plain values for programs.

Owns no analysis: it gets what the others found. Durations of programs are milliseconds.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console

from kvctl.output import print_table, time_text
from kvctl.traces.critical_path import Step
from kvctl.traces.diff import Change, Difference, Figures
from kvctl.traces.explain import Explanation
from kvctl.traces.node import Node
from kvctl.traces.request import Request
from kvctl.traces.span import Span
from kvctl.traces.tree import Trace
from kvctl.traces.waterfall import draw, rows
from kvctl.traces.words import MS, duration_words, signed_words, wait_words

ID_SHOWN = 12
"""Digits of a trace id in a table."""
SHARE_SHOWN_MIN = 0.001
"""Of all critical paths, in a table."""
STAGES_SHOWN = 6
"""Of a difference, in a table."""


def request_json(request: Request) -> dict[str, Any]:
    """For programs."""
    return {
        "trace_id": request.trace_id,
        "span_id": request.span_id,
        "began": time_text(request.start_ns // MS),
        "operation": request.operation,
        "consistency": request.consistency,
        "duration_ms": _ms(request.duration_ns),
        "node": request.node,
        "shard": request.shard,
        "kept": request.kept,
        "error": request.error,
        "attempts": request.attempts,
        "by_client": request.by_client,
        "worst": {"stage": request.worst_stage, "node": request.worst_node, "ms": _ms(request.worst_ns)},
    }


def print_requests(requests: Sequence[Request]) -> None:
    """One row a request."""
    table = [
        [
            *(one.trace_id[:ID_SHOWN], time_text(one.start_ns // MS), one.operation, one.consistency),
            *(duration_words(one.duration_ns), one.node, "" if one.shard is None else one.shard, one.error or one.kept),
            f"{duration_words(one.worst_ns)} {wait_words(one.worst_stage, one.worst_node)}" if one.worst_ns else "",
        ]
        for one in requests
    ]
    headers = ["trace", "began", "operation", "consistency", "time", "node", "shard", "outcome", "longest part"]
    print_table(headers, table, right="time shard")


def trace_json(trace: Trace, explanations: Sequence[Explanation]) -> dict[str, Any]:
    """A whole trace for programs."""
    return {
        "trace_id": trace.trace_id,
        "spans": [
            {
                "depth": row.depth,
                "name": row.name,
                "node": row.where,
                "start_ms": _ms(row.start_ns),
                "duration_ms": _ms(row.duration_ns),
                "critical_ms": _ms(row.critical_ns),
                "derived": row.derived,
                "concurrent": row.concurrent,
                "error": row.error,
            }
            for row in rows(trace)
        ],
        "related": [_related_json(span) for span in trace.related],
        "missing_parents": trace.missing_parents,
        "explanation": explanations[0].text if explanations else "",
    }


def print_trace(trace: Trace, explanations: Sequence[Explanation]) -> None:
    """A waterfall, why it took so long, and what else has to do with it."""
    width = shutil.get_terminal_size((100, 24)).columns
    print(f"trace {trace.trace_id}, begun {time_text(trace.roots[0].start_ns // MS)}")
    Console(width=width).print(draw(trace, width))
    for explanation in explanations:
        print(f"\n{explanation.text}")
    if trace.related:
        print()
        print_related(trace)


def print_related(trace: Trace) -> None:
    """Spans of other traces that have to do with it."""
    begin_ns = trace.roots[0].start_ns
    table = [
        [span.name, span.node, f"{(span.start_ns - begin_ns) / 1e6:+.1f} ms", duration_words(span.duration_ns), _details(span)]
        for span in trace.related
    ]
    print_table(["related", "node", "began", "time", "details"], table, right="began time")


def _details(span: Span) -> str:
    """What a person wants of a span's attributes."""
    own = {name: value for name, value in span.attributes.items() if name.startswith("kvnode.") and name != "kvnode.stage"}
    told = {name.removeprefix("kvnode."): value for name, value in own.items()}
    return ", ".join(f"{name} {value}" for name, value in told.items())


def _related_json(span: Span) -> dict[str, Any]:
    return {
        "trace_id": span.trace_id,
        "name": span.name,
        "node": span.node,
        "began": time_text(span.start_ns // MS),
        "duration_ms": _ms(span.duration_ns),
        "attributes": dict(span.attributes),
    }


def explanation_json(one: Explanation) -> dict[str, Any]:
    """For programs."""
    return {
        "trace_id": one.trace_id,
        "operation": one.operation,
        "duration_ms": _ms(one.duration_ns),
        "typical_ms": None if one.typical_ns is None else _ms(one.typical_ns),
        "error": one.error,
        "parts": [
            {
                "stage": share.part.stage,
                "node": share.part.where,
                "ms": _ms(share.ns),
                "typical_ms": None if share.typical_ns is None else _ms(share.typical_ns),
                "words": share.words,
            }
            for share in one.shares
        ],
        "causes": list(one.causes),
        "text": one.text,
    }


def path_json(trace: Trace, request: Node, steps: Sequence[Step]) -> dict[str, Any]:
    """A critical path for programs."""
    plain = [
        {
            "stage": step.part.stage,
            "node": step.part.where,
            "start_ms": _ms(step.start_ns - request.start_ns),
            "self_ms": _ms(step.self_ns),
            "share": round(step.self_ns / max(request.duration_ns, 1), 4),
        }
        for step in steps
    ]
    return {"trace_id": trace.trace_id, "duration_ms": _ms(request.duration_ns), "steps": plain}


def print_path(trace: Trace, request: Node, steps: Sequence[Step]) -> None:
    """One row a step."""
    table = [
        [
            *(f"{(step.start_ns - request.start_ns) / MS:.2f}", duration_words(step.self_ns)),
            *(f"{step.self_ns / max(request.duration_ns, 1):.1%}", step.part.stage, step.part.where),
            wait_words(step.part.stage, step.part.where, step.node.span.node or "the client"),
        ]
        for step in steps
    ]
    title = f"{request.span.name}, {duration_words(request.duration_ns)}, trace {trace.trace_id}"
    print_table(["at ms", "self", "share", "stage", "node", "what"], table, title=title, right="at ms self share")


def paths_json(parts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Many critical paths for programs: rows of `TraceStore.paths`."""
    plain = [
        {
            "stage": row["stage"],
            "node": row["node"],
            "share": round(row["share"], 4),
            "mean_ms": _ms(row["mean_ns"]),
            "requests_share": round(row["frequency"], 4),
        }
        for row in parts
    ]
    return {"requests": parts[0]["requests"] if parts else 0, "parts": plain}


def print_paths(parts: Sequence[Mapping[str, Any]]) -> None:
    """One row a stage and node."""
    table = [
        [
            *(f"{row['share']:.1%}", duration_words(row["mean_ns"]), f"{row['frequency']:.0%}", row["stage"], row["node"]),
            wait_words(row["stage"], row["node"]),
        ]
        for row in parts
        if row["share"] >= SHARE_SHOWN_MIN
    ]
    title = f"Critical paths of {parts[0]['requests']:,} requests"
    print_table(["share", "mean", "in", "stage", "node", "what"], table, title=title, right="share mean in")


def print_differences(found: Sequence[Difference]) -> None:
    """Of each kind a sentence and a table."""
    for at, one in enumerate(found):
        print(("\n" if at else "") + one.text)
        table = [_change_row(change, one.has_reasons) for change in (one.whole, *one.stages[:STAGES_SHOWN])]
        headers = ["stage", "count", "p50", "p95", "p99", "mean", "Δ p50", "of change", "verdict"]
        print_table(headers, table, right="count p50 p95 p99 mean Δ of change")


def _change_row(change: Change, has_reasons: bool) -> list[object]:
    """`has_reasons`: whether to show its share."""

    def both(name: str) -> str:
        return " → ".join(duration_words(getattr(side, name)).removesuffix(" ms") for side in (change.before, change.after))

    delta = signed_words(change.delta_ns) + (f" ({change.ratio - 1:+.0%})" if change.ratio else "")
    counts = f"{change.before.count:,} → {change.after.count:,}"
    whole = [change.stage or "whole", counts, both("p50"), both("p95"), both("p99"), both("mean"), delta]
    return [*whole, f"{change.share:.0%}" if change.stage and has_reasons else "", str(change.verdict)]


def difference_json(one: Difference) -> dict[str, Any]:
    """For programs."""

    def figures(side: Figures) -> dict[str, Any]:
        return {"count": side.count} | {f"{name}_ms": _ms(getattr(side, name)) for name in ("mean", "p50", "p95", "p99")}

    return {
        "operation": one.operation,
        "consistency": one.consistency,
        "by_client": one.by_client,
        "text": one.text,
        "stages": [
            {
                "stage": change.stage,
                "a": figures(change.before),
                "b": figures(change.after),
                "p_value": change.shift.p_value if change.shift else None,
                "p_value_tail": change.tail.p_value if change.tail else None,
                "share_of_change": round(change.share, 4),
                "verdict": str(change.verdict),
            }
            for change in (one.whole, *one.stages)
        ],
    }


def plain_value(value: Any) -> Any:
    """A value as JSON can have it."""
    return value if isinstance(value, str | int | float | bool | list | dict | None) else str(value)


def _ms(ns: float) -> float:
    return round(ns / 1e6, 3)
