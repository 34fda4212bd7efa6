"""The data directory and what it lies on: is it there, the service's, large enough, and on a disk that keeps its word?

Owns judgements about the directory as a whole; what is in it `kvnode.doctor.contents` reads.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

from kvnode.config_fields import GIB
from kvnode.doctor.finding import Finding, ok, problem, size_text, skipped, warning
from kvnode.doctor.subject import Subject, as_user
from kvnode.storage.directory import obstacle, user_name
from kvnode.storage.disk import BALLAST_NAME, RealDisk

DIRECTORY, SPACE, FILE_SYSTEM = "data directory", "disk space", "file system"
NEARLY_FULL_SIZE_BYTES, NEARLY_FULL_SHARE = 2 * GIB, 0.1
"""With less than both free, say so in time. (The alert `KvnodeDiskNearlyFull` fires at the first.)"""
_LOCAL = ("ext4", "xfs", "btrfs")
"""File systems whose behaviour the log relies on (docs/protocols/storage.md)."""
_OF_MEMORY = ("tmpfs", "ramfs")
_OF_A_CONTAINER = ("overlay", "aufs")
_OF_A_NETWORK = (
    "nfs",
    "nfs4",
    "cifs",
    "smb3",
    "smbfs",
    "9p",
    "ceph",
    "glusterfs",
    "fuse.glusterfs",
    "fuse.sshfs",
    "afs",
    "virtiofs",
)


# ---- the directory ----------------------------------------------------------------------------------------------------


def check_directory(subject: Subject) -> list[Finding]:
    """Whether the service's user can use the data directory, or make it. Forks where that is somebody else: no threads yet."""
    path = subject.path
    if not os.path.lexists(path):
        return [_missing(subject)]
    said = as_user(subject.uid, lambda: obstacle(path))
    if said is None:
        found = f"{path} belongs to {subject.user}: this user cannot tell what that one may do"
        return [skipped(DIRECTORY, found, subject.who_may_look)]
    if said:
        found, _, cure = said.partition(": ")
        return [problem(DIRECTORY, found, cure[:1].upper() + cure[1:])]
    users = f"of user {subject.user}" + ("" if subject.is_mine else f", looked at by {user_name(os.geteuid())}")
    use = f"in use by process {subject.pid}" if subject.pid else "not in use"
    mode = stat.S_IMODE(os.stat(path).st_mode)
    if mode & 0o007:
        found = f"{path} {users}, {use}; every user of this host may look into it (mode {mode:o})"
        return [warning(DIRECTORY, found, f"chmod 700 {path}")]
    return [ok(DIRECTORY, f"{path} {users}, {use}")]


def _missing(subject: Subject) -> Finding:
    path, above = subject.path, existing(subject.path)
    what = f"{path} is not there yet; the first start makes it"
    know = "If this node has run before, its file system is not mounted: do not start it before it is"
    may = as_user(subject.uid, lambda: "yes" if os.path.isdir(above) and os.access(above, os.W_OK | os.X_OK) else "no")
    if may is None:
        return skipped(DIRECTORY, f"{what}, if {subject.user} may write to {above}", know)
    if may != "yes":
        found = f"{path} is not there, and {subject.user} may not make it in {above}; a unit with StateDirectory= does"
        return warning(DIRECTORY, found, f"Without such a unit, as root: install -d -o {subject.user} -m 700 {path}")
    return ok(DIRECTORY, f"{what} for user {subject.user}", know)


def existing(path: str) -> str:
    """The path itself, or the nearest one above it that exists."""
    while not os.path.exists(path):
        path = os.path.dirname(path)
    return path


# ---- space ------------------------------------------------------------------------------------------------------------


def check_space(subject: Subject) -> list[Finding]:
    """Free space against what the node needs to go on: its ballast and the next segments; the quota; inodes."""
    storage, path = subject.config.storage, existing(subject.path)
    try:
        status = os.statvfs(path)
        used, needed = _used_and_needed(subject)
    except OSError as error:
        return [skipped(SPACE, f"{error.filename}: {error.strerror}", subject.who_may_look)]
    size, free = status.f_blocks * status.f_frsize, status.f_bavail * status.f_frsize
    if status.f_files and not status.f_favail:
        return [problem(SPACE, f"the file system of {path} has no inodes left", "Delete files of others there")]
    what = f"{size_text(free)} of {size_text(size)} free"
    if storage.quota_bytes:
        what += f", {size_text(used)} of the quota of {size_text(storage.quota_bytes)} used"
        size, free = min(size, storage.quota_bytes), min(free, max(0, storage.quota_bytes - used))
    more = "Delete what does not belong to kvnode, enlarge the file system, or raise storage.quota_bytes"
    if free < needed:
        found = f"{what}; the next segments and the ballast take {size_text(needed)}, and without them writes are refused"
        return [problem(SPACE, found, more)]
    if free < min(NEARLY_FULL_SIZE_BYTES, NEARLY_FULL_SHARE * size):
        return [warning(SPACE, f"{what}: nearly full; when it is full, writes are refused", more)]
    if storage.quota_bytes > status.f_blocks * status.f_frsize:
        found = f"{what}: storage.quota_bytes is more than the file system has, so it never takes effect"
        return [warning(SPACE, found, "Set it below the size of the file system, or leave it out")]
    return [ok(SPACE, what)]


def _used_and_needed(subject: Subject) -> tuple[int, int]:
    storage = subject.config.storage
    if not os.path.isdir(subject.path):
        return 0, storage.ballast_size_bytes + 2 * storage.segment_size_bytes
    disk = RealDisk(subject.path)
    try:
        names, used = os.listdir(subject.path), disk.used_bytes()
    finally:
        disk.close_all()
    segments = any(re.fullmatch(r"log-\d{16}", name) for name in names)
    missing = [0 if BALLAST_NAME in names else storage.ballast_size_bytes, 0 if segments else storage.segment_size_bytes]
    return used, sum(missing) + (0 if "log-spare" in names else storage.segment_size_bytes)


# ---- the file system ----------------------------------------------------------------------------------------------------


class Mount(NamedTuple):
    """What the data directory lies on."""

    point: str
    kind: str
    source: str
    options: frozenset[str]
    """Of the mount and of the file system."""


def check_file_system(subject: Subject, mounts: Path = Path("/proc/self/mountinfo")) -> list[Finding]:
    """Whether what lies there stays there, and whether a sync means what it says."""
    try:
        mount = find_mount(mounts.read_text(), os.path.realpath(existing(subject.path)))
    except OSError:
        mount = None
    if mount is None:
        return [skipped(FILE_SYSTEM, "the kernel's list of mounts cannot be read")]
    return [judge_mount(mount)]


def find_mount(mountinfo: str, path: str) -> Mount | None:
    """The mount that `path` lies on, from the text of /proc/self/mountinfo (proc_pid_mountinfo(5)); the last of several."""
    found = None
    for line in mountinfo.splitlines():
        mounted, separator, of_super = line.partition(" - ")
        words, more = mounted.split(), of_super.split()
        if not separator or len(words) < 6 or len(more) < 3:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), words[4])
        if path != point and not path.startswith(point.rstrip("/") + "/"):
            continue
        if found is None or len(point) >= len(found.point):
            found = Mount(point, more[0], more[1], frozenset(words[5].split(",")) | frozenset(more[2].split(",")))
    return found


def judge_mount(mount: Mount) -> Finding:
    """What to expect of such a file system."""
    what = f"{mount.kind} on {mount.point}"
    if mount.kind in _OF_MEMORY:
        found = f"{what}: in memory. A reboot empties it, and a node without its data is a new node, which the others refuse"
        return warning(FILE_SYSTEM, found, "Put node.data_dir on a disk; in memory only for trying things out")
    if mount.kind in _OF_A_CONTAINER:
        found = f"{what}: a container's own layer, which goes with the container"
        return warning(FILE_SYSTEM, found, "Put node.data_dir on a volume")
    if mount.kind in _OF_A_NETWORK:
        found = f"{what}: over a network. Syncs are slow, locks may not hold, and an outage of it stops the node"
        return warning(FILE_SYSTEM, found, "Put node.data_dir on a disk of this host: kvnode replicates by itself")
    if {"nobarrier", "barrier=0"} & mount.options:
        found = f"{what} without write barriers: a power failure may lose what was acknowledged"
        return warning(FILE_SYSTEM, found, "Mount it with barriers, unless a battery backs the disk's cache")
    if mount.kind not in _LOCAL:
        return ok(FILE_SYSTEM, f"{what}: not among those that kvnode is tested on ({', '.join(_LOCAL)})")
    return ok(FILE_SYSTEM, what)
