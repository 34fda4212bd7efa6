"""Transactions a second and their latencies: over 1, 2 and 4 shards, contended and not, read-only too; beside single puts.

    python benchmarks/transactions.py [--callers 32] [--seconds 4] [--alone]

A closed loop of callers through the asynchronous SDK; each transaction writes one key in each of its shards, or reads it. Not
contended: each caller has keys of its own, and does not come back to one while its last transaction may still resolve there.
Contended: all callers share 4 keys a shard, so almost every transaction meets another one's lock. `--alone` has one caller
only: what a transaction costs where nobody is in its way, in rounds of a put.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import sys
import time
from collections.abc import Awaitable, Callable, Mapping

from hdrh.histogram import HdrHistogram
from measure import cluster, machine

import kvclient
from kvclient.hashing import shard_of

SHARDS = 8
OWN_KEYS = 16
"""Of each caller in each shard, in turn."""
HOT_KEYS = 4
WARM_UP_S = 0.5

Operation = Callable[[kvclient.AsyncClient, random.Random, int], Awaitable[object]]


def _keys(name: str, count: int) -> list[str]:
    """A key in each of the first `count` shards."""
    found: dict[int, str] = {}
    number = 0
    while len(found) < count:
        key = f"{name}/{number}"
        if shard_of(key.encode(), SHARDS) < count:
            found.setdefault(shard_of(key.encode(), SHARDS), key)
        number += 1
    return [found[shard] for shard in sorted(found)]


def _operations(callers: int) -> Mapping[str, Operation]:
    own = {
        shards: [[_keys(f"own/{caller}/{turn}", shards) for turn in range(OWN_KEYS)] for caller in range(callers)]
        for shards in (1, 2, 4)
    }
    turns = {shards: [itertools.cycle(keys) for keys in own[shards]] for shards in own}
    hot = {shards: [_keys(f"hot/{number}", shards) for number in range(HOT_KEYS)] for shards in (1, 2, 4)}

    def write(keys: Callable[[random.Random, int], list[str]]) -> Operation:
        def run(client: kvclient.AsyncClient, rng: random.Random, caller: int) -> Awaitable[object]:
            return client.txn().then(*(kvclient.Put(key, "x" * 100) for key in keys(rng, caller))).run()

        return run

    def read(keys: Callable[[random.Random, int], list[str]]) -> Operation:
        def run(client: kvclient.AsyncClient, rng: random.Random, caller: int) -> Awaitable[object]:
            return client.txn().then(*(kvclient.Get(key) for key in keys(rng, caller))).run()

        return run

    def own_of(shards: int) -> Callable[[random.Random, int], list[str]]:
        return lambda rng, caller: next(turns[shards][caller])

    def hot_of(shards: int) -> Callable[[random.Random, int], list[str]]:
        return lambda rng, caller: [rng.choice(hot[shards])[at] for at in range(shards)]

    operations: dict[str, Operation] = {"put": lambda client, rng, caller: client.put(next(turns[1][caller])[0], "x" * 100)}
    for shards in (1, 2, 4):
        operations[f"write {shards} shard{'s' * (shards > 1)}"] = write(own_of(shards))
    for shards in (2, 4):
        operations[f"read {shards} shards"] = read(own_of(shards))
    if callers > 1:
        for shards in (1, 2, 4):
            operations[f"write {shards} shard{'s' * (shards > 1)}, contended"] = write(hot_of(shards))
        operations["read 4 shards, beside contended writes"] = _beside(read(hot_of(4)), write(hot_of(4)))
    return operations


def _beside(measured: Operation, other: Operation) -> Operation:
    """Every other caller does something else, which is not measured."""

    async def run(client: kvclient.AsyncClient, rng: random.Random, caller: int) -> object:
        if caller % 2:
            await other(client, rng, caller)
            return None
        return await measured(client, rng, caller)

    return run


async def _measure(
    client: kvclient.AsyncClient, operation: Operation, callers: int, seconds: float
) -> tuple[HdrHistogram, int]:
    histogram, failed = HdrHistogram(1, 60_000_000, 3), 0
    began = time.monotonic() + WARM_UP_S
    ends = began + seconds

    async def caller(number: int) -> None:
        nonlocal failed
        rng = random.Random(number)
        while (sent := time.monotonic()) < ends:
            try:
                done = await operation(client, rng, number)
            except kvclient.KvError:
                failed += 1
                continue
            if sent >= began and done is not None:
                histogram.record_value(max(1, round((time.monotonic() - sent) * 1e6)))

    await asyncio.gather(*(caller(number) for number in range(callers)))
    return histogram, failed


async def _run(uri: str, options: argparse.Namespace) -> None:
    callers = 1 if options.alone else options.callers
    async with kvclient.connect(uri) as client:
        for name, operation in _operations(callers).items():
            if options.only and options.only not in name:
                continue
            histogram, failed = await _measure(client, operation, callers, options.seconds)
            tail = [histogram.get_value_at_percentile(p) / 1000 for p in (50, 95, 99, 100)]
            rate = histogram.get_total_count() / options.seconds
            print(f"{name:40} {rate:8,.0f} " + " ".join(f"{value:8.2f}" for value in tail) + f" {failed:7}", flush=True)


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=4.0)
    parser.add_argument("--alone", action="store_true", help="one caller")
    parser.add_argument("--only", default="", help="operations whose names hold this")
    options = parser.parse_args()
    with cluster(shards=SHARDS) as playground:
        callers = 1 if options.alone else options.callers
        print(f"{machine()}; {callers} caller{'s' * (callers > 1)}, values of 100 bytes")
        print(
            f"{'operation':40} " + " ".join(f"{head:>8}" for head in ("a second", "p50 ms", "p95", "p99", "max")) + "  failed"
        )
        asyncio.run(_run(playground.uri, options))
    return 0


if __name__ == "__main__":
    sys.exit(main())
