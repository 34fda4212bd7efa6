"""A service of a notice board: what is published goes to all who watch. In a test's own process, or in one of its own."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import grpc

from tests.wire.pairs import HOST, WIRES, Context, Wire, service, soon, unary_stream, unary_unary

ROOT = Path(__file__).parents[2]
PAGE_KIB = 4
OPTIONS = [("grpc.http2.min_ping_interval_without_data_ms", 10), ("grpc.keepalive_permit_without_calls", 1)]
"""Of a server in a process of its own: it lets itself be asked often whether it lives."""


class Board:
    """The handlers."""

    def __init__(self) -> None:
        self.watching = 0
        self._notices: list[bytes] = []
        self._news = asyncio.Event()

    def handler(self) -> grpc.GenericRpcHandler:
        """The service: Echo, Publish, Watch (a first message says that it watches, b"END" is the last one), Watching."""
        return service(
            Echo=unary_unary(self.echo),
            Publish=unary_unary(self.publish),
            Watch=unary_stream(self.watch),
            Watching=unary_unary(self.count),
        )

    async def echo(self, request: bytes, context: Context) -> bytes:
        return request

    async def publish(self, request: bytes, context: Context) -> bytes:
        self._notices.append(request)
        self._news.set()
        self._news = asyncio.Event()
        return b""

    async def watch(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        self.watching += 1
        try:
            place = len(self._notices)
            yield b""
            while True:
                while place < len(self._notices):
                    notice = self._notices[place]
                    place += 1
                    yield notice
                    if notice == b"END":
                        return
                await self._news.wait()
        finally:
            self.watching -= 1

    async def count(self, request: bytes, context: Context) -> bytes:
        return b"%d" % self.watching


class Process:
    """A server in a process of its own, which can be frozen."""

    def __init__(self, process: asyncio.subprocess.Process, port: int) -> None:
        self._process, self.port = process, port

    @property
    def target(self) -> str:
        """Where it listens."""
        return f"{HOST}:{self.port}"

    @property
    def rss_kib(self) -> int:
        """Its memory."""
        return rss_kib(self._process.pid)

    def freeze(self) -> None:
        """It does nothing any more; the kernel still takes connections and bytes for it."""
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """It goes on."""
        self._process.send_signal(signal.SIGCONT)

    async def close(self) -> None:
        """End it, also when it is frozen."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()


@contextlib.asynccontextmanager
async def posted(wire: Wire) -> AsyncIterator[Process]:
    """A board in a process of its own."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__ if __name__ != "__main__" else "tests.wire.board",
        wire.name,
        cwd=ROOT,
        env={"PYTHONPATH": f"{ROOT}:{ROOT / 'client'}", "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    started: Process | None = None
    try:
        assert process.stdout is not None
        started = Process(process, int(await soon(process.stdout.readline(), 20)))
        yield started
    finally:
        await (started or Process(process, 0)).close()


def rss_kib(pid: int | str = "self") -> int:
    """A process's resident memory."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB


async def main(name: str) -> None:
    """Serve until nobody holds our standard input any more."""
    wire = next(wire for wire in WIRES if wire.name == name)
    server = wire.server(options=OPTIONS)
    server.add_generic_rpc_handlers([Board().handler()])
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    sys.stdout.write(f"{port}\n")
    sys.stdout.flush()
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
