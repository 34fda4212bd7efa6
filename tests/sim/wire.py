"""gRPC without its bytes on a wire: a server that takes grpc.aio's servicers, and channels for its stubs, over `network`.

Owns: connections (made, refused, lost, given up), unary calls on them with deadlines, cancellation, status and metadata, and
what grpcio answers by itself. Never: looks into a message, or carries a stream of messages: who opens one gets an error.

Both sides are as grpcio has them, since the SDK concludes from gRPC's own words what may have happened:
- A call waits for its channel's connection. Only where that could not be made at all gRPC says "failed to connect", and then
  the call was not sent; until the channel has a connection again it says so at once. All that is lost later is in doubt.
- A call's deadline holds on both sides: the server counts the caller's remaining time from the arrival, and cancels the
  handler then. It also cancels it when the caller's cancellation arrives, and sends no answer.
- A connection leads to one life of a process. What arrives for an earlier life is answered with a reset.
- A server that stops takes no new calls, lets those under way end, and cancels what is left after its grace.
"""

from __future__ import annotations

import asyncio
import contextvars
import math
from collections.abc import Callable, Generator, Iterable
from typing import Any, NamedTuple, NoReturn

import grpc
import grpc.aio

from kvnode.runtime.transport import PeerUnreachable

from .network import Endpoint, Network
from .places import ANSWERED, ARRIVED

CONNECT_S_MAX = 1.0
"""An attempt to connect lasts at most so long; both of kvnode's kinds of channels have about that."""
BACKOFF_S_MIN, BACKOFF_S_MAX, BACKOFF_FACTOR, BACKOFF_JITTER = 0.1, 2.0, 1.6, 0.2
"""Between attempts to connect, as gRPC's connection-backoff.md has it, with the SDK's bounds."""

Code = grpc.StatusCode
Pairs = tuple[tuple[str, str | bytes], ...]
Watch = Callable[[Any], Callable[[Any], None]]
"""Is called with a request, and gives what is called with its response."""


class Status(NamedTuple):
    """How a call ended."""

    code: grpc.StatusCode
    details: str = ""
    trailing: Pairs = ()
    response: bytes = b""


OVERDUE = Status(Code.DEADLINE_EXCEEDED, "Deadline Exceeded")
CANCELLED = Status(Code.CANCELLED, "Locally cancelled by application!")


def checked(metadata: Iterable[tuple[str, str | bytes]] | None) -> Pairs:
    """Metadata as gRPC takes it: lower-case keys, bytes where the key says so. Raises TypeError or ValueError."""
    pairs = tuple((key, value) for key, value in metadata or ())
    for key, value in pairs:
        if key != key.lower() or not key:
            raise ValueError(f"metadata key {key!r} is not in lower case")
        if isinstance(value, bytes) is not key.endswith("-bin"):
            raise TypeError(f"metadata {key!r} is {type(value).__name__}: bytes go with keys in -bin, str with all others")
    return pairs


# ---- the server ---------------------------------------------------------------------------------------------------------


class ServerContext:
    """What a handler learns of its call: as much of `grpc.aio.ServicerContext` as unary handlers may use."""

    def __init__(self, network: Network, metadata: Pairs, timeout: float, answer: Callable[[Status], None], peer: str) -> None:
        self._network, self._metadata, self._answer, self._peer = network, metadata, answer, peer
        self._deadline = network._loop.now + timeout
        self._code, self._details = Code.OK, ""
        self._trailing: Pairs = ()
        self.aborted: grpc.aio.AbortError | None = None

    def time_remaining(self) -> float | None:
        """Seconds that the caller still waits; None: for ever."""
        return None if self._deadline == math.inf else max(self._deadline - self._network._loop.now, 0.0)

    def invocation_metadata(self) -> Pairs:
        """What the caller sent with the request."""
        return self._metadata

    def peer(self) -> str:
        """Who asks."""
        return self._peer

    def set_code(self, code: grpc.StatusCode) -> None:
        """The status that the call ends with."""
        self._code = code

    def code(self) -> grpc.StatusCode:
        """See `set_code`."""
        return self._code

    def set_details(self, details: str) -> None:
        """The status's words."""
        self._details = details

    def details(self) -> str:
        """See `set_details`."""
        return self._details

    def set_trailing_metadata(self, metadata: Iterable[tuple[str, str | bytes]]) -> None:
        """What is sent with the status."""
        self._trailing = checked(metadata)

    def trailing_metadata(self) -> Pairs:
        """See `set_trailing_metadata`."""
        return self._trailing

    async def abort(
        self, code: grpc.StatusCode, details: str = "", trailing_metadata: Iterable[tuple[str, str | bytes]] = ()
    ) -> NoReturn:
        """Ends the call here and now; never returns."""
        if self.aborted is not None:
            raise grpc.aio.UsageError("Abort already called!")
        if code is Code.OK:
            raise ValueError("a call is not aborted with OK")
        self.aborted = grpc.aio.AbortError("Locally aborted.")
        self._trailing = checked(trailing_metadata) or self._trailing
        self._answer(Status(code, details or self._details, self._trailing))
        raise self.aborted

    async def abort_with_status(self, status: Any) -> NoReturn:
        """As grpc.aio has it: not at all."""
        raise NotImplementedError("grpc.aio does not implement abort_with_status")

    def status_of(self, response: bytes) -> Status:
        """How the call ends whose handler has returned."""
        return Status(self._code, self._details, self._trailing, response if self._code is Code.OK else b"")


class _ServerCall:
    """One call, where it is served."""

    def __init__(self, connection: _Connection, number: int, path: str, metadata: Pairs, timeout: float) -> None:
        self.connection, self.number, self.path, self.metadata, self.timeout = connection, number, path, metadata, timeout
        self.task: asyncio.Task[None] | None = None
        self.answered = False

    def answer(self, status: Status) -> None:
        """Sends the status to the caller, once."""
        if not self.answered:
            self.answered = True
            self.connection.on_answer(f"{self.path.rsplit('/', 1)[1]} {ANSWERED}")
            self.connection.send_status(self.number, status)

    def cancel(self) -> None:
        """The caller is gone, or its time is over: nothing is sent any more."""
        if self.task is not None and not self.task.done():
            self.answered = True
            self.connection.network.faults["handler cancelled"] += 1
            self.task.cancel()


class SimulatedServer:
    """Takes servicers as `grpc.aio.server` does. Belongs to one life of a node."""

    def __init__(self, network: Network, watch: Watch | None = None) -> None:
        self._network, self._watch = network, watch
        self._generic: list[grpc.GenericRpcHandler] = []
        self._registered: dict[str, Any] = {}
        self.calls: dict[_ServerCall, None] = {}
        self.connections: dict[_Connection, None] = {}

    def add_generic_rpc_handlers(self, handlers: Iterable[grpc.GenericRpcHandler]) -> None:
        """As grpc.aio's."""
        self._generic += handlers

    def add_registered_method_handlers(self, service: str, handlers: dict[str, Any]) -> None:
        """As grpc.aio's."""
        self._registered |= {f"/{service}/{name}": handler for name, handler in handlers.items()}

    def _handler_of(self, path: str, metadata: Pairs) -> Any:
        if path in self._registered:
            return self._registered[path]

        class Details(grpc.HandlerCallDetails):
            method, invocation_metadata = path, metadata

        return next((found for each in self._generic if (found := each.service(Details())) is not None), None)

    async def serve(self, call: _ServerCall, data: bytes) -> None:
        """Runs a handler, to its answer."""
        self.calls[call] = None
        try:
            await self._serve(call, data)
        except asyncio.CancelledError:
            # Whoever cancelled has set `answered`; a handler that raises this by itself ends its stream without a status.
            call.answer(Status(Code.CANCELLED, "Received RST_STREAM with error code 8"))
            raise
        finally:
            self.calls.pop(call, None)

    async def _serve(self, call: _ServerCall, data: bytes) -> None:
        handler = self._handler_of(call.path, call.metadata)
        if handler is None:
            call.answer(Status(Code.UNIMPLEMENTED, "Method not found!"))
            return
        if handler.request_streaming or handler.response_streaming:
            raise NotImplementedError(f"{call.path} is a stream: streams are not simulated")
        request = handler.request_deserializer(data)
        watched = self._watch(request) if self._watch is not None else None
        peer = f"simulated:{call.connection.source}"
        context = ServerContext(self._network, call.metadata, call.timeout, call.answer, peer)
        try:
            response = await handler.unary_unary(request, context)
        except Exception as error:
            if error is not context.aborted:
                code = Code.UNKNOWN if context.code() is Code.OK else context.code()
                call.answer(Status(code, f"Unexpected {type(error)}: {error}", context.trailing_metadata()))
                raise
            return
        if context.aborted is not None:
            raise RuntimeError(f"{call.path}: the handler went on after it had aborted the call")
        if watched is not None:
            watched(response)
        call.answer(context.status_of(handler.response_serializer(response)))

    async def stop(self, grace: float) -> None:
        """Tells its connections that it goes, waits for calls under way, and cancels what is left after `grace` seconds.

        Unregister the node before this.
        """
        for connection in list(self.connections):
            connection.send_goaway()
        tasks = [call.task for call in self.calls if call.task is not None]
        if tasks:
            await asyncio.wait(tasks, timeout=grace)
        for call in list(self.calls):
            call.answer(Status(Code.UNAVAILABLE, "Cancelling all calls"))
            call.cancel()


# ---- connections --------------------------------------------------------------------------------------------------------


class _Connection:
    """One connection of a channel to one life of a node, from the first attempt to its end."""

    def __init__(self, channel: SimulatedChannel) -> None:
        """Begins to connect. Raises PeerUnreachable if this side is gone."""
        self.network, self.source, self.target = channel.network, channel.endpoint.name, channel.target
        self._channel, self._endpoint = channel, channel.endpoint
        self.calls: dict[int, SimulatedCall] = {}
        self.ready = self.ended = self.leaving = False
        self._life = -1
        self._server: SimulatedServer | None = None
        self._served: dict[int, _ServerCall] = {}
        # Known to the network as a call that has no answer, and ends when either side dies.
        self._line = self.network._open(self._endpoint, self.target, math.inf)
        self._stream = f"connection {self._line.number}"
        assert self._line.future is not None
        self._line.future.add_done_callback(self._on_broken)
        self._timer = self.network._loop.call_at_true(self.network._loop.now + CONNECT_S_MAX, self._on_connect_timeout)
        self._send(self.source, self.target, 0, self._on_syn)

    def _send(self, source: str, target: str, size: int, deliver: Callable[..., None], *args: Any) -> None:
        self.network._send(source, target, size, deliver, *args, stream=self._stream)

    def _reply(self, size: int, deliver: Callable[..., None], *args: Any) -> None:
        self._send(self.target, self.source, size, deliver, *args)

    # (What runs at the server's side.)

    def _on_syn(self) -> None:
        node = self.network._node(self.target)
        if node.server is None or node.context is None:
            self.network.faults["nobody there"] += 1
            if self.network._rng.random() < self.network._link(self.target, self.source).quality.reset_probability:
                self._reply(0, self._on_refused)
            return
        self._life, self._server = node.life, node.server
        node.server.connections[self] = None
        self._reply(0, self._on_ready)

    def _on_request(self, number: int, path: str, data: bytes, metadata: Pairs, timeout: float) -> None:
        node, server = self.network._node(self.target), self._server
        if node.life != self._life or server is None:
            self._reply(0, self.end, "recvmsg:Connection reset by peer")
            return
        if node.server is None or node.context is None:
            self._reply(0, self.end, "GOAWAY received")
            return
        if self.network.on_place(self.target, f"{path.rsplit('/', 1)[1]} {ARRIVED}"):
            return
        call = self._served[number] = _ServerCall(self, number, path, metadata, timeout)
        loop, name = self.network._loop, f"{self.target}:{path}#{self._line.number}.{number}"
        call.task = loop.create_task(server.serve(call, data), name=name, context=node.context.copy())
        self._line.handlers.append(call.task)
        deadline = self.network._later(timeout, call.cancel) if timeout < math.inf else None

        def forget(task: asyncio.Task[None]) -> None:
            self._served.pop(number, None)
            if task in self._line.handlers:
                self._line.handlers.remove(task)
            if deadline is not None:
                deadline.cancel()

        call.task.add_done_callback(forget, context=self.network._context)

    def _on_cancel(self, number: int) -> None:
        call = self._served.get(number)
        if call is not None:
            call.cancel()

    def on_answer(self, place: str) -> None:
        """A call is about to be answered."""
        if self.network._node(self.target).life == self._life:
            self.network.on_place(self.target, place)

    def send_status(self, number: int, status: Status) -> None:
        """A call's answer leaves, unless the process that made it is no more."""
        if self.network._node(self.target).life == self._life:
            self._reply(100 + len(status.response), self._on_status, number, status)

    def send_goaway(self) -> None:
        """The server takes no new calls."""
        if self.network._node(self.target).life == self._life:
            self._reply(0, self._on_goaway)

    # (What runs at the caller's side.)

    def begin(self, call: SimulatedCall) -> None:
        """A call wants to be sent: now, or as soon as the connection is there."""
        self.calls[call.number] = call
        if self.ready:
            self._transmit(call)

    def _transmit(self, call: SimulatedCall) -> None:
        call.sent = True
        arguments = call.number, call.path, call.data, call.metadata, call.deadline - self.network._loop.now
        self._send(self.source, self.target, len(call.data), self._on_request, *arguments)

    def drop(self, call: SimulatedCall) -> None:
        """The caller is done with a call; whoever serves it is told."""
        del self.calls[call.number]
        if call.sent and not self.ended:
            self._send(self.source, self.target, 0, self._on_cancel, call.number)
        self._end_if_left()

    def _on_ready(self) -> None:
        if self.ended:
            return
        self._timer.cancel()
        self.ready = True
        self._channel.on_ready()
        for call in list(self.calls.values()):
            self._transmit(call)

    def _on_status(self, number: int, status: Status) -> None:
        call = self.calls.pop(number, None)
        if call is not None:
            call.finish(status)
        self._end_if_left()

    def _on_goaway(self) -> None:
        if not self.ended:
            self.leaving = True
            self._channel.on_gone(self)
            self._end_if_left()

    def _end_if_left(self) -> None:
        if self.leaving and not self.calls:
            self.end("the connection is no longer needed")

    def _on_refused(self) -> None:
        self._fail("Failed to connect to remote host: connect: Connection refused (111)")

    def _on_connect_timeout(self) -> None:
        self._fail("connection attempt timed out before receiving SETTINGS frame")

    def _fail(self, why: str) -> None:
        if not self.ended and not self.ready:
            address = f"ipv4:{self._channel.address}"
            self._channel.on_failed(f"failed to connect to all addresses; last error: UNKNOWN: {address}: {why}")
            self.end(self._channel.failed)

    def _on_broken(self, line: asyncio.Future[Any]) -> None:
        if line.cancelled() or line.exception() is None:
            return
        if self.ready:
            self.end("Socket closed")
        else:
            self._fail("Failed to connect to remote host: connect: Connection reset by peer (104)")

    def reset(self) -> None:
        """Both sides lose it, each at its own time: answers on their way are lost, handlers are cancelled."""
        for call in list(self._served.values()):
            self.network._later(self.network._rng.expovariate(1 / 0.01), call.cancel)
        self.end("recvmsg:Connection reset by peer")

    def end(self, why: str) -> None:
        """It is over: calls on it fail."""
        if self.ended:
            return
        self.ended = True
        self._timer.cancel()
        self.network._calls.pop(self._line.number, None)
        self._endpoint.calls.pop(self._line.number, None)
        if self._line.future is not None:
            self._line.future.cancel()
        if self._server is not None:
            self._server.connections.pop(self, None)
        self._channel.on_gone(self)
        calls, self.calls = self.calls, {}
        for call in calls.values():
            call.finish(Status(Code.UNAVAILABLE, why))


# ---- the caller ---------------------------------------------------------------------------------------------------------


class SimulatedChannel:
    """`grpc.aio.Channel` as generated stubs use it. `address` is what the server's words name, "host:port"."""

    def __init__(self, network: Network, endpoint: Endpoint, target: str, address: str) -> None:
        self.network, self.endpoint, self.target, self.address = network, endpoint, target, address
        self.failed = ""
        """Why there was no connection the last time; empty: there was one, or nobody tried."""
        self.closed = False
        self._connection: _Connection | None = None
        self._calls: dict[SimulatedCall, None] = {}
        self._number = 0
        self._backoff_s = BACKOFF_S_MIN
        self._retry: asyncio.TimerHandle | None = None
        self._context = contextvars.copy_context()
        """Of the process that it belongs to: when that stands still, so does the channel."""

    def unary_unary(
        self,
        method: str,
        request_serializer: Callable[[Any], bytes] | None = None,
        response_deserializer: Callable[[bytes], Any] | None = None,
        _registered_method: bool | None = False,
    ) -> Callable[..., SimulatedCall]:
        """A stub's method."""

        def call(
            request: Any, *, timeout: float | None = None, metadata: Iterable[tuple[str, str | bytes]] | None = None
        ) -> SimulatedCall:
            if self.closed:
                raise grpc.aio.UsageError("Channel is closed.")
            data = request if request_serializer is None else request_serializer(request)
            self._number += 1
            deadline = math.inf if timeout is None else self.network._loop.now + timeout
            made = SimulatedCall(self, self._number, method, data, response_deserializer, deadline, checked(metadata))
            self._calls[made] = None
            self.network._loop.call_soon(self._begin, made)
            return made

        return call

    def _refuse_streams(self, method: str, *_: Any, **__: Any) -> Callable[..., NoReturn]:
        def call(*_: Any, **__: Any) -> NoReturn:
            raise NotImplementedError(f"{method} is a stream: streams are not simulated")

        return call

    unary_stream = stream_unary = stream_stream = _refuse_streams

    def _begin(self, call: SimulatedCall) -> None:
        if call.done():
            return
        if call.deadline <= self.network._loop.now:
            call.finish(OVERDUE)
        elif self.failed:
            call.finish(Status(Code.UNAVAILABLE, self.failed))
        else:
            if self._connection is None:
                self._connect()
            if self._connection is not None:
                call.connection = self._connection
                self._connection.begin(call)
            else:
                call.finish(Status(Code.UNAVAILABLE, self.failed))

    def _connect(self) -> None:
        self._retry = None
        if not self.closed:
            try:
                self._connection = _Connection(self)
            except PeerUnreachable as error:
                self.failed = str(error)

    def on_ready(self) -> None:
        """There is a connection."""
        self.failed, self._backoff_s = "", BACKOFF_S_MIN

    def on_failed(self, why: str) -> None:
        """There could be none. gRPC tries again by itself, and until that works every call fails at once."""
        self.failed = why
        pause = self._backoff_s * self.network._rng.uniform(1 - BACKOFF_JITTER, 1 + BACKOFF_JITTER)
        self._backoff_s = min(self._backoff_s * BACKOFF_FACTOR, BACKOFF_S_MAX)
        if not self.closed:
            self._retry = self.network._loop.call_at_true(self.network._loop.now + pause, self._connect, context=self._context)

    def on_gone(self, connection: _Connection) -> None:
        """Another one is made with the next call."""
        if self._connection is connection:
            self._connection = None

    def on_finished(self, call: SimulatedCall) -> None:
        """A call ended."""
        self._calls.pop(call, None)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """As grpc.aio's."""
        if self.closed:
            return grpc.ChannelConnectivity.SHUTDOWN
        if self.failed:
            return grpc.ChannelConnectivity.TRANSIENT_FAILURE
        if self._connection is None:
            return grpc.ChannelConnectivity.IDLE
        return grpc.ChannelConnectivity.READY if self._connection.ready else grpc.ChannelConnectivity.CONNECTING

    async def close(self, grace: float | None = None) -> None:
        """Cancels calls under way, then closes."""
        self.closed = True
        if self._retry is not None:
            self._retry.cancel()
        for call in list(self._calls):
            call.cancel()
        if self._connection is not None:
            self._connection.end("Channel closed")


class SimulatedCall:
    """`grpc.aio.UnaryUnaryCall`."""

    def __init__(
        self,
        channel: SimulatedChannel,
        number: int,
        path: str,
        data: bytes,
        deserialize: Callable[[bytes], Any] | None,
        deadline: float,
        metadata: Pairs,
    ) -> None:
        self.number, self.path, self.data, self.deadline, self.metadata = number, path, data, deadline, metadata
        self.connection: _Connection | None = None
        self.sent = False
        self._channel, self._deserialize = channel, deserialize
        loop = channel.network._loop
        self._status: asyncio.Future[Status] = loop.create_future()
        self._timer = loop.call_at_true(deadline, self._give_up, OVERDUE) if deadline < math.inf else None

    def finish(self, status: Status) -> None:
        """The call has ended."""
        if not self._status.done():
            self._status.set_result(status)
            if self._timer is not None:
                self._timer.cancel()
            self._channel.on_finished(self)

    def _give_up(self, status: Status) -> None:
        """This side ends it."""
        if status is OVERDUE:
            self._channel.network.faults["deadline exceeded"] += 1
        self.finish(status)
        if self.connection is not None and self.number in self.connection.calls:
            self.connection.drop(self)

    def __await__(self) -> Generator[Any, None, Any]:
        try:
            status = yield from asyncio.shield(self._status).__await__()
        except asyncio.CancelledError:
            self.cancel()
            raise
        if status is CANCELLED:
            raise asyncio.CancelledError
        if status.code is not Code.OK:
            metadata = grpc.aio.Metadata(*status.trailing)
            raise grpc.aio.AioRpcError(status.code, grpc.aio.Metadata(), metadata, status.details)
        return status.response if self._deserialize is None else self._deserialize(status.response)

    def cancel(self) -> bool:
        """Ends the call; False: it had ended."""
        if self._status.done():
            return False
        self._give_up(CANCELLED)
        return True

    def cancelled(self) -> bool:
        """Whether this side cancelled it."""
        return self._status.done() and self._status.result() is CANCELLED

    def done(self) -> bool:
        """Whether it has ended."""
        return self._status.done()

    def time_remaining(self) -> float | None:
        """Seconds; None: it has no deadline."""
        return None if self.deadline == math.inf else max(self.deadline - self._channel.network._loop.now, 0.0)

    async def code(self) -> grpc.StatusCode:
        """The status, when it is there."""
        return (await asyncio.shield(self._status)).code

    async def details(self) -> str:
        """The status's words."""
        return (await asyncio.shield(self._status)).details

    async def initial_metadata(self) -> grpc.aio.Metadata:
        """None is ever sent."""
        await asyncio.shield(self._status)
        return grpc.aio.Metadata()

    async def trailing_metadata(self) -> grpc.aio.Metadata:
        """What came with the status."""
        return grpc.aio.Metadata(*(await asyncio.shield(self._status)).trailing)
