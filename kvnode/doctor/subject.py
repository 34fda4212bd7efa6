"""Whom the doctor looks at: a configuration, its data directory, the user of the service, and the process that runs already.

Owns how these are found out from the host. Never takes the data directory's lock, not for a moment: a node that starts at that
moment would find it taken.
"""

from __future__ import annotations

import os
import pwd
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kvnode.config import Config
from kvnode.storage.directory import user_name

SERVICE_USER = "kvnode"
"""Whom the installed units run nodes as (`systemd/kvnode.sysusers`)."""


@dataclass(frozen=True, slots=True)
class Subject:
    """One node on this host. `uid`: whom it runs as; `pid`: the process that has its data directory, 0 if none has."""

    config: Config
    config_path: str
    path: str
    uid: int
    pid: int = 0

    @property
    def user(self) -> str:
        """The name of the user that the node runs as."""
        return user_name(self.uid)

    @property
    def is_mine(self) -> bool:
        """Whether that is the user who asks."""
        return self.uid == os.geteuid()

    @property
    def who_may_look(self) -> str:
        """Advice for one who may not."""
        return "Run the doctor as root" + (f" or as {self.user}" if self.uid else "")


def look(config: Config, config_path: str, uid: int | None = None, locks: Path = Path("/proc/locks")) -> Subject:
    """What can be known from here. `uid`: the service's user where the caller knows it."""
    path = os.path.abspath(config.node.data_dir)
    pid = holder(path, locks)
    if uid is None:
        uid = _owner(f"/proc/{pid}") if pid else None
    if uid is None:
        uid = _owner(path)
    return Subject(config, config_path, path, _expected_uid() if uid is None else uid, pid)


def holder(path: str, locks: Path = Path("/proc/locks")) -> int:
    """The process that has the directory's lock (`kvnode.storage.disk.claim`), as the kernel's list says; 0: none known."""
    try:
        inode = os.stat(path)
        lines = locks.read_text().splitlines()
    except OSError:
        return 0
    for line in lines:
        words = line.split()
        if len(words) < 6 or words[1] != "FLOCK" or words[3] != "WRITE" or not words[4].isdigit():
            continue
        major, minor, number = words[5].split(":")
        if int(number) != inode.st_ino:
            continue
        # (Some file systems, as Btrfs, show another device to stat than to the kernel's list.)
        if os.makedev(int(major, 16), int(minor, 16)) == inode.st_dev or _has_open(int(words[4]), path):
            return int(words[4])
    return 0


def as_user(uid: int, act: Callable[[], str]) -> str | None:
    """What `act` answers when `uid` does it; None where this process may not find out. No threads may run yet."""
    if uid == os.geteuid():
        return act()
    if os.geteuid() != 0:
        return None
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            _become(uid)
            os.write(writing, act().encode())
        except Exception as error:
            os.write(writing, f"this could not be found out: {error}".encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, encoding="utf-8") as answer:
        said = answer.read()
    os.waitpid(child, 0)
    return said


def _become(uid: int) -> None:
    try:
        entry = pwd.getpwuid(uid)
        gid, groups = entry.pw_gid, os.getgrouplist(entry.pw_name, entry.pw_gid)
    except KeyError:
        gid, groups = uid, []
    os.setgroups(groups)
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _expected_uid() -> int:
    """Who will run the node, before there is a trace of it: for root the service's user, if there is one."""
    try:
        return pwd.getpwnam(SERVICE_USER).pw_uid if os.geteuid() == 0 else os.geteuid()
    except KeyError:
        return os.geteuid()


def _owner(path: str) -> int | None:
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


def _has_open(pid: int, path: str) -> bool:
    try:
        return any(os.path.realpath(entry.path) == os.path.realpath(path) for entry in os.scandir(f"/proc/{pid}/fd"))
    except OSError:
        return False
