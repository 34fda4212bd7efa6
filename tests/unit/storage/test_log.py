"""The log without damage: order, segments, cutting, full disks, failing disks."""

from __future__ import annotations

import random

import pytest

from kvnode.errors import Corrupt
from kvnode.storage.disk import DiskFailed, OutOfSpace
from kvnode.storage.log import Log
from kvnode.storage.records import EntryRecord, EventualRecord, HardStateRecord, NodeRecord, Record
from tests.sim.disk import SimulatedDisk
from tests.unit.storage.conftest import SEGMENT_SIZE_BYTES, Machine


def entries(first: int, count: int, shard: int = 1, size_bytes: int = 150) -> list[Record]:
    return [EntryRecord(shard, first + i, 2, 1, (b"%d." % (first + i)) * (size_bytes // 4)) for i in range(count)]


def test_log_new_recovers_nothing_and_has_one_segment(machine: Machine) -> None:
    """The first start."""
    log, found = machine.recovered()
    assert found == []
    assert log.active_segment == 1
    assert 0 < log.size_bytes < SEGMENT_SIZE_BYTES


def test_log_written_records_are_recovered_in_order(machine: Machine) -> None:
    """All kinds of records, in several batches, over several restarts."""
    written: list[Record] = []
    for start in range(3):
        log, found = machine.recovered()
        assert found == written
        for i in range(4):
            batch = [
                *entries(1 + start * 10 + i * 2, 2),
                HardStateRecord(1, start, "n1", i),
                EventualRecord(3, b"eventual"),
                NodeRecord(20, b"event"),
            ]
            log.write(batch)
            written += batch
        log.close()
    assert machine.recovered()[1] == written


def test_log_empty_batch_writes_nothing(machine: Machine) -> None:
    """No records: no write, no sync."""
    log, _ = machine.recovered()
    size_bytes = log.size_bytes
    log.write([])
    assert log.size_bytes == size_bytes


def test_log_one_batch_is_one_write_and_one_sync() -> None:
    """Group commit: the cost of durability does not depend on the number of records."""
    disk = SimulatedDisk(random.Random(1))
    log = Log(disk, 1024 * 1024)
    list(log.recover())
    before = disk.writes, disk.syncs
    log.write(entries(1, 500))
    assert (disk.writes - before[0], disk.syncs - before[1]) == (1, 1)


def test_log_over_many_segments_recovers_each_record_once(machine: Machine) -> None:
    """What a segment carries on from the one before is not yielded a second time."""
    log, _ = machine.recovered()
    written: list[Record] = [HardStateRecord(1, 7, "n2", 3), NodeRecord(2, b"incarnation")]
    log.write(written)
    for i in range(40):
        batch = entries(1 + i * 10, 10)
        log.write(batch)
        written += batch
    assert log.active_segment > 3
    assert machine.recovered()[1] == written


def test_log_batch_larger_than_a_segment_is_written_whole(machine: Machine) -> None:
    """A segment is made as large as its first batch needs; the next one has the usual size again."""
    log, _ = machine.recovered()
    large = entries(1, 3, size_bytes=SEGMENT_SIZE_BYTES)
    log.write(large)
    after = entries(4, 60)
    log.write(after[:30])
    log.write(after[30:])
    again, found = machine.recovered()
    assert found == large + after
    assert again.active_segment == log.active_segment > 2


def test_log_cut_deletes_from_the_oldest_on_what_every_shard_has_flushed(machine: Machine) -> None:
    """The segment with an entry that is not flushed stays, and so does everything behind it."""
    log, _ = machine.recovered()
    last_in_segment: dict[int, int] = {}
    for i in range(1, 400, 4):
        log.write(entries(i, 4) + entries(i, 4, shard=2))
        last_in_segment[log.active_segment] = i + 3
    active = log.active_segment
    assert active > 5
    everything = {1: 1000, 2: 1000}
    assert log.cut({1: 1000}, active + 1) == 0
    assert log.cut({1: 1000, 2: last_in_segment[1] - 1}, active + 1) == 0
    assert log.cut({1: last_in_segment[2], 2: 1000}, active + 1) == 2
    assert log.cut(everything, 4) == 1
    size_bytes = log.size_bytes
    again, found = machine.recovered()
    assert (again.active_segment, again.size_bytes) == (active, size_bytes)
    assert found[0] == EntryRecord(1, last_in_segment[3] + 1, 2, 1, found[0][4])
    assert again.cut(everything, active + 1) == active - 4
    assert again.cut(everything, active + 1) == 0
    assert again.active_segment == active


def test_log_cut_keeps_hard_states_and_node_records(machine: Machine) -> None:
    """What must be known of a shard or the node survives, although the segments that held it are gone."""
    log, _ = machine.recovered()
    log.write([HardStateRecord(5, 1, "n1", 1), NodeRecord(3, b"old"), NodeRecord(16, b"an event")])
    log.write([HardStateRecord(5, 9, "n3", 7), HardStateRecord(6, 2, "", 0), NodeRecord(3, b"new")])
    for i in range(1, 300, 10):
        log.write(entries(i, 10))
    assert log.cut({1: 1000}, 1000) > 0
    log, found = machine.recovered()
    kept: list[Record] = [HardStateRecord(5, 9, "n3", 7), HardStateRecord(6, 2, "", 0), NodeRecord(3, b"new")]
    assert found[:3] == kept
    for i in range(300, 600, 10):
        log.write(entries(i, 10))
    assert log.cut({1: 1000}, 1000) > 0
    assert machine.recovered()[1][:3] == kept


def test_log_cut_after_a_conflict_keeps_the_segment_of_the_larger_index(machine: Machine) -> None:
    """Entries replaced by smaller indexes still bind their segment: the largest index counts, not the last."""
    log, _ = machine.recovered()
    log.write([*entries(100, 1), *entries(50, 1)])
    for i in range(1, 200, 10):
        log.write(entries(i, 10, shard=2))
    assert log.active_segment > 2
    assert log.cut({1: 99, 2: 1000}, 3) == 0
    assert log.cut({1: 100, 2: 1000}, 3) == 2


def test_log_without_space_refuses_entries_before_writing_and_takes_hard_states(machine: Machine) -> None:
    """A full disk: entries are refused with nothing written, votes still fit, and writing goes on when there is space."""
    log, _ = machine.recovered()
    written: list[Record] = []
    machine.limit(5 * SEGMENT_SIZE_BYTES)

    def fill() -> None:
        for i in range(1, 2000):
            batch = entries(i, 1)
            log.write(batch)
            written.extend(batch)

    with pytest.raises(OutOfSpace):
        fill()
    with pytest.raises(OutOfSpace):
        log.write([EventualRecord(1, b"x" * 2000)])
    vote = HardStateRecord(1, 8, "n2", 0)
    log.write([vote])
    log.write([vote])
    again, found = machine.recovered()
    assert found == [*written, vote, vote]
    with pytest.raises(OutOfSpace):
        again.write(entries(1000, 10))
    again.write([vote])
    assert again.cut({1: 10_000}, 1000) > 0
    again.write(entries(1000, 10))
    assert machine.recovered()[1][-10:] == entries(1000, 10)


def test_log_without_space_at_the_first_start_refuses_and_begins_later(machine: Machine) -> None:
    """A node started on a full disk."""
    machine.limit(SEGMENT_SIZE_BYTES // 2)
    log, found = machine.recovered()
    assert (found, log.active_segment) == ([], 0)
    with pytest.raises(OutOfSpace):
        log.write([HardStateRecord(1, 1, "n1", 0)])
    machine.limit(100 * SEGMENT_SIZE_BYTES)
    log.write([HardStateRecord(1, 1, "n1", 0)])
    assert machine.recovered()[1] == [HardStateRecord(1, 1, "n1", 0)]


def test_log_large_batch_without_space_leaves_the_log_as_it_was(machine: Machine) -> None:
    """What does not fit although a spare segment exists is refused as well, and smaller batches go on."""
    log, _ = machine.recovered()
    machine.limit(6 * SEGMENT_SIZE_BYTES)
    with pytest.raises(OutOfSpace):
        log.write(entries(1, 1, size_bytes=16 * SEGMENT_SIZE_BYTES))
    log.write(entries(1, 60))
    log.write(entries(61, 60))
    assert machine.recovered()[1] == entries(1, 120)


@pytest.mark.parametrize("fault", ["fail_next_sync", "fail_next_write"])
def test_log_after_a_disk_error_nothing_is_written_any_more(fault: str) -> None:
    """The error is final (invariant 8); after a restart everything acknowledged is there."""
    disk = SimulatedDisk(random.Random(3))
    log = Log(disk, SEGMENT_SIZE_BYTES)
    list(log.recover())
    log.write(entries(1, 5))
    getattr(disk, fault)()
    with pytest.raises(DiskFailed):
        log.write(entries(6, 5))
    with pytest.raises(DiskFailed):
        log.write(entries(6, 5))
    disk.restart()
    found = list(Log(disk, SEGMENT_SIZE_BYTES).recover())
    assert found in (entries(1, 5), entries(1, 10))


def test_log_tail_whose_sync_failed_is_made_durable_by_recovery() -> None:
    """After a failed sync the page cache shows a frame that is not on the disk. What recovery yields survives a power failure
    all the same, since it is written again."""
    for seed in range(20):
        disk = SimulatedDisk(random.Random(seed))
        log = Log(disk, SEGMENT_SIZE_BYTES)
        list(log.recover())
        disk.fail_next_sync()
        with pytest.raises(DiskFailed):
            log.write(entries(1, 20))
        disk.restart()
        found = list(Log(disk, SEGMENT_SIZE_BYTES).recover())
        assert found == entries(1, 20)
        disk.crash()
        assert list(Log(disk, SEGMENT_SIZE_BYTES).recover()) == found


def test_log_with_a_missing_segment_is_corrupt(machine: Machine) -> None:
    """A gap between the segments is found, and named."""
    log, _ = machine.recovered()
    for i in range(1, 300, 10):
        log.write(entries(i, 10))
    machine.disk.remove("log-0000000000000002")
    with pytest.raises(Corrupt, match="log-0000000000000002 is damaged at byte 0: the file is missing") as caught:
        machine.recovered()
    assert caught.value.metadata["file"] == "log-0000000000000002"


def test_log_segment_of_another_log_is_corrupt(machine: Machine) -> None:
    """Files copied from another node's log do not chain."""
    log, _ = machine.recovered()
    for i in range(1, 300, 10):
        log.write(entries(i, 10))
    other = SimulatedDisk(random.Random(99))
    foreign = Log(other, SEGMENT_SIZE_BYTES)
    list(foreign.recover())
    for i in range(1, 300, 10):
        foreign.write(entries(i, 10))
    name = "log-0000000000000002"
    machine.disk.write(name, 0, other.read(name))
    with pytest.raises(Corrupt, match="does not follow"):
        machine.recovered()
