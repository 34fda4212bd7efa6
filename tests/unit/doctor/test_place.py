"""The data directory, its space and its file system."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from kvnode.doctor.finding import Level
from kvnode.doctor.place import check_directory, check_file_system, check_space, find_mount, judge_mount
from tests.unit.doctor.subjects import SEGMENT_SIZE_BYTES, make_subject, state_of, stopped_node

NOBODY = 65534
GIB = 1024**3
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can look as another user")

MOUNTINFO = """\
22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw,discard
30 22 0:25 / /run rw,nosuid shared:5 - tmpfs tmpfs rw,size=100k
41 22 8:1 / /var/lib/kvnode rw shared:9 master:2 - xfs /dev/sdb1 rw,nobarrier
42 22 8:2 / /srv/with\\040space rw - btrfs /dev/sdc rw
43 42 0:40 / /srv/with\\040space rw - nfs4 host:/export rw
garbage
"""


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="kvnode-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def test_directory_of_a_stopped_node_is_fine_and_left_alone(tmp_path: Path) -> None:
    """Who has it and whether it is in use are part of the answer."""
    tmp_path.chmod(0o700)
    stopped_node(tmp_path)
    before = state_of(tmp_path)
    (found,) = check_directory(make_subject(tmp_path))
    assert (found.name, found.level) == ("data directory", Level.OK)
    assert found.found.endswith(", not in use")
    (running,) = check_directory(make_subject(tmp_path, pid=17))
    assert running.found.endswith(", in use by process 17")
    assert state_of(tmp_path) == before


def test_directory_that_others_may_read_is_warned_about(tmp_path: Path) -> None:
    """Values are in its files as they were written."""
    tmp_path.chmod(0o755)
    (found,) = check_directory(make_subject(tmp_path))
    assert (found.level, found.advice) == (Level.WARNING, f"chmod 700 {tmp_path}")


def test_directory_that_is_missing_is_fine_where_it_can_be_made(tmp_path: Path) -> None:
    """And what to think of first if the node has run before; nothing is made."""
    (found,) = check_directory(make_subject(tmp_path / "a" / "n1"))
    assert found.level == Level.OK
    assert "the first start makes it" in found.found
    assert "not mounted" in found.advice
    assert not list(tmp_path.iterdir())


def test_directory_that_is_a_file_is_a_problem(tmp_path: Path) -> None:
    """The start's own words, the advice apart."""
    (tmp_path / "n1").write_text("")
    (found,) = check_directory(make_subject(tmp_path / "n1"))
    assert (found.level, found.found) == (Level.PROBLEM, f"the data directory {tmp_path}/n1 is no directory")
    assert found.advice == "Remove it, or correct node.data_dir"


@root_only
def test_directory_is_looked_at_as_the_service_sees_it(open_path: Path) -> None:
    """Root may do everything; what counts is what the service's user may."""
    missing = replace(make_subject(open_path / "n1"), uid=NOBODY)
    (found,) = check_directory(missing)
    assert found.level == Level.WARNING
    assert f"{open_path}/n1 is not there, and nobody may not make it in {open_path}" in found.found
    assert f"install -d -o nobody -m 700 {open_path}/n1" in found.advice
    (open_path / "n1").mkdir(mode=0o700)
    (found,) = check_directory(missing)
    assert (found.level, "nobody may not write there" in found.found) == (Level.PROBLEM, True)
    os.chown(open_path / "n1", NOBODY, NOBODY)
    (found,) = check_directory(missing)
    assert found == ("data directory", Level.OK, f"{open_path}/n1 of user nobody, looked at by root, not in use", "")


def test_space_that_suffices_is_told(tmp_path: Path) -> None:
    """Before the first start, and after it."""
    (before,) = check_space(make_subject(tmp_path / "n1"))
    stopped_node(tmp_path / "n1")
    (after,) = check_space(make_subject(tmp_path / "n1"))
    assert [before.level, after.level] == [Level.OK, Level.OK]
    assert " free" in after.found


def _statvfs(blocks: int, free: int, inodes: int = 100) -> SimpleNamespace:
    return SimpleNamespace(f_frsize=1, f_blocks=blocks, f_bavail=free, f_files=100, f_favail=inodes)


@pytest.mark.parametrize(
    ("status", "quota", "level", "words"),
    [
        (_statvfs(100 * GIB, 50 * GIB), 0, Level.OK, "50 GiB of 100 GiB free"),
        (_statvfs(100 * GIB, GIB), 0, Level.WARNING, "nearly full"),
        (_statvfs(10 * GIB, GIB - 1), 0, Level.WARNING, "nearly full"),
        (_statvfs(10 * GIB, GIB + 1), 0, Level.OK, "free"),
        (_statvfs(100 * GIB, 2 * SEGMENT_SIZE_BYTES), 0, Level.PROBLEM, "the next segments and the ballast take 192 KiB"),
        (_statvfs(100 * GIB, 50 * GIB, inodes=0), 0, Level.PROBLEM, "no inodes left"),
        (_statvfs(100 * GIB, 50 * GIB), 10 * GIB, Level.OK, "0 bytes of the quota of 10 GiB used"),
        (_statvfs(GIB, GIB - 1), 10 * GIB, Level.WARNING, "so it never takes effect"),
    ],
)
def test_space_against_what_the_node_needs_is_judged(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: SimpleNamespace, quota: int, level: Level, words: str
) -> None:
    """A new node needs its ballast and two segments; the file system's share decides about the rest."""
    monkeypatch.setattr(os, "statvfs", lambda _: status)
    (found,) = check_space(make_subject(tmp_path / "n1", storage__quota_bytes=str(quota)))
    assert found.level == level, found
    assert words in found.found


def test_quota_that_is_used_up_is_a_problem(tmp_path: Path) -> None:
    """What counts is what the quota leaves, not the disk."""
    stopped_node(tmp_path)
    (tmp_path / "filler").write_bytes(bytes(512 * 1024))
    (found,) = check_space(make_subject(tmp_path, storage__quota_bytes=str(640 * 1024)))
    assert found.level == Level.PROBLEM
    assert "of the quota of 640 KiB used" in found.found


@pytest.mark.parametrize(
    ("path", "point", "kind"),
    [
        ("/var/lib/kvnode/n1", "/var/lib/kvnode", "xfs"),
        ("/var/lib/kvnode", "/var/lib/kvnode", "xfs"),
        ("/var/lib/kvnodes", "/", "ext4"),
        ("/run/n1", "/run", "tmpfs"),
        ("/srv/with space/n1", "/srv/with space", "nfs4"),
        ("/", "/", "ext4"),
    ],
)
def test_mount_of_a_path_is_the_nearest_and_the_last(path: str, point: str, kind: str) -> None:
    """As the kernel resolves it; a mount over another hides it."""
    mount = find_mount(MOUNTINFO, path)
    assert mount is not None
    assert (mount.point, mount.kind) == (point, kind)


@pytest.mark.parametrize(
    ("path", "level", "words"),
    [
        ("/var/lib/kvnode/n1", Level.WARNING, "xfs on /var/lib/kvnode without write barriers"),
        ("/run/n1", Level.WARNING, "tmpfs on /run: in memory"),
        ("/srv/with space/n1", Level.WARNING, "over a network"),
        ("/home", Level.OK, "ext4 on /"),
    ],
)
def test_file_system_that_does_not_keep_its_word_is_warned_about(path: str, level: Level, words: str) -> None:
    """Memory, networks and missing barriers; a disk of the host is fine."""
    mount = find_mount(MOUNTINFO, path)
    assert mount is not None
    finding = judge_mount(mount)
    assert (finding.level, words in finding.found) == (level, True), finding
    assert judge_mount(mount._replace(kind="overlay", options=frozenset())).level == Level.WARNING
    assert "not among those" in judge_mount(mount._replace(kind="zfs", options=frozenset())).found


def test_file_system_of_this_host_is_found(tmp_path: Path) -> None:
    """The kernel's real list can be read, also for a directory that is not there yet."""
    (found,) = check_file_system(make_subject(tmp_path / "n1"))
    assert " on /" in found.found
    (unknown,) = check_file_system(make_subject(tmp_path), tmp_path / "nothing")
    assert unknown.level == Level.SKIPPED
