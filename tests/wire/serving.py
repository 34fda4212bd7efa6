"""A server of any transport for raw clients and foreign programs, for the time of a block."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from typing import Any

import grpc

from tests.wire.pairs import HOST, Wire, soon


@contextlib.asynccontextmanager
async def served(
    wire: Wire, *handlers: grpc.GenericRpcHandler, address: str = f"{HOST}:0", credentials: Any = None, **settings: Any
) -> AsyncIterator[str]:
    """The address, as `raw.connect()` takes it, of a started server with these handlers."""
    server = wire.server(**settings)
    server.add_generic_rpc_handlers(handlers)
    port = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
    await server.start()
    try:
        yield address if address.startswith("unix:") else f"{HOST}:{port}"
    finally:
        await soon(server.stop(None))
