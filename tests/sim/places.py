"""Named places in a node's life at which it may die: every message, every operation of its disk, every entry, flush and
installation, and every change of role, just before it and just after it.

Owns: the names, how often each was reached and how often somebody died there, and the deaths that are planned. Never: chooses
when to plan one (`faults` does), or has a place that a run passes without saying so.

A death at a place is one between two instructions: what came before it has happened, what follows never does.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from kvapi.v1 import replication_pb2
from kvnode.protocol.raft.role import Role
from kvnode.runtime.recovery import CLOCK_RECORD, PEERS_RECORD, SNAPSHOT_MARK
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, Record

if TYPE_CHECKING:
    from kvnode.node import Node
    from kvnode.shard.replica import Replica
    from kvnode.types import Entry

    from .machine import SimNode

BETWEEN_NODES = (
    "Heartbeat",
    "Probe",
    "Exchange",
    "RequestVote",
    "TimeoutNow",
    "Append",
    "Append of entries",
    "ReadIndex",
    "ReplicateEventual",
    "InstallSnapshot",
    "Prepare",
    "Decide",
    "Resolve",
    "Collect",
    "TransactionStatus",
    "forwarded Put",
    "forwarded Get",
    "forwarded Delete",
    "forwarded Txn",
    "forwarded Range",
    "forwarded Operation",
)
FROM_CLIENTS = ("Put", "Get", "Delete", "Txn", "Range", "Batch", "Operation", "Topology")
SENT, ARRIVED, ANSWERED, HEARD = "leaves", "has arrived", "is about to be answered", "was answered"
COMMANDS = tuple(field.name for field in replication_pb2.Command.DESCRIPTOR.oneofs_by_name["operation"].fields)
NODE_RECORDS = {CLOCK_RECORD: "clock bound", PEERS_RECORD: "known disks"}
RECORDS = ("hard state", "entry", "snapshot mark", "eventual write", *NODE_RECORDS.values(), "failure event")
DISK_OPERATIONS = (
    "preallocate log-spare",
    "preallocate snapshot",
    "write log-spare",
    "write log",
    "write snapshot",
    "sync log-spare",
    "sync log",
    "sync snapshot",
    "rename log-spare",
    "remove log",
    "remove log-spare",
    "remove snapshot",
    "sync_directory",
)
STEPS = ("freezing", "cut of the log", "store commit", "store replacement", "flush's end", "snapshot's takeover", "reload")
ROLES = ("becomes candidate", "becomes leader", "steps down")


def _both(names: Iterable[str]) -> Iterator[str]:
    for name in names:
        yield f"before {name}"
        yield f"after {name}"


PLACES: tuple[str, ...] = (
    *(f"{name} {stage}" for name in BETWEEN_NODES for stage in (SENT, ARRIVED, ANSWERED, HEARD)),
    *(f"{name} {stage}" for name in FROM_CLIENTS for stage in (ARRIVED, ANSWERED)),
    *_both(f"logging of {name}" for name in RECORDS),
    *_both(DISK_OPERATIONS),
    *_both(f"apply of {name}" for name in COMMANDS),
    *_both(STEPS),
    *ROLES,
)
"""All names. What is reached and not listed, `unlisted` tells: a test demands that it is nothing."""


def unlisted(reached: Iterable[str]) -> list[str]:
    """Names of places that were reached and that `PLACES` lacks."""
    return sorted(set(reached) - set(PLACES))


class PowerCut(BaseException):
    """Ends what a node was doing when it died."""


class Places:
    """The places of one run."""

    def __init__(self, die: Callable[[SimNode, str, bool], None]) -> None:
        """`die(node, place, power)` ends a node; `power`: with what its disk had not synced."""
        self.reached: Counter[str] = Counter()
        self.deaths: Counter[str] = Counter()
        self.running = True
        self._die = die
        self._planned: dict[str, bool] = {}

    def plan(self, names: Sequence[str], power: bool) -> None:
        """Whoever comes first to one of these places dies there; it replaces the plan before."""
        self._planned = dict.fromkeys(names, power)

    def reach(self, sim: SimNode | None, name: str) -> bool:
        """A node comes to a place; True: it is dead now."""
        self.reached[name] += 1
        if name not in self._planned or sim is None or not (sim.up or sim.starting) or not self.running:
            return False
        power = self._planned[name]
        self._planned = {}
        self.deaths[name] += 1
        self._die(sim, name, power)
        return True

    def within(self, sim: SimNode, name: str) -> None:
        """The same from within the node: what it was doing ends here if it dies."""
        if self.reach(sim, name):
            raise PowerCut

    # ---- where they are -----------------------------------------------------------------------------------------------

    def around(self, sim: SimNode, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """The function, between the places before and after it."""
        before, after = f"before {name}", f"after {name}"

        def passed(*args: Any) -> Any:
            self.within(sim, before)
            result = function(*args)
            self.within(sim, after)
            return result

        return passed

    def watch_disk(self, sim: SimNode) -> None:
        """Each operation of a node's disk that changes something."""
        disk: Any = sim.disk
        for operation in ("preallocate", "write", "sync", "rename", "remove"):
            setattr(disk, operation, partial(self._on_disk, sim, operation, getattr(disk, operation)))
        disk.sync_directory = self.around(sim, "sync_directory", disk.sync_directory)

    def _on_disk(self, sim: SimNode, operation: str, function: Callable[..., Any], file: str, *args: Any) -> Any:
        kind = file if file == "log-spare" else file.split("-")[0]
        return self.around(sim, f"{operation} {kind}", function)(file, *args)

    def watch_store(self, sim: SimNode) -> None:
        """Its store's transactions."""
        store: Any = sim.store
        store.commit = self.around(sim, "store commit", store.commit)
        store.replace = self.around(sim, "store replacement", store.replace)

    def watch_log(self, sim: SimNode, node: Node) -> None:
        """What a node makes durable."""
        log: Any = node.log
        write = log.write

        def passed(records: Sequence[Record]) -> None:
            kinds = dict.fromkeys(map(_kind_of, records))
            for kind in kinds:
                self.within(sim, f"before logging of {kind}")
            write(records)
            for kind in kinds:
                self.within(sim, f"after logging of {kind}")

        log.write, log.cut = passed, self.around(sim, "cut of the log", log.cut)

    def watch_replica(self, sim: SimNode, replica: Replica) -> None:
        """Its entries, flushes, installations and roles."""
        machine: Any = replica.machine
        watched: Any = replica
        apply, ready, role = machine.apply, replica.ready, replica.raft.role

        def apply_within(entry: Entry) -> Any:
            operation = replication_pb2.Command.FromString(entry.data).WhichOneof("operation")
            return self.around(sim, f"apply of {operation}", apply)(entry)

        def ready_within(now: float) -> Any:
            nonlocal role
            due = ready(now)
            before, role = role, replica.raft.role
            if role is not before:
                if role is Role.LEADER:
                    self.within(sim, "becomes leader")
                elif before is Role.LEADER:
                    self.within(sim, "steps down")
                elif role is not Role.FOLLOWER:
                    self.within(sim, "becomes candidate")
            return due

        machine.apply = apply_within
        watched.ready = ready_within
        watched.before_freeze = self.around(sim, "freezing", replica.before_freeze)
        watched.on_flushed = self.around(sim, "flush's end", replica.on_flushed)
        watched.on_snapshot_installed = self.around(sim, "snapshot's takeover", replica.on_snapshot_installed)
        machine.reload = self.around(sim, "reload", machine.reload)


def _kind_of(record: Record) -> str:
    if type(record) is EntryRecord:
        return "snapshot mark" if record.kind == SNAPSHOT_MARK else "entry"
    if type(record) is HardStateRecord:
        return "hard state"
    if type(record) is EventualRecord:
        return "eventual write"
    return NODE_RECORDS.get(record.kind, "failure event")


def name_of_message(kind: type, data: bytes, *, forwarded: bool) -> str:
    """What a request is called in the names of places."""
    name = kind.__name__.removesuffix("Request")
    if name == "Append" and any(append.entries for append in replication_pb2.AppendRequest.FromString(data).appends):
        return "Append of entries"
    return f"forwarded {name}" if forwarded else name


def table(reached: Counter[str], deaths: Counter[str]) -> str:
    """How often each place was reached, and how often somebody died there."""
    width = max(map(len, PLACES))
    lines = [f"{'place':<{width}} {'reached':>9} {'deaths':>7}"]
    lines += [f"{name:<{width}} {reached[name]:>9} {deaths[name]:>7}" for name in PLACES]
    return "\n".join(lines)
