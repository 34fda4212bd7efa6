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
from asyncio.subprocess import PIPE
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, field

from . import judge
from .kept import Seed
from .mutant import ROOT, Mutant

SEEDS_A_TURN = 4
"""At most, and fewer in the first turns. A worker's start costs as much as a part of a seed: a few seeds share it."""
SEED_TIMEOUT_S = 300.0
"""A mutant that hangs is no catch: nobody waits for ever."""
LINE_MAX = 1 << 22
UNCHANGED = "-"
"""The worker's name for the product as it is."""

Ask = Callable[[Seed], Awaitable[list[judge.Found] | None]]
"""What a run found; None: it hangs, or its process has died."""
Workers = Callable[[str], AbstractAsyncContextManager[Ask]]
"""By the name of the mutant."""


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

    def __init__(
        self, mutants: Sequence[Mutant], kept: Mapping[str, Seed], *, seeds: int, first: int, workers: Workers | None = None
    ) -> None:
        """`seeds` for each at most, numbered from `first` on. `workers` runs them: processes, but for tests."""
        self.quarries = [Quarry(mutant, kept.get(mutant.name)) for mutant in mutants]
        self._seeds, self._first, self._open = seeds, first, workers or process
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
        async with self._open(quarry.mutant.name) as ask:
            for _ in range(min(SEEDS_A_TURN, quarry.tried + 1, self._seeds - quarry.tried)):
                seed = quarry.seed(self._first)
                quarry.tried += 1
                violations = await ask(seed)
                if violations is None:
                    quarry.notes.append(f"{seed.scenario} {seed.number}: the run did not end, or its process did")
                    break
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
            async with self._open(UNCHANGED) as ask:
                self._healthy[seed] = await ask(seed) == []
        return self._healthy[seed]

    def _show(self, quarry: Quarry) -> None:
        caught = sum(one.caught is not None for one in self.quarries)
        seconds = time.perf_counter() - self._started
        what = f"caught after {quarry.tried}: {quarry.rule}" if quarry.caught else f"lives after {quarry.tried}"
        print(f"{seconds:7.0f} s  {caught} of {len(self.quarries)} caught  {quarry.mutant.name} {what}", file=sys.stderr)


@asynccontextmanager
async def process(name: str) -> AsyncIterator[Ask]:
    """A worker process with the mutant, or without any: `-`."""
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
        assert worker.stdin is not None
        assert worker.stdout is not None
        to_worker, from_worker = worker.stdin, worker.stdout

        async def ask(seed: Seed) -> list[judge.Found] | None:
            try:
                to_worker.write(f"{seed.scenario} {seed.number}\n".encode())
                await to_worker.drain()
                line = await asyncio.wait_for(from_worker.readline(), SEED_TIMEOUT_S)
            except (TimeoutError, ConnectionError):
                return None
            return [(rule, message) for rule, message in json.loads(line)["violations"]] if line else None

        try:
            yield ask
            if from_worker.at_eof():
                await worker.wait()
                complaints.seek(0)
                print(f"{name}: {complaints.read()[-2000:].decode(errors='replace')}", file=sys.stderr)
        finally:
            if worker.returncode is None:
                worker.kill()
            await worker.wait()
