"""A gRPC server with `grpc.aio.Server`'s interface.

Owns the ports, the registered methods, the connections and their end. A connection's bytes become calls in `server_connection`
and `server_call`.

Stopping is a protocol: listen no more; tell each client which of its calls was the last; wait for those in flight; cancel what
is left; let the answers leave; close.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from typing import Any, NamedTuple

import grpc
import grpc.aio

from kvwire import addresses, compression, limits
from kvwire.credentials import ALPN, ServerCredentials, auth_context
from kvwire.heads import RequestHead
from kvwire.link import Link
from kvwire.memory import Memory
from kvwire.metadata import Metadatum
from kvwire.method import Method
from kvwire.options import Options
from kvwire.server_call import ServerCall
from kvwire.server_connection import ServerConnection

logger = logging.getLogger(__name__)
PREPARED_MAX = 1_024
UNPACKERS = 2
"""Threads that unpack compressed requests; each may hold two messages meanwhile."""
LAST_WORDS_SECONDS = 0.5
"""How long `stop` waits for clients to close their connections, once all calls are over."""
SHUTDOWN_DETAILS = "Cancelling all calls"


class CallDetails(NamedTuple):
    """`grpc.HandlerCallDetails` of one call."""

    method: str
    invocation_metadata: tuple[Metadatum, ...]


grpc.HandlerCallDetails.register(CallDetails)


def _details(head: RequestHead) -> Any:
    return CallDetails(head.path.decode("latin-1"), head.metadata)


class ServerLink(Link):
    """A connection of a server, with what is known about its peer."""

    connection: ServerConnection
    reads_to_the_end = False
    peer = ""
    auth_context: dict[str, list[bytes]]

    def abort(self, why: str, limit: str = "") -> None:
        """Closes at once, and counts the limit."""
        if limit:
            self.connection.on_limit(limit)
        super().abort(why, limit)


class Server(grpc.aio.Server):
    """See grpc.aio's documentation. Everything happens on the event loop that is running when it starts."""

    def __init__(
        self,
        pool: Executor | None,
        handlers: Sequence[grpc.GenericRpcHandler],
        interceptors: Sequence[Any],
        options: Iterable[tuple[str, Any]] | None,
        calls_max: int | None,
        response_compression: grpc.Compression | None,
    ) -> None:
        for interceptor in interceptors:
            if not isinstance(interceptor, grpc.aio.ServerInterceptor):
                raise ValueError(f"Interceptor must be ServerInterceptor, the following are invalid: [{interceptor}]")
        self.options, self.pool, self.interceptors = Options(options), pool, tuple(interceptors)
        self.in_flight = 0
        self.calls = self.connections_opened = 0
        """How many there have been."""
        self.refusals = dict.fromkeys(limits.COUNTED, 0)
        """How often each limit was in a peer's way."""
        self._calls_max, self.default_compression = calls_max, response_compression
        self._generic: list[grpc.GenericRpcHandler] = list(handlers)
        self._registered: dict[bytes, Method] = {}
        self._handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}
        self._prepared: dict[int, tuple[Any, Method]] = {}
        self._bound: list[tuple[Any, ServerCredentials | None]] = []
        self._listening: list[asyncio.Server] = []
        self._paths: list[str] = []
        self._links: dict[ServerLink, None] = {}
        self._memory = Memory(limits.BUFFERED_BYTES_MAX, _Connections(self._links))
        self._unwinding: set[asyncio.Task[None]] = set()
        self._idle: asyncio.Event | None = None
        self._stopped: asyncio.Event = asyncio.Event()
        self._stopping: asyncio.Task[None] | None = None
        self._unpackers: Executor | None = None
        self.unpacking = asyncio.Semaphore(UNPACKERS)
        """One for each of the threads that unpack."""
        self._watch: asyncio.TimerHandle | None = None
        self._keepalive: asyncio.TimerHandle | None = None
        self.loop: asyncio.AbstractEventLoop
        """Set when the server starts."""

    # ---- methods -----------------------------------------------------------------------------------------------------

    def add_generic_rpc_handlers(self, generic_rpc_handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """Registers handlers that are asked by method name."""
        self._generic.extend(generic_rpc_handlers)

    def add_registered_method_handlers(
        self, service_name: str, method_handlers: Mapping[str, grpc.RpcMethodHandler[Any, Any]]
    ) -> None:
        """Registers a service's handlers by name: the quickest way."""
        for name, handler in method_handlers.items():
            path = f"/{service_name}/{name}"
            self._handlers[path] = handler
            self._registered[path.encode()] = self._prepare(handler)

    def _prepare(self, handler: Any) -> Method:
        known = self._prepared.get(id(handler))
        if known is not None:
            return known[1]
        if len(self._prepared) >= PREPARED_MAX:
            self._prepared.clear()
        method = Method(handler)
        self._prepared[id(handler)] = (handler, method)
        return method

    def find(self, head: RequestHead) -> Method | None:
        """The method that a call names."""
        method = self._registered.get(head.path)
        if method is not None or not self._generic:
            return method
        handler = self._look_up(_details(head))
        return None if handler is None else self._prepare(handler)

    def _look_up(self, details: grpc.HandlerCallDetails) -> grpc.RpcMethodHandler[Any, Any] | None:
        handler = self._handlers.get(details.method)
        if handler is not None:
            return handler
        for generic in self._generic:
            handler = generic.service(details)
            if handler is not None:
                return handler
        return None

    async def intercept(self, head: RequestHead) -> Method | None:
        """The method that a call gets, once every interceptor has had its say."""
        interceptors = self.interceptors

        async def at(index: int, details: grpc.HandlerCallDetails) -> Any:
            if index == len(interceptors):
                return self._look_up(details)

            async def continuation(changed: grpc.HandlerCallDetails) -> Any:
                return await at(index + 1, changed)

            return await interceptors[index].intercept_service(continuation, details)

        handler = await at(0, _details(head))
        return None if handler is None else self._prepare(handler)

    # ---- ports -------------------------------------------------------------------------------------------------------

    def add_insecure_port(self, address: str) -> int:
        """Binds an address; answers the port (1 for a unix socket). Raises RuntimeError when that fails."""
        return self._bind(address, None)

    def add_secure_port(self, address: str, server_credentials: Any) -> int:
        """Binds an address for TLS; `server_credentials`: `kvwire.ssl_server_credentials`."""
        if not isinstance(server_credentials, ServerCredentials):
            raise TypeError("kvwire's own credentials are needed: kvwire.ssl_server_credentials(...), with grpc's arguments")
        return self._bind(address, server_credentials)

    def _bind(self, address: str, credentials: ServerCredentials | None) -> int:
        if self._listening or self._stopping is not None:
            raise RuntimeError("ports can be added only before the server starts")
        try:
            sockets = addresses.listen(addresses.parse(address), self.options.reuse_port)
        except (OSError, ValueError) as error:
            raise RuntimeError(f"Failed to bind to address {address}: {error}") from error
        self._bound.extend((sock, credentials) for sock in sockets)
        name = sockets[0].getsockname()
        if isinstance(name, tuple):
            return int(name[1])
        if isinstance(name, str) and name:
            self._paths.append(name)
        return 1

    async def start(self) -> None:
        """Listens; harmless when it does. Raises UsageError once the server was stopped."""
        if self._stopping is not None:
            raise grpc.aio.UsageError("the server was stopped, and stays so: make another one")
        if self._listening:
            return
        self.loop = asyncio.get_running_loop()
        for sock, credentials in self._bound:
            context = None if credentials is None else credentials.context
            timeout = None if context is None else limits.HANDSHAKE_SECONDS_MAX
            factory = self._connect
            if sock.family.name == "AF_UNIX":
                server = await self.loop.create_unix_server(
                    factory, sock=sock, ssl=context, ssl_handshake_timeout=timeout, backlog=addresses.BACKLOG
                )
            else:
                server = await self.loop.create_server(
                    factory, sock=sock, ssl=context, ssl_handshake_timeout=timeout, backlog=addresses.BACKLOG
                )
            self._listening.append(server)
        self._watch = self.loop.call_later(1.0, self._check_links)
        if self.options.keeps_alive:
            self._keepalive = self.loop.call_later(self.options.keepalive_interval, self._keep_alive)

    # ---- connections -------------------------------------------------------------------------------------------------

    def _connect(self) -> ServerLink:
        link: ServerLink
        connection = ServerConnection(
            self._memory,
            self.options.metadata_size_max,
            self.options.streams_max,
            self.options.ping_interval_min,
            lambda connection, stream_id: ServerCall(self, link, connection, stream_id),
            self.options.ping_strikes_max,
        )
        link = ServerLink(self.loop, connection, self._on_made, self._on_lost)
        connection.on_drained = link.end
        connection.on_limit = self.on_limit
        return link

    def _on_made(self, link: Any) -> None:
        transport = link.transport
        link.peer = addresses.peer_name(transport.get_extra_info("peername"))
        link.auth_context = auth_context(transport)
        self._links[link] = None
        self.connections_opened += 1
        tls = transport.get_extra_info("ssl_object")
        if len(self._links) > limits.CONNECTIONS_MAX:
            link.abort(f"{limits.CONNECTIONS_MAX} connections are open", "connections")
        elif self._stopping is not None:
            link.abort(SHUTDOWN_DETAILS)
        elif tls is not None and tls.selected_alpn_protocol() not in ALPN:
            link.abort("the client did not ask for HTTP/2 (ALPN)")

    def on_limit(self, limit: str) -> None:
        """A peer ran into one of `limits.COUNTED`."""
        self.refusals[limit] += 1

    @property
    def connections(self) -> int:
        """How many are open."""
        return len(self._links)

    @property
    def buffered_bytes(self) -> int:
        """What all connections hold for their peers, in and out."""
        return self._memory.held

    def _on_lost(self, link: Any) -> None:
        self._links.pop(link, None)
        if link.connection.broken is not None:
            logger.warning("closed the connection of %s: %s", link.peer, link.connection.broken)
        if self._stopping is not None:
            self.on_call_closed(0)

    def _check_links(self) -> None:
        now = self.loop.time()
        for link in list(self._links):
            link.check(now)
        self._watch = self.loop.call_later(1.0, self._check_links)

    def _keep_alive(self) -> None:
        now, options = self.loop.time(), self.options
        after = options.keepalive_interval
        for link in list(self._links):
            if link.connection.streams or options.keepalive_without_calls:
                after = min(after, link.keep_alive(now, options.keepalive_interval, options.keepalive_timeout))
        self._keepalive = self.loop.call_later(max(after, 0.01), self._keep_alive)

    # ---- calls -------------------------------------------------------------------------------------------------------

    @property
    def is_full(self) -> bool:
        """Whether a call that begins now is one too many (it is counted already)."""
        return self._calls_max is not None and self.in_flight > self._calls_max

    def on_call_closed(self, count: int = 1) -> None:
        """A call is over."""
        self.in_flight -= count
        if self._idle is not None:
            self._idle.set()

    @property
    def unpackers(self) -> Executor:
        """Threads of the server's own: handlers may keep those of its pool busy."""
        if self._unpackers is None:
            self._unpackers = ThreadPoolExecutor(UNPACKERS, thread_name_prefix="kvwire-unpack")
        return self._unpackers

    def unwind(self, task: asyncio.Task[None]) -> None:
        """Cancels the handler of a call that is over, and keeps it until it has ended."""
        self._unwinding.add(task)
        task.add_done_callback(self._unwinding.discard)
        task.cancel()

    def compress(self, call: ServerCall, wish: grpc.Compression | None) -> None:
        """Compresses a call's responses, if its caller can read that."""
        wanted = compression.encoding_of(wish)
        accepted = next((value for name, value in call.head.fields if name == b"grpc-accept-encoding"), b"")
        if wanted in [part.strip() for part in accepted.split(b",")]:
            call.encoding = wanted

    # ---- the end -----------------------------------------------------------------------------------------------------

    async def stop(self, grace: float | None) -> None:
        """Stops; calls in flight get `grace` seconds. Whoever calls it again may shorten that, and waits as well."""
        if self._stopping is None:
            self._close_ports()
            self._idle = asyncio.Event()
            self._stopping = asyncio.get_running_loop().create_task(self._stop(grace))
            for link in list(self._links):
                link.connection.go_away()
        else:
            _, late = await asyncio.wait((self._stopping,), timeout=grace or 0.0)
            if late:
                self._cancel_calls()
        await asyncio.shield(self._stopping)

    def _close_ports(self) -> None:
        for sock, _ in self._bound[len(self._listening) :]:
            sock.close()
        for server in self._listening:
            server.close()
        for path in self._paths:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)

    async def _stop(self, grace: float | None) -> None:
        assert self._idle is not None
        if grace:
            try:
                async with asyncio.timeout(grace):
                    while self.in_flight:
                        self._idle.clear()
                        await self._idle.wait()
            except TimeoutError:
                pass
        self._cancel_calls()
        if self._unwinding:
            await asyncio.wait(list(self._unwinding), timeout=limits.CLOSE_SECONDS_MAX)
        if grace:
            try:
                async with asyncio.timeout(LAST_WORDS_SECONDS):
                    while self._links:
                        self._idle.clear()
                        await self._idle.wait()
            except TimeoutError:
                pass
        for link in list(self._links):
            link.close()
        if self._unpackers is not None:
            self._unpackers.shutdown(wait=False, cancel_futures=True)
        for timer in (self._watch, self._keepalive):
            if timer is not None:
                timer.cancel()
        self._stopped.set()

    def _cancel_calls(self) -> None:
        for link in list(self._links):
            for call in list(link.connection.streams.values()):
                call.shut_down(SHUTDOWN_DETAILS)

    async def wait_for_termination(self, timeout: float | None = None) -> bool:
        """Waits for the end; True: the time was too short."""
        try:
            async with asyncio.timeout(timeout):
                await self._stopped.wait()
        except TimeoutError:
            return True
        return False


class _Connections:
    """The connections of a server's links, each time they are looked at."""

    def __init__(self, links: dict[ServerLink, None]) -> None:
        self._links = links

    def __iter__(self) -> Any:
        return iter([link.connection for link in self._links])


def server(
    migration_thread_pool: Executor | None = None,
    handlers: Sequence[grpc.GenericRpcHandler] | None = None,
    interceptors: Sequence[Any] | None = None,
    options: Sequence[tuple[str, Any]] | None = None,
    maximum_concurrent_rpcs: int | None = None,
    compression: grpc.Compression | None = None,
) -> Server:
    """A server, as `grpc.aio.server` makes one."""
    return Server(migration_thread_pool, handlers or (), interceptors or (), options, maximum_concurrent_rpcs, compression)
