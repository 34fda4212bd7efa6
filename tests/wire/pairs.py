"""Servers and channels of every transport, paired: the conformance suite runs each test on each pairing.

grpcio serving grpcio is the oracle: a test that fails there is wrong. Where kvwire is meant to
differ, a test says so by the name of the side (`rig.pair.server.name == GRPCIO`), and demands something of both.

How to use it, with the fixtures of conftest.py:

    async def test_unary_call_of_bytes_is_echoed(rig: Rig) -> None:
        async def echo(request: bytes, context: Context) -> bytes:
            return request

        call = await rig.unary_unary(echo)                # a server, a channel, and the multicallable of this one handler
        assert await call(b"x") == b"x"

* `rig.unary_unary(handler)`, `.unary_stream`, `.stream_unary`, `.stream_stream`: one handler; takes `server={...}` and
  `channel={...}` (keywords of `rig.serve()` and `rig.connect()`), and serializers.
* `rig.serve(*handlers, port=..., options=[...], interceptors=[...], credentials=...)` starts a server of the pairing and
  returns a `Served`: `.server`, `.port`, `.target`. `service(Name=unary_unary(handler), ...)` makes its generic handler; a
  function that registers a generated servicer (`add_..._to_server`, given a `server`) goes to `register=`.
* `rig.connect(target, options=..., credentials=...)` opens a channel of the pairing's client; `path("Name")` is the path
  of a method. `rig.open(Name=unary_unary(handler), ...)` does both, for several methods.
* `rig.pair.server` and `rig.pair.client` are `Wire`s (name, server(), insecure_channel(), credentials' makers).
* What a rig made is closed after the test, also when it failed: channels first, then servers, which cut off what is under way.
* The fixture `server_wire` (or `client_wire`) runs a test once for each server (client) alone, for the other side raw sockets.
* `soon(awaitable)` waits for what must happen now; it fails after ten seconds instead of hanging.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Sequence
from typing import Any, TypeAlias, TypeVar

import grpc
import grpc.aio

import kvwire

Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
Handler: TypeAlias = Callable[..., Any]
T = TypeVar("T")

GRPCIO = "grpcio"
SERVICE = "wire.test.Service"
HOST = "127.0.0.1"


@dataclasses.dataclass(frozen=True)
class Wire:
    """One implementation of gRPC: what makes its servers, its channels, and their credentials."""

    name: str
    server: Callable[..., grpc.aio.Server] = grpc.aio.server
    insecure_channel: Callable[..., grpc.aio.Channel] = grpc.aio.insecure_channel
    secure_channel: Callable[..., grpc.aio.Channel] = grpc.aio.secure_channel
    ssl_server_credentials: Callable[..., Any] = grpc.ssl_server_credentials
    ssl_channel_credentials: Callable[..., Any] = grpc.ssl_channel_credentials


@dataclasses.dataclass(frozen=True)
class Pair:
    """A server's transport and a client's."""

    server: Wire
    client: Wire

    def __str__(self) -> str:
        return f"{self.server.name}-{self.client.name}"


WIRES = [
    Wire(GRPCIO),
    Wire(
        "kvwire",
        kvwire.server,
        kvwire.insecure_channel,
        kvwire.secure_channel,
        kvwire.ssl_server_credentials,
        kvwire.ssl_channel_credentials,
    ),
]
PAIRS = [Pair(server, client) for server in WIRES for client in WIRES]


def path(method: str) -> str:
    """The path of a method of the test's service."""
    return f"/{SERVICE}/{method}"


def service(**methods: grpc.RpcMethodHandler[Any, Any]) -> grpc.GenericRpcHandler:
    """A service of these methods; see `unary_unary()` and the others."""
    return grpc.method_handlers_generic_handler(SERVICE, methods)


unary_unary: Callable[..., grpc.RpcMethodHandler[Any, Any]] = grpc.unary_unary_rpc_method_handler
unary_stream: Callable[..., grpc.RpcMethodHandler[Any, Any]] = grpc.unary_stream_rpc_method_handler
stream_unary: Callable[..., grpc.RpcMethodHandler[Any, Any]] = grpc.stream_unary_rpc_method_handler
stream_stream: Callable[..., grpc.RpcMethodHandler[Any, Any]] = grpc.stream_stream_rpc_method_handler


async def soon(awaitable: Awaitable[T], seconds: float = 10) -> T:
    """The result of what must come at once: a time-out here is a failure with a place, rather than a hanging suite."""
    async with asyncio.timeout(seconds):
        return await awaitable


async def refusal(awaitable: Awaitable[Any]) -> grpc.aio.AioRpcError:
    """The error that a call ends with."""
    try:
        answer = await soon(awaitable)
    except grpc.aio.AioRpcError as error:
        return error
    raise AssertionError(f"the call succeeded with {answer!r:.100}")


async def collect(messages: AsyncIterable[T]) -> list[T]:
    """All messages of a stream."""
    return [message async for message in messages]


@dataclasses.dataclass(frozen=True)
class Served:
    """A started server and where it listens."""

    server: grpc.aio.Server
    port: int

    @property
    def target(self) -> str:
        return f"{HOST}:{self.port}"


class Rig:
    """Starts servers and opens channels of one pairing, and closes them all at the end of a test."""

    def __init__(self, pair: Pair) -> None:
        self.pair = pair
        self.channels: list[grpc.aio.Channel] = []
        """All that were opened, the last one last."""
        self._channels = contextlib.AsyncExitStack()
        self._servers = contextlib.AsyncExitStack()

    async def serve(
        self,
        *handlers: grpc.GenericRpcHandler,
        port: int = 0,
        address: str | None = None,
        credentials: Any = None,
        register: Callable[[grpc.aio.Server], None] | None = None,
        **settings: Any,
    ) -> Served:
        """A started server. `settings` are those of `grpc.aio.server()`; `address` may be a unix socket."""
        server = self.pair.server.server(**settings)
        if handlers:
            server.add_generic_rpc_handlers(handlers)
        if register is not None:
            register(server)
        address = address or f"{HOST}:{port}"
        bound = server.add_secure_port(address, credentials) if credentials else server.add_insecure_port(address)
        await server.start()
        self._servers.push_async_callback(server.stop, None)
        return Served(server, bound)

    def connect(self, target: str | Served, *, credentials: Any = None, **settings: Any) -> grpc.aio.Channel:
        """A channel. `settings` are those of `grpc.aio.insecure_channel()`."""
        target = target.target if isinstance(target, Served) else target
        client = self.pair.client
        if credentials is None:
            channel = client.insecure_channel(target, **settings)
        else:
            channel = client.secure_channel(target, credentials, **settings)
        self.channels.append(channel)
        self._channels.push_async_callback(channel.close)
        return channel

    async def open(self, *, server: dict[str, Any] | None = None, channel: dict[str, Any] | None = None, **methods: Any) -> Any:
        """A server of these methods, and a channel to it."""
        return self.connect(await self.serve(service(**methods), **(server or {})), **(channel or {}))

    async def unary_unary(self, handler: Handler, *serializers: Any, **sides: Any) -> Any:
        """Calls of this one handler. `serializers`: the client's of requests, then its deserializer of responses."""
        return (await self.open(Method=unary_unary(handler), **sides)).unary_unary(path("Method"), *serializers)

    async def unary_stream(self, handler: Handler, *serializers: Any, **sides: Any) -> Any:
        """Calls of this one handler."""
        return (await self.open(Method=unary_stream(handler), **sides)).unary_stream(path("Method"), *serializers)

    async def stream_unary(self, handler: Handler, *serializers: Any, **sides: Any) -> Any:
        """Calls of this one handler."""
        return (await self.open(Method=stream_unary(handler), **sides)).stream_unary(path("Method"), *serializers)

    async def stream_stream(self, handler: Handler, *serializers: Any, **sides: Any) -> Any:
        """Calls of this one handler."""
        return (await self.open(Method=stream_stream(handler), **sides)).stream_stream(path("Method"), *serializers)

    async def close(self) -> None:
        """Closes every channel, then every server, whatever the others do."""
        try:
            await soon(self._channels.aclose(), 20)
        finally:
            await soon(self._servers.aclose(), 20)


@contextlib.asynccontextmanager
async def opened(pair: Pair) -> AsyncIterator[Rig]:
    """A rig for the time of a block."""
    rig = Rig(pair)
    try:
        yield rig
    finally:
        await rig.close()


def names(of: Sequence[Wire] | Sequence[Pair]) -> list[str]:
    """How tests of these are named in reports."""
    return [item.name if isinstance(item, Wire) else str(item) for item in of]
