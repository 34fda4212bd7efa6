"""Asks one address who is there: by name, by TCP, by gRPC; within a bound.

Owns the order of the steps, so that a failure names the step it happened at. Never changes anything, and retries nothing: a
doctor wants the first answer.
"""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Callable
from typing import NamedTuple

import grpc

from kvapi.v1 import cluster_pb2, cluster_pb2_grpc, observability_pb2
from kvclient.transport import insecure_channel
from kvnode.types import Seconds

ASK_MAX: Seconds = 2.0
TEXT_MAX = 64
"""Of what a stranger says of itself."""
WORDS_MAX = 200
"""Of an error."""
OPTIONS = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", 16 * 1024 * 1024),
    ("grpc.use_local_subchannel_pool", 1),
]


class Answer(NamedTuple):
    """What a kvnode says about itself."""

    cluster_id: str
    name: str
    version: str
    members: dict[str, str]
    """Name and "host:port", as its configuration has them."""
    shards: int
    uptime: Seconds
    round_trip: Seconds
    """Of a small call on an open connection."""
    clock_ahead: Seconds
    """Of its wall clock to ours, wrong by half a round trip at most."""


class Silence(NamedTuple):
    """Why there is no answer. `is_refused`: the host is there, and nothing listens; `is_other`: something else does."""

    reason: str
    is_refused: bool = False
    is_other: bool = False


async def ask(address: str, transport: str, wall: Callable[[], Seconds] = time.time) -> Answer | Silence:
    """Who is at "host:port"."""
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    step = f"the name {host} does not resolve"
    try:
        async with asyncio.timeout(ASK_MAX):
            await asyncio.get_running_loop().getaddrinfo(host, int(port), type=socket.SOCK_STREAM)
            step = "no connection"
            _, writer = await asyncio.open_connection(host, int(port))
            writer.close()
            step = "connected, but nothing of kvnode answers"
            return await _ask_node(address, transport, wall)
    except TimeoutError:
        return Silence(f"{step} within {ASK_MAX:.0f} s", is_other=step.startswith("connected"))
    except ConnectionRefusedError:
        return Silence("refuses connections: nothing listens there", is_refused=True)
    except grpc.RpcError as error:
        return Silence(f"{step} ({_in_words(error)})", is_other=True)
    except OSError as error:
        return Silence(f"{step}: {error.strerror or error}")


async def _ask_node(address: str, transport: str, wall: Callable[[], Seconds]) -> Answer:
    async with insecure_channel(transport, address, OPTIONS) as channel:
        stub = cluster_pb2_grpc.ClusterStub(channel)
        topology: cluster_pb2.TopologyResponse = await stub.Topology(cluster_pb2.TopologyRequest())
        status: cluster_pb2.StatusResponse = await stub.Status(cluster_pb2.StatusRequest())
        sent = wall()
        timed: observability_pb2.LatencyResponse = await stub.Latency(observability_pb2.LatencyRequest())
        received = wall()
    return Answer(
        topology.cluster_id[:TEXT_MAX],
        status.node.name[:TEXT_MAX],
        status.version[:TEXT_MAX],
        {member.name[:TEXT_MAX]: member.address[:TEXT_MAX] for member in topology.members},
        len(topology.shards),
        status.uptime_ms / 1000,
        received - sent,
        (timed.at_ms + 0.5) / 1000 - (sent + received) / 2,
    )


def _in_words(error: grpc.RpcError) -> str:
    """The status and its details. Those of UNAVAILABLE are the transport's, and say nothing more."""
    code = getattr(error, "code", lambda: None)()
    if not isinstance(code, grpc.StatusCode):
        return "an error"
    details = getattr(error, "details", lambda: "")() or ""
    return code.name if code is grpc.StatusCode.UNAVAILABLE or not details else f"{code.name}: {details[:WORDS_MAX]}"
