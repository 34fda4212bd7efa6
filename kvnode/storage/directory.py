"""A node's data directory before anything in it is read: created, fit for use, this process's alone, of a known format.

Owns what may be refused without looking into the log or the store. Never changes what is in a directory that it refuses.
"""

from __future__ import annotations

import os
import pwd
import re
import stat
from pathlib import Path

from kvnode.errors import UnusableDirectory
from kvnode.storage import data_format
from kvnode.storage.disk import BALLAST_NAME, RealDisk, claim, sync_entries

STORE_NAME = "store"
"""The one sub-directory: LMDB's."""
_OWN_FILE = re.compile(rf"log-.+|snapshot-.+|{BALLAST_NAME}|{data_format.FORMAT_NAME}(\.new)?|{STORE_NAME}")
"""What a node makes. What else there is (`lost+found`) is not looked at."""


def take(directory: str | Path) -> int:
    """Make `directory` this process's, as long as the returned descriptor is open: to the end of the process, however it ends.

    It is created if it is missing, durably. Raises UnusableDirectory; UnknownFormat, if this release cannot read it; OSError,
    if another process has it; DiskFailed.
    """
    path = os.path.abspath(directory)
    _create(path)
    if found := obstacle(path):
        raise UnusableDirectory(found)
    descriptor = claim(path)
    disk = RealDisk(path)
    try:
        data_format.settle(disk, path)
    except BaseException:
        os.close(descriptor)
        raise
    finally:
        disk.close_all()
    return descriptor


def obstacle(path: str) -> str:
    """What keeps this process from using the existing data directory `path`, and what to do; empty: nothing does."""
    where = f"the data directory {path}"
    try:
        status = os.stat(path)
    except FileNotFoundError:
        return f"{where} is a link to nothing: remove it, or correct node.data_dir"
    except OSError as error:
        who = user_name(os.geteuid())
        return f"{where} cannot be reached by {who} ({error.strerror}): let that user pass through the directories above it"
    if not stat.S_ISDIR(status.st_mode):
        return f"{where} is no directory: remove it, or correct node.data_dir"
    if os.statvfs(path).f_flag & os.ST_RDONLY:
        return f"{where} is on a file system that is mounted read-only: see why (kernel log), and mount it for writing"
    owner, me = status.st_uid, os.geteuid()
    if me == 0 and owner != 0:
        return f"{where} belongs to {user_name(owner)}, who could not use what root makes in it: {_run_as(owner)}"
    if not os.access(path, os.R_OK | os.W_OK | os.X_OK):
        cure = f"{_run_as(owner)}, or {_give(path)}"
        return f"{where} belongs to {user_name(owner)}, and {user_name(me)} may not write there: {cure}"
    return _odd_file(path)


def user_name(uid: int) -> str:
    """A user's name, or its number where it has none here."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"


def _create(path: str) -> None:
    """Make the directory and those above it, each durably: an entry that is lost takes everything below it along."""
    missing = []
    while not os.path.lexists(path):
        missing.append(path)
        path = os.path.dirname(path)
    for one in reversed(missing):
        try:
            os.mkdir(one, 0o700 if one == missing[0] else 0o755)
            sync_entries(os.path.dirname(one))
        except FileExistsError:
            continue  # (Another process was quicker.)
        except OSError as error:
            cure = "correct node.data_dir, or repair what is above"
            if isinstance(error, PermissionError):
                cure = _give(missing[0])
            raise UnusableDirectory(
                f"the data directory {missing[0]} cannot be created or reached: {one}: {error.strerror}: {cure}"
            ) from error


def _odd_file(path: str) -> str:
    """The first of a node's own files that is not what it should be, or not this process's to use; what to do about it."""
    for one, is_directory in [*_own_files(path), *_store_files(os.path.join(path, STORE_NAME))]:
        status = os.lstat(one)
        if not (stat.S_ISDIR if is_directory else stat.S_ISREG)(status.st_mode):
            wanted = "directory" if is_directory else "regular file"
            return f"{one} is in the way: kvnode has a {wanted} of that name; move it elsewhere"
        if not os.access(one, os.R_OK | os.W_OK):
            owner, me = user_name(status.st_uid), user_name(os.geteuid())
            return f"{one} belongs to {owner}, and {me} may not write it: {_give(path)}"
    return ""


def _own_files(path: str) -> list[tuple[str, bool]]:
    names = sorted(name for name in os.listdir(path) if _OWN_FILE.fullmatch(name))
    return [(os.path.join(path, name), name == STORE_NAME) for name in names]


def _store_files(path: str) -> list[tuple[str, bool]]:
    return [(os.path.join(path, name), False) for name in sorted(os.listdir(path))] if os.path.isdir(path) else []


def _run_as(owner: int) -> str:
    return f"run kvnode as {user_name(owner)}"


def _give(path: str) -> str:
    user = user_name(os.geteuid()).removeprefix("user ")
    return f"as root: install -d -o {user} -m 700 {path}" if not os.path.lexists(path) else f"as root: chown -R {user} {path}"
