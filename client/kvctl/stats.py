"""`kvctl stats`: the metrics that matter most, of all nodes side by side.

Owns which metrics those are and how they look. What each means is in docs/metrics.md; percentiles by stage are `kvctl latency`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl.command import Call, command
from kvctl.failures import ExitCode, Failure, printable, usage
from kvctl.output import duration_text, print_json, print_table, size_text

if TYPE_CHECKING:
    from kvctl.metrics_text import NodeMetrics

ERRORS = frozenset(
    ("CORRUPT", "DEADLINE_EXCEEDED", "INTERNAL", "NO_LEADER", "NO_SPACE", "OUTCOME_UNKNOWN", "OVERLOADED", "UNAVAILABLE")
)
"""Outcomes for which the cluster is to blame. The others are answers: a comparison that failed, a race that was lost, a wrong
request."""
WRITES, READS = frozenset(("put", "delete", "txn")), frozenset(("get", "range"))
REQUESTS = WRITES | READS
"""What clients ask for; a batch is what is in it."""
OVER_MAX_S = 3600.0
NOTHING = "-"

Show = Callable[["NodeMetrics", float], str]
"""A cell: of a node, over so many seconds (0: since its start)."""
Answers = Mapping[tuple[str, str], "str | Failure"]
"""A node's name and address -> its metrics as text."""


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    command(app, "stats", panel=panel)(stats)


def stats(
    call: Call,
    node: Annotated[str, typer.Option("--node", metavar="NAME", help="Only this node.")] = "",
    over: Annotated[
        float, typer.Option("--over", min=0, max=OVER_MAX_S, metavar="SECONDS", help="Watch for so long, and show that.")
    ] = 0.0,
    raw: Annotated[bool, typer.Option("--raw", help="One node's metrics as Prometheus gets them.")] = False,
) -> None:
    """Show the most important metrics of every node: since its start, or of the next seconds."""
    if raw:
        print(printable(_text_of_one(call, node), keep="\n"), end="")
        return
    before: Answers = {}
    answers = _ask(call, node)
    if over:
        before = answers
        time.sleep(over)
        answers = _ask(call, node)
    found = {where: _parsed(answer, before.get(where)) for where, answer in answers.items()}
    if call.as_json:
        print_json({"nodes": [node_json(*where, answer) for where, answer in found.items()]})
    else:
        print_stats({name: answer for (name, _), answer in found.items()}, over)


def _ask(call: Call, node: str) -> Answers:
    from kvapi.v1 import observability_pb2
    from kvctl.cluster_commands import open_admin

    request = observability_pb2.StatsRequest()
    with open_admin(call) as admin:
        _, known = admin.members()
        names = {member.address: member.name for member in known.members if node in ("", member.name)}
        if not names:
            raise usage(f"there is no node {node}", f"the nodes are {', '.join(member.name for member in known.members)}")
        answers = admin.each(list(names), lambda stub, timeout_s: stub.Stats.future(request, timeout=timeout_s))
    return {
        (names[address], address): answer if isinstance(answer, Failure) else answer.metrics
        for address, answer in answers.items()
    }


def _text_of_one(call: Call, node: str) -> str:
    """Of the node, or of the first one that answers."""
    from kvapi.v1 import observability_pb2
    from kvctl.cluster_commands import open_admin

    if node:
        (answer,) = _ask(call, node).values()
        if isinstance(answer, Failure):
            raise answer
        return answer
    request = observability_pb2.StatsRequest()
    with open_admin(call) as admin:
        return admin.any(lambda stub, timeout_s: stub.Stats(request, timeout=timeout_s))[1].metrics


def _parsed(answer: str | Failure, before: str | Failure | None) -> NodeMetrics | Failure:
    from kvctl.metrics_text import NodeMetrics

    if isinstance(answer, Failure):
        return answer
    try:
        return NodeMetrics(answer).since(NodeMetrics(before) if isinstance(before, str) else None)
    except ValueError as error:
        return Failure(
            ExitCode.INTERNAL, "INTERNAL", f"its metrics cannot be read: {error}", "are kvctl and the node of one release?"
        )


def node_json(name: str, address: str, answer: NodeMetrics | Failure) -> dict[str, Any]:
    """One node's metrics for programs."""
    if isinstance(answer, Failure):
        return {"name": name, "address": address, "answers": False, "error": answer.message}
    return {"name": name, "address": address, "answers": True, "metrics": answer.plain()}


def print_stats(nodes: Mapping[str, NodeMetrics | Failure], over: float = 0.0) -> None:
    """A row a metric, a column a node."""
    rows = [
        [title, *(_cell(show, answer, over, first=number == 0) for answer in nodes.values())]
        for number, (title, show) in enumerate(ROWS.items())
    ]
    headers = ["metric", *nodes]
    print_table(headers, rows, title=f"In {duration_text(over)}" if over else "Since each node's start", right=" ".join(nodes))


def _cell(show: Show, answer: NodeMetrics | Failure, over: float, *, first: bool) -> str:
    if isinstance(answer, Failure):
        return "no answer" if first else ""
    return show(answer, over)


# ---- what is shown --------------------------------------------------------------------------------------------------


def _state(node: NodeMetrics, over: float) -> str:
    state = next((labels["state"] for labels, value in node.values("kvnode_node_state") if value), NOTHING)
    return "no space" if node.sum("kvnode_out_of_space") else state


def _rate(name: str, **wanted: str | frozenset[str]) -> Show:
    return lambda node, over: f"{node.sum(name, **wanted) / over:,.1f}/s" if over else f"{node.sum(name, **wanted):,.0f}"


def _number(name: str) -> Show:
    return lambda node, over: f"{node.sum(name):,.0f}"


def _greatest(name: str) -> Show:
    return lambda node, over: f"{node.max(name):,.0f}"


def _size(name: str) -> Show:
    return lambda node, over: size_text(node.sum(name))


def _longest(name: str) -> Show:
    return lambda node, over: _duration(node.max(name))


def _p99(name: str, **wanted: str | frozenset[str]) -> Show:
    return lambda node, over: _duration(node.percentile(name, 99, **wanted))


def _duration(seconds: float | None) -> str:
    """With the digits that a latency needs."""
    if seconds is None:
        return NOTHING
    return f"{seconds * 1000:.1f} ms" if 0 < seconds < 0.1 else duration_text(seconds)


def _errors(node: NodeMetrics, over: float) -> str:
    asked = node.sum("kvnode_requests_total", operation=REQUESTS)
    failed = node.sum("kvnode_requests_total", operation=REQUESTS, outcome=ERRORS)
    return f"{failed / asked * 100:.2f} %" if asked else NOTHING


def _queue(node: NodeMetrics, over: float) -> str:
    fills = [(value, labels["queue"]) for labels, value in node.values("kvnode_queue_fill_ratio")]
    fill, name = max(fills, default=(0.0, ""))
    return f"{name} {fill * 100:.0f} %" if fill >= 0.005 else "0 %"


def _batch(node: NodeMetrics, over: float) -> str:
    batches = node.sum("kvnode_log_batch_records_count")
    return f"{node.sum('kvnode_log_batch_records_sum') / batches:.1f}" if batches else NOTHING


def _leads(node: NodeMetrics, over: float) -> str:
    return f"{node.sum('kvnode_shard_leader'):.0f}/{len(node.values('kvnode_shard_leader'))}"


def _suspects(node: NodeMetrics, over: float) -> str:
    return ", ".join(labels["peer"] for labels, value in node.values("kvnode_peer_suspected") if value) or "none"


def _processor(node: NodeMetrics, over: float) -> str:
    spent = node.sum("process_cpu_seconds_total")
    return f"{spent / over * 100:.0f} %" if over else duration_text(spent)


ROWS: Mapping[str, Show] = {
    "state": _state,
    "requests": _rate("kvnode_requests_total", operation=REQUESTS),
    "errors": _errors,
    "in flight": _number("kvnode_requests_in_flight"),
    "strong writes p99": _p99("kvnode_request_duration_seconds", operation=WRITES, consistency="strong"),
    "strong reads p99": _p99("kvnode_request_duration_seconds", operation=READS, consistency="strong"),
    "eventual writes p99": _p99("kvnode_request_duration_seconds", operation=WRITES, consistency="eventual"),
    "fullest queue": _queue,
    "refused by kvwire": _number("kvnode_wire_refusals_total"),
    "connections": _number("kvnode_wire_connections"),
    "group commits": _rate("kvnode_log_batches_total"),
    "records a commit": _batch,
    "fsync p99": _p99("kvnode_log_fsync_duration_seconds"),
    "leads": _leads,
    "elections won": _number("kvnode_elections_won_total"),
    "followers' lag, entries": _greatest("kvnode_replication_lag_entries"),
    "staleness": _longest("kvnode_shard_staleness_seconds"),
    "suspects": _suspects,
    "clock ahead": _longest("kvnode_clock_ahead_seconds"),
    "superseded writes": _number("kvnode_superseded_writes_total"),
    "transactions": _number("kvnode_transactions_prepared"),
    "oldest transaction": _longest("kvnode_transaction_oldest_seconds"),
    "log": _size("kvnode_log_size_bytes"),
    "store": _size("kvnode_store_size_bytes"),
    "memory table": _size("kvnode_memtable_size_bytes"),
    "disk free": _size("kvnode_disk_free_bytes"),
    "event loop lag p99": _p99("kvnode_event_loop_lag_seconds"),
    "longest lag of late": _longest("kvnode_event_loop_lag_recent_seconds"),
    "memory": _size("process_resident_memory_bytes"),
    "processor": _processor,
    "open files": _number("process_open_fds"),
}
