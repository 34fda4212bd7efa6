"""The log under damage: recovery returns what was written, or all but a torn last frame, or says where it is corrupt.

Which damage nobody can tell from a torn tail follows from `kvnode.storage.frame`, and is stated here as `may_be_torn`; every
bit of a small log is tried.
"""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.storage import frame, records
from kvnode.storage.disk import SECTOR_SIZE_BYTES
from kvnode.storage.log import SPARE_NAME, Log
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, NodeRecord, Record
from tests.fuzz.profile import FACTOR, fuzz
from tests.sim.disk import SimulatedDisk

SEGMENT_SIZE_BYTES = 3072
BATCHES: Sequence[Sequence[Record]] = (
    (NodeRecord(1, b"identity"), HardStateRecord(0, 1, "n1", 0)),
    (EntryRecord(0, 1, 1, 1, b"a" * 40), EventualRecord(1, b"write")),
    (EntryRecord(0, 2, 1, 1, bytes(700) + b"\x01"), HardStateRecord(1, 2, "", 1)),
    (EntryRecord(1, 1, 2, 1, b"\xff" * 100),),
    (EntryRecord(1, 2, 2, 1, bytes(511) + b"\x80" + bytes(600)), EntryRecord(1, 3, 2, 1, b"last")),
)


def written(log_id: int = 1, batches: Sequence[Sequence[Record]] = BATCHES) -> dict[str, bytes]:
    """The files of a log with these batches, one frame each."""
    disk = SimulatedDisk(random.Random(log_id))
    log = Log(disk, SEGMENT_SIZE_BYTES)
    assert not list(log.recover())
    for batch in batches:
        log.write(batch)
    return {name: disk.read(name) for name in disk.names() if name != SPARE_NAME}


FILES = written()
OTHER_FILES = written(2)
LAST_NAME = max(FILES)


def disk_of(files: dict[str, bytes]) -> SimulatedDisk:
    """A disk with exactly these files, durably."""
    disk = SimulatedDisk(random.Random(0))
    for name, data in files.items():
        disk.preallocate(name, len(data))
        disk.write(name, 0, data)
        disk.sync(name)
    disk.sync_directory()
    return disk


def recovered(files: dict[str, bytes]) -> int | Corrupt:
    """How many batches are recovered, which must be exactly those that were written; or the error, which must name the place.

    After `Corrupt` nothing has changed on the disk; after a success the log takes a batch, and another recovery finds it.
    """
    disk = disk_of(files)
    log = Log(disk, SEGMENT_SIZE_BYTES)
    try:
        found = list(log.recover())
    except Corrupt as corrupt:
        error = corrupt
    else:
        error = None
    if error is not None:
        assert error.metadata["file"].startswith("log-"), error
        assert int(error.metadata["offset"]) >= 0, error
        assert {name: disk.read(name) for name in files} == files, "a corrupt log was changed"
        return error
    count = next((n for n in range(len(BATCHES) + 1) if [one for batch in BATCHES[:n] for one in batch] == found), None)
    assert count is not None, f"recovered what was never written: {found}"
    more = EntryRecord(0, 9, 9, 1, b"more")
    log.write([more])
    disk.restart()
    assert list(Log(disk, SEGMENT_SIZE_BYTES).recover())[len(found) :] == [more]
    return count


def last_frame() -> tuple[int, int]:
    """Where the last frame begins and ends in the last segment."""
    data, offset = FILES[LAST_NAME], 0
    while True:
        header = frame.read_header(data, offset)
        assert header is not None
        end = offset + header.frame_size_bytes
        if frame.read_header(data, end) is None:
            return offset, end
        offset = end


def may_be_torn(bit: int) -> bool:
    """Whether this flipped bit of the last segment's last frame cannot be told from a write that never finished: it was
    the only one that was set in its sector, which now reads as if it had never been written."""
    begin, end = last_frame()
    at = bit // 8
    if not begin <= at < end:
        return False
    sector = FILES[LAST_NAME][at - at % SECTOR_SIZE_BYTES :][:SECTOR_SIZE_BYTES]
    return sum(byte.bit_count() for byte in sector) == 1 and bool(FILES[LAST_NAME][at] >> bit % 8 & 1)


def flipped(name: str, bit: int) -> dict[str, bytes]:
    """The files with one bit changed."""
    data = bytearray(FILES[name])
    data[bit // 8] ^= 1 << bit % 8
    return {**FILES, name: bytes(data)}


@pytest.mark.parametrize("name", sorted(FILES))
def test_log_with_any_bit_flipped_is_corrupt_unless_it_looks_torn(name: str) -> None:
    """Every bit of what was written, one by one: corrupt, but for the bits of `may_be_torn`, which cost the last frame and no
    more. Of what was never written, behind it, some: in the last segment such a bit costs nothing, in others it is noticed."""
    torn, data = 0, FILES[name]
    end = frame.written_end(data)
    for bit in range(end * 8):
        outcome = recovered(flipped(name, bit))
        if name == LAST_NAME and may_be_torn(bit):
            assert outcome == len(BATCHES) - 1, f"bit {bit}: {outcome}"
            torn += 1
        else:
            assert isinstance(outcome, Corrupt), f"bit {bit} of {name} went unnoticed: {outcome} batches"
    assert torn == (name == LAST_NAME), "the log was made to have one such sector"
    for bit in range(end * 8, len(data) * 8, 41):
        outcome = recovered(flipped(name, bit))
        assert isinstance(outcome, Corrupt) or (outcome == len(BATCHES) and name == LAST_NAME), f"bit {bit}: {outcome}"


@st.composite
def damaged(draw: st.DrawFn) -> dict[str, bytes]:
    """The files after one to three accidents of different kinds."""
    files = {name: bytearray(data) for name, data in FILES.items()}
    for _ in range(draw(st.integers(1, 3))):
        data = files[draw(st.sampled_from(sorted(files)))]
        sectors = max(1, len(data) // SECTOR_SIZE_BYTES)
        kind = draw(st.sampled_from(("flip", "bytes", "zero", "swap", "copy", "foreign", "cut", "tail")))
        here, there = (draw(st.integers(0, sectors - 1)) * SECTOR_SIZE_BYTES for _ in range(2))
        one, other = bytes(data[here : here + SECTOR_SIZE_BYTES]), bytes(data[there : there + SECTOR_SIZE_BYTES])
        if kind == "flip" and data:
            bit = draw(st.integers(0, len(data) * 8 - 1))
            data[bit // 8] ^= 1 << bit % 8
        elif kind == "bytes":
            at, new = draw(st.integers(0, len(data))), draw(st.binary(max_size=64))
            data[at : at + len(new)] = new
        elif kind == "zero":
            data[here : here + len(one)] = bytes(len(one))
        elif kind == "swap":
            data[here : here + len(one)], data[there : there + len(other)] = other, one
        elif kind == "copy":
            data[there : there + len(one)] = one
        elif kind == "foreign":
            foreign = OTHER_FILES[draw(st.sampled_from(sorted(OTHER_FILES)))]
            data[here : here + SECTOR_SIZE_BYTES * draw(st.integers(1, 8))] = foreign[here : here + SECTOR_SIZE_BYTES]
        elif kind == "cut":
            del data[draw(st.integers(0, len(data))) :]
        else:
            data[here:] = bytes(len(data) - here)
    return {name: bytes(data) for name, data in files.items()}


@given(files=damaged())
@fuzz(200)
def test_log_with_several_accidents_recovers_a_prefix_or_is_corrupt(files: dict[str, bytes]) -> None:
    """Whatever happened to its files, a log never returns anything but batches that were written, from the first on."""
    recovered(files)


@given(sector=st.integers(0, 7), size=st.integers(1, 8), name=st.sampled_from(sorted(FILES)))
@fuzz(60)
def test_log_with_zeroed_sectors_loses_no_more_than_they_held(sector: int, size: int, name: str) -> None:
    """Zeros within the last frame cost that frame; zeros that leave anything behind them are noticed."""
    begin, end = sector * SECTOR_SIZE_BYTES, (sector + size) * SECTOR_SIZE_BYTES
    data = bytearray(FILES[name])
    data[begin:end] = bytes(len(data[begin:end]))
    outcome = recovered({**FILES, name: bytes(data)})
    last_begin, last_end = last_frame()
    if bytes(data) == FILES[name]:
        assert outcome == len(BATCHES)
    elif name != LAST_NAME or begin == 0:
        assert isinstance(outcome, Corrupt)
    elif last_begin <= begin:
        assert outcome == len(BATCHES) - 1
    elif end < last_end:
        assert isinstance(outcome, Corrupt)


@given(names=st.permutations(sorted(FILES)), foreign=st.sampled_from(sorted(FILES)))
@fuzz(20)
def test_log_with_segments_of_another_log_or_place_is_corrupt(names: list[str], foreign: str) -> None:
    """Segments that change places, or come from another log with the same numbers, are not taken for this one's."""
    swapped = dict(zip(sorted(FILES), (FILES[name] for name in names), strict=True))
    assert swapped == FILES or isinstance(recovered(swapped), Corrupt)
    spliced = {**FILES, foreign: OTHER_FILES[foreign]}
    assert isinstance(recovered(spliced), Corrupt)


@given(data=st.binary(max_size=600), offset=st.integers(0, 3))
@fuzz(200)
def test_records_of_arbitrary_bytes_are_records_or_corrupt(data: bytes, offset: int) -> None:
    """Bytes are records that encode to the same bytes again, or `Corrupt`; nothing else comes out."""
    for decode in (records.decode, lambda body: records.decode_all(body, min(offset, len(body)), len(body))):
        try:
            found = decode(data)
        except Corrupt:
            continue
        parts: list[bytes] = []
        if isinstance(found, list):
            records.encode_into(parts, found)
            assert b"".join(parts) == data[min(offset, len(data)) :]
        else:
            assert records.encode(found) == data


@given(data=st.binary(max_size=4096), prefix=st.sampled_from((b"", frame.MAGIC)))
@fuzz(100)
def test_log_of_arbitrary_files_is_corrupt(data: bytes, prefix: bytes) -> None:
    """A file that no log wrote is refused under a segment's name."""
    disk = disk_of({"log-0000000000000001": prefix + data})
    with pytest.raises(Corrupt):
        list(Log(disk, SEGMENT_SIZE_BYTES).recover())


def test_profile_of_make_test_is_derandomized() -> None:
    """Without `KVNODE_FUZZ_FACTOR` the same examples run each time."""
    assert fuzz(3).derandomize is not bool(FACTOR)
