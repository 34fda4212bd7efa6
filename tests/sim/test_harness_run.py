"""The runner of seeds: what it reports, what it runs twice, and how it makes a failure smaller."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from tests.sim import minimise as minimising
from tests.sim import run
from tests.sim.history import Violation
from tests.sim.places import PLACES, table
from tests.sim.simulation import Result

TWICE = next(str(number) for number in range(1000) if run.is_rechecked(str(number), "mixed"))
ONCE = next(str(number) for number in range(1000) if not run.is_rechecked(str(number), "mixed"))


def _result(seed: str = "1", *rules: str, without: Sequence[str] = (), **faults: int) -> Result:
    violations = [Violation(rule, "…") for rule in rules]
    return Result(seed, "mixed", tuple(without), "abc", 10.0, violations=violations, faults=Counter(faults))


def test_run_trace_that_differs_elsewhere_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that another process under another hash seed does not repeat breaks the first promise of the simulator."""
    monkeypatch.setattr(run, "simulate", lambda seed, scenario: _result(seed))
    monkeypatch.setattr(run, "hash_elsewhere", lambda *_: "another")
    assert [violation.rule for violation in run.run_one(("mixed", TWICE)).violations] == ["one seed decides all"]
    assert run.run_one(("mixed", ONCE)).ok


def test_run_one_in_twenty_is_run_twice() -> None:
    """About one run in twenty, whatever the seeds are called."""
    assert 20 < sum(run.is_rechecked(f"fresh.{number}", "mixed") for number in range(1000)) < 90


def test_run_report_has_the_command_that_replays_it() -> None:
    """A failure says what broke, and the one command that shows it again."""
    shown = run.report(_result("17", "linearizability", without=["kill", "pause"]), tail=0)
    assert "linearizability" in shown
    assert shown.endswith("make sim-replay SCENARIO=mixed SEED=17 WITHOUT='kill,pause'")


def test_run_report_shows_what_led_to_the_violation() -> None:
    """Not only what came last."""
    failed = _result("17", "linearizability")
    lines = [f"{number}." if number != 100 else "- VIOLATION linearizability" for number in range(200)]
    failed.tail = "\n".join(["time  event", *lines])
    shown = run.report(failed, tail=12).splitlines()
    assert shown[2:-1] == ["time  event", *lines[91:103]]


def test_run_summary_counts_seeds_failures_and_places_never_reached() -> None:
    """What was run is told with what was not."""
    total = run.Total()
    total.add(_result("1"))
    failed = _result("2", "progress", kill=3)
    failed.places[PLACES[0]], failed.deaths[PLACES[0]] = 7, 1
    total.add(failed)
    shown = total.summary()
    assert shown.startswith("2 seeds, 1 failed; 20 s simulated")
    assert f"died at 1 of {len(PLACES)} places" in shown
    assert PLACES[0] not in shown
    assert PLACES[1] in shown
    assert f"{PLACES[0]} " in table(total.places, total.deaths)


def test_run_many_stops_at_the_first_failure_unless_told_to_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """A failure ends a hunt, and does not end a soak."""
    monkeypatch.setattr(run, "run_one", _fail_odd)
    tasks = [("mixed", str(number)) for number in range(6)]
    assert run.run_many(tasks, 1, 1e12, keep_going=False, tail=0).runs == 2
    assert len(run.run_many(tasks, 1, 1e12, keep_going=True, tail=0).failed) == 3


def _fail_odd(task: tuple[str, str]) -> Result:
    return _result(task[1], *(["progress"] if int(task[1]) % 2 else []))


def test_minimise_leaves_out_what_the_failure_does_not_need(monkeypatch: pytest.MonkeyPatch) -> None:
    """Kinds of faults without which the same rule breaks are gone from the command; another rule does not count."""

    def simulate(seed: str, scenario: str, *, without: Sequence[str], tail: int) -> Result:
        broken = "progress" if "isolate" in without else "linearizability"
        return _result(seed, *([] if "kill" in without else [broken]), without=without)

    monkeypatch.setattr(minimising, "simulate", simulate)
    shown = minimising.minimise(_result("5", "linearizability", kill=1, pause=2, isolate=3), run.command)
    assert "WITHOUT='transactions,sdk,pause'" in shown
    assert "no other faults than kill, isolate" in shown


def test_minimise_that_needs_all_of_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing can be left out: nothing is claimed."""
    gone: Any = lambda seed, scenario, **_: _result(seed)  # noqa: E731
    monkeypatch.setattr(minimising, "simulate", gone)
    assert "needs all of it" in minimising.minimise(_result("5", "linearizability", kill=1), run.command)
