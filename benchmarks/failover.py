"""How long strong writes stop when the leader of a busy shard dies: kill -9, again and again, under load.

    python benchmarks/failover.py [--kills 20]

Callers write new keys through the SDK, one after the other; half of them to one shard, whose leader is killed. What is measured
is the time from the kill to the first acknowledgement of a write to that shard that began after it. The killed node is started
again and catches up before the next kill. In the end every acknowledged write must be there. Bound: the median is under 2 s.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import statistics
import sys
import time

from measure import cluster, machine, summary, verdict

import kvclient
from kvctl.demo_checks import Checks
from kvctl.playground import Playground

MEDIAN_S_MAX = 2.0
BUSY = b"{busy}"


class Load:
    """Closed-loop writers and what they were promised."""

    def __init__(self, client: kvclient.AsyncClient, writers: int) -> None:
        self.client, self.writers = client, writers
        self.acked: dict[bytes, tuple[float, float]] = {}
        self.unknown = self.failed = 0
        self.over = False
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        """Write until `over`."""
        await asyncio.gather(*(self._write(number) for number in range(self.writers)))

    async def _write(self, writer: int) -> None:
        tag = BUSY if writer % 2 == 0 else b""
        for count in itertools.count():
            if self.over:
                return
            key = f"load/{writer}/{count}".encode() + tag
            began = time.monotonic()
            try:
                await self.client.put(key, key, timeout=10)
            except kvclient.OutcomeUnknown:
                self.unknown += 1
            except kvclient.KvError:
                self.failed += 1
            else:
                self.acked[key] = began, time.monotonic()
            await asyncio.sleep(0.002)

    async def first_after(self, moment: float) -> float:
        """Seconds from `moment` to the first acknowledgement in the busy shard of a write that began later."""
        while True:
            ends = [end for key, (began, end) in self.acked.items() if began >= moment and BUSY in key]
            if ends:
                return min(ends) - moment
            await asyncio.sleep(0.005)

    def gap_s(self, since: float, until: float) -> float:
        """The longest time without an acknowledgement in the busy shard."""
        ends = sorted(end for key, (_, end) in self.acked.items() if BUSY in key and since <= end <= until)
        return max(later - earlier for earlier, later in itertools.pairwise([since, *ends, until]))


async def run(playground: Playground, kills: int, writers: int) -> int:
    """The measurement."""
    outages: list[float] = []
    gaps: list[float] = []
    restarts: list[float] = []
    checks = Checks(playground)
    async with kvclient.connect(playground.uri) as client:
        load = Load(client, writers)
        task = asyncio.create_task(load.run())
        await load.first_after(time.monotonic())
        shard = (await client.locate(BUSY)).shard
        for number in range(kills):
            topology = await asyncio.to_thread(checks.topology)
            victim = topology.shards[shard].leader
            killed_at = time.monotonic()
            await asyncio.to_thread(playground.kill, victim)
            outage_s = await asyncio.wait_for(load.first_after(killed_at), 30)
            await asyncio.sleep(0.5)
            gap_s = load.gap_s(killed_at, time.monotonic())
            began = time.monotonic()
            await asyncio.to_thread(playground.start, victim)
            await asyncio.to_thread(playground.wait_caught_up, victim)
            await asyncio.to_thread(playground.wait_serving)
            restart_s = time.monotonic() - began
            outages.append(outage_s)
            gaps.append(gap_s)
            restarts.append(restart_s)
            took = f"writes after {outage_s:.3f} s, longest gap {gap_s:.3f} s, back after {restart_s:.2f} s"
            print(f"kill {number + 1:2} of {victim}: {took}", flush=True)
        load.over = True
        await task
        present = {item.key async for item in client.range(prefix="load/", keys_only=True, timeout=20)}
    lost = [key for key in load.acked if key not in present]
    equal, _ = await asyncio.to_thread(checks.agreement)
    print(machine())
    print(summary("kill to first acknowledged write", outages, "s"))
    print(summary("longest gap in the busy shard", gaps, "s"))
    print(summary("start to caught up and serving", restarts, "s"))
    print(f"{len(load.acked):,} writes acknowledged, {load.unknown} outcomes unknown, {load.failed} failed definitely")
    median_s = statistics.median(outages)
    return verdict(
        {
            f"the median of {kills} outages, {median_s:.2f} s, is under {MEDIAN_S_MAX} s": median_s < MEDIAN_S_MAX,
            f"no acknowledged write is lost ({len(lost)} are)": not lost,
            "all replicas of all shards agree": equal == playground.shards,
        }
    )


def main() -> int:
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--writers", type=int, default=16)
    options = parser.parse_args()
    with cluster() as playground:
        return asyncio.run(run(playground, options.kills, options.writers))


if __name__ == "__main__":
    sys.exit(main())
