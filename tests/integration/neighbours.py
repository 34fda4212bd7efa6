"""How much of the processors other programs had, and how long ours waited for one, so that a test of time can tell its subject
from a busy machine: who waits for something else does not wait for a processor.

Owns the sampling of /proc by a thread. Ours is this process and all that it started, by their parents; everybody else's is the
rest of what the machine was busy with, a hypervisor's theft included. Ours run before others, where that is permitted. Judges
nothing.
"""

from __future__ import annotations

import itertools
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

INTERVAL_S = 0.1
PRIORITY = -15


class Sample(NamedTuple):
    """Clock ticks of processor time, since the machine or the process began."""

    at: float
    """Monotonic seconds."""
    all: int
    idle: int
    ours: dict[int, int]
    """By process."""
    waited_s: dict[int, float]
    """For how long each of our processes' main threads could have run, and had no processor."""


class Neighbours:
    """From `__enter__` to `__exit__`."""

    def __init__(self) -> None:
        self._samples: list[Sample] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="neighbours", daemon=True)

    def __enter__(self) -> Neighbours:
        self._look()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def _run(self) -> None:
        while not self._over.wait(INTERVAL_S):
            self._look()

    def _look(self) -> None:
        known = self._samples[-1].ours if self._samples else {}
        self._samples.append(sample())
        for pid in self._samples[-1].ours.keys() - known.keys():
            prefer(pid)

    def share(self, since: float, until: float) -> float:
        """The others' part of all processors' time, from 0 to 1, between two moments, widened to the nearest samples."""
        inside = self._inside(since, until)
        ours = sum(
            ticks - before.ours.get(pid, 0) for before, after in itertools.pairwise(inside) for pid, ticks in after.ours.items()
        )
        first, last = inside[0], inside[-1]
        busy = (last.all - last.idle) - (first.all - first.idle)
        return max(0.0, (busy - ours) / max(1, last.all - first.all))

    def waited_s(self, since: float, until: float) -> float:
        """How long that one of our processes waited for a processor that waited the longest, in the same time."""
        inside = self._inside(since, until)
        first, last = inside[0], inside[-1]
        return max((waited - first.waited_s.get(pid, 0.0) for pid, waited in last.waited_s.items()), default=0.0)

    def _inside(self, since: float, until: float) -> list[Sample]:
        samples = self._samples
        first = max((number for number, one in enumerate(samples) if one.at <= since), default=0)
        last = min((number for number, one in enumerate(samples) if one.at >= until), default=len(samples) - 1)
        return samples[first : last + 1]


def sample() -> Sample:
    """What /proc says now."""
    ticks = [int(word) for word in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    parents: dict[int, int] = {}
    used: dict[int, int] = {}
    for entry in os.listdir("/proc"):
        if entry.isdecimal():
            with suppress(OSError):  # (It has ended meanwhile.)
                fields = Path(f"/proc/{entry}/stat").read_text().rpartition(") ")[2].split()
                parents[int(entry)], used[int(entry)] = int(fields[1]), int(fields[11]) + int(fields[12])
    ours = {pid: spent for pid, spent in used.items() if os.getpid() in _ancestry(pid, parents)}
    waited_s = {}
    for pid in ours:
        with suppress(OSError):
            waited_s[pid] = int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9
    return Sample(time.monotonic(), sum(ticks), ticks[3] + ticks[4], ours, waited_s)


def _ancestry(pid: int, parents: dict[int, int]) -> Iterator[int]:
    while pid in parents:
        yield pid
        pid = parents[pid]


def prefer(pid: int) -> None:
    """Has a process run before others, where that is permitted: what a test measures is not what else runs on the machine."""
    with suppress(OSError):
        os.setpriority(os.PRIO_PROCESS, pid, PRIORITY)
    with suppress(OSError):  # (Where sessions share the processors evenly, a process's own priority counts within its session.)
        Path(f"/proc/{pid}/autogroup").write_text(str(PRIORITY))
