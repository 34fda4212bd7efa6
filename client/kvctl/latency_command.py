"""`kvctl latency`: how long requests take, by operation, consistency and stage.

Owns the table and its refreshing. The figures are `kvctl.traces.latency`'s.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl.cluster_commands import PANEL, open_admin
from kvctl.command import Call, command
from kvctl.failures import Failure, printable, usage
from kvctl.output import duration_text, print_json, print_table, time_text
from kvctl.trace_commands import FilesArgument, Kept

if TYPE_CHECKING:
    from kvctl.traces.latency import Row, Snapshot

FIGURES = ("average", "min", "max", "p50", "p95", "p99", "p999")
INTERVAL_S = 2.0
CLEAR = "\x1b[H\x1b[2J"
"""A terminal's codes: to the top, and nothing below."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "latency", panel=PANEL)(latency)


def latency(
    call: Call,
    files: FilesArgument = None,
    operation: Annotated[str, typer.Option("--operation", metavar="NAME", help="put, get, txn, cluster, ...")] = "",
    stages: Annotated[bool, typer.Option("--stages/--no-stages", help="Also each stage, not only the whole.")] = True,
    kept: Annotated[Kept | None, typer.Option("--kept", help="Of files: requests that left spans because of that.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Refresh, with the figures of each interval.")] = False,
    every: Annotated[
        float | None, typer.Option("--every", min=0.1, metavar="SECONDS", help="The interval of --watch (default: 2).")
    ] = None,
) -> None:
    """Show how long requests take, by operation, consistency and stage: count, average, least, most, percentiles.

    From all nodes since their start, or from files of traces.
    """

    def wanted(rows: Sequence[Row]) -> list[Row]:
        return [row for row in rows if _is_of(row.operation, operation) and (stages or row.stage in ("", "client"))]

    if files and (watch or every):
        raise usage("--watch is for a live cluster", "without files")
    if kept and not files:
        raise usage("--kept is for files of traces: nodes count all requests")
    if files:
        _of_files(call, [Path(file) for file in files], kept or "", wanted)
    elif watch or every:
        for snapshot in _intervals(call, every or INTERVAL_S):
            rows = wanted(snapshot.rows())
            if call.as_json:
                print(json.dumps(_json(snapshot, rows)), flush=True)
            else:
                _refresh(snapshot, rows)
    else:
        snapshot = _ask(call)
        rows = wanted(snapshot.rows())
        if call.as_json:
            print_json(_json(snapshot, rows))
        else:
            _print(_title(snapshot), rows)


def _is_of(name: str, operation: str) -> bool:
    """Whether a series is of the operation asked for, or a part of it ("txn/prepare"); by default operators' calls are left
    out ("cluster.Status").
    """
    if not operation:
        return not name.startswith("cluster.")
    return name.lower() == operation.lower() or name.lower().startswith((f"{operation.lower()}.", f"{operation.lower()}/"))


def _of_files(call: Call, paths: list[Path], kept: str, wanted: Any) -> None:
    from kvctl.traces.latency import latency_of_traces
    from kvctl.traces.sources import opened

    with opened(call, paths) as store:
        rows = wanted(latency_of_traces(store, kept))
        unsampled = store.count("kept in ('slow', 'failed', 'superseded')")
        total = store.count("not background")
    if call.as_json:
        print_json({"requests": total, "unsampled": unsampled, "series": [_row_json(row) for row in rows]})
        return
    _print(f"{total:,} requests", rows)
    if unsampled and not kept:
        why = "were kept because they were slow, failed or superseded: percentiles lean to them"
        print(f"{unsampled:,} of {total:,} {why}; without them: --kept sampled", file=sys.stderr)


def _ask(call: Call) -> Snapshot:
    from kvctl.traces.latency import read_latency

    with open_admin(call) as admin:
        snapshot = read_latency(admin)
    if not snapshot.nodes:
        raise Failure(*_nobody(snapshot))
    return snapshot


def _nobody(snapshot: Snapshot) -> tuple[Any, ...]:
    from kvctl.failures import ExitCode

    return ExitCode.UNAVAILABLE, "UNAVAILABLE", "no node tells its latency", "; ".join(snapshot.silent.values())


def _intervals(call: Call, every_s: float) -> Iterator[Snapshot]:
    """What nodes counted in each interval, without end. While no node answers, nothing was counted."""
    from kvctl.traces.latency import Snapshot

    earlier = _ask(call)
    while True:
        time.sleep(every_s)
        try:
            now = _ask(call)
        except Failure as failure:
            yield Snapshot(silent=dict.fromkeys(earlier.nodes, failure.message))
            continue
        yield now.since(earlier)
        earlier = now


def _refresh(snapshot: Snapshot, rows: Sequence[Row]) -> None:
    """In place on a terminal; one table after the other elsewhere."""
    if sys.stdout.isatty():
        print(CLEAR, end="")
    _print(_title(snapshot), rows)
    sys.stdout.flush()


def _title(snapshot: Snapshot) -> str:
    seconds = max((node.at_ms - node.since_ms for node in snapshot.nodes.values()), default=0) / 1000
    told = f"{', '.join(sorted(snapshot.nodes)) or 'nobody'}, the last {duration_text(seconds)}"
    return told + (f"; no answer: {', '.join(sorted(snapshot.silent))}" if snapshot.silent else "")


def _print(title: str, rows: Sequence[Row]) -> None:
    from kvctl.traces.words import duration_words

    print(printable(title))
    if not rows:
        print("no requests")
        return
    table = [
        [
            *(row.operation, row.consistency, {"": "whole", "client": "whole, client"}.get(row.stage, f"  {row.stage}")),
            *(f"{row.summary.count:,}", *(duration_words(getattr(row.summary, figure) * 1000) for figure in FIGURES)),
        ]
        for row in rows
    ]
    headers = ["operation", "consistency", "stage", "count", "average", "min", "max", "p50", "p95", "p99", "p99.9"]
    print_table(headers, table, right="count average min max p50 p95 p99 p99.9")


def _row_json(row: Row) -> dict[str, Any]:
    figures = {f"{figure}_ms": round(getattr(row.summary, figure) / 1000, 3) for figure in FIGURES}
    named = {"operation": row.operation, "consistency": row.consistency, "stage": row.stage, "count": row.summary.count}
    return named | figures


def _json(snapshot: Snapshot, rows: Sequence[Row]) -> dict[str, Any]:
    return {
        "nodes": [
            {
                "node": name,
                "incarnation": node.incarnation,
                "at": time_text(node.at_ms),
                "since": time_text(node.since_ms),
            }
            for name, node in sorted(snapshot.nodes.items())
        ],
        "silent": [{"node": name, "error": why} for name, why in sorted(snapshot.silent.items())],
        "series": [_row_json(row) for row in rows],
    }
