"""A channel with `grpc.aio.Channel`'s interface: makes calls, and starts them when there is a connection for them.

Owns the queue of calls that wait. A call fails at once while the server cannot be reached, unless it is `wait_for_ready`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import grpc
import grpc.aio

from kvwire import addresses, compression
from kvwire.call import Call
from kvwire.calls import StreamStreamCall, StreamUnaryCall, UnaryStreamCall, UnaryUnaryCall
from kvwire.client_interceptors import (
    InterceptedStreamStreamCall,
    InterceptedStreamUnaryCall,
    InterceptedUnaryStreamCall,
    InterceptedUnaryUnaryCall,
    by_kind,
    intercepted,
)
from kvwire.client_stream import Status
from kvwire.codes import UNAVAILABLE
from kvwire.credentials import ChannelCredentials
from kvwire.header_block import encode
from kvwire.metadata import encode_metadata, encode_timeout
from kvwire.options import Options
from kvwire.subchannel import IDLE, SHUTDOWN, TRANSIENT_FAILURE, Subchannel

USER_AGENT = "grpc-python-kvwire/1"
CLOSED = "Channel is closed."


class Target:
    """A method as calls to it need it: its headers, encoded once, and how its messages become bytes."""

    __slots__ = ("block", "deserialize", "path", "serialize")

    def __init__(self, channel: Channel, path: str, serialize: Any, deserialize: Any) -> None:
        self.path, self.serialize, self.deserialize = path, serialize, deserialize
        self.block = channel.header_block(path)

    def serialized(self, request: Any) -> bytes:
        """Raises what the serializer raises, TypeError for what is no bytes."""
        data = self.serialize(request) if self.serialize is not None else request
        if not isinstance(data, bytes):
            raise TypeError(f"a request of {self.path} must become bytes, not {type(data).__name__}")
        return data

    def deserialized(self, message: bytes) -> Any:
        """Raises what the deserializer raises."""
        return message if self.deserialize is None else self.deserialize(message)


if TYPE_CHECKING:
    UnaryUnaryBase = grpc.aio.UnaryUnaryMultiCallable[Any, Any]
    UnaryStreamBase = grpc.aio.UnaryStreamMultiCallable[Any, Any]
    StreamUnaryBase = grpc.aio.StreamUnaryMultiCallable[Any, Any]
    StreamStreamBase = grpc.aio.StreamStreamMultiCallable[Any, Any]
else:  # (grpcio 1.76 has them without parameters.)
    UnaryUnaryBase, UnaryStreamBase = grpc.aio.UnaryUnaryMultiCallable, grpc.aio.UnaryStreamMultiCallable
    StreamUnaryBase, StreamStreamBase = grpc.aio.StreamUnaryMultiCallable, grpc.aio.StreamStreamMultiCallable


class _MultiCallable:
    """What makes calls of one method."""

    _kind: Callable[..., Any]
    _intercepted: type[Any]
    _interception: str

    def __init__(self, channel: Channel, path: str, serialize: Any, deserialize: Any) -> None:
        self._channel = channel
        self._target = Target(channel, path, serialize, deserialize)
        self._interceptors = channel.interceptors[self._interception]

    def __call__(
        self,
        request: Any = None,
        timeout: float | None = None,
        metadata: Any = None,
        credentials: grpc.CallCredentials | None = None,
        wait_for_ready: bool | None = None,
        compression: grpc.Compression | None = None,
    ) -> Any:
        """A call that is under way. Raises ValueError for metadata that cannot be sent, UsageError on a closed channel."""
        if credentials is not None:
            raise ValueError("kvwire has no call credentials: put them into the metadata")
        if not self._interceptors:
            return self._channel.make(self._kind, self._target, request, timeout, metadata, bool(wait_for_ready), compression)

        def make(details: Any, request: Any) -> Any:
            target, path = self._target, _text(details.method)
            if path != target.path:
                target = Target(self._channel, path, target.serialize, target.deserialize)
            ready = bool(details.wait_for_ready)
            return self._channel.make(self._kind, target, request, details.timeout, details.metadata, ready, compression)

        given = grpc.aio.Metadata.from_tuple(tuple(metadata or ()))
        path: Any = self._target.path.encode()  # (As grpcio has it; its stubs say text.)
        details = grpc.aio.ClientCallDetails(path, timeout, given, None, wait_for_ready)
        loop = asyncio.get_running_loop()
        return intercepted(self._intercepted, self._interceptors, self._interception, make, details, request, loop)


def _text(path: str | bytes) -> str:
    return path.decode() if isinstance(path, bytes) else path


class UnaryUnaryMultiCallable(_MultiCallable, UnaryUnaryBase):
    """One request, one response."""

    _kind, _intercepted, _interception = UnaryUnaryCall, InterceptedUnaryUnaryCall, "intercept_unary_unary"


class UnaryStreamMultiCallable(_MultiCallable, UnaryStreamBase):
    """One request, a stream of responses."""

    _kind, _intercepted, _interception = UnaryStreamCall, InterceptedUnaryStreamCall, "intercept_unary_stream"


class StreamUnaryMultiCallable(_MultiCallable, StreamUnaryBase):
    """A stream of requests, one response."""

    _kind, _intercepted, _interception = StreamUnaryCall, InterceptedStreamUnaryCall, "intercept_stream_unary"


class StreamStreamMultiCallable(_MultiCallable, StreamStreamBase):
    """A stream of requests, a stream of responses."""

    _kind, _intercepted, _interception = StreamStreamCall, InterceptedStreamStreamCall, "intercept_stream_stream"


class Channel(grpc.aio.Channel):
    """See grpc.aio's documentation. Belongs to the event loop on which it is first used."""

    def __init__(
        self,
        target: str,
        credentials: ChannelCredentials | None,
        options: Sequence[tuple[str, Any]] | None,
        default_compression: grpc.Compression | None,
        interceptors: Sequence[Any] | None,
    ) -> None:
        self.options = Options(options)
        self.interceptors = by_kind(interceptors)
        self._credentials, self._compression = credentials, default_compression
        self._address = addresses.parse(target)
        self._waiting: dict[Call, None] = {}
        self._subchannel: Subchannel | None = None
        self.loop: asyncio.AbstractEventLoop
        """The event loop of this channel, once it is used."""
        self._closed = False
        self._closing: asyncio.Task[None] | None = None

    # ---- making calls ------------------------------------------------------------------------------------------------

    def header_block(self, path: str) -> bytes:
        """The headers that all calls of a method begin with."""
        authority = self.options.authority or self.options.target_name or self._address.authority
        user_agent = f"{self.options.user_agent} {USER_AGENT}".strip()
        fields = (
            (b":method", b"POST"),
            (b":scheme", b"http" if self._credentials is None else b"https"),
            (b":path", path.encode()),
            (b":authority", authority.encode()),
            (b"te", b"trailers"),
            (b"content-type", b"application/grpc"),
            (b"user-agent", user_agent.encode()),
            (b"grpc-accept-encoding", compression.ACCEPTED),
        )
        return b"".join(encode(name, value) for name, value in fields)

    def make(
        self,
        kind: Callable[..., Any],
        target: Target,
        request: Any,
        timeout: float | None,
        metadata: Any,
        wait_for_ready: bool,
        wish: grpc.Compression | None,
    ) -> Any:
        """A call that is under way."""
        if self._closed:
            raise grpc.aio.UsageError(CLOSED)
        if self._subchannel is None:
            self._open()
        block, encoding = target.block, compression.IDENTITY
        if timeout is not None:
            block += encode(b"grpc-timeout", encode_timeout(timeout))
        if metadata:
            block += encode_metadata(metadata)
        wish = self._compression if wish is None else wish
        if wish is not None:
            encoding = compression.encoding_of(wish)
            if encoding != compression.IDENTITY:
                block += encode(b"grpc-encoding", encoding)
        call = kind(request, self, target, block, timeout, wait_for_ready, encoding)
        if not call.done():
            self.start(call)
        return call

    def _open(self) -> Subchannel:
        if self._subchannel is None:
            self.loop = asyncio.get_running_loop()
            self._subchannel = Subchannel(
                self.loop, self._address, self._credentials, self.options, self._start_waiting, self._fail_waiting
            )
        return self._subchannel

    def start(self, call: Call) -> None:
        """Starts a call, now or as soon as there is a connection with room for it."""
        subchannel = self._subchannel or self._open()
        connection = subchannel.connection
        if connection is not None and not self._waiting:
            call.begin(connection)
        elif self._closed:
            self.loop.call_soon(call.end, Status(UNAVAILABLE, CLOSED))
        elif subchannel.state is TRANSIENT_FAILURE and not call.wait_for_ready:
            # Not at once: who tries again and again must not keep the event loop from connecting.
            self.loop.call_soon(call.end, Status(UNAVAILABLE, subchannel.why_failed))
        else:
            self._waiting[call] = None
            subchannel.connect()

    def withdraw(self, call: Call) -> None:
        """A call that waited has ended."""
        self._waiting.pop(call, None)

    def _start_waiting(self) -> None:
        waiting, subchannel = self._waiting, self._open()
        while waiting:
            connection = subchannel.connection
            if connection is None:
                subchannel.connect()
                return
            call = next(iter(waiting))
            del waiting[call]
            call.begin(connection)

    def _fail_waiting(self, why: str) -> None:
        for call in [call for call in self._waiting if not call.wait_for_ready]:
            call.end(Status(UNAVAILABLE, why))

    # ---- grpc.aio.Channel --------------------------------------------------------------------------------------------

    def unary_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: Any = False
    ) -> UnaryUnaryMultiCallable:
        """Makes calls with one request and one response."""
        return UnaryUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def unary_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: Any = False
    ) -> UnaryStreamMultiCallable:
        """Makes calls with one request and a stream of responses."""
        return UnaryStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_unary(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: Any = False
    ) -> StreamUnaryMultiCallable:
        """Makes calls with a stream of requests and one response."""
        return StreamUnaryMultiCallable(self, method, request_serializer, response_deserializer)

    def stream_stream(
        self, method: str, request_serializer: Any = None, response_deserializer: Any = None, _registered_method: Any = False
    ) -> StreamStreamMultiCallable:
        """Makes calls with a stream of requests and a stream of responses."""
        return StreamStreamMultiCallable(self, method, request_serializer, response_deserializer)

    def get_state(self, try_to_connect: bool = False) -> grpc.ChannelConnectivity:
        """The state; `try_to_connect`: and connects when idle."""
        if self._closed:
            return SHUTDOWN
        if try_to_connect:
            self._open().connect()
        return IDLE if self._subchannel is None else self._subchannel.state

    async def wait_for_state_change(self, last_observed_state: grpc.ChannelConnectivity) -> None:
        """Waits until the state is another one. Raises UsageError on a closed channel, whose state is the last."""
        if self._closed:
            raise grpc.aio.UsageError(CLOSED)
        while self.get_state() is last_observed_state:
            await self._open().changed()

    async def channel_ready(self) -> None:
        """Connects, and waits until that has succeeded."""
        while (state := self.get_state(try_to_connect=True)) is not grpc.ChannelConnectivity.READY:
            if state is SHUTDOWN:
                raise grpc.aio.UsageError(CLOSED)
            await self.wait_for_state_change(state)

    async def __aenter__(self) -> Channel:
        """The channel."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Closes it."""
        await self.close()

    async def close(self, grace: float | None = None) -> None:
        """Takes no more calls; those under way get `grace` seconds, and are cancelled then."""
        if grace is not None and grace < 0:
            raise ValueError(f"grace must be non-negative, got {grace}")
        self._closed = True
        if self._subchannel is not None:
            if self._closing is None:
                self._closing = asyncio.get_running_loop().create_task(self._close(self._subchannel, grace))
            await asyncio.shield(self._closing)  # Whoever gives up waiting leaves nothing half closed.

    async def _close(self, subchannel: Subchannel, grace: float | None) -> None:
        calls = [*self._waiting, *subchannel.calls()]
        if grace and calls:
            await asyncio.wait([asyncio.ensure_future(call.code()) for call in calls], timeout=grace)
        for call in calls:
            call.cancel()
        await subchannel.close()


def insecure_channel(
    target: str,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = None,
) -> Channel:
    """A channel without TLS, as `grpc.aio.insecure_channel` makes one."""
    return Channel(target, None, options, compression, interceptors)


def secure_channel(
    target: str,
    credentials: Any,
    options: Sequence[tuple[str, Any]] | None = None,
    compression: grpc.Compression | None = None,
    interceptors: Sequence[Any] | None = None,
) -> Channel:
    """A channel over TLS; `credentials`: `kvwire.ssl_channel_credentials`."""
    if not isinstance(credentials, ChannelCredentials):
        raise TypeError("kvwire's own credentials are needed: kvwire.ssl_channel_credentials(...), with grpc's arguments")
    return Channel(target, credentials, options, compression, interceptors)
