"""What a cluster costs when nobody uses it: the processor time of three idle nodes.

    python benchmarks/idle.py [--seconds 20]

Bound: under 10 % of one core for all three nodes together.
"""

from __future__ import annotations

import argparse
import sys
import time

from measure import cluster, machine, memory_mib, usage, verdict

CORES_MAX = 0.10
SETTLE_S = 8.0
"""Elections, the first flush of caches, and transfers of leadership to the preferred nodes are over by then."""


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=20.0)
    parser.add_argument("--shards", type=int, default=8)
    options = parser.parse_args()
    with cluster(shards=options.shards) as playground:
        time.sleep(SETTLE_S)
        before = usage(playground)
        time.sleep(options.seconds)
        cores = usage(playground).cores_since(before)
        memory = memory_mib(playground)
    total = sum(cores.values())
    print(machine())
    for name, used in cores.items():
        each = memory[name]
        print(f"{name}: {used:.1%} of a core, {each['resident']} MiB resident, {each['private']} MiB of it private")
    return verdict({f"three idle nodes use {total:.1%} of a core, under {CORES_MAX:.0%}": total < CORES_MAX})


if __name__ == "__main__":
    sys.exit(main())
