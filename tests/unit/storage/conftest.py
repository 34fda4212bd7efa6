"""Every test of the storage layer that can runs over the real disk and over the simulated one: the fake is verified."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from kvnode.storage.disk import Disk, RealDisk
from kvnode.storage.log import Log
from kvnode.storage.records import Record
from tests.sim.disk import SimulatedDisk

SEGMENT_SIZE_BYTES = 16 * 1024


class Machine:
    """A disk that a test can damage, fill, and open again as after a restart of the process."""

    disk: Disk

    def restart(self) -> Disk:
        """Stop using the disk and open it again; the page cache survives."""
        raise NotImplementedError

    def limit(self, size_bytes: int) -> None:
        """Let all files together take at most that much, from the next restart on at the latest."""
        raise NotImplementedError

    def flip_bit(self, name: str, bit: int) -> None:
        raise NotImplementedError

    def truncate(self, name: str, size_bytes: int) -> None:
        raise NotImplementedError

    def content(self) -> dict[str, bytes]:
        """Return all files."""
        return {name: self.disk.read(name) for name in self.disk.names()}

    def recovered(self) -> tuple[Log, list[Record]]:
        """Restart, and recover the log."""
        log = Log(self.restart(), SEGMENT_SIZE_BYTES)
        return log, list(log.recover())


class RealMachine(Machine):
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._quota_bytes = 0
        self.disk: RealDisk = RealDisk(directory)

    def restart(self) -> Disk:
        self.disk.close_all()
        self.disk = RealDisk(self._directory, quota_bytes=self._quota_bytes)
        return self.disk

    def limit(self, size_bytes: int) -> None:
        self._quota_bytes = self.disk.quota_bytes = size_bytes

    def flip_bit(self, name: str, bit: int) -> None:
        data = bytearray((self._directory / name).read_bytes())
        data[bit // 8] ^= 1 << bit % 8
        (self._directory / name).write_bytes(data)

    def truncate(self, name: str, size_bytes: int) -> None:
        with open(self._directory / name, "r+b") as file:
            file.truncate(size_bytes)


class SimulatedMachine(Machine):
    def __init__(self) -> None:
        self.disk: SimulatedDisk = SimulatedDisk(random.Random(7))

    def restart(self) -> Disk:
        self.disk.restart()
        return self.disk

    def limit(self, size_bytes: int) -> None:
        self.disk.capacity_bytes = size_bytes

    def flip_bit(self, name: str, bit: int) -> None:
        self.disk.flip_bit(name, bit)

    def truncate(self, name: str, size_bytes: int) -> None:
        self.disk.truncate(name, size_bytes)


@pytest.fixture(params=["real", "simulated"])
def machine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Machine]:
    """A machine with an empty disk."""
    if request.param == "simulated":
        yield SimulatedMachine()
        return
    real = RealMachine(tmp_path / "data")
    yield real
    real.disk.close_all()
