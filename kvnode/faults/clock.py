"""A wall clock that is wrong, as injected. Offsets add up, and so do the drifts of rates."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from kvnode.types import Seconds


class ClockError(NamedTuple):
    """One fault: how far ahead, how fast beyond 1, and since when on the event loop's clock."""

    offset_ms: int
    drift: float
    since: Seconds


class FaultyClock:
    """Unix milliseconds, as a function."""

    def __init__(self, wall_ms: Callable[[], int], now: Callable[[], Seconds]) -> None:
        self._wall_ms, self._now = wall_ms, now
        self._errors: Sequence[ClockError] = ()

    def set(self, errors: Sequence[ClockError]) -> None:
        """From now on it is wrong by these. The true time is back at once where there are none."""
        self._errors = errors

    def __call__(self) -> int:
        now = self._now()
        error_ms = sum(error.offset_ms + error.drift * (now - error.since) * 1000 for error in self._errors)
        return self._wall_ms() + int(error_ms)
