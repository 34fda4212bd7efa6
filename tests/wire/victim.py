"""A kvwire server in a process of its own, so that its memory and its CPU can be read: `python -m tests.wire.victim`.

Prints its port, then answers each line of its input with a line of JSON that says what it holds.
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
from typing import Any

import uvloop

import kvwire
from kvwire import limits
from tests.wire.pairs import HOST, SERVICE, Context, service, stream_stream, stream_unary, unary_stream, unary_unary

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
        return {"p95": costs[len(costs) * 95 // 100], "max": costs[-1]}


def main() -> None:
    """Serves until its input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--limit", action="append", default=[], help="NAME=VALUE instead of what limits.py says")
    for name, _, value in (limit.partition("=") for limit in parser.parse_args().limit):
        assert hasattr(limits, name), name
        setattr(limits, name, type(getattr(limits, name))(value))
    logging.basicConfig(level=logging.CRITICAL)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))
    uvloop.run(serve())


async def serve() -> None:
    """The server, and the answers about it."""
    methods = Methods()
    handlers: dict[str, Any] = {
        "Echo": unary_unary(methods.echo),
        "Big": unary_unary(methods.big),
        "Wait": unary_unary(methods.wait),
        "Deaf": stream_stream(methods.deaf),
        "Count": stream_unary(methods.count),
        "Endless": unary_stream(methods.endless),
    }
    server = kvwire.server()
    # As generated code does.
    server.add_generic_rpc_handlers((service(**handlers),))
    server.add_registered_method_handlers(SERVICE, handlers)
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
            "tasks": sum("ServerCall" in str(task.get_coro()) for task in asyncio.all_tasks()),
            "turns": turns.take(),
        }
        print(json.dumps(stats), flush=True)
    await server.stop(None)


if __name__ == "__main__":
    main()
