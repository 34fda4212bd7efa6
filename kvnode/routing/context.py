"""What a request carries besides its fields."""

from __future__ import annotations

from dataclasses import dataclass

from kvnode.observe.stages import UNTIMED, Timeline
from kvnode.types import Seconds

HOPS_MAX = 2
"""A request is forwarded at most so often: once to a replica, once more from there to the leader."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """When the caller stops waiting, how often the request was forwarded, and its stages."""

    deadline: Seconds
    """In the event loop's time."""
    hops: int = 0
    timeline: Timeline = UNTIMED
    """Where its time goes."""

    def untimed(self) -> RequestContext:
        """The same for a part of the request that runs beside others: its stages are not the request's."""
        return RequestContext(self.deadline, self.hops)

    @property
    def may_forward(self) -> bool:
        """Whether another hop is allowed."""
        return self.hops < HOPS_MAX
