"""Serves `/metrics` over HTTP, for Prometheus.

Owns a thread with an event loop of its own, so that making text of a scrape keeps no request waiting, and so that it can say
when the node's event loop does not answer: 503, which Prometheus counts as down, while `kvnode_event_loop_lag_seconds` is what
one would like to know. The values are read on the node's loop (`metrics.Metrics.read`). Knows GET of `/metrics` and of `/`, and
neither keep-alive nor bodies. Whoever connects gets a bounded time, and of scrapes there are only a few at once.
"""

from __future__ import annotations

import asyncio
import html
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any, NamedTuple

import structlog
from prometheus_client import make_wsgi_app

from kvnode.limits import METRICS_CONNECTIONS_MAX as CONNECTIONS_MAX
from kvnode.observe.metric_readers import Reading
from kvnode.observe.metrics import Exposition, Metrics
from kvnode.refusals import cannot_listen
from kvnode.types import Seconds
from kvwire import addresses

logger = structlog.get_logger(__name__)

SCRAPES_MAX = 4
"""Answered at once; one more gets 503. Each costs the process some milliseconds, and nobody needs more."""
CONNECTION_TIME_MAX: Seconds = 10.0
"""From a connection's beginning to its end."""
STOP_MAX: Seconds = 0.3
"""How long the thread may take to end; it does not keep the process."""
LOOP_WAIT_MAX: Seconds = 2.0
"""How long the node's event loop has to answer. Prometheus waits for 10 seconds by default."""
REQUEST_SIZE_BYTES_MAX = 16 * 1024
TEXT = "text/plain; charset=utf-8"


class Request(NamedTuple):
    """What matters of one."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    """By lower-case names."""


class Response(NamedTuple):
    """As it is sent."""

    status: str
    headers: list[tuple[str, str]]
    body: bytes


class MetricsServer:
    """From `start` to `stop`."""

    def __init__(self, listen: str, metrics: Metrics, loop: asyncio.AbstractEventLoop) -> None:
        """`listen`: "host:port"; port 0: any. `loop`: the node's."""
        self._listen, self._metrics, self._node_loop = listen, metrics, loop
        self._name = metrics.sources.node.me.node
        self._exposition = Exposition()
        self._app = make_wsgi_app(self._exposition.registry)
        self._connections = self._scrapes = 0
        self._loop: asyncio.AbstractEventLoop
        self._over = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="metrics", daemon=True)
        self._sockets: list[Any] = []

    def start(self) -> str:
        """Listens; answers "host:port". Raises OSError when the address cannot be had."""
        try:
            self._sockets = addresses.listen(addresses.parse(self._listen), reuse_port=False)
            for sock in self._sockets:
                sock.listen()  # (Only now the address is known to be free.)
        except (OSError, ValueError) as error:
            for sock in self._sockets:
                sock.close()
            raise cannot_listen(self._listen, "metrics.listen", error) from error
        self._loop = asyncio.new_event_loop()
        self._thread.start()
        host, _, _ = self._listen.rpartition(":")
        return f"{host}:{self._sockets[0].getsockname()[1]}"

    async def stop(self) -> None:
        """Closes everything; scrapes under way get no answer."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._over.set)
            await asyncio.get_running_loop().run_in_executor(None, self._thread.join, STOP_MAX)

    def _run(self) -> None:
        try:
            with asyncio.Runner(loop_factory=lambda: self._loop) as runner:
                runner.run(self._serve())
        except Exception:
            logger.exception("metrics are served no more")

    async def _serve(self) -> None:
        servers = [await asyncio.start_server(self._on_connection, sock=s, limit=REQUEST_SIZE_BYTES_MAX) for s in self._sockets]
        await self._over.wait()
        for server in servers:
            server.close()

    # ---- one connection ---------------------------------------------------------------------------------------------

    async def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._connections >= CONNECTIONS_MAX:
            writer.transport.abort()
            return
        self._connections += 1
        try:
            async with asyncio.timeout(CONNECTION_TIME_MAX):
                response = await self._answer(await reader.readuntil(b"\r\n\r\n"))
                writer.write(encode(response))
                await writer.drain()
                writer.close()
                await writer.wait_closed()
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            pass  # (Who is too slow, too long, or gone needs no answer.)
        finally:
            self._connections -= 1
            writer.transport.abort()

    async def _answer(self, head: bytes) -> Response:
        request = parse(head)
        if request is None:
            return plain("400 Bad Request", "this is no HTTP request")
        if request.method != "GET":
            return plain("405 Method Not Allowed", "only GET is allowed", ("Allow", "GET"))
        if request.path == "/":
            return Response("200 OK", [("Content-Type", "text/html; charset=utf-8")], page(self._name))
        if request.path != "/metrics":
            return plain("404 Not Found", "there is /metrics, and nothing else")
        if self._scrapes >= SCRAPES_MAX:
            return plain("503 Service Unavailable", f"{SCRAPES_MAX} scrapes are under way already; come back later")
        self._scrapes += 1
        try:
            return await self._scrape(request)
        finally:
            self._scrapes -= 1

    async def _scrape(self, request: Request) -> Response:
        try:
            readings = await asyncio.wait_for(self._read(), LOOP_WAIT_MAX)
        except TimeoutError:
            return plain("503 Service Unavailable", f"the node's event loop has not answered for {LOOP_WAIT_MAX:.0f} s")
        except Exception as error:
            logger.exception("metrics cannot be read")
            return plain("500 Internal Server Error", f"metrics cannot be read: {error!r}; see the node's log")
        # (From here on nothing waits: one scrape at a time has the exposition.)
        self._exposition.readings = readings
        sent: list[Any] = []
        body = self._app(
            {
                "REQUEST_METHOD": "GET",
                "PATH_INFO": "/metrics",
                "QUERY_STRING": request.query,
                "HTTP_ACCEPT": request.headers.get("accept", ""),
                "HTTP_ACCEPT_ENCODING": request.headers.get("accept-encoding", ""),
            },
            lambda status, headers: sent.extend((status, headers)),
        )
        return Response(sent[0], sent[1], b"".join(body))

    async def _read(self) -> list[Reading]:
        """What the node's loop answers, if it does."""
        answer: Future[list[Reading]] = Future()
        self._node_loop.call_soon_threadsafe(self._fill, answer)
        return await asyncio.wrap_future(answer)

    def _fill(self, answer: Future[list[Reading]]) -> None:
        """On the node's loop."""
        if not answer.set_running_or_notify_cancel():
            return  # Nobody waits for it any more.
        try:
            answer.set_result(self._metrics.read())
        except Exception as error:
            answer.set_exception(error)


def parse(head: bytes) -> Request | None:
    """A request from its head; None: it is none."""
    lines = head.decode("latin-1").split("\r\n")
    words = lines[0].split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        return None
    path, _, query = words[1].partition("?")
    headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines[1:])}
    return Request(words[0], path, query, headers)


def encode(response: Response) -> bytes:
    """A response as bytes; the connection ends behind it."""
    headers = [*response.headers, ("Content-Length", str(len(response.body))), ("Connection", "close")]
    lines = [f"HTTP/1.1 {response.status}", *(f"{name}: {value}" for name, value in headers), "", ""]
    return "\r\n".join(lines).encode("latin-1") + response.body


def plain(status: str, words: str, *headers: tuple[str, str]) -> Response:
    """A response of one line."""
    return Response(status, [("Content-Type", TEXT), *headers], f"{words}\n".encode())


def page(name: str) -> bytes:
    """What a person finds at `/`."""
    title = f"kvnode {html.escape(name)}"
    return f'<!doctype html><title>{title}</title><h1>{title}</h1><p><a href="/metrics">metrics</a></p>\n'.encode()
