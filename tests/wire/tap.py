"""A relay between a client and a server that counts the bytes of each direction, and holds them up on request."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from tests.wire.pairs import HOST, Served

CHUNK = 65536


class Tap:
    """What went by. `target` is where clients connect."""

    def __init__(self) -> None:
        self.target = ""
        self.to_server = self.to_client = 0
        self.connections = 0
        self._tasks: set[asyncio.Task[None]] = set()
        self._flows = asyncio.Event()
        self._flows.set()

    def hold(self) -> None:
        """Nothing more passes to the client, whose server's socket fills."""
        self._flows.clear()

    def release(self) -> None:
        """All passes again."""
        self._flows.set()

    async def relay(self, port: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection, until either side closes it."""
        self.connections += 1
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            beyond, outlet = await asyncio.open_connection(HOST, port)
            there, back = asyncio.ensure_future(self._there(reader, outlet)), asyncio.ensure_future(self._back(beyond, writer))
            try:
                await asyncio.wait([there, back], return_when=asyncio.FIRST_COMPLETED)
            finally:
                there.cancel()
                back.cancel()
                outlet.close()
                writer.close()
        self._tasks.discard(task)

    async def _there(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            self.to_server += len(data)
            writer.write(data)
            await writer.drain()

    async def _back(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(CHUNK):
            self.to_client += len(data)
            await self._flows.wait()
            writer.write(data)
            await writer.drain()

    async def close(self) -> None:
        """Cuts every connection."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextlib.asynccontextmanager
async def tapped(served: Served) -> AsyncIterator[Tap]:
    """A tap in front of a server, for the time of a block."""
    tap = Tap()
    listening = await asyncio.start_server(lambda *streams: tap.relay(served.port, *streams), HOST, 0)
    tap.target = f"{HOST}:{listening.sockets[0].getsockname()[1]}"
    try:
        yield tap
    finally:
        listening.close()
        await tap.close()
