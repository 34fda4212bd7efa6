"""Data directories that are new, odd, or somebody else's: taken, or refused with what to do."""

from __future__ import annotations

import os
import shutil
import socket
import stat
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from kvnode.errors import UnknownFormat, UnusableDirectory
from kvnode.storage import directory
from kvnode.storage.directory import obstacle, take

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="only root can be another user")


@pytest.fixture
def taken() -> Iterator[Callable[[Path], None]]:
    """`take`, whose claims end with the test."""
    descriptors: list[int] = []
    yield lambda path: descriptors.append(take(path))
    for descriptor in descriptors:
        os.close(descriptor)


@pytest.fixture
def open_path() -> Iterator[Path]:
    """A directory that every user may enter."""
    path = Path(tempfile.mkdtemp(prefix="kvnode-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path)


def as_nobody(act: Callable[[], object]) -> str:
    """What `act` returns, or how it fails, when it is done by another user than root."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)
            try:
                said = str(act())
            except Exception as error:
                said = f"{type(error).__name__}: {error}"
            os.write(writing, said.encode())
        finally:
            os._exit(0)
    os.close(writing)
    with open(reading, "rb") as file:
        said = file.read().decode()
    os.waitpid(child, 0)
    return said


def test_directory_that_is_missing_is_created_for_its_user_alone(tmp_path: Path, taken: Callable[[Path], None]) -> None:
    """With those above it; nobody else may look into it; it says its format."""
    path = tmp_path / "above" / "n1"
    taken(path)
    assert stat.S_IMODE(path.stat().st_mode) & 0o077 == 0
    assert sorted(entry.name for entry in path.iterdir()) == ["FORMAT"]


def test_directory_that_is_new_is_synced_from_above(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each new directory's entry is made durable in the one above it: else a power failure takes everything along."""
    synced: list[str] = []
    monkeypatch.setattr(directory, "sync_entries", synced.append)
    os.close(take(tmp_path / "a" / "b" / "n1"))
    assert synced == [str(tmp_path), str(tmp_path / "a"), str(tmp_path / "a" / "b")]


def test_directory_taken_twice_is_refused(tmp_path: Path, taken: Callable[[Path], None]) -> None:
    """While one holds it another may not; afterwards it may, and finds the directory's format."""
    descriptor = take(tmp_path / "n1")
    with pytest.raises(OSError, match="in use by another process"):
        take(tmp_path / "n1")
    os.close(descriptor)
    taken(tmp_path / "n1")


def test_directory_of_an_unknown_format_is_given_back_untouched(tmp_path: Path, taken: Callable[[Path], None]) -> None:
    """The refusal leaves the directory free for the release that can read it."""
    (tmp_path / "FORMAT").write_text("kvnode data format 2\n")
    with pytest.raises(UnknownFormat, match=f"{tmp_path} has data format 2"):
        take(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["FORMAT"]
    (tmp_path / "FORMAT").write_text("kvnode data format 1\n")
    taken(tmp_path)


def test_directory_with_things_of_others_beside_is_taken(tmp_path: Path, taken: Callable[[Path], None]) -> None:
    """`lost+found` of a file system of its own is no obstacle."""
    (tmp_path / "lost+found").mkdir(mode=0)
    taken(tmp_path)


def _file(path: Path) -> None:
    path.write_text("a file")


def _dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [(_file, "is no directory: remove it, or correct node.data_dir"), (_dangling, "is a link to nothing")],
    ids=["file", "dangling link"],
)
def test_directory_that_is_none_is_refused(tmp_path: Path, make: Callable[[Path], None], words: str) -> None:
    """What is there instead is named, and left alone."""
    make(tmp_path / "n1")
    with pytest.raises(UnusableDirectory, match=f"the data directory {tmp_path}/n1 {words}"):
        take(tmp_path / "n1")
    assert os.path.lexists(tmp_path / "n1")


def test_directory_below_a_file_is_refused(tmp_path: Path) -> None:
    """It cannot be created: the message has the reason and the whole path."""
    _file(tmp_path / "f")
    with pytest.raises(UnusableDirectory, match=rf"{tmp_path}/f/n1 cannot be created or reached: .*Not a directory"):
        take(tmp_path / "f" / "n1")


@pytest.mark.parametrize(
    ("name", "make", "words"),
    [
        ("store", _file, "kvnode has a directory of that name"),
        ("FORMAT", Path.mkdir, "kvnode has a regular file of that name"),
        ("FORMAT.new", Path.mkdir, "kvnode has a regular file of that name"),
        ("ballast", Path.mkdir, "kvnode has a regular file of that name"),
        ("log-0000000000000001", _dangling, "kvnode has a regular file of that name"),
        ("log-spare", os.mkfifo, "kvnode has a regular file of that name"),
        ("snapshot-3", _socket, "kvnode has a regular file of that name"),
    ],
)
def test_file_in_the_way_is_refused_by_its_name(tmp_path: Path, name: str, make: Callable[[Path], None], words: str) -> None:
    """Where a node's own file should be is something else: that is said, nothing is opened, and nothing is made beside it."""
    make(tmp_path / name)
    with pytest.raises(UnusableDirectory, match=f"{tmp_path}/{name} is in the way: {words}; move it elsewhere"):
        take(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == [name]


@root_only
def test_directory_of_another_user_is_refused_to_root(tmp_path: Path) -> None:
    """Root could use it, and would leave files that its owner cannot use."""
    os.chown(tmp_path, NOBODY, NOBODY)
    with pytest.raises(
        UnusableDirectory, match="belongs to nobody, who could not use what root makes in it: run kvnode as nobody"
    ):
        take(tmp_path)
    assert not list(tmp_path.iterdir())


@root_only
def test_directory_that_may_not_be_written_is_refused(open_path: Path) -> None:
    """The owner, the user who tried, and both ways out are named."""
    path = open_path / "n1"
    path.mkdir(mode=0o755)
    said = as_nobody(lambda: take(path))
    assert said == (
        f"UnusableDirectory: the data directory {path} belongs to root, and nobody may not write there: run kvnode as root, or "
        f"as root: chown -R nobody {path}"
    )


@root_only
def test_directory_behind_a_closed_one_is_refused(open_path: Path) -> None:
    """It is there and its user's own, but that user cannot get to it."""
    path = open_path / "closed" / "n1"
    path.mkdir(parents=True)
    os.chown(path, NOBODY, NOBODY)
    (open_path / "closed").chmod(0o700)
    assert as_nobody(lambda: obstacle(str(path))) == (
        f"the data directory {path} cannot be reached by nobody (Permission denied): let that user pass through the "
        "directories above it"
    )


@root_only
def test_directory_that_may_not_be_created_is_refused(open_path: Path) -> None:
    """The command that makes it is part of the message."""
    said = as_nobody(lambda: take(open_path / "n1"))
    assert said == (
        f"UnusableDirectory: the data directory {open_path}/n1 cannot be created or reached: {open_path}/n1: Permission "
        f"denied: as root: install -d -o nobody -m 700 {open_path}/n1"
    )


@root_only
@pytest.mark.parametrize("name", ["log-0000000000000001", "store/data.mdb"])
def test_file_of_another_user_is_refused_by_its_name(open_path: Path, name: str) -> None:
    """Someone ran the node as root once: the file that is left of that is named, and how to give it back."""
    path = open_path / "n1"
    (path / "store").mkdir(parents=True)
    (path / name).write_text("x")
    (path / name).chmod(0o640)
    for one in (path, path / "store"):
        os.chown(one, NOBODY, NOBODY)
    said = as_nobody(lambda: take(path))
    assert f"{path}/{name} belongs to root, and nobody may not write it: as root: chown -R nobody {path}" in said


@root_only
def test_directory_of_the_service_is_taken_by_the_service(open_path: Path) -> None:
    """The check refuses nobody who is in the right place; a group's directory that the user may write is fine, too."""
    own, shared = open_path / "n1", open_path / "n2"
    for path in (own, shared):
        path.mkdir(mode=0o700)
    os.chown(own, NOBODY, NOBODY)
    os.chown(shared, 0, NOBODY)
    shared.chmod(0o770)
    assert as_nobody(lambda: obstacle(str(own))) == ""
    assert as_nobody(lambda: [take(own), take(shared)] and "taken") == "taken"
