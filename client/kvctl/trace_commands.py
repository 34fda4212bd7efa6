"""`kvctl trace list | show | explain | critical-path | diff | sql`: where the time of requests went.

Owns how answers look. What they are is `kvctl.traces`, which is imported inside the commands: DuckDB is slow to import.
"""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from kvctl.command import Call, command
from kvctl.failures import usage
from kvctl.output import print_json, print_table

if TYPE_CHECKING:
    from pathlib import Path

NOTHING = "no requests; is tracing on? A node keeps those that are sampled (tracing.sample_ratio), slow or failed"


class Kept(StrEnum):
    """Why a request left spans."""

    SAMPLED = "sampled"
    SLOW = "slow"
    FAILED = "failed"
    SUPERSEDED = "superseded"


FilesArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[FILE]...", help="Files of traces, or directories with such. Default: the cluster's nodes."),
]
WordsArgument = Annotated[
    list[str] | None,
    typer.Argument(metavar="[TRACE_ID] [FILE]...", help="A trace, by the beginning of its id, and where to look for it."),
]
TraceArgument = Annotated[
    list[str],
    typer.Argument(metavar="TRACE_ID [FILE]...", help="A trace, by the beginning of its id, and where to look for it."),
]
OperationOption = Annotated[str, typer.Option("--operation", metavar="NAME", help="put, get, txn, ...")]
KeptOption = Annotated[Kept | None, typer.Option("--kept", help="Those that left spans because of that.")]
NodeOption = Annotated[str, typer.Option("--node", metavar="NAME", help="Served by this node.")]
MinOption = Annotated[float, typer.Option("--min-ms", min=0, metavar="MS", help="At least so long.")]
SinceOption = Annotated[str, typer.Option("--since", metavar="TIME", help="Begun since: 15m, 2h, or a time in ISO 8601.")]
ErrorsOption = Annotated[bool, typer.Option("--errors", help="Only those that failed.")]
WhereOption = Annotated[
    str, typer.Option("--where", metavar="CONDITION", help="shard=3,node=n1 or SQL over the columns of `requests`.")
]


def register(app: typer.Typer) -> None:
    """Add the commands to `kvctl trace`."""
    command(app, "list")(list_)
    command(app, "show")(show)
    command(app, "explain")(explain)
    command(app, "critical-path")(critical_path)
    command(app, "diff")(diff)
    command(app, "sql")(sql)


def list_(
    call: Call,
    files: FilesArgument = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many, the slowest first.")] = 20,
    operation: OperationOption = "",
    kept: KeptOption = None,
    min_ms: MinOption = 0,
    since: SinceOption = "",
    errors: ErrorsOption = False,
    node: NodeOption = "",
    where: WhereOption = "",
    background: Annotated[bool, typer.Option("--background", help="Work that nobody asked for: elections, stalls.")] = False,
) -> None:
    """List requests, the slowest first, with what each waited longest for."""
    from kvctl.traces import tables
    from kvctl.traces.sources import filter_of, opened

    chosen = filter_of(
        operation=operation,
        kept=kept or "",
        min_ms=min_ms,
        since=since,
        errors=errors,
        node=node,
        where=where,
        background=background,
    )
    with opened(call, _paths(files)) as store:
        found = store.requests(chosen.where, chosen.parameters, limit=limit)
        total = store.count(chosen.where, chosen.parameters)
    if call.as_json:
        print_json({"total": total, "requests": [tables.request_json(request) for request in found]})
    elif not found:
        print(NOTHING, file=sys.stderr)
    else:
        tables.print_requests(found)
        if total > len(found):
            print(f"{len(found)} of {total:,}; more with --limit", file=sys.stderr)


def show(call: Call, words: TraceArgument) -> None:
    """Draw a trace: its spans over all nodes, nested, with bars; bright bars are on the critical path."""
    from kvctl.traces import tables
    from kvctl.traces.sources import opened, split

    ids, paths = split(words)
    if len(ids) != 1:
        raise usage("exactly one trace id is needed", "kvctl trace list shows those that are known")
    with opened(call, paths) as store:
        trace = store.trace(ids[0])
        explanations = [store.explain(trace, request) for request in trace.requests()[:1]]
    if call.as_json:
        print_json(tables.trace_json(trace, explanations))
    else:
        tables.print_trace(trace, explanations)


def explain(
    call: Call,
    words: WordsArgument = None,
    slowest: Annotated[int | None, typer.Option("--slowest", min=1, metavar="N", help="The N slowest (default: 3).")] = None,
    operation: OperationOption = "",
    kept: KeptOption = None,
    since: SinceOption = "",
    errors: ErrorsOption = False,
    node: NodeOption = "",
    where: WhereOption = "",
) -> None:
    """Say in a sentence why a request was slow, or failed: one, by its trace id, or the slowest."""
    from kvctl.traces import tables
    from kvctl.traces.sources import filter_of, opened, split

    ids, paths = split(words or ())
    if ids and slowest:
        raise usage("a trace id and --slowest exclude each other", "kvctl trace explain TRACE_ID, or --slowest N")
    chosen = filter_of(operation=operation, kept=kept or "", since=since, errors=errors, node=node, where=where)
    with opened(call, paths) as store:
        if ids:
            wanted = [(trace, request) for trace in map(store.trace, ids) for request in trace.requests()]
        else:
            wanted = store.slowest(chosen.where, chosen.parameters, slowest or 3)
        found = [store.explain(trace, request) for trace, request in wanted]
    if call.as_json:
        print_json({"explanations": [tables.explanation_json(one) for one in found]})
    elif not found:
        print(NOTHING, file=sys.stderr)
    for one in [] if call.as_json else found:
        print(f"{one.trace_id[: tables.ID_SHOWN]}  {one.text}")


def critical_path(
    call: Call,
    words: WordsArgument = None,
    operation: OperationOption = "",
    kept: KeptOption = None,
    min_ms: MinOption = 0,
    since: SinceOption = "",
    node: NodeOption = "",
    where: WhereOption = "",
) -> None:
    """Show what a request waited for, step by step; without a trace id: what all requests waited for, by stage and node."""
    from kvctl.traces import tables
    from kvctl.traces.critical_path import critical_path as path_of
    from kvctl.traces.sources import filter_of, opened, split

    ids, paths = split(words or ())
    if len(ids) > 1:
        raise usage("at most one trace id", "kvctl trace critical-path TRACE_ID [FILE]..., or without an id: of all requests")
    chosen = filter_of(operation=operation, kept=kept or "", min_ms=min_ms, since=since, node=node, where=where)
    with opened(call, paths) as store:
        if not ids:
            parts = store.paths(chosen.where, chosen.parameters)
            if call.as_json:
                print_json(tables.paths_json(parts))
            elif parts:
                tables.print_paths(parts)
            else:
                print(NOTHING, file=sys.stderr)
            return
        trace = store.trace(ids[0])
    if not (requests := trace.requests()):
        raise usage(f"trace {trace.trace_id} has no request of the store", "kvctl trace show draws it")
    steps = path_of(requests[0])
    if call.as_json:
        print_json(tables.path_json(trace, requests[0], steps))
    else:
        tables.print_path(trace, requests[0], steps)


def diff(
    call: Call,
    files: Annotated[list[str] | None, typer.Argument(metavar="[A B]", help="Two files or directories of traces.")] = None,
    a: Annotated[str, typer.Option("--a", metavar="CONDITION", help="The first set, of all: node=n1, or SQL.")] = "",
    b: Annotated[str, typer.Option("--b", metavar="CONDITION", help="The second set, of all.")] = "",
    operation: OperationOption = "",
    kept: KeptOption = None,
) -> None:
    """Compare two sets of requests, stage by stage: before and after, or with --a and --b, leader and leader.

    What chance may have made is said to be noise.
    """
    from kvctl.traces import tables
    from kvctl.traces.diff import compare
    from kvctl.traces.sources import filter_of, opened

    paths = _paths(files)
    if bool(a) != bool(b):
        raise usage("--a and --b belong together", "for example kvctl trace diff --a node=n1 --b node=n2")
    if not a and len(paths) != 2:
        raise usage(
            "two sets are needed", "kvctl trace diff BEFORE AFTER, or kvctl trace diff [FILE...] --a node=n1 --b node=n2"
        )
    samples = []
    for group in [paths] if a else [paths[:1], paths[1:]]:
        with opened(call, group) as store:
            for condition in (a, b) if a else ("",):
                chosen = filter_of(operation=operation, kept=kept or "", where=condition)
                samples.append(store.samples(chosen.where, chosen.parameters))
    found = compare(samples[0], samples[1])
    if call.as_json:
        print_json({"differences": [tables.difference_json(one) for one in found]})
    elif not found:
        print("the two sets have no kind of request in common", file=sys.stderr)
    else:
        tables.print_differences(found)


def sql(
    call: Call,
    query: Annotated[str, typer.Argument(metavar="QUERY", help="SQL over spans, requests, steps and waits.")],
    files: FilesArgument = None,
) -> None:
    """Ask your own questions, in SQL (DuckDB): `describe requests` shows a table's columns."""
    from kvctl.traces import tables
    from kvctl.traces.sources import opened

    with opened(call, _paths(files)) as store:
        rows = store.query(query)
    if call.as_json:
        print_json([{name: tables.plain_value(value) for name, value in row.items()} for row in rows])
    elif rows:
        print_table(list(rows[0]), [["" if value is None else value for value in row.values()] for row in rows])


def _paths(files: list[str] | None) -> list[Path]:
    from pathlib import Path

    return [Path(file) for file in files or ()]
