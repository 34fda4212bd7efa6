"""The processes that the transports' benchmark measures: a server of one transport, or a client of one.

    python benchmarks/wire_peer.py serve '{"transport": "grpcio", "tls": "DIRECTORY"}'
    python benchmarks/wire_peer.py call '{"transport": "kvwire", "target": "127.0.0.1:1", "phases": [{"method": "Get", ...}]}'

A transport is `grpcio`, or the name of a module with kvwire's interface. Both sides run on uvloop. Messages are bytes without
a serializer, so that what is measured is the transport. A process says what it found as lines of JSON; a server ends when its
standard input does.

Methods of bench.Wire: Get answers 64 bytes; Commit too, with the next group commit, which takes 1 ms; Echo answers what it was
sent; Watch streams WATCH_MESSAGES messages, one at each tick that all watchers share.
"""

from __future__ import annotations

import asyncio
import gc
import importlib
import json
import secrets
import statistics
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc
import grpc.aio
import uvloop

SERVICE = "bench.Wire"
ANSWER = b"v" * 64
COMMIT_S = 0.001
TICK_S = 0.1
WATCHERS = 500
WATCH_MESSAGES = 20
# grpcio's server turns calls away at random when more than a thousand wait for a handler, as they do at 1,024 in flight.
OPTIONS = (
    ("grpc.max_receive_message_length", 8 << 20),
    ("grpc.max_send_message_length", 8 << 20),
    ("grpc.server.max_pending_requests", 1 << 16),
    ("grpc.server.max_pending_requests_hard_limit", 1 << 16),
)


def transport(name: str) -> Any:
    """What makes servers, channels and credentials."""
    if name != "grpcio":
        return importlib.import_module(name)
    return SimpleNamespace(
        server=grpc.aio.server,
        insecure_channel=grpc.aio.insecure_channel,
        secure_channel=grpc.aio.secure_channel,
        ssl_server_credentials=grpc.ssl_server_credentials,
        ssl_channel_credentials=grpc.ssl_channel_credentials,
    )


def say(**found: Any) -> None:
    """One line for the parent."""
    print(json.dumps(found), flush=True)


class Wire:
    """The service."""

    def __init__(self) -> None:
        self._committing: list[asyncio.Future[None]] = []
        self._watching: list[asyncio.Future[None]] = []
        self._watchers = 0
        self._ticker: asyncio.Task[None] | None = None

    async def get(self, request: bytes, context: Any) -> bytes:
        """Answer at once."""
        return ANSWER

    async def echo(self, request: bytes, context: Any) -> bytes:
        """Answer what was asked."""
        return request

    async def commit(self, request: bytes, context: Any) -> bytes:
        """Answer with the group that is gathered for 1 ms."""
        loop = asyncio.get_running_loop()
        committed = loop.create_future()
        self._committing.append(committed)
        if len(self._committing) == 1:
            loop.call_later(COMMIT_S, self._release)
        await committed
        return ANSWER

    def _release(self) -> None:
        group, self._committing = self._committing, []
        for waiting in group:
            if not waiting.done():
                waiting.set_result(None)

    async def watch(self, request: bytes, context: Any) -> AsyncIterator[bytes]:
        """A message at each tick; the ticks begin when all watchers are there."""
        loop = asyncio.get_running_loop()
        self._watchers += 1
        if self._watchers == WATCHERS:
            self._ticker = loop.create_task(self._tick())
        try:
            for _ in range(WATCH_MESSAGES):
                tick = loop.create_future()
                self._watching.append(tick)
                await tick
                yield ANSWER
        finally:
            self._watchers -= 1
            if not self._watchers and self._ticker is not None:
                self._ticker.cancel()

    async def _tick(self) -> None:
        """Release all watchers again and again; say what the messages between the first and the last tick cost."""
        await asyncio.sleep(TICK_S)
        began, messages, ticks = time.process_time(), 0, 0
        while True:  # Who is late for a tick needs one more.
            ticks += 1
            if ticks == WATCH_MESSAGES:
                say(watch_cpu_us=(time.process_time() - began) * 1e6 / messages)
            waiting, self._watching = self._watching, []
            messages += len(waiting)
            for tick in waiting:
                if not tick.done():
                    tick.set_result(None)
            await asyncio.sleep(TICK_S)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Registers the methods, as generated code does."""
        handlers = {
            "Get": grpc.unary_unary_rpc_method_handler(self.get),
            "Echo": grpc.unary_unary_rpc_method_handler(self.echo),
            "Commit": grpc.unary_unary_rpc_method_handler(self.commit),
            "Watch": grpc.unary_stream_rpc_method_handler(self.watch),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
        server.add_registered_method_handlers(SERVICE, handlers)


async def serve(transport_name: str, pairs: list[tuple[bytes, ...]]) -> None:
    """Until standard input ends; with private keys and their certificates, on a port with TLS, too."""
    made = transport(transport_name)
    server = made.server(options=OPTIONS)
    Wire().add_to(server)
    ports = {"port": server.add_insecure_port("127.0.0.1:0")}
    if pairs:
        ports["tls_port"] = server.add_secure_port("127.0.0.1:0", made.ssl_server_credentials(pairs))
    await server.start()
    gc.collect()
    gc.freeze()
    say(**ports)
    await asyncio.get_running_loop().run_in_executor(None, sys.stdin.read)
    await server.stop(None)


async def call(transport_name: str, target: str, phases: list[dict[str, Any]], ca: bytes | None) -> None:
    """Carry out one phase after the other over one channel; with the certificate of an authority, over TLS."""
    made = transport(transport_name)
    if ca:
        credentials = made.ssl_channel_credentials(root_certificates=ca)
        channel = made.secure_channel(target, credentials, options=OPTIONS)
    else:
        channel = made.insecure_channel(target, options=OPTIONS)
    async with channel:
        for phase in phases:
            say(**await _phase(channel, **phase))


async def _phase(
    channel: Any,
    method: str,
    at_once: int = 1,
    seconds: float | None = None,
    calls: int | None = None,
    size: int = 20,
    warm_up_s: float = 0.0,
    fresh: bool = False,
) -> dict[str, float]:
    """Calls in a closed loop of callers, for a time or a number of calls; `fresh`: each has a traceparent of its own."""
    stub = channel.unary_unary(f"/{SERVICE}/{method}")
    body = b"k" * size
    left = calls if calls is not None else sys.maxsize
    took: list[float] = []
    done = total = 0

    async def caller(until: float) -> None:
        nonlocal left, done, total
        while left > 0 and (sent := time.monotonic()) < until:
            left -= 1
            metadata = (("traceparent", f"00-{secrets.token_hex(16)}-{secrets.token_hex(8)}-01"),) if fresh else None
            await stub(body, metadata=metadata)
            done += 1
            total += 1
            if calls is None:
                took.append(time.monotonic() - sent)

    async def run(for_s: float) -> None:
        until = time.monotonic() + for_s
        await asyncio.gather(*(caller(until) for _ in range(at_once)))

    await stub(body)
    if warm_up_s:
        await run(warm_up_s)
    took.clear()
    done = 0
    gc.collect()
    began, cpu = time.monotonic(), time.process_time()
    await run(seconds if seconds is not None else 3600.0)
    elapsed, cpu = time.monotonic() - began, time.process_time() - cpu
    gc.collect()
    return {
        "calls": done,
        "total": total + 1,
        "per_second": done / elapsed,
        "cpu_us": cpu * 1e6 / done,
        "p50_us": statistics.median(took) * 1e6 if took else 0.0,
        "mb_per_second": done * size / elapsed / 1e6,
        "resident_mib": resident_mib("self"),
    }


def resident_mib(pid: int | str) -> float:
    """Memory of a process, from /proc."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1024


def main() -> None:
    """As the first argument says, with the second's settings."""
    role, settings = sys.argv[1], json.loads(sys.argv[2])
    if role == "serve":
        files = [Path(settings["tls"], name) for name in ("key.pem", "cert.pem")] if settings.get("tls") else []
        uvloop.run(serve(settings["transport"], [tuple(file.read_bytes() for file in files)] if files else []))
    else:
        ca = Path(settings["ca"]).read_bytes() if settings.get("ca") else None
        uvloop.run(call(settings["transport"], settings["target"], settings["phases"], ca))


if __name__ == "__main__":
    main()
