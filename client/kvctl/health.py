"""`kvctl health`: whether the cluster could lose a node now; what a rolling restart waits for between two nodes.

Owns the judgement, as a function of what the nodes say about themselves, and how it looks. Never changes anything.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from kvctl.cluster_commands import PANEL, open_admin
from kvctl.command import Call, command
from kvctl.failures import ExitCode, Failure
from kvctl.output import enum_name, print_json, print_table
from kvctl.playground_commands import spinner

if TYPE_CHECKING:
    from kvapi.v1 import cluster_pb2

LAG_ENTRIES_MAX = 1_000
"""A follower may be so many entries behind its leader and count as caught up: under load some are always on their way."""
SPARING_MIN = 3
"""Replicas of a shard of which any one may be stopped."""
POLL_INTERVAL_S = 0.2


class Health(NamedTuple):
    """What the nodes' words amount to."""

    nodes: list[dict[str, Any]]
    """name, address, state ("" without an answer), leads, shards, behind: entries of its worst replica, as leaders say."""
    problems: list[str]
    """Sentences; none: healthy."""
    can_spare_a_node: bool = False
    """Whether the others are a majority in every shard while one node is stopped, as far as the number of replicas goes."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    command(app, "health", panel=PANEL)(health)


def health(
    call: Call,
    wait: Annotated[float, typer.Option("--wait", min=0, metavar="SECONDS", help="Ask again for so long, until it is.")] = 0.0,
) -> None:
    """Say whether all nodes are ACTIVE, all shards led, and all replicas caught up. Exit code 4 if not.

    While it is so, one node may be stopped without an outage: ask before each step of a rolling restart.
    """
    until = time.monotonic() + wait
    found = ask(call)
    if found.problems and wait:
        with spinner("Waiting for a healthy cluster …", call.as_json):
            while found.problems and time.monotonic() < until:
                time.sleep(POLL_INTERVAL_S)
                found = ask(call)
    if call.as_json:
        print_json({"healthy": not found.problems, "problems": found.problems, "nodes": found.nodes})
    else:
        show(found)
    if found.problems:
        raise SystemExit(int(ExitCode.UNAVAILABLE))


def ask(call: Call) -> Health:
    """Ask every node about itself, and judge. Nobody's answer is a finding, too."""
    from kvapi.v1 import cluster_pb2

    with open_admin(call) as admin:
        try:
            shape = admin.topology()
        except Failure as failure:
            if failure.code is not ExitCode.UNAVAILABLE:
                raise
            return Health([], [failure.message])
        answers = admin.each(
            [member.address for member in shape.members],
            lambda stub, timeout_s: stub.Status.future(cluster_pb2.StatusRequest(), timeout=timeout_s),
        )
    return judge(shape, {member.name: answers[member.address] for member in shape.members})


def judge(shape: cluster_pb2.TopologyResponse, answers: Mapping[str, cluster_pb2.StatusResponse | Failure]) -> Health:
    """What is wrong, by the word of each node about itself and of each leader about its followers."""
    from kvapi.v1 import kv_pb2, message_pb2

    addresses = {member.name: member.address for member in shape.members}
    leaders: dict[int, tuple[int, str, Mapping[str, int]]] = {}
    for name, answer in answers.items():
        for shard in () if isinstance(answer, Failure) else answer.shards:
            # (A leader that was cut off may still think that it leads: the later term counts.)
            if shard.role == kv_pb2.ROLE_LEADER and shard.term >= leaders.get(shard.shard, (0, "", {}))[0]:
                leaders[shard.shard] = (shard.term, name, shard.lag)
    problems: list[str] = []
    nodes: list[dict[str, Any]] = []
    for name, answer in answers.items():
        lags = {number: lag[name] for number, (_, _, lag) in leaders.items() if name in lag}
        row = {"name": name, "address": addresses[name], "state": "", "leads": 0, "shards": 0}
        nodes.append(row | {"behind": max(lags.values(), default=0)})
        if isinstance(answer, Failure):
            problems.append(f"{name} at {addresses[name]} does not answer: {answer.message}")
            continue
        state = enum_name(message_pb2.NodeState.Name(answer.node.state), "NODE_STATE_")
        leads = sum(shard.role == kv_pb2.ROLE_LEADER for shard in answer.shards)
        nodes[-1].update(state=state, leads=leads, shards=len(answer.shards))
        # (Where nothing is written nobody falls behind, also who is cut off.)
        astray = [one.shard for one in answer.shards if one.shard in leaders and one.leader != leaders[one.shard][1]]
        if answer.out_of_space:
            problems.append(f"{name} has no space: it refuses writes")
        elif state != "ACTIVE":
            problems.append(f"{name} is {state}, not ACTIVE")
        elif astray:
            numbers = ", ".join(map(str, astray))
            problems.append(f"{name} does not follow the leader of shard{'s' if len(astray) > 1 else ''} {numbers}")
        for number, lag in lags.items():
            if lag > LAG_ENTRIES_MAX:
                problems.append(f"{name} is {lag:,} entries behind the leader of shard {number}")
    problems += [f"shard {place.shard} has no leader" for place in shape.shards if place.shard not in leaders]
    return Health(nodes, problems, all(len(place.replicas) >= SPARING_MIN for place in shape.shards))


def show(found: Health) -> None:
    """One row a node, then the verdict."""
    if found.nodes:
        rows: list[list[object]] = []
        for node in found.nodes:
            leads = f"{node['leads']}/{node['shards']}"
            rows.append([node["name"], node["address"], node["state"] or "no answer", leads, f"{node['behind']:,}"])
        print_table(["node", "address", "state", "leads", "behind"], rows, right="leads behind")
    for problem in found.problems:
        print(problem)
    if not found.problems:
        spare = ": one node may be stopped without an outage"
        few = f"; but a shard has fewer than {SPARING_MIN} replicas: it stops while one of their nodes is stopped"
        print("healthy" + (spare if found.can_spare_a_node else few))
