"""Runs seeds: `python -m tests.sim.run --seeds 100`, or one again: `--scenario mixed --seed 42 --trace /tmp/trace`."""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from collections import Counter
from collections.abc import Iterable

from .faults import SCENARIOS
from .simulation import Result, simulate


def _run(task: tuple[str, str]) -> Result:
    scenario, seed = task
    return simulate(seed, scenario)


def command(result: Result) -> str:
    """What replays a run."""
    return f"python -m tests.sim.run --scenario {result.scenario} --seed {result.seed}"


def summary(results: Iterable[Result]) -> str:
    """What was run, in a few lines."""
    results = list(results)
    simulated, real = sum(r.simulated_s for r in results), sum(r.real_s for r in results)
    operations: Counter[str] = sum((r.operations for r in results), Counter())
    faults: Counter[str] = sum((r.faults for r in results), Counter())
    counts: Counter[str] = sum((r.counts for r in results), Counter())

    def show(counter: Counter[str]) -> str:
        return ", ".join(f"{name} {count}" for name, count in counter.most_common())

    return "\n".join(
        [
            f"{len(results)} seeds, {sum(not r.ok for r in results)} failed; {simulated:.0f} s simulated, {real:.0f} s real",
            f"operations: {show(operations)}",
            f"faults: {show(faults)}",
            f"events: {show(counts)}",
        ]
    )


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.run", description=__doc__)
    parser.add_argument("--seeds", type=int, default=20, help="how many seeds, from --first on")
    parser.add_argument("--first", type=int, default=1)
    parser.add_argument("--seed", help="this one only")
    parser.add_argument("--scenario", choices=[*SCENARIOS, "all"], default="all")
    parser.add_argument("--trace", help="a file for the whole trace (with --seed)")
    parser.add_argument("--tail", type=int, default=60, help="lines of the trace that are shown of a failure")
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--keep-going", action="store_true", help="do not stop at the first failure")
    arguments = parser.parse_args()
    if arguments.seed is not None:
        scenario = "mixed" if arguments.scenario == "all" else arguments.scenario
        if arguments.trace:
            with open(arguments.trace, "w") as sink:
                results = [simulate(arguments.seed, scenario, sink=sink)]
        else:
            results = [simulate(arguments.seed, scenario, tail=arguments.tail)]
        print(f"trace hash {results[0].trace_hash}")
        _show(results[0], arguments.tail)
        print(summary(results))
        return not results[0].ok
    scenarios = list(SCENARIOS) if arguments.scenario == "all" else [arguments.scenario]
    numbers = range(arguments.first, arguments.first + arguments.seeds)
    tasks = [(scenarios[number % len(scenarios)], str(number)) for number in numbers]
    done: list[Result] = []
    started = time.perf_counter()
    with multiprocessing.Pool(arguments.jobs, maxtasksperchild=20) as pool:
        for result in pool.imap_unordered(_run, tasks):
            done.append(result)
            if not result.ok:
                _show(result, arguments.tail)
                if not arguments.keep_going:
                    break
            elif len(done) % 10 == 0:
                print(f"{len(done)} of {len(tasks)} after {time.perf_counter() - started:.0f} s", file=sys.stderr)
        pool.terminate()
    print(summary(done))
    return any(not result.ok for result in done)


def _show(result: Result, tail: int) -> None:
    if result.ok:
        return
    print(f"FAILED: {result.scenario} {result.seed}")
    for violation in result.violations[:5]:
        print(f"  {str(violation)[:2500]}")
    if tail:
        print("\n".join(result.tail.splitlines()[-tail:]))
    print(f"replay: {command(result)}", flush=True)


if __name__ == "__main__":
    sys.exit(main())
