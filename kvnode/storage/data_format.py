"""The version of what a data directory holds: where it stands, and which one this release reads and writes.

Owns the number, for the whole directory: segments, records, the store's rows. It stands in the file `FORMAT`, and in the header
of every segment, so that a segment tells its own. Never interprets anything else of the directory, and changes nothing in one
whose version this release does not know.

In all releases `FORMAT` begins with the line `kvnode data format N`. What follows belongs to that format; in format 1 it is the
release that wrote the file, for people.

Invariants:
- `settle` comes before everything else that reads or writes the directory.
- `FORMAT` is there whole or not at all: it gets its name when it is durable. A directory without it is of `UNMARKED`, new or of
  an earlier release, so a crash before it is there harms nothing.
"""

from __future__ import annotations

import re
import struct
from typing import Final, NamedTuple

from kvnode import __version__
from kvnode.errors import RESTORE, UnknownFormat
from kvnode.storage import frame
from kvnode.storage.disk import Disk, OutOfSpace

VERSION: Final = 1
"""What this release reads and writes."""
UNMARKED: Final = 1
"""What a directory without `FORMAT` has: releases that did not write one knew no other format."""
FORMAT_NAME: Final = "FORMAT"
_NEW_NAME = "FORMAT.new"
_SIZE_BYTES_MAX = 4096
_FIRST_LINE = re.compile(rb"kvnode data format ([1-9][0-9]{0,8})\n")
_RELEASE = re.compile(rb"^written by kvnode ([0-9A-Za-z.+-]{1,40})$", re.MULTILINE)
_SEGMENT_NAME = re.compile(r"log-\d{16}")
_SEGMENT_VERSION = struct.Struct("<H")
"""Behind the header of a segment's first frame, in all formats."""


class Mark(NamedTuple):
    """What `FORMAT` says. `release` wrote it; empty if it does not say."""

    version: int
    release: str = ""


def read_mark(disk: Disk, where: str) -> Mark | None:
    """What `FORMAT` in the directory `where` says; None if there is none. Raises `UnknownFormat` if it says nothing."""
    if FORMAT_NAME not in disk.names():
        return None
    data = disk.read(FORMAT_NAME, 0, _SIZE_BYTES_MAX)
    if not (line := _FIRST_LINE.match(data)):
        found = f"it begins with {data[:40]!r}" if data else "it is empty"
        raise UnknownFormat(
            f"{where}/{FORMAT_NAME} does not say which format the data directory has: {found}. (This release writes "
            f"'kvnode data format {VERSION}'.) Nothing was changed. Check the disk; " + RESTORE
        )
    release = _RELEASE.search(data)
    return Mark(int(line[1]), release[1].decode() if release else "")


def version_of(disk: Disk, where: str) -> Mark:
    """What the directory is of; changes nothing. Raises `UnknownFormat` as `read_mark`.

    Where `FORMAT` is missing the segments are asked, in case only it was lost. A segment whose header is damaged says nothing
    here: the log has the words for that.
    """
    if (mark := read_mark(disk, where)) is not None:
        return mark
    return Mark(max((_segment_version(disk, name) for name in disk.names() if _SEGMENT_NAME.fullmatch(name)), default=UNMARKED))


def check(mark: Mark, where: str) -> None:
    """Raises `UnknownFormat` unless this release reads what `where`, a directory or a file of one, holds."""
    if mark.version == VERSION:
        return
    release = f"kvnode {mark.release}" if mark.release else f"a release of kvnode that reads format {mark.version}"
    age = "a newer" if mark.version > VERSION else "another"
    raise UnknownFormat(
        f"{where} has data format {mark.version}, of {age} release; this one, {__version__}, reads format {VERSION}. "
        f"Nothing was changed. Install {release}. (Do not start a copy from before that: it has forgotten what this node "
        "promised to the others since)"
    )


def settle(disk: Disk, where: str) -> None:
    """See to it that the directory `where` has the format of this release, and says so.

    Raises `UnknownFormat`, with nothing changed; DiskFailed. A disk too full for the mark goes without, until a later start.
    """
    check(version_of(disk, where), where)
    if FORMAT_NAME in disk.names():
        return
    data = f"kvnode data format {VERSION}\nwritten by kvnode {__version__}\n".encode()
    disk.remove(_NEW_NAME)
    try:
        disk.preallocate(_NEW_NAME, len(data))
    except OutOfSpace:
        return
    disk.write(_NEW_NAME, 0, data)
    disk.sync(_NEW_NAME)
    disk.rename(_NEW_NAME, FORMAT_NAME)
    disk.sync_directory()


def _segment_version(disk: Disk, name: str) -> int:
    head = disk.read(name, 0, frame.HEADER_SIZE_BYTES + _SEGMENT_VERSION.size)
    header = frame.read_header(head, 0)
    if header is None or header.kind != frame.SEGMENT or len(head) < frame.HEADER_SIZE_BYTES + _SEGMENT_VERSION.size:
        return UNMARKED
    return int(_SEGMENT_VERSION.unpack_from(head, frame.HEADER_SIZE_BYTES)[0])
