"""What callers note about each operation, and the messages between the processes of a run.

Owns the hot path's notebook: two appends an operation. Histograms would cost a hundred times as much; the process that shows
the results makes them, away from the load.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

LATENCY_CODE = "Q"
"""Whole microseconds in an `array`."""
CUT_SHORT = "CUT_SHORT"
"""The reason of operations that were under way when Ctrl-C ended the run."""


class KindSample(NamedTuple):
    """What became of the operations of one kind that ended in a while."""

    latencies_us: bytes
    """Of each, also of those that failed, from its intended start; the memory of an `array`."""
    services_us: bytes
    """The same from its actual start; empty in a closed loop, where the two are one."""
    errors: Mapping[str, int]
    """By reason."""
    absent: int
    """Reads that found no key."""


class Sample(NamedTuple):
    """What a process noted in a while of the measured time."""

    interval: int
    """Which of the run's intervals it belongs to, from 0."""
    in_time: bool
    """Whether it ended before the measured time was over; later come only operations that were under way then."""
    kinds: Mapping[str, KindSample]


@dataclass
class Notes:
    """The notebook."""

    kinds: Iterable[str]
    latencies: dict[str, array[int]] = field(init=False)
    services: dict[str, array[int]] = field(init=False)
    errors: dict[str, Counter[str]] = field(init=False)
    absent: Counter[str] = field(init=False, default_factory=Counter)

    def __post_init__(self) -> None:
        self.latencies = {kind: array(LATENCY_CODE) for kind in self.kinds}
        self.services = {kind: array(LATENCY_CODE) for kind in self.kinds}
        self.errors = {kind: Counter() for kind in self.kinds}

    def take(self) -> dict[str, KindSample]:
        """What was noted since the last time; the arrays stay the same objects."""
        taken = {}
        for kind, latencies in self.latencies.items():
            if latencies:
                services, errors = self.services[kind], self.errors[kind]
                taken[kind] = KindSample(latencies.tobytes(), services.tobytes(), dict(errors), self.absent.pop(kind, 0))
                del latencies[:], services[:]
                errors.clear()
        return taken


class Ready(NamedTuple):
    """The process has ended its phase, and waits for the next one."""


class Progress(NamedTuple):
    """So many keys were loaded or deleted."""

    keys: int


class Finished(NamedTuple):
    """How a process's measured time went."""

    ended_s: float
    """Seconds from the beginning to the end of the measured time, or of the last operation if that came later."""
    left_over: Mapping[str, bytes]
    """Operations that were due and could not be started: by kind, what they had waited, as in `KindSample`."""
    cpu_share: float
    """Of one core, in the measured time."""
    wakes_late_us: bytes
    """How late it woke up for turns that callers were waiting for, as in `KindSample`."""


class Failed(NamedTuple):
    """The process cannot go on. Without a reason it is a defect, and `message` its traceback."""

    reason: str
    message: str


Message = Ready | Progress | Sample | Finished | Failed


def microseconds(data: bytes) -> array[int]:
    """The `array` whose memory was sent."""
    values: array[int] = array(LATENCY_CODE)
    values.frombytes(data)
    return values
