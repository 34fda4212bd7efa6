"""All mutants, by name."""

from __future__ import annotations

from . import commits, disks, elections, eventual, replication, requests
from .mutant import Mutant

MUTANTS: tuple[Mutant, ...] = (
    *elections.MUTANTS,
    *replication.MUTANTS,
    *disks.MUTANTS,
    *eventual.MUTANTS,
    *requests.MUTANTS,
    *commits.MUTANTS,
)


def find(name: str) -> Mutant:
    """The mutant of that name. Raises `KeyError` with all names."""
    for mutant in MUTANTS:
        if mutant.name == name:
            return mutant
    raise KeyError(f"there is no mutant {name!r}; there are {', '.join(mutant.name for mutant in MUTANTS)}")
