"""The records of the log, and their bytes.

Owns: the format of one record's body. Never: knows about frames, checksums or files; see `kvnode.storage.log`.

Formats (little-endian), by the first byte:
    1 entry       shard u16, index u64, term u64, kind u8, data
    2 hard state  shard u16, term u64, commit u64, vote (UTF-8)
    3 eventual    shard u16, data
    4 node        kind u8, data
Within a frame each body follows its length (u32).

Encoding and decoding are hot (each entry passes here once a node, and once more for each restart): the functions for whole
frames keep their loops flat.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable
from typing import NamedTuple

from kvnode.errors import Corrupt
from kvnode.types import Index, NodeName, Shard, Term


class EntryRecord(NamedTuple):
    """An entry appended to a shard's log; a later record with the same or a smaller index replaces what follows (Raft)."""

    shard: Shard
    index: Index  # type: ignore[assignment]  # shadows tuple.index, which nobody needs
    term: Term
    kind: int
    data: bytes


class HardStateRecord(NamedTuple):
    """A shard's Raft state; the last one counts."""

    shard: Shard
    term: Term
    vote: NodeName
    commit: Index


class EventualRecord(NamedTuple):
    """An eventual write that was accepted or received, in the words of the eventual protocol."""

    shard: Shard
    data: bytes


class NodeRecord(NamedTuple):
    """Something about the node itself. Of kinds below `NODE_KINDS_KEPT` the last record is carried on when the log is cut."""

    kind: int
    data: bytes


Record = EntryRecord | HardStateRecord | EventualRecord | NodeRecord

NODE_KINDS_KEPT = 16

ENTRY, HARD_STATE, EVENTUAL, NODE = 1, 2, 3, 4

_LENGTH = struct.Struct("<I")
_ENTRY = struct.Struct("<BHQQB")
_HARD_STATE = struct.Struct("<BHQQ")
_EVENTUAL = struct.Struct("<BH")
_NODE = struct.Struct("<BB")
_LENGTH_ENTRY = struct.Struct("<IBHQQB")
_LENGTH_EVENTUAL = struct.Struct("<IBH")
_SHARD_TO_KIND = struct.Struct("<HQQB")
_SHARD = struct.Struct("<H")


def encode(record: Record) -> bytes:
    """Return the record's body."""
    if type(record) is EntryRecord:
        return _ENTRY.pack(ENTRY, record[0], record[1], record[2], record[3]) + record[4]
    if type(record) is EventualRecord:
        return _EVENTUAL.pack(EVENTUAL, record[0]) + record[1]
    if type(record) is HardStateRecord:
        return _HARD_STATE.pack(HARD_STATE, record.shard, record.term, record.commit) + record.vote.encode()
    if type(record) is NodeRecord:
        return _NODE.pack(NODE, record.kind) + record.data
    raise TypeError(f"{type(record).__name__} is not a record of the log")


def decode(body: bytes) -> Record:
    """Return the record of a body. Corrupt, if it is none."""
    try:
        return _decode(body)
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise Corrupt(f"a record of {len(body)} bytes cannot be read: {error}") from error


def _decode(body: bytes) -> Record:
    tag = body[0]
    if tag == ENTRY:
        _, shard, index, term, kind = _ENTRY.unpack_from(body)
        return EntryRecord(shard, index, term, kind, body[_ENTRY.size :])
    if tag == EVENTUAL:
        return EventualRecord(_EVENTUAL.unpack_from(body)[1], body[_EVENTUAL.size :])
    if tag == HARD_STATE:
        _, shard, term, commit = _HARD_STATE.unpack_from(body)
        return HardStateRecord(shard, term, body[_HARD_STATE.size :].decode(), commit)
    if tag == NODE:
        return NodeRecord(_NODE.unpack_from(body)[1], body[_NODE.size :])
    raise Corrupt(f"a record of the unknown type {tag}; it may be from a newer version")


def encode_into(parts: list[bytes], records: Iterable[Record]) -> int:
    """Append the records with their lengths to `parts`, to be joined into a frame; return the number of bytes."""
    size_bytes = 0
    append = parts.append
    pack_entry, pack_eventual = _LENGTH_ENTRY.pack, _LENGTH_EVENTUAL.pack
    for record in records:
        if type(record) is EntryRecord:
            shard, index, term, kind, data = record
            size = 20 + len(data)
            append(pack_entry(size, ENTRY, shard, index, term, kind))
            append(data)
        elif type(record) is EventualRecord:
            shard, data = record
            size = 3 + len(data)
            append(pack_eventual(size, EVENTUAL, shard))
            append(data)
        else:
            body = encode(record)
            size = len(body)
            append(_LENGTH.pack(size))
            append(body)
        size_bytes += size + 4
    return size_bytes


def decode_all(data: bytes, offset: int, end: int) -> list[Record]:
    """Return the records between two offsets of `data`, which `encode_into` wrote. Corrupt, if they are none."""
    records: list[Record] = []
    append = records.append
    length_of, fields_of = _LENGTH.unpack_from, _SHARD_TO_KIND.unpack_from
    new = tuple.__new__
    try:
        while offset < end:
            (size,) = length_of(data, offset)
            body = offset + 4
            offset = body + size
            if offset > end or not size:
                raise Corrupt(f"a record of {size} bytes does not fit into its frame")
            tag = data[body]
            if tag == ENTRY:
                shard, index, term, kind = fields_of(data, body + 1)
                append(new(EntryRecord, (shard, index, term, kind, data[body + 20 : offset])))
            elif tag == EVENTUAL:
                append(new(EventualRecord, (_SHARD.unpack_from(data, body + 1)[0], data[body + 3 : offset])))
            else:
                append(_decode(data[body:offset]))
    except (struct.error, UnicodeDecodeError, IndexError) as error:
        raise Corrupt(f"a record at byte {offset} cannot be read: {error}") from error
    return records
