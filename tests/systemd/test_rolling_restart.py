"""`systemctl restart` of one node after the other, with nothing in between, while clients work."""

from __future__ import annotations

import asyncio
import time
from typing import NamedTuple

import kvclient
from tests.integration import gaps
from tests.integration.neighbours import Neighbours
from tests.systemd.deployment import Deployment

SHARDS = 8
CALLERS = {"put": 16, "eventual": 2, "batch": 2, "txn": 2, "get": 2}


class Outcome(NamedTuple):
    """What a load saw."""

    record: gaps.Record
    missing: set[bytes]
    usual: gaps.Span
    restart: gaps.Span


def test_rolling_restart_of_all_units_under_load_fails_nothing_and_keeps_no_write_waiting(host: Deployment) -> None:
    """Through the SDK: all operations succeed, no strong write waits for more than 500 ms, what was acknowledged is there;
    systemd calls every stop a success, and has restarted nothing by itself."""
    host.start_all()
    before = {name: (host.pid(name), host.restarts(name)) for name in host.names}

    async def work(client: kvclient.AsyncClient) -> Outcome:
        async with gaps.Load(client, SHARDS, CALLERS) as load:
            await asyncio.sleep(1.0)
            began = load.record.mark("as usual")
            await asyncio.sleep(1.0)
            restarted_at = time.monotonic()
            for name in host.names:
                load.record.mark(f"restart of {name}")
                await asyncio.to_thread(host.machine.run, "systemctl", "restart", f"kvnode@{name}")
            await asyncio.sleep(0.5)
            ended = time.monotonic()
        present = {item.key async for item in client.range(prefix="gaps/", keys_only=True, timeout=30)}
        missing = load.record.acknowledged.keys() - present
        return Outcome(load.record, missing, (began, restarted_at), (restarted_at, ended))

    with Neighbours() as neighbours:
        seen = host.with_client(work)
    assert not seen.record.failed, gaps.table(seen.record.failed[:10], seen.record, seen.usual[0])
    assert not seen.missing
    for name, (pid, restarts) in before.items():
        assert host.machine.show(f"kvnode@{name}", "Result", "NRestarts") == {"Result": "success", "NRestarts": str(restarts)}
        assert host.pid(name) != pid
    gaps.demand_no_pause(seen.record, seen.usual, seen.restart, neighbours)
