"""`kvctl report`: one HTML page about where the time went, and when the cluster was there.

Owns which sources are used: files where some are named, the cluster where none is or where it is named, too. What the page is
made of, and its look, are imported inside the command.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from kvctl.command import Call, command
from kvctl.failures import Failure, printable, usage
from kvctl.output import print_json, size_text

if TYPE_CHECKING:
    from kvctl.report.model import Report

PANEL = "Cluster"
TIMEOUT_S = 20.0
STDOUT = "-"


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "report", panel=PANEL)(report)


def report(
    call: Call,
    files: Annotated[
        list[Path] | None,
        typer.Argument(metavar="[FILE]...", help="Files of traces, or directories with such. Default: ask the cluster."),
    ] = None,
    output: Annotated[
        str, typer.Option("--output", "-o", metavar="FILE", help="Where the page goes; - is standard output.")
    ] = "report.html",
    slowest: Annotated[
        int,
        typer.Option(
            "--slowest", "-n", min=1, max=500, metavar="N", help="Draw the slowest N requests, and some of each kind."
        ),
    ] = 20,
) -> None:
    """Make one HTML page: latency, stages over time, the slowest requests, availability, outcomes.

    It needs no network to be looked at. With files the cluster is asked, too, if --endpoints or --dir name it.
    """
    from kvctl.report.page import page

    if output != STDOUT and Path(output).is_dir():
        raise usage(f"{output} is a directory", "name a file: kvctl report -o report.html")
    found = _collect(call, files or [], slowest)
    content = page(found).encode("utf-8", "backslashreplace")
    if output == STDOUT:
        sys.stdout.flush()
        sys.stdout.buffer.write(content)
        return
    _write(Path(output), content)
    if call.as_json:
        print_json({"file": output, "size_bytes": len(content), "requests": found.sources.requests})
    else:
        print(f"{printable(output)}: {size_text(len(content))}")


def _collect(call: Call, files: list[Path], limit: int) -> Report:
    """All that can be known; what is missing is told on standard error, and in the page."""
    from kvctl.report.ask import Live, ask
    from kvctl.report.gather import make
    from kvctl.report.model import Sources
    from kvctl.traces.read import Reading, read_files
    from kvctl.traces.sources import notes
    from kvctl.traces.store import TraceStore

    sources = Sources(int(time.time() * 1000))
    live: Live | None = None
    reading = Reading()
    with TraceStore() as store:
        if files:
            store.add(read_files(files, reading))
            sources.files = [str(file) for file in reading.files]
        if not files or call.endpoints_given or call.directory:
            sources.asked = call.endpoints
            try:
                live = ask(sources.asked, call.timeout_given_s or TIMEOUT_S, store)
                sources.silent = live.silent
            except Failure as failure:
                if not files:
                    raise
                sources.silent = {"the cluster": failure.message}
        sources.damaged_lines = reading.damaged_lines
        missing = (f"without {node}: {why}" for node, why in sorted(sources.silent.items()))
        for note in (*notes(reading), *missing):
            print(printable(note), file=sys.stderr)
        return make(store, live, sources, limit)


def _write(path: Path, content: bytes) -> None:
    """Whole or not at all: who has the page open reloads it."""
    written = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        written.write_bytes(content)
        written.replace(path)
    except OSError as error:
        written.unlink(missing_ok=True)
        raise usage(f"{path}: {(error.strerror or str(error)).lower()}") from None
