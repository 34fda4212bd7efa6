"""A disk that is slow, full or broken, as injected, over a real one."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from kvnode.faults.disk import DiskTrouble, FaultyDisk
from kvnode.storage.disk import DiskFailed, OutOfSpace, RealDisk


@pytest.fixture
def disk(tmp_path: Path) -> FaultyDisk:
    """An empty disk with a file of a kilobyte."""
    faulty = FaultyDisk(RealDisk(tmp_path / "data", ballast_size_bytes=4096))
    faulty.preallocate("a", 1024)
    return faulty


def test_disk_without_trouble_is_the_disk_below(disk: FaultyDisk) -> None:
    """Every call reaches it."""
    disk.write("a", 3, b"data")
    disk.sync("a")
    disk.sync_directory()
    assert disk.read("a", 3, 4) == b"data"
    assert (disk.size("a"), disk.names()) == (1024, ["a"])
    disk.close("a")
    disk.rename("a", "b")
    assert disk.names() == ["b"]
    disk.remove("b")
    assert disk.names() == []
    disk.release_ballast()
    assert disk.restore_ballast()
    assert disk.free_bytes() > 0
    assert disk.has_space()
    assert len(disk.random_bytes(5)) == 5


@pytest.mark.parametrize("call", ["write", "sync"])
def test_delay_blocks_the_calling_thread_until_it_is_over(disk: FaultyDisk, call: str) -> None:
    """A delay of a minute holds each write and each sync; when the fault ends, what is held goes on at once."""
    disk.set(DiskTrouble(delay=60))
    work = {"write": lambda: disk.write("a", 0, b"late"), "sync": lambda: disk.sync("a")}[call]
    thread = threading.Thread(target=work)
    thread.start()
    thread.join(0.1)
    held = thread.is_alive()
    unwritten = disk.read("a", 0, 4)
    disk.set(DiskTrouble())
    thread.join(20)
    assert held
    assert unwritten == bytes(4)
    assert not thread.is_alive()
    assert disk.read("a", 0, 4) == (b"late" if call == "write" else bytes(4))


def test_delay_of_a_moment_ends_by_itself(disk: FaultyDisk) -> None:
    """Nobody has to heal it for the write to happen."""
    disk.set(DiskTrouble(delay=0.01))
    disk.write("a", 0, b"late")
    assert disk.read("a", 0, 4) == b"late"


def test_full_disk_reserves_nothing_and_takes_what_is_reserved(disk: FaultyDisk) -> None:
    """As a real one: writes into reserved space succeed, and space is back when the fault ends."""
    disk.set(DiskTrouble(full=True))
    with pytest.raises(OutOfSpace):
        disk.preallocate("b", 10)
    assert disk.names() == ["a"]
    assert (disk.free_bytes(), disk.has_space(), disk.restore_ballast()) == (0, False, False)
    disk.write("a", 0, b"fits")
    disk.sync("a")
    disk.set(DiskTrouble())
    disk.preallocate("b", 10)
    assert disk.has_space()


def test_failed_sync_fails_everything_after_it_also_when_healed(disk: FaultyDisk) -> None:
    """Nobody knows what a disk holds whose sync failed: it is final, and reads stay possible."""
    disk.set(DiskTrouble(fail=True))
    disk.write("a", 0, b"data")  # (only a sync fails)
    with pytest.raises(DiskFailed, match="injected"):
        disk.sync("a")
    disk.set(DiskTrouble())
    for work in (
        lambda: disk.write("a", 0, b"more"),
        lambda: disk.sync("a"),
        lambda: disk.preallocate("b", 1),
        lambda: disk.rename("a", "b"),
        lambda: disk.remove("a"),
        disk.sync_directory,
        disk.release_ballast,
    ):
        with pytest.raises(DiskFailed):
            work()
    assert disk.read("a", 0, 4) == b"data"
