"""What is in the data directory: its format, whose it is, and whether it would start. Read, never written.

Owns a disk that only reads, under which the log's own recovery runs: what it says is what a start would say. Never reads the
log or the store of a node that runs: they change meanwhile, and that node has read them itself.
"""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Iterable, Iterator

from kvnode.doctor.finding import Finding, ok, problem, size_text, skipped, warning
from kvnode.doctor.subject import Subject, holder
from kvnode.errors import KvnodeError, UnknownFormat
from kvnode.runtime.recovery import Recovered, replay
from kvnode.shard.state_machine import META, StateMachine
from kvnode.storage import data_format
from kvnode.storage.directory import STORE_NAME
from kvnode.storage.disk import DiskFailed, RealDisk
from kvnode.storage.log import Log
from kvnode.storage.records import Record
from kvnode.storage.store import LmdbStore
from kvnode.types import Seconds

FORMAT, IDENTITY, LOG, STORE = "data format", "identity", "log", "store"
READ_MAX: Seconds = 2.0
"""The log is read for so long; a node that has much to replay does it at its start."""


class ReadOnlyDisk(RealDisk):
    """The files of a directory; what would change them does nothing."""

    def preallocate(self, name: str, size_bytes: int) -> None:
        """Nothing."""

    def write(self, name: str, offset: int, data: bytes) -> None:
        """Nothing."""

    def sync(self, name: str) -> None:
        """Nothing."""

    def sync_directory(self) -> None:
        """Nothing."""

    def rename(self, name: str, new_name: str) -> None:
        """Nothing."""

    def remove(self, name: str) -> None:
        """Nothing."""


def check_contents(subject: Subject, is_running: bool, clock: Callable[[], float] = time.monotonic) -> list[Finding]:
    """Format, identity, log and store of what is there; only the format while the node runs. Blocks for `READ_MAX`, about."""
    if not os.path.isdir(subject.path):
        return [skipped(FORMAT, "there is no data directory yet")]
    try:
        disk = ReadOnlyDisk(subject.path)
        try:
            found = check_format(disk, subject.path)
            if is_running:
                return [*found, skipped(LOG, "the node runs, and has read its log and its store when it started")]
            read = _check_log(subject, disk, clock)
            if holder(subject.path):
                return [*found, skipped(LOG, "the node was started while its log was read")]
            return [*found, *read]
        except UnknownFormat as error:
            text, advice = _sentences(error.message)
            return [problem(FORMAT, text, advice)]
        finally:
            disk.close_all()
    except PermissionError as error:
        text = f"{error.filename} may not be read by this user"
        return [skipped(FORMAT, text, subject.who_may_look)]


def check_format(disk: RealDisk, path: str) -> list[Finding]:
    """The version of what is there. Raises UnknownFormat."""
    mark = data_format.read_mark(disk, path)
    version = data_format.version_of(disk, path)
    data_format.check(version, path)
    if mark is None:
        return [ok(FORMAT, f"{version.version}: no {data_format.FORMAT_NAME} yet; the next start writes it")]
    return [ok(FORMAT, f"{mark.version}" + (f", written by kvnode {mark.release}" if mark.release else ""))]


def _check_log(subject: Subject, disk: ReadOnlyDisk, clock: Callable[[], float]) -> list[Finding]:
    log = Log(disk, subject.config.storage.segment_size_bytes)
    budget = _Budget(log.recover(), clock)
    try:
        recovered = replay(budget)
    except (KvnodeError, DiskFailed) as error:
        found, advice = _sentences(str(error))
        return [problem(LOG, found, advice)]
    if not recovered.records:
        return [ok(LOG, "empty: this node has not started yet")]
    return [*_check_identity(subject, recovered), *_judge_log(subject, log, recovered, budget.exhausted)]


class _Budget:
    """As many of the records as can be read in time."""

    def __init__(self, records: Iterable[Record], clock: Callable[[], float]) -> None:
        self._records, self._clock = records, clock
        self.exhausted = False
        """Whether all were read."""

    def __iter__(self) -> Iterator[Record]:
        until = self._clock() + READ_MAX
        for record in self._records:
            yield record
            if self._clock() > until:
                return
        self.exhausted = True


def _check_identity(subject: Subject, recovered: Recovered) -> list[Finding]:
    config, identity = subject.config, recovered.identity
    if identity is None:
        return [skipped(IDENTITY, "what was read of the log does not say whose it is")]
    try:
        identity.expect(config.cluster.id, config.node.name, config.cluster.shards, subject.path)
    except KvnodeError as error:
        found, _, advice = error.message.partition(": ")
        return [problem(IDENTITY, found, advice[:1].upper() + advice[1:])]
    return [ok(IDENTITY, f"node {identity.node} of cluster {identity.cluster_id}, incarnation {identity.incarnation}")]


def _judge_log(subject: Subject, log: Log, recovered: Recovered, is_whole: bool) -> list[Finding]:
    size = size_text(log.size_bytes)
    if not is_whole:
        return [ok(LOG, f"{recovered.records} records, the first {size}, are whole; the rest was not read, for want of time")]
    whole = ok(LOG, f"{recovered.records} records in {size}, all whole")
    if not os.path.isdir(os.path.join(subject.path, STORE_NAME)):
        return [whole, warning(STORE, "there is a log, and no store", "Restore the whole data directory, if there was one")]
    try:
        return [whole, _check_store(subject, recovered)]
    except (KvnodeError, DiskFailed) as error:
        found, advice = _sentences(str(error))
        return [whole, problem(STORE, found, advice)]


def _check_store(subject: Subject, recovered: Recovered) -> Finding:
    """Whether each shard's log continues what the store holds. Raises Corrupt."""
    store = LmdbStore(os.path.join(subject.path, STORE_NAME), subject.config.storage.store_size_bytes_max, is_read_only=True)
    try:
        for shard in range(subject.config.cluster.shards):
            flushed = StateMachine.position(store.get(shard, META))
            recovered.shard(shard).log(shard, flushed.index, flushed.term, subject.config.replication.entries_retained)
        return ok(STORE, f"{size_text(store.size_bytes)}; the log continues it in every shard")
    finally:
        store.close()


def _sentences(message: str) -> tuple[str, str]:
    """What was found, and what to do: an error's first sentence and the others."""
    found, *advice = re.split(r"[.;] ", message, maxsplit=1)
    return found, "".join(part[:1].upper() + part[1:] for part in advice)
