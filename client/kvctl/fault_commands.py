"""`kvctl fault link | partition | disk | clock | list | heal`: game days.

Owns which node is asked for which fault, and how faults look. The calls are `kvctl.faults`, what a fault does is the server's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl.cluster_commands import as_plain, open_admin
from kvctl.command import Call, command
from kvctl.failures import Failure, usage
from kvctl.fault_words import ends_in, fault_text
from kvctl.key_commands import remark
from kvctl.output import print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kvapi.v1 import fault_pb2
    from kvctl.faults import FaultClient

FOR_S_DEFAULT = 60.0
FOR_S_MAX = 3600.0
CALL_TIMEOUT_S_MIN = 0.5


class Way(StrEnum):
    """--direction"""

    BOTH = "both"
    OUT = "out"
    IN = "in"


NodeArgument = Annotated[str, typer.Argument(metavar="NODE", help="Its name, as kvctl members shows it.")]
ForOption = Annotated[
    float, typer.Option("--for", min=0.001, max=FOR_S_MAX, metavar="SECONDS", help="It ends by itself after so long.")
]
DelayOption = Annotated[int, typer.Option("--delay", min=0, max=60_000, metavar="MS", help="So much later.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "link")(link)
    command(app, "partition")(partition)
    command(app, "disk")(disk)
    command(app, "clock")(clock)
    command(app, "list")(list_)
    command(app, "heal")(heal)


@dataclass
class Nodes:
    """The cluster's nodes, as a fault command sees them: who serves faults, and who does not answer."""

    client: FaultClient
    addresses: dict[str, str]
    silent: dict[str, Failure] = field(default_factory=dict)

    def address(self, name: str) -> str:
        """Raises a usage failure for a name that is none."""
        if name not in self.addresses:
            raise usage(f"{name!r} is no node of this cluster", f"its nodes are {', '.join(self.addresses)}")
        return self.addresses[name]

    def ask(self, name: str, call: Callable[[str], Any]) -> Any:
        """What a node answers; None, and it counts as silent, if it does not. Raises any other failure."""
        from kvctl.admin import MOVES_ON

        try:
            return call(self.address(name))
        except Failure as failure:
            if failure.reason not in MOVES_ON:
                raise
            self.silent[name] = failure
            return None

    def reached(self, names: Iterable[str]) -> list[str]:
        """Those that serve faults. Raises before anything is injected: where a node serves none; where nobody answers."""
        names = list(dict.fromkeys(names))
        answers = {name: self.ask(name, self.client.active) for name in names}
        found = [name for name in names if answers[name] is not None]
        if not found:
            raise self.silent[names[0]]
        return found

    def inject(self, name: str, fault: fault_pb2.InjectedFault, for_s: float) -> list[tuple[str, Any]]:
        """A row for the answer; none from a node that does not answer."""
        answer = self.ask(name, lambda address: self.client.inject(address, fault, for_s))
        return [] if answer is None else [(name, answer)]

    def hurt_between(
        self, pairs: list[tuple[str, str]], make: Callable[..., fault_pb2.InjectedFault], for_s: float
    ) -> list[tuple[str, Any]]:
        """Hurt links both ways: each end what it sends, so that every request, a forwarded one too, is hurt once. Where one end
        does not answer, the other one hurts what comes as well.
        """
        there = self.reached(name for pair in pairs for name in pair)
        rows = []
        for one, other in pairs:
            ends = [(one, other), (other, one)]
            both = one in there and other in there
            for node, peer in ends:
                if node in there:
                    rows += self.inject(node, make(peer, direction="out" if both else "both"), for_s)
        return rows


@contextmanager
def nodes_of(call: Call) -> Iterator[Nodes]:
    """The nodes of the cluster that the options name."""
    from kvctl.faults import FaultClient

    with open_admin(call) as admin:
        _, known = admin.members()
    addresses = {member.name: member.address for member in known.members}
    with FaultClient(max(CALL_TIMEOUT_S_MIN, call.timeout_s / (2 * max(1, len(addresses))))) as client:
        yield Nodes(client, addresses)


def link(
    call: Call,
    node: NodeArgument,
    peer: Annotated[str, typer.Argument(metavar="[PEER]", help="The other end; default: all other nodes.")] = "",
    cut: Annotated[bool, typer.Option("--cut", help="Nothing passes.")] = False,
    loss: Annotated[float, typer.Option("--loss", min=0, max=1, help="So likely a message is lost.")] = 0.0,
    delay: DelayOption = 0,
    jitter: Annotated[
        int, typer.Option("--jitter", min=0, max=60_000, metavar="MS", help="And up to so much later still.")
    ] = 0,
    direction: Annotated[Way, typer.Option("--direction", help="Only what NODE sends, or only what it gets.")] = Way.BOTH,
    for_: ForOption = FOR_S_DEFAULT,
) -> None:
    """Hurt the link between two nodes: requests get lost, or come late. Clients' own connections are left alone.

    kvctl fault link n1 n2 --cut --for 30

    kvctl fault link n1 n2 --delay 50 --jitter 10

    kvctl fault link n1 --loss 0.2 --direction out
    """
    from kvctl.faults import link_fault

    if cut and loss:
        raise usage("--cut and --loss exclude each other", "--cut is --loss 1")
    if not (cut or loss or delay or jitter):
        raise usage("say what happens to the link", "give --cut, --loss, --delay or --jitter")
    if node == peer:
        raise usage(f"{node} has no link to itself")

    def make(to: str, direction: Any) -> fault_pb2.InjectedFault:
        return link_fault(to, loss=1.0 if cut else loss, delay_ms=delay, jitter_ms=jitter, direction=direction)

    with nodes_of(call) as nodes:
        for name in (node, peer or node):
            nodes.address(name)
        peers = [peer] if peer else [name for name in nodes.addresses if name != node]
        if direction is Way.BOTH:
            rows = nodes.hurt_between([(node, other) for other in peers], make, for_)
        else:
            nodes.reached([node])
            rows = nodes.inject(node, make(peer, direction=direction.value), for_)
        print_begun(call, nodes, rows)


def partition(
    call: Call,
    one: Annotated[str, typer.Argument(metavar="NODE,...", help="One side.")],
    other: Annotated[str, typer.Argument(metavar="[NODE,...]", help="The other side; default: all others.")] = "",
    for_: ForOption = FOR_S_DEFAULT,
) -> None:
    """Cut every link between two groups of nodes, at both ends. A node in neither group still reaches both.

    kvctl fault partition n1,n2 n3 --for 30

    kvctl fault partition n1
    """
    from kvctl.faults import cut

    with nodes_of(call) as nodes:
        left = _group(one, nodes)
        right = _group(other, nodes) if other else [name for name in nodes.addresses if name not in left]
        if both := [name for name in left if name in right]:
            raise usage(f"{', '.join(both)} cannot be on both sides")
        if not right:
            raise usage("there is nobody on the other side", f"the nodes are {', '.join(nodes.addresses)}")
        print_begun(call, nodes, nodes.hurt_between([(a, b) for a in left for b in right], cut, for_))


def _group(text: str, nodes: Nodes) -> list[str]:
    names = list(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        nodes.address(name)
    if not names:
        raise usage("a side of the partition names no node", "for example kvctl fault partition n1,n2 n3")
    return names


def disk(
    call: Call,
    node: NodeArgument,
    delay: DelayOption = 0,
    full: Annotated[bool, typer.Option("--full", help="Writes are refused for want of space.")] = False,
    fail: Annotated[bool, typer.Option("--fail", help="The next sync fails, which stops the node.")] = False,
    for_: ForOption = FOR_S_DEFAULT,
) -> None:
    """Make a node's log disk slow (each write and each sync by --delay), full, or broken.

    kvctl fault disk n1 --delay 200 --for 30

    kvctl fault disk n1 --full
    """
    from kvctl.faults import disk_fault

    if not (delay or full or fail):
        raise usage("say what is wrong with the disk", "give --delay, --full or --fail")
    _inject_one(call, node, disk_fault(delay_ms=delay, full=full, fail=fail), for_)


def clock(
    call: Call,
    node: NodeArgument,
    offset: Annotated[int, typer.Option("--offset", metavar="MS", help="So far ahead; negative: behind.")] = 0,
    rate: Annotated[float, typer.Option("--rate", min=0.5, max=2, help="So fast: 1.01 gains 10 ms a second.")] = 1.0,
    for_: ForOption = FOR_S_DEFAULT,
) -> None:
    """Make a node's wall clock wrong. What it stamped with a clock ahead stays ahead when the fault ends.

    kvctl fault clock n1 --offset 5000

    kvctl fault clock n1 --offset -200 --rate 1.01
    """
    from kvctl.faults import clock_fault

    if not offset and (math.isnan(rate) or rate == 1.0):
        raise usage("say what is wrong with the clock", "give --offset or --rate")
    _inject_one(call, node, clock_fault(offset_ms=offset, rate=rate), for_)


def _inject_one(call: Call, node: str, fault: fault_pb2.InjectedFault, for_s: float) -> None:
    with nodes_of(call) as nodes:
        nodes.reached([node])
        print_begun(call, nodes, nodes.inject(node, fault, for_s))


def list_(call: Call) -> None:
    """Show what is injected, at every node. A node that serves no faults, or does not answer, is shown as such."""
    with nodes_of(call) as nodes:
        rows, without = _each(nodes, list(nodes.addresses), nodes.client.active)
        print_faults(call, nodes, rows, without)


def heal(
    call: Call,
    node: Annotated[str, typer.Argument(metavar="[NODE]", help="Only there; default: at every node.")] = "",
    fault_id: Annotated[str, typer.Option("--id", help="Only this fault of NODE, as list shows it.")] = "",
) -> None:
    """End faults before their time: all of them, those of a node, or one.

    kvctl fault heal

    kvctl fault heal n1 --id 3
    """
    if fault_id and not node:
        raise usage("--id names a fault of one node", "for example kvctl fault heal n1 --id 3")
    with nodes_of(call) as nodes:
        names = [node] if node else list(nodes.addresses)
        rows, without = _each(nodes, names, lambda address: nodes.client.heal(address, fault_id))
        if node and not rows and (failure := nodes.silent.get(node)):
            raise failure
        if call.as_json:
            print_json({"healed": [fault_json(name, fault) for name, fault in rows], "not_asked": not_asked(nodes, without)})
            return
        for name, fault in rows:
            print(f"healed  {name}  {fault.id}  {fault_text(fault)}")
        if not rows:
            print("there was nothing to heal" + (" where somebody answered" if nodes.silent else ""))
        for name, why in not_asked(nodes, without).items():
            remark(f"{name}: {why}")


def _each(nodes: Nodes, names: list[str], call: Callable[[str], Any]) -> tuple[list[tuple[str, Any]], list[str]]:
    """The faults that the nodes tell of, as rows, and the nodes that serve none. Raises if not one of them does."""
    from kvctl.faults import DISABLED

    rows, without = [], []
    last: Failure | None = None
    for name in names:
        try:
            rows += [(name, fault) for fault in nodes.ask(name, call) or ()]
        except Failure as failure:
            if failure.reason != DISABLED:
                raise
            last = failure
            without.append(name)
    if last is not None and len(without) + len(nodes.silent) == len(names):
        raise last
    return rows, without


def not_asked(nodes: Nodes, without: Iterable[str] = ()) -> dict[str, str]:
    """Why nodes said nothing, by name."""
    silent = {
        name: "did not answer in time" if failure.reason == "DEADLINE_EXCEEDED" else "does not answer"
        for name, failure in nodes.silent.items()
    }
    return silent | dict.fromkeys(without, "serves no faults (faults.enabled = false)")


def fault_json(node: str, fault: fault_pb2.InjectedFault) -> dict[str, Any]:
    """A fault for programs."""
    kind = fault.WhichOneof("fault") or "unknown"
    what = {kind: as_plain(getattr(fault, kind))} if kind != "unknown" else {}
    times = {"duration_ms": fault.duration_ms, "remaining_ms": fault.remaining_ms}
    return {"node": node, "id": fault.id, "kind": kind, **what, **times}


def print_begun(call: Call, nodes: Nodes, rows: list[tuple[str, Any]]) -> None:
    """What has begun. Raises if nothing has, because nobody answered."""
    if not rows:
        raise next(iter(nodes.silent.values()))
    print_faults(call, nodes, rows)


def print_faults(call: Call, nodes: Nodes, rows: list[tuple[str, Any]], without: Iterable[str] = ()) -> None:
    """Faults as a table, or as JSON; and who could not be asked."""
    missing = not_asked(nodes, without)
    if call.as_json:
        print_json({"faults": [fault_json(name, fault) for name, fault in rows], "not_asked": missing})
        return
    table: list[list[object]] = [[name, fault.id, fault_text(fault), ends_in(fault)] for name, fault in rows]
    table += [[name, "", why, ""] for name, why in missing.items()]
    print_table(["node", "id", "fault", "ends in"], table)
