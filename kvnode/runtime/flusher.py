"""Moves the memory tables into the store, then cuts the log; and makes room when the disk is full.

All shards are frozen at the same moment, each at its applied index, and committed in one synced transaction with
everything these indexes imply; only then may the log forget them (DESIGN sections 5 and 12.14).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from typing import Protocol

import structlog

from kvclient.histogram import Histogram
from kvnode.runtime.driver import Driver
from kvnode.runtime.worker import Worker
from kvnode.shard.replica import Replica
from kvnode.storage.disk import Disk, OutOfSpace
from kvnode.storage.log import Log
from kvnode.storage.store import Store
from kvnode.storage.table import Table
from kvnode.types import Seconds, Shard

logger = structlog.get_logger(__name__)

NODE_ROWS: Shard = 65_535
"""The store's place for rows of the node itself, behind every shard."""

FULL_RETRY_INTERVAL: Seconds = 1.0
"""A flush that found no space is tried again after this: it costs the loop time, and space does not come back that fast."""

Rows = list[tuple[bytes, bytes | None]]


class NodeState(Protocol):
    """What the node itself has to be flushed; `runtime.history` is the real one."""

    def rows(self) -> Rows: ...
    def on_flushed(self) -> None: ...


class Flusher:
    """One flush at a time; installing a snapshot excludes it through `lock`."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        tables: Mapping[Shard, Table],
        log: Log,
        store: Store,
        disk: Disk,
        log_worker: Worker,
        store_worker: Worker,
        memtable_size_bytes: int,
        interval: Seconds,
        entries_retained: int,
        node: NodeState,
    ) -> None:
        self._driver, self._replicas, self._tables = driver, replicas, tables
        self._log, self._store, self._disk = log, store, disk
        self._log_worker, self._store_worker = log_worker, store_worker
        self.memtable_size_bytes, self.interval = memtable_size_bytes, interval
        """What is too large, and too old, to stay in memory; may be changed at any time."""
        self._entries_retained = entries_retained
        self._node = node
        self._retry_at: Seconds = 0.0
        self.lock = asyncio.Lock()
        self._flushed_at = driver.loop.time()
        self._flush_out_of_space = False
        self.flushes = 0
        self.durations = Histogram()
        """Of flushes that succeeded, the cutting of the log left out."""
        driver.on_space_wanted = self._on_space_wanted
        self._space_task: asyncio.Task[None] | None = None

    @property
    def due(self) -> bool:
        """Whether the tables are large enough, or old enough, to be flushed; after a full disk not at once again."""
        if self._driver.loop.time() < self._retry_at:
            return False
        size = sum(table.size_bytes for table in self._tables.values())
        old = self._driver.loop.time() - self._flushed_at >= self.interval
        # (Not every entry writes into the table before it is frozen: votes, ends and results do not.)
        return size >= self.memtable_size_bytes or (old and any(r.applied > r.flushed for r in self._replicas.values()))

    async def maybe_flush(self) -> None:
        """To be called regularly."""
        if self._driver.out_of_space or self._flush_out_of_space:
            await self._maybe_leave_full_disk()
        if self.due and not self.lock.locked():
            await self.flush()

    async def flush(self) -> bool:
        """Flushes everything that is applied now. False: no space; nothing changed, and writes are refused."""
        async with self.lock:
            began = self._driver.loop.time()
            segment = self._log.active_segment
            flushed = {shard: replica.before_freeze() for shard, replica in self._replicas.items()}
            rows: dict[Shard, Rows] = {}
            for shard, replica in self._replicas.items():
                rows[shard] = list(self._tables[shard].freeze().items())
                rows[shard].extend(replica.local_rows())
            rows[NODE_ROWS] = self._node.rows()
            try:
                await self._store_worker.submit(self._store.commit, rows)
            except OutOfSpace as error:
                for table in self._tables.values():
                    table.thaw(flushed=False)
                self._on_full(error)
                return False
            except BaseException as error:
                self._driver.fatal(error)
                raise
            for table in self._tables.values():
                table.thaw(flushed=True)
            for shard, replica in self._replicas.items():
                replica.on_flushed(flushed[shard], self._entries_retained)
            self._node.on_flushed()
            self._flushed_at = self._driver.loop.time()
            self.durations.record(int((self._flushed_at - began) * 1_000_000))
            self.flushes += 1
            self._flush_out_of_space = False
            cut = await self._log_worker.submit(self._log.cut, flushed, segment)
            logger.debug("flushed", rows=sum(len(part) for part in rows.values()), segments_cut=cut)
            return True

    # ---- a full disk ------------------------------------------------------------------------------------------------

    def _on_full(self, error: OutOfSpace) -> None:
        self._flush_out_of_space = True
        self._retry_at = self._driver.loop.time() + FULL_RETRY_INTERVAL
        self._driver.set_out_of_space(True, str(error))

    def _on_space_wanted(self) -> None:
        if self._space_task is None or self._space_task.done():
            self._space_task = self._driver.loop.create_task(self._make_room(), name="make room")

    async def _make_room(self) -> None:
        """Gives the ballast back, so that a flush can finish and the log be cut."""
        self._disk.release_ballast()
        if not self.lock.locked() and any(table.size_bytes for table in self._tables.values()):
            await self.flush()

    async def _maybe_leave_full_disk(self) -> None:
        if self._flush_out_of_space:
            if self._driver.loop.time() < self._retry_at or self.lock.locked():
                return
            self._disk.release_ballast()
            if not await self.flush():
                return
        if self._driver.writing_blocked or not self._disk.restore_ballast():
            return
        self._driver.set_out_of_space(False)

    async def stop(self) -> None:
        """Waits for what runs."""
        if self._space_task is not None:
            self._space_task.cancel()
            await asyncio.gather(self._space_task, return_exceptions=True)
