"""Runs seeds, and tells what was run: `python -m tests.sim.run --seeds 100`; one again: `--scenario mixed --seed 42`.

Owns: which seeds, on how many cores, for how long; the progress line, the summary, the report of a failure. Never: judges a
run (`simulation` does), except that one in twenty runs again in another process, under another PYTHONHASHSEED, and must be the
same.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
import os
import secrets
import subprocess
import sys
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from .faults import SCENARIOS
from .history import Violation
from .minimise import minimise
from .places import PLACES, table, unlisted
from .simulation import Result, simulate
from .trace import window

ROOT = Path(__file__).parents[2]
RECHECKED_OF = 20
"""One run of so many is run twice."""
PROGRESS_S = 10.0
NEVER_SHOWN_MAX = 20
"""Names of places that nobody came to, in the summary."""


@dataclass
class Total:
    """All runs together."""

    runs: int = 0
    failed: list[Result] = field(default_factory=list)
    rechecked: int = 0
    simulated_s: float = 0.0
    operations: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    counts: Counter[str] = field(default_factory=Counter)
    places: Counter[str] = field(default_factory=Counter)
    deaths: Counter[str] = field(default_factory=Counter)
    started: float = field(default_factory=time.perf_counter)
    replayed_s: float = 0.0
    """Of runs that were added after they had ended."""

    def add(self, result: Result) -> None:
        """One more."""
        self.runs += 1
        self.rechecked += is_rechecked(result.seed, result.scenario)
        self.simulated_s += result.simulated_s
        for mine, other in (
            (self.operations, result.operations),
            (self.faults, result.faults),
            (self.counts, result.counts),
            (self.places, result.places),
            (self.deaths, result.deaths),
        ):
            mine.update(other)
        if not result.ok:
            self.failed.append(result)

    def progress(self) -> str:
        """In a line."""
        real = time.perf_counter() - self.started + self.replayed_s
        return (
            f"{self.runs} seeds, {len(self.failed)} failed; {self.simulated_s:,.0f} s simulated in {real:,.0f} s "
            f"({self.simulated_s / max(real, 1e-9):.1f}x); {sum(self.operations.values()):,} operations, "
            f"{sum(self.faults.values()):,} faults; died at {sum(map(bool, self.deaths.values()))} of {len(PLACES)} places"
        )

    def summary(self) -> str:
        """In some lines."""
        never = [name for name in PLACES if not self.places[name]]
        some = f", and {len(never) - NEVER_SHOWN_MAX} more (--places shows all)" if len(never) > NEVER_SHOWN_MAX else ""
        nameless = unlisted(self.places)
        lines = [
            self.progress(),
            f"run twice: {self.rechecked}",
            f"operations: {_show(self.operations)}",
            f"faults: {_show(self.faults)}",
            f"events: {_show(self.counts)}",
            f"places never reached: {', '.join(never[:NEVER_SHOWN_MAX]) or 'none'}{some}",
        ]
        return "\n".join([*lines, f"places without a name in the list: {', '.join(nameless)}"] if nameless else lines)


def _show(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in counter.most_common()) or "none"


def is_rechecked(seed: str, scenario: str) -> bool:
    """Whether a run is run twice."""
    return zlib.crc32(f"{scenario}/{seed}".encode()) % RECHECKED_OF == 0


def hash_elsewhere(seed: str, scenario: str, hash_seed: int) -> str:
    """The trace's hash of a run in a process of its own, where sets have another order."""
    code = f"from tests.sim.simulation import simulate; print(simulate({seed!r}, {scenario!r}).trace_hash)"
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(hash_seed),
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")]),
    }
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return there.stdout.strip()


def run_one(task: tuple[str, str]) -> Result:
    """A run; one in twenty twice."""
    scenario, seed = task
    result = simulate(seed, scenario)
    if is_rechecked(seed, scenario):
        other = hash_elsewhere(seed, scenario, zlib.crc32(seed.encode()))
        if other != result.trace_hash:
            message = f"trace {result.trace_hash} here, {other} in another process under another PYTHONHASHSEED"
            result.violations.append(Violation("one seed decides all", message))
    return result


def command(result: Result) -> str:
    """What replays a run."""
    without = f" WITHOUT='{','.join(result.without)}'" if result.without else ""
    return f"make sim-replay SCENARIO={result.scenario} SEED={result.seed}{without}"


def report(result: Result, tail: int) -> str:
    """A failure, for people."""
    lines = [f"FAILED: {result.scenario} {result.seed}"]
    lines += [f"  {str(violation)[:2500]}" for violation in result.violations[:5]]
    head, *events = result.tail.splitlines() or [""]
    lines += [head, *events[window(events, tail)]] if tail and events else []
    return "\n".join([*lines, f"replay: {command(result)}"])


def _tasks(scenarios: list[str], names: Iterable[str]) -> Iterator[tuple[str, str]]:
    return zip(itertools.cycle(scenarios), names, strict=False)


def run_many(tasks: Iterable[tuple[str, str]], jobs: int, until: float, *, keep_going: bool, tail: int) -> Total:
    """Runs until all are done, the time is over, or one has failed."""
    total, told = Total(), time.perf_counter()
    live = sys.stderr.isatty()
    with multiprocessing.Pool(jobs, maxtasksperchild=20) as pool:
        under_way: list[multiprocessing.pool.AsyncResult[Result]] = []
        waiting = iter(tasks)
        over = False
        while True:
            while not over and len(under_way) < jobs:
                task = next(waiting, None) if time.perf_counter() < until else None
                if task is None:
                    over = True
                else:
                    under_way.append(pool.apply_async(run_one, (task,)))
            if not under_way:
                break
            under_way[0].wait(0.2 if len(under_way) > 1 else 1.0)
            done, under_way = [r for r in under_way if r.ready()], [r for r in under_way if not r.ready()]
            for finished in done:
                result = finished.get()
                total.add(result)
                if not result.ok:
                    print(("\n" if live else "") + report(result, tail), flush=True)
                    over = over or not keep_going
            if live or (done and time.perf_counter() - told > PROGRESS_S):
                told = time.perf_counter()
                print(f"\r\x1b[K{total.progress()}" if live else total.progress(), end="" if live else "\n", file=sys.stderr)
    if live:
        print(file=sys.stderr)
    return total


def _replay(arguments: argparse.Namespace) -> int:
    scenario = "mixed" if arguments.scenario == "all" else arguments.scenario
    without = [kind.strip() for kind in arguments.without.split(",") if kind.strip()]
    if arguments.trace:
        with open(arguments.trace, "w") as sink:
            result = simulate(arguments.seed, scenario, sink=sink, without=without)
    else:
        result = simulate(arguments.seed, scenario, tail=arguments.tail, without=without)
    print(f"{scenario} {arguments.seed}: trace hash {result.trace_hash}")
    if not result.ok:
        print(report(result, arguments.tail))
    total = Total(replayed_s=result.real_s)
    total.add(result)
    print(total.summary())
    return not result.ok


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=50, help="how many (default: 50)")
    parser.add_argument("--minutes", type=float, help="as many as fit into this time, instead")
    parser.add_argument("--first", type=int, help="numbers from here on, instead of seeds that nobody has seen")
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes (default: one a core)")
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    parser.add_argument("--tail", type=int, default=60, help="lines of a failure's trace that are shown (default: 60)")
    parser.add_argument("--places", action="store_true", help="print how often each named place was reached")
    parser.add_argument("--seed", help="run this one again")
    parser.add_argument("--without", default="", help="kinds of faults (or: transactions, sdk) to leave out, with --seed")
    parser.add_argument("--trace", help="a file for the whole trace, with --seed")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        return _replay(arguments)
    fresh = secrets.token_hex(3)
    numbers = itertools.count(0 if arguments.first is None else arguments.first)
    names = (str(number) if arguments.first is not None else f"{fresh}.{number}" for number in numbers)
    until = time.perf_counter() + (arguments.minutes * 60 if arguments.minutes else 1e9)
    scenarios = list(SCENARIOS) if arguments.scenario == "all" else [arguments.scenario]
    wanted = _tasks(scenarios, names if arguments.minutes else itertools.islice(names, arguments.seeds))
    total = run_many(wanted, arguments.jobs, until, keep_going=arguments.keep_going, tail=arguments.tail)
    print(total.summary())
    if arguments.places:
        print(table(total.places, total.deaths))
    if total.failed:
        print(minimise(total.failed[0], command))
    return bool(total.failed)


if __name__ == "__main__":
    sys.exit(main())
