"""Spans that other traces have to do with: the SDK's batches, group commits, elections, stalls, later replication.

Owns the joins between traces: by link, by the id of a batch (links are capped), and by time and place. Pure.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterable

from kvctl.traces.span import Span

BACKGROUND = "kvnode."
"""What names of spans without a request begin with."""
LOG_BATCH, ELECTION, DISK_STALL = "kvnode.log_batch", "kvnode.election", "kvnode.disk_stall"
EVENTUAL_APPLY = "kvnode.eventual.apply"
_WRITES = ("log_queue", "log_write", "append")
_WAITS_FOR_A_LEADER = ("leader_wait", "client.pause")


def is_background(span: Span) -> bool:
    """Whether it is work that no request waits for by itself."""
    return not span.parent_id and span.name.startswith(BACKGROUND)


def is_client_batch(span: Span) -> bool:
    """Whether it is one RPC of the SDK for many operations."""
    return span.kind == "client" and span.operation == "batch" and bool(span.batch_id)


class Related:
    """An index of such spans; others may be among them."""

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._children: dict[tuple[str, str], list[Span]] = defaultdict(list)
        self._batches: dict[str, list[Span]] = defaultdict(list)
        self._links: dict[tuple[str, str], list[Span]] = defaultdict(list)
        self._by_place: dict[tuple[str, object], list[Span]] = defaultdict(list)
        for span in sorted(spans, key=lambda span: (span.start_ns, span.span_id)):
            self._index(span)

    def _index(self, span: Span) -> None:
        if span.kind == "server" and span.parent_id:
            self._children[span.trace_id, span.parent_id].append(span)
        if not (is_background(span) or is_client_batch(span)):
            return
        if span.batch_id:
            self._batches[span.batch_id].append(span)
        for link in span.links:
            self._links[link.trace_id, link.span_id].append(span)
        place = span.shard if span.name == ELECTION else span.node
        self._by_place[span.name, place].append(span)

    def batch_on_node(self, batch_id: str) -> Span | None:
        """Of the SDK's batch: the node's span of its RPC."""
        for batch in self._batches.get(batch_id, ()):
            if is_client_batch(batch):
                return next(iter(self._children.get((batch.trace_id, batch.span_id), ())), None)
        return None

    def group_commit(self, batch_id: str) -> Span | None:
        """The write of the log with this id."""
        return next((span for span in self._batches.get(batch_id, ()) if span.name == LOG_BATCH), None) if batch_id else None

    def of(self, spans: Iterable[Span]) -> list[Span]:
        """Those that have to do with one trace's spans; by start."""
        spans = list(spans)
        own = {(span.trace_id, span.span_id) for span in spans}
        shard = next((span.shard for span in spans if span.shard is not None), None)
        found: dict[tuple[str, str], Span] = {}
        for span in spans:
            for other in self._around(span, shard):
                if (other.trace_id, other.span_id) not in own:
                    found[other.trace_id, other.span_id] = other
        return sorted(found.values(), key=lambda span: (span.start_ns, span.span_id))

    def _around(self, span: Span, shard: object) -> Iterable[Span]:
        yield from self._links.get((span.trace_id, span.span_id), ())
        if span.batch_id:
            yield from self._batches.get(span.batch_id, ())
        stage, place = span.stage or span.name, str(span.attributes.get("kvnode.node", span.node))
        if stage in _WAITS_FOR_A_LEADER:
            yield from self._during(ELECTION, shard if span.shard is None else span.shard, span)
        if stage in _WRITES:
            yield from self._during(DISK_STALL, place, span)
        if stage == "log_queue":
            yield from self._during(LOG_BATCH, place, span)

    def _during(self, name: str, place: object, span: Span) -> Iterable[Span]:
        """What of this kind happened there while `span` lasted; such things follow each other in one place."""
        there = self._by_place.get((name, place), [])
        for other in reversed(there[: bisect_left(there, span.end_ns, key=lambda other: other.start_ns)]):
            if other.end_ns <= span.start_ns:
                return
            yield other
