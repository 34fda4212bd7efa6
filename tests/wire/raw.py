"""A bare HTTP/2 peer over asyncio streams, client or server: it sends what a test tells it to, be it wrong, and reads back.

Owns the reading side: frames in order, header blocks decoded, and by default the manners without which nothing moves
(SETTINGS and PING acknowledged, windows refilled). Each manner can be taken away. Frames are built in `frames.py`.

    async with connect(address) as peer:
        await peer.send(request(1, "/service/method"), data(1, message(b"hello"), end=True))
        answer = await peer.answer(1)
        assert answer.status == 0
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import hpack

from tests.wire import frames as h2
from tests.wire.frames import Fields, Frame

PATIENCE_S = 10.0
"""How long a peer under test may take to react before it counts as hung."""

Match = Callable[[Frame], bool]


class Ended(AssertionError):
    """The connection ended although more was expected."""


@dataclass
class Answer:
    """All that came back on one stream."""

    blocks: list[Fields] = field(default_factory=list)
    data: bytes = b""
    reset: int | None = None

    def get(self, name: str, default: str | None = None) -> str | None:
        """A header field's last value, the trailers' before the headers'."""
        found = [value for fields in self.blocks for key, value in fields if key == name]
        return found[-1] if found else default

    @property
    def http_status(self) -> int:
        """What `:status` says."""
        return int(self.get(":status") or 0)

    @property
    def status(self) -> int | None:
        """What `grpc-status` says; None where there is none."""
        code = self.get("grpc-status")
        return None if code is None else int(code)

    @property
    def messages(self) -> list[bytes]:
        """The bodies of the messages that are complete."""
        rest, found = self.data, []
        while len(rest) >= 5 and len(rest) - 5 >= (length := int.from_bytes(rest[1:5], "big")):
            found.append(rest[5 : 5 + length])
            rest = rest[5 + length :]
        return found


class Peer:
    """One connection. `inbox` holds frames that nobody has taken yet, `seen` all that ever came."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer
        self.inbox: list[Frame] = []
        self.seen: list[Frame] = []
        self.ended = False
        self.acks_settings = self.answers_pings = self.refills = True
        self._decoder = hpack.Decoder(max_header_list_size=1 << 24)
        self._block, self._opener = b"", Frame(0, 0, 0, b"")
        self._held: list[bytes] | None = None
        self._sent, self._settings_sent, self._settings_acked = b"", 0, 0
        self._owes_ack = False
        self._news = asyncio.Event()
        self._task: asyncio.Task[None] | None = None

    # Sending.

    async def send(self, *parts: bytes) -> None:
        """Write bytes, in one go, and wait until the socket took them."""
        whole = b"".join(parts)
        self._count_settings(whole)
        if self._owes_ack and self._settings_sent and self._held is None:
            self._owes_ack, whole = False, whole + h2.settings_ack()
        self.writer.write(whole)
        await self.writer.drain()

    async def send_in_cuts(self, whole: bytes, size: int | Callable[[], int] = 1) -> None:
        """Write bytes a few at a time, each few in a segment of its own as far as the kernel allows."""
        self._held = []
        at = 0
        while at < len(whole):
            step = size if isinstance(size, int) else size()
            await self.send(whole[at : at + step])
            at += step
            await asyncio.sleep(0)
        held, self._held = self._held, None
        await self.send(*held)

    async def call(self, stream: int, path: str, body: bytes = b"", extra: Fields = (), /, **changes: str | None) -> Answer:
        """A unary call and its answer."""
        await self.send(h2.request(stream, path, extra, **changes), h2.data(stream, h2.message(body), end=True))
        return await self.answer(stream)

    # Reading.

    def start(self) -> None:
        """Begin to read; nothing is read before."""
        self._task = asyncio.ensure_future(self._read())

    async def stop_reading(self) -> None:
        """Read no more: the peer's bytes stay in the socket, as with a frozen process."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None
        self.writer.transport.pause_reading()  # type: ignore[attr-defined]

    def resume_reading(self) -> None:
        """Read on after `stop_reading`."""
        self.writer.transport.resume_reading()  # type: ignore[attr-defined]
        self.start()

    async def take(self, match: Match | int, stream: int | None = None, within: float = PATIENCE_S) -> Frame:
        """Take the first frame of a kind, or that matches, out of the inbox; wait for it if it has not come yet.

        Raises `Ended` when the connection ends first, TimeoutError when nothing comes.
        """
        found = await self.until(
            lambda: next((frame for frame in self.inbox if self._fits(frame, match, stream)), None), within
        )
        self.inbox.remove(found)
        return found

    async def until(self, ready: Callable[[], Any], within: float = PATIENCE_S) -> Any:
        """What `ready` returns as soon as it is not None; it is asked after each frame."""
        try:
            async with asyncio.timeout(within):
                while (found := ready()) is None:
                    if self.ended:
                        raise Ended(f"the connection ended; read before: {', '.join(map(str, self.seen[-12:])) or 'nothing'}")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            seen = ", ".join(map(str, self.seen[-12:])) or "nothing"
            raise TimeoutError(f"nothing for {within} s; read before: {seen}") from None
        return found

    async def answer(self, stream: int, within: float = PATIENCE_S) -> Answer:
        """All of a stream until its end or reset."""
        answer = Answer()
        while True:
            frame = await self.take(lambda frame: frame.stream == stream and frame.type != h2.WINDOW_UPDATE, within=within)
            if frame.fields is not None:
                answer.blocks.append(frame.fields)
            if frame.type == h2.DATA:
                answer.data += frame.payload
            if frame.type == h2.RST_STREAM:
                answer.reset = frame.number
            if frame.ends_stream or frame.type == h2.RST_STREAM:
                return answer

    async def end(self, within: float = PATIENCE_S) -> Frame | None:
        """Wait until the other side closes the connection; its last GOAWAY, if it sent one."""
        await self.until(lambda: self.ended or None, within)
        return next((frame for frame in reversed(self.seen) if frame.type == h2.GOAWAY), None)

    async def settled(self, within: float = PATIENCE_S) -> None:
        """Wait until the other side has processed all that was sent so far: SETTINGS are acknowledged in their turn.

        Not by a PING: servers count those.
        """
        before = self._settings_sent
        await self.send(h2.settings())
        await self.until(lambda: self._settings_acked >= max(before + 1, self._settings_sent) or None, within)

    @staticmethod
    def _fits(frame: Frame, match: Match | int, stream: int | None) -> bool:
        kind = frame.type == match if isinstance(match, int) else match(frame)
        return kind and (stream is None or frame.stream == stream)

    async def _read(self) -> None:
        try:
            while True:
                head = await self.reader.readexactly(9)
                payload = await self.reader.readexactly(int.from_bytes(head[:3], "big"))
                frame = self._decode(Frame(head[3], head[4], int.from_bytes(head[5:], "big") & 0x7FFFFFFF, payload))
                self._behave(frame)
                self.seen.append(frame)
                self.inbox.append(frame)
                self._news.set()
        except (asyncio.IncompleteReadError, OSError):
            self.ended = True
            self.writer.close()  # Whoever has nothing more to say is not kept waiting.
        finally:
            self._news.set()

    def _decode(self, frame: Frame) -> Frame:
        if frame.type in (h2.DATA, h2.HEADERS) and frame.flags & h2.PADDED:
            frame = frame._replace(payload=frame.payload[1 : len(frame.payload) - frame.payload[0]])
        if frame.type not in (h2.HEADERS, h2.CONTINUATION):
            return frame
        if frame.type == h2.HEADERS:
            skipped = 5 if frame.flags & h2.PRIORITISED else 0
            self._block, self._opener = frame.payload[skipped:], frame
        else:
            self._block += frame.payload
        if not frame.flags & h2.END_HEADERS:
            return frame
        fields = self._decoder.decode(self._block, raw=True)
        text = [(bytes(name).decode("latin-1"), bytes(value).decode("latin-1")) for name, value in fields]
        # A block in many frames shows as one HEADERS frame.
        return self._opener._replace(fields=text, payload=self._block)

    def _behave(self, frame: Frame) -> None:
        if frame.type == h2.SETTINGS and not frame.flags & h2.ACK and self.acks_settings:
            if self._settings_sent:
                self._reply(h2.settings_ack())
            else:
                self._owes_ack = True  # Our own come first.
        elif frame.type == h2.SETTINGS and frame.flags & h2.ACK:
            self._settings_acked += 1
        elif frame.type == h2.PING and not frame.flags & h2.ACK and self.answers_pings:
            self._reply(h2.ping(frame.payload, ack=True))
        elif frame.type == h2.DATA and frame.payload and self.refills:
            length = len(frame.payload)
            self._reply(h2.window_update(0, length) + h2.window_update(frame.stream, length))

    def _count_settings(self, sent: bytes) -> None:
        # What was sent may be cut anywhere; if it is no HTTP/2, the count is of no use to anybody.
        self._sent = (self._sent + sent).removeprefix(h2.PREFACE)
        while len(self._sent) >= 9 and not h2.PREFACE.startswith(self._sent[:9]):
            length = 9 + int.from_bytes(self._sent[:3], "big")
            if len(self._sent) < length:
                break
            self._settings_sent += self._sent[3] == h2.SETTINGS and not self._sent[4] & h2.ACK
            self._sent = self._sent[length:]

    def _reply(self, whole: bytes) -> None:
        # Not in the middle of a frame that is sent in cuts.
        if self._held is None:
            self.writer.write(whole)
        else:
            self._held.append(whole)

    async def close(self) -> None:
        """End the connection, whatever state it is in."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self.writer.transport.abort()
        with contextlib.suppress(OSError, ssl.SSLError):
            await self.writer.wait_closed()


@contextlib.asynccontextmanager
async def connect(
    address: str,
    *,
    settings: dict[int, int] | None = None,
    preface: bytes | None = None,
    tls: ssl.SSLContext | None = None,
    name: str | None = None,
) -> AsyncIterator[Peer]:
    """A connection to "host:port" or "unix:path", its preface sent; `preface=b""` sends nothing."""
    if address.startswith("unix:"):
        reader, writer = await asyncio.open_unix_connection(address.removeprefix("unix:"))
    else:
        host, _, port = address.rpartition(":")
        reader, writer = await asyncio.open_connection(host.strip("[]"), int(port), ssl=tls, server_hostname=name)
    peer = Peer(reader, writer)
    try:
        peer.start()
        await peer.send(h2.PREFACE + h2.settings(settings) if preface is None else preface)
        yield peer
    finally:
        await peer.close()


class Listener:
    """The server role: takes connections, whose prefaces it reads, and hands them out as peers."""

    def __init__(self, settings: dict[int, int], greets: bool) -> None:
        self.settings, self.greets = settings, greets
        self.port = 0
        self.peers: list[Peer] = []
        self._arrived: asyncio.Queue[Peer] = asyncio.Queue()
        self._server: asyncio.Server | None = None

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def accept(self, within: float = PATIENCE_S) -> Peer:
        """The next connection, its preface read and our SETTINGS sent."""
        async with asyncio.timeout(within):
            peer = await self._arrived.get()
            assert await peer.reader.readexactly(len(h2.PREFACE)) == h2.PREFACE
        peer.start()
        if self.greets:
            await peer.send(h2.settings(self.settings))
        return peer

    async def request(self, peer: Peer, within: float = PATIENCE_S) -> Frame:
        """The HEADERS frame of the next call on a connection."""
        return await peer.take(lambda frame: frame.type == h2.HEADERS and frame.fields is not None, within=within)

    def _on_connection(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = Peer(reader, writer)
        self.peers.append(peer)
        self._arrived.put_nowait(peer)

    async def open(self, port: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """Begin to listen."""
        self._server = await asyncio.start_server(self._on_connection, "127.0.0.1", port, ssl=tls)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and end all connections."""
        if self._server is not None:
            self._server.close()
        for peer in self.peers:
            await peer.close()


@contextlib.asynccontextmanager
async def listen(
    settings: dict[int, int] | None = None, *, greets: bool = True, port: int = 0, tls: ssl.SSLContext | None = None
) -> AsyncIterator[Listener]:
    """A listening raw server on 127.0.0.1; with `greets=False` it accepts connections and sends no SETTINGS by itself."""
    listener = Listener(settings or {}, greets)
    await listener.open(port, tls)
    try:
        yield listener
    finally:
        await listener.close()
