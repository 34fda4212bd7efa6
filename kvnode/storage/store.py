"""The store: ordered rows of all shards on disk, changed by atomic, synced transactions.

Owns: the LMDB environment. Never: interprets keys (beyond the shard in front of them) or values; syncs lazily.

Invariants:
- A commit is there whole or not at all, also after a power failure, and is durable when `commit` returns.
- Readers never wait for a commit, and see the last finished one.
- No read transaction outlives the next commit, unless a scan or a snapshot is still at it: LMDB cannot reuse pages that an old
  reader may need.

`commit` and `replace` run on the flush thread, `get` and `scan` on the event loop's, `snapshot` on any.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from itertools import islice
from pathlib import Path
from typing import Protocol, cast

import lmdb

from kvnode.errors import RESTORE, Corrupt
from kvnode.storage.disk import DiskFailed, OutOfSpace, sync_entries
from kvnode.types import Shard

CHUNK_ROWS = 256
"""Rows put before the flush thread offers the interpreter to the event loop: half a millisecond of work."""
YIELD_S = 0.0002
"""How long it then sleeps. Releasing the interpreter without sleeping does not hand it over: the releaser would mostly win it
back before the event loop's thread has woken up."""
READERS_MAX = 64
FULL_SIZE_BYTES = 1024 * 1024
"""A disk with less free space is full: a write that was cut short took what there was."""
KEY_SIZE_BYTES_MAX = 511 - 2

Row = tuple[bytes, bytes]


class Store(Protocol):
    """Ordered rows by shard. Keys are 1 to 509 bytes."""

    def get(self, shard: Shard, key: bytes) -> bytes | None:
        """Return the value, or None."""

    def scan(self, shard: Shard, start: bytes, end: bytes | None) -> Iterator[Row]:
        """Yield the rows of [start, end) in byte order, as of now; `end` None: to the shard's last."""

    def commit(self, rows: Mapping[Shard, Iterable[tuple[bytes, bytes | None]]]) -> None:
        """Put rows (None deletes) in one atomic, synced transaction. OutOfSpace: nothing changed. DiskFailed: final, and
        unknown whether it is there."""

    def replace(self, shard: Shard, keep: bytes, rows: Iterable[Row]) -> None:
        """Delete all rows of the shard but those whose keys begin with `keep`, then put `rows`; one atomic, synced transaction.
        Errors as `commit`; if `rows` raises, nothing changed."""

    def snapshot(self, shard: Shard) -> AbstractContextManager[Iterable[Row]]:
        """Return a context with all rows of the shard in order, as they are on entering, whatever is committed meanwhile."""

    @property
    def size_bytes(self) -> int:
        """Return the disk space in use."""

    def close(self) -> None:
        """Release the files. Everything is durable already."""


class LmdbStore:
    """LMDB (Chu 2012): a copy-on-write B+tree in a memory map; readers take no locks, the one writer no log."""

    def __init__(self, directory: str | Path, map_size_bytes: int, *, is_read_only: bool = False) -> None:
        """`is_read_only`: nothing is made or locked, not even for reading; only for the store of a node that does not run."""
        if not is_read_only:
            os.makedirs(directory, exist_ok=True)
        self._where = os.fspath(directory)
        self._failed: str | None = None
        self._lock = threading.Lock()
        self._read: lmdb.Transaction | None = None
        self._prefixes: dict[Shard, bytes] = {}
        try:
            # Read-ahead would fetch the neighbours of pages that are read at random. No writable map: a full disk must be an
            # error, not a SIGBUS.
            self._env = lmdb.open(
                self._where,
                map_size=map_size_bytes,
                readahead=False,
                writemap=False,
                max_readers=READERS_MAX,
                max_spare_txns=4,
                readonly=is_read_only,
                create=not is_read_only,
                lock=not is_read_only,
            )
        except (lmdb.CorruptedError, lmdb.InvalidError, lmdb.VersionMismatchError) as error:
            raise Corrupt(
                f"the store in {self._where} is damaged: {error}. The other replicas go on without this node. Check the disk; "
                + RESTORE,
                file=self._where,
            ) from error
        except lmdb.DiskError as error:
            raise OutOfSpace(f"no space to create the store in {self._where}") from error
        except lmdb.MemoryError as error:
            raise OSError(
                f"the map of {map_size_bytes} bytes for the store in {self._where} does not fit into this process's address "
                "space: lift its limit (LimitAS=, `ulimit -v`), or lower storage.store_size_bytes_max"
            ) from error
        except lmdb.Error as error:
            message = f"cannot open the store in {self._where}: {error}. Check the disk (kernel log, SMART)"
            raise DiskFailed(message) from error
        if not is_read_only:
            sync_entries(self._where)  # (LMDB syncs its files, but not that they are there; the log is cut on their word.)

    def get(self, shard: Shard, key: bytes) -> bytes | None:
        try:
            value = (self._read or self._begin()).get((self._prefixes.get(shard) or self._prefix(shard)) + key)
        except lmdb.Error as error:
            raise self._unreadable(error) from error
        return cast("bytes | None", value)

    def scan(self, shard: Shard, start: bytes, end: bytes | None) -> Iterator[Row]:
        return self._rows(self._read or self._begin(), shard, start, end)

    def commit(self, rows: Mapping[Shard, Iterable[tuple[bytes, bytes | None]]]) -> None:
        with self._transaction() as (txn, cursor):
            for shard, changes in rows.items():
                prefix = self._prefix(shard)
                pending = iter(changes)
                while chunk := list(islice(pending, CHUNK_ROWS)):
                    puts: list[Row] = []
                    for key, value in chunk:
                        if value is not None:
                            puts.append((prefix + key, value))
                            continue
                        # In order: the key may be among the puts.
                        if puts:
                            cursor.putmulti(puts)
                            puts = []
                        txn.delete(prefix + key)
                    if puts:
                        cursor.putmulti(puts)
                    time.sleep(YIELD_S)

    def replace(self, shard: Shard, keep: bytes, rows: Iterable[Row]) -> None:
        prefix = self._prefix(shard)
        kept, kept_end = prefix + keep, successor(prefix + keep) if keep else prefix
        with self._transaction() as (_, cursor):
            found, deleted = cursor.set_range(prefix), 0
            while found and (key := bytes(cursor.key())).startswith(prefix):
                if keep and key.startswith(kept):
                    found = kept_end is not None and cursor.set_range(kept_end)
                    continue
                cursor.delete()
                found = bool(cursor.key())
                deleted += 1
                if deleted % CHUNK_ROWS == 0:
                    time.sleep(YIELD_S)
            pending = iter(rows)
            while chunk := [(prefix + key, value) for key, value in islice(pending, CHUNK_ROWS)]:
                cursor.putmulti(chunk)
                time.sleep(YIELD_S)

    @contextmanager
    def snapshot(self, shard: Shard) -> Iterator[Iterable[Row]]:
        txn = self._env.begin(buffers=False)
        try:
            yield self._rows(txn, shard, b"", None)
        finally:
            txn.abort()

    @property
    def size_bytes(self) -> int:
        return os.stat(os.path.join(self._where, "data.mdb")).st_blocks * 512

    def close(self) -> None:
        with self._lock:
            self._read = None
        self._env.close()

    def _begin(self) -> lmdb.Transaction:
        """Begin the read transaction that all reads share until the next commit has finished.

        Under the lock: else one begun before a commit finished could be stored after `_transaction` dropped its predecessor.
        """
        with self._lock:
            self._read = txn = self._env.begin(buffers=False)
            return txn

    def _rows(self, txn: lmdb.Transaction, shard: Shard, start: bytes, end: bytes | None) -> Iterator[Row]:
        prefix = self._prefix(shard)
        try:
            cursor = txn.cursor()
            if cursor.set_range(prefix + start):
                last = successor(prefix) if end is None else prefix + end
                for key, value in cast("Iterator[Row]", cursor.iternext()):
                    if last is not None and key >= last:
                        return
                    yield key[2:], value
        except lmdb.Error as error:
            raise self._unreadable(error) from error

    @contextmanager
    def _transaction(self) -> Iterator[tuple[lmdb.Transaction, lmdb.Cursor]]:
        """A write transaction, committed and synced at the end; aborted if anything was raised."""
        if self._failed is not None:
            raise DiskFailed(self._failed)
        try:
            with self._env.begin(write=True) as txn, txn.cursor() as cursor:
                yield txn, cursor
        except lmdb.Error as error:
            if self._is_full(error):
                raise OutOfSpace(f"no space for a transaction in {self._where}: {error}; nothing was changed") from error
            self._failed = f"cannot commit to the store in {self._where}: {error}. Stop the node and check the disk"
            raise DiskFailed(self._failed) from error
        finally:
            with self._lock:
                self._read = None

    def _is_full(self, error: lmdb.Error) -> bool:
        """Say whether a transaction failed for want of space.

        A write that a full disk cuts short is reported by LMDB as an input/output error, not as ENOSPC (`mdb_page_flush`).
        Taking a real one for it, on a disk that is also full, is harmless: the meta page still names the old tree, whose pages
        no failed transaction touches, and the next one writes all its pages again. If the meta page itself fails, LMDB
        panics.
        """
        if isinstance(error, lmdb.MapFullError | lmdb.DiskError | lmdb.TxnFullError):
            return True
        if not any(os.strerror(number) in str(error) for number in (errno.EIO, errno.EDQUOT)):
            return False
        status = os.statvfs(self._where)
        return status.f_bavail * status.f_frsize < FULL_SIZE_BYTES or os.strerror(errno.EDQUOT) in str(error)

    def _prefix(self, shard: Shard) -> bytes:
        prefix = self._prefixes.get(shard)
        if prefix is None:
            prefix = self._prefixes[shard] = shard.to_bytes(2, "big")
        return prefix

    def _unreadable(self, error: lmdb.Error) -> Exception:
        message = f"cannot read the store in {self._where}: {error}"
        if isinstance(error, lmdb.CorruptedError | lmdb.PageNotFoundError):
            return Corrupt(message, file=self._where)
        return DiskFailed(message)


def successor(prefix: bytes) -> bytes | None:
    """Return the first key behind all that begin with `prefix`; None if there is none."""
    stripped = prefix.rstrip(b"\xff")
    return stripped[:-1] + bytes([stripped[-1] + 1]) if stripped else None
