"""All spans that were read, in a DuckDB in memory: filters, percentiles, groups.

Owns the tables. `spans` has a row a span; `requests` a row a request (`kvctl.traces.request`); `steps` how long each waited, by
stage and node of its critical path; `waits` the same by stage, with a 0 for what it did not wait for. Users may query all.
"""

from __future__ import annotations

import itertools
import json
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import astuple, fields
from types import TracebackType
from typing import Any, Self

import duckdb

from kvctl.failures import ExitCode, Failure, usage
from kvctl.traces.critical_path import by_part, critical_path
from kvctl.traces.diff import Kind, Samples
from kvctl.traces.explain import Explanation, Typical, explain
from kvctl.traces.node import Node
from kvctl.traces.related import Related
from kvctl.traces.request import Request, describe
from kvctl.traces.span import Link, Span
from kvctl.traces.tree import Trace, build

CHUNK = 5_000
TYPICAL_COUNT_MIN = 5
"""Of fewer requests nobody can say what is usual."""

_COLUMNS = {
    "spans": """trace_id VARCHAR, span_id VARCHAR, parent_id VARCHAR, name VARCHAR, kind VARCHAR, service VARCHAR,
        instance VARCHAR, node VARCHAR, stage VARCHAR, operation VARCHAR, consistency VARCHAR, batch_id VARCHAR, error VARCHAR,
        shard INTEGER, start_ns BIGINT, end_ns BIGINT, duration_ns BIGINT, failed BOOLEAN, message VARCHAR, attributes JSON,
        links JSON""",
    "requests": """trace_id VARCHAR, span_id VARCHAR, operation VARCHAR, consistency VARCHAR, node VARCHAR, shard INTEGER,
        start_ns BIGINT, duration_ns BIGINT, kept VARCHAR, error VARCHAR, attempts INTEGER, by_client BOOLEAN,
        background BOOLEAN, worst_stage VARCHAR, worst_node VARCHAR, worst_ns BIGINT""",
    "steps": "trace_id VARCHAR, span_id VARCHAR, stage VARCHAR, node VARCHAR, ns BIGINT",
}
_WAITS = """create view waits as
    select trace_id, span_id, stage, coalesce(sum(ns), 0)::bigint as ns
    from requests cross join (select distinct stage from steps) left join steps using (trace_id, span_id, stage)
    group by trace_id, span_id, stage"""
_WHOLE = """trace_id, span_id, parent_id, name, kind, start_ns, end_ns, service, instance, failed, message, attributes, links"""
_USED_BY_OTHERS = """(parent_id = '' and starts_with(name, 'kvnode.'))
    or (operation = 'batch' and kind in ('client', 'server'))"""


class TraceStore:
    """Spans to query; a `with` closes it."""

    def __init__(self) -> None:
        self._database = duckdb.connect(":memory:")
        for table, columns in _COLUMNS.items():
            key = ", primary key (trace_id, span_id)" if table == "spans" else ""
            self._database.execute(f"create table {table} ({columns}{key})")
        self._database.execute(_WAITS)
        self._analysed = True
        self._known: Related | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._database.close()

    def add(self, spans: Iterable[Span]) -> int:
        """Take spans, each (trace id, span id) once; how many were new."""
        before = self._count()
        rows = (_row(span) for span in spans)
        while chunk := list(itertools.islice(rows, CHUNK)):
            self._insert("spans", list({row[:2]: row for row in chunk}.values()))
        self._analysed, self._known = False, None
        return self._count() - before

    def requests(
        self, where: str = "", parameters: Sequence[Any] = (), order: str = "duration_ns desc", limit: int | None = None
    ) -> list[Request]:
        """Requests; `where` and `order` are SQL over the columns of `Request`."""
        columns = ", ".join(field.name for field in fields(Request))
        bound = f"limit {limit}" if limit is not None else ""
        sql = f"select {columns} from requests where {where or 'true'} order by {order}, trace_id, span_id {bound}"
        return [Request(**row) for row in self.query(sql, parameters)]

    def count(self, where: str = "", parameters: Sequence[Any] = ()) -> int:
        """How many requests there are."""
        return int(self.query(f"select count(*) as number from requests where {where or 'true'}", parameters)[0]["number"])

    def slowest(self, where: str = "", parameters: Sequence[Any] = (), limit: int = 3) -> list[tuple[Trace, Node]]:
        """The slowest requests, each in its trace."""
        found = []
        for request in self.requests(where, parameters, limit=limit):
            trace = self.trace(request.trace_id)
            found += [(trace, node) for node in trace.requests() if node.span.span_id == request.span_id]
        return found

    def explain(self, trace: Trace, request: Node) -> Explanation:
        """Why a request of a trace took its time, compared with what is usual."""
        row = describe(trace, request, {})
        return explain(trace, request, self.typical(row.operation, row.consistency, row.by_client))

    def trace(self, trace_id: str) -> Trace:
        """One trace, by the beginning of its id. Raises Failure when none or several begin so."""
        wanted = trace_id.strip().lower()
        found = self._rows("select distinct trace_id from spans where starts_with(trace_id, ?) order by 1 limit 4", [wanted])
        if not found or not wanted:
            hint = "kvctl trace list shows those that are known"
            raise Failure(ExitCode.NOT_FOUND, "NOT_FOUND", f"no trace begins with {wanted!r}", hint)
        if len(found) > 1:
            few = ", ".join(row[0][: len(wanted) + 6] for row in found[:3])
            raise usage(f"several traces begin with {wanted!r}: {few}{', …' if len(found) > 3 else ''}", "give more of the id")
        return build(self._spans("where trace_id = ?", found[0]), self._related())

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
        kind, parameters = "operation = ? and consistency = ? and by_client = ?", [operation, consistency, by_client]
        for kept in ("kept = 'sampled'", "true"):
            chosen = f"requests where {kind} and error = '' and not background and {kept}"
            ((count, median_ns),) = self._rows(f"select count(*), median(duration_ns) from {chosen}", parameters)
            if count >= TYPICAL_COUNT_MIN:
                stages = self._rows(
                    f"select stage, median(ns) from waits semi join (from {chosen}) using (trace_id, span_id) group by stage",
                    parameters,
                )
                return Typical(count, median_ns, dict(stages))
        return None

    def samples(self, where: str = "", parameters: Sequence[Any] = ()) -> dict[Kind, Samples]:
        """Durations of requests by kind, to compare; `where` as for `requests`. Background work is none."""
        found: dict[Kind, Samples] = defaultdict(Samples)
        chosen = f"(from requests where not background and ({where or 'true'}))"
        kind = "operation, consistency, by_client"
        for row in self.query(f"select {kind}, list(duration_ns) as ns from {chosen} group by all", parameters):
            found[row["operation"], row["consistency"], row["by_client"]].whole = row["ns"]
        stages = f"select {kind}, stage, list(ns) as ns from waits join {chosen} using (trace_id, span_id) group by all"
        for row in self.query(stages, parameters):
            if any(row["ns"]):
                found[row["operation"], row["consistency"], row["by_client"]].stages[row["stage"]] = row["ns"]
        return found

    def paths(self, where: str = "", parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Of the critical paths of requests together, by stage and node: share, mean_ns a request, frequency (the share of
        requests that waited for it), and how many requests there are. The greatest share first.
        """
        return self.query(
            f"""with chosen as (from requests where {where or "true"}),
            whole as (select count(*) as requests, sum(duration_ns) as ns from chosen)
            select stage, steps.node, sum(steps.ns) / whole.ns as share, sum(steps.ns) / whole.requests as mean_ns,
              count(distinct (trace_id, span_id)) / whole.requests as frequency, whole.requests
            from steps semi join chosen using (trace_id, span_id), whole
            group by stage, steps.node, whole.ns, whole.requests order by share desc, stage, steps.node""",
            parameters,
        )

    def query(self, sql: str, parameters: Sequence[Any] = ()) -> list[dict[str, Any]]:
        """Rows by column, of a query over the tables. Raises a usage failure with DuckDB's words."""
        self._analyse()
        try:
            cursor = self._database.execute(sql, list(parameters))
            names = [column[0] for column in cursor.description or ()]
            return [dict(zip(names, row, strict=True)) for row in cursor.fetchall()]
        except duckdb.Error as error:
            said = "; ".join(line.strip() for line in str(error).split("\n\n")[0].splitlines() if line.strip())
            raise usage(f"the query failed: {said}", "tables: spans, requests, steps, waits; describe requests") from None

    def _count(self) -> int:
        return int(self._rows("select count(*) from spans")[0][0])

    def _rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self._database.execute(sql, list(parameters)).fetchall()

    def _insert(self, table: str, rows: Sequence[Sequence[Any]]) -> None:
        """Many rows at once, as one JSON text: no version of DuckDB is slow to take it."""
        columns = dict(column.split() for column in _COLUMNS[table].split(","))
        form = json.dumps([columns]).replace("JSON", "VARCHAR")
        text = json.dumps([dict(zip(columns, row, strict=True)) for row in rows])
        known = "or ignore " if table == "spans" else ""
        self._database.execute(f"insert {known}into {table} select unnest(from_json(?, '{form}'), recursive := true)", [text])

    def _spans(self, rest: str, parameters: Sequence[Any] = ()) -> Iterator[Span]:
        cursor = self._database.cursor().execute(f"select {_WHOLE} from spans {rest}", list(parameters))
        while rows := cursor.fetchmany(CHUNK):
            for *plain, attributes, links in rows:
                given: list[Any] = [*plain, json.loads(attributes), tuple(Link(*link) for link in json.loads(links))]
                yield Span(*given)

    def _related(self) -> Related:
        if self._known is None:
            self._known = Related(self._spans(f"where {_USED_BY_OTHERS}"))
        return self._known

    def _analyse(self) -> None:
        """Fill `requests` and `steps` anew, if spans came since."""
        if self._analysed:
            return
        for table in ("requests", "steps"):
            self._database.execute(f"delete from {table}")
        traces = self.traces()
        while chunk := list(itertools.islice(traces, CHUNK // 10)):
            found = [(trace, node, by_part(critical_path(node))) for trace in chunk for node in trace.requests()]
            self._insert("requests", [astuple(describe(*one)) for one in found])
            ids = [(trace.trace_id, node.span.span_id, parts) for trace, node, parts in found]
            self._insert("steps", [(*one, part.stage, part.where, ns) for *one, parts in ids for part, ns in parts.items()])
        self._analysed = True


def _row(span: Span) -> tuple[Any, ...]:
    return (
        *(span.trace_id, span.span_id, span.parent_id, span.name, span.kind, span.service, span.instance, span.node),
        *(span.stage, span.operation, span.consistency, span.batch_id, span.error, span.shard),
        *(span.start_ns, span.end_ns, span.duration_ns, span.failed, span.message),
        *(json.dumps(span.attributes), json.dumps([(link.trace_id, link.span_id) for link in span.links])),
    )
