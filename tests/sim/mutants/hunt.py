"""Runs seeds until each mutant is caught, the easy ones first: round after round, a few seeds for every one that lives.

Owns: whose turn it is, the worker processes, and when a mutant counts as caught: the same seed must pass without it.
Never: imports the product.
"""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
import time
from asyncio.subprocess import PIPE, Process
from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from . import judge
from .kept import Seed
from .mutant import ROOT, Mutant

SEEDS_A_TURN = 4
"""At most, and fewer in the first turns. A worker's start costs as much as a part of a seed: a few seeds share it."""
SEED_TIMEOUT_S = 300.0
"""A mutant that hangs is no catch: nobody waits for ever."""
LINE_MAX = 1 << 22


@dataclass
class Quarry:
    """One mutant, and what has been found out about it."""

    mutant: Mutant
    kept: Seed | None
    tried: int = 0
    seconds: float = 0.0
    caught: Seed | None = None
    rule: str = ""
    notes: list[str] = field(default_factory=list)
    """Runs that were worth nothing, and why."""

    @property
    def by_kept_seed(self) -> bool:
        """Whether the first try was enough."""
        return self.caught is not None and self.caught == self.kept

    def seed(self, first: int) -> Seed:
        """The next to try."""
        if self.kept is not None and self.tried == 0:
            return self.kept
        number = self.tried - (self.kept is not None)
        scenarios = self.mutant.scenarios
        return Seed(scenarios[number % len(scenarios)], str(first + number))


class Hunt:
    """All of them."""

    def __init__(self, mutants: Sequence[Mutant], kept: dict[str, Seed], *, seeds: int, first: int) -> None:
        self.quarries = [Quarry(mutant, kept.get(mutant.name)) for mutant in mutants]
        self._seeds, self._first = seeds, first
        self._waiting = deque(self.quarries)
        self._running = 0
        self._started = time.perf_counter()
        self._healthy: dict[Seed, bool] = {}

    async def run(self, jobs: int) -> None:
        """Until all are caught, or have had their seeds."""
        await asyncio.gather(*(self._job() for _ in range(jobs)))

    async def _job(self) -> None:
        while self._waiting or self._running:
            if not self._waiting:
                await asyncio.sleep(0.1)
                continue
            quarry = self._waiting.popleft()
            self._running += 1
            try:
                await self._turn(quarry)
            finally:
                self._running -= 1
            if quarry.caught is None and quarry.tried < self._seeds:
                self._waiting.append(quarry)
            self._show(quarry)

    async def _turn(self, quarry: Quarry) -> None:
        started = time.perf_counter()
        async with _worker(quarry.mutant.name) as worker:
            for _ in range(min(SEEDS_A_TURN, quarry.tried + 1, self._seeds - quarry.tried)):
                seed = quarry.seed(self._first)
                quarry.tried += 1
                answer = await _simulate(worker, seed)
                if answer is None:
                    quarry.notes.append(f"{seed.scenario} {seed.number}: the run did not end, or its process did")
                    break
                violations = [(rule, message) for rule, message in answer["violations"]]
                if nonsense := judge.doubtful(violations):
                    quarry.notes.append(f"{seed.scenario} {seed.number}: {nonsense[:600]}")
                rule = judge.caught_by(violations)
                if rule and await self._passes_without(seed):
                    quarry.caught, quarry.rule = seed, rule
                    break
                if rule:
                    quarry.notes.append(f"{seed.scenario} {seed.number}: fails without the mutant, too")
        quarry.seconds += time.perf_counter() - started

    async def _passes_without(self, seed: Seed) -> bool:
        if seed not in self._healthy:
            async with _worker("-") as worker:
                answer = await _simulate(worker, seed)
            self._healthy[seed] = answer is not None and not answer["violations"]
        return self._healthy[seed]

    def _show(self, quarry: Quarry) -> None:
        caught = sum(one.caught is not None for one in self.quarries)
        seconds = time.perf_counter() - self._started
        what = f"caught after {quarry.tried}: {quarry.rule}" if quarry.caught else f"lives after {quarry.tried}"
        print(f"{seconds:7.0f} s  {caught} of {len(self.quarries)} caught  {quarry.mutant.name} {what}", file=sys.stderr)


@asynccontextmanager
async def _worker(name: str) -> AsyncIterator[Process]:
    # (What is torn down in the middle of a run complains a lot: it is read only when the worker dies.)
    with tempfile.TemporaryFile() as complaints:
        worker = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "tests.sim.mutants.worker",
            name,
            stdin=PIPE,
            stdout=PIPE,
            stderr=complaints,
            cwd=ROOT,
            limit=LINE_MAX,
        )
        try:
            yield worker
            if worker.returncode:
                complaints.seek(0)
                print(f"{name}: {complaints.read()[-2000:].decode(errors='replace')}", file=sys.stderr)
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()


async def _simulate(worker: Process, seed: Seed) -> dict[str, Any] | None:
    """What the worker found; None: it hangs, or has died."""
    assert worker.stdin is not None and worker.stdout is not None
    try:
        worker.stdin.write(f"{seed.scenario} {seed.number}\n".encode())
        await worker.stdin.drain()
        line = await asyncio.wait_for(worker.stdout.readline(), SEED_TIMEOUT_S)
        if not line:
            await worker.wait()
    except (TimeoutError, ConnectionError):
        return None
    answer: dict[str, Any] | None = json.loads(line) if line else None
    return answer
