"""Whole nodes through faults: kept seeds, fresh ones, and that a seed decides everything."""

from __future__ import annotations

import datetime
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.sim.faults import SCENARIOS
from tests.sim.run import command
from tests.sim.simulation import Result, simulate

ROOT = Path(__file__).parents[2]
BUDGET_S = float(os.environ.get("KVNODE_SIM_SECONDS", "10"))
"""Processor time for fresh seeds: as many are run as fit."""
SEEDS = os.environ.get("KVNODE_SIM_SEEDS", "")
"""Fresh seeds by name, instead of those of the day: "17 18 19"."""


def _kept() -> list[tuple[str, str]]:
    lines = (ROOT / "tests" / "seeds" / "seeds.txt").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [(scenario, seed) for scenario, seed, *_ in words]


def _demand_ok(result: Result) -> None:
    shown = "\n".join(str(violation)[:2000] for violation in result.violations[:3])
    assert result.ok, f"{shown}\n{result.tail}\nreplay: {command(result)}"


@pytest.mark.parametrize(("scenario", "seed"), _kept(), ids=[f"{scenario}-{seed}" for scenario, seed in _kept()])
def test_world_kept_seed_passes_every_check(scenario: str, seed: str) -> None:
    """A schedule that once broke a promise keeps it now."""
    _demand_ok(simulate(seed, scenario))


def test_world_fresh_seeds_pass_every_check() -> None:
    """Schedules that nobody has seen keep every promise: new ones each day, or those of KVNODE_SIM_SEEDS."""
    started = time.process_time()
    day = datetime.datetime.now(datetime.UTC).date().isoformat()
    seeds = SEEDS.split() or [f"{day}.{number}" for number in range(10_000)]
    scenarios = list(SCENARIOS)
    for number, seed in enumerate(seeds):
        if not SEEDS and time.process_time() - started > BUDGET_S:
            break
        for scenario in scenarios if SEEDS else [scenarios[number % len(scenarios)]]:
            _demand_ok(simulate(seed, scenario))


def test_world_same_seed_gives_same_trace_under_another_hash_seed() -> None:
    """One seed decides all: the trace of a run does not depend on the order of sets, nor on what ran before."""
    seed, scenario = "7", "crashes"
    here = simulate(seed, scenario)
    code = f"from tests.sim.simulation import simulate; print(simulate({seed!r}, {scenario!r}).trace_hash)"
    environment = {**os.environ, "PYTHONHASHSEED": "4711", "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "client")])}
    there = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert there.stdout.strip() == here.trace_hash
