"""A disk in memory that loses what a real one may lose. Implements `kvnode.storage.disk.Disk`.

Owns: files, what of them is durable, and the faults. Never: reads a clock or a random source but the one given.

- `crash()`: the power fails. Of every write that was not synced, any subset of its sectors survives (all, none, a prefix, or
  any); of the directory's changes that were not synced, any subset.
- `restart()`: the process was killed; the page cache survives, what was not synced stays so.
- `fail_next_sync()`: the sync fails, as on Linux: what it should have written is lost to the disk but still seen by reads, and
  later syncs do not write it.
- `capacity_bytes`: reserving more than that is OutOfSpace.
- `flip_bit()`: damage.
"""

from __future__ import annotations

import random
from collections.abc import Callable

from kvnode.invariant import invariant
from kvnode.storage.disk import SECTOR_SIZE_BYTES, DiskFailed, OutOfSpace


class _File:
    """`seen` is what reads return, `durable` what survives; both are padded with zeros up to `size`."""

    __slots__ = ("durable", "durable_size", "pending", "seen", "size")

    def __init__(self) -> None:
        self.size = 0
        self.durable_size = 0
        self.seen = bytearray()
        self.durable = bytearray()
        self.pending: list[tuple[int, bytes]] = []


def _overwrite(target: bytearray, offset: int, data: bytes) -> None:
    if len(target) < offset:
        target.extend(bytes(offset - len(target)))
    target[offset : offset + len(data)] = data


class SimulatedDisk:
    """One node's disk. The counters say what was done: for tests of what is *not* done."""

    def __init__(self, rng: random.Random, capacity_bytes: int = 2**40, ballast_size_bytes: int = 0) -> None:
        self.capacity_bytes = capacity_bytes
        self.writes, self.syncs = 0, 0
        self.on_sync: Callable[[str], None] | None = None
        """Called before each sync, for tests which stop the world there."""
        self._rng = rng
        self._ballast_size_bytes = ballast_size_bytes
        self._ballast_held_bytes = 0
        self._files: dict[str, _File] = {}
        self._durable_files: dict[str, _File] = {}
        self._directory_changes: list[tuple[str, str, _File | None]] = []
        self._failed: str | None = None
        self._fails_next_sync = False
        self._fails_next_write = False
        self.restore_ballast()

    # The port.

    def names(self) -> list[str]:
        return sorted(self._files)

    def size(self, name: str) -> int:
        return self._file(name).size

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        file = self._file(name)
        end = file.size if size_bytes is None else min(file.size, offset + size_bytes)
        return bytes(file.seen[offset:end]).ljust(max(0, end - offset), b"\0")

    def preallocate(self, name: str, size_bytes: int) -> None:
        self._check()
        file = self._files.get(name)
        missing = size_bytes - (file.size if file else 0)
        if file is not None and missing <= 0:
            return
        if missing > self.free_bytes():
            raise OutOfSpace(f"{name}: no space for {missing} more bytes")
        if file is None:
            file = self._files[name] = _File()
            self._directory_changes.append((name, "", file))
        file.size = file.durable_size = size_bytes

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._check()
        file = self._file(name)
        invariant(offset + len(data) <= file.size, f"{name}: a write beyond what was preallocated")
        if self._fails_next_write:
            self._fails_next_write = False
            raise self._fail(f"cannot write {name}")
        self.writes += 1
        _overwrite(file.seen, offset, data)
        file.pending.append((offset, data))

    def sync(self, name: str) -> None:
        self._check()
        file = self._file(name)
        if self.on_sync:
            self.on_sync(name)
        if self._fails_next_sync:
            self._fails_next_sync = False
            self._lose_pending(file)
            raise self._fail(f"cannot sync {name}")
        self.syncs += 1
        for offset, data in file.pending:
            _overwrite(file.durable, offset, data)
        file.pending.clear()

    def sync_directory(self) -> None:
        self._check()
        if self.on_sync:
            self.on_sync("")
        if self._fails_next_sync:
            self._fails_next_sync = False
            raise self._fail("cannot sync the directory")
        self._durable_files = dict(self._files)
        self._directory_changes.clear()

    def rename(self, name: str, new_name: str) -> None:
        self._check()
        self._files[new_name] = self._files.pop(name)
        self._directory_changes.append((name, new_name, None))

    def remove(self, name: str) -> None:
        self._check()
        if self._files.pop(name, None) is not None:
            self._directory_changes.append((name, "", None))

    def close(self, name: str) -> None:
        pass

    def free_bytes(self) -> int:
        return max(0, self.capacity_bytes - self._ballast_held_bytes - sum(file.size for file in self._files.values()))

    def has_space(self, size_bytes: int = 0) -> bool:
        return self.free_bytes() > size_bytes

    def release_ballast(self) -> None:
        self._check()
        self._ballast_held_bytes = 0

    def restore_ballast(self) -> bool:
        self._check()
        if not self._ballast_held_bytes and self.free_bytes() >= self._ballast_size_bytes:
            self._ballast_held_bytes = self._ballast_size_bytes
        return self._ballast_held_bytes == self._ballast_size_bytes

    def random_bytes(self, size_bytes: int) -> bytes:
        return self._rng.randbytes(size_bytes)

    # Faults.

    def crash(self) -> None:
        """The power fails and comes back."""
        files = dict(self._durable_files)
        for name, new_name, created in self._directory_changes:
            if self._rng.random() < 0.5:
                continue
            if created is not None:
                files[name] = created
            elif name in files:
                file = files.pop(name)
                if new_name:
                    files[new_name] = file
        for file in files.values():
            self._lose_pending(file)
            file.seen[:] = file.durable
            file.size = file.durable_size
        self._files, self._durable_files = files, dict(files)
        self._directory_changes.clear()
        self.restart()

    def restart(self) -> None:
        """The process was killed and starts again on the same page cache; or the disk was found to be good again."""
        self._failed = None
        self._fails_next_sync = self._fails_next_write = False

    def fail_next_sync(self) -> None:
        """The next sync fails, and with it every later write, until `restart` or `crash`."""
        self._fails_next_sync = True

    def fail_next_write(self) -> None:
        """The next write fails, and with it every later one, until `restart` or `crash`."""
        self._fails_next_write = True

    def flip_bit(self, name: str, bit: int) -> None:
        """Damage one bit, on the disk and in the page cache."""
        file = self._file(name)
        for content in (file.seen, file.durable):
            _overwrite(content, bit // 8, bytes([(content[bit // 8] if bit // 8 < len(content) else 0) ^ (1 << bit % 8)]))

    def truncate(self, name: str, size_bytes: int) -> None:
        """Damage: the file's end is gone."""
        file = self._file(name)
        file.size = file.durable_size = size_bytes
        del file.seen[size_bytes:], file.durable[size_bytes:]

    def _lose_pending(self, file: _File) -> None:
        """Let any subset of the sectors of what was not synced reach the disk."""
        rng = self._rng
        for offset, data in file.pending:
            sectors, at = [], 0
            while at < len(data):
                end = min(len(data), at + SECTOR_SIZE_BYTES - (offset + at) % SECTOR_SIZE_BYTES)
                sectors.append((offset + at, data[at:end]))
                at = end
            fate = rng.randrange(4)
            if fate == 0:
                continue
            if fate == 1:
                sectors = sectors[: rng.randrange(len(sectors) + 1)]
            for start, sector in sectors:
                if fate != 3 or rng.random() < 0.5:
                    _overwrite(file.durable, start, sector)
        file.pending.clear()

    def _file(self, name: str) -> _File:
        file = self._files.get(name)
        if file is None:
            raise FileNotFoundError(name)
        return file

    def _check(self) -> None:
        if self._failed is not None:
            raise DiskFailed(self._failed)

    def _fail(self, message: str) -> DiskFailed:
        self._failed = f"{message}: injected"
        return DiskFailed(self._failed)
