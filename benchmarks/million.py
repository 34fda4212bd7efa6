"""A million keys of 100 bytes: how long they take to load, what they cost, and how long a node takes to come back.

    python benchmarks/million.py [--keys 1000000] [--loaders 2]

Loaders write in batches through the SDK, which sends each batch's operations to their shards' leaders. Then one node is killed
with kill -9 and started again: the time until it serves, and until it has caught up with every shard's leader. The same with a
graceful stop. All keys are counted afterwards. Bounds: a restart takes under 5 s; a node's private memory is bounded.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import time
from multiprocessing import get_context

from measure import cluster, disk_mib, machine, memory_mib, usage, verdict

import kvclient

RESTART_S_MAX = 5.0
LOAD_S_MAX = 600.0
PRIVATE_MIB_MAX = 512.0
BATCH = 1_000
BATCHES_IN_FLIGHT = 4
VALUE_SIZE_BYTES = 100


async def _load(uri: str, first: int, last: int, consistency: str) -> int:
    """Write the keys [first, last); the operations that had to be tried again."""
    again = 0
    rng = random.Random(first)
    numbers = iter(range(first, last, BATCH))
    async with kvclient.connect(uri) as client:

        async def loader() -> None:
            nonlocal again
            for begin in numbers:
                missing = [f"key/{number:08}" for number in range(begin, min(begin + BATCH, last))]
                while missing:
                    batch = client.batch()
                    for key in missing:
                        batch.put(key, rng.randbytes(VALUE_SIZE_BYTES), consistency=consistency)
                    results = await batch.run(timeout=30)
                    missing = [
                        key for key, result in zip(missing, results, strict=True) if isinstance(result, kvclient.KvError)
                    ]
                    again += len(missing)

        await asyncio.gather(*(loader() for _ in range(BATCHES_IN_FLIGHT)))
    return again


def _process(arguments: tuple[str, int, int, str]) -> int:
    return asyncio.run(_load(*arguments))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keys", type=int, default=1_000_000)
    parser.add_argument("--loaders", type=int, default=1, help="processes that load")
    parser.add_argument("--consistency", choices=["strong", "eventual"], default="strong")
    options = parser.parse_args()
    claims: dict[str, bool] = {}
    with cluster() as playground:
        print(f"{machine()}; {options.keys:,} keys of {VALUE_SIZE_BYTES} bytes, {options.consistency}")
        print("memory of the empty cluster, MiB:", memory_mib(playground))
        step = -(-options.keys // options.loaders)
        parts = [
            (playground.uri, first, min(first + step, options.keys), options.consistency)
            for first in range(0, options.keys, step)
        ]
        before, began = usage(playground), time.monotonic()
        with get_context("spawn").Pool(options.loaders) as pool:
            again = sum(pool.map(_process, parts))
        load_s = time.monotonic() - began
        cores = usage(playground).cores_since(before)
        print(f"loaded in {load_s:.1f} s: {options.keys / load_s:,.0f} keys a second; {again} operations tried again")
        print("cores used while loading:", {name: round(used, 2) for name, used in cores.items()})
        claims[f"the load takes {load_s:.0f} s, under {LOAD_S_MAX:.0f} s"] = load_s < LOAD_S_MAX
        for name in playground.names:
            playground.wait_caught_up(name, 120)
        print("memory, MiB:", memory := memory_mib(playground))
        print("disk, MiB:", disk_mib(playground))
        private = max(each["private"] for each in memory.values())
        claims[f"a node's private memory is {private:.0f} MiB, under {PRIVATE_MIB_MAX:.0f} MiB"] = private < PRIVATE_MIB_MAX
        for how, end in (("kill -9", playground.kill), ("graceful stop", playground.stop)):
            name = playground.names[0]
            ended_s = end(name)
            began = time.monotonic()
            playground.start(name)
            serves_s = time.monotonic() - began
            playground.wait_caught_up(name, 120)
            caught_up_s = time.monotonic() - began
            print(f"{how}: ended in {ended_s:.2f} s, serves after {serves_s:.2f} s, caught up after {caught_up_s:.2f} s")
            claims[f"a restart after {how} takes {caught_up_s:.2f} s, under {RESTART_S_MAX:.0f} s"] = (
                caught_up_s < RESTART_S_MAX
            )
            playground.wait_serving(60)
        print("memory after the restarts, MiB:", memory_mib(playground))
        with kvclient.connect_sync(playground.uri) as client:
            began = time.monotonic()
            count = client.count(prefix="key/", timeout=120)
            print(f"{count:,} keys counted in {time.monotonic() - began:.1f} s")
        claims[f"all {options.keys:,} keys are there ({count:,})"] = count == options.keys
    return verdict(claims)


if __name__ == "__main__":
    sys.exit(main())
