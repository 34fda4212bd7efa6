"""How long the data directory's disk takes to make a write durable: what every strong write waits for, on two disks at least.

Owns a probe file without a name, which is gone however the probe ends. Never touches a file of the node.
"""

from __future__ import annotations

import asyncio
import math
import os
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future

from kvnode.doctor.finding import Finding, attempt, ok, problem, skipped, warning
from kvnode.doctor.place import existing
from kvnode.doctor.subject import Subject
from kvnode.types import Seconds

NAME = "sync latency"
SYNCS = 100
WRITE_SIZE_BYTES = 4096
PROBE_MAX: Seconds = 2.0
"""After so long the syncs that were made must do."""
SLOW: Seconds = 0.010
"""Of the 99th percentile. etcd waits for its disk in the same places, and its documentation asks for less than this of
`wal_fsync_duration_seconds` in production."""
TOO_SLOW: Seconds = 0.100
"""Of the 99th percentile. An idle disk's syncs get several times slower under load, and at `election.timeout_ms_min` (800 ms) a
leader whose write hangs gives up its leadership."""
HANGS: Seconds = 10.0
"""A probe that has not ended by then is waiting for the disk."""
BIG_ENOUGH = 20
"""Of so few syncs a 99th percentile is the slowest; of fewer it says nothing."""


def check_sync_time(subject: Subject) -> list[Finding]:
    """Write and sync a probe file in the data directory, or where it will be. Blocks for `PROBE_MAX` at most, and one sync."""
    where = existing(subject.path)
    try:
        return [judge(measure(where))]
    except OSError as error:
        return [skipped(NAME, f"cannot write a probe file in {where}: {error.strerror}", subject.who_may_look)]


async def check_sync_time_bounded(subject: Subject) -> list[Finding]:
    """The same on a thread of its own, which is left behind if the disk hangs."""
    outcome: Future[list[Finding]] = Future()

    def probe() -> None:
        outcome.set_running_or_notify_cancel()  # (From now on it is not cancelled any more, and takes a late result.)
        outcome.set_result(attempt(NAME, check_sync_time, subject))

    threading.Thread(target=probe, name="probe", daemon=True).start()
    try:
        async with asyncio.timeout(HANGS):
            return await asyncio.wrap_future(outcome)
    except TimeoutError:
        found = f"a write of 4 KiB is not on the disk after {HANGS:.0f} s"
        return [problem(NAME, found, "The disk hangs: see the kernel log (`dmesg`)")]


def measure(directory: str, clock: Callable[[], float] = time.perf_counter) -> list[Seconds]:
    """How long each fdatasync took, after a write into space that was reserved before, as the log does it. Raises OSError."""
    durations: list[Seconds] = []
    until = clock() + PROBE_MAX
    with tempfile.TemporaryFile(dir=directory, prefix="kvnode-doctor-", buffering=0) as probe:
        descriptor = probe.fileno()
        os.posix_fallocate(descriptor, 0, SYNCS * WRITE_SIZE_BYTES)
        os.fsync(descriptor)
        for number in range(SYNCS):
            os.pwrite(descriptor, os.urandom(WRITE_SIZE_BYTES), number * WRITE_SIZE_BYTES)
            started = clock()
            os.fdatasync(descriptor)
            ended = clock()
            durations.append(ended - started)
            if ended > until:
                break
    return durations


def judge(durations: Sequence[Seconds]) -> Finding:
    """What the durations mean for a node."""
    half, most = percentile(durations, 0.5), percentile(durations, 0.99)
    what = f"{len(durations)} writes of 4 KiB: p50 {half * 1000:.2f} ms, p99 {most * 1000:.2f} ms"
    if most > TOO_SLOW or len(durations) < BIG_ENOUGH:
        found = f"{what}; above {TOO_SLOW * 1000:.0f} ms leaders will lose their leadership whenever there is load"
        return problem(NAME, found, "Use a disk that syncs fast (an SSD with power-loss protection), shared with nobody")
    if most > SLOW:
        found = f"{what}; every strong write waits so long for two disks, and above {SLOW * 1000:.0f} ms it shows"
        return warning(NAME, found, "Use a disk that syncs faster, or see who else writes to it (`iostat -x 1`)")
    return ok(NAME, what)


def percentile(values: Sequence[float], share: float) -> float:
    """The value that so large a share of the others does not exceed (nearest rank)."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]
