"""What connections hold for their peers, summed, and who goes when it is too much."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Holder(Protocol):
    """A connection, as far as its memory is concerned."""

    held: int

    def give_up(self, why: str) -> None:
        """Close, and hold nothing any more."""
        ...


class Memory:
    """The sum over all connections of one server. Invariant: `held` <= `limit` after each `add`, as long as there is somebody
    to close: the connection that holds most goes first, so that who fills the memory pays for it."""

    __slots__ = ("_holders", "held", "limit")

    def __init__(self, limit: int, holders: Iterable[Holder]) -> None:
        """`holders`: looked at only when the limit is passed."""
        self.limit, self._holders, self.held = limit, holders, 0

    def add(self, size: int) -> None:
        """Somebody holds so many bytes more, or (negative) less."""
        self.held += size
        if self.held > self.limit and size > 0:
            self.make_room()

    def make_room(self) -> None:
        """Closes the connection that holds most, if that is too much."""
        if self.held > self.limit:
            heaviest = max(self._holders, key=lambda holder: holder.held, default=None)
            if heaviest is not None and heaviest.held > 0:
                heaviest.give_up(f"this server buffers {self.held} bytes, {heaviest.held} of them for this connection")
