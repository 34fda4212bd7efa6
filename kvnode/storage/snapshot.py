"""Snapshots on their way: a shard's rows as chunks of bytes, and the file where a follower gathers them.

Owns: the chunks' format, the staging files (`snapshot-<shard>`). Never: installs anything; `Store.replace` does.

A chunk is one or more whole rows: key size u16, value size u32, key, value. So it is at most `chunk_size_bytes` long, unless a
single row is longer.

Invariants: what `Staging.finish` yields is exactly what was appended, each chunk checked against its CRC-32C once more; a
staging file never survives a restart.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator

import google_crc32c

from kvnode.errors import Corrupt
from kvnode.storage.disk import Disk
from kvnode.types import Shard

_PREFIX = "snapshot-"
_ROW = struct.Struct("<HI")
_RESERVED_SIZE_BYTES = 4 * 1024 * 1024
"""Space is reserved in steps of this size."""


def encode_chunks(rows: Iterable[tuple[bytes, bytes]], chunk_size_bytes: int) -> Iterator[bytes]:
    """Yield the rows as chunks; none, if there are no rows."""
    parts: list[bytes] = []
    size_bytes = 0
    for key, value in rows:
        row_size_bytes = _ROW.size + len(key) + len(value)
        if parts and size_bytes + row_size_bytes > chunk_size_bytes:
            yield b"".join(parts)
            parts, size_bytes = [], 0
        parts += (_ROW.pack(len(key), len(value)), key, value)
        size_bytes += row_size_bytes
    if parts:
        yield b"".join(parts)


def decode_chunk(data: bytes) -> list[tuple[bytes, bytes]]:
    """Return the rows of a chunk. Corrupt, if it is not made of whole rows."""
    rows: list[tuple[bytes, bytes]] = []
    offset, end = 0, len(data)
    while offset < end:
        if offset + _ROW.size > end:
            raise Corrupt(f"a snapshot's chunk ends within a row, at byte {offset} of {end}")
        key_size, value_size = _ROW.unpack_from(data, offset)
        key_end = offset + _ROW.size + key_size
        value_end = key_end + value_size
        if value_end > end or not key_size:
            raise Corrupt(f"a snapshot's chunk has a malformed row at byte {offset} of {end}")
        rows.append((data[offset + _ROW.size : key_end], data[key_end:value_end]))
        offset = value_end
    return rows


def remove_leftovers(disk: Disk) -> None:
    """Remove what a transfer left that was under way when the node stopped. Call it at the start."""
    for name in disk.names():
        if name.startswith(_PREFIX):
            disk.remove(name)


class Staging:
    """A snapshot of one shard being received. Begins empty, whatever an earlier one left."""

    def __init__(self, disk: Disk, shard: Shard) -> None:
        self._disk = disk
        self._name = f"{_PREFIX}{shard}"
        self._size_bytes = 0
        self._reserved_bytes = 0
        self._chunks: list[tuple[int, int, int]] = []
        disk.remove(self._name)

    @property
    def size_bytes(self) -> int:
        """The bytes received: the offset of the next chunk."""
        return self._size_bytes

    def append(self, offset: int, data: bytes, crc: int) -> None:
        """Write the chunk that begins at `offset`; one that is there already is ignored.

        Corrupt: `crc` (CRC-32C) is not the data's. ValueError: the chunk does not continue what is there. OutOfSpace: nothing
        was written. DiskFailed.
        """
        if google_crc32c.value(data) != crc:
            raise Corrupt(f"{self._name}: the chunk at byte {offset} was damaged on its way; send it again")
        if offset + len(data) <= self._size_bytes:
            return
        if offset != self._size_bytes:
            raise ValueError(f"{self._name}: a chunk at byte {offset} does not continue the {self._size_bytes} bytes before it")
        end = offset + len(data)
        if end > self._reserved_bytes:
            reserved_bytes = -(-end // _RESERVED_SIZE_BYTES) * _RESERVED_SIZE_BYTES
            self._disk.preallocate(self._name, reserved_bytes)
            self._reserved_bytes = reserved_bytes
        self._disk.write(self._name, offset, data)
        self._chunks.append((offset, len(data), crc))
        self._size_bytes = end

    def finish(self) -> Iterator[tuple[bytes, bytes]]:
        """Sync the file, and yield its rows as they are read back. Corrupt, if a chunk is not what was written."""
        if self._chunks:
            self._disk.sync(self._name)
        return self._read_back()

    def _read_back(self) -> Iterator[tuple[bytes, bytes]]:
        for offset, size_bytes, crc in self._chunks:
            data = self._disk.read(self._name, offset, size_bytes)
            if google_crc32c.value(data) != crc:
                message = f"{self._name}: the chunk at byte {offset} is not what was written; check the disk"
                raise Corrupt(message, file=self._name)
            yield from decode_chunk(data)

    def discard(self) -> None:
        """Remove the file."""
        self._disk.remove(self._name)
        self._chunks.clear()
        self._size_bytes = self._reserved_bytes = 0
