"""The hybrid logical clock: stamps that order versions, and stay near wall time.

Owns the node's last stamp and the durable upper bound of its stamps. Never reads a clock: the driver passes wall time in.

A stamp is 64 bits: Unix milliseconds << 16 | counter. The physical part is the largest wall time seen here or received;
the counter orders events within it, and a counter that is full spills into the milliseconds (Kulkarni et al., "Logical
Physical Clocks", OPODIS 2014). Their bound on the distance from wall time is kept here by refusing stamps far ahead.

Invariants:
- Stamps of a node strictly increase, whatever its wall clock does, and also over restarts. After a clean stop they go on where
  they ended; after a crash from the bound, some seconds ahead.
- Every stamp given out is below the durable bound. So a node that restarts at the bound is above all that it ever gave
  out, although it did not write each stamp to disk.
- A remote stamp more than `max_skew_ms` ahead of wall time never advances the clock: one broken clock must not drag the
  whole cluster into the future, where every later write would have to follow it.
"""

from __future__ import annotations

from typing import Final

from kvnode.invariant import invariant
from kvnode.types import Hlc

COUNTER_BITS: Final = 16
BOUND_AHEAD_MS: Final = 4_000
"""A new bound is so far ahead. Larger: fewer writes to disk; but a restart puts stamps so far ahead of wall
time at worst, and until the wall has caught up this node's eventual writes beat everybody's."""
BOUND_LEFT_MS_MIN: Final = 2_000
"""With less left than this a new bound is wanted: the disk has so long to write it before stamps lag behind wall time."""
BOUND_RESERVE_MS: Final = 1_000
"""The physical part stops so far below the bound: 65 million stamps are left to count up while a disk is slow."""
BOUND_COUNTING_MS: Final = 1_250
"""A clock that a restart put ahead of wall time only counts until the wall has caught up: its bound need be no further ahead of
it than this, or a node that crashes again and again would run ahead by `BOUND_AHEAD_MS` more each time."""
WALL_MS_MAX: Final = (1 << 48) - 1


def stamp_at(wall_ms: int) -> Hlc:
    """The smallest stamp of a Unix millisecond."""
    return wall_ms << COUNTER_BITS


def physical_ms(stamp: Hlc) -> int:
    """A stamp's physical part, Unix milliseconds."""
    return stamp >> COUNTER_BITS


class HybridLogicalClock:
    """One per node. A new clock has no bound and gives no stamps: `restore`, then persist `wanted_bound`, then `set_bound`."""

    def __init__(self, max_skew_ms: int) -> None:
        invariant(max_skew_ms >= 0, f"max_skew_ms is {max_skew_ms}, must not be negative")
        self._max_skew_ms = max_skew_ms
        self._last: Hlc = 0
        """The latest stamp given out or observed; the next is greater."""
        self._bound: Hlc = 0
        self.ahead_ms_max = 0
        """How far the furthest of the others' stamps was ahead of our wall clock, since the start; refused ones, too."""
        self.refusals = 0
        """How many of the others' stamps were too far ahead."""

    @property
    def bound(self) -> Hlc:
        """The durable upper bound: no stamp reaches it. 0 while none is durable."""
        return self._bound

    @property
    def last(self) -> Hlc:
        """The latest stamp given out or observed; no new stamp is at or below it."""
        return self._last

    def now(self, wall_ms: int) -> Hlc:
        """A stamp greater than every one before, as near to `wall_ms` (Unix milliseconds) as the bound permits.

        Kulkarni et al. 2014, "send or local event": physical = max(last, wall), the counter grows on a tie.
        Breaks an invariant when the bound is used up: the driver must not take stamps before the first bound is durable,
        and 65 million stamps without a successful write of the bound means a disk that no longer writes.
        """
        self._check_wall(wall_ms)
        # The wall may be past the bound (a jump forward, a slow disk). Stamps then wait below it, and only count.
        reachable_ms = min(wall_ms, physical_ms(self._bound) - BOUND_RESERVE_MS)
        stamp = max(stamp_at(reachable_ms), self._last + 1)
        invariant(stamp < self._bound, f"the clock's bound {self._bound} is used up: a new bound must be durable first")
        self._last = stamp
        return stamp

    def observe(self, remote: Hlc, wall_ms: int) -> bool:
        """Advances to a stamp received, so that the next `now` is greater; False, and nothing changes, if it is refused.

        Refused is a stamp more than `max_skew_ms` ahead of `wall_ms`, and one that the durable bound does not yet cover
        (the caller may try again once a new bound is durable; with a working disk this does not happen, as 2 s are left).
        """
        self._check_wall(wall_ms)
        ahead_ms = physical_ms(remote) - wall_ms
        if ahead_ms > self.ahead_ms_max:
            self.ahead_ms_max = ahead_ms
        if ahead_ms > self._max_skew_ms:
            self.refusals += 1
            return False
        if remote <= self._last:
            return True
        if physical_ms(remote) >= physical_ms(self._bound) - BOUND_RESERVE_MS:
            return False
        self._last = remote
        return True

    def wanted_bound(self, wall_ms: int) -> Hlc | None:
        """A new bound to persist, 4 s ahead, when less than 2 s are left below the present one; else None.

        Ahead of wall time and of what others' stamps may advance to: ahead of the last stamp it need only have room to count.
        Asked again before `set_bound` it answers again: keep one write of the bound in flight.
        """
        self._check_wall(wall_ms)
        # (Stamps follow the wall, and others' stamps up to the permitted skew. Nothing but a restart goes beyond these.)
        reached = max(stamp_at(wall_ms), min(self._last, stamp_at(wall_ms + self._max_skew_ms)))
        may_follow = self._bound - reached >= stamp_at(BOUND_LEFT_MS_MIN)
        if may_follow and self._bound - self._last >= stamp_at(BOUND_RESERVE_MS):
            return None
        return max(reached + stamp_at(BOUND_AHEAD_MS), self._last + stamp_at(BOUND_COUNTING_MS))

    def seal(self) -> Hlc:
        """Ends this life's stamps; the bound that the next one may start from when it is written as the last word of this.

        A stamp after that breaks an invariant: it could be given out again.
        """
        self._bound = self._last + 1
        return self._bound

    def set_bound(self, bound: Hlc) -> None:
        """`bound` is durable. A bound never goes back: that would permit stamps twice after a restart."""
        invariant(bound >= self._bound, f"the clock's bound went back from {self._bound} to {bound}")
        self._bound = bound

    def restore(self, bound: Hlc) -> None:
        """After a restart: every stamp will be at or above the durable `bound` of the life before."""
        self.set_bound(bound)
        # Stamps of the life before are below the bound, so the first one now may be the bound itself.
        self._last = max(self._last, bound - 1)

    @staticmethod
    def _check_wall(wall_ms: int) -> None:
        # One second of room at the top, so that a bound always fits 64 bits too.
        invariant(0 <= wall_ms <= WALL_MS_MAX - 2 * BOUND_AHEAD_MS, f"wall time {wall_ms} ms does not fit 48 bits")
