"""What a start that fails says: what happened, where, and what to do."""

from __future__ import annotations

import errno
import os
import resource
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import kvwire
from kvnode.config import Tracing as TracingSettings
from kvnode.observe.tracing import Tracing
from kvnode.refusals import DOCTOR, cannot_listen, cannot_start
from kvnode.storage.disk import OutOfSpace
from kvnode.storage.store import LmdbStore

UNKNOWN = socket.gaierror(socket.EAI_NONAME, "Name or service not known")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (OSError(errno.EADDRINUSE, "x"), "somebody does already: stop that process, or change node.listen"),
        (OSError(errno.EADDRNOTAVAIL, "x"), "it is no address of this host, now: correct node.listen, or start"),
        (PermissionError(errno.EACCES, "x"), "give the unit CAP_NET_BIND_SERVICE"),
        (OSError(errno.EMFILE, "x"), "too many open files: raise the limit of open files (LimitNOFILE=65536"),
        (UNKNOWN, "the name does not resolve (Name or service not known): correct node.listen"),
        (OSError(errno.ENOBUFS, "No buffer space"), "No buffer space; see node.listen"),
        (RuntimeError("in gRPC's words"), "in gRPC's words; see node.listen"),
    ],
)
def test_address_that_cannot_be_had_is_refused_with_what_to_do(error: Exception, words: str) -> None:
    """By the system's reason, where there is one."""
    refused = cannot_listen("10.0.0.1:7401", "node.listen", error)
    assert str(refused).startswith("cannot listen on 10.0.0.1:7401: ")
    assert words in str(refused)


def test_address_that_is_taken_is_told_through_the_transport() -> None:
    """kvwire's own error has the system's reason as its cause."""
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(RuntimeError) as failed:
        kvwire.server().add_insecure_port(f"127.0.0.1:{taken.getsockname()[1]}")
    assert "somebody does already" in str(cannot_listen("127.0.0.1:1", "node.listen", failed.value))


def test_start_that_fails_says_where_to_look_further() -> None:
    """Its own words first; the way on where the system's words have none."""
    full = cannot_start(OutOfSpace("no space for the next log segment; nothing was written"))
    assert full.startswith("no space for the next log segment; nothing was written. Free space on that file system")
    files = cannot_start(OSError(errno.EMFILE, "Too many open files"))
    assert "raise the limit of open files" in files
    assert all(said.endswith(DOCTOR) for said in (full, files, cannot_start(OSError("what it says.")), cannot_start(UNKNOWN)))
    assert cannot_start(OSError("what it says.")) == f"what it says. {DOCTOR}"


def test_file_for_spans_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    """With the setting that names it."""
    settings = TracingSettings(file=str(tmp_path / "missing" / "spans.jsonl"))
    with pytest.raises(OSError, match=r"cannot write spans to .*/missing/spans.jsonl: No such file.*correct tracing.file"):
        Tracing(settings, "n1", "127.0.0.1:7401")


def test_store_whose_map_does_not_fit_is_no_fault_of_the_disk(tmp_path: Path) -> None:
    """A bounded address space: the limit and the setting are named, and the error is none that blames the disk."""
    code = f"from kvnode.storage.store import LmdbStore; LmdbStore({str(tmp_path)!r}, 1 << 45)"

    def bound() -> None:
        resource.setrlimit(resource.RLIMIT_AS, (4 << 30, 4 << 30))

    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, preexec_fn=bound)
    assert "OSError: the map of 35184372088832 bytes" in done.stderr, done.stderr
    assert "lower storage.store_size_bytes_max" in done.stderr


def test_store_that_cannot_be_opened_says_to_look_at_the_disk(tmp_path: Path) -> None:
    """Where LMDB has no better words."""
    os.mkdir(tmp_path / "data.mdb")
    with pytest.raises(Exception, match=r"cannot open the store in .*Check the disk"):
        LmdbStore(tmp_path, 1 << 20)
