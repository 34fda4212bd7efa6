"""A disk that is slow, full or broken, as injected.

`set` is called on the event loop's thread, everything else on the threads of the log and the store; a delay blocks those and
never the event loop. Invariant: a sync that was made to fail fails everything after it, whatever is healed, as `RealDisk`'s do.
"""

from __future__ import annotations

import threading
import time
from typing import NamedTuple

from kvnode.storage.disk import Disk, DiskFailed, OutOfSpace
from kvnode.types import Seconds


class DiskTrouble(NamedTuple):
    """All injected faults together."""

    delay: Seconds = 0.0
    full: bool = False
    fail: bool = False


class FaultyDisk:
    """`Disk` over another one."""

    def __init__(self, disk: Disk) -> None:
        self._disk = disk
        self._trouble = DiskTrouble()
        self._changed = threading.Condition()
        self._failed = ""

    def set(self, trouble: DiskTrouble) -> None:
        """From now on the disk is so. What is delayed goes on as soon as the new delay is over."""
        with self._changed:
            self._trouble = trouble
            self._changed.notify_all()

    def write(self, name: str, offset: int, data: bytes) -> None:
        """See `Disk.write`."""
        self._check()
        self._delay()
        self._disk.write(name, offset, data)

    def sync(self, name: str) -> None:
        """See `Disk.sync`."""
        self._check()
        self._delay()
        if self._trouble.fail:
            self._failed = f"cannot sync {name}: input/output error (an injected fault). Start the node again"
            raise DiskFailed(self._failed)
        self._disk.sync(name)

    def preallocate(self, name: str, size_bytes: int) -> None:
        """See `Disk.preallocate`."""
        self._check()
        if self._trouble.full:
            raise OutOfSpace(f"{name}: no space for {size_bytes} bytes (an injected fault)")
        self._disk.preallocate(name, size_bytes)

    def free_bytes(self) -> int:
        """See `Disk.free_bytes`."""
        return 0 if self._trouble.full else self._disk.free_bytes()

    def has_space(self, size_bytes: int = 0) -> bool:
        """See `Disk.has_space`."""
        return not self._trouble.full and self._disk.has_space(size_bytes)

    def restore_ballast(self) -> bool:
        """See `Disk.restore_ballast`."""
        return not self._trouble.full and self._disk.restore_ballast()

    def _check(self) -> None:
        if self._failed:
            raise DiskFailed(self._failed)

    def _delay(self) -> None:
        """Blocks the calling thread."""
        if not self._trouble.delay:
            return
        began = time.monotonic()
        with self._changed:
            while (left := began + self._trouble.delay - time.monotonic()) > 0:
                self._changed.wait(left)

    # What passes, until a sync has failed.

    def sync_directory(self) -> None:
        """See `Disk.sync_directory`."""
        self._check()
        self._disk.sync_directory()

    def rename(self, name: str, new_name: str) -> None:
        """See `Disk.rename`."""
        self._check()
        self._disk.rename(name, new_name)

    def remove(self, name: str) -> None:
        """See `Disk.remove`."""
        self._check()
        self._disk.remove(name)

    def release_ballast(self) -> None:
        """See `Disk.release_ballast`."""
        self._check()
        self._disk.release_ballast()

    # What always passes.

    def names(self) -> list[str]:
        """See `Disk.names`."""
        return self._disk.names()

    def size(self, name: str) -> int:
        """See `Disk.size`."""
        return self._disk.size(name)

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """See `Disk.read`."""
        return self._disk.read(name, offset, size_bytes)

    def close(self, name: str) -> None:
        """See `Disk.close`."""
        self._disk.close(name)

    def random_bytes(self, size_bytes: int) -> bytes:
        """See `Disk.random_bytes`."""
        return self._disk.random_bytes(size_bytes)
