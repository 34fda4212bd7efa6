"""The disk port: what both implementations promise, and what only a real disk or only the simulated one can show."""

from __future__ import annotations

import errno
import os
import random
from pathlib import Path

import pytest

from kvnode.storage.disk import BALLAST_NAME, DiskFailed, OutOfSpace, RealDisk
from tests.sim.disk import SimulatedDisk
from tests.unit.storage.conftest import Machine

MIB = 1024 * 1024


def test_disk_preallocated_file_reads_as_zeros_and_keeps_what_is_written(machine: Machine) -> None:
    """Reserved bytes are zeros until they are written; reads may ask for a part."""
    disk = machine.disk
    disk.preallocate("a", 8192)
    disk.write("a", 4096, b"hello")
    disk.sync("a")
    assert disk.size("a") == 8192
    assert disk.read("a") == bytes(4096) + b"hello" + bytes(4091)
    assert disk.read("a", 4097, 3) == b"ell"
    assert disk.read("a", 8190, 100) == bytes(2)


def test_disk_preallocate_of_an_existing_file_grows_it_and_keeps_its_content(machine: Machine) -> None:
    """A file can be grown; asking for less than it has changes nothing."""
    disk = machine.disk
    disk.preallocate("a", 4096)
    disk.write("a", 0, b"x")
    disk.preallocate("a", 8192)
    disk.preallocate("a", 10)
    assert disk.size("a") == 8192
    assert disk.read("a", 0, 2) == b"x\0"


def test_disk_names_are_sorted_and_follow_renames_and_removals(machine: Machine) -> None:
    """A rename replaces its target; removing a file that is not there is no error."""
    disk = machine.disk
    for name in ("c", "a", "b"):
        disk.preallocate(name, 512)
        disk.write(name, 0, name.encode())
    disk.rename("c", "b")
    disk.remove("a")
    disk.remove("a")
    disk.sync_directory()
    assert disk.names() == ["b"]
    assert disk.read("b", 0, 1) == b"c"
    disk.write("b", 1, b"!")
    assert machine.restart().read("b", 0, 2) == b"c!"


def test_disk_missing_file_is_file_not_found(machine: Machine) -> None:
    """Reading what does not exist is the caller's error, not the disk's."""
    with pytest.raises(FileNotFoundError):
        machine.disk.read("a")
    with pytest.raises(FileNotFoundError):
        machine.disk.size("a")


def test_disk_without_space_refuses_to_reserve_and_changes_nothing(machine: Machine) -> None:
    """OutOfSpace leaves no new file and no longer file, and other writes go on."""
    disk = machine.disk
    disk.preallocate("a", 64 * 1024)
    machine.limit(256 * 1024)
    with pytest.raises(OutOfSpace):
        disk.preallocate("b", 512 * 1024)
    with pytest.raises(OutOfSpace):
        disk.preallocate("a", 512 * 1024)
    assert disk.names() == ["a"]
    assert disk.size("a") == 64 * 1024
    disk.write("a", 0, b"x")
    disk.sync("a")
    assert not disk.has_space(512 * 1024)
    assert disk.has_space()


def test_disk_random_bytes_have_the_length_asked_for(machine: Machine) -> None:
    """Random bytes come from the disk's own source."""
    assert len(machine.disk.random_bytes(8)) == 8


def test_real_disk_ballast_counts_into_the_quota_until_it_is_released(tmp_path: Path) -> None:
    """Releasing the ballast makes exactly its room; it comes back when there is room for it again."""
    disk = RealDisk(tmp_path, quota_bytes=4 * MIB, ballast_size_bytes=2 * MIB)
    assert (tmp_path / BALLAST_NAME).stat().st_size == 2 * MIB
    assert disk.names() == []
    with pytest.raises(OutOfSpace):
        disk.preallocate("a", 3 * MIB)
    disk.release_ballast()
    disk.preallocate("a", 3 * MIB)
    assert not disk.restore_ballast()
    disk.remove("a")
    assert disk.restore_ballast()
    assert disk.free_bytes() <= 2 * MIB
    disk.close_all()


def test_simulated_disk_ballast_counts_into_the_capacity_until_it_is_released() -> None:
    """The fake's ballast behaves as the real one's."""
    disk = SimulatedDisk(random.Random(1), capacity_bytes=4 * MIB, ballast_size_bytes=2 * MIB)
    with pytest.raises(OutOfSpace):
        disk.preallocate("a", 3 * MIB)
    disk.release_ballast()
    disk.preallocate("a", 3 * MIB)
    assert not disk.restore_ballast()
    disk.remove("a")
    assert disk.restore_ballast()
    assert disk.free_bytes() == 2 * MIB


def test_real_disk_quota_counts_blocks_of_files_in_subdirectories(tmp_path: Path) -> None:
    """The store's files count, by the blocks they take: a sparse file of a gigabyte is small."""
    disk = RealDisk(tmp_path, quota_bytes=4 * MIB)
    (tmp_path / "store").mkdir()
    with open(tmp_path / "store" / "sparse", "wb") as file:
        file.truncate(1024 * MIB)
    assert disk.used_bytes() < MIB
    (tmp_path / "store" / "data").write_bytes(b"x" * 2 * MIB)
    assert 2 * MIB <= disk.used_bytes() < 3 * MIB
    with pytest.raises(OutOfSpace):
        disk.preallocate("a", 3 * MIB)
    disk.close_all()


@pytest.mark.parametrize("call", ["pwrite", "fdatasync"])
def test_real_disk_after_an_io_error_every_write_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    """An error of a write or a sync is final, although the operating system would accept the next one; reads go on."""
    disk = RealDisk(tmp_path)
    disk.preallocate("a", 512)
    disk.write("a", 0, b"x")

    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        failing = (lambda: disk.write("a", 0, b"y")) if call == "pwrite" else (lambda: disk.sync("a"))
        with pytest.raises(DiskFailed, match=r"a: Input/output error. Stop the node"):
            failing()
    for write in (
        lambda: disk.write("a", 0, b"y"),
        lambda: disk.sync("a"),
        lambda: disk.preallocate("b", 512),
        lambda: disk.rename("a", "b"),
        lambda: disk.remove("a"),
        disk.sync_directory,
    ):
        with pytest.raises(DiskFailed):
            write()
    assert disk.names() == ["a"]
    assert len(disk.read("a")) == 512
    disk.close_all()


def test_real_disk_enospc_while_reserving_is_out_of_space_but_while_writing_is_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only where nothing can have been damaged is a full disk an ordinary condition."""
    disk = RealDisk(tmp_path)
    disk.preallocate("a", 512)

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(os, "posix_fallocate", fail)
        with pytest.raises(OutOfSpace):
            disk.preallocate("b", 512)
        with pytest.raises(OutOfSpace):
            disk.preallocate("a", 1024)
    assert (disk.names(), disk.size("a")) == (["a"], 512)
    monkeypatch.setattr(os, "pwrite", fail)
    with pytest.raises(DiskFailed):
        disk.write("a", 0, b"x")
    disk.close_all()


def test_simulated_disk_crash_keeps_what_was_synced_and_any_sectors_of_the_rest() -> None:
    """Each sector of an unsynced write holds its old or its new content, and over the seeds both are seen, also mixed."""
    outcomes = []
    for seed in range(40):
        disk = SimulatedDisk(random.Random(seed))
        disk.preallocate("a", 4096)
        disk.sync_directory()
        disk.write("a", 0, b"o" * 2048)
        disk.sync("a")
        disk.write("a", 512, b"n" * 2048)
        disk.crash()
        content = disk.read("a")
        assert content[:512] == b"o" * 512
        sectors = [content[at : at + 512] for at in range(512, 2560, 512)]
        assert all(sector in (b"n" * 512, b"o" * 512, bytes(512)) for sector in sectors)
        outcomes.append(sum(sector == b"n" * 512 for sector in sectors))
    assert {0, 4} < {*outcomes}


def test_simulated_disk_crash_may_undo_unsynced_names_but_no_synced_ones() -> None:
    """Creations, renames and removals count only once the directory was synced."""
    seen: dict[tuple[str, ...], int] = {}
    for seed in range(60):
        disk = SimulatedDisk(random.Random(seed))
        disk.preallocate("old", 512)
        disk.preallocate("kept", 512)
        disk.sync_directory()
        disk.preallocate("new", 512)
        disk.rename("old", "renamed")
        disk.crash()
        assert "kept" in disk.names()
        assert ("old" in disk.names()) != ("renamed" in disk.names())
        seen[tuple(disk.names())] = seed
    assert len(seen) == 4


def test_simulated_disk_failed_sync_loses_data_that_reads_still_show() -> None:
    """As on Linux: the page cache shows what the failed sync did not write, and a later sync does not write it either."""
    lost = 0
    for seed in range(20):
        disk = SimulatedDisk(random.Random(seed))
        disk.preallocate("a", 512)
        disk.sync_directory()
        disk.write("a", 0, b"x")
        disk.fail_next_sync()
        with pytest.raises(DiskFailed):
            disk.sync("a")
        with pytest.raises(DiskFailed):
            disk.sync("a")
        disk.restart()
        disk.sync("a")
        assert disk.read("a", 0, 1) == b"x"
        disk.crash()
        lost += disk.read("a", 0, 1) == b"\0"
    assert 0 < lost < 20
