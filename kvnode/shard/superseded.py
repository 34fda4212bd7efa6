"""Eventual writes that took no effect, as a shard remembers them, and the public names of eventual writes."""

from __future__ import annotations

import struct
from typing import NamedTuple

from kvapi.v1 import replication_pb2
from kvnode.protocol.eventual.verdict import Superseded
from kvnode.types import Hlc, Index, Origin

_SUPERSEDED = struct.Struct(">QBQQQQ")


class SupersededRecord(NamedTuple):
    """An eventual write that took no effect."""

    origin: Origin
    sequence: int
    key: bytes
    revision: Index
    """Its place in the log."""
    outcome: Superseded
    hlc: Hlc


class Settled(NamedTuple):
    """An eventual write that got its place."""

    write: replication_pb2.EventualWrite
    index: Index  # type: ignore[assignment]
    superseded: Superseded | None
    """Why it has no effect; None: it has."""


def encode_superseded(record: SupersededRecord) -> bytes:
    """The table row."""
    node = record.origin.node.encode()
    outcome = record.outcome
    fields = _SUPERSEDED.pack(
        record.sequence, outcome.reason, outcome.by, record.revision, record.hlc, record.origin.incarnation
    )
    return fields + bytes([len(node)]) + node + record.key


def decode_superseded(row: bytes) -> SupersededRecord:
    """The reverse. Raises what `kvnode.shard.rows.readable` translates."""
    sequence, reason, by, revision, hlc, incarnation = _SUPERSEDED.unpack_from(row)
    size = row[_SUPERSEDED.size]
    begin = _SUPERSEDED.size + 1
    if len(row) < begin + size:
        raise ValueError(f"an origin's name of {size} bytes ends after {len(row) - begin}")
    origin = Origin(row[begin : begin + size].decode(), incarnation)
    outcome = Superseded(reason, by)
    return SupersededRecord(origin, sequence, row[begin + size :], revision, outcome, hlc)


def operation_id(shard: int, origin: Origin, sequence: int) -> str:
    """The public name of an eventual write."""
    return f"{shard}.{origin.node}.{origin.incarnation}.{sequence}"


def parse_operation_id(text: str) -> tuple[int, Origin, int]:
    """The reverse. Raises ValueError for anything else."""
    shard, rest = text.split(".", 1)
    node, incarnation, sequence = rest.rsplit(".", 2)
    parsed = int(shard), Origin(node, int(incarnation)), int(sequence)
    if operation_id(*parsed) != text:
        raise ValueError(f"{text[:80]!r} is not how it is written")
    return parsed
