"""A key's stored version: value or tombstone, with what later writes are compared against."""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvnode.errors import Corrupt
from kvnode.protocol.eventual.verdict import Current, Stamp
from kvnode.types import Hlc, Index, NodeName

_HEADER = struct.Struct(">BQQQQQQB")
_TOMBSTONE = 1


class Version(NamedTuple):
    """What the table holds for a key."""

    revision: Index
    """Log index of the last write; of a transaction's over several shards: of this shard's vote."""
    create_revision: Index
    """Log index of the write that created the key; of a tombstone: the deletion's."""
    version: int
    """Writes since the key was created."""
    hlc: Hlc
    strong_index: Index
    """Log index of the entry that made the last strong write take effect."""
    node: NodeName
    """Origin of an eventual write; empty for a strong one."""
    incarnation: int
    value: bytes | None
    """None: a tombstone."""

    @property
    def place(self) -> Index:
        """Log index of the entry that made the last write take effect: who had applied it had seen the version."""
        return max(self.revision, self.strong_index)

    @property
    def current(self) -> Current:
        """What `verdict` compares against."""
        return Current(Stamp(self.hlc, self.node, self.incarnation), self.revision, self.strong_index)


def encode_version(v: Version) -> bytes:
    """The table row: a header of 50 bytes, the origin's name, the value."""
    node = v.node.encode()
    flags = _TOMBSTONE if v.value is None else 0
    header = _HEADER.pack(flags, v.revision, v.create_revision, v.version, v.hlc, v.strong_index, v.incarnation, len(node))
    return header + node + (v.value or b"")


def decode_version(row: bytes) -> Version:
    """The reverse. Raises `Corrupt` for a row that is too short to be one."""
    if len(row) < _HEADER.size:
        raise Corrupt(f"a version of {len(row)} bytes is shorter than its header")
    flags, revision, create_revision, version, hlc, strong_index, incarnation, node_size = _HEADER.unpack_from(row)
    begin = _HEADER.size + node_size
    if len(row) < begin:
        raise Corrupt(f"a version of {len(row)} bytes ends within its origin's name of {node_size} bytes")
    try:
        node = row[_HEADER.size : begin].decode()
    except UnicodeDecodeError as error:
        raise Corrupt(f"a version of {len(row)} bytes has an origin that is no name") from error
    if flags & ~_TOMBSTONE or (flags and len(row) > begin):
        raise Corrupt(f"a version of {len(row)} bytes has flags {flags}, which fit no version")
    value = None if flags & _TOMBSTONE else row[begin:]
    return Version(revision, create_revision, version, hlc, strong_index, node, incarnation, value)
