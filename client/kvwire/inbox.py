"""Messages of a stream that wait to be read, in order. One reader; the stream's window shuts while nobody reads."""

from __future__ import annotations

import asyncio
from collections import deque

from kvwire import limits
from kvwire.stream import PREFIX_SIZE, Stream


class Inbox:
    """Holds a stream's messages until they are read."""

    __slots__ = ("_ended", "_messages", "_read_in_turn", "_stream", "_waiter")

    def __init__(self, stream: Stream) -> None:
        self._stream = stream
        self._messages: deque[tuple[int, bytes]] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._read_in_turn = 0

    def put(self, compressed: int, message: bytes) -> None:
        """A message came; it is kept as it is, so that what nobody reads stays as small as it came."""
        size = len(message)
        self._messages.append((compressed, message))
        self._stream.unread += size + PREFIX_SIZE
        self._stream.hold(size + limits.MESSAGE_OVERHEAD_BYTES)
        self._wake()

    def end(self) -> None:
        """No more will come."""
        self._ended = True
        self._wake()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits to be read."""
        return not self._messages

    async def get(self) -> tuple[int, bytes] | None:
        """The next message, and whether it is compressed; None at the end. Raises RuntimeError when somebody else reads."""
        while not self._messages:
            if self._ended:
                return None
            if self._waiter is not None:
                raise RuntimeError("another task is reading this stream")
            self._waiter = asyncio.get_running_loop().create_future()
            self._read_in_turn = 0
            try:
                await self._waiter
            finally:
                self._waiter = None
        self._read_in_turn += 1
        if self._read_in_turn > limits.WORK_PER_TURN_MAX:
            self._read_in_turn = 0
            await asyncio.sleep(0)
            if not self._messages:
                return await self.get()  # Forgotten meanwhile.
        received = self._messages.popleft()
        size = len(received[1])
        self._stream.unread -= size + PREFIX_SIZE
        self._stream.hold(-size - limits.MESSAGE_OVERHEAD_BYTES)
        self._stream.replenish()
        return received

    def clear(self) -> None:
        """Forgets what was not read."""
        self._messages.clear()
        self.end()
