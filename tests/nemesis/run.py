"""Real nodes under random faults: `python -m tests.nemesis.run --minutes 2 --seed 7`.

Owns a run: a cluster in a directory, clients of all workloads, the nemesis; then all is healed, every shard must take a strong
write within a bound, and what the clients saw is judged. Exit code 0: nothing is broken; 1: something is; 2: wrong arguments.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import shutil
import signal
import sys
import time
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import kvclient
from kvclient.hashing import shard_of
from kvclient.transport import insecure_channel
from kvctl.playground import Playground
from tests.integration import harness

from .check import verdict
from .faults import FAULTS, INJECTED_FAULTS, Board
from .judge import WORKLOADS, judge
from .nemesis import execute, heal_all, schedule
from .record import History, Recorder
from .summary import progress
from .workload import Client, Failure, Pinned, Workload, pinned

PROGRESS_S_MAX = 30.0
"""After all is healed: until every shard has taken a strong write. Elections take a few seconds, recovery and a push too."""
AGREEMENT_S_MAX = 45.0
CLOSING_S_MAX = 30.0
"""For the clients' last operations, whose time-outs are far below."""
NODES_MAX = 5
INJECTED_KINDS = [fault.kind for fault in INJECTED_FAULTS]


@dataclass(frozen=True)
class Plan:
    """What to run."""

    seconds: float
    seed: str
    directory: Path
    nodes: int = 3
    shards: int = 4
    faults: Sequence[str] = tuple(FAULTS)
    workloads: Sequence[str] = tuple(WORKLOADS)
    report_every_s: float = 10.0
    settings: dict[str, Any] = field(default_factory=dict)

    @property
    def history_path(self) -> Path:
        """Where the history goes."""
        return self.directory / "history.jsonl"


async def run(plan: Plan) -> tuple[History, list[Failure]]:
    """A whole run, and its verdict. The nodes are gone afterwards, also when it fails; their files stay."""
    plan.directory.mkdir(parents=True, exist_ok=True)
    settings: dict[str, Any] = {**harness.SMALL_STORAGE, "storage.flush_interval_s": 3.0, **plan.settings}
    if any(kind in plan.faults for kind in INJECTED_KINDS):
        settings["faults.enabled"] = True
    made = harness.create(plan.directory / "cluster", plan.nodes, plan.shards, settings)
    header = {
        "seed": plan.seed, "seconds": plan.seconds, "nodes": plan.nodes, "shards": plan.shards,
        "workloads": list(plan.workloads), "faults": list(plan.faults), "transport": harness.TRANSPORT,
    }  # fmt: skip
    try:
        await asyncio.to_thread(made.up)
        with plan.history_path.open("w") as file:
            recorder = Recorder(file, header)
            try:
                await _Run(plan, made, recorder).whole()
            finally:
                recorder.end()
    finally:
        await asyncio.to_thread(made.down, timeout_s=10)
    return recorder.history, await asyncio.to_thread(judge, recorder.history)


class _Run:
    """The phases."""

    def __init__(self, plan: Plan, made: Playground, recorder: Recorder) -> None:
        self.plan, self.made, self.recorder = plan, made, recorder
        self.workloads: list[Workload] = [WORKLOADS[name](recorder) for name in plan.workloads]
        self.board = Board(made, recorder)

    async def whole(self) -> None:
        """All of them."""
        over = asyncio.Event()
        async with AsyncExitStack() as stack:
            stack.callback(self.board.close)
            clients = {one.name: [await self._client(stack, one, n) for n in range(one.clients)] for one in self.workloads}
            nodes = [await self._pinned(stack, name, address) for name, address in self.board.addresses.items()]
            for one in self.workloads:
                one.nodes = nodes
            tasks = [asyncio.create_task(one.run(c, over)) for one in self.workloads for c in clients[one.name]]
            tasks += [
                asyncio.create_task(one.run_pinned(node, random.Random(f"{self.plan.seed}/{one.name} at {node.name}"), over))
                for one in self.workloads
                for node in nodes
                if one.reads_at_nodes
            ]
            helpers = [asyncio.create_task(self._report(over)), asyncio.create_task(self.board.watch(over))]
            try:
                await self._faults(tasks + helpers)
                await heal_all(self.board)
                await self._demand_progress(clients)
                over.set()
                await asyncio.wait_for(asyncio.gather(*tasks, *helpers), CLOSING_S_MAX)
            finally:
                over.set()
                for task in (*tasks, *helpers):
                    task.cancel()
                await asyncio.gather(*tasks, *helpers, return_exceptions=True)
            for one in self.workloads:
                await one.learn_fates(clients[one.name][0])
            # (One node tells a fate before another has applied it; and of a write whose outcome nobody knows no fate is asked.)
            await self._agree()
            for one in self.workloads:
                await one.finish(clients[one.name][0])

    async def _client(self, stack: AsyncExitStack, workload: Workload, number: int) -> Client:
        name = f"{workload.name}-{number}"
        kv = await stack.enter_async_context(harness.connect(self.made))
        return Client(name, kv, random.Random(f"{self.plan.seed}/{name}"))

    async def _pinned(self, stack: AsyncExitStack, name: str, address: str) -> Pinned:
        options = [("grpc.enable_http_proxy", 0), ("grpc.max_reconnect_backoff_ms", 500)]
        return pinned(name, await stack.enter_async_context(insecure_channel(harness.TRANSPORT, address, options)))

    async def _faults(self, tasks: Sequence[asyncio.Task[None]]) -> None:
        """The nemesis, for as long as planned; a client that fails ends it at once: it is the harness that is broken then."""
        over = asyncio.Event()
        planned = schedule(self.plan.seed, self.plan.seconds, list(self.board.addresses), list(self.plan.faults))
        nemesis = asyncio.create_task(execute(self.board, planned, over))
        try:
            waiting = asyncio.create_task(asyncio.sleep(self.plan.seconds - self.recorder.now()))
            await asyncio.wait((waiting, *tasks), return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            over.set()
            await nemesis
        finally:
            over.set()
            if not nemesis.done():
                nemesis.cancel()
                await asyncio.gather(nemesis, return_exceptions=True)
        for task in tasks:
            if task.done():
                task.result()
                raise RuntimeError(f"{task} ended before the run did")

    async def _report(self, over: asyncio.Event) -> None:
        while not over.is_set():
            try:
                await asyncio.wait_for(over.wait(), self.plan.report_every_s)
            except TimeoutError:
                print(progress(self.recorder.history, self.recorder.now()), flush=True)

    async def _demand_progress(self, clients: dict[str, list[Client]]) -> None:
        """Every shard takes a strong write."""
        kv = next(iter(clients.values()))[0].kv
        began = time.monotonic()

        async def one(shard: int) -> None:
            key = next(key for n in range(10_000) if shard_of(key := b"progress/%d" % n, self.plan.shards) == shard)
            last: kvclient.KvError | None = None
            while time.monotonic() - began < PROGRESS_S_MAX:
                try:
                    await kv.put(key, "x", timeout=5)
                    return
                except kvclient.KvError as error:
                    last = error
                    await asyncio.sleep(0.05)
            self.recorder.finding(f"shard {shard} took no strong write for {PROGRESS_S_MAX:.0f} s after all was healed: {last}")

        await asyncio.gather(*map(one, range(self.plan.shards)))
        seconds = time.monotonic() - began
        self.recorder.fault("heal", -1, "note", [], f"every shard takes strong writes {seconds:.1f} s after all was healed")

    async def _agree(self) -> None:
        """All replicas have applied the same, and are the same, and nothing waits for its place in the log."""
        began = time.monotonic()
        try:
            await asyncio.to_thread(harness.await_agreement, self.made, AGREEMENT_S_MAX)
        except AssertionError as error:
            self.recorder.finding(f"replicas do not agree: {error}")
        else:
            self.recorder.fault("heal", -1, "note", [], f"all replicas agree after {time.monotonic() - began:.1f} s")


def _names(known: Sequence[str], what: str) -> Any:
    def parse(text: str) -> list[str]:
        names = [name.strip() for name in text.split(",") if name.strip()]
        if wrong := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {what} {', '.join(wrong)}; there are {', '.join(known)}")
        return names

    return parse


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis.run", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long faults go on; judging comes on top")
    parser.add_argument("--seed", default="", help="decides the choices of nemesis and clients; default: another one each time")
    parser.add_argument("--nodes", type=int, default=3, choices=range(3, NODES_MAX + 1))
    parser.add_argument("--shards", type=int, default=4)
    kinds = _names(list(FAULTS), "fault")
    parser.add_argument("--faults", type=kinds, default=list(FAULTS), help=f"of {','.join(FAULTS)}; empty: none")
    workloads = _names(list(WORKLOADS), "workload")
    parser.add_argument("--workloads", type=workloads, default=list(WORKLOADS), help=f"of {','.join(WORKLOADS)}")
    parser.add_argument("--out", type=Path, help="directory for history and nodes; default: build/nemesis/SEED")
    parser.add_argument("--keep", action="store_true", help="keep the nodes' data and logs also where nothing is broken")
    parser.add_argument("--plan", action="store_true", help="only print the schedule of faults")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line."""
    given = _arguments(arguments)
    seed = given.seed or f"{random.randrange(1 << 32)}"
    directory = given.out or Path("build/nemesis") / seed
    if given.plan:
        for plan in schedule(seed, given.minutes * 60, [f"n{n + 1}" for n in range(given.nodes)], given.faults):
            fault = plan.fault
            nodes, facts = ",".join(fault.nodes), fault.facts or ""
            print(f"{plan.at_s:7.1f} s  {fault.kind:<14} {nodes:<9} {fault.duration_s:4.1f} s  {facts}")
        return 0
    if (directory / "cluster").exists():
        print(f"{directory} holds an earlier run: remove it, or name another directory with --out", file=sys.stderr)
        return 2
    plan = Plan(given.minutes * 60, seed, directory, given.nodes, given.shards, given.faults, given.workloads)
    print(f"seed {seed}: {given.nodes} nodes, {given.shards} shards, {given.minutes:g} minutes; files: {directory}")
    print("of each workload: answered / failed / unknown", flush=True)
    history, failures = asyncio.run(_until_signal(plan))
    places = f"history: {plan.history_path}"
    if failures or given.keep:
        places += f"; the nodes' logs: {directory}/cluster/*/log.jsonl"
    else:
        shutil.rmtree(directory / "cluster")
    print(verdict(history, failures, places))
    return 1 if failures else 0


async def _until_signal(plan: Plan) -> tuple[History, list[Failure]]:
    """SIGTERM ends a run as Ctrl-C does: the nodes are stopped."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await run(plan)


if __name__ == "__main__":
    sys.exit(main())
