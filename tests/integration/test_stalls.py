"""What must not hold the event loop up, in real time on a real disk. (Beside other tests it would measure those.)"""

from __future__ import annotations

import asyncio
import random
import time
from pathlib import Path

from kvnode.storage.store import LmdbStore

MIB = 1024**2


async def test_store_lmdb_commit_of_many_rows_does_not_stall_the_event_loop(tmp_path: Path) -> None:
    """20,000 rows are committed on another thread while the loop turns on (the target is 10 ms; the bound leaves room for a
    busy machine)."""
    store = LmdbStore(tmp_path, 256 * MIB)
    rng = random.Random(1)
    rows = {rng.randbytes(20): rng.randbytes(150) for _ in range(20_000)}
    commit = asyncio.get_running_loop().run_in_executor(None, store.commit, {1: rows.items()})
    pauses, last = [], time.perf_counter()
    while not commit.done():
        await asyncio.sleep(0)
        now = time.perf_counter()
        pauses.append(now - last)
        last = now
    await commit
    pauses.sort()
    assert pauses[len(pauses) * 99 // 100] < 0.010
    assert pauses[-1] < 0.100
    store.close()
