"""A kvwire server in a process of its own, so that its memory and its CPU can be read: `python -m tests.wire.victim`.

Prints its port, then answers each line of its input with a line of JSON: "stats" says what it holds.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import resource
import sys
import time
from collections.abc import AsyncIterator

import uvloop

import kvwire
from kvwire import limits
from tests.wire.pairs import HOST, SERVICE, Context, service, stream_stream, stream_unary, unary_stream, unary_unary

MIB = 1024 * 1024
TICK_S = 0.002


class Methods:
    """One method for each way in which an attacker may make a server wait."""

    def __init__(self) -> None:
        self.never = asyncio.Event()
        self.bodies: dict[bytes, bytes] = {}

    async def echo(self, request: bytes, context: Context) -> bytes:
        """What well-behaved callers use."""
        return request

    async def big(self, request: bytes, context: Context) -> bytes:
        """As many bytes as asked for."""
        body = self.bodies.get(request)
        if body is None:
            body = self.bodies[request] = bytes(int(request))
        return body

    async def wait(self, request: bytes, context: Context) -> bytes:
        """Never answers."""
        await self.never.wait()
        return b""

    async def deaf(self, requests: object, context: Context) -> AsyncIterator[bytes]:
        """Never reads."""
        yield b"here"
        await self.never.wait()

    async def count(self, requests: AsyncIterator[bytes], context: Context) -> bytes:
        """Reads everything."""
        return b"%d" % sum([1 async for _ in requests])

    async def endless(self, request: bytes, context: Context) -> AsyncIterator[bytes]:
        """Never ends; messages of as many bytes as asked for."""
        part = bytes(int(request))
        while True:
            yield part


class Turns:
    """What a turn of the event loop costs, in CPU time: how long whoever comes next must wait, on whatever machine."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._before = time.thread_time()
        self.costs: list[float] = []
        self._tick()

    def _tick(self) -> None:
        now = time.thread_time()
        self.costs.append(1e3 * (now - self._before))
        self._before = now
        self._loop.call_later(TICK_S, self._tick)

    def take(self) -> dict[str, float]:
        """Milliseconds of CPU between two ticks, since the last question."""
        costs, self.costs = sorted(self.costs) or [0.0], []
        return {"p99": costs[len(costs) * 99 // 100], "max": costs[-1]}


async def main() -> None:
    """Serves until its input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--memory-mib", type=int, help="what the server may buffer, instead of limits.BUFFERED_BYTES_MAX")
    parser.add_argument("--work", type=int)
    options = parser.parse_args()
    if options.work: limits.WORK_PER_TURN_MAX = options.work
    logging.basicConfig(level=logging.ERROR)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    methods = Methods()
    handlers = {
        "Echo": unary_unary(methods.echo),
        "Big": unary_unary(methods.big),
        "Wait": unary_unary(methods.wait),
        "Deaf": stream_stream(methods.deaf),
        "Count": stream_unary(methods.count),
        "Endless": unary_stream(methods.endless),
    }
    server = kvwire.server()
    server.add_generic_rpc_handlers((service(**handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
    if options.memory_mib is not None:
        server._memory.limit = options.memory_mib * MIB
    port = server.add_insecure_port(f"{HOST}:0")
    await server.start()
    print(port, flush=True)
    turns = Turns()
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while await commands.readline():
        stats = {
            "held": server._memory.held,
            "in_flight": server.in_flight,
            "connections": len(server._links),
            "unwinding": len(server._unwinding),
            "turns": turns.take(),
        }
        print(json.dumps(stats), flush=True)
    await server.stop(None)


if __name__ == "__main__":
    uvloop.run(main())
