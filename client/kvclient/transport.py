"""What carries the calls of asyncio clients: which implementation of gRPC makes a channel is decided here and nowhere else.

Owns the names of both. Either has grpc.aio's interface, so that nobody else can tell which one it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import grpc.aio

TRANSPORTS = ("kvwire", "grpcio")
TRANSPORT_DEFAULT = "kvwire"


def insecure_channel(transport: str, target: str, options: Sequence[tuple[str, Any]] = ()) -> grpc.aio.Channel:
    """A channel to "host:port" without TLS; it connects with its first call. `transport`: one of `TRANSPORTS`."""
    if transport == "grpcio":
        return grpc.aio.insecure_channel(target, options=options)
    import kvwire  # Nothing that uses threads, and no command that ends at once, has to load it.

    return kvwire.insecure_channel(target, options=options)
