"""The port to the file system, and its real implementation.

Owns: the files of one data directory (flat names, no sub-directories), the ballast, and the quota.
Never: retries a write or a sync that failed. After an I/O error the page cache may say what the disk does not (Rebello et al.,
"Can Applications Recover from fsync Failures?", USENIX ATC 2020), so the error is final: every later write fails, too.

Invariants:
- `DiskFailed` is sticky: once raised by a write, every later write raises it; reads stay possible.
- `OutOfSpace` means that nothing has changed: it is raised only where space is reserved (`preallocate`), never by a write into
  reserved space.
- What `preallocate` returned is reserved on the disk and reads as zeros where nothing was written.

The model of the disk that the log relies on: a sector of `SECTOR_SIZE_BYTES` that was being written when power failed holds
either its old or its new content; different sectors of one write may differ in that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import time
from pathlib import Path
from typing import Protocol

from kvnode.invariant import invariant

SECTOR_SIZE_BYTES = 512
"""The smallest unit any disk writes atomically; disks with larger sectors satisfy the model, too."""
BALLAST_NAME = "ballast"
SPACE_CACHED_S = 0.1
"""`has_space` may be this old: it is asked for by every write that a node admits."""


class DiskFailed(Exception):
    """The disk failed a write or a sync. Final: nobody knows what is on the disk, so the node must stop."""


class OutOfSpace(Exception):
    """The disk or the quota is full. Nothing was written."""


def claim(directory: str | Path) -> int:
    """Keep every other process that claims `directory` out of it, as long as the returned descriptor is open: to the end of
    this process, however it ends. Raises OSError while another process holds it.
    """
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        raise OSError(
            f"the data directory {directory} is in use by another process, and two would destroy it: "
            "stop that process, or give this node a directory of its own"
        ) from None
    return descriptor


def sync_entries(directory: str) -> None:
    """Make it durable what was created in `directory`: else a new file's synced bytes may have no name after a power failure.
    Raises OSError."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class Disk(Protocol):
    """What the log and the snapshots need from a file system.

    Names are file names within one directory. Different names may be used by different threads at the same time.
    """

    def names(self) -> list[str]:
        """Return the names of the files, sorted."""

    def size(self, name: str) -> int:
        """Return the file's length in bytes. FileNotFoundError."""

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        """Return the bytes from `offset` on; fewer than asked for at the end. FileNotFoundError; DiskFailed if unreadable."""

    def preallocate(self, name: str, size_bytes: int) -> None:
        """Make the file at least `size_bytes` long, creating it if need be; new bytes are zeros, their space reserved, the
        length durable (the directory's entry is not: `sync_directory`). OutOfSpace leaves everything as it was."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Write within what was preallocated. Not durable before `sync`. DiskFailed."""

    def sync(self, name: str) -> None:
        """Make the file's bytes durable (fdatasync). DiskFailed."""

    def sync_directory(self) -> None:
        """Make creations, renames and removals durable. DiskFailed."""

    def rename(self, name: str, new_name: str) -> None:
        """Rename atomically, replacing `new_name`. Durable after `sync_directory`. DiskFailed."""

    def remove(self, name: str) -> None:
        """Remove the file; no error if there is none. Durable after `sync_directory`. DiskFailed."""

    def close(self, name: str) -> None:
        """Forget the open file, if it is open."""

    def free_bytes(self) -> int:
        """Return what can still be written: the file system's free space, or what the quota leaves if that is less."""

    def has_space(self, size_bytes: int = 0) -> bool:
        """Say whether more than `size_bytes` are free; cheap enough for every request."""

    def release_ballast(self) -> None:
        """Give up the reserve, so that a flush can finish and the log be cut although the disk is full."""

    def restore_ballast(self) -> bool:
        """Try to get the reserve back; True if it is there."""

    def random_bytes(self, size_bytes: int) -> bytes:
        """Return bytes that nobody can predict (the simulator's are drawn from its seed)."""


class RealDisk:
    """The files of `directory` (created if missing), through `os`.

    `quota_bytes` bounds the disk space (blocks, not lengths) of everything under the directory, sub-directories included; 0: no
    quota. `ballast_size_bytes` are held in reserve for `release_ballast`; 0: no ballast. A disk too full for the ballast is not
    an error here; `restore_ballast` tells.
    """

    def __init__(self, directory: str | Path, quota_bytes: int = 0, ballast_size_bytes: int = 0) -> None:
        self._path = os.fspath(directory)
        self.quota_bytes = quota_bytes
        """May be changed at any time."""
        self._ballast_size_bytes = ballast_size_bytes
        self._failed: str | None = None
        self._fds: dict[str, int] = {}
        self._free_bytes = 0
        self._free_bytes_at = -1.0
        os.makedirs(self._path, exist_ok=True)
        self._directory_fd = os.open(self._path, os.O_RDONLY | os.O_DIRECTORY)
        self.restore_ballast()

    def names(self) -> list[str]:
        with os.scandir(self._path) as entries:
            names = [entry.name for entry in entries if entry.is_file(follow_symlinks=False)]
        return sorted(name for name in names if name != BALLAST_NAME)

    def size(self, name: str) -> int:
        return os.stat(name, dir_fd=self._directory_fd).st_size

    def read(self, name: str, offset: int = 0, size_bytes: int | None = None) -> bytes:
        with open(os.path.join(self._path, name), "rb", buffering=0) as file:
            try:
                file.seek(offset)
                wanted = max(0, os.fstat(file.fileno()).st_size - offset)
                wanted = wanted if size_bytes is None else min(wanted, size_bytes)
                parts: list[bytes] = []
                while wanted > 0 and (part := file.read(wanted)):
                    parts.append(part)
                    wanted -= len(part)
            except OSError as error:
                message = f"cannot read {self._where(name)}: {error.strerror}. Check the disk (kernel log, SMART)"
                raise DiskFailed(message) from error
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def preallocate(self, name: str, size_bytes: int) -> None:
        self._check()
        try:
            old_size_bytes = self.size(name)
        except FileNotFoundError:
            old_size_bytes = -1
        if size_bytes <= old_size_bytes:
            return
        missing = size_bytes - max(0, old_size_bytes)
        if self.quota_bytes and self.quota_bytes - self.used_bytes() < missing:
            raise OutOfSpace(f"{self._where(name)}: {missing} more bytes would exceed the quota of {self.quota_bytes} bytes")
        fd = -1
        try:
            fd = self._open(name)
            if missing:
                os.posix_fallocate(fd, max(0, old_size_bytes), missing)
            os.fsync(fd)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                self._undo_preallocate(name, fd, old_size_bytes)
                raise OutOfSpace(f"{self._where(name)}: no space for {missing} more bytes") from error
            raise self._fail(f"cannot reserve {missing} bytes in {self._where(name)}", error) from error
        self._free_bytes_at = -1.0

    def _undo_preallocate(self, name: str, fd: int, old_size_bytes: int) -> None:
        if fd < 0:
            return
        try:
            if old_size_bytes >= 0:
                os.ftruncate(fd, old_size_bytes)
            else:
                self.close(name)
                os.unlink(name, dir_fd=self._directory_fd)
        except OSError as error:
            raise self._fail(f"cannot give back the space of {self._where(name)}", error) from error

    def write(self, name: str, offset: int, data: bytes) -> None:
        self._check()
        try:
            fd = self._open(name)
            written = os.pwrite(fd, data, offset)
            while written < len(data):
                written += os.pwrite(fd, memoryview(data)[written:], offset + written)
        except OSError as error:
            raise self._fail(f"cannot write {self._where(name)}", error) from error

    def sync(self, name: str) -> None:
        self._check()
        try:
            os.fdatasync(self._open(name))
        except OSError as error:
            raise self._fail(f"cannot sync {self._where(name)}", error) from error

    def sync_directory(self) -> None:
        self._check()
        try:
            os.fsync(self._directory_fd)
        except OSError as error:
            raise self._fail(f"cannot sync the directory {self._path}", error) from error

    def rename(self, name: str, new_name: str) -> None:
        self._check()
        self.close(new_name)
        try:
            os.rename(name, new_name, src_dir_fd=self._directory_fd, dst_dir_fd=self._directory_fd)
        except OSError as error:
            raise self._fail(f"cannot rename {self._where(name)} to {new_name}", error) from error
        if (fd := self._fds.pop(name, None)) is not None:
            self._fds[new_name] = fd

    def remove(self, name: str) -> None:
        self._check()
        self.close(name)
        try:
            os.unlink(name, dir_fd=self._directory_fd)
        except FileNotFoundError:
            return
        except OSError as error:
            raise self._fail(f"cannot remove {self._where(name)}", error) from error
        self._free_bytes_at = -1.0

    def close(self, name: str) -> None:
        if (fd := self._fds.pop(name, None)) is not None:
            os.close(fd)

    def close_all(self) -> None:
        """Close every file and the directory; the disk cannot be used any more."""
        for name in list(self._fds):
            self.close(name)
        if self._directory_fd >= 0:
            os.close(self._directory_fd)
            self._directory_fd = -1

    def free_bytes(self) -> int:
        status = os.statvfs(self._path)
        free = status.f_bavail * status.f_frsize
        if self.quota_bytes:
            free = min(free, self.quota_bytes - self.used_bytes())
        return max(0, free)

    def has_space(self, size_bytes: int = 0) -> bool:
        now = time.monotonic()
        if self._free_bytes_at < 0 or now - self._free_bytes_at > SPACE_CACHED_S:
            self._free_bytes, self._free_bytes_at = self.free_bytes(), now
        return self._free_bytes > size_bytes

    def used_bytes(self) -> int:
        """Return the blocks, in bytes, of all files under the directory: some microseconds a file."""
        used, paths = 0, [self._path]
        while paths:
            with os.scandir(paths.pop()) as entries:
                for entry in entries:
                    try:
                        if entry.is_dir(follow_symlinks=False):
                            paths.append(entry.path)
                        used += entry.stat(follow_symlinks=False).st_blocks * 512
                    except FileNotFoundError:
                        continue
        return used

    def release_ballast(self) -> None:
        self.remove(BALLAST_NAME)

    def restore_ballast(self) -> bool:
        if not self._ballast_size_bytes:
            return True
        try:
            self.preallocate(BALLAST_NAME, self._ballast_size_bytes)
        except OutOfSpace:
            return False
        finally:
            self.close(BALLAST_NAME)
        return True

    def random_bytes(self, size_bytes: int) -> bytes:
        return os.urandom(size_bytes)

    def _open(self, name: str) -> int:
        fd = self._fds.get(name)
        if fd is None:
            invariant("/" not in name, f"{name}: a disk's files have flat names")
            fd = os.open(name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o640, dir_fd=self._directory_fd)
            self._fds[name] = fd
        return fd

    def _where(self, name: str) -> str:
        return os.path.join(self._path, name)

    def _check(self) -> None:
        if self._failed is not None:
            raise DiskFailed(self._failed)

    def _fail(self, message: str, error: OSError) -> DiskFailed:
        self._failed = f"{message}: {error.strerror}. Stop the node, check the disk (kernel log, SMART), then start it again"
        return DiskFailed(self._failed)
