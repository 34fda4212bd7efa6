"""The mutants fit the product, a catch is a catch, and a few quick ones are caught: canaries for the simulator's eyes."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest

from tests.sim.faults import SCENARIOS
from tests.sim.mutants import judge, kept
from tests.sim.mutants.catalog import MUTANTS, find
from tests.sim.mutants.hunt import UNCHANGED, Ask, Hunt, Quarry
from tests.sim.mutants.mutant import Change, Installed, Mutant, path_of

CANARIES = ("requests-not-remembered", "reads-pass-locks", "log-not-synced")
SEEDS_MAX = 6
"""For each canary: the seed that is kept catches it, or, where the simulator's choices have changed, one of a few more."""
CLOCK = "kvnode.protocol.clock"


@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name)
def test_mutant_each_module_compiles_and_differs(mutant: Mutant) -> None:
    """Every text that a mutant replaces is in the product exactly once, and what comes of it is a program."""
    assert mutant.changes
    assert mutant.scenarios
    assert mutant.story
    assert all(scenario in SCENARIOS for scenario in mutant.scenarios)
    for module in mutant.modules():
        original = path_of(module).read_text()
        assert mutant.source(module, original) != original
        assert mutant.code(module).co_filename == str(path_of(module))


def test_mutants_names_are_unique() -> None:
    """A name stands for one mutant; there are at least 45."""
    names = [mutant.name for mutant in MUTANTS]
    assert len(dict.fromkeys(names)) == len(names) >= 45


@pytest.mark.parametrize("old", ["nowhere in the clock", "self._last"])
def test_mutant_text_absent_or_repeated_is_an_error(old: str) -> None:
    """A mutant whose text is not there once says so: it would test nothing, or something else."""
    mutant = Mutant("stale", "", ("calm",), (Change(CLOCK, old, "pass"),))
    with pytest.raises(ValueError, match=r"mutant stale: its text is \d+ times in kvnode\.protocol\.clock, not once"):
        mutant.code(CLOCK)


def test_mutant_after_the_import_is_an_error() -> None:
    """A mutant of a module that was imported already would change nothing: it is refused."""
    hooks = list(sys.meta_path)
    with pytest.raises(RuntimeError, match=r"comes too late: kvnode\.protocol"):
        Installed(replace(find("vote-twice-in-a-term"), changes=(Change("kvnode.protocol", "", ""),)))
    assert sys.meta_path == hooks


@pytest.mark.parametrize(
    ("violations", "rule"),
    [
        ([], ""),
        ([("one leader a term", "n1 and n2"), ("progress", "none")], "one leader a term"),
        ([("a node does not stop by itself", "n1: InvariantViolated('twice')")], "a node does not stop by itself"),
        ([(judge.HARNESS, "ValueError")], ""),
        ([("a node does not stop by itself", "n1: NameError(\"name 'x' is not defined\")")], ""),
        ([("progress", "none"), ("no error goes unnoticed", "AttributeError: 'NoneType'")], ""),
    ],
)
def test_judge_failed_run_is_a_catch_only_if_a_promise_was_broken(violations: list[judge.Found], rule: str) -> None:
    """Errors of a mutant that is no program, and of the harness, are no catch, whatever else was seen."""
    assert judge.caught_by(violations) == rule


@pytest.mark.parametrize("name", CANARIES)
def test_hunt_canary_is_caught_and_its_seed_passes_without_it(name: str) -> None:
    """A few bugs that must be found at once, each by a seed that the product as it is passes."""
    hunt = Hunt([find(name)], kept.load(), seeds=SEEDS_MAX, first=1)
    asyncio.run(hunt.run(1))
    (quarry,) = hunt.quarries
    assert quarry.caught is not None, f"not caught by {quarry.tried} seeds: {quarry.notes}"


def _hunted(runs: dict[str, list[judge.Found] | None], seeds: int = 9) -> Quarry:
    """A hunt whose runs have been thought out: by mutant and seed, what they find; the product alone breaks with seed 2."""

    @asynccontextmanager
    async def workers(name: str) -> AsyncIterator[Ask]:
        async def ask(seed: kept.Seed) -> list[judge.Found] | None:
            return runs.get(seed.number, []) if name != UNCHANGED else [("always", "")] if seed.number == "2" else []

        yield ask

    mutant = Mutant("thought-out", "", ("calm", "mixed"), ())
    hunt = Hunt([mutant], {"thought-out": kept.Seed("clocks", "77")}, seeds=seeds, first=1, workers=workers)
    asyncio.run(hunt.run(1))
    return hunt.quarries[0]


def test_hunt_kept_seed_comes_first_then_all_scenarios_in_turn() -> None:
    """The seed that caught it last is tried first; then numbers and scenarios follow each other."""
    assert _hunted({"77": [("rule", "")]}).caught == kept.Seed("clocks", "77")
    later = _hunted({"4": [("rule", "")]})
    assert (later.caught, later.tried, later.rule) == (kept.Seed("mixed", "4"), 5, "rule")


def test_hunt_seed_that_fails_without_the_mutant_is_no_catch() -> None:
    """Where the product itself fails, or the run is worth nothing, the mutant lives on, and the note says why."""
    lives = _hunted({"2": [("always", "")], "3": [(judge.HARNESS, "")], "4": None})
    assert lives.caught is None
    assert lives.tried == 9
    assert [note.split(":")[0] for note in lives.notes] == ["mixed 2", "calm 3", "mixed 4"]
