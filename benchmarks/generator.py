"""What `kvctl bench` itself costs: its callers, with a client that answers in the event loop's next turn.

    python benchmarks/generator.py

Processor time an operation, of which the first line is the bare loop's. At low rates most of it is waking up.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import random
import sys
import time
from typing import Any

from measure import machine

from kvctl.bench.operations import Operations
from kvctl.bench.plan import Plan
from kvctl.bench.precise_loop import precise_loop
from kvctl.bench.runner import Runner
from kvctl.bench.samples import Notes
from kvctl.bench.schedule import ClosedLoop, OpenLoop, poisson
from kvctl.bench.workload import Workload

CALLERS = 64
OPERATIONS = 100_000
RATES = {1_000: 3_000, 5_000: 15_000, 20_000: 60_000, 1_000_000: OPERATIONS}
"""Operations a second, and how many of them; the last is beyond what a process can do."""


class InstantClient:
    """Stands for the SDK's client."""

    async def get(self, key: bytes, **_: Any) -> bytes:
        """A read."""
        await asyncio.sleep(0)
        return key

    async def put(self, key: bytes, value: bytes, **_: Any) -> None:
        """A write."""
        await asyncio.sleep(0)


def plan(distribution: str) -> Plan:
    """The default load, by its keys' distribution."""
    load: dict[str, Any] = {
        "rate": None,
        "arrivals": "poisson",
        "concurrency": CALLERS,
        "duration_s": math.inf,
        "warmup_s": 0.0,
    }
    keys: dict[str, Any] = {"keys": 10_000, "distribution": distribution, "zipf_theta": 0.99, "prefix": b"bench/", "seed": 1}
    levels: dict[str, Any] = {
        "read_consistency": "strong",
        "write_consistency": "strong",
        "max_staleness_s": None,
        "acks": None,
    }
    rest: dict[str, Any] = {"endpoints": (), "transport": "", "timeout_s": 5.0, "processes": 1, "clients": 1, "interval_s": 1.0}
    return Plan(
        operations=OPERATIONS, mix={"read": 0.9, "write": 0.1}, value_size_bytes_min=100, value_size_bytes_max=100,
        load=False, clean=False, traces="", sample_ratio=0.0, **load, **keys, **levels, **rest,
    )  # fmt: skip


async def bare() -> float:
    """Microseconds of as many calls without a generator."""
    client: Any = InstantClient()

    async def call() -> None:
        for _ in range(OPERATIONS // CALLERS):
            await client.get(b"bench/00000000", consistency=None, max_staleness=None)

    began = time.process_time()
    await asyncio.gather(*(call() for _ in range(CALLERS)))
    return (time.process_time() - began) / OPERATIONS * 1e6


def runner(planned: Plan, callers: int) -> Runner:
    """So many callers."""
    workload = Workload(planned, 0)
    client: Any = InstantClient()
    return Runner([client] * callers, workload.kind, Operations(planned, workload).by_kind)


async def closed(distribution: str) -> float:
    """Microseconds an operation in a closed loop."""
    planned = plan(distribution)
    callers, notes = runner(planned, CALLERS), Notes(planned.mix)
    began = time.process_time()
    await callers.run(ClosedLoop(asyncio.get_running_loop(), math.inf, OPERATIONS), notes)
    return (time.process_time() - began) / OPERATIONS * 1e6


async def opened(rate: int, operations: int) -> tuple[float, str]:
    """Microseconds an operation in an open loop, and how late it woke up."""
    planned, loop = plan("uniform"), asyncio.get_running_loop()
    callers, notes = runner(planned, 1_024), Notes(planned.mix)
    turns = OpenLoop(loop, itertools.islice(poisson(loop.time(), rate, random.Random(1)), operations))
    began = time.process_time()
    await callers.run(turns, notes)
    spent = (time.process_time() - began) / operations * 1e6
    late = sorted(turns.wakes_late_s)
    return spent, f"wakes {late[len(late) // 2] * 1e6:.0f} µs late (p50)" if late else "never idle"


def main() -> int:
    """Run it."""
    loop = precise_loop()
    print(machine())
    print(f"bare loop                      {loop.run_until_complete(bare()):6.1f} µs an operation")
    for distribution in ("uniform", "zipf", "latest", "hotspot"):
        print(f"closed loop, {distribution:17} {loop.run_until_complete(closed(distribution)):6.1f} µs")
    for rate, operations in RATES.items():
        spent, late = loop.run_until_complete(opened(rate, operations))
        print(f"open loop, {rate:9,}/s         {spent:6.1f} µs, {late}")
    loop.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
