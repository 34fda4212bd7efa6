"""Whether a node that sends heartbeats also works: its event loop turns and its disk completes writes.

Owns what a peer last said about its progress. Never says that a node is dead: a node with a hanging disk answers every
heartbeat (Huang et al., "Gray failure: the Achilles' heel of cloud-scale systems", HotOS 2017), so it is only avoided.

A peer is unhealthy while its oldest disk write waits longer than DISK_WAIT_MS_MAX and no write completed in between, or
while its event loop's watchdog stands still as long as that. A slow disk that completes writes is healthy.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from kvapi.v1 import failure_detection_pb2
from kvnode.types import Seconds

DISK_WAIT_MS_MAX: Final = 1_000
"""Far above a busy disk's fdatasync (milliseconds, rarely hundreds), below the election time-outs' upper end."""
EVENT_LOOP_WAIT_MS_MAX: Final = 1_000
EVENT_LOOP_REPORTS_MIN: Final = 5
"""So many reports in a row must repeat the same count: one that was delayed on its way says nothing."""


class Progress(NamedTuple):
    """What moved on a node; the fields of `failure_detection.proto`'s `Progress`, which may be given instead."""

    event_loop: int
    """Turns of the event loop's watchdog; 0: not reported."""
    disk: int
    """Completed disk writes, or checks of an idle disk."""
    disk_wait_ms: int
    """How long the oldest disk write has been waiting, milliseconds."""


class Health:
    """One peer's progress, and why it is unhealthy if it is."""

    def __init__(self) -> None:
        self._event_loop = -1
        self._event_loop_moved_at: Seconds = 0.0
        self._event_loop_repeats = 0
        self._disk = -1
        self.why = ""
        """Empty while healthy."""

    def on_progress(self, progress: Progress | failure_detection_pb2.Progress, now: Seconds) -> None:
        """Judges one report. A report that was overtaken by a later one counts as no movement."""
        disk_moved = progress.disk > self._disk
        self._disk = max(self._disk, progress.disk)
        event_loop_wait_ms = self._event_loop_wait_ms(progress.event_loop, now)
        if not disk_moved and progress.disk_wait_ms > DISK_WAIT_MS_MAX:
            self.why = f"its disk completed no write, the oldest waits for {progress.disk_wait_ms} ms"
        elif event_loop_wait_ms > EVENT_LOOP_WAIT_MS_MAX:
            self.why = f"its event loop has not turned for {event_loop_wait_ms:.0f} ms"
        else:
            self.why = ""

    def _event_loop_wait_ms(self, event_loop: int, now: Seconds) -> float:
        """Since the event loop moved; 0 while too few reports say so."""
        if event_loop > self._event_loop or event_loop == 0:
            self._event_loop = max(self._event_loop, event_loop)
            self._event_loop_moved_at = now
            self._event_loop_repeats = 0
            return 0.0
        self._event_loop_repeats += 1
        if self._event_loop_repeats < EVENT_LOOP_REPORTS_MIN:
            return 0.0
        return (now - self._event_loop_moved_at) * 1000.0
