"""Keeps a channel connected: connects when there is a reason, backs off when that fails, and tells the state (gRPC connectivity
semantics, connection back-off).

IDLE -> CONNECTING -> READY -> IDLE (connection lost, or the server goes away); CONNECTING -> TRANSIENT_FAILURE, which lasts,
with new attempts at growing intervals, until one succeeds. Owns the current link; one whose server goes away is kept by its
calls alone.
"""

from __future__ import annotations

import asyncio
import errno
import logging
import os
import random
import ssl
from collections.abc import Callable
from typing import Any

import grpc

from kvwire.addresses import Address
from kvwire.client_connection import ClientConnection
from kvwire.credentials import ALPN, ChannelCredentials
from kvwire.link import Link
from kvwire.options import Options

logger = logging.getLogger(__name__)

IDLE, CONNECTING, READY = grpc.ChannelConnectivity.IDLE, grpc.ChannelConnectivity.CONNECTING, grpc.ChannelConnectivity.READY
TRANSIENT_FAILURE, SHUTDOWN = grpc.ChannelConnectivity.TRANSIENT_FAILURE, grpc.ChannelConnectivity.SHUTDOWN

USEFUL_AFTER_SECONDS = 1.0
"""A connection that lasted so long was of use, even without calls."""
USELESS_MAX = 3
"""Connections in a row that may be of no use before the next one has to wait."""
BACKOFF_FACTOR, BACKOFF_JITTER = 1.6, 0.2


class ClientLink(Link):
    """A connection of a client, from the attempt to make it."""

    connection: ClientConnection

    def __init__(self, loop: asyncio.AbstractEventLoop, *arguments: Any) -> None:
        super().__init__(loop, *arguments)
        self.settled: asyncio.Future[None] = loop.create_future()
        """The server has greeted."""
        self.was_told = False
        """Whether the server's complaint was heard."""
        self._watch: asyncio.TimerHandle | None = None

    def watch(self, look: Callable[[ClientLink], None], after: float) -> None:
        """Has somebody look at the link, in so many seconds."""
        self.unwatch()
        self._watch = self._loop.call_later(after, look, self)

    def unwatch(self) -> None:
        """Nobody need look any more."""
        if self._watch is not None:
            self._watch.cancel()


class Subchannel:
    """One address, and the connection to it."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        address: Address,
        credentials: ChannelCredentials | None,
        options: Options,
        on_ready: Callable[[], None],
        on_failed: Callable[[str], None],
    ) -> None:
        """`on_ready`: calls may be started. `on_failed(why)`: an attempt failed."""
        self.state = IDLE
        self.why_failed = ""
        self._loop, self._address, self._credentials, self._options = loop, address, credentials, options
        self._on_ready, self._on_failed = on_ready, on_failed
        self._link: ClientLink | None = None
        self._links: dict[ClientLink, None] = {}
        self._attempt: asyncio.Task[None] | None = None
        self._failures, self._useless, self._ready_at = 0, 0, 0.0
        self._retry: asyncio.TimerHandle | None = None
        self._keepalive_interval = options.keepalive_interval
        self._watchers: list[asyncio.Future[None]] = []

    # ---- for the channel ---------------------------------------------------------------------------------------------

    @property
    def connection(self) -> ClientConnection | None:
        """A connection that takes a call now."""
        link = self._link
        if link is None or self.state is not READY:
            return None
        connection = link.connection
        if connection.is_going_away or connection.closed is not None or len(connection.streams) >= connection.peer_streams_max:
            return None
        return connection

    def connect(self) -> None:
        """Connects, unless that is under way or must wait."""
        if self.state is READY and self._link is not None and self._is_exhausted(self._link):
            self._link = None
            self._set(IDLE)
        if self.state is IDLE:
            self._set(CONNECTING)
            self._begin_attempt()

    @staticmethod
    def _is_exhausted(link: ClientLink) -> bool:
        return link.connection.is_going_away

    def calls(self) -> list[Any]:
        """All that are under way, on whichever connection."""
        calls = [stream.call for link in self._links for stream in link.connection.streams.values()]
        return [call for call in calls if call is not None]

    async def changed(self) -> None:
        """Waits for the next change of the state."""
        watcher = self._loop.create_future()
        self._watchers.append(watcher)
        try:
            await watcher
        finally:
            if watcher in self._watchers:
                self._watchers.remove(watcher)

    async def close(self) -> None:
        """Closes every connection; calls that are left end as UNAVAILABLE."""
        self._set(SHUTDOWN)
        if self._retry is not None:
            self._retry.cancel()
        if self._attempt is not None:
            self._attempt.cancel()
            await asyncio.gather(self._attempt, return_exceptions=True)
        for link in list(self._links):
            link.connection.lose("the channel is closed")
            link.close()

    # ---- connecting --------------------------------------------------------------------------------------------------

    def _set(self, state: grpc.ChannelConnectivity) -> None:
        if self.state is state or self.state is SHUTDOWN:
            return
        self.state = state
        watchers, self._watchers = self._watchers, []
        for watcher in watchers:
            if not watcher.done():
                watcher.set_result(None)

    def _begin_attempt(self) -> None:
        self._retry = None
        self._attempt = self._loop.create_task(self._connect(self._backoff()))

    def _backoff(self) -> float:
        options = self._options
        interval = min(options.backoff_initial * BACKOFF_FACTOR ** min(self._failures, 60), options.backoff_max)
        return interval * random.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)

    async def _connect(self, backoff: float) -> None:
        began = self._loop.time()
        try:
            async with asyncio.timeout(max(self._options.connect_timeout, backoff)):
                await self._open()
        except TimeoutError:
            self._fail("the server does not answer in time", began + backoff)
        except OSError as error:
            is_plain = error.errno and error.errno > 0 and not isinstance(error, ssl.SSLError)
            reason = f"connect: {os.strerror(error.errno)} ({error.errno})" if error.errno and is_plain else str(error)
            self._fail(f"Failed to connect to remote host: {reason}", began + backoff)
        except Exception as error:
            if not isinstance(error, ValueError):  # (No host's name: UnicodeError.)
                logger.exception("an attempt to connect to %s failed in an unexpected way", self._address.described)
            self._fail(f"Failed to connect to remote host: {error!r}", began + backoff)

    async def _open(self) -> None:
        address, credentials = self._address, self._credentials
        link: ClientLink
        connection = ClientConnection(self._options.metadata_size_max, lambda: self._on_change(link))
        link = ClientLink(self._loop, connection, lambda _: self._links.setdefault(link), lambda _: self._on_lost(link))
        tls_arguments: dict[str, Any] = {}
        if credentials is not None:
            tls_arguments = {"ssl": credentials.context, "server_hostname": self._server_name}
        if address.path:
            await self._loop.create_unix_connection(lambda: link, address.path, **tls_arguments)
        else:
            await self._loop.create_connection(lambda: link, address.host, address.port, **tls_arguments)
        tls = None if link.transport is None else link.transport.get_extra_info("ssl_object")
        try:
            if tls is not None and tls.selected_alpn_protocol() not in ALPN:
                raise OSError("the server does not speak HTTP/2 (ALPN)")
            await link.settled
        except BaseException:
            link.abort("the server did not answer as an HTTP/2 server")
            raise
        self._link, self._ready_at = link, self._loop.time()
        self._set(READY)
        if self._options.keeps_alive:
            link.watch(self._keep_alive, self._keepalive_interval)
        self._on_change(link)

    @property
    def _server_name(self) -> str:
        """The name that the server's certificate must have."""
        authority = self._options.authority.rpartition(":")[0] or self._options.authority
        return self._options.target_name or authority or self._address.host or "localhost"

    def _fail(self, reason: str, next_attempt: float) -> None:
        self._failures += 1
        where = self._address.described
        self.why_failed = f"failed to connect to all addresses; last error: UNAVAILABLE: {where}: {reason}"
        self._set(TRANSIENT_FAILURE)
        if self.state is not SHUTDOWN:
            self._retry = self._loop.call_later(max(0.0, next_attempt - self._loop.time()), self._begin_attempt)
            self._on_failed(self.why_failed)

    # ---- connected ---------------------------------------------------------------------------------------------------

    def _on_change(self, link: ClientLink) -> None:
        connection = link.connection
        if connection.is_settled and not link.settled.done():
            link.settled.set_result(None)
            return
        if connection.is_going_away or connection.closed is not None:
            if "too_many_pings" in connection.goodbye and not link.was_told:
                link.was_told = True
                self._keepalive_interval *= 2  # (gRFC A8.)
            if not connection.streams:
                link.close()
            if self._link is link:
                self._part_with(connection)
        self._on_ready()

    def _on_lost(self, link: ClientLink) -> None:
        self._links.pop(link, None)
        link.unwatch()
        if not link.settled.done():
            link.settled.set_exception(ConnectionResetError(errno.ECONNRESET, link.connection.closed or "closed"))
            link.settled.exception()  # (Somebody may wait for it, or not.)
        if self._link is link:
            self._part_with(link.connection)
            self._on_ready()

    def _part_with(self, connection: Any) -> None:
        """The connection takes no more calls. Several in a row that were of no use count as attempts that failed."""
        self._link = None
        now = self._loop.time()
        if connection.has_answered or now - self._ready_at >= USEFUL_AFTER_SECONDS:
            self._failures = self._useless = 0
        self._useless += 1
        if self._useless <= USELESS_MAX:
            self._set(IDLE)
        else:
            self._fail("the server closed the connection at once", now + self._backoff())

    def _keep_alive(self, link: ClientLink) -> None:
        after = interval = self._keepalive_interval
        if link.connection.streams or self._options.keepalive_without_calls:
            after = link.keep_alive(self._loop.time(), interval, self._options.keepalive_timeout)
        if link.connection.closed is None:
            link.watch(self._keep_alive, max(after, 0.001))
