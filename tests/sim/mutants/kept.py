"""The seeds that caught each mutant last, in `tests/seeds/mutants.txt`: tried first, so that nothing new is found quickly."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from .mutant import ROOT

FILE = ROOT / "tests" / "seeds" / "mutants.txt"
HEAD = "# Which seed caught which mutant last: name, scenario, seed. Written by `python -m tests.sim.mutants`.\n"


class Seed(NamedTuple):
    """One run."""

    scenario: str
    number: str


def load() -> dict[str, Seed]:
    """By mutant."""
    lines = FILE.read_text().splitlines() if FILE.exists() else []
    words = [line.split() for line in lines if line and not line.startswith("#")]
    return {name: Seed(scenario, number) for name, scenario, number in words}


def save(seeds: Mapping[str, Seed]) -> None:
    """Replaces the file."""
    lines = [f"{name} {seed.scenario} {seed.number}\n" for name, seed in sorted(seeds.items())]
    FILE.write_text(HEAD + "".join(lines))
