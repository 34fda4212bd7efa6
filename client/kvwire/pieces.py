"""Bytes of a stream that are no whole message yet, in the pieces in which they came: a large message is copied once."""

from __future__ import annotations

SMALL_BYTES = 1_024
"""Pieces below this are gathered, so that a message in tiny frames costs no object for each of them."""

KEPT_BYTES_MAX = 32 * 1024
"""Bytes of messages that were taken which may stay in memory, for the sake of what stands behind them."""


class Pieces:
    """What came so far, in order."""

    __slots__ = ("_pieces", "_start", "size")

    def __init__(self, first: bytes) -> None:
        self._pieces: list[bytes | bytearray] = [first]
        self._start = 0  # Of what is not taken yet, in the first piece.
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
        if len(self._pieces[0]) - self._start < size:
            self._join()
        return bytes(self._pieces[0][self._start : self._start + size])

    def take(self, start: int, end: int) -> bytes:
        """The bytes from `start`, which are within what `prefix` gave, to `end`; all up to `end` are forgotten."""
        start, stop = self._start + start, self._start + end
        if end == self.size:
            first = memoryview(self._pieces[0])[start:]
            taken = b"".join([first, *self._pieces[1:]])
            self._pieces, self._start = [b""], 0
        else:
            if len(self._pieces[0]) < stop:
                start, stop = start - self._start, stop - self._start
                self._join()
            taken = bytes(self._pieces[0][start:stop])
            self._start = stop
            if stop >= KEPT_BYTES_MAX:
                self._pieces[0], self._start = self._pieces[0][stop:], 0
        self.size -= end
        return taken

    def _join(self) -> None:
        first = memoryview(self._pieces[0])[self._start :]
        self._pieces, self._start = [b"".join([first, *self._pieces[1:]])], 0
