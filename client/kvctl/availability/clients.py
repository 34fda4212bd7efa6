"""How operations ended as clients saw it, from the traces that they left.

Owns which spans count: an operation of the SDK with all its attempts is one. A share is right only if the application's
sampling keeps operations whatever their end.
"""

from __future__ import annotations

from collections.abc import Iterable

from kvctl.availability.model import SuccessRate
from kvctl.availability.outcomes import success_rates
from kvctl.availability.spans import Span as Window
from kvctl.traces.span import Span


def of_clients(spans: Iterable[Span], from_ms: int | None = None, to_ms: int | None = None) -> tuple[SuccessRate, ...]:
    """Of the operations that began within a window, by the clients' clocks; a span that comes twice counts once."""
    window = Window(0 if from_ms is None else from_ms, 1 << 62 if to_ms is None else to_ms)
    counts: dict[tuple[str, str, str], int] = {}
    seen: dict[tuple[str, str], None] = {}
    for span in spans:
        # (An RPC that carries several operations has a span of its own, without attempts.)
        if span.kind != "client" or not span.operation or "kvnode.attempts" not in span.attributes:
            continue
        if (span.trace_id, span.span_id) in seen or not window.from_ms <= span.start_ns // 1_000_000 < window.to_ms:
            continue
        seen[span.trace_id, span.span_id] = None
        key = span.operation, span.consistency.upper(), span.error or "OK"
        counts[key] = counts.get(key, 0) + 1
    return success_rates(counts)
