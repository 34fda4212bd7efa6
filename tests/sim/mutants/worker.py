"""A process that runs seeds with one mutant: `python -m tests.sim.mutants.worker NAME`, or `-` for the product as it is.

Reads a line "scenario seed" at a time from standard input, and answers each with a line of JSON. Parsing nothing and importing
nothing of the product before the mutant is in place.
"""

from __future__ import annotations

import json
import sys

from .catalog import find
from .mutant import Installed

VIOLATIONS_MAX = 20
MESSAGE_MAX = 1500


def main(name: str) -> None:
    """Runs what is asked for until the input ends."""
    hook = None if name == "-" else Installed(find(name))
    from tests.sim.simulation import simulate

    if hook is not None:
        hook.check()
    for line in sys.stdin:
        scenario, seed = line.split()
        result = simulate(seed, scenario, tail=0)
        found = [(violation.rule, violation.message[:MESSAGE_MAX]) for violation in result.violations[:VIOLATIONS_MAX]]
        print(json.dumps({"violations": found, "real_s": result.real_s}), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
