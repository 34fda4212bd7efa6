"""Frames: what the log writes at once, and how a torn one is told from a damaged one.

Owns: the bytes around the records of one batch, and the verdict on bytes that are not a frame. Never: does I/O.

A frame is what one `Log.write` makes durable with one sync: a header, the records, and padding to whole sectors.

    magic          4 bytes
    header crc     u32    CRC-32C of the header's rest; it is the chain: the next frame carries it
    payload crc    u32    CRC-32C of payload and padding
    payload size   u32    bytes
    sequence       u64    1, 2, 3 ... over all segments
    log id         u64    random, the same in all frames of a log: no value stored by a client can pass for a frame
    previous crc   u32    header crc of the frame before
    zero sectors   u32    how many sectors of the frame are all zeros *as written*
    kind           u16    1: begins a segment, 2: records
    reserved       u16    0

Invariants:
- The padding is 0xFF and at least one byte: the last byte of a frame is never zero.
- Frame n + 1 is written only after frame n was synced. So any trace of frame n + 1 proves that frame n was durable.
- Bytes that were never written read as zeros.

From these follows the rule for a frame that cannot be read (`judge`). It is *torn*, that is, its write never finished and
nobody was told about it, only if nothing was written behind it and something of itself is missing: a sector reads as zeros that
was not zeros when it was written. Everything else is damage. What cannot be told apart is a sector of the very last frame that
was durable and turned into zeros afterwards; the other replicas still have what it held.
"""

from __future__ import annotations

import struct
from typing import Final, NamedTuple

import google_crc32c

from kvnode.storage.disk import SECTOR_SIZE_BYTES

MAGIC: Final = b"kvL1"
SEGMENT, BATCH = 1, 2
_HEADER = struct.Struct("<4sIIIQQIIHH")
_FIELDS = struct.Struct("<IIQQIIHH")
"""The header behind its own checksum."""
_FIELDS_OFFSET = 8
HEADER_SIZE_BYTES: Final = _HEADER.size
PAYLOAD_SIZE_BYTES_MAX: Final = 2**31

_ZERO_SECTOR = bytes(SECTOR_SIZE_BYTES)
_ZERO_BLOCK = bytes(256 * 1024)
_PADDING = b"\xff" * SECTOR_SIZE_BYTES


class Header(NamedTuple):
    """A header whose checksum is right."""

    crc: int
    payload_crc: int
    payload_size_bytes: int
    sequence: int
    log_id: int
    previous_crc: int
    zero_sectors: int
    kind: int

    @property
    def frame_size_bytes(self) -> int:
        return frame_size(self.payload_size_bytes)


def frame_size(payload_size_bytes: int) -> int:
    """Return the whole sectors that a frame with such a payload takes, in bytes."""
    size = HEADER_SIZE_BYTES + payload_size_bytes + 1
    return -(-size // SECTOR_SIZE_BYTES) * SECTOR_SIZE_BYTES


def encode_frame(
    parts: list[bytes], size_bytes: int, kind: int, sequence: int, log_id: int, previous_crc: int
) -> tuple[bytes, int]:
    """Return the frame around a payload given in parts (extended by the padding), and the header's crc."""
    parts.append(_PADDING[: frame_size(size_bytes) - HEADER_SIZE_BYTES - size_bytes])
    payload = b"".join(parts)
    zeros = _zero_sectors(payload, SECTOR_SIZE_BYTES - HEADER_SIZE_BYTES)
    fields = _FIELDS.pack(google_crc32c.value(payload), size_bytes, sequence, log_id, previous_crc, zeros, kind, 0)
    crc = google_crc32c.value(fields)
    return b"".join((MAGIC, crc.to_bytes(4, "little"), fields, payload)), crc


def read_header(data: bytes, offset: int) -> Header | None:
    """Return the header at `offset`, or None if there is no undamaged one."""
    if data[offset : offset + 4] != MAGIC or offset + HEADER_SIZE_BYTES > len(data):
        return None
    _, crc, payload_crc, size, sequence, log_id, previous_crc, zeros, kind, _ = _HEADER.unpack_from(data, offset)
    if google_crc32c.value(data[offset + _FIELDS_OFFSET : offset + HEADER_SIZE_BYTES]) != crc:
        return None
    return Header(crc, payload_crc, size, sequence, log_id, previous_crc, zeros, kind)


def payload_is_intact(data: bytes, offset: int, header: Header) -> bool:
    """Say whether the payload and the padding of the frame at `offset` are what was written."""
    end = offset + header.frame_size_bytes
    return end <= len(data) and google_crc32c.value(data[offset + HEADER_SIZE_BYTES : end]) == header.payload_crc


def written_end(data: bytes) -> int:
    """Return the end of what is not zeros. The last segment is mostly zeros: they are passed over by the block."""
    end = len(data)
    while end > 0:
        block = data[max(0, end - len(_ZERO_BLOCK)) : end]
        if block != _ZERO_BLOCK[: len(block)]:
            return end - len(block) + len(block.rstrip(b"\0"))
        end -= len(block)
    return 0


def judge(data: bytes, offset: int, end_of_data: int, sequence: int, log_id: int, previous_crc: int) -> str | None:
    """Judge the bytes at `offset` where frame `sequence` should be and cannot be read, in the last segment.

    `end_of_data` is the end of what is not zeros, beyond `offset`. Returns None if they are a torn tail, which may be cut, or
    the proof that something durable is damaged.
    """
    header = read_header(data, offset)
    if header is not None:
        if (header.sequence, header.log_id, header.previous_crc) != (sequence, log_id, previous_crc):
            return f"frame {header.sequence} is where frame {sequence} should be"
        end = offset + header.frame_size_bytes
        if end > len(data):
            return f"frame {sequence} reaches beyond the end of the file"
        if end_of_data > end:
            return f"frame {sequence} is damaged, and more was written behind it"
        missing = data[end - 1] == 0 or _zero_sectors(data[offset:end], 0) > header.zero_sectors
        return None if missing else f"frame {sequence} is complete, but its checksum is wrong"
    for later in range(offset + SECTOR_SIZE_BYTES, end_of_data, SECTOR_SIZE_BYTES):
        if data[later : later + 4] == MAGIC:
            found = read_header(data, later)
            if found is not None and found.log_id == log_id and found.sequence > sequence:
                return f"frame {sequence} is damaged, and frame {found.sequence} follows at byte {later}"
    if end_of_data - offset <= HEADER_SIZE_BYTES or data[offset : offset + SECTOR_SIZE_BYTES] == _ZERO_SECTOR:
        return None
    return f"the header of frame {sequence} is damaged"


def _zero_sectors(data: bytes, first: int) -> int:
    """Count the all-zero sectors of `data`, the first one beginning at `first`. Mostly one strided copy decides it."""
    firsts = data[first::SECTOR_SIZE_BYTES]
    count, at = 0, firsts.find(0)
    while at >= 0:
        start = first + at * SECTOR_SIZE_BYTES
        count += data[start : start + SECTOR_SIZE_BYTES] == _ZERO_SECTOR
        at = firsts.find(0, at + 1)
    return count
