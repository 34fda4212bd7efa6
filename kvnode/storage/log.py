"""The log: records of all shards, durable before anything that follows from them leaves the node.

Owns: the segment files, their order, and the place where the next frame goes. Never: interprets what entries mean; retries
after a failed write or sync; changes a byte that was durable.

Invariants:
- `write` returns only after its records are durable, and a frame is written only after the one before is durable.
- A segment gets its name (`log-<number>`) only when it has its whole length and its first frame is durable. So the first frame
  of a segment can never be torn, and numbers have no gaps.
- A segment begins with the hard state of every shard and the latest node record of each kind below 16: any segment may be the
  oldest.
- A frame that cannot be read is cut off only where `kvnode.storage.frame.judge` finds it torn; else `Corrupt` (never a silent
  truncation; see Alagappan et al., "Protocol-Aware Recovery", FAST 2018, section 3.3).
- Space is reserved a segment ahead, so that a full disk is met before a write and not within one. While there is no such
  reserve, entries and eventual writes leave the last part of the active segment to hard states.

`write` and `cut` are called by one thread, the log's.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise

from kvnode.errors import RESTORE, Corrupt
from kvnode.invariant import invariant
from kvnode.storage import data_format, frame, records
from kvnode.storage.disk import Disk, OutOfSpace
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, NodeRecord, Record
from kvnode.types import Index, Shard

SEGMENT_SIZE_BYTES_DEFAULT = 64 * 1024 * 1024
SPARE_NAME = "log-spare"
_NAME = re.compile(r"log-(\d{16})")
_SEGMENT = struct.Struct("<HHIQQ")
"""The data's format, two reserved, the segment's number and its size in bytes; the kept records follow."""
_RESERVE_SIZE_BYTES_MIN = 2048


class _Segment:
    """What is known about one file. `largest`: each shard's largest entry index in it."""

    __slots__ = ("largest", "name", "number", "size_bytes", "used_bytes")

    def __init__(self, number: int, size_bytes: int) -> None:
        self.number, self.name = number, f"log-{number:016d}"
        self.size_bytes, self.used_bytes = size_bytes, 0
        self.largest: dict[Shard, Index] = {}


class Log:
    """The log in the files of `disk`. Call `recover` first and exhaust it; only then may `write` be called."""

    def __init__(
        self, disk: Disk, segment_size_bytes: int = SEGMENT_SIZE_BYTES_DEFAULT, clock: Callable[[], float] = lambda: 0.0
    ) -> None:
        """`clock`, in seconds, tells how long syncs take."""
        self._disk, self._clock = disk, clock
        self.sync_s = 0.0
        """How long the last write's sync took."""
        self._segment_size_bytes = frame.frame_size(segment_size_bytes - frame.HEADER_SIZE_BYTES - 1)
        self._reserve_size_bytes = max(_RESERVE_SIZE_BYTES_MIN, self._segment_size_bytes // 16)
        self._segments: dict[int, _Segment] = {}
        self._active: _Segment | None = None
        self._spare_size_bytes = 0
        self._log_id = 0
        self._sequence = 1
        self._chain_crc = 0
        self._hard_states: dict[Shard, HardStateRecord] = {}
        self._node_records: dict[int, NodeRecord] = {}
        self._recovered = False

    @property
    def active_segment(self) -> int:
        """The number of the segment that the last write went to, from 1 (0: the disk has never had room for one)."""
        return self._active.number if self._active else 0

    @property
    def size_bytes(self) -> int:
        """The bytes written to the segments that are left; their files are larger by the unused rest of the active one."""
        return sum(segment.used_bytes for segment in list(self._segments.values()))

    # Recovery.

    def recover(self) -> Iterator[Record]:
        """Yield every record in the order of writing, those carried on at the beginning of the oldest segment first.

        Afterwards a torn tail is gone, what is left of the tail is durable, and the log is ready to append. Raises Corrupt with
        the file, the offset and what to do, if stored bytes are damaged, and UnknownFormat for a segment of another release;
        nothing is changed then. Raises DiskFailed.
        """
        invariant(not self._segments and not self._recovered, "a log is recovered once")
        data, tail, written_end = b"", 0, 0
        numbers = self._segment_numbers()
        for number in numbers:
            segment = _Segment(number, 0)
            data = self._disk.read(segment.name)
            written_end = frame.written_end(data)
            yield from self._recover_first_frame(segment, data)
            while True:
                header = frame.read_header(data, segment.used_bytes)
                if header is None or not self._follows(header) or not frame.payload_is_intact(data, segment.used_bytes, header):
                    break
                tail = segment.used_bytes
                yield from self._recover_frame(segment, data, header, header.payload_size_bytes, 0)
            self._judge_tail(segment, data, written_end, number == numbers[-1])
        self._make_tail_durable(data, tail, written_end)
        self._recovered = True

    def _segment_numbers(self) -> list[int]:
        numbers = sorted(int(match[1]) for name in self._disk.names() if (match := _NAME.fullmatch(name)))
        for before, number in pairwise(numbers):
            if number != before + 1:
                raise self._corrupt(f"log-{before + 1:016d}", 0, f"the file is missing, while segment {number} exists")
        return numbers

    def _recover_first_frame(self, segment: _Segment, data: bytes) -> Iterator[Record]:
        header = frame.read_header(data, 0)
        if header is None or header.kind != frame.SEGMENT or not frame.payload_is_intact(data, 0, header):
            raise self._corrupt(segment.name, 0, "the segment's first frame is damaged")
        version, _, _, number, size_bytes = _SEGMENT.unpack_from(data, frame.HEADER_SIZE_BYTES)
        data_format.check(data_format.Mark(version), f"log file {segment.name}")
        if number != segment.number or size_bytes != len(data):
            found = f"it is segment {number} of {size_bytes} bytes, but the file has {len(data)}"
            raise self._corrupt(segment.name, 0, found)
        oldest = not self._segments
        if oldest:
            self._log_id, self._sequence, self._chain_crc = header.log_id, header.sequence, header.previous_crc
        elif not self._follows(header):
            raise self._corrupt(segment.name, 0, f"frame {header.sequence} does not follow frame {self._sequence - 1}")
        segment.size_bytes = size_bytes
        self._segments[number] = self._active = segment
        kept = self._recover_frame(segment, data, header, header.payload_size_bytes - _SEGMENT.size, _SEGMENT.size)
        for record in kept:
            if oldest:
                yield record

    def _follows(self, header: frame.Header) -> bool:
        ours = (self._sequence, self._log_id, self._chain_crc)
        return (header.sequence, header.log_id, header.previous_crc) == ours

    def _recover_frame(
        self, segment: _Segment, data: bytes, header: frame.Header, size_bytes: int, skipped_bytes: int
    ) -> list[Record]:
        start = segment.used_bytes + frame.HEADER_SIZE_BYTES + skipped_bytes
        try:
            found = records.decode_all(data, start, start + size_bytes)
        except Corrupt as error:
            raise self._corrupt(segment.name, segment.used_bytes, error.message) from error
        self._account(segment, found)
        segment.used_bytes += header.frame_size_bytes
        self._sequence, self._chain_crc = header.sequence + 1, header.crc
        return found

    def _judge_tail(self, segment: _Segment, data: bytes, written_end: int, last: bool) -> None:
        """Raise Corrupt, unless the rest of the segment is unused or a torn tail."""
        offset = segment.used_bytes
        if written_end <= offset:
            return
        if not last:
            raise self._corrupt(segment.name, offset, f"frame {self._sequence} is damaged, and another segment follows")
        damage = frame.judge(data, offset, written_end, self._sequence, self._log_id, self._chain_crc)
        if damage is not None:
            raise self._corrupt(segment.name, offset, damage)

    def _make_tail_durable(self, data: bytes, tail: int, written_end: int) -> None:
        """The last frame may be in the page cache only (the process was killed before its sync, or the sync failed and left the
        pages clean): write it again and sync it. Zero the torn rest, so that nothing of it can be met behind a later frame."""
        self._disk.remove(SPARE_NAME)
        segment = self._active
        if segment is None:
            self._log_id = int.from_bytes(self._disk.random_bytes(8), "little")
            self._reserve_spare()
            if self._spare_size_bytes:
                self._roll(0)
            return
        end = segment.used_bytes
        if end > tail > 0:
            self._disk.write(segment.name, tail, data[tail:end])
        if written_end > end:
            self._disk.write(segment.name, end, bytes(written_end - end))
        self._disk.sync(segment.name)
        self._disk.sync_directory()
        self._reserve_spare()

    def _corrupt(self, name: str, offset: int, found: str) -> Corrupt:
        advice = (
            "Nothing was changed, and the other replicas go on without this node. Do not delete the file alone. "
            "Check the disk; " + RESTORE
        )
        return Corrupt(f"log file {name} is damaged at byte {offset}: {found}. {advice}", file=name, offset=offset)

    # Writing.

    def write(self, batch: Sequence[Record]) -> None:
        """Append the records and make them durable: one write, one sync. Blocks.

        OutOfSpace: nothing was written, the log is as before; hard states may still fit. DiskFailed: the records may be durable
        or not, and no write will succeed any more.
        """
        invariant(self._recovered, "the log is written before it was recovered")
        if not batch:
            return
        parts: list[bytes] = []
        size_bytes = records.encode_into(parts, batch)
        invariant(size_bytes <= frame.PAYLOAD_SIZE_BYTES_MAX, f"a batch of {size_bytes} bytes is written to the log")
        self._make_room(frame.frame_size(size_bytes), batch)
        segment = self._active
        assert segment is not None
        self._append(segment.name, segment, parts, size_bytes, frame.BATCH)
        self._account(segment, batch)

    def _make_room(self, size_bytes: int, batch: Sequence[Record]) -> None:
        """See to it that the active segment has room for a frame, or raise OutOfSpace."""
        room = self._active.size_bytes - self._active.used_bytes if self._active else 0
        if not self._spare_size_bytes:
            self._reserve_spare()
        if not self._spare_size_bytes:
            bulky = any(isinstance(record, EntryRecord | EventualRecord) for record in batch)
            if size_bytes > room - (self._reserve_size_bytes if bulky else 0):
                raise OutOfSpace(f"no space for the next log segment of {self._segment_size_bytes} bytes; nothing was written")
        elif size_bytes > room:
            self._roll(size_bytes)

    def _reserve_spare(self) -> None:
        try:
            self._disk.preallocate(SPARE_NAME, self._segment_size_bytes)
        except OutOfSpace:
            return
        self._spare_size_bytes = self._segment_size_bytes

    def _roll(self, size_bytes: int) -> None:
        """Begin a new segment, in the spare file, with room for a frame of `size_bytes`."""
        parts = [b""]
        kept_bytes = records.encode_into(parts, self._hard_states.values())
        kept_bytes += records.encode_into(parts, self._node_records.values())
        kept_bytes += _SEGMENT.size
        needed_bytes = frame.frame_size(kept_bytes) + size_bytes + self._reserve_size_bytes
        self._disk.preallocate(SPARE_NAME, needed_bytes)
        self._spare_size_bytes = max(self._spare_size_bytes, needed_bytes)
        segment = _Segment(self.active_segment + 1, self._spare_size_bytes)
        parts[0] = _SEGMENT.pack(data_format.VERSION, 0, 0, segment.number, segment.size_bytes)
        self._append(SPARE_NAME, segment, parts, kept_bytes, frame.SEGMENT)
        self._disk.rename(SPARE_NAME, segment.name)
        self._disk.sync_directory()
        if self._active:
            self._disk.close(self._active.name)
        self._segments[segment.number] = self._active = segment
        self._spare_size_bytes = 0
        self._reserve_spare()

    def _append(self, name: str, segment: _Segment, parts: list[bytes], size_bytes: int, kind: int) -> None:
        data, crc = frame.encode_frame(parts, size_bytes, kind, self._sequence, self._log_id, self._chain_crc)
        self._disk.write(name, segment.used_bytes, data)
        synced_from = self._clock()
        self._disk.sync(name)
        self.sync_s = self._clock() - synced_from
        segment.used_bytes += len(data)
        self._sequence += 1
        self._chain_crc = crc

    def _account(self, segment: _Segment, batch: Sequence[Record]) -> None:
        """Remember what the next segments must carry on, and what must be flushed before this one may go."""
        largest = segment.largest
        for record in batch:
            if type(record) is EntryRecord:
                shard, index = record[0], record[1]
                if index > largest.get(shard, 0):
                    largest[shard] = index
            elif type(record) is HardStateRecord:
                self._hard_states[record.shard] = record
            elif type(record) is NodeRecord and record.kind < records.NODE_KINDS_KEPT:
                self._node_records[record.kind] = record

    # Cutting.

    def cut(self, flushed: Mapping[Shard, Index], eventual_flushed_before_segment: int) -> int:
        """Delete segments that are not needed any more, from the oldest on; return how many.

        A segment goes if it is not the active one, its number is below `eventual_flushed_before_segment`, and each shard's
        largest entry index in it is at most `flushed[shard]` (a missing shard counts as 0). The first that must stay ends it.
        Call it only with what a *synced* flush covers.
        """
        removed = 0
        for number, segment in list(self._segments.items()):
            if segment is self._active or number >= eventual_flushed_before_segment:
                break
            if any(index > flushed.get(shard, 0) for shard, index in segment.largest.items()):
                break
            # One by one, each durably: a crash must not leave a gap between the segments.
            self._disk.remove(segment.name)
            self._disk.sync_directory()
            del self._segments[number]
            removed += 1
        return removed

    def close(self) -> None:
        """Close the files. What was written is durable already."""
        self._disk.close(SPARE_NAME)
        if self._active:
            self._disk.close(self._active.name)
