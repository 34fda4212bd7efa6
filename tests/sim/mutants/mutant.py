"""What a mutant is, and how the product is imported with its bug.

Owns: the replaced text, and the import hook that compiles it. Never: changes a file, or anything after the product was
imported; a mutant lives in a process of its own (`worker`).
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.abc import MetaPathFinder
from pathlib import Path
from types import CodeType, ModuleType

ROOT = Path(__file__).parents[3]


@dataclass(frozen=True)
class Change:
    """In `module` the text `old`, which is there exactly once, becomes `new`."""

    module: str
    old: str
    new: str


@dataclass(frozen=True)
class Mutant:
    """A bug: the changes that make it."""

    name: str
    story: str
    """Which bug of which system it is, or what is forgotten."""
    scenarios: tuple[str, ...]
    """Of `tests.sim.faults.SCENARIOS`, where to look; the most apt first."""
    changes: tuple[Change, ...]

    def source(self, module: str, original: str) -> str:
        """The module's source with the bug. Raises `ValueError` where a text is not there exactly once."""
        for change in self.changes:
            if change.module == module:
                found = original.count(change.old)
                if found != 1:
                    raise ValueError(
                        f"mutant {self.name}: its text is {found} times in {module}, not once; the product has changed, "
                        f"and the mutant must change with it:\n{change.old}"
                    )
                original = original.replace(change.old, change.new)
        return original

    def modules(self) -> list[str]:
        """The modules that it changes."""
        return list(dict.fromkeys(change.module for change in self.changes))

    def code(self, module: str) -> CodeType:
        """The module compiled with the bug."""
        path = path_of(module)
        return compile(self.source(module, path.read_text()), str(path), "exec", dont_inherit=True)


def path_of(module: str) -> Path:
    """Where a module's source is."""
    return ROOT.joinpath(*module.split(".")).with_suffix(".py")


class _Loader(importlib.machinery.SourceFileLoader):
    """Compiles the changed source; writes and reads no bytecode."""

    mutant: Mutant

    def get_code(self, fullname: str) -> CodeType:
        """The module with the bug."""
        return self.mutant.code(fullname)


class Installed(MetaPathFinder):
    """The hook. `loaded`: what it has changed."""

    def __init__(self, mutant: Mutant) -> None:
        imported = [module for module in mutant.modules() if module in sys.modules]
        if imported:
            raise RuntimeError(f"mutant {mutant.name} comes too late: {', '.join(imported)} is imported already")
        self._mutant = mutant
        self.loaded: dict[str, None] = {}
        sys.meta_path.insert(0, self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The module's own place, with a loader that puts the bug in."""
        if fullname not in self._mutant.modules():
            return None
        loader = _Loader(fullname, str(path_of(fullname)))
        loader.mutant = self._mutant
        self.loaded[fullname] = None
        return importlib.util.spec_from_file_location(fullname, path_of(fullname), loader=loader)

    def check(self) -> None:
        """Raises `RuntimeError` if a module was never imported: then the run says nothing about the mutant."""
        missing = [module for module in self._mutant.modules() if module not in self.loaded]
        if missing:
            raise RuntimeError(f"mutant {self._mutant.name}: nobody imported {', '.join(missing)}")
