"""How long requests take, by operation, consistency and stage: from nodes' histograms, or from files of traces.

Owns the merging over nodes, and intervals: what came between two answers of a node, which starts anew when the node has.
Knows no terminal.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kvclient.histogram import Histogram, SeriesKey, Summary, merged, series_from_pb, summarize
from kvctl.failures import Failure

if TYPE_CHECKING:
    from kvapi.v1 import observability_pb2
    from kvctl.admin import Admin
    from kvctl.traces.store import TraceStore

CONSISTENCIES = ("", "eventual", "strong", "session", "bounded")
"""By the number of `kvapi.v1.Consistency`."""
STAGES = (
    *("client", "client.open", "client.queue", "client.call", "client.resume", "client.pause"),
    *("", "admission", "leader_wait", "lock_wait", "forward", "read_index", "session_wait", "log_queue", "log_write", "quorum"),
    *("apply", "acks", "prepare", "decide", "collect", "retry_pause", "operations", "reply"),
)
"""In the order in which a request passes them; "client" is the whole of it in the client, "" on the node."""


@dataclass(frozen=True, slots=True)
class Row:
    """The figures of one stage, microseconds."""

    operation: str
    consistency: str
    stage: str
    summary: Summary


@dataclass(frozen=True, slots=True)
class NodeLatency:
    """One node's answer."""

    incarnation: int
    at_ms: int
    since_ms: int
    series: Mapping[SeriesKey, Histogram]


@dataclass(slots=True)
class Snapshot:
    """All nodes' answers at one moment."""

    nodes: dict[str, NodeLatency] = field(default_factory=dict)
    silent: dict[str, str] = field(default_factory=dict)
    """Nodes that did not answer, and why."""

    def since(self, earlier: Snapshot) -> Snapshot:
        """What was counted after `earlier`. A node that started anew since then, or was silent then, counts as a whole."""
        nodes = {name: _since(node, earlier.nodes.get(name)) for name, node in self.nodes.items()}
        return Snapshot(nodes, self.silent)

    def rows(self) -> list[Row]:
        """Merged over nodes."""
        keys = {key for node in self.nodes.values() for key in node.series}
        return ordered(
            Row(key[0], CONSISTENCIES[key[1]] if key[1] < len(CONSISTENCIES) else str(key[1]), key[2], summary)
            for key in keys
            if (summary := summarize(merged(node.series[key] for node in self.nodes.values() if key in node.series))).count
        )


def _since(node: NodeLatency, earlier: NodeLatency | None) -> NodeLatency:
    if earlier is None or earlier.incarnation != node.incarnation:
        return node
    none = Histogram()
    series = {key: histogram.since(earlier.series.get(key, none)) for key, histogram in node.series.items()}
    return NodeLatency(node.incarnation, node.at_ms, earlier.at_ms, series)


def ordered(rows: Iterable[Row]) -> list[Row]:
    """By operation and consistency, stages in their order."""
    places = {stage: place for place, stage in enumerate(STAGES)}
    return sorted(rows, key=lambda row: (row.operation, row.consistency, places.get(row.stage, len(STAGES)), row.stage))


def read_latency(admin: Admin) -> Snapshot:
    """What all nodes of the cluster counted. Raises Failure when no node answers."""
    from kvapi.v1 import observability_pb2

    _, known = admin.members()
    names = {member.address: member.name for member in known.members}
    request = observability_pb2.LatencyRequest()
    answers = admin.each(list(names), lambda stub, timeout_s: stub.Latency.future(request, timeout=timeout_s))
    snapshot = Snapshot()
    for address, answer in answers.items():
        if isinstance(answer, Failure):
            snapshot.silent[names[address]] = answer.message
        else:
            snapshot.nodes[names[address]] = _of_node(answer)
    return snapshot


def _of_node(answer: observability_pb2.LatencyResponse) -> NodeLatency:
    return NodeLatency(answer.incarnation, answer.at_ms, answer.since_ms, series_from_pb(answer))


def latency_of_traces(store: TraceStore, kept: str = "") -> list[Row]:
    """The same from spans, exact; stages of an operation are its children. `kept`: only of requests kept because of that."""
    chosen = "where kept = ?" if kept else ""
    found = store.query(
        f"""with operations as (
          from spans semi join (from requests {chosen}) using (trace_id)
          where operation <> '' and stage = ''
        ), times as (
          select operation, consistency, if(kind = 'client', 'client', '') as stage, duration_ns / 1000 as us from operations
          union all
          select o.operation, o.consistency, s.stage, s.duration_ns / 1000
          from spans s join operations o on s.trace_id = o.trace_id and s.parent_id = o.span_id where s.stage <> ''
        )
        select operation, consistency, stage, count(*) as count, avg(us) as average, min(us) as min, max(us) as max,
          quantile_disc(us, 0.5) as p50, quantile_disc(us, 0.95) as p95, quantile_disc(us, 0.99) as p99,
          quantile_disc(us, 0.999) as p999
        from times group by all""",
        [kept] if kept else [],
    )
    figures = ("count", "average", "min", "max", "p50", "p95", "p99", "p999")
    return ordered(
        Row(row["operation"], row["consistency"], row["stage"], Summary(*(row[figure] for figure in figures))) for row in found
    )
