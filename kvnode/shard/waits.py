"""Local requests that wait for something to happen to a shard, other than their own proposal.

Owns nothing but who waits for what; a token that nobody waits for any more is forgotten, so that none pile up.
"""

from __future__ import annotations

from kvnode.errors import KvnodeError
from kvnode.protocol.ready import Reply
from kvnode.types import Index, NodeName, Term

LeaderView = tuple[NodeName, Term, bool]
"""The leader known, its term, and whether it is handing over."""


class Waits:
    """Tokens by what they wait for."""

    def __init__(self, applied: Index) -> None:
        self._for_applied: dict[object, Index] = {}
        self._for_change: dict[object, None] = {}
        self._for_end: dict[object, None] = {}
        self._for_leader: dict[object, None] = {}
        self._applied_told, self._releases_told = applied, 0
        self._leader_told: LeaderView = ("", 0, False)

    def for_applied(self, index: Index, token: object) -> None:
        """Replied with the index once it is applied."""
        self._for_applied[token] = index

    def for_change(self, token: object) -> None:
        """Replied with None once an entry is applied, or an eventual write is durably held."""
        self._for_change[token] = None

    def for_end(self, token: object) -> None:
        """Replied with None once a transaction has given locks of the shard back."""
        self._for_end[token] = None

    def for_leader(self, token: object) -> None:
        """Replied with None when the leader changes, or a handing-over begins or ends."""
        self._for_leader[token] = None

    def forget(self, token: object) -> None:
        """Nobody waits for the token any more."""
        self._for_applied.pop(token, None)
        self._for_change.pop(token, None)
        self._for_end.pop(token, None)
        self._for_leader.pop(token, None)

    def released_by_state(self, applied: Index, holds_more: bool, releases: int = 0) -> list[Reply]:
        """Who need not wait any more, now that so much is applied, locks were given back so often and, maybe, more is held."""
        released: list[Reply] = []
        if self._for_change and (holds_more or applied > self._applied_told):
            released.extend(Reply(token, None) for token in self._for_change)
            self._for_change.clear()
        self._applied_told = applied
        if self._for_end and releases != self._releases_told:
            released.extend(Reply(token, None) for token in self._for_end)
            self._for_end.clear()
        self._releases_told = releases
        if self._for_applied:
            for token, index in [wait for wait in self._for_applied.items() if wait[1] <= applied]:
                del self._for_applied[token]
                released.append(Reply(token, index))
        return released

    def released_by_leader(self, view: LeaderView) -> list[Reply]:
        """Who need not wait any more, if this is another leader than before."""
        if view == self._leader_told:
            return []
        self._leader_told = view
        released = [Reply(token, None) for token in self._for_leader]
        self._for_leader.clear()
        return released

    def released_by_stop(self, why: KvnodeError) -> list[Reply]:
        """Everybody: nothing more will happen here. Whoever waits anew would wait in vain."""
        waiting = (self._for_applied, self._for_change, self._for_end, self._for_leader)
        released = [Reply(token, why) for tokens in waiting for token in tokens]
        for tokens in waiting:
            tokens.clear()
        return released
