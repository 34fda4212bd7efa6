"""`kvctl cluster up | start | stop | kill | pause | resume | status | down`: a cluster of daemons on this machine.

Owns how the playground looks on a terminal. What it does is `kvctl.playground`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl.command import Call, command, forget_playground, last_playground, remember_playground, state_directory
from kvctl.output import duration_text, print_json, print_table

if TYPE_CHECKING:
    from kvctl.playground import Node, NodeStatus, Playground


def complete_node(context: typer.Context, incomplete: str) -> list[str]:
    """The names of the playground's nodes, for the shell."""
    from kvctl.playground_files import PlaygroundError, PlaygroundFiles

    given = context.params.get("directory")
    directory = Path(given) if given else directory_of(context.obj or Call())
    try:
        nodes = PlaygroundFiles(directory.resolve()).load().nodes
    except PlaygroundError:
        return []
    return [name for name in nodes if name.startswith(incomplete) and name not in (context.params.get("names") or ())]


NamesArgument = Annotated[
    list[str], typer.Argument(metavar="NAME...", help="The nodes: n1, n2, ...", autocompletion=complete_node)
]
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
    from kvctl.playground import Playground, PlaygroundError

    directory = directory_of(call)
    if call.directory is None and not (directory / "cluster.json").exists():
        raise PlaygroundError(
            "no playground is known: none was started, or it was removed",
            hint="start one: kvctl cluster up, or name its directory: --dir DIR",
        )
    return Playground(directory)


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
    transport: Annotated[str | None, typer.Option("--transport", help="What carries gRPC: kvwire or grpcio.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.FIELD=VALUE", help="Configuration of all nodes; no VALUE takes it back."),
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


def _each(call: Call, playground: Playground, names: list[str], act: Callable[[str], tuple[str, float]]) -> None:
    """Do something to one node after another; each answers what it was, and the seconds."""
    names = list(dict.fromkeys(names))
    for name in names:
        playground.node(name)  # all names are right, or nothing happens
    done = []
    for name in names:
        text, seconds = act(name)
        if not call.as_json:
            print(text)
        done.append({**node_json(playground.node(name)), "seconds": round(seconds, 3)})
    if call.as_json:
        print_json(done[0] if len(names) == 1 else {"nodes": done})


def _living(playground: Playground, names: list[str]) -> dict[str, bool]:
    """Which of these nodes have a process now. Raises PlaygroundError for a name that is none."""
    return {name: playground.node(name).pid is not None for name in names}


def start(call: Call, names: NamesArgument) -> None:
    """Start nodes, and wait until they answer."""
    playground = _open(call)

    def act(name: str) -> tuple[str, float]:
        before = playground.node(name)
        with spinner(f"Starting {name} …", call.as_json):
            seconds = playground.start(name, call.timeout_given_s or SERVE_TIMEOUT_S)
        pid = playground.node(name).pid
        if before.state == "running":
            return f"{name} ran already (pid {pid})", seconds
        return f"{name} runs (pid {pid}); it answered after {duration_text(seconds)}", seconds

    _each(call, playground, names, act)


def stop(call: Call, names: NamesArgument) -> None:
    """Stop nodes gracefully, all at once: each hands its leaderships over (SIGTERM)."""
    from kvctl.daemons import STOP_TIMEOUT_S

    playground = _open(call)
    living = _living(playground, names)
    with spinner(f"Stopping {', '.join(living)} …", call.as_json):
        seconds = playground.stop_all(living, call.timeout_given_s or STOP_TIMEOUT_S)

    def act(name: str) -> tuple[str, float]:
        said = f"{name} stopped in {duration_text(seconds[name])}" if living[name] else f"{name} was not running"
        return said, seconds[name]

    _each(call, playground, names, act)


def kill(call: Call, names: NamesArgument) -> None:
    """End nodes at once, as a crash would (SIGKILL)."""
    playground = _open(call)
    living = _living(playground, names)
    seconds = playground.kill_all(living)
    _each(
        call, playground, names, lambda name: (f"{name} {'killed' if living[name] else 'was not running'}", seconds[name])
    )  # fmt: skip


def pause(call: Call, names: NamesArgument) -> None:
    """Freeze nodes: they keep their connections and say nothing (SIGSTOP)."""
    playground = _open(call)

    def act(name: str) -> tuple[str, float]:
        playground.pause(name)
        return f"{name} paused; go on: kvctl cluster resume {name}", 0.0

    _each(call, playground, names, act)


def resume(call: Call, names: NamesArgument) -> None:
    """Let frozen nodes go on (SIGCONT)."""
    playground = _open(call)

    def act(name: str) -> tuple[str, float]:
        was_paused = playground.node(name).state == "paused"
        playground.resume(name)
        return f"{name} goes on" if was_paused else f"{name} was not paused", 0.0

    _each(call, playground, names, act)


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
    if purge:
        forget_playground(playground.directory)
    longest = max(seconds.values(), default=0.0)
    if call.as_json:
        print_json(
            {"directory": str(playground.directory), "purged": purge, "seconds": {k: round(v, 3) for k, v in seconds.items()}}
        )
    else:
        rest = "removed" if purge else f"kept in {shown(playground.directory)}"
        print(f"all nodes are down after {duration_text(longest)}; the data are {rest}")
