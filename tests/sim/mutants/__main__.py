"""Hunts mutants: `python -m tests.sim.mutants`, or some of them: `--only vote-before-sync append-before-sync`."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence

from . import kept
from .catalog import MUTANTS, find
from .hunt import Hunt, Quarry

SHARE_MIN = 0.95
"""Of the mutants that must be caught."""


def table(quarries: Sequence[Quarry]) -> str:
    """What caught each, the survivors last."""
    rows = [("mutant", "caught by", "seeds", "first rule broken", "seconds")]
    for one in sorted(quarries, key=lambda one: (one.caught is None, one.tried)):
        by = f"{one.caught.scenario} {one.caught.number}" if one.caught else "nothing"
        rows.append((one.mutant.name, by, str(one.tried), one.rule or "-", f"{one.seconds:.0f}"))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def main() -> int:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.sim.mutants", description=__doc__)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="these mutants")
    parser.add_argument("--seeds", type=int, default=1000, help="at most so many for each mutant")
    parser.add_argument("--first", type=int, default=1, help="the number of the first seed")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--fresh", action="store_true", help="do not begin with the seeds that caught them last")
    arguments = parser.parse_args()
    try:
        mutants = [find(name) for name in arguments.only] if arguments.only else MUTANTS
    except KeyError as error:
        parser.error(error.args[0])
    known = kept.load()
    hunt = Hunt(mutants, {} if arguments.fresh else known, seeds=arguments.seeds, first=arguments.first)
    try:
        asyncio.run(hunt.run(arguments.jobs))
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
    for one in hunt.quarries:
        for note in one.notes[:3]:
            print(f"{one.mutant.name}: {note}", file=sys.stderr)
    print(table(hunt.quarries))
    found = {one.mutant.name: one.caught for one in hunt.quarries if one.caught is not None}
    news = {name: seed for name, seed in found.items() if known.get(name) != seed}
    if news:
        kept.save({name: seed for name, seed in {**known, **news}.items() if name in {m.name for m in MUTANTS}})
        print(f"{kept.FILE.relative_to(kept.ROOT)}: {len(news)} seeds are new")
    share = len(found) / len(hunt.quarries)
    print(f"{len(found)} of {len(hunt.quarries)} ({100 * share:.1f} %) caught")
    return share < SHARE_MIN


if __name__ == "__main__":
    sys.exit(main())
