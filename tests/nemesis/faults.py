"""What the nemesis can do to nodes: to processes by signals, to network, disks and clocks by the nodes' own fault service.

Owns one class for each kind of fault: what it draws from the seed, how it begins and how it ends. Never decides when.

Invariants: a process fault holds its nodes' locks from its beginning to its end, so that nobody else starts or ends them
meanwhile; every fault ends by itself within its duration, an injected one also where its end cannot be delivered.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

from kvapi.v1 import fault_pb2
from kvctl import faults
from kvctl.failures import Failure
from kvctl.playground import Playground, PlaygroundError
from kvctl.probe import ClusterProbe

from .record import Recorder

STOPPING_S = 1.5
"""For a node whose disk failed to come to its end."""


class Board:
    """The nodes, as the faults see them."""

    def __init__(self, playground: Playground, recorder: Recorder) -> None:
        self.playground, self.recorder = playground, recorder
        self.addresses: Mapping[str, str] = {node.name: node.address for node in playground.nodes}
        self.locks = {name: asyncio.Lock() for name in self.addresses}
        self._client = faults.FaultClient(timeout_s=2.0)

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    async def inject(self, name: str, fault: fault_pb2.InjectedFault, for_s: float) -> str:
        """Begin a fault of one node: its id; empty: the node could not be asked."""
        try:
            return (await asyncio.to_thread(self._client.inject, self.addresses[name], fault, for_s)).id
        except Failure:
            return ""

    async def heal(self, name: str, fault_id: str = "") -> None:
        """End one fault of a node, or all; where it cannot be asked it forgets them by itself."""
        try:
            await asyncio.to_thread(self._client.heal, self.addresses[name], fault_id)
        except Failure:
            pass

    async def leader(self, shard: int) -> str:
        """Who leads a shard, as most nodes say; empty: nobody says."""

        def ask() -> str:
            with ClusterProbe(self.addresses) as probe:
                views = probe.topology(self.addresses, timeout_s=0.5)
            named = [view.shards[shard].leader for view in views.values() if view.shards[shard].leader]
            return max(named, key=named.count) if named else ""

        return await asyncio.to_thread(ask)

    async def start(self, name: str) -> None:
        """Start a node; that it does not come up is a finding."""
        try:
            await asyncio.to_thread(self.playground.start, name)
        except PlaygroundError as error:
            self.recorder.finding(f"{name} does not start: {error}\n{error.log_tail}")

    async def watch(self, over: asyncio.Event) -> None:
        """A node that ends though nobody ended it is a finding."""
        while not over.is_set():
            for name, lock in self.locks.items():
                if lock.locked():
                    continue
                async with lock:
                    if self.playground.node(name).state == "died":
                        words = self.playground.log_tail(name, 8)
                        self.recorder.finding(f"{name} died by itself; the end of its log:\n{words}")
                        await self.start(name)
            await asyncio.sleep(0.5)


@dataclass
class Fault:
    """One occurrence of a fault."""

    kind: ClassVar[str]
    nodes: list[str]
    duration_s: float
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Whom it hits, and for how long: from the seed alone."""
        raise NotImplementedError

    async def run(self, board: Board, number: int) -> None:
        """From its beginning to its end."""
        raise NotImplementedError

    def _begins(self, board: Board, number: int) -> None:
        board.recorder.fault(self.kind, number, "begin", self.nodes, _words(self.facts))

    def _ends(self, board: Board, number: int) -> None:
        board.recorder.fault(self.kind, number, "end", self.nodes)


def _words(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in facts.items())


def minority(names: Sequence[str]) -> int:
    """How many nodes may be gone while a majority of every shard's replicas is there."""
    return (min(len(names), 3) - 1) // 2 if len(names) < 5 else 2


# --- processes ---------------------------------------------------------------------------------------------------------


class ProcessFault(Fault):
    """Its nodes are this fault's own until it ends."""

    async def run(self, board: Board, number: int) -> None:
        """Waits for whoever else has one of its nodes."""
        async with AsyncExitStack() as stack:
            for name in sorted(self.nodes):
                await stack.enter_async_context(board.locks[name])
            self._begins(board, number)
            try:
                await self.strike(board)
                await asyncio.sleep(self.duration_s)
            finally:
                await self.mend(board)
                self._ends(board, number)

    async def strike(self, board: Board) -> None:
        """What happens."""
        raise NotImplementedError

    async def mend(self, board: Board) -> None:
        """Start them again."""
        await asyncio.gather(*map(board.start, self.nodes))


class Kill(ProcessFault):
    """`kill -9` of one node."""

    kind: ClassVar[str] = "kill"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Dead for a moment, or for longer than a leader's election takes."""
        return cls([rng.choice(names)], rng.choice((0.0, rng.uniform(0.0, 1.0), rng.uniform(1.0, 6.0))))

    async def strike(self, board: Board) -> None:
        """All of them at once."""
        await asyncio.to_thread(board.playground.kill_all, self.nodes)


class KillMinority(Kill):
    """`kill -9` of as many nodes as may be gone, at once."""

    kind: ClassVar[str] = "kill-minority"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Of three nodes this is one."""
        return cls(rng.sample(list(names), minority(names)), rng.uniform(0.0, 6.0))


class KillAll(Kill):
    """`kill -9` of all nodes at once."""

    kind: ClassVar[str] = "kill-all"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """They start together again."""
        return cls(list(names), rng.uniform(0.0, 1.5))


class Pause(ProcessFault):
    """SIGSTOP, later SIGCONT: the node keeps its connections and its leases, and knows nothing of the time between."""

    kind: ClassVar[str] = "pause"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Shorter and longer than elections and time-outs."""
        return cls([rng.choice(names)], rng.choice((rng.uniform(0.1, 1.0), rng.uniform(1.0, 6.0))))

    async def strike(self, board: Board) -> None:
        """Stop."""
        await asyncio.to_thread(board.playground.pause, self.nodes[0])

    async def mend(self, board: Board) -> None:
        """Go on."""
        await asyncio.to_thread(board.playground.resume, self.nodes[0])


class Restart(ProcessFault):
    """SIGTERM, and a start: a node that does not end within the time it is given is a finding."""

    kind: ClassVar[str] = "restart"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Down for a moment."""
        return cls([rng.choice(names)], rng.uniform(0.0, 2.0))

    async def strike(self, board: Board) -> None:
        """Stop gracefully."""
        try:
            await asyncio.to_thread(board.playground.stop_all, self.nodes)
        except PlaygroundError as error:
            board.recorder.finding(f"SIGTERM does not end a node: {error}\n{error.log_tail}")
            await asyncio.to_thread(board.playground.kill_all, self.nodes)


class DiskFail(ProcessFault):
    """The next sync of the log fails: the node must stop by itself, and is started again."""

    kind: ClassVar[str] = "disk-fail"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """There are writes all the time, so the next sync is soon."""
        return cls([rng.choice(names)], rng.uniform(1.0, 3.0))

    async def strike(self, board: Board) -> None:
        """Break the disk."""
        await board.inject(self.nodes[0], faults.disk_fault(fail=True), self.duration_s + 1.0)

    async def mend(self, board: Board) -> None:
        """A node that survived (it synced nothing) loses the fault; one that stopped starts again."""
        await board.heal(self.nodes[0])
        await asyncio.sleep(STOPPING_S)
        await board.start(self.nodes[0])


# --- network, disk, clock ----------------------------------------------------------------------------------------------


class InjectedFault(Fault):
    """Faults that nodes inject into themselves; a restart of the node ends them, too."""

    async def run(self, board: Board, number: int) -> None:
        """Inject everywhere at once, wait, heal."""
        wanted = await self.injections(board)
        self._begins(board, number)
        for_s = self.duration_s + 2.0
        ids = await asyncio.gather(*(board.inject(name, fault, for_s) for name, fault in wanted))
        if unreached := sorted({name for (name, _), one in zip(wanted, ids, strict=True) if not one}):
            board.recorder.fault(self.kind, number, "note", unreached, "could not be asked: the fault is not there")
        try:
            await asyncio.sleep(self.duration_s)
        finally:
            await asyncio.gather(*(board.heal(name, one) for (name, _), one in zip(wanted, ids, strict=True) if one))
            self._ends(board, number)

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """(node, fault) for each one."""
        raise NotImplementedError


def _cuts(left: Iterable[str], right: Iterable[str]) -> list[tuple[str, fault_pb2.InjectedFault]]:
    """Nothing passes between the two sides: both ends of each link are cut, so that forwarded requests are, too."""
    right = list(right)
    return [pair for a in left for b in right for pair in ((a, faults.cut(b)), (b, faults.cut(a)))]


class Partition(InjectedFault):
    """Two sides that do not hear each other."""

    kind: ClassVar[str] = "partition"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """`nodes` are the smaller side."""
        side = rng.sample(list(names), rng.randint(1, len(names) // 2))
        return cls(sorted(side), rng.uniform(1.0, 8.0))

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """Every link between the sides."""
        return _cuts(self.nodes, [name for name in board.addresses if name not in self.nodes])


class IsolateLeader(Partition):
    """A shard's leader hears nobody. Who that is the seed does not know."""

    kind: ClassVar[str] = "isolate-leader"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """A shard, and a node in case that it has no leader."""
        return cls([rng.choice(names)], rng.uniform(2.0, 8.0), {"shard": rng.randrange(1 << 16)})

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """The leader is looked up now."""
        self.facts["shard"] %= board.playground.shards
        self.nodes = [await board.leader(self.facts["shard"]) or self.nodes[0]]
        return await super().injections(board)


class OneWay(InjectedFault):
    """One node's messages to another get lost; the other's arrive."""

    kind: ClassVar[str] = "one-way"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """From the first to the second."""
        return cls(rng.sample(list(names), 2), rng.uniform(1.0, 8.0))

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """Cut where they leave."""
        return [(self.nodes[0], faults.cut(self.nodes[1], direction="out"))]


class Bridge(InjectedFault):
    """Two sides that do not hear each other, and one node that hears both."""

    kind: ClassVar[str] = "bridge"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """`nodes` begins with the bridge; then come the left side and the right one."""
        order = rng.sample(list(names), len(names))
        return cls(order, rng.uniform(1.0, 8.0), {"bridge": order[0]})

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """Every link between the sides."""
        others = self.nodes[1:]
        return _cuts(others[: len(others) // 2], others[len(others) // 2 :])


class BadLinks(InjectedFault):
    """One node's links are slow, and lose some."""

    kind: ClassVar[str] = "links"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Slow, lossy, or both."""
        facts = {"loss": rng.choice((0.0, 0.05, 0.3)), "delay_ms": rng.choice((5, 50, 300)), "jitter_ms": rng.choice((0, 100))}
        return cls([rng.choice(names)], rng.uniform(1.0, 8.0), facts)

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """To and from all peers."""
        return [(self.nodes[0], faults.link_fault(**self.facts))]


class DiskFull(InjectedFault):
    """Nothing can be reserved on the log's disk."""

    kind: ClassVar[str] = "disk-full"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """One node's."""
        return cls([rng.choice(names)], rng.uniform(1.0, 6.0))

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """Full."""
        return [(self.nodes[0], faults.disk_fault(full=True))]


class DiskSlow(InjectedFault):
    """Writes and syncs of the log take longer."""

    kind: ClassVar[str] = "disk-slow"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """From a tired disk to one that hangs."""
        return cls([rng.choice(names)], rng.uniform(1.0, 6.0), {"delay_ms": rng.choice((5, 50, 500, 2000))})

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """Slow."""
        return [(self.nodes[0], faults.disk_fault(delay_ms=self.facts["delay_ms"]))]


class Clock(InjectedFault):
    """One node's wall clock is wrong."""

    kind: ClassVar[str] = "clock"

    @classmethod
    def draw(cls, rng: random.Random, names: Sequence[str]) -> Self:
        """Within what is tolerated, beyond it, or at another speed."""
        offset_ms = rng.choice((-60_000, -2_000, -300, 300, 2_000, 60_000, 0))
        return cls([rng.choice(names)], rng.uniform(1.0, 8.0), {"offset_ms": offset_ms, "rate": rng.choice((0.9, 1.0, 1.1))})

    async def injections(self, board: Board) -> list[tuple[str, fault_pb2.InjectedFault]]:
        """Wrong."""
        return [(self.nodes[0], faults.clock_fault(**self.facts))]


PROCESS_FAULTS: tuple[type[Fault], ...] = (Kill, KillMinority, KillAll, Pause, Restart)
INJECTED_FAULTS: tuple[type[Fault], ...] = (
    Partition, IsolateLeader, OneWay, Bridge, BadLinks, DiskFull, DiskSlow, DiskFail, Clock
)  # fmt: skip
FAULTS: dict[str, type[Fault]] = {one.kind: one for one in (*PROCESS_FAULTS, *INJECTED_FAULTS)}
WEIGHTS = {"kill": 3, "pause": 3, "partition": 3, "isolate-leader": 2}
"""How often a kind is drawn; the others: 1."""
