"""What watching costs: throughput with traces of 0, 1 and 100 % of all requests, side by side in one run.

    python benchmarks/observability.py [--rounds 5] [--callers 64] [--seconds 4] [--before CHECKOUT]

Each measurement is a cluster of its own, in turn, so that the noise of a machine hits all alike; medians over the rounds count,
as shares of the first column. Stages and their histograms are always on; `--before` names another checkout of the repository to
compare with, as one from before they were there. Half of the operations are strong puts, half strong gets.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path
from typing import Any

RATIOS = {"0 %": 0.0, "1 %": 0.01, "100 %": 1.0}
COST_MAX = 0.05
"""Of traces of 1 % of all requests."""


def measure(ratio: float, callers: int, seconds: float) -> dict[str, float]:
    """In this process: operations a second, their p99, and processor time an operation of all nodes together."""
    from hdrh.histogram import HdrHistogram
    from measure import cluster, usage
    from throughput import _loop

    with cluster(settings={"tracing.sample_ratio": ratio, "tracing.file": "traces.jsonl"}) as playground:
        asyncio.run(_loop(playground.uri, "put strong", callers, 1.0, 100))
        before = usage(playground)
        encoded, count, failed = asyncio.run(
            _loop(playground.uri, "mixed (half strong puts, half strong gets)", callers, seconds, 100)
        )
        after = usage(playground)
    if failed:
        sys.exit(f"{failed} operations failed")
    histogram = HdrHistogram.decode(encoded)
    spent = sum(after.cores_since(before).values()) * (after.at_s - before.at_s)
    return {
        "rate": count / seconds,
        "p99_ms": histogram.get_value_at_percentile(99) / 1000,
        "cpu_us": spent / (count * (seconds + 1.0) / seconds) * 1e6,
    }


def _elsewhere(checkout: Path, ratio: float, options: argparse.Namespace) -> dict[str, float]:
    """In a process of its own, with the code of a checkout."""
    paths = os.pathsep.join(map(str, (checkout, checkout / "client", Path(__file__).parent)))
    command = [sys.executable, __file__, "--one", str(ratio), "--callers", str(options.callers)]
    command += ["--seconds", str(options.seconds)]
    made = subprocess.run(command, env=os.environ | {"PYTHONPATH": paths}, stdout=subprocess.PIPE, text=True)
    if made.returncode:
        sys.exit(f"the measurement of {checkout} at {ratio} failed")
    found: dict[str, float] = json.loads(made.stdout.splitlines()[-1])
    return found


def main() -> int:
    """The command line; 0 when traces of 1 % cost at most 5 % of throughput."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--callers", type=int, default=64)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--before", type=Path, help="another checkout, measured at 0 %% too")
    parser.add_argument("--one", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.one is not None:
        print(json.dumps(measure(options.one, options.callers, options.seconds)))
        return 0
    here = Path(__file__).resolve().parent.parent
    columns: dict[str, tuple[Path, float]] = {"before": (options.before, 0.0)} if options.before else {}
    columns |= {name: (here, ratio) for name, ratio in RATIOS.items()}
    found: dict[str, list[dict[str, float]]] = {name: [] for name in columns}
    for number in range(options.rounds):
        for name, (checkout, ratio) in columns.items():
            found[name].append(_elsewhere(checkout, ratio, options))
            print(
                f"round {number + 1}/{options.rounds}  {name:>6}  {found[name][-1]['rate']:8,.0f} operations/s", file=sys.stderr
            )
    first = next(iter(columns))
    print(f"{'sampled':>8}  {'operations/s':>12}  {'of ' + first:>10}  {'p99 ms':>7}  {'nodes us/op':>11}  {'of ' + first:>10}")
    shown: dict[str, dict[str, Any]] = {}
    for name, rounds in found.items():
        row = shown[name] = {what: statistics.median(one[what] for one in rounds) for what in rounds[0]}
        shares = [row[what] / shown[first][what] for what in ("rate", "cpu_us")]
        rate, p99, cpu = row["rate"], row["p99_ms"], row["cpu_us"]
        print(f"{name:>8}  {rate:12,.0f}  {shares[0]:10.3f}  {p99:7.1f}  {cpu:11.0f}  {shares[1]:10.3f}")
    cost = 1 - shown["1 %"]["rate"] / shown["0 %"]["rate"]
    print(f"traces of 1 % cost {cost:.1%} of throughput; at most {COST_MAX:.0%} are permitted")
    return int(cost > COST_MAX)


if __name__ == "__main__":
    sys.exit(main())
