"""All nodes restarted, one right after the other, under load: nobody's operation fails, and no write waits for half a second.

Nobody waits between two nodes until the first has caught up: who restarts units with a service manager does not, either.
"""

from __future__ import annotations

import asyncio
import time

import kvclient
from kvctl.playground import Playground
from tests.integration import gaps, harness
from tests.integration.neighbours import Neighbours

STOP_S_MAX = 5.0
CALLERS = {"put": 16, "eventual": 2, "batch": 2, "txn": 2, "get": 2, "increment": 1}
"""Two puts a shard. One counter, which one caller increments, shows whether a transaction was executed twice."""


async def test_rolling_restart_under_load_fails_nothing_and_keeps_no_write_waiting() -> None:
    """Strong and eventual writes, batches, and transactions over shards, through both clients, and through one that is
    connected to the leader of its one shard alone: all are acknowledged; no strong write waits for more than 500 ms; each node
    stops within 5 s, and in good order; in the end all replicas agree."""
    with Neighbours() as neighbours, harness.playground() as cluster:
        with kvclient.connect_sync(cluster.uri) as blocking:
            async with harness.connect(cluster) as client, harness.connect(cluster) as lonely:
                async with (
                    gaps.Load(client, cluster.shards, CALLERS) as load,
                    gaps.Load(lonely, cluster.shards, {"put": 1}, name="lonely") as single,
                ):
                    with gaps.blocking_writer(blocking, load.record, cluster.shards):
                        await asyncio.sleep(1.0)
                        began = load.record.mark("as usual")
                        await asyncio.sleep(1.5)
                        restarted_at = load.record.mark("restart")
                        stops = await asyncio.to_thread(restart_all, cluster, load.record)
                        await asyncio.sleep(0.5)
                        ended = time.monotonic()
                record = load.record
                increments = sum(write.error is None for write in record.writes if write.writer.startswith("increment"))
                failed = [*record.failed, *single.record.failed]
                assert not failed, gaps.table(failed[:10], record, began)
                assert await load.counted() == [increments, increments]
                present = {item.key async for item in client.range(prefix="gaps/", keys_only=True, timeout=30)}
                assert not record.acknowledged.keys() - present
        assert max(stops.values()) < STOP_S_MAX, stops
        for name in cluster.names:
            assert [line["event"] for line in harness.log_lines(cluster, name) if line["event"] in ("stopped", "stopping")] == [
                "stopping",
                "stopped",
            ]
        await asyncio.to_thread(harness.await_agreement, cluster)
    for each in (record, single.record):
        gaps.demand_no_pause(each, (began, restarted_at), (restarted_at, ended), neighbours)


def restart_all(cluster: Playground, record: gaps.Record) -> dict[str, float]:
    """Stops each node, and starts it until it answers; the seconds that each stop took."""
    stops = {}
    for name in cluster.names:
        record.mark(f"{name} stops")
        stops[name] = cluster.stop(name)
        record.mark(f"{name} starts")
        cluster.start(name)
    return stops
