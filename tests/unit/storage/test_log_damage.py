"""The log under damage and power failures: a torn tail is cut, all else is corruption, nothing synced is ever missing."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kvnode.errors import Corrupt
from kvnode.storage.disk import SECTOR_SIZE_BYTES
from kvnode.storage.frame import BATCH, MAGIC, encode_frame
from kvnode.storage.log import Log
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, Record
from tests.sim.disk import SimulatedDisk
from tests.unit.storage.conftest import SEGMENT_SIZE_BYTES, Machine

FIRST, SECOND = "log-0000000000000001", "log-0000000000000002"


class PowerFailure(BaseException):
    """Raised within a sync: what comes after it does not happen."""


def recover(disk: SimulatedDisk) -> list[Record]:
    return list(Log(disk, SEGMENT_SIZE_BYTES).recover())


def entry(index: int, size_bytes: int = 300, rng: random.Random | None = None) -> EntryRecord:
    return EntryRecord(1, index, 1, 1, (rng or random.Random(index)).randbytes(size_bytes))


def new_log(disk: SimulatedDisk, batches: Sequence[Sequence[Record]]) -> Log:
    log = Log(disk, SEGMENT_SIZE_BYTES)
    list(log.recover())
    for batch in batches:
        log.write(batch)
    return log


def write_until_it_fails(log: Log) -> None:
    for index in count(2):
        log.write([entry(index)])


def unsynced(disk: SimulatedDisk, log: Log, batch: Sequence[Record]) -> tuple[int, bytes]:
    """Write a batch that power failed on before its sync; return where it is, and its bytes."""
    before = disk.read(FIRST)

    def fail(_: str) -> None:
        raise PowerFailure

    disk.on_sync = fail
    with pytest.raises(PowerFailure):
        log.write(batch)
    disk.on_sync = None
    after = disk.read(FIRST)
    start = next(at for at in range(len(after)) if before[at] != after[at])
    end = len(after.rstrip(b"\0"))
    disk.restart()
    disk.write(FIRST, 0, before)
    return start, after[start:end]


@given(
    sizes=st.lists(st.lists(st.integers(0, 300), min_size=1, max_size=6), min_size=1, max_size=14),
    where=st.floats(0, 1, exclude_max=True),
    bits=st.lists(st.integers(0, 2000), min_size=1, max_size=4),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=70, deadline=None)
def test_log_with_flipped_bits_recovers_everything_or_is_corrupt(
    sizes: list[list[int]], where: float, bits: list[int], seed: int
) -> None:
    """Everything was synced, so nothing may be missing, and nothing may be invented, wherever the damage is."""
    rng = random.Random(seed)
    disk = SimulatedDisk(rng)
    batches = [[entry(n * 10 + i, size, rng) for i, size in enumerate(batch)] for n, batch in enumerate(sizes)]
    log = new_log(disk, batches)
    names = [name for name in disk.names() if name.startswith("log-0")]
    total = log.size_bytes + SECTOR_SIZE_BYTES
    name = names[int(where * len(names))]
    for bit in bits:
        disk.flip_bit(name, (int(where * 8 * total) + bit) % (8 * disk.size(name)))
    try:
        found = recover(disk)
    except Corrupt:
        return
    assert found == [record for batch in batches for record in batch]


@given(size_bytes=st.integers(0, SEGMENT_SIZE_BYTES - 1), last=st.booleans())
@settings(max_examples=40, deadline=None)
def test_log_with_a_shortened_segment_is_corrupt(size_bytes: int, last: bool) -> None:
    """A segment has its whole length before it has its name: a shorter file is damage, wherever it ends."""
    disk = SimulatedDisk(random.Random(1))
    log = new_log(disk, [[entry(i)] for i in range(40)])
    disk.truncate(f"log-{log.active_segment:016d}" if last else FIRST, size_bytes)
    with pytest.raises(Corrupt):
        recover(disk)


@given(
    size_bytes=st.integers(1, 4000),
    kept=st.one_of(st.sets(st.integers(0, 8)), st.integers(0, 4600)),
    zeros=st.booleans(),
)
@settings(max_examples=70, deadline=None)
def test_log_with_a_torn_tail_recovers_what_was_synced(size_bytes: int, kept: set[int] | int, zeros: bool) -> None:
    """Whatever sectors of the last write are missing, or wherever it ends, also within a sector: it is cut and not an error,
    unless it is complete. Then the log goes on, and recovers again."""
    disk = SimulatedDisk(random.Random(size_bytes))
    synced = [entry(1), entry(2)]
    log = new_log(disk, [synced])
    last = EventualRecord(1, bytes(size_bytes) if zeros else random.Random(size_bytes).randbytes(size_bytes))
    start, data = unsynced(disk, log, [last])
    if isinstance(kept, int):
        disk.write(FIRST, start, data[:kept])
        complete = kept >= len(data)
    else:
        for sector in sorted(kept):
            part = data[sector * SECTOR_SIZE_BYTES : (sector + 1) * SECTOR_SIZE_BYTES]
            disk.write(FIRST, start + sector * SECTOR_SIZE_BYTES, part)
        complete = disk.read(FIRST, start, len(data)) == data
    disk.sync(FIRST)
    log = Log(disk, SEGMENT_SIZE_BYTES)
    found = list(log.recover())
    assert found == ([*synced, last] if complete else synced)
    assert complete or disk.read(FIRST, start) == bytes(SEGMENT_SIZE_BYTES - start)
    log.write([entry(3)])
    disk.crash()
    assert recover(disk) == [*found, entry(3)]


@given(
    size_bytes=st.integers(1, 3000),
    kept=st.sets(st.integers(0, 6)),
    bit=st.integers(0, 8 * 2000),
)
@settings(max_examples=50, deadline=None)
def test_log_with_a_torn_tail_and_damage_before_it_is_corrupt(size_bytes: int, kept: set[int], bit: int) -> None:
    """A trace of the unsynced frame proves that the one before was durable: its damage is found although it has become the last
    frame that could be read."""
    disk = SimulatedDisk(random.Random(size_bytes))
    log = new_log(disk, [[entry(1, 900)], [entry(2, 900)]])
    start, data = unsynced(disk, log, [entry(3, size_bytes)])
    for sector in sorted(kept):
        part = data[sector * SECTOR_SIZE_BYTES : (sector + 1) * SECTOR_SIZE_BYTES]
        disk.write(FIRST, start + sector * SECTOR_SIZE_BYTES, part)
    disk.sync(FIRST)
    disk.flip_bit(FIRST, 8 * SECTOR_SIZE_BYTES + bit)
    before = disk.read(FIRST)
    if 8 * SECTOR_SIZE_BYTES + bit >= 8 * start:
        return
    with pytest.raises(Corrupt) as caught:
        recover(disk)
    assert caught.value.metadata["file"] == FIRST
    assert disk.read(FIRST) == before


def test_log_with_damage_in_the_middle_is_corrupt_and_left_alone(machine: Machine) -> None:
    """The message says which file, which byte, and what to do; no byte is changed."""
    log, _ = machine.recovered()
    for i in range(5):
        log.write([entry(i)])
    machine.flip_bit(FIRST, 8 * 3 * SECTOR_SIZE_BYTES + 2000)
    before = machine.content()
    with pytest.raises(
        Corrupt, match=rf"{FIRST} is damaged at byte 1536: frame 4 is damaged, and more .* restore the whole data directory"
    ):
        machine.recovered()
    assert machine.content() == before


def test_log_with_a_zeroed_header_and_a_later_frame_is_corrupt(machine: Machine) -> None:
    """A sector of zeros looks like one that was never written, but the frame behind it proves that it was."""
    log, _ = machine.recovered()
    for i in range(3):
        log.write([entry(i, 900)])
    machine.disk.write(FIRST, SECTOR_SIZE_BYTES, bytes(SECTOR_SIZE_BYTES))
    with pytest.raises(Corrupt, match="frame 2 is damaged, and frame 3 follows at byte 1536"):
        machine.recovered()


def test_log_with_a_damaged_last_frame_that_was_synced_is_corrupt(machine: Machine) -> None:
    """Nothing follows the last frame, and still a flipped bit does not look like a torn write: no sector is missing."""
    log, _ = machine.recovered()
    log.write([entry(1, 2000)])
    machine.flip_bit(FIRST, 8 * 1500)
    with pytest.raises(Corrupt, match="frame 2 is complete, but its checksum is wrong"):
        machine.recovered()


def test_log_with_zeros_as_data_and_a_damaged_last_frame_is_corrupt(machine: Machine) -> None:
    """Sectors that were written as zeros are not taken for missing ones."""
    log, _ = machine.recovered()
    log.write([EntryRecord(1, 1, 1, 1, bytes(4000) + b"x" * 600)])
    machine.flip_bit(FIRST, 8 * 4800)
    with pytest.raises(Corrupt, match="frame 2 is complete"):
        machine.recovered()


def test_log_with_a_damaged_header_of_the_last_frame_is_corrupt(machine: Machine) -> None:
    """A sector is written whole or not at all, so a header that is neither right nor zeros is damage."""
    log, _ = machine.recovered()
    log.write([entry(1)])
    machine.flip_bit(FIRST, 8 * (SECTOR_SIZE_BYTES + 20))
    with pytest.raises(Corrupt, match="the header of frame 2 is damaged"):
        machine.recovered()


def test_log_with_damage_in_a_full_segment_is_corrupt(machine: Machine) -> None:
    """Any damage below the last segment, the unused rest of the file included, and any lost sectors."""
    log, _ = machine.recovered()
    for i in range(1, 60):
        log.write([entry(i, 700)])
    assert log.active_segment > 1
    used = len(machine.disk.read(FIRST).rstrip(b"\0"))
    good = machine.disk.read(FIRST)
    assert used < SEGMENT_SIZE_BYTES
    for at in (10, 600, used - 1, SEGMENT_SIZE_BYTES - 1):
        machine.flip_bit(FIRST, 8 * at)
        with pytest.raises(Corrupt) as caught:
            machine.recovered()
        assert caught.value.metadata["file"] == FIRST
        machine.disk.write(FIRST, 0, good)
    machine.disk.write(FIRST, used, MAGIC)
    with pytest.raises(Corrupt, match="another segment follows"):
        machine.recovered()
    machine.disk.write(FIRST, 0, good)
    last_frame = good.rfind(MAGIC)
    machine.disk.write(FIRST, last_frame, bytes(used - last_frame))
    with pytest.raises(Corrupt, match=f"{SECOND} is damaged at byte 0: frame .* does not follow"):
        machine.recovered()


def test_log_with_a_forged_frame_within_a_torn_tail_is_still_torn() -> None:
    """A client that stores what looks like a later frame cannot turn a torn tail into corruption: it does not know the log's
    id."""
    disk = SimulatedDisk(random.Random(5))
    log = new_log(disk, [[entry(1)]])
    forged, _ = encode_frame([b"x"], 1, BATCH, 99, 12345, 0)
    for shift in range(0, SECTOR_SIZE_BYTES, 4):
        value = bytes(shift) + (forged * 2)
        start, data = unsynced(disk, log, [EntryRecord(1, 2, 1, 1, value)])
        disk.write(FIRST, start + SECTOR_SIZE_BYTES, data[SECTOR_SIZE_BYTES:])
        disk.sync(FIRST)
        log = Log(disk, SEGMENT_SIZE_BYTES)
        assert list(log.recover()) == [entry(1)]


def test_log_killed_while_it_begins_a_segment_keeps_what_the_next_process_writes_there() -> None:
    """The new segment's name is seen by the next process but is not durable yet: recovery makes it so before anything is
    acknowledged in it."""
    for seed in range(10):
        disk = SimulatedDisk(random.Random(seed))
        log = new_log(disk, [[entry(1)]])

        def kill(name: str) -> None:
            if name == "":
                raise PowerFailure

        disk.on_sync = kill
        with pytest.raises(PowerFailure):
            write_until_it_fails(log)
        disk.on_sync = None
        disk.restart()
        log = Log(disk, SEGMENT_SIZE_BYTES)
        found = list(log.recover())
        assert log.active_segment == 2
        log.write([entry(1000)])
        disk.crash()
        assert recover(disk) == [*found, entry(1000)]


@pytest.mark.parametrize("seed", range(12))
def test_log_through_power_failures_keeps_every_acknowledged_record_in_order(seed: int) -> None:
    """Power fails within any sync: of writes, of segments being begun, of cuts, of recoveries. All that was acknowledged and
    not cut is recovered, in order, and of the batch that was under way all or nothing."""
    rng = random.Random(seed)
    disk = SimulatedDisk(random.Random(seed + 1000))
    acknowledged: list[tuple[int, Record]] = []
    cut_below, term, index = 0, 0, 0
    under_way: list[Record] = []

    def fail_sometimes(_: str) -> None:
        if rng.random() < 0.04:
            raise PowerFailure

    for _ in range(30):
        try:
            log = Log(disk, SEGMENT_SIZE_BYTES // 2)
            found = list(log.recover())
            disk.on_sync = fail_sometimes
            kept = [record for segment, record in acknowledged if segment >= cut_below]
            everything = [record for _, record in acknowledged]
            if under_way and found[-len(under_way) :] == under_way:
                acknowledged += [(log.active_segment, record) for record in under_way]
                kept, everything = kept + under_way, everything + under_way
            under_way = []
            assert found[len(found) - len(kept) :] == kept
            added = [record for record in found if record not in everything]
            assert added == []
            states = [record for record in everything if isinstance(record, HardStateRecord)]
            assert [record for record in found if isinstance(record, HardStateRecord)][-1:] == states[-1:]
            while True:
                term += 1
                index += 1
                under_way = [HardStateRecord(1, term, "n1", 0), entry(index, rng.randrange(2000), rng)]
                log.write(under_way)
                acknowledged += [(log.active_segment, record) for record in under_way]
                under_way = []
                if rng.random() < 0.1:
                    flushed = rng.randrange(index + 1)
                    needed = [n for n, r in acknowledged if isinstance(r, EntryRecord) and r.index > flushed]
                    cut_below = max(cut_below, min(needed, default=log.active_segment))
                    log.cut({1: flushed}, 10_000)
        except PowerFailure:
            disk.on_sync = None
            disk.crash()
    assert index > 30
