"""A session's token: what the caller has written and seen, as the servers put it.

Owns the tokens of answers whose successor is not here yet. Tokens are opaque, but for one law that `kvapi.v1` sessions keep:
two tokens written one after the other are their union. A server merges the token of a request into the one it answers with,
so an answer's token replaces the one that was sent; only operations that overlap leave more than one.

Invariant: everything that any answer of this session covered is covered by the next request's token.
"""

from __future__ import annotations

from collections.abc import Iterable


class SessionToken:
    """The tokens to send with the next operation. Not locked: one thread or task at a time."""

    __slots__ = ("_parts",)

    def __init__(self, token: bytes = b"") -> None:
        self._parts: dict[bytes, None] = {token: None} if token else {}

    def current(self) -> bytes:
        """What to send: for operations one after the other, the latest token received, as it is."""
        return b"".join(self._parts)

    def parts(self) -> tuple[bytes, ...]:
        """The tokens that `current` joins: give them back to `on_answer`."""
        return tuple(self._parts)

    def on_answer(self, sent: tuple[bytes, ...], received: Iterable[bytes]) -> None:
        """An answer's tokens (one, or one a shard) cover those that its request carried. Empty ones say nothing."""
        arrived = [token for token in received if token]
        if not arrived:
            return
        for part in sent:
            self._parts.pop(part, None)
        for token in arrived:
            self._parts[token] = None
