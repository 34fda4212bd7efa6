"""What a connection has to write: gathered in one turn of the event loop, taken at once."""

from __future__ import annotations

from collections.abc import Callable

from kvwire import frames, limits

VIEWED_BYTES_MIN = 4 * limits.KIB
"""A part below this is copied: that is cheaper than a part of its own."""


def _nothing() -> None:
    return None


class Output:
    """The outward half of a connection, beneath its streams."""

    def __init__(self) -> None:
        self.wants_output: Callable[[], None] = _nothing
        """Called when there is something to take, after nothing was."""
        self.must_write: Callable[[], None] = _nothing
        """Called when so much is to be taken that it should not become more."""
        self.is_writable = True
        """Whether DATA may be put: the socket takes it."""
        self.has_sent = False
        """Whether headers or data were put since somebody (the server's role) looked."""
        self.frame_size_max = limits.FRAME_SIZE_BYTES_MAX
        """Payload of a frame that the peer accepts."""
        self._out: list[bytes | memoryview] = []
        self._out_size = 0
        self._has_views = False
        self._table_is_announced = False

    def put(self, data: bytes) -> None:
        """Appends to what is to be written."""
        out = self._out
        out.append(data)
        self._out_size += len(data)
        if len(out) == 1:
            self.wants_output()
        elif self._out_size > limits.OUTPUT_BATCH_BYTES_MAX:
            self.must_write()

    def put_data(self, head: bytes, payload: memoryview) -> None:
        """Appends a frame whose payload lies elsewhere, and is not copied if it is large."""
        if len(payload) < VIEWED_BYTES_MIN:
            self.put(head + payload)
            return
        self._has_views = True
        self._out_size += len(payload)
        is_first = not self._out
        self._out += (head, payload)
        self._out_size += len(head)
        if is_first:
            self.wants_output()
        if self._out_size > limits.OUTPUT_BATCH_BYTES_MAX:
            self.must_write()

    def take(self) -> bytes:
        """All that is to be written now."""
        return b"".join(self.take_parts())

    def take_parts(self) -> list[bytes | memoryview]:
        """The same, in parts where that spares copies."""
        out, has_views = self._out, self._has_views
        self._out, self._out_size, self._has_views = [], 0, False
        return out if has_views or len(out) < 2 else [b"".join(out)]

    @property
    def output_size(self) -> int:
        """Bytes to take."""
        return self._out_size

    def header_frames(self, stream_id: int, block: bytes, flags: int) -> bytes:
        """The frames of a header block that is put next; the connection's first one says that the dynamic table has no size
        (RFC 7541 §4.2)."""
        if not self._table_is_announced:
            self._table_is_announced, block = True, b"\x20" + block
        self.has_sent = True
        return frames.headers(stream_id, block, flags, self.frame_size_max)

    @property
    def is_plain(self) -> bool:
        """Whether header blocks may be put as they are."""
        return self._table_is_announced
