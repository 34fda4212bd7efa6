"""Records the corpus of conversations anew: `python -m tests.fuzz.record_wire`.

A relay stands between client and server and writes down what passes by. Clients: grpcio, kvwire, and of the programs grpcurl,
curl and h2load those that are installed; servers: grpcio and kvwire.
"""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import grpc
from grpc_reflection.v1alpha import reflection

from tests.fuzz.wire_bench import NAMES, Methods
from tests.fuzz.wire_corpus import CORPUS, TO_CLIENT, TO_SERVER, save
from tests.wire.pairs import HOST, WIRES, Wire, path, service

SIZE_BYTES_MAX = 60_000
"""Of a recorded conversation: what is larger is no use to a fuzzer."""


class Relay:
    """Listens, passes on, and remembers."""

    def __init__(self, port: int) -> None:
        self._target = port
        self.conversation: list[tuple[bytes, bytes]] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Two directions at once, until both have ended."""
        if self.conversation:
            writer.close()  # One connection is a conversation.
            return
        there_reader, there_writer = await asyncio.open_connection(HOST, self._target)
        await asyncio.gather(
            self._pass(TO_SERVER, reader, there_writer), self._pass(TO_CLIENT, there_reader, writer), return_exceptions=True
        )

    async def _pass(self, direction: bytes, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65_536):
                self.conversation.append((direction, data))
                writer.write(data)
                await writer.drain()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def recorded(wire: Wire, name: str) -> AsyncIterator[str]:
    """The address of a relay before a server; what passes by becomes a file of the corpus."""
    methods = Methods()
    server = wire.server()
    server.add_generic_rpc_handlers(
        (service(**{method: kind(getattr(methods, method.lower())) for method, kind in NAMES.items()}),)
    )
    reflection.enable_server_reflection((reflection.SERVICE_NAME,), server)
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    relay = Relay(port)
    listening = await asyncio.start_server(relay.on_connection, HOST, 0)
    try:
        yield f"{HOST}:{listening.sockets[0].getsockname()[1]}"
        await asyncio.sleep(0.1)  # The last acknowledgements pass by.
    finally:
        listening.close()
        await server.stop(None)
    size = sum(len(data) for _, data in relay.conversation)
    if 0 < size <= SIZE_BYTES_MAX:
        save(CORPUS / f"{name}.bin", relay.conversation)
    print(f"{name}: {size} bytes{'' if size <= SIZE_BYTES_MAX else ', too large to keep'}")


async def unary(channel: Any) -> None:
    """One after the other, and some at once."""
    call = channel.unary_unary(path("Echo"))
    for size in (0, 5, 300):
        await call(bytes(size), timeout=5, metadata=(("key", "value"), ("key-bin", b"\x00\x01")))
    await asyncio.gather(*(call(b"at once") for _ in range(6)))


async def failing(channel: Any) -> None:
    """Statuses of all sorts."""
    for method, extra in (("Fail", {}), ("Nothing", {}), ("Wait", {"timeout": 0.05})):
        with contextlib.suppress(grpc.aio.AioRpcError):
            await channel.unary_unary(path(method))(b"x", **extra)


async def streaming(channel: Any) -> None:
    """Streams in both directions."""

    async def requests() -> AsyncIterator[bytes]:
        for number in range(5):
            yield bytes([number]) * number * 20

    await channel.stream_unary(path("Count"))(requests())
    assert [message async for message in channel.stream_stream(path("Chat"))(requests())]


async def large(channel: Any) -> None:
    """More than a frame, and a window that is not reached."""
    await channel.unary_unary(path("Echo"))(bytes(range(256)) * 80)


async def compressed(channel: Any) -> None:
    """gzip and deflate."""
    for kind in (grpc.Compression.Gzip, grpc.Compression.Deflate):
        await channel.unary_unary(path("Echo"))(b"a" * 500, compression=kind)


async def cancelled(channel: Any) -> None:
    """A call that is given up, and one behind it."""
    call = channel.unary_unary(path("Wait"))(b"x")
    await asyncio.sleep(0.05)
    call.cancel()
    stream = channel.stream_stream(path("Deaf"))()
    await stream.write(b"x" * 100)
    await stream.read()
    stream.cancel()
    await channel.unary_unary(path("Echo"))(b"behind")


async def program(command: str, *arguments: str) -> None:
    """Runs a client of somebody else."""
    found = shutil.which(command) or shutil.which(command, path=str(Path(sys.executable).parent))
    if found is None:
        print(f"{command} is not installed")
        return
    process = await asyncio.create_subprocess_exec(
        found, *arguments, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.DEVNULL
    )
    await process.wait()


async def main() -> None:
    """All of them."""
    CORPUS.mkdir(parents=True, exist_ok=True)
    plays: list[Callable[[Any], Awaitable[None]]] = [unary, failing, streaming, large, compressed, cancelled]
    for server in WIRES:
        for client in WIRES:
            for play in plays:
                name = f"{client.name}-to-{server.name}-{play.__name__}"
                async with recorded(server, name) as target, client.insecure_channel(target) as channel:
                    await play(channel)
        async with recorded(server, f"grpcurl-to-{server.name}") as target:
            await program("grpcurl", "-plaintext", target, "list")
        with tempfile.NamedTemporaryFile() as body:
            body.write(b"\x00\x00\x00\x00\x05hello")
            body.flush()
            headers = ("-H", "content-type: application/grpc", "-H", "te: trailers")
            async with recorded(server, f"curl-to-{server.name}") as target:
                url = f"http://{target}{path('Echo')}"
                await program("curl", "-s", "--http2-prior-knowledge", "--data-binary", f"@{body.name}", *headers, url)
            async with recorded(server, f"h2load-to-{server.name}") as target:
                url = f"http://{target}{path('Echo')}"
                await program("h2load", "-n", "10", "-c", "1", "-m", "5", "-d", body.name, *headers, url)


if __name__ == "__main__":
    asyncio.run(main())
