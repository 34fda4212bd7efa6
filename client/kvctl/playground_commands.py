"""`kvctl cluster up | start | stop | kill | pause | resume | status | down`: a cluster of daemons on this machine.

Owns how the playground looks on a terminal. What it does is `kvctl.playground`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl.command import Call, command, last_playground, remember_playground, state_directory
from kvctl.output import duration_text, print_json, print_table

if TYPE_CHECKING:
    from kvctl.playground import Node, NodeStatus, Playground

NameArgument = Annotated[str, typer.Argument(metavar="NAME", help="The node: n1, n2, ...")]
SERVE_TIMEOUT_S = 30.0


def register(app: typer.Typer) -> None:
    """Add the commands to `kvctl cluster`."""
    for name, function in (
        *(("up", up), ("status", status), ("down", down)),
        *(("start", start), ("stop", stop), ("kill", kill), ("pause", pause), ("resume", resume)),
    ):
        command(app, name)(function)


def directory_of(call: Call) -> Path:
    """--dir, else the playground last started, else a directory of kvctl's own."""
    return call.directory or last_playground() or state_directory() / "playground"


def _open(call: Call) -> Playground:
    from kvctl.playground import Playground

    return Playground(directory_of(call))


@contextmanager
def spinner(text: str, quiet: bool) -> Iterator[None]:
    """Something that turns while one waits, on a terminal."""
    if quiet or not sys.stderr.isatty():
        yield
        return
    from rich.console import Console

    with Console(stderr=True).status(text):
        yield


def node_json(node: Node) -> dict[str, Any]:
    """A node for programs."""
    return {
        "name": node.name,
        "address": node.address,
        "state": node.state,
        "pid": node.pid,
        "uptime_s": None if node.uptime_s is None else round(node.uptime_s, 3),
        "config": str(node.config_path),
        "log": str(node.log_path),
        "data": str(node.data_path),
    }


def up(
    call: Call,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, max=9, help="Number of nodes (default: 3).")] = None,
    base_port: Annotated[
        int | None, typer.Option("--base-port", min=1, max=65535, help="Node i listens on this + i - 1 (default: 7401).")
    ] = None,
    shards: Annotated[int | None, typer.Option("--shards", min=1, max=1024, help="Number of shards (default: 8).")] = None,
    transport: Annotated[str | None, typer.Option("--transport", help="What carries gRPC (default: grpcio).")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Additional configuration of all nodes; may be repeated."),
    ] = None,
) -> None:
    """Start a cluster of daemons on this machine, and wait until it serves.

    On an existing directory it starts the same cluster again: same identity, same data.
    """
    from kvctl.playground import Playground
    from kvctl.playground_files import parse_setting

    began = time.monotonic()
    added = dict(parse_setting(text) for text in settings or ())
    playground = Playground.create(
        directory_of(call), nodes, base_port, shards=shards, transport=transport, settings=added
    )  # fmt: skip
    with spinner(f"Starting {len(playground.names)} nodes …", call.as_json):
        started = playground.up(call.timeout_given_s or SERVE_TIMEOUT_S)
    remember_playground(playground.directory)
    seconds = time.monotonic() - began
    if call.as_json:
        print_json(
            {
                "endpoints": playground.endpoints,
                "uri": playground.uri,
                "cluster_id": playground.cluster_id,
                "directory": str(playground.directory),
                "started": started,
                "seconds": round(seconds, 3),
                "nodes": [node_json(node) for node in playground.nodes],
            }
        )
        return
    print(",".join(playground.endpoints))
    done = f"{len(started)} of {len(playground.names)} nodes started" if started else "all nodes ran already"
    note(f"{done}; {playground.shards} shards serve after {duration_text(seconds)}; data in {playground.directory}")
    note(f"try: kvctl put greeting hello    stop it: kvctl cluster down --dir {shown(playground.directory)}")


def note(text: str) -> None:
    """A remark for a person, out of the way of programs that read the output."""
    print(text, file=sys.stderr)


def shown(directory: Path) -> str:
    """A directory as a person would type it."""
    relative = os.path.relpath(directory)
    return relative if len(relative) < len(str(directory)) else str(directory)


def _done(call: Call, playground: Playground, name: str, text: str, seconds: float) -> None:
    """Report on one node."""
    if call.as_json:
        print_json({**node_json(playground.node(name)), "seconds": round(seconds, 3)})
    else:
        print(text)


def start(call: Call, name: NameArgument) -> None:
    """Start one node, and wait until it answers."""
    playground = _open(call)
    with spinner(f"Starting {name} …", call.as_json):
        seconds = playground.start(name, call.timeout_given_s or SERVE_TIMEOUT_S)
    node = playground.node(name)
    _done(call, playground, name, f"{name} runs (pid {node.pid}); it answered after {duration_text(seconds)}", seconds)


def stop(call: Call, name: NameArgument) -> None:
    """Stop one node gracefully: it hands its leaderships over (SIGTERM)."""
    from kvctl.daemons import STOP_TIMEOUT_S

    playground = _open(call)
    with spinner(f"Stopping {name} …", call.as_json):
        seconds = playground.stop(name, call.timeout_given_s or STOP_TIMEOUT_S)
    _done(call, playground, name, f"{name} stopped in {duration_text(seconds)}", seconds)


def kill(call: Call, name: NameArgument) -> None:
    """End one node at once, as a crash would (SIGKILL)."""
    playground = _open(call)
    seconds = playground.kill(name)
    _done(call, playground, name, f"{name} killed", seconds)


def pause(call: Call, name: NameArgument) -> None:
    """Freeze one node: it keeps its connections and says nothing (SIGSTOP)."""
    playground = _open(call)
    playground.pause(name)
    _done(call, playground, name, f"{name} paused; go on: kvctl cluster resume {name}", 0.0)


def resume(call: Call, name: NameArgument) -> None:
    """Let a frozen node go on (SIGCONT)."""
    playground = _open(call)
    playground.resume(name)
    _done(call, playground, name, f"{name} goes on", 0.0)


def status(call: Call) -> None:
    """Show the playground's processes, and what the nodes say about themselves."""
    from kvctl.cluster_commands import status_json

    playground = _open(call)
    statuses = playground.status(min(call.timeout_s, 2.0))
    if call.as_json:
        nodes = [
            {
                **node_json(one.node),
                "answers": one.answer is not None,
                "status": None if one.answer is None else status_json(one.node.name, one.node.address, one.answer),
            }
            for one in statuses
        ]
        serving = all(one.answer is not None for one in statuses)
        print_json(
            {
                "directory": str(playground.directory),
                "cluster_id": playground.cluster_id,
                "shards": playground.shards,
                "all_answer": serving,
                "nodes": nodes,
            }
        )
        return
    print_playground(playground, statuses)


def print_playground(playground: Playground, statuses: list[NodeStatus]) -> None:
    """One row a node."""
    from kvapi.v1 import kv_pb2, message_pb2

    rows: list[list[object]] = []
    for one in statuses:
        node, answer = one.node, one.answer
        uptime = "" if node.uptime_s is None else duration_text(node.uptime_s)
        if answer is None:
            serves, leads = ("no answer" if node.state == "running" else ""), ""
        else:
            serves = message_pb2.NodeState.Name(answer.node.state).removeprefix("NODE_STATE_")
            leads = f"{sum(shard.role == kv_pb2.ROLE_LEADER for shard in answer.shards)}/{len(answer.shards)}"
        rows.append([node.name, node.address, node.state, node.pid or "", uptime, serves, leads, shown(node.log_path)])
    title = f"{shown(playground.directory)}: cluster {playground.cluster_id}, {playground.shards} shards"
    print_table(["node", "address", "process", "pid", "up", "serves", "leads", "log"], rows, title=title, right="pid up leads")


def down(call: Call, purge: Annotated[bool, typer.Option("--purge", help="Also remove the data, for good.")] = False) -> None:
    """Stop all nodes. The data stay: `up` starts the same cluster again."""
    from kvctl.daemons import STOP_TIMEOUT_S

    playground = _open(call)
    with spinner("Stopping all nodes …", call.as_json):
        seconds = playground.down(purge=purge, timeout_s=call.timeout_given_s or STOP_TIMEOUT_S)
    longest = max(seconds.values(), default=0.0)
    if call.as_json:
        print_json(
            {"directory": str(playground.directory), "purged": purge, "seconds": {k: round(v, 3) for k, v in seconds.items()}}
        )
    else:
        rest = "removed" if purge else f"kept in {shown(playground.directory)}"
        print(f"all nodes are down after {duration_text(longest)}; the data are {rest}")
