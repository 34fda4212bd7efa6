"""What a shard's stored rows must look like: damaged ones are `Corrupt`, and a snapshot of such rows replaces nothing.

Owns: the check of a snapshot's rows as they are installed. Rows have no checksums of their own: what is readable and wrong, as
a flipped bit in a value, is not found here (docs/fuzzing.md says what finds it).
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from kvapi.v1 import replication_pb2
from kvnode import limits
from kvnode.errors import Corrupt
from kvnode.shard.superseded import decode_superseded
from kvnode.shard.version import decode_version
from kvnode.types import Index, Term

if TYPE_CHECKING:
    from kvnode.shard.state_machine import Position

META_FIELDS = struct.Struct(">QQQQQQQ")
ORIGIN_FIELDS = struct.Struct(">QQB")
HORIZON_FIELDS = struct.Struct(">QQQQ")
_NUMBER = struct.Struct(">Q")
_KEY_SIZE_BYTES_MAX = 1 + _NUMBER.size + limits.KEY_SIZE_BYTES_MAX


@contextmanager
def readable(what: str) -> Iterator[None]:
    """Within it (or a function that it decorates), stored bytes that cannot be read are `Corrupt`."""
    try:
        yield
    except (struct.error, DecodeError, IndexError, ValueError, RecursionError) as error:
        raise Corrupt(
            f"{what} cannot be read: {error}. The other replicas go on without this node. Check the disk; restore the whole "
            "data directory from a copy made while the node was stopped"
        ) from error


class _Counts:
    """What META says of the rows, against what came."""

    def __init__(self) -> None:
        self.keys = self.tombstones = self.superseded = 0
        self.meta: bytes | None = None


def checked(rows: Iterable[tuple[bytes, bytes]], expected: Position) -> Iterator[tuple[bytes, bytes]]:
    """The rows, each once it was found to be one; Corrupt, if they are not the whole state at `expected`, in order."""
    counts, last = _Counts(), b""
    for key, row in rows:
        if not last < key or len(key) > _KEY_SIZE_BYTES_MAX:
            raise Corrupt(f"a snapshot's row {key[:40]!r} comes behind {last[:40]!r}: rows are missing, or came twice")
        last = key
        with readable(f"a snapshot's row {key[:40]!r}"):
            if not _is_row(key, row, counts):
                raise Corrupt(f"a snapshot's row {key[:40]!r} is none of this release")
        yield key, row
    if counts.meta is None:
        raise Corrupt("a snapshot ends without its position: it is not whole")
    index, term, _, _, superseded, keys, tombstones = META_FIELDS.unpack_from(counts.meta)
    _check_whole(counts, (index, term), expected, superseded, keys, tombstones)


def _check_whole(
    counts: _Counts, position: tuple[Index, Term], expected: Position, superseded: int, keys: int, tombstones: int
) -> None:
    if position != tuple(expected):
        raise Corrupt(f"a snapshot up to {expected[0]}, term {expected[1]}, holds the state of {position}")
    came = (counts.keys, counts.tombstones, counts.superseded)
    said = (keys, tombstones, min(superseded, limits.SUPERSEDED_KEPT_PER_SHARD))
    if came != said:
        raise Corrupt(f"a snapshot holds {came} keys, tombstones and superseded writes, and says that there are {said}")


def _is_row(key: bytes, row: bytes, counts: _Counts) -> bool:
    space, rest = key[:1], key[1:]
    if space == b"d":
        counts.keys += decode_version(row).value is not None
        return 0 < len(rest) <= limits.KEY_SIZE_BYTES_MAX
    if space == b"t":
        counts.tombstones += 1
        return len(rest) > _NUMBER.size and not row
    if space == b"s":
        counts.superseded += 1
        decode_superseded(row)
        return len(rest) == _NUMBER.size
    if space == b"m":
        META_FIELDS.unpack_from(row)
        counts.meta, origins = row, list(origins_of(row))
        return not rest and len(dict.fromkeys(origins)) == len(origins)
    if space == b"n":
        return not rest and len(row) == HORIZON_FIELDS.size
    return _is_message(space, rest, row)


def _is_message(space: bytes, rest: bytes, row: bytes) -> bool:
    if space == b"w":
        replication_pb2.EventualWrite.FromString(row)
        return len(rest) == _NUMBER.size
    if space == b"c":
        return replication_pb2.ClientSession.FromString(row).session == rest
    if space == b"e":
        return rest == _NUMBER.pack(replication_pb2.EndedTransaction.FromString(row).number)
    if space == b"p":
        transaction = replication_pb2.PreparedTransaction.FromString(row).command.transaction
        return rest == _NUMBER.pack(transaction.start) + transaction.id
    return False


def origins_of(meta_row: bytes) -> Iterator[tuple[str, int, int]]:
    """Node, incarnation and sequence of each origin behind META's fields. Raises what `readable` translates."""
    position = META_FIELDS.size
    while position < len(meta_row):
        sequence, incarnation, size = ORIGIN_FIELDS.unpack_from(meta_row, position)
        position += ORIGIN_FIELDS.size
        name = meta_row[position : position + size]
        if len(name) < size:
            raise ValueError(f"an origin's name of {size} bytes ends after {len(name)}")
        yield name.decode(), incarnation, sequence
        position += size
