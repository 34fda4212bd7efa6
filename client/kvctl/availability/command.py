"""`kvctl availability`: how available the cluster was, by its nodes' own records.

Owns the options and how the answer looks. What it says is computed in `kvctl.availability.merge`.
"""

from __future__ import annotations

import math
import re
import shutil
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvctl.availability.timeline import SIGNS, WORDS, Cell, axis, lines
from kvctl.command import Call, command
from kvctl.failures import printable, usage
from kvctl.output import duration_text, print_json, print_table, time_text

if TYPE_CHECKING:
    from kvctl.availability.model import Availability, Figures, Outage, ShardAvailability, SuccessRate

CLOCK_SPREAD_MS = 100
"""Clocks that are further apart are worth a word."""
TIMELINE_WIDTH_MAX = 120
LABEL_WIDTH_MAX = 24
LINES_OF_SHARDS_MAX = 16
"""More shards have lines only where something happened."""
_AGO = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_COLOURS = {
    Cell.UP: "32",
    Cell.ELECTION: "36",
    Cell.RECOVERING: "33",
    Cell.PLANNED: "34",
    Cell.FAILED: "1;31",
    Cell.UNKNOWN: "2",
}

FromOption = Annotated[
    str, typer.Option("--since", "--from", metavar="TIME", help="15m, 2h, 7d ago, or ISO 8601. Default: the first record.")
]
ToOption = Annotated[str, typer.Option("--to", metavar="TIME", help="Up to then. Default: now.")]
TracesOption = Annotated[
    list[Path] | None,
    typer.Option("--traces", metavar="FILE", help="Clients' traces, files or directories: what clients saw. Repeatable."),
]
OutagesOption = Annotated[bool, typer.Option("--outages", help="List each outage, with its reason.")]


def register(app: typer.Typer, panel: str) -> None:
    """Add the command."""
    command(app, "availability", panel=panel)(show)


def show(
    call: Call,
    from_: FromOption = "",
    to: ToOption = "",
    traces: TracesOption = None,
    outages: OutagesOption = False,
) -> None:
    """Show how available the cluster was: uptime, failures, MTTF, MTTR, time without leaders, answered requests."""
    from kvctl.admin import Admin
    from kvctl.availability.ask import collect
    from kvctl.availability.merge import availability

    window = _window(from_, to)
    clients = _clients(traces, window) if traces else ()
    with Admin(call.endpoints, call.timeout_s) as admin:
        collected = collect(admin)
    found = availability(collected.answers, collected.missing, collected.replicas, window, clients)
    if found.window.ms <= 0:
        raise usage(
            f"nothing is recorded of a time before {time_text(found.window.to_ms)}", "leave --to away, or make it later"
        )
    if call.as_json:
        from kvctl.availability.plain import as_json

        print_json(as_json(found))
        return
    for note in notes(found):
        print(printable(note), file=sys.stderr)
    print_report(found, outages)


def _window(from_: str, to: str) -> tuple[int | None, int | None]:
    now_s = time.time()
    begin = moment_ms("--since", from_, now_s) if from_ else None
    end = moment_ms("--to", to, now_s) if to else None
    if begin is not None and (end if end is not None else int(now_s * 1000)) <= begin:
        raise usage("that time ends before it begins", "for example --from 2h --to 1h")
    return begin, end


def moment_ms(option: str, text: str, now_s: float) -> int:
    """ "15m", "2h", "7d" before now, or a time in ISO 8601 (UTC, if it names no zone): Unix milliseconds."""
    if match := _AGO.fullmatch(text.strip()):
        return int((now_s - float(match[1]) * _SECONDS[match[2]]) * 1000)
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        hint = f"for example {option} 15m, {option} 2h, {option} 2026-03-01T12:00:00Z"
        raise usage(f"{option} {text}: neither a span of time nor a time", hint) from None
    return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


def _clients(paths: Iterable[Path], window: tuple[int | None, int | None]) -> tuple[SuccessRate, ...]:
    from kvctl.availability.clients import of_clients
    from kvctl.traces.read import Reading, read_files

    reading = Reading()
    found = of_clients(read_files(paths, reading), *window)
    if reading.damaged_lines:
        print(f"{reading.damaged_lines:,} damaged lines of traces skipped", file=sys.stderr)
    if not found:
        print("no client's operation in these traces and that time", file=sys.stderr)
    return found


# ---- for people ------------------------------------------------------------------------------------------------------


def notes(found: Availability) -> Iterable[str]:
    """What a person should know about where it is from."""
    for node, why in sorted(found.missing.items()):
        yield f"without {node}'s own record: {why}"
    if found.clock_spread_ms > CLOCK_SPREAD_MS:
        yield f"the nodes' clocks are up to {duration_text(found.clock_spread_ms / 1000)} apart: times are no better than that"


def print_report(found: Availability, outages: bool) -> None:
    """Everything, as tables and lines."""
    window = found.window
    observers = ", ".join(found.observers)
    print(f"{time_text(window.from_ms)} to {time_text(window.to_ms)}, {duration_text(window.ms / 1000)}, as {observers} saw it")
    print()
    print_timeline(found)
    print()
    figures = [("system", "", found.system.figures), *((node.name, node.state, node.figures) for node in found.nodes)]
    rows = [[name, state, *_cells(figure)] for name, state, figure in figures]
    print_table(["node", "state", *HEADERS], rows, right=RIGHT)
    print()
    shard_rows = [_shard_row(shard) for shard in found.shards]
    print_table(["shard", "leader", *SHARD_HEADERS], shard_rows, right=f"shard {RIGHT} leaderless elections")
    for title, rates in (
        ("Requests as the nodes answered them, since each node's start", found.outcomes),
        ("Operations as clients saw them, with all their attempts", found.clients),
    ):
        if rates:
            print()
            print_rates(title, rates)
    if outages:
        print()
        print_outages(found)


HEADERS = ("up", "failures", "MTTF", "MTTR", "longest", "stops", "stopped")
SHARD_HEADERS = ("up", "failures", "leaderless", "longest", "elections", "because of")
RIGHT = "up failures MTTF MTTR longest stops stopped"


def percent_text(share: float | None) -> str:
    """A share for a person, never rounded up to 100 %."""
    if share is None:
        return ""
    if share >= 1:
        return "100 %"
    return f"{math.floor(share * 100_000) / 1000:.3f} %"


def _cells(figures: Figures) -> list[object]:
    if figures.uptime_share is None:
        return [""] * len(HEADERS)
    mttf = duration_text(figures.mttf_ms / 1000) if figures.mttf_ms is not None else f"> {duration_text(figures.up_ms / 1000)}"
    return [
        percent_text(figures.uptime_share),
        figures.failures,
        mttf,
        duration_text(figures.mttr_ms / 1000) if figures.mttr_ms is not None else "",
        _longest(figures),
        figures.stops,
        duration_text(figures.planned_ms / 1000) if figures.stops else "",
    ]


def _longest(figures: Figures) -> str:
    longest = figures.longest
    return duration_text(longest.span.ms / 1000) + (" so far" if longest.ongoing else "") if longest else ""


def _shard_row(shard: ShardAvailability) -> list[object]:
    figures = shard.figures
    causes: dict[str, int] = {}
    for election in shard.elections:
        causes[election.cause] = causes.get(election.cause, 0) + 1
    return [
        shard.shard,
        shard.leader or ("none" if shard.observed else ""),
        percent_text(figures.uptime_share),
        figures.failures,
        duration_text(figures.down_ms / 1000),
        duration_text(max((outage.span.ms for outage in shard.outages), default=0) / 1000),
        len(shard.elections),
        ", ".join(f"{cause} {count}" for cause, count in sorted(causes.items())),
    ]


def print_rates(title: str, rates: Sequence[SuccessRate]) -> None:
    """Which share was answered, and how the rest ended."""
    from kvctl.availability.outcomes import ANSWERS, NOT_COUNTED

    rows = [
        [
            *(rate.operation, "" if rate.consistency == "UNSPECIFIED" else rate.consistency.lower()),
            *(rate.answered + rate.unanswered, rate.unanswered, percent_text(rate.share)),
            ", ".join(f"{outcome} {count}" for outcome, count in rate.counts.items() if outcome != "OK"),
        ]
        for rate in rates
    ]
    headers = ["operation", "consistency", "requests", "unanswered", "answered", "other than OK"]
    print_table(headers, rows, title=title, right="requests unanswered answered")
    used = [outcome for outcome in ANSWERS[1:] if any(outcome in rate.counts for rate in rates)]
    if used:
        print(f"({', '.join(used)}: answers, too)")
    if any(outcome in rate.counts for rate in rates for outcome in NOT_COUNTED):
        print(f"({', '.join(NOT_COUNTED)}: not counted, the caller gave up)")


def print_outages(found: Availability) -> None:
    """Each of them, the oldest first."""
    named: list[tuple[str, Outage]] = [
        *((node.name, outage) for node in found.nodes for outage in node.outages),
        *((f"shard {shard.shard}", outage) for shard in found.shards for outage in shard.outages),
    ]
    rows = [
        [
            *(name, time_text(outage.span.from_ms), "" if outage.ongoing else time_text(outage.span.to_ms)),
            *(duration_text(outage.span.ms / 1000), "planned" if outage.planned else "failure", outage.why),
        ]
        for name, outage in sorted(named, key=lambda one: (one[1].span, one[0]))
    ]
    print_table(["what", "from", "to", "for", "kind", "why"], rows, right="for")


def print_timeline(found: Availability) -> None:
    """A line each, and what the signs mean."""
    is_terminal = sys.stdout.isatty()
    drawn = lines(found, 1)
    label_width = min(max(len(line.label) for line in drawn), LABEL_WIDTH_MAX)
    width = min(shutil.get_terminal_size().columns, TIMELINE_WIDTH_MAX) - label_width - 2
    drawn = lines(found, max(width, 20))
    shown = [line for line in drawn if not line.label.startswith("shard ") or len(found.shards) <= LINES_OF_SHARDS_MAX]
    if len(shown) < len(drawn):
        quiet = (Cell.UNKNOWN, Cell.UP)
        shown = [line for line in drawn if line in shown or any(cell not in quiet for cell in line.cells)]
    for line in shown:
        cells = "".join(_painted(cell, len(list(run)), is_terminal) for cell, run in groupby(line.cells))
        print(f"{printable(line.label)[:label_width].ljust(label_width)}  {cells}")
    print(" " * (label_width + 2) + axis(found.window, max(width, 20)))
    used = sorted({cell for line in shown for cell in line.cells})
    legend = "   ".join(f"{_painted(cell, 1, is_terminal)} {WORDS[cell]}" for cell in used)
    print(" " * (label_width + 2) + legend)


def _painted(cell: Cell, count: int, is_terminal: bool) -> str:
    text = SIGNS[cell] * count
    return f"\x1b[{_COLOURS[cell]}m{text}\x1b[0m" if is_terminal else text
