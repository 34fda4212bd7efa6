"""A store in memory: the verified fake of `LmdbStore`, for the simulator and for tests.

Owns: rows in dictionaries. Never: touches a file. It passes the same tests as `LmdbStore`; imports no LMDB.
"""

from __future__ import annotations

import random
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

from kvnode.storage.disk import DiskFailed, OutOfSpace
from kvnode.types import Shard


class _Rows:
    """One shard's rows. `keys` is sorted, or None; it is replaced and never changed, so that a scan can go on over it."""

    __slots__ = ("keys", "values")

    def __init__(self, values: dict[bytes, bytes]) -> None:
        self.values = values
        self.keys: list[bytes] | None = None

    def ordered(self) -> list[bytes]:
        if self.keys is None:
            self.keys = sorted(self.values)
        return self.keys


class MemoryStore:
    """What is committed is "durable": `crash` loses nothing else, since a transaction is there whole or not at all.

    `rng` decides whether a commit that fails as a disk does is nevertheless there after the crash.
    """

    def __init__(self, rng: random.Random | None = None, size_bytes_max: int = 2**40) -> None:
        self.size_bytes_max = size_bytes_max
        self.commits = 0
        self._rng = rng or random.Random(0)
        self._shards: dict[Shard, _Rows] = {}
        self._size_bytes = 0
        self._fails_next_commit = False
        self._failed: str | None = None
        self._unknown: dict[Shard, _Rows] | None = None

    def get(self, shard: Shard, key: bytes) -> bytes | None:
        rows = self._shards.get(shard)
        return rows.values.get(key) if rows else None

    def scan(self, shard: Shard, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
        rows = self._shards.get(shard)
        return _scan(rows.values, rows.ordered(), start, end) if rows else iter(())

    def commit(self, rows: Mapping[Shard, Iterable[tuple[bytes, bytes | None]]]) -> None:
        changed: dict[Shard, _Rows] = {}
        for shard, changes in rows.items():
            old = self._shards.get(shard)
            values = dict(old.values) if old else {}
            for key, value in changes:
                if value is None:
                    values.pop(key, None)
                else:
                    values[key] = value
            changed[shard] = _Rows(values)
        self._install(changed)

    def replace(self, shard: Shard, keep: bytes, rows: Iterable[tuple[bytes, bytes]]) -> None:
        old = self._shards.get(shard)
        values = {key: value for key, value in old.values.items() if keep and key.startswith(keep)} if old else {}
        values.update(rows)
        self._install({shard: _Rows(values)})

    @contextmanager
    def snapshot(self, shard: Shard) -> Iterator[Iterable[tuple[bytes, bytes]]]:
        rows = self._shards.get(shard) or _Rows({})
        yield _scan(rows.values, rows.ordered(), b"", None)

    @property
    def size_bytes(self) -> int:
        return self._size_bytes

    def close(self) -> None:
        pass

    def fail_next_commit(self) -> None:
        """The next transaction raises DiskFailed, as does every later one until `crash`."""
        self._fails_next_commit = True

    def crash(self) -> None:
        """The node stops and starts again. A transaction that failed may turn out to be there."""
        if self._unknown is not None and self._rng.random() < 0.5:
            self._shards.update(self._unknown)
        self._unknown = self._failed = None
        self._fails_next_commit = False

    def _install(self, changed: dict[Shard, _Rows]) -> None:
        """Rows of a shard are replaced as a whole: iterators over the old ones go on undisturbed."""
        if self._failed is not None:
            raise DiskFailed(self._failed)
        size_bytes = sum(
            len(key) + len(value) for rows in {**self._shards, **changed}.values() for key, value in rows.values.items()
        )
        if size_bytes > self.size_bytes_max:
            raise OutOfSpace(f"{size_bytes} bytes would exceed the store's {self.size_bytes_max} bytes; nothing was changed")
        if self._fails_next_commit:
            self._unknown, self._failed = changed, "cannot commit to the store: injected"
            raise DiskFailed(self._failed)
        self._shards.update(changed)
        self._size_bytes = size_bytes
        self.commits += 1


def _scan(values: Mapping[bytes, bytes], keys: list[bytes], start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    for at in range(bisect_left(keys, start), len(keys) if end is None else bisect_left(keys, end)):
        yield keys[at], values[keys[at]]
