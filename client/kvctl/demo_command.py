"""`kvctl demo`: the command around `kvctl.demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from kvctl.command import Call, command


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "demo", panel="Playground")(demo)


def demo(
    call: Call,
    json_file: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Also write the figures to a file.")] = None,
    transport: Annotated[str, typer.Option("--transport", help="What carries gRPC: kvwire or grpcio.")] = "",
) -> None:
    """Show a cluster at work: three daemons, a steady load, a crash, a partition; the numbers are the run's."""
    from kvctl.demo import run_demo

    run_demo(json_path=json_file, transport=transport, directory=call.directory)
