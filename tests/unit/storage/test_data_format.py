"""The version of a data directory: written once and whole, read before everything else, and refused where it is unknown."""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kvnode import __version__
from kvnode.errors import Corrupt, UnknownFormat
from kvnode.storage import data_format, frame
from kvnode.storage.data_format import FORMAT_NAME, VERSION, Mark, read_mark, settle
from kvnode.storage.disk import Disk
from kvnode.storage.log import Log
from kvnode.storage.records import HardStateRecord
from tests.sim.disk import SimulatedDisk
from tests.unit.storage.conftest import SEGMENT_SIZE_BYTES, Machine

WHERE = "data"
SEGMENT = "log-0000000000000001"


class PowerFailure(BaseException):
    """Raised within a sync: what comes after it does not happen."""


def put(disk: Disk, name: str, data: bytes) -> None:
    """A file as it was left on the disk."""
    disk.preallocate(name, max(1, len(data)))
    disk.write(name, 0, data)
    disk.sync(name)
    disk.sync_directory()


def write_log(disk: Disk) -> None:
    """What a release before `FORMAT` left: a log with a record."""
    log = Log(disk, SEGMENT_SIZE_BYTES)
    list(log.recover())
    log.write([HardStateRecord(1, 5, "a", 2)])


def start(disk: Disk) -> None:
    """What a node does first."""
    settle(disk, WHERE)
    write_log(disk)


def age_segment(disk: Disk, version: int) -> None:
    """Make the first segment one of another format, whole and with right checksums."""
    data = disk.read(SEGMENT)
    header = frame.read_header(data, 0)
    assert header is not None
    payload = data[frame.HEADER_SIZE_BYTES :][: header.payload_size_bytes]
    changed, _ = frame.encode_frame(
        [version.to_bytes(2, "little") + payload[2:]],
        len(payload),
        header.kind,
        header.sequence,
        header.log_id,
        header.previous_crc,
    )
    disk.write(SEGMENT, 0, changed)
    disk.sync(SEGMENT)


def test_format_of_a_new_directory_is_written_and_found_again(machine: Machine) -> None:
    """A new directory says its format and the release that made it; the next start reads it and writes nothing."""
    settle(machine.disk, WHERE)
    assert machine.disk.read(FORMAT_NAME) == f"kvnode data format 1\nwritten by kvnode {__version__}\n".encode()
    before = machine.content()
    assert list(before) == [FORMAT_NAME]
    settle(machine.restart(), WHERE)
    assert machine.content() == before
    assert read_mark(machine.disk, WHERE) == Mark(VERSION, __version__)


def test_format_of_an_earlier_releases_directory_counts_as_one_and_is_written(machine: Machine) -> None:
    """Releases before the file knew one format: their directories get it, and keep what they have."""
    write_log(machine.disk)
    before = machine.content()
    settle(machine.restart(), WHERE)
    assert read_mark(machine.disk, WHERE) == Mark(1, __version__)
    after = machine.content()
    del after[FORMAT_NAME]
    assert after == before
    assert machine.recovered()[1] == [HardStateRecord(1, 5, "a", 2)]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (
            b"kvnode data format 2\nwritten by kvnode 3.4.0\n",
            f"data has data format 2, of a newer release; this one, {__version__}, reads format 1. Nothing was changed. "
            "Install kvnode 3.4.0. (Do not start a copy from before that",
        ),
        (b"kvnode data format 7\nwhat nobody knows yet", "Install a release of kvnode that reads format 7"),
        (b"kvnode data format 2\nwritten by kvnode \x1b[31m\n", "Install a release of kvnode that reads format 2"),
        (b"\0", "data/FORMAT does not say which format the data directory has: it begins with b'\\x00'"),
        (b"kvnode data format 0\n", "does not say"),
        (b"kvnode data format 1", "does not say"),
        (b"kvnode data format 11111111111111111111\n", "does not say"),
        (b"x" * 100_000, "begins with b'xxxx"),
    ],
)
def test_format_that_is_unknown_is_refused_and_nothing_is_changed(machine: Machine, content: bytes, words: str) -> None:
    """The message has what was found, what this release reads and what to do, and never calls it corrupt."""
    write_log(machine.disk)
    put(machine.disk, FORMAT_NAME, content)
    put(machine.disk, "snapshot-3", b"left over")
    before = machine.content()
    with pytest.raises(UnknownFormat) as refused:
        settle(machine.restart(), WHERE)
    assert words in refused.value.message
    assert "Nothing was changed" in refused.value.message
    assert "corrupt" not in refused.value.message.lower()
    assert machine.content() == before


def test_format_file_that_is_empty_is_refused(machine: Machine) -> None:
    """An empty file is no mark, and no crash of ours leaves one: it must not pass for a new directory."""
    machine.disk.preallocate(FORMAT_NAME, 1)
    machine.truncate(FORMAT_NAME, 0)
    with pytest.raises(UnknownFormat, match="FORMAT does not say which format the data directory has: it is empty"):
        settle(machine.restart(), WHERE)


def test_format_file_lost_beside_newer_segments_is_refused(machine: Machine) -> None:
    """A copy of a newer release's directory without `FORMAT` is not taken for an old one: its segments tell."""
    write_log(machine.disk)
    age_segment(machine.disk, 2)
    before = machine.content()
    with pytest.raises(UnknownFormat, match="data has data format 2, of a newer release"):
        settle(machine.restart(), WHERE)
    assert machine.content() == before


def test_format_of_one_segment_that_is_newer_is_refused_by_the_log(machine: Machine) -> None:
    """A segment brought from elsewhere is refused as what it is, not as damage, and nothing is changed."""
    settle(machine.disk, WHERE)
    write_log(machine.disk)
    age_segment(machine.disk, 2)
    before = machine.content()
    with pytest.raises(UnknownFormat, match=f"log file {SEGMENT} has data format 2"):
        machine.recovered()
    assert machine.content() == before


def test_format_file_lost_beside_a_damaged_segment_leaves_the_verdict_to_the_log(machine: Machine) -> None:
    """A segment whose first frame cannot be read says nothing of its format; the log reports the damage as ever."""
    write_log(machine.disk)
    machine.flip_bit(SEGMENT, 8 * 20)
    settle(machine.restart(), WHERE)
    with pytest.raises(Corrupt, match="first frame is damaged"):
        machine.recovered()


def test_format_on_a_full_disk_is_left_to_a_later_start(machine: Machine) -> None:
    """A disk too full for the mark must not keep a node from serving reads; the next start with space writes it."""
    write_log(machine.disk)
    machine.limit(1)
    settle(machine.restart(), WHERE)
    assert read_mark(machine.disk, WHERE) is None
    machine.limit(2**40)
    settle(machine.restart(), WHERE)
    assert read_mark(machine.disk, WHERE) == Mark(1, __version__)


def _stop_at(disk: SimulatedDisk, sync: int) -> Callable[[str], None]:
    seen = 0

    def on_sync(_: str) -> None:
        nonlocal seen
        seen += 1
        if seen == sync:
            raise PowerFailure

    return on_sync


@pytest.mark.parametrize("sync", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("old", [False, True], ids=["new", "of an earlier release"])
def test_power_failure_at_any_moment_leaves_a_directory_that_starts(sync: int, old: bool) -> None:
    """Before each sync of the mark, and of the log's first ones behind it: whatever of it survives, the next start finds its
    format, and a log that is whole."""
    for seed in range(60):
        disk = SimulatedDisk(random.Random(seed))
        if old:
            write_log(disk)
        expected = list(Log(disk, SEGMENT_SIZE_BYTES).recover()) if old else []
        disk.on_sync = _stop_at(disk, sync)
        with pytest.raises(PowerFailure):
            start(disk)
        disk.on_sync = None
        disk.crash()
        assert read_mark(disk, WHERE) in (None, Mark(VERSION, __version__))
        settle(disk, WHERE)
        assert read_mark(disk, WHERE) == Mark(VERSION, __version__)
        found = list(Log(disk, SEGMENT_SIZE_BYTES).recover())
        assert found[: len(expected)] == expected


def test_format_version_and_the_segments_are_one_number() -> None:
    """What `FORMAT` says and what a new segment says is the same: one number for the whole directory."""
    disk = SimulatedDisk(random.Random(1))
    write_log(disk)
    assert data_format.version_of(disk, WHERE) == Mark(VERSION)
    put(disk, FORMAT_NAME, b"kvnode data format 1\n")
    assert data_format.version_of(disk, WHERE) == Mark(VERSION)
