"""Operations a second and their latencies: a closed loop of callers through the asynchronous SDK.

    python benchmarks/throughput.py [--callers 64] [--seconds 8] [--value 100] [--processes 1]

Each caller does one operation after the other, without pauses; each kind of operation is measured by itself. The client shares
the machine with the three nodes, so the figures say more about changes than about what separate machines would do.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable
from multiprocessing import get_context

from hdrh.histogram import HdrHistogram
from measure import cluster, machine, usage

import kvclient

KEYS = 10_000
WARM_UP_S = 1.0

Operation = Callable[[kvclient.AsyncClient, random.Random, bytes], Awaitable[object]]


def _key(rng: random.Random) -> str:
    return f"bench/{rng.randrange(KEYS):06}"


OPERATIONS: dict[str, Operation] = {
    "put strong": lambda client, rng, value: client.put(_key(rng), value),
    "get strong": lambda client, rng, value: client.get(_key(rng)),
    "put eventual": lambda client, rng, value: client.put(_key(rng), value, consistency="eventual"),
    "get eventual": lambda client, rng, value: client.get(_key(rng), consistency="eventual"),
    "mixed (half strong puts, half strong gets)": lambda client, rng, value: (
        client.put(_key(rng), value) if rng.random() < 0.5 else client.get(_key(rng))
    ),
}


def _histogram() -> HdrHistogram:
    return HdrHistogram(1, 60_000_000, 3)


async def _loop(uri: str, kind: str, callers: int, seconds: float, value_size_bytes: int) -> tuple[str, int, int]:
    histogram, failed = _histogram(), 0
    operation, value = OPERATIONS[kind], os.urandom(value_size_bytes)
    async with kvclient.connect(uri) as client:
        began = time.monotonic() + WARM_UP_S
        ends = began + seconds

        async def caller(seed: int) -> None:
            nonlocal failed
            rng = random.Random(seed)
            while (sent := time.monotonic()) < ends:
                try:
                    await operation(client, rng, value)
                except kvclient.KvError:
                    failed += 1
                if sent >= began:
                    histogram.record_value(max(1, round((time.monotonic() - sent) * 1e6)))

        await asyncio.gather(*(caller(seed) for seed in range(callers)))
    return histogram.encode().decode(), histogram.get_total_count(), failed


def _process(arguments: tuple[str, str, int, float, int]) -> tuple[str, int, int]:
    return asyncio.run(_loop(*arguments))


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=64, help="of each process")
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--value", type=int, default=100, help="bytes")
    parser.add_argument("--only", default="", help="a kind of operation, as 'put strong'")
    options = parser.parse_args()
    with cluster() as playground, get_context("spawn").Pool(options.processes) as pool:
        print(f"{machine()}; {options.processes} x {options.callers} callers, values of {options.value} bytes")
        heads = " ".join(f"{head:>8}" for head in ("ops/s", "p50 ms", "p95", "p99", "p99.9", "max", "failed"))
        print(f"{'operation':45} {heads}  cores of the nodes")
        for kind in OPERATIONS:
            if options.only and kind != options.only:
                continue
            arguments = (playground.uri, kind, options.callers, options.seconds, options.value)
            before = usage(playground)
            results = pool.map(_process, [arguments] * options.processes)
            cores = usage(playground).cores_since(before)
            merged, failed = _histogram(), 0
            for encoded, _, failures in results:
                merged.decode_and_add(encoded.encode())
                failed += failures
            rate = merged.get_total_count() / options.seconds
            tail = [merged.get_value_at_percentile(p) / 1000 for p in (50, 95, 99, 99.9, 100)]
            print(
                f"{kind:45} {rate:8,.0f} "
                + " ".join(f"{value:8.2f}" for value in tail)
                + f" {failed:8}  "
                + ", ".join(f"{name} {used:.2f}" for name, used in cores.items()),
                flush=True,
            )
    return 0


if __name__ == "__main__":
    sys.exit(main())
