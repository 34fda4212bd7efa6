"""What is in a data directory: the doctor says what a start would say, and writes nothing."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from kvnode.doctor import contents
from kvnode.doctor.contents import ReadOnlyDisk, check_contents
from kvnode.doctor.finding import Level
from kvnode.runtime.recovery import Identity
from kvnode.shard.state_machine import META
from kvnode.storage.disk import Disk, claim
from kvnode.storage.records import EntryRecord
from kvnode.storage.store import LmdbStore
from tests.unit.doctor.subjects import levels, make_subject, state_of, stopped_node

ENTRIES = [EntryRecord(3, index, 1, 1, b"x" * 100) for index in range(1, 40)]
FINE = [("data format", Level.OK), ("identity", Level.OK), ("log", Level.OK), ("store", Level.OK)]


def flip(path: Path, offset: int) -> None:
    """Damage a byte."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 0xFF
    path.write_bytes(data)


def test_contents_of_a_stopped_node_are_whole_and_untouched(tmp_path: Path) -> None:
    """Format, identity, log and store; not a byte and not a time changes, and no file is made."""
    stopped_node(tmp_path, ENTRIES)
    before = state_of(tmp_path)
    found = check_contents(make_subject(tmp_path), is_running=False)
    assert levels(found) == FINE
    assert found[1].found == "node n1 of cluster orders, incarnation 1"
    assert found[2].found.startswith("40 records in ")
    assert state_of(tmp_path) == before


def test_contents_of_a_node_that_runs_are_not_read(tmp_path: Path) -> None:
    """Only the format: the rest changes meanwhile."""
    stopped_node(tmp_path, ENTRIES)
    flip(tmp_path / "log-0000000000000001", 600)
    found = check_contents(make_subject(tmp_path), is_running=True)
    assert levels(found) == [("data format", Level.OK), ("log", Level.SKIPPED)]


def test_contents_of_a_node_that_is_started_meanwhile_are_not_judged(tmp_path: Path) -> None:
    """What it writes and cuts would look like damage."""
    stopped_node(tmp_path, ENTRIES)
    flip(tmp_path / "log-0000000000000001", 600)
    started: list[int] = []

    def clock() -> float:
        if not started:
            started.append(claim(tmp_path))
        return 0.0

    try:
        found = check_contents(make_subject(tmp_path), is_running=False, clock=clock)
    finally:
        os.close(started[0])
    assert levels(found) == [("data format", Level.OK), ("log", Level.SKIPPED)]
    assert Level.PROBLEM in [finding.level for finding in check_contents(make_subject(tmp_path), is_running=False)]


def test_contents_before_the_first_start_are_empty(tmp_path: Path) -> None:
    """A directory made by hand, and none at all."""
    found = check_contents(make_subject(tmp_path), is_running=False)
    assert [finding.found for finding in found] == [
        "1: no FORMAT yet; the next start writes it",
        "empty: this node has not started yet",
    ]
    assert not list(tmp_path.iterdir())
    (none,) = check_contents(make_subject(tmp_path / "n1"), is_running=False)
    assert none.level == Level.SKIPPED
    assert not list(tmp_path.iterdir())


def test_contents_of_a_newer_format_are_a_problem_and_not_read(tmp_path: Path) -> None:
    """What was found, what this release reads, which one to install."""
    stopped_node(tmp_path, ENTRIES)
    (tmp_path / "FORMAT").write_text("kvnode data format 2\nwritten by kvnode 9.9.9\n")
    (found,) = check_contents(make_subject(tmp_path), is_running=False)
    assert (found.name, found.level) == ("data format", Level.PROBLEM)
    assert "has data format 2" in found.found
    assert "Install kvnode 9.9.9" in found.advice


@pytest.mark.parametrize(
    ("identity", "words"),
    [
        (Identity("play", "n1", "uid", 1, 8), "is of cluster play, the configuration says orders"),
        (Identity("orders", "n2", "uid", 1, 8), "is of node n2, the configuration says n1"),
        (Identity("orders", "n1", "uid", 1, 16), "is of number of shards 16, the configuration says 8"),
    ],
)
def test_contents_of_somebody_else_are_a_problem(tmp_path: Path, identity: Identity, words: str) -> None:
    """The words of a start, the advice apart."""
    stopped_node(tmp_path, ENTRIES, identity)
    found = check_contents(make_subject(tmp_path), is_running=False)
    assert levels(found) == [FINE[0], ("identity", Level.PROBLEM), *FINE[2:]]
    assert words in found[1].found
    assert found[1].advice.startswith("Use another data directory")


def test_log_that_is_damaged_is_a_problem_with_file_and_byte(tmp_path: Path) -> None:
    """What a start would refuse, without a start."""
    stopped_node(tmp_path, [ENTRIES[0]])
    segment = tmp_path / "log-0000000000000001"
    flip(segment, 600)
    before = state_of(tmp_path)
    found = check_contents(make_subject(tmp_path), is_running=False)
    assert levels(found) == [FINE[0], ("log", Level.PROBLEM)]
    assert "log file log-0000000000000001 is damaged at byte 512" in found[1].found
    assert "restore the whole data directory" in found[1].advice
    assert state_of(tmp_path) == before


def test_log_with_a_torn_tail_is_fine_and_stays_torn(tmp_path: Path) -> None:
    """A start cuts it; the doctor does not."""
    stopped_node(tmp_path, [ENTRIES[0]])
    segment = tmp_path / "log-0000000000000001"
    data = segment.read_bytes()
    end = -(-len(data.rstrip(b"\0")) // 512) * 512
    segment.write_bytes(data[:end] + b"kvL1" + bytes(len(data) - end - 4))
    before = state_of(tmp_path)
    assert levels(check_contents(make_subject(tmp_path), is_running=False)) == FINE
    assert state_of(tmp_path) == before


def test_log_that_begins_behind_the_store_is_a_problem(tmp_path: Path) -> None:
    """A store from an older copy than the log: entries between are missing."""
    stopped_node(tmp_path, ENTRIES[10:])
    found = check_contents(make_subject(tmp_path), is_running=False)
    assert levels(found) == [*FINE[:3], ("store", Level.PROBLEM)]
    assert found[3].found.endswith("the store ends at index 0, the log begins at 11: entries between are missing")
    assert found[3].advice.startswith("Restore the whole data directory")
    store = LmdbStore(tmp_path / "store", 1024**3)
    store.commit({3: [(META, struct.pack("<QQQQQQQ", 10, 1, 0, 0, 0, 0, 0))]})
    store.close()
    assert levels(check_contents(make_subject(tmp_path), is_running=False)) == FINE


def test_store_that_is_damaged_is_a_problem(tmp_path: Path) -> None:
    """LMDB's file is none."""
    stopped_node(tmp_path, ENTRIES)
    (tmp_path / "store" / "data.mdb").write_bytes(b"nonsense" * 2048)
    found = check_contents(make_subject(tmp_path), is_running=False)
    assert levels(found) == [*FINE[:3], ("store", Level.PROBLEM)]
    assert f"the store in {tmp_path}/store is damaged" in found[3].found


def test_log_that_takes_long_is_read_in_part(tmp_path: Path) -> None:
    """What was read is judged, and that it is not all is said."""
    stopped_node(tmp_path, ENTRIES)
    times = iter([0.0] + [contents.READ_MAX + 1] * 99)
    found = check_contents(make_subject(tmp_path), False, lambda: next(times))
    assert found[-1].name == "log"
    assert "the rest was not read, for want of time" in found[-1].found


def test_disk_that_only_reads_implements_the_port_and_changes_nothing(tmp_path: Path) -> None:
    """Every method of the port that changes something does nothing."""
    stopped_node(tmp_path, ENTRIES)
    before = state_of(tmp_path)
    disk: Disk = ReadOnlyDisk(tmp_path)
    disk.preallocate("new", 100)
    disk.write("FORMAT", 0, b"x")
    disk.sync("FORMAT")
    disk.sync_directory()
    disk.rename("FORMAT", "other")
    disk.remove("FORMAT")
    disk.release_ballast()
    assert disk.restore_ballast()
    assert disk.read("FORMAT").startswith(b"kvnode data format 1")
    assert state_of(tmp_path) == before
