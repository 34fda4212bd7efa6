"""Bytes of a stream that are no whole message yet, in the pieces in which they came: a large message is copied once."""

from __future__ import annotations

SMALL_BYTES = 1_024
"""Pieces below this are gathered, so that a message in tiny frames costs no object for each of them."""


class Pieces:
    """What came so far, in order."""

    __slots__ = ("_pieces", "size")

    def __init__(self, first: bytes) -> None:
        self._pieces: list[bytes | bytearray] = [first]
        self.size = len(first)

    def add(self, payload: bytes) -> None:
        """More bytes."""
        self.size += len(payload)
        last = self._pieces[-1]
        if len(payload) >= SMALL_BYTES:
            self._pieces.append(payload)
        elif isinstance(last, bytearray):
            last += payload
        else:
            self._pieces.append(bytearray(payload))

    def prefix(self, size: int) -> bytes | None:
        """The first `size` bytes; None while there are fewer."""
        if self.size < size:
            return None
        if len(self._pieces[0]) < size:
            self._pieces = [b"".join(self._pieces)]
        return bytes(self._pieces[0][:size])

    def take(self, start: int, end: int) -> bytes:
        """The bytes from `start` (in the first piece) to `end`; those up to `end` are forgotten."""
        if end == self.size:
            first = memoryview(self._pieces[0])[start:]
            taken = b"".join([first, *self._pieces[1:]])
            self._pieces = [b""]
        else:
            whole = b"".join(self._pieces)
            taken = whole[start:end]
            self._pieces = [whole[end:]]
        self.size -= end
        return taken
