"""Whom the doctor looks at: the process that has the directory, and the user that runs it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kvnode.doctor import subject
from kvnode.doctor.subject import as_user, holder, look
from kvnode.storage.disk import claim
from tests.unit.doctor.subjects import make_config

root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def test_holder_of_a_claimed_directory_is_this_process(tmp_path: Path) -> None:
    """The kernel's real list says so; and asking does not take the lock."""
    if not Path("/proc/locks").exists():
        pytest.skip("this kernel lists no locks")
    assert holder(str(tmp_path)) == 0
    descriptor = claim(tmp_path)
    assert holder(str(tmp_path)) == os.getpid()
    os.close(descriptor)
    assert holder(str(tmp_path)) == 0
    os.close(claim(tmp_path))


@pytest.mark.parametrize(
    ("line", "pid"),
    [
        ("1: FLOCK  ADVISORY  WRITE 17 {} 0 EOF", 17),
        ("1: FLOCK  ADVISORY  READ 17 {} 0 EOF", 0),
        ("1: POSIX  ADVISORY  WRITE 17 {} 0 EOF", 0),
        ("1: -> FLOCK  ADVISORY  WRITE 17 {} 0 EOF", 0),
        ("1: FLOCK  ADVISORY  WRITE 17 00:00:1 0 EOF", 0),
        ("garbage", 0),
    ],
)
def test_holder_by_the_kernels_list_is_who_has_the_exclusive_lock(tmp_path: Path, line: str, pid: int) -> None:
    """Others' locks, other kinds, and those who wait do not count."""
    status = tmp_path.stat()
    place = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    locks = tmp_path / "locks"
    locks.write_text(line.format(place) + "\n")
    assert holder(str(tmp_path), locks) == pid
    assert holder(str(tmp_path / "missing"), locks) == 0


def test_user_of_the_service_is_whoever_has_the_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unless the caller says otherwise; without a directory it is whoever asks, for root the service's user if there is one."""
    if os.geteuid() == 0:
        os.chown(tmp_path, 12345, 12345)
        assert look(make_config(tmp_path), "").uid == 12345
        assert look(make_config(tmp_path), "").user == "user 12345"
    monkeypatch.setattr(subject, "SERVICE_USER", "no-such-user")
    assert look(make_config(tmp_path / "n1"), "").uid == os.geteuid()
    monkeypatch.setattr(subject, "SERVICE_USER", "nobody")
    assert look(make_config(tmp_path / "n1"), "").uid == (65534 if os.geteuid() == 0 else os.geteuid())
    assert look(make_config(tmp_path), "", 7).uid == 7


@root_only
def test_user_that_root_becomes_is_another_in_all_respects() -> None:
    """Its groups, too; and root stays root."""
    before = os.getgroups()
    os.setgroups([4242])
    try:
        said = as_user(65534, lambda: f"{os.getresuid()} {os.getresgid()} {4242 in os.getgroups()}")
    finally:
        os.setgroups(before)
    assert said == f"{(65534,) * 3} {(65534,) * 3} False"
    assert as_user(0, lambda: str(os.geteuid())) == "0"
    assert as_user(65534, lambda: str(as_user(1, lambda: "never"))) == "None"
