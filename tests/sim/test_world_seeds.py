"""Whole nodes through faults: kept seeds, fresh ones, and that a seed decides everything."""

from __future__ import annotations

import io
import os
import secrets
import time
from pathlib import Path
from typing import Any

import pytest
import structlog

import kvnode.runtime.driver
from kvclient import AsyncClient
from kvnode.config import Log
from kvnode.observe.logging import configure_logging
from tests.sim.faults import SCENARIOS
from tests.sim.places import unlisted
from tests.sim.run import command, hash_elsewhere
from tests.sim.simulation import Result, simulate

ROOT = Path(__file__).parents[2]
BUDGET_S = float(os.environ.get("KVNODE_SIM_SECONDS", "10"))
"""Processor time for fresh seeds: as many are run as fit."""
SEEDS = os.environ.get("KVNODE_SIM_SEEDS", "")
"""Fresh seeds by name, instead of random ones: "17 18 19"."""

SDK_SEEDS = ("4", "5", "10", "12", "17")
"""Of the scenario `transactions`, with clients that ask through the SDK."""


pytestmark = pytest.mark.timeout(400)
"""Of processor time they take a few seconds each; of a busy machine more."""


def _kept() -> list[tuple[str, str]]:
    lines = (ROOT / "tests" / "seeds" / "seeds.txt").read_text().splitlines()
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return [(scenario, seed) for scenario, seed, *_ in words]


def _demand_ok(result: Result) -> None:
    shown = "\n".join(str(violation)[:2000] for violation in result.violations[:3])
    assert result.ok, f"{shown}\n{result.tail}\nreplay: {command(result)}"
    assert not unlisted(result.places)


@pytest.mark.parametrize(("scenario", "seed"), _kept(), ids=[f"{scenario}-{seed}" for scenario, seed in _kept()])
def test_world_kept_seed_passes_every_check(scenario: str, seed: str) -> None:
    """A schedule that once broke a promise keeps it now."""
    _demand_ok(simulate(seed, scenario))


def test_world_fresh_seeds_pass_every_check() -> None:
    """Schedules that nobody has seen keep every promise: new ones each time, or those of KVNODE_SIM_SEEDS."""
    started, fresh = time.process_time(), secrets.token_hex(3)
    seeds = SEEDS.split() or [f"{fresh}.{number}" for number in range(10_000)]
    scenarios = secrets.SystemRandom().sample(list(SCENARIOS), len(SCENARIOS))
    for number, seed in enumerate(seeds):
        if not SEEDS and time.process_time() - started > BUDGET_S:
            break
        for scenario in scenarios if SEEDS else [scenarios[number % len(scenarios)]]:
            _demand_ok(simulate(seed, scenario))


@pytest.mark.parametrize(("scenario", "seed", "has_sdk"), [("crashes", "3", False), ("transactions", "10", True)])
def test_world_same_seed_gives_same_trace_under_another_hash_seed(scenario: str, seed: str, has_sdk: bool) -> None:
    """One seed decides all: the trace of a run does not depend on the order of sets, nor on what ran before, nor on the
    SDK's real clock and randomness."""
    here = simulate(seed, scenario)
    _demand_ok(here)
    assert bool(here.counts["SDK operations"]) is has_sdk
    assert hash_elsewhere(seed, scenario, 4711) == here.trace_hash


def test_world_trace_does_not_depend_on_how_the_process_logged_before() -> None:
    """What nodes log is part of the trace, whatever level was configured before, and whichever logger was used then."""
    before = simulate("3", "crashes")
    _demand_ok(before)
    configure_logging(Log(level="critical"), node="another", stream=io.BytesIO())
    kvnode.runtime.driver.logger.info("this logger keeps the settings of its first use")
    try:
        assert simulate("3", "crashes").trace_hash == before.trace_hash
    finally:
        structlog.reset_defaults()


def test_world_sdk_broken_on_purpose_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """A canary: an SDK that gives a write in doubt another request id, and so has it executed twice."""
    on_failure = AsyncClient._on_failure

    def name_anew(self: Any, call: Any, *rest: Any) -> float | None:
        pause = on_failure(self, call, *rest)
        if pause is not None and call.in_doubt and call.executes_once:
            self._request_ids.end(call)
            self._request_ids.begin(call)
        return pause

    monkeypatch.setattr(AsyncClient, "_on_failure", name_anew)
    assert any(not simulate(seed, "transactions").ok for seed in SDK_SEEDS)
