"""What a committed entry does to a shard: committed command -> writes + result.

Owns the meaning of every row of the shard's table. Deterministic: the same entries give the same rows, results and
`state_hash` on every replica (DESIGN section 12.13); it reads no clock, the time of an entry is in the entry.

Rows, by the first byte of their key:
  d + key                       the key's version (`version.py`)
  t + revision (8 bytes)        a tombstone's key, so that collection finds the oldest first
  s + number (8 bytes)          a superseded eventual write; the latest `SUPERSEDED_KEPT_PER_SHARD` are kept
  m                             applied index and term, hash, counters, watermarks: written when the table is frozen
  l + …                         local to this replica, not part of the replicated state: held eventual writes
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import xxhash

from kvapi.v1 import replication_pb2
from kvnode import limits
from kvnode.errors import CompareFailed, KvnodeError
from kvnode.invariant import invariant
from kvnode.protocol.eventual.verdict import Stamp, Superseded, verdict
from kvnode.shard.version import Version, decode_version, encode_version
from kvnode.types import Entry, Hlc, Index, Origin, Term

DATA, TOMBSTONE, SUPERSEDED, META, LOCAL = b"d", b"t", b"s", b"m", b"l"
_U64 = struct.Struct(">Q")
_META = struct.Struct(">QQQQQQQ")
_SUPERSEDED = struct.Struct(">QBQQQQ")
_ORIGIN = struct.Struct(">QQB")


class Table(Protocol):
    """The ordered rows of one shard; `kvnode.storage.table` is the real one."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]: ...


class Position(NamedTuple):
    """A place in the log."""

    index: Index  # type: ignore[assignment]
    term: Term


class WriteResult(NamedTuple):
    """A strong write took effect."""

    revision: Index
    existed: bool


class SupersededRecord(NamedTuple):
    """An eventual write that took no effect."""

    origin: Origin
    sequence: int
    key: bytes
    revision: Index
    """Its place in the log."""
    outcome: Superseded
    hlc: Hlc


class StateMachine:
    """One shard's replicated state over a `Table`."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.reload()

    def reload(self) -> None:
        """Reads what the table's last freeze, or a snapshot, says about the whole."""
        self.applied: Index = 0
        self.applied_term: Term = 0
        self.state_hash = self.horizon = self.superseded_total = self.keys = self.tombstones = 0
        self.sequenced: dict[Origin, int] = {}
        row = self.table.get(META)
        if row is not None:
            fields = _META.unpack_from(row)
            (
                self.applied,
                self.applied_term,
                self.state_hash,
                self.horizon,
                self.superseded_total,
                self.keys,
                self.tombstones,
            ) = fields
            position = _META.size
            while position < len(row):
                sequence, incarnation, size = _ORIGIN.unpack_from(row, position)
                position += _ORIGIN.size
                self.sequenced[Origin(row[position : position + size].decode(), incarnation)] = sequence
                position += size
        self.superseded: OrderedDict[tuple[Origin, int], SupersededRecord] = OrderedDict()
        self.placed: OrderedDict[tuple[Origin, int], tuple[Index, bytes]] = OrderedDict()
        """Where the latest eventual writes took effect, and on which key; not part of the state: it only answers questions."""
        for _, value in self.table.scan(SUPERSEDED, _after(SUPERSEDED)):
            record = _decode_superseded(value)
            self.superseded[record.origin, record.sequence] = record

    @staticmethod
    def position(meta_row: bytes | None) -> Position:
        """What a flushed META row stands for; (0, 0) without one."""
        return Position(0, 0) if meta_row is None else Position(*_META.unpack_from(meta_row)[:2])

    def before_freeze(self) -> None:
        """Writes what the applied index implies into the table, so that it is flushed in the same transaction."""
        meta = _META.pack(
            self.applied, self.applied_term, self.state_hash, self.horizon, self.superseded_total, self.keys, self.tombstones
        )
        origins = b"".join(
            _ORIGIN.pack(sequence, origin.incarnation, len(origin.node.encode())) + origin.node.encode()
            for origin, sequence in self.sequenced.items()
        )
        self.table.put(META, meta + origins)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def version(self, key: bytes) -> Version | None:
        """The key's version, a tombstone too; None where nothing is remembered."""
        row = self.table.get(DATA + key)
        return None if row is None else decode_version(row)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Version]]:
        """Versions with start <= key < end in key order, tombstones too."""
        for key, row in self.table.scan(DATA + start, _after(DATA) if end is None else DATA + end):
            yield key[1:], decode_version(row)

    # ---- applying ---------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> WriteResult | KvnodeError | list[tuple[Origin, int]] | None:
        """Applies the next entry. Answers a strong write's result or error, or the eventual writes that got their place."""
        invariant(entry.index == self.applied + 1, f"entry {entry.index} applied behind {self.applied}")
        command = replication_pb2.Command.FromString(entry.data)
        operation = command.WhichOneof("operation")
        result: WriteResult | KvnodeError | list[tuple[Origin, int]] | None = None
        if operation == "put":
            put = command.put
            expected = put.if_revision if put.HasField("if_revision") else None
            result = self._strong(entry.index, command.hlc, put.key, put.value, expected)
        elif operation == "delete":
            delete = command.delete
            expected = delete.if_revision if delete.HasField("if_revision") else None
            result = self._strong(entry.index, command.hlc, delete.key, None, expected)
        elif operation == "sequence":
            result = [self._eventual(entry.index, command.hlc, write) for write in command.sequence.writes]
        elif operation == "collect":
            self._collect(command.collect.horizon)
        else:
            invariant(operation == "term_start", f"entry {entry.index}: unknown operation {operation}")
        self.applied, self.applied_term = entry.index, entry.term
        self._mix(_U64.pack(entry.index))
        return result

    def _strong(
        self, index: Index, hlc: Hlc, key: bytes, value: bytes | None, expected: Index | None
    ) -> WriteResult | KvnodeError:
        old = self.version(key)
        existed = old is not None and old.value is not None
        actual = old.revision if old is not None and existed else 0
        if expected is not None and actual != expected:
            what = f"has revision {actual}" if actual else "does not exist"
            return CompareFailed(f"key {key!r} {what}, not the expected {expected}", revision=actual)
        # Deleting an absent key leaves a tombstone too: an eventual write that has not seen it must not undo it.
        # Above what it replaces, whatever the clocks said (DESIGN section 9.4).
        hlc = max(hlc, old.hlc + 1 if old else 0)
        self._write(index, key, value, old, hlc, index, "", 0)
        return WriteResult(index, existed)

    def _eventual(self, index: Index, now: Hlc, write: replication_pb2.EventualWrite) -> tuple[Origin, int]:
        origin = Origin(write.node, write.incarnation)
        expected = self.sequenced.get(origin, 0) + 1
        if write.sequence < expected:
            return origin, write.sequence
        invariant(write.sequence == expected, f"eventual write {origin} {write.sequence} where {expected} was due")
        self.sequenced[origin] = write.sequence
        old = self.version(write.key)
        # A stamp from a clock far ahead counts as the leader's time plus the tolerated skew.
        hlc = min(write.hlc, now + (limits.CLOCK_SKEW_MS_MAX << 16))
        if old is not None and (write.base >= old.revision or origin == (old.node, old.incarnation)):
            # It had seen what it replaces, or its own origin wrote that before it: above it, whatever the clocks said.
            hlc = max(hlc, old.hlc + 1)
        lost = verdict(Stamp(hlc, *origin), write.base, old.current if old else None, self.horizon)
        if lost is not None:
            self._remember_superseded(SupersededRecord(origin, write.sequence, write.key, index, lost, hlc))
        else:
            strong_index = old.strong_index if old else self.horizon
            self._write(index, write.key, None if write.deletion else write.value, old, hlc, strong_index, *origin)
            self.placed[origin, write.sequence] = (index, write.key)
            if len(self.placed) > limits.PLACED_KEPT_PER_SHARD:
                self.placed.popitem(last=False)
        return origin, write.sequence

    def _write(
        self,
        index: Index,
        key: bytes,
        value: bytes | None,
        old: Version | None,
        hlc: Hlc,
        strong: Index,
        node: str,
        incarnation: int,
    ) -> None:
        existed = old is not None and old.value is not None
        create = old.create_revision if old is not None and existed and value is not None else index
        number = old.version + 1 if old is not None and existed and value is not None else 1
        row = encode_version(Version(index, create, number, hlc, strong, node, incarnation, value))
        self.table.put(DATA + key, row)
        self.keys += (value is not None) - existed
        if value is None:
            self.table.put(TOMBSTONE + _U64.pack(index) + key, b"")
            self.tombstones += 1
        self._mix(key + row)

    def _collect(self, horizon: Index) -> None:
        for row_key, _ in list(self.table.scan(TOMBSTONE, TOMBSTONE + _U64.pack(horizon + 1))):
            revision, key = _U64.unpack_from(row_key, 1)[0], row_key[9:]
            self.table.delete(row_key)
            self.tombstones -= 1
            version = self.version(key)
            if version is not None and version.value is None and version.revision == revision:
                self.table.delete(DATA + key)
                self._mix(key)
        self.horizon = max(self.horizon, horizon)

    def oldest_tombstones(self, count: int, up_to: Index) -> Index:
        """The horizon that collects at most `count` tombstones, none newer than `up_to`; 0 when there is none."""
        horizon = 0
        for row_key, _ in self.table.scan(TOMBSTONE, TOMBSTONE + _U64.pack(up_to + 1)):
            horizon = _U64.unpack_from(row_key, 1)[0]
            count -= 1
            if count <= 0:
                break
        return horizon

    def _remember_superseded(self, record: SupersededRecord) -> None:
        self.superseded_total += 1
        self.table.put(SUPERSEDED + _U64.pack(self.superseded_total), _encode_superseded(record))
        self.superseded[record.origin, record.sequence] = record
        if len(self.superseded) > limits.SUPERSEDED_KEPT_PER_SHARD:
            self.superseded.popitem(last=False)
            self.table.delete(SUPERSEDED + _U64.pack(self.superseded_total - limits.SUPERSEDED_KEPT_PER_SHARD))
        self._mix(record.key)

    def _mix(self, data: bytes) -> None:
        self.state_hash = xxhash.xxh3_64_intdigest(data, seed=self.state_hash)


def operation_id(shard: int, origin: Origin, sequence: int) -> str:
    """The public name of an eventual write."""
    return f"{shard}.{origin.node}.{origin.incarnation}.{sequence}"


def parse_operation_id(text: str) -> tuple[int, Origin, int]:
    """The reverse. Raises ValueError for anything else."""
    shard, rest = text.split(".", 1)
    node, incarnation, sequence = rest.rsplit(".", 2)
    return int(shard), Origin(node, int(incarnation)), int(sequence)


def _after(space: bytes) -> bytes:
    return bytes([space[0] + 1])


def _encode_superseded(record: SupersededRecord) -> bytes:
    node = record.origin.node.encode()
    outcome = record.outcome
    fields = _SUPERSEDED.pack(
        record.sequence, outcome.reason, outcome.by, record.revision, record.hlc, record.origin.incarnation
    )
    return fields + bytes([len(node)]) + node + record.key


def _decode_superseded(row: bytes) -> SupersededRecord:
    sequence, reason, by, revision, hlc, incarnation = _SUPERSEDED.unpack_from(row)
    size = row[_SUPERSEDED.size]
    begin = _SUPERSEDED.size + 1
    origin = Origin(row[begin : begin + size].decode(), incarnation)
    outcome = Superseded(reason, by)
    return SupersededRecord(origin, sequence, row[begin + size :], revision, outcome, hlc)
