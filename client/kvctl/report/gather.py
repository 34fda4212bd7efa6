"""From what others found to what the page is made of.

Owns the selection: which requests, which intervals, which rows of a long trace. The figures are those of `kvctl latency`,
`kvctl trace` and `kvctl availability`. Asks nobody; see `kvctl.report.ask`.
"""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence

from kvclient.histogram import Histogram, merged
from kvctl.availability.clients import of_clients
from kvctl.availability.model import Availability, SuccessRate
from kvctl.availability.outcomes import success_rates
from kvctl.report.ask import Live
from kvctl.report.model import Happening, Interval, Kind, Latency, Member, OverTime, Report, Slow, Sources
from kvctl.report.scales import time_step_ms
from kvctl.traces.critical_path import by_part, critical_path
from kvctl.traces.latency import CONSISTENCIES, Snapshot, latency_of_traces
from kvctl.traces.latency import Row as StageRow
from kvctl.traces.node import Node
from kvctl.traces.request import describe
from kvctl.traces.span import Span
from kvctl.traces.store import TraceStore
from kvctl.traces.tree import Trace
from kvctl.traces.waterfall import Row, rows

OPERATORS = "cluster."
"""What calls of operators begin with; they are none of the load, and this report makes some itself."""
INTERVALS_MIN, INTERVALS_MAX, PER_INTERVAL = 24, 60, 4
"""Of a picture over time: so many, of so many requests each where there are enough."""
_KIND = "operation, consistency, by_client"
PER_KIND = 3
"""Of each kind so many are among the slowest, however quick it is."""
ROWS_MAX, ROWS_IN_ALL = 250, 12_000
"""Of one waterfall, and of all: a page stays below 3 MB."""
HAPPENINGS = ("election", "snapshot.install", "snapshot.send", "disk_stall")
HAPPENINGS_MAX = 200
ALL = 1_000_000


def latency_of_nodes(snapshot: Snapshot) -> Latency | None:
    """What the nodes counted: every request. None: there was none."""
    series: dict[Kind, list[Histogram]] = defaultdict(list)
    for node in snapshot.nodes.values():
        for (operation, consistency, stage), histogram in node.series.items():
            if not stage and not operation.startswith(OPERATORS):
                name = CONSISTENCIES[consistency] if consistency < len(CONSISTENCIES) else str(consistency)
                series[Kind(operation, name)].append(histogram)
    found = {kind: merged(histograms) for kind, histograms in series.items()}
    return _latency(min((node.since_ms for node in snapshot.nodes.values()), default=0), found, snapshot.rows())


def latency_of_spans(store: TraceStore) -> Latency | None:
    """What spans tell: only of requests that left some. None: there was none."""
    query = """select operation, consistency, kind = 'client' as by_client, list(duration_ns // 1000) as us
        from spans where operation <> '' and stage = '' group by all"""
    found: dict[Kind, Histogram] = {}
    for row in store.query(query):
        histogram = found[Kind(row["operation"], row["consistency"], row["by_client"])] = Histogram()
        for us in row["us"]:
            histogram.record(us)
    return _latency(None, found, latency_of_traces(store))


def with_clients(counted: Latency, traced: Latency) -> Latency:
    """What nodes counted, and beside it what clients saw, which nodes cannot know."""
    seen = {kind: traced.distributions[kind] for kind in traced.distributions if kind.by_client}
    together = {**counted.distributions, **seen}
    distributions = {kind: together[kind] for kind in sorted(together, key=lambda kind: kind.is_part)}
    return Latency(counted.since_ms, distributions, {**traced.stages, **counted.stages})


def _latency(since_ms: int | None, found: Mapping[Kind, Histogram], stage_rows: Iterable[StageRow]) -> Latency | None:
    distributions = {kind: found[kind] for kind in sorted(found, key=_weight(found)) if found[kind].count}
    stages: dict[Kind, list[StageRow]] = {kind: [] for kind in distributions}
    for row in stage_rows:
        kind = Kind(row.operation, row.consistency, row.stage.startswith("client"))
        if kind in stages and row.stage not in ("", "client"):
            stages[kind].append(row)
    return Latency(since_ms, distributions, stages) if distributions else None


def _weight(found: Mapping[Kind, Histogram]) -> Callable[[Kind], tuple[bool, int, Kind]]:
    """What most time went to comes first; parts of others come last."""
    return lambda kind: (kind.is_part, -found[kind].sum_us, kind)


def over_time(store: TraceStore) -> dict[Kind, OverTime]:
    """The stages of each kind, interval by interval: the fewer requests, the longer the intervals."""
    window = window_of_spans(store)
    if window is None:
        return {}
    kept: dict[Kind, dict[str, int]] = defaultdict(dict)
    for row in store.query(f"select {_KIND}, kept, count(*) as n from requests where not background group by all"):
        kept[_kind(row)][row["kept"]] = row["n"]
    ranked = sorted(kept, key=lambda kind: (-sum(kept[kind].values()), kind))
    return {kind: _over_time(store, kind, window, kept[kind]) for kind in ranked}


def _over_time(store: TraceStore, kind: Kind, window: tuple[int, int], kept: Mapping[str, int]) -> OverTime:
    wanted = min(INTERVALS_MAX, max(INTERVALS_MIN, sum(kept.values()) // PER_INTERVAL))
    step_ms = time_step_ms(window[1] - window[0], wanted)
    begin_ms = window[0] // step_ms * step_ms
    place = f"(start_ns // 1000000 - {begin_ms}) // {step_ms} as place"
    chosen = "not background and operation = ? and consistency = ? and by_client = ?"
    counts = {
        row["place"]: row["n"]
        for row in store.query(f"select {place}, count(*) as n from requests where {chosen} group by all", kind)
    }
    sums: dict[int, dict[str, int]] = defaultdict(dict)
    for row in store.query(
        f"""select {place}, stage, sum(ns)::bigint as ns from steps join requests using (trace_id, span_id)
        where {chosen} group by all""",
        kind,
    ):
        sums[row["place"]][row["stage"]] = row["ns"]
    intervals = [
        Interval(begin_ms + place * step_ms, n, {stage: ns / n for stage, ns in sums[place].items()})
        for place, n in sorted(counts.items())
    ]
    return OverTime(step_ms, begin_ms, max(window[1], intervals[-1].start_ms + step_ms), intervals, kept)


def _kind(row: Mapping[str, object]) -> Kind:
    return Kind(str(row["operation"]), str(row["consistency"]), bool(row["by_client"]))


def slowest(store: TraceStore, limit: int) -> list[Slow]:
    """The slowest requests of all, and a few of each kind; the longest first."""
    chosen = f"""(trace_id, span_id) in (select (trace_id, span_id) from requests where not background
        qualify row_number() over (order by duration_ns desc, trace_id, span_id) <= {limit}
        or row_number() over (partition by operation, consistency, by_client order by duration_ns desc, trace_id, span_id)
          <= {PER_KIND})"""
    found = store.slowest(f"not background and {chosen}", limit=ALL)
    rows_max = min(ROWS_MAX, ROWS_IN_ALL // max(len(found), 1))
    return [_slow(store, trace, node, rows_max) for trace, node in found]


def _slow(store: TraceStore, trace: Trace, node: Node, rows_max: int) -> Slow:
    parts = by_part(critical_path(node))
    alone = Trace(trace.trace_id, [node], trace.related)
    every = rows(alone)
    kept = most_telling(every, rows_max)
    explanation = store.explain(trace, node)
    return Slow(describe(trace, node, parts), explanation, parts, kept, len(every) - len(kept))


def most_telling(every: Sequence[Row], rows_max: int) -> list[Row]:
    """Of a long picture the rows that the request waited for, then the longest, each with those that it is part of."""
    if len(every) <= rows_max:
        return list(every)
    above: list[int] = []
    parents: list[int] = []
    for place, row in enumerate(every):
        del above[row.depth :]
        parents.append(above[-1] if above else -1)
        above.append(place)
    kept: set[int] = set()
    for place in sorted(range(len(every)), key=lambda place: (-every[place].critical_ns, -every[place].duration_ns, place)):
        line = set()
        while place >= 0 and place not in kept:
            line.add(place)
            place = parents[place]
        if len(kept) + len(line) <= rows_max:
            kept |= line
    return [every[place] for place in sorted(kept)]


def happenings(store: TraceStore) -> list[Happening]:
    """Elections, snapshots and stalls that left spans; the latest, by time."""
    names = ", ".join(f"'{name}'" for name in HAPPENINGS)
    found = store.query(
        f"""select r.start_ns // 1000000 as at_ms, r.duration_ns, r.operation, s.node, s.shard, s.attributes
        from requests r join spans s using (trace_id, span_id)
        where r.background and r.operation in ({names}) order by r.start_ns desc limit {HAPPENINGS_MAX}"""
    )
    return [
        Happening(row["at_ms"], row["duration_ns"], row["operation"], row["node"], row["shard"], _cause(row["attributes"]))
        for row in reversed(found)
    ]


def _cause(attributes: str) -> str:
    return str(json.loads(attributes).get("kvnode.cause", ""))


def outcomes_of_clients(store: TraceStore) -> tuple[SuccessRate, ...]:
    """How operations ended for clients that left spans."""
    columns = "trace_id, span_id, parent_id, name, kind, start_ns, end_ns, service, instance, failed, message"
    rows = store.query(f"select {columns}, attributes from spans where kind = 'client' and operation <> ''")
    return of_clients(Span(**row | {"attributes": json.loads(row["attributes"])}) for row in rows)


def outcomes_of_traces(store: TraceStore) -> tuple[SuccessRate, ...]:
    """How requests that left spans ended, as nodes see it."""
    counts: Counter[tuple[str, str, str]] = Counter()
    for row in store.query(
        "select operation, consistency, error, count(*) as n from requests where not background and not by_client group by all"
    ):
        counts[row["operation"], row["consistency"].upper(), row["error"] or "OK"] += row["n"]
    return success_rates(counts)


def window_of_spans(store: TraceStore) -> tuple[int, int] | None:
    """From the first request's beginning to the last one's end, Unix milliseconds."""
    ((first, last),) = (
        row.values()
        for row in store.query(
            "select min(start_ns) // 1000000, max(start_ns + duration_ns) // 1000000 + 1 from requests where not background"
        )
    )
    return None if first is None else (first, last)


def make(store: TraceStore, live: Live | None, sources: Sources, limit: int) -> Report:
    """All of it: of what `store` holds and the cluster told; `limit`: how many slowest requests."""
    ((sources.spans,),) = (row.values() for row in store.query("select count(*) as spans from spans"))
    sources.requests = store.count("not background")
    found = live.availability if live is not None else None
    counted = latency_of_nodes(live.latency) if live is not None else None
    traced = latency_of_spans(store)
    return Report(
        sources,
        cluster_id=live.cluster_id if live is not None else "",
        members=live.members if live is not None else [Member(name) for name in _nodes(store)],
        window=_window(found, store),
        latency=with_clients(counted, traced) if counted and traced else counted or traced,
        over_time=over_time(store),
        slowest=slowest(store, limit),
        slowest_of_all=limit,
        happenings=happenings(store) if found is None else (),
        availability=found,
        outcomes=found.outcomes if found is not None else (),
        outcomes_of_clients=outcomes_of_clients(store),
        outcomes_of_traces=outcomes_of_traces(store),
    )


def _nodes(store: TraceStore) -> list[str]:
    return [row["node"] for row in store.query("select distinct node from spans where node <> '' order by node")]


def _window(found: Availability | None, store: TraceStore) -> tuple[int, int] | None:
    spans = window_of_spans(store)
    if found is None:
        return spans
    known = [found.window.from_ms, found.window.to_ms, *(spans or ())]
    return min(known), max(known)
