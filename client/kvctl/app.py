"""The command line's root: what commands there are.

Owns nothing but their registration. Whatever is slow to import (gRPC, rich, the SDK) is imported inside the commands, so that
help and completion are quick.
"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from kvctl import (
    cluster_commands,
    demo_command,
    fault_commands,
    health,
    key_commands,
    latency_command,
    playground_commands,
    trace_commands,
    txn_commands,
)
from kvctl.availability import command as availability_command
from kvctl.bench import command as bench_command
from kvctl.command import Call, DirOption, EndpointsOption, OutputOption, TimeoutOption
from kvctl.output import Output
from kvctl.report import command as report_command
from kvctl.usage_errors import Program

EPILOG = (
    "Exit codes: 0 ok, 1 not found, 2 usage, 3 compare failed, 4 unavailable or no leader, 5 outcome unknown, "
    "6 refused (overloaded, no space, conflict), 7 internal error, 8 playground or demo failed."
)

app = typer.Typer(
    name="kvctl",
    cls=Program,
    no_args_is_help=True,
    epilog=EPILOG,
    context_settings={"help_option_names": ["--help", "-h"]},
    pretty_exceptions_enable=False,
)
txn = typer.Typer(cls=txn_commands.TxnGroup, no_args_is_help=True, help="Transactions: run one, look after those under way.")
cluster = typer.Typer(no_args_is_help=True, help="A playground: a cluster of daemons on this machine.")

trace = typer.Typer(no_args_is_help=True, help="Where the time of requests went: from live nodes or files of traces.")
fault = typer.Typer(no_args_is_help=True, help="Game days: break a node's links, disk or clock for a while.")


def show_version(wanted: bool) -> None:
    """--version"""
    if wanted:
        from importlib.metadata import PackageNotFoundError, version

        try:
            print(f"kvctl {version('kvnode-client')}")
        except PackageNotFoundError:
            print("kvctl, from a checkout that is not installed")
        raise SystemExit(0)


@app.callback()
def root(
    context: typer.Context,
    endpoints: EndpointsOption = None,
    directory: DirOption = None,
    output: OutputOption = None,
    timeout: TimeoutOption = None,
    version: Annotated[bool, typer.Option("--version", callback=show_version, is_eager=True, help="Show the version.")] = False,
) -> None:
    """Read, write and look after a kvnode cluster."""
    context.obj = Call(endpoints, directory, output or Output.TABLE, timeout)


key_commands.register(app)
txn_commands.register(txn)
app.add_typer(txn, name="txn", rich_help_panel=key_commands.PANEL)
cluster_commands.register(app)
health.register(app)
latency_command.register(app)
report_command.register(app)
trace_commands.register(trace)
app.add_typer(trace, name="trace", rich_help_panel=cluster_commands.PANEL)
availability_command.register(app, cluster_commands.PANEL)
fault_commands.register(fault)
bench_command.register(app, cluster_commands.PANEL)
app.add_typer(fault, name="fault", rich_help_panel=cluster_commands.PANEL)
playground_commands.register(cluster)
app.add_typer(cluster, name="cluster", rich_help_panel="Playground")
demo_command.register(app)


def main() -> None:
    """The program."""
    os.environ.setdefault("GRPC_VERBOSITY", "ERROR")  # gRPC's own remarks about connections are not for kvctl's users
    app()
