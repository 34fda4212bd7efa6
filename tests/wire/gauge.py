"""A well-behaved kvwire client in a process of its own that says how its calls fare: `python -m tests.wire.gauge TARGET`.

Answers each line of its input, a number of seconds, with a line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

import grpc.aio
import uvloop

import kvwire
from tests.wire.pairs import path

CALLERS = 4
PAUSE_S = 0.001
"""Between two calls of a caller: what is measured is a server that others attack, not one that this client loads."""


async def measure(call: Any, seconds: float) -> dict[str, Any]:
    """Latencies in milliseconds of calls that began within so many seconds."""
    until, took, errors = time.perf_counter() + seconds, [], []

    async def caller() -> None:
        while (began := time.perf_counter()) < until:
            try:
                assert await call(b"sixteen bytes of", timeout=10.0) == b"sixteen bytes of"
            except grpc.aio.AioRpcError as error:
                errors.append(f"{error.code().name}: {error.details()}")
            took.append(1e3 * (time.perf_counter() - began))
            await asyncio.sleep(PAUSE_S)

    await asyncio.gather(*(caller() for _ in range(CALLERS)))
    took.sort()
    return {
        "count": len(took),
        "p50": took[len(took) // 2],
        "p99": took[len(took) * 99 // 100],
        "max": took[-1],
        "errors": errors[:5],
    }


async def main(target: str) -> None:
    """Measures whenever it is told to."""
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    async with kvwire.insecure_channel(target) as channel:
        call = channel.unary_unary(path("Echo"))
        await measure(call, 0.1)
        print("ready", flush=True)
        while line := await commands.readline():
            print(json.dumps(await measure(call, float(line))), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
