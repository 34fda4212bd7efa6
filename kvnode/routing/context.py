"""What a request carries besides its fields."""

from __future__ import annotations

from dataclasses import dataclass

from kvnode.types import Seconds

HOPS_MAX = 2
"""A request is forwarded at most so often: once to a replica, once more from there to the leader."""


@dataclass(frozen=True, slots=True)
class RequestContext:
    """When the caller stops waiting, and how often the request was forwarded."""

    deadline: Seconds
    """In the event loop's time."""
    hops: int = 0

    @property
    def may_forward(self) -> bool:
        """Whether another hop is allowed."""
        return self.hops < HOPS_MAX
