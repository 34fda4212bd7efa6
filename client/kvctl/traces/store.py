"""All spans that were read, in a DuckDB in memory: filters, percentiles, groups.

Owns the tables. `spans` has a row a span; `requests` a row a request (an operation that is no part of another, or a piece of
background work); `steps` how long each waited, by stage and node of its critical path; `waits` the same by stage, with a 0 for
what it did not wait for. Users may query them, too.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import astuple, dataclass, fields
from types import TracebackType
from typing import Any, Self

import duckdb

from kvctl.failures import ExitCode, Failure, usage
from kvctl.traces.critical_path import Part, by_part, critical_path
from kvctl.traces.explain import Typical
from kvctl.traces.node import Node
from kvctl.traces.related import Related, is_background
from kvctl.traces.span import Link, Span
from kvctl.traces.tree import Trace, build, served

CHUNK = 5_000
TYPICAL_COUNT_MIN = 5
"""Of fewer requests nobody can say what is usual."""

_SPANS = {
    **dict.fromkeys(("trace_id", "span_id", "parent_id", "name", "kind", "service", "instance", "node"), "VARCHAR"),
    **dict.fromkeys(("stage", "operation", "consistency", "batch_id", "error"), "VARCHAR"),
    **{"shard": "INTEGER", "start_ns": "BIGINT", "end_ns": "BIGINT", "duration_ns": "BIGINT"},
    **{"failed": "BOOLEAN", "message": "VARCHAR", "attributes": "JSON", "links": "JSON"},
}
_REQUESTS = {
    **dict.fromkeys(("trace_id", "span_id", "operation", "consistency", "node"), "VARCHAR"),
    **{"shard": "INTEGER", "start_ns": "BIGINT", "duration_ns": "BIGINT", "kept": "VARCHAR", "error": "VARCHAR"},
    **{"attempts": "INTEGER", "by_client": "BOOLEAN", "background": "BOOLEAN"},
    **{"worst_stage": "VARCHAR", "worst_node": "VARCHAR", "worst_ns": "BIGINT"},
}
_STEPS = {**dict.fromkeys(("trace_id", "span_id", "stage", "node"), "VARCHAR"), "ns": "BIGINT"}
_WAITS = """create view waits as
select trace_id, span_id, stage, coalesce(sum(ns), 0)::bigint as ns
from requests cross join (select distinct stage from steps) left join steps using (trace_id, span_id, stage)
group by trace_id, span_id, stage"""
_WHOLE = ("trace_id", "span_id", "parent_id", "name", "kind", "start_ns", "end_ns", "service", "instance", "attributes")
_WHOLE_SPAN = ", ".join((*_WHOLE, "links", "failed", "message"))
_USED_BY_OTHERS = """(parent_id = '' and starts_with(name, 'kvnode.')) or (operation = 'batch' and kind in ('client', 'server'))"""


@dataclass(frozen=True, slots=True)
class Request:
    """A row of `requests`."""

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
    attempts: int
    by_client: bool
    """Whether the client's own span is there: else it is the node's view."""
    background: bool
    """Whether nobody asked for it: an election, a stall, the replication of an eventual write."""
    worst_stage: str
    """What it waited longest for, on `worst_node`, for `worst_ns`."""
    worst_node: str
    worst_ns: int


class TraceStore:
    """Spans to query; a `with` closes it."""

    def __init__(self) -> None:
        self._database = duckdb.connect(":memory:")
        for table, columns in (("spans", _SPANS), ("requests", _REQUESTS), ("steps", _STEPS)):
            declared = ", ".join(f"{name} {kind}" for name, kind in columns.items())
            key = ", primary key (trace_id, span_id)" if table == "spans" else ""
            self._database.execute(f"create table {table} ({declared}{key})")
        self._database.execute(_WAITS)
        self._analysed = True

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def add(self, spans: Iterable[Span]) -> int:
        """Take spans, each (trace id, span id) once; how many were new."""
        before = self._count()
        rows = (_row(span) for span in spans)
        while chunk := list(itertools.islice(rows, CHUNK)):
            self._insert("spans", _SPANS, chunk)
        self._analysed = False
        return self._count() - before

    def requests(
        self, where: str = "", parameters: Sequence[Any] = (), order: str = "duration_ns desc", limit: int | None = None
    ) -> list[Request]:
        """Requests; `where` and `order` are SQL over the columns of `Request`."""
        condition = f"where {where}" if where else ""
        bound = f"limit {limit}" if limit is not None else ""
        columns = ", ".join(field.name for field in fields(Request))
        self._analyse()
        rows = self._rows(f"select {columns} from requests {condition} order by {order}, trace_id, span_id {bound}", parameters)
        return [Request(*row) for row in rows]

    def trace(self, trace_id: str) -> Trace:
        """One trace, by the beginning of its id. Raises Failure when none or several begin so."""
        wanted = trace_id.strip().lower()
        found = self._rows("select distinct trace_id from spans where starts_with(trace_id, ?) order by 1 limit 4", [wanted])
        if not found or not wanted:
            raise Failure(
                ExitCode.NOT_FOUND, "NOT_FOUND", f"no trace begins with {wanted!r}", "kvctl trace list shows those that are known"
            )
        if len(found) > 1:
            few = ", ".join(row[0][: len(wanted) + 6] for row in found[:3])
            raise usage(f"several traces begin with {wanted!r}: {few}{', …' if len(found) > 3 else ''}", "give more of the id")
        spans = self._spans("where trace_id = ?", found[0])
        return build(spans, self._related())

    def traces(self) -> Iterator[Trace]:
        """All traces, one after the other."""
        related = self._related()
        for _, spans in itertools.groupby(self._spans("order by trace_id"), key=lambda span: span.trace_id):
            yield build(spans, related)

    def typical(self, operation: str, consistency: str, by_client: bool = True) -> Typical | None:
        """What is usual for its kind, as clients or as nodes see it; None where there are too few. Of sampled requests where
        there are enough of them: the others were kept because they were not usual.
        """
        self._analyse()
        kind = "operation = ? and consistency = ? and by_client = ? and error = '' and not background"
        for sampled in (" and kept = 'sampled'", ""):
            (row,) = self._rows(
                f"select count(*), median(duration_ns) from requests where {kind}{sampled}", [operation, consistency, by_client]
            )
            if row[0] >= TYPICAL_COUNT_MIN:
                stages = self._rows(
                    f"""select stage, median(ns) from waits join requests using (trace_id, span_id)
                    where {kind}{sampled} group by stage""",
                    [operation, consistency, by_client],
                )
                return Typical(row[0], row[1], dict(stages))
        return None

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows of a query over `spans`, `requests`, `steps` and `waits`, by column. Raises a usage failure with DuckDB's words."""
        self._analyse()
        try:
            cursor = self._database.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as error:
            raise usage(f"the query failed: {str(error).strip()}", "tables: spans, requests, steps, waits") from None

    def _count(self) -> int:
        return int(self._rows("select count(*) from spans")[0][0])

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, list(parameters)).fetchall()

    def _insert(self, table: str, columns: dict[str, str], rows: Sequence[Sequence[Any]]) -> None:
        """Many rows at once, column by column: ten times as quick as one by one."""
        values = ", ".join(f"unnest(?::{kind}[])" for kind in columns.values())
        known = "or ignore " if table == "spans" else ""
        self._database.execute(
            f"insert {known}into {table} select {values}", [list(column) for column in zip(*rows, strict=True)]
        )

    def _spans(self, rest: str, parameters: Sequence[Any] = ()) -> Iterator[Span]:
        cursor = self._database.cursor().execute(f"select {_WHOLE_SPAN} from spans {rest}", list(parameters))
        while rows := cursor.fetchmany(CHUNK):
            for row in rows:
                *head, attributes, links, failed, message = row
                yield Span(*head, json.loads(attributes), tuple(Link(*link) for link in json.loads(links)), failed, message)

    def _related(self) -> Related:
        return Related(self._spans(f"where {_USED_BY_OTHERS}"))

    def _analyse(self) -> None:
        """Fill `requests` and `steps` anew, if spans came since."""
        if self._analysed:
            return
        self._database.execute("delete from requests")
        self._database.execute("delete from steps")
        traces = self.traces()
        while chunk := [(trace, node) for trace in itertools.islice(traces, CHUNK // 10) for node in trace.requests()]:
            requests, steps = [], []
            for trace, node in chunk:
                parts = by_part(critical_path(node))
                requests.append(astuple(describe(trace, node, parts)))
                steps += [(trace.trace_id, node.span.span_id, part.stage, part.where, ns) for part, ns in parts.items()]
            self._insert("requests", _REQUESTS, requests)
            if steps:
                self._insert("steps", _STEPS, steps)
        self._analysed = True


def describe(trace: Trace, node: Node, parts: Mapping[Part, int]) -> Request:
    """The row of one request; `parts`: of its critical path, the longest first."""
    server = served(node)
    worst, worst_ns = next(iter(parts.items()), (None, 0))
    about = [one.span for one in (server, node) if one is not None]
    shard = next((span.attributes["kvnode.shard"] for span in about if "kvnode.shard" in span.attributes), None)
    background = is_background(node.span)
    return Request(
        trace.trace_id,
        node.span.span_id,
        node.span.name.removeprefix("kvnode.") if background else node.span.operation,
        next((span.consistency for span in about if span.consistency), ""),
        next((span.node for span in about if span.node), ""),
        int(shard) if shard is not None else None,
        node.start_ns,
        node.duration_ns,
        next((str(span.attributes["kvnode.kept"]) for span in about if "kvnode.kept" in span.attributes), ""),
        next((span.error for span in reversed(about) if span.error), ""),
        max(1, int(node.span.number("kvnode.attempts"))),
        node.span.kind == "client",
        background,
        worst.stage if worst else "",
        worst.where if worst else "",
        worst_ns,
    )


def _row(span: Span) -> tuple[Any, ...]:
    return (
        *(span.trace_id, span.span_id, span.parent_id, span.name, span.kind, span.service, span.instance, span.node),
        *(span.stage, span.operation, span.consistency, span.batch_id, span.error),
        int(span.number("kvnode.shard")) if "kvnode.shard" in span.attributes else None,
        *(span.start_ns, span.end_ns, span.duration_ns, span.failed, span.message),
        *(json.dumps(span.attributes), json.dumps([(link.trace_id, link.span_id) for link in span.links])),
    )
