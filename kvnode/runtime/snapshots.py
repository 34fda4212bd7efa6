"""Snapshots between nodes: a shard's flushed rows, for a follower whose next entry is cut (Ongaro 2014, chapter 5).

The sender reads one consistent view of the store; the receiver gathers the parts in a staging file and then replaces the
shard's rows in one synced transaction, keeping its own held eventual writes. A crash leaves the old state or the new one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack

import google_crc32c
import structlog

from kvapi.v1 import replication_pb2
from kvnode import limits
from kvnode.errors import Corrupt, KvnodeError
from kvnode.protocol.raft import leader
from kvnode.runtime.driver import Driver
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.flusher import Flusher
from kvnode.runtime.transport import PeerUnreachable, Transport
from kvnode.runtime.worker import Worker
from kvnode.shard.replica import Replica
from kvnode.shard.rows import checked
from kvnode.shard.state_machine import LOCAL, META, Position, StateMachine
from kvnode.storage.disk import Disk, OutOfSpace
from kvnode.storage.snapshot import Staging, encode_chunks
from kvnode.storage.store import Store
from kvnode.storage.table import Table
from kvnode.types import Index, NodeName, Seconds, Shard, Term

logger = structlog.get_logger(__name__)

INSTALL_TIMEOUT: Seconds = 600.0
"""For a whole snapshot; a peer that dies is noticed by its connection."""


class Snapshots:
    """Sends and installs."""

    def __init__(
        self,
        driver: Driver,
        replicas: Mapping[Shard, Replica],
        tables: Mapping[Shard, Table],
        store: Store,
        disk: Disk,
        flusher: Flusher,
        store_worker: Worker,
        envelopes: Envelopes,
        transport: Transport,
    ) -> None:
        self._driver, self._replicas, self._tables, self._store, self._disk = driver, replicas, tables, store, disk
        self._flusher, self._store_worker, self._envelopes, self._transport = flusher, store_worker, envelopes, transport
        self.sent = self.not_sent = self.installed = self.not_installed = 0
        """Snapshots since the start: brought to a peer, or not; taken from a leader, or refused."""
        self._staging: dict[Shard, tuple[tuple[NodeName, int, int], Staging]] = {}
        self._sending = asyncio.Semaphore(limits.SNAPSHOTS_SENT_AT_ONCE_MAX)
        self._installs: dict[asyncio.Task[None], None] = {}
        self._closed = False
        self.on_sent: Callable[[Shard, NodeName, Index, bool, Seconds], None] = lambda *sent: None
        self.on_installed: Callable[[Shard, NodeName, Index, Seconds], None] = lambda *installed: None

    async def send(self, to: NodeName, shard: Shard) -> None:
        """Brings a peer the shard as the last flush left it."""
        async with self._sending:
            await self._send(to, self._replicas[shard])

    async def _send(self, to: NodeName, replica: Replica) -> None:
        if not replica.is_leader:
            return
        shard, term = replica.shard, replica.raft.term
        index, success, began = 0, False, self._driver.loop.time()
        try:
            with ExitStack() as stack:
                async with self._flusher.lock:
                    # No flush runs: the rows and the position they stand for are of one transaction.
                    rows = stack.enter_context(self._store.snapshot(shard))
                    header = StateMachine.position(self._store.get(shard, META))
                index = header.index
                leader.on_snapshot_started(replica.raft, to, index)
                requests = self._requests(to, replica, term, header, rows)
                response = await self._transport.install_snapshot(to, requests, INSTALL_TIMEOUT)
            success = response.success
            self.sent += success
            self.not_sent += not success
            logger.info("snapshot sent", shard=shard, to=to, index=index, success=success)
        except (PeerUnreachable, KvnodeError) as error:
            self.not_sent += 1
            logger.warning("snapshot not delivered", shard=shard, to=to, index=index, error=str(error))
        finally:
            self.on_sent(shard, to, index, success, self._driver.loop.time() - began)
            if replica.is_leader and replica.raft.term == term:
                leader.on_snapshot_done(replica.raft, to, index, success, self._driver.loop.time())
                self._driver.wake(shard)

    def _requests(
        self, to: NodeName, replica: Replica, term: Term, header: Position, rows: Iterable[tuple[bytes, bytes]]
    ) -> Iterator[replication_pb2.InstallSnapshotRequest]:
        """The parts, all of one term: a leader that is deposed on the way must not speak in its successor's name."""
        shared = (row for row in rows if not row[0].startswith(LOCAL))
        offset, waiting = 0, None
        for data in encode_chunks(shared, limits.SNAPSHOT_CHUNK_SIZE_BYTES):
            if not (replica.is_leader and replica.raft.term == term):
                return
            if waiting is not None:
                yield waiting
            waiting = self._request(to, replica.shard, term, header, offset, data)
            offset += len(data)
        last = waiting if waiting is not None else self._request(to, replica.shard, term, header, 0, b"")
        last.done = True
        yield last

    def _request(
        self, to: NodeName, shard: Shard, term: Term, header: Position, offset: int, data: bytes
    ) -> replication_pb2.InstallSnapshotRequest:
        request = replication_pb2.InstallSnapshotRequest(
            shard=shard,
            term=term,
            last_index=header.index,
            last_term=header.term,
            offset=offset,
            data=data,
            crc32c=google_crc32c.value(data),
        )
        sealed: replication_pb2.InstallSnapshotRequest = self._envelopes.seal(to, request)
        return sealed

    async def on_part(self, request: replication_pb2.InstallSnapshotRequest) -> replication_pb2.InstallSnapshotResponse | None:
        """A part arrives. The last one, or a refusal, is answered."""
        replica = self._replicas.get(request.shard)
        sender, now = request.message.from_node, self._driver.loop.time()
        if replica is None or not replica.raft.on_snapshot_offered(sender, request.term, now):
            return self._answer(request, replica, success=False)
        self._driver.wake(request.shard)
        if request.last_index <= replica.applied:
            return self._answer(request, replica, success=True)
        if replica.installing or self._closed:
            return self._answer(request, replica, success=False)
        transfer = (sender, request.term, request.last_index)
        known = self._staging.get(request.shard)
        if known is None or known[0] != transfer or request.offset == 0:
            if request.offset:
                return self._answer(request, replica, success=False)
            # (Its files are touched by the store's thread alone.)
            staging = await self._store_worker.submit(Staging, self._disk, request.shard)
            known = self._staging[request.shard] = (transfer, staging)
        try:
            await self._store_worker.submit(known[1].append, request.offset, request.data, request.crc32c)
            if not request.done:
                return None
            if self._closed:
                return self._answer(request, replica, success=False)
            await asyncio.shield(self._start_install(replica, known[1], request))
        except (Corrupt, ValueError, OutOfSpace) as error:
            self.not_installed += 1
            logger.warning("snapshot refused", shard=request.shard, sender=sender, error=str(error))
            self._staging.pop(request.shard, None)
            return self._answer(request, replica, success=False)
        return self._answer(request, replica, success=True)

    def _start_install(
        self, replica: Replica, staging: Staging, request: replication_pb2.InstallSnapshotRequest
    ) -> asyncio.Task[None]:
        """An installation ends once it has begun, whoever still waits for its answer: between the store's transaction and
        the state machine's reload nothing may come."""
        replica.installing = True
        task = self._driver.loop.create_task(self._install(replica, staging, request), name=f"install shard {replica.shard}")
        self._installs[task] = None
        task.add_done_callback(self._on_install_done)
        return task

    def _on_install_done(self, task: asyncio.Task[None]) -> None:
        self._installs.pop(task, None)
        error = None if task.cancelled() else task.exception()
        if error is not None and not isinstance(error, Corrupt | ValueError | OutOfSpace):
            self._driver.fatal(error)

    async def stop(self) -> None:
        """Begins no installation any more, and waits for those that have begun."""
        self._closed = True
        await asyncio.gather(*self._installs, return_exceptions=True)

    async def _install(self, replica: Replica, staging: Staging, request: replication_pb2.InstallSnapshotRequest) -> None:
        shard, began = replica.shard, self._driver.loop.time()
        try:
            async with self._flusher.lock:
                if request.last_index > replica.applied:
                    # (Refused rows are found before the transaction ends: the old state stays.)
                    rows = checked(staging.finish(), Position(request.last_index, request.last_term))
                    await self._store_worker.submit(lambda: self._store.replace(shard, LOCAL, rows))
                    await self._store_worker.submit(staging.discard)
                    if not replica.log_continues(request.last_index, request.last_term):
                        # Before any entry behind the snapshot: a restart must not take the log's older entries for its past.
                        await self._driver.write_snapshot_mark(shard, request.last_index, request.last_term)
                    self.installed += 1
                    self._tables[shard].reset()
                    replica.on_snapshot_installed(request.last_index, request.last_term)
                    sender, seconds = request.message.from_node, self._driver.loop.time() - began
                    self.on_installed(shard, sender, request.last_index, seconds)
                    logger.info("snapshot installed", shard=shard, index=request.last_index, term=request.last_term)
        finally:
            replica.installing = False
            self._staging.pop(shard, None)
            self._driver.wake(shard)

    def _answer(
        self, request: replication_pb2.InstallSnapshotRequest, replica: Replica | None, success: bool
    ) -> replication_pb2.InstallSnapshotResponse:
        return replication_pb2.InstallSnapshotResponse(
            shard=request.shard,
            term=replica.raft.term if replica else 0,
            success=success,
            last_index=replica.applied if replica else 0,
        )
