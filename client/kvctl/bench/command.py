"""`kvctl bench`: the command around `kvctl.bench`.

Owns the options, what contradicts what, and the order of a run: connect, load, warm up, measure, report, clean up.
"""

from __future__ import annotations

import math
import shlex
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from kvctl.command import PANEL as COMMON
from kvctl.command import TIMEOUT_S, Call, command
from kvctl.failures import usage
from kvctl.key_commands import ReadConsistency, WriteConsistency, remark

CALLERS = 64
"""Of a closed loop, where nothing is said."""
UNDER_WAY_MAX = 1_024
"""Of an open loop, where nothing is said."""
KEYS, PREFIX = 10_000, "bench/"
SAMPLE_RATIO = 0.01
KEYS_MAX = 100_000_000


class Arrivals(StrEnum):
    """--arrivals"""

    POISSON = "poisson"
    EVEN = "even"


class Distribution(StrEnum):
    """--distribution"""

    UNIFORM = "uniform"
    ZIPF = "zipf"
    LATEST = "latest"
    HOTSPOT = "hotspot"


class Transport(StrEnum):
    """--transport"""

    KVWIRE = "kvwire"
    GRPCIO = "grpcio"


LOAD, WORK, LEVELS, GENERATOR, RESULTS = "The load", "Keys and values", "Consistency", "The load generator", "Results"
OperationTimeout = Annotated[
    float | None,
    typer.Option(
        "--timeout", "-t", min=0.001, metavar="SECONDS", help="For each operation (default: 5).", rich_help_panel=COMMON
    ),
]


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    command(app, "bench", panel=panel, timeout=OperationTimeout)(bench)


def bench(
    call: Call,
    rate: Annotated[
        float | None,
        typer.Option(
            "--rate",
            min=0.001,
            max=1_000_000,
            metavar="N",
            rich_help_panel=LOAD,
            help="Open loop: so many operations are due each second, whatever becomes of them.",
        ),
    ] = None,
    concurrency: Annotated[
        int | None,
        typer.Option(
            "--concurrency",
            min=1,
            max=100_000,
            metavar="N",
            rich_help_panel=LOAD,
            help="Closed loop: so many callers (default: 64). With --rate: at most so many operations at once (1024).",
        ),
    ] = None,
    arrivals: Annotated[
        Arrivals, typer.Option("--arrivals", help="The gaps between operations, with --rate.", rich_help_panel=LOAD)
    ] = Arrivals.POISSON,
    duration: Annotated[
        str | None, typer.Option("--duration", metavar="TIME", help="10s (default), 500ms, 2min.", rich_help_panel=LOAD)
    ] = None,
    operations: Annotated[
        int | None,
        typer.Option("--operations", min=0, metavar="N", help="Instead of --duration; 0: no load.", rich_help_panel=LOAD),
    ] = None,
    warmup: Annotated[
        str, typer.Option("--warmup", metavar="TIME", help="The same load before, not measured.", rich_help_panel=LOAD)
    ] = "1s",
    mix: Annotated[
        str,
        typer.Option(
            "--mix", metavar="KIND=SHARE,...", help="Kinds: read, write, delete, cas, txn, range.", rich_help_panel=LOAD
        ),
    ] = "read=90,write=10",
    keys: Annotated[int, typer.Option("--keys", min=1, max=KEYS_MAX, help="Their number.", rich_help_panel=WORK)] = KEYS,
    distribution: Annotated[
        Distribution, typer.Option("--distribution", help="Which key an operation takes.", rich_help_panel=WORK)
    ] = Distribution.UNIFORM,
    zipf_theta: Annotated[
        float,
        typer.Option(
            "--zipf-theta", help="Of zipf and latest: near 0 all keys alike, near 1 few get most.", rich_help_panel=WORK
        ),
    ] = 0.99,
    value_size: Annotated[
        str, typer.Option("--value-size", metavar="BYTES", help="100, or 64-4096: evenly in between.", rich_help_panel=WORK)
    ] = "100",
    prefix: Annotated[str, typer.Option("--prefix", help="Of all keys; no others are touched.", rich_help_panel=WORK)] = PREFIX,
    load: Annotated[bool, typer.Option("--load/--no-load", help="Write all keys first.", rich_help_panel=WORK)] = True,
    clean: Annotated[bool, typer.Option("--clean", help="Delete all keys afterwards.", rich_help_panel=WORK)] = False,
    seed: Annotated[
        int, typer.Option("--seed", help="The same seed: the same operations, keys and values.", rich_help_panel=WORK)
    ] = 1,
    read_consistency: Annotated[
        ReadConsistency, typer.Option("--read-consistency", help="What reads and ranges demand.", rich_help_panel=LEVELS)
    ] = ReadConsistency.STRONG,
    max_staleness: Annotated[
        float | None,
        typer.Option(
            "--max-staleness", min=0.001, metavar="SECONDS", help="Of bounded reads (default: 1).", rich_help_panel=LEVELS
        ),
    ] = None,
    write_consistency: Annotated[
        WriteConsistency, typer.Option("--write-consistency", help="What writes and deletes demand.", rich_help_panel=LEVELS)
    ] = WriteConsistency.STRONG,
    acks: Annotated[
        int | None, typer.Option("--acks", min=1, help="Of eventual writes (default: 1).", rich_help_panel=LEVELS)
    ] = None,
    processes: Annotated[
        int, typer.Option("--processes", min=1, max=256, help="One of them fills one core.", rich_help_panel=GENERATOR)
    ] = 1,
    clients: Annotated[
        int,
        typer.Option(
            "--clients", min=1, max=256, help="SDK clients a process, each with connections.", rich_help_panel=GENERATOR
        ),
    ] = 1,
    transport: Annotated[
        Transport, typer.Option("--transport", help="What carries gRPC.", rich_help_panel=GENERATOR)
    ] = Transport.KVWIRE,
    hdr: Annotated[
        Path | None,
        typer.Option("--hdr", metavar="FILE", help="Write an HdrHistogram log, a tag for each kind.", rich_help_panel=RESULTS),
    ] = None,
    interval: Annotated[
        str, typer.Option("--interval", metavar="TIME", help="Of --hdr and --timeline.", rich_help_panel=RESULTS)
    ] = "1s",
    traces: Annotated[
        Path | None,
        typer.Option("--traces", metavar="FILE", help="Write client spans, as OTLP JSON lines.", rich_help_panel=RESULTS),
    ] = None,
    sample_ratio: Annotated[
        float | None,
        typer.Option(
            "--sample-ratio",
            min=0.0,
            max=1.0,
            metavar="SHARE",
            help="Of the operations, with --traces (default: 0.01).",
            rich_help_panel=RESULTS,
        ),
    ] = None,
    timeline: Annotated[
        bool, typer.Option("--timeline", help="With -o json: the figures of each interval, too.", rich_help_panel=RESULTS)
    ] = False,
) -> None:
    """Put a load on a cluster and measure it: how much it takes, and how long operations take.

    With --rate latencies count from the moment when an operation was due, so that a stall shows in all that it held up (no
    coordinated omission). Without it so many callers work as fast as they are answered. Ctrl-C ends it early, with its results.
    """
    from kvctl.bench.plan import Plan, check, parse_duration, parse_mix, parse_sizes

    if operations is not None and duration is not None:
        raise usage("--duration and --operations exclude each other")
    if sample_ratio is not None and traces is None:
        raise usage("--sample-ratio goes with --traces FILE")
    if timeline and not call.as_json:
        raise usage("--timeline goes with -o json")
    least, most = parse_sizes(value_size)
    plan = Plan(
        endpoints=tuple(call.endpoints),
        transport=transport.value,
        timeout_s=call.timeout_given_s or TIMEOUT_S,
        rate=rate,
        arrivals=arrivals.value,
        concurrency=concurrency or (CALLERS if rate is None else UNDER_WAY_MAX),
        duration_s=math.inf if operations is not None else parse_duration(duration or "10s", "--duration"),
        operations=operations,
        warmup_s=parse_duration(warmup, "--warmup"),
        processes=processes,
        clients=clients,
        mix=parse_mix(mix),
        keys=keys,
        distribution=distribution.value,
        zipf_theta=zipf_theta,
        value_size_bytes_min=least,
        value_size_bytes_max=most,
        read_consistency=read_consistency.value,
        max_staleness_s=max_staleness or (1.0 if read_consistency is ReadConsistency.BOUNDED else None),
        write_consistency=write_consistency.value,
        acks=acks,
        prefix=call.encoding.decode(prefix, "--prefix"),
        load=load,
        clean=clean,
        seed=seed,
        interval_s=parse_duration(interval, "--interval"),
        traces="" if traces is None else str(traces.absolute()),
        sample_ratio=SAMPLE_RATIO if sample_ratio is None else sample_ratio,
    )
    check(plan)

    from kvctl.bench.run import run

    report = run(plan, hdr, timeline=timeline, as_json=call.as_json)
    if not clean and (load or report is not None):
        given = f" --keys {keys}" * (keys != KEYS) + f" --prefix {shlex.quote(prefix)}" * (prefix != PREFIX)
        remark(f"the keys {prefix}… stay; delete them: kvctl bench --clean --no-load --operations 0{given}")
    if report is not None and report.exit_code:
        raise SystemExit(int(report.exit_code))
