"""A simulated network between nodes: the transport's interface, and everything a network can do to it.

Owns: messages on their way, links and their quality, cuts, flapping, crashes as the network sees them, and the count of each
kind of fault. Never: looks into a message, shares an object between two nodes (each side parses its own copy), or orders two
messages unless their link is said to be ordered, or they are of one of the STREAMED types.

Invariants: a call ends: with the answer, with what the handler raised, or with PeerUnreachable at its timeout at the latest.
An answer of a handler that began before its node crashed may arrive, one that is made after the crash never does. Messages
on their way do not depend on whether the sender still lives or is paused.

What a caller sees as PeerUnreachable says nothing about the request: it may have been handled, once or twice, or still be.
"""

from __future__ import annotations

import asyncio
import contextvars
import random
from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from google.protobuf.message import Message

from kvapi.v1.replication_pb2 import InstallSnapshotRequest, InstallSnapshotResponse
from kvnode.errors import KvnodeError
from kvnode.runtime.transport import PeerUnreachable

from .loop import SimulatedLoop
from .places import ANSWERED, ARRIVED, HEARD, SENT, PowerCut, name_of_message
from .trace import Trace

if TYPE_CHECKING:
    from .wire import SimulatedServer

Handler = Callable[[Any], Awaitable[Any]]
SnapshotHandler = Callable[[AsyncIterator[InstallSnapshotRequest]], Awaitable[InstallSnapshotResponse]]
ForwardHandler = Callable[[Any, float, int], Awaitable[Any]]
"""Takes a client's request, the seconds that its caller still waits, and how often the request was forwarded."""

STREAMED = ("AppendRequest", "HeartbeatRequest")
"""Requests that travel on long-lived streams: between two nodes those of one type arrive in the order of the calls, unless
lost, and their handlers are not cancelled when a caller stops waiting."""


KEEPALIVE_S = 15.0
"""A connection on which nothing comes through is given up after so long, as `grpc_transport` configures it."""


@dataclass(frozen=True)
class LinkQuality:
    """How one direction of one link behaves. Probabilities are per message, 0 to 1."""

    latency_s_min: float = 100e-6
    latency_s_mean: float = 400e-6
    """Exponential above the minimum: two messages overtake each other now and then."""
    spike_probability: float = 0.001
    spike_s_max: float = 0.050
    """A spike delays a message by up to so much: a retransmission, a busy switch."""
    loss_probability: float = 0.0
    duplicate_probability: float = 0.0
    """The handler is invoked a second time, some time later; only the first answer counts."""
    reset_probability: float = 0.3
    """A request that finds nobody is refused at once with this probability; else its caller waits for the timeout."""
    bandwidth_bytes_per_s: float = float("inf")
    ordered: bool = False
    """Messages do not overtake each other, as on one TCP connection."""

    @classmethod
    def randomized(cls, rng: random.Random) -> LinkQuality:
        """Anything from a good network to a bad one."""
        bad = rng.random() < 0.5
        return cls(
            latency_s_mean=10 ** rng.uniform(-4, -2),
            spike_probability=10 ** rng.uniform(-4, -1.5),
            spike_s_max=10 ** rng.uniform(-2, 0.3),
            loss_probability=10 ** rng.uniform(-4, -1) if bad else 0.0,
            duplicate_probability=10 ** rng.uniform(-4, -1) if bad else 0.0,
            reset_probability=rng.random(),
            ordered=rng.random() < 0.3,
        )


class _Link:
    """One direction between two nodes."""

    def __init__(self, quality: LinkQuality) -> None:
        self.quality = quality
        self.is_cut = False
        self.flapping = 0
        """Number of the flapping that is on; 0: none."""
        self.last_arrival = 0.0
        self.last_arrivals: dict[str, float] = {}
        """By stream."""


@dataclass
class _Node:
    """What the network knows of a node: which life it is in, and who handles its messages."""

    life: int = 0
    handler: Handler | None = None
    install_snapshot: SnapshotHandler | None = None
    forward: ForwardHandler | None = None
    server: SimulatedServer | None = None
    context: contextvars.Context | None = None


class _Call:
    """One call on its way. `future` is what the caller waits for."""

    def __init__(self, number: int, source: str, target: str, source_life: int, deadline: float) -> None:
        self.number, self.source, self.target = number, source, target
        self.source_life, self.deadline = source_life, deadline
        self.future: asyncio.Future[Any] | None = None
        self.handlers: list[asyncio.Task[None]] = []
        self.name = ""
        """What its request is called in the names of places; nothing: it has none."""
        self.cancels_handlers = True
        """Whether handlers are cancelled when the caller stops waiting, as those of unary gRPC calls are."""


class Network:
    """All links between all nodes. Counts faults by kind in `faults`, messages in `messages`."""

    def __init__(
        self,
        loop: SimulatedLoop,
        rng: random.Random,
        *,
        quality: LinkQuality | None = None,
        trace: Trace | None = None,
    ) -> None:
        """Make the network outside of all groups: its timers must go on when a node is paused or killed."""
        self.on_place: Callable[[str, str], bool] = lambda node, place: False
        """Told whenever a message comes to a place of a node's life (see `places`); true: the node is dead now."""
        self.quality = quality or LinkQuality()
        self.faults: Counter[str] = Counter()
        self.messages: Counter[str] = Counter()
        self._loop, self._rng, self._trace = loop, rng, trace
        self._context = contextvars.copy_context()
        self._nodes: dict[str, _Node] = {}
        self._links: dict[tuple[str, str], _Link] = {}
        self._calls: dict[int, _Call] = {}
        self._call_number = 0
        self._flap_number = 0

    # --- nodes ---------------------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        handler: Handler,
        install_snapshot: SnapshotHandler | None = None,
        forward: ForwardHandler | None = None,
        server: SimulatedServer | None = None,
    ) -> None:
        """A node takes messages from now on. Call it within the node's group: handlers run there."""
        node = self._node(name)
        node.handler, node.install_snapshot, node.forward, node.server = handler, install_snapshot, forward, server
        node.context = contextvars.copy_context()

    def unregister(self, name: str) -> None:
        """A node stops taking messages, in good order: handlers that run go on and answer."""
        node = self._node(name)
        node.handler = node.install_snapshot = node.forward = node.server = None

    def endpoint(self, name: str) -> Endpoint:
        """The transport of a node's present life."""
        return Endpoint(self, name, self._node(name).life)

    def crash(self, name: str) -> None:
        """A node is gone: nothing more leaves it, calls to it are reset or time out, its endpoint is dead.

        What runs in the node is its group's affair: kill that too.
        """
        node = self._node(name)
        node.life += 1
        node.handler = node.install_snapshot = node.forward = node.server = node.context = None
        self.faults["crash"] += 1
        for call in list(self._calls.values()):
            if call.target == name:
                if self._rng.random() < self._link(name, call.source).quality.reset_probability:
                    self._at(self._arrival(name, call.source, 0), self._reset, call, "the connection was reset", False, True)
                else:
                    self._later(KEEPALIVE_S, self._reset, call, "the connection is dead", False, True)
            elif call.source == name:
                # What it has sent may still arrive; nobody waits for the answer, and the other side may notice.
                del self._calls[call.number]
                if call.cancels_handlers and self._rng.random() < 0.5:
                    self._at(self._arrival(name, call.target, 0), self._cancel_handlers, call)

    # --- faults --------------------------------------------------------------------------------------------------------

    def set_quality(self, quality: LinkQuality, source: str | None = None, target: str | None = None) -> None:
        """Change links: one direction, all from a node, all to a node, or all (also those not used yet)."""
        if source is None and target is None:
            self.quality = quality
        for link in self._matching(source, target):
            link.quality = quality

    def slow(self, source: str, target: str, factor: float = 50.0) -> None:
        """Make one direction slower than the network by a factor."""
        latency_s_min, latency_s_mean = self.quality.latency_s_min * factor, self.quality.latency_s_mean * factor
        link = self._link(source, target)
        link.quality = replace(link.quality, latency_s_min=latency_s_min, latency_s_mean=latency_s_mean)
        self.faults["slow"] += 1

    def cut(self, source: str, target: str) -> None:
        """Cut one direction: messages vanish, those on their way too; nobody is told."""
        self._link(source, target).is_cut = True
        self.faults["cut"] += 1
        self._note("", f"network: cut {source} -> {target}")

    def isolate(self, name: str) -> None:
        """Cut a node from all others, both ways."""
        self.partition([name], [other for other in self._nodes if other != name])

    def partition(self, *sides: Iterable[str]) -> None:
        """Cut all links between nodes of different sides, both ways."""
        lists = [list(side) for side in sides]
        for here in lists:
            for there in lists:
                if here is not there:
                    for source in here:
                        for target in there:
                            self.cut(source, target)

    def flap(self, source: str, target: str, up_s_mean: float = 1.0, down_s_mean: float = 0.5) -> None:
        """Cut and mend one direction again and again, for exponential times, until it is healed."""
        self._flap_number += 1
        link = self._link(source, target)
        link.flapping = self._flap_number
        self._later(self._rng.expovariate(1 / up_s_mean), self._flap, link, self._flap_number, up_s_mean, down_s_mean)

    def heal(self, source: str | None = None, target: str | None = None) -> None:
        """Mend links and give them the network's own quality again: one direction, a node's, or all."""
        for link in self._matching(source, target):
            link.is_cut, link.flapping, link.quality = False, 0, self.quality
        self._note("", f"network: heal {source or 'all'} -> {target or 'all'}")

    def is_cut(self, source: str, target: str) -> bool:
        """Whether messages in this direction vanish now."""
        return self._link(source, target).is_cut

    def _flap(self, link: _Link, number: int, up_s_mean: float, down_s_mean: float) -> None:
        if link.flapping != number:
            return
        link.is_cut = not link.is_cut
        self.faults["flap"] += 1
        mean = down_s_mean if link.is_cut else up_s_mean
        self._later(self._rng.expovariate(1 / mean), self._flap, link, number, up_s_mean, down_s_mean)

    # --- messages ------------------------------------------------------------------------------------------------------

    def _later(self, delay: float, callback: Callable[..., None], *args: Any) -> asyncio.TimerHandle:
        return self._loop.call_at_true(self._loop.now + delay, callback, *args, context=self._context)

    def _at(self, when: float, callback: Callable[..., None], *args: Any) -> None:
        # By absolute time: that of two messages of one stream must compare equal, without a rounding in between.
        self._loop.call_at_true(when, callback, *args, context=self._context)

    def _node(self, name: str) -> _Node:
        return self._nodes.setdefault(name, _Node())

    def _link(self, source: str, target: str) -> _Link:
        link = self._links.get((source, target))
        if link is None:
            link = self._links[source, target] = _Link(self.quality)
        return link

    def _matching(self, source: str | None, target: str | None) -> list[_Link]:
        if source is not None and target is not None:
            return [self._link(source, target)]
        return [
            link for (a, b), link in self._links.items() if (source is None or a == source) and (target is None or b == target)
        ]

    def _note(self, node: str, text: str) -> None:
        if self._trace is not None:
            self._trace.event(node, text)

    def _arrival(self, source: str, target: str, size: int, stream: str = "") -> float:
        """When a message of this size that starts now would be through; those of one stream do not overtake each other."""
        link, rng = self._link(source, target), self._rng
        quality = link.quality
        latency = quality.latency_s_min + rng.expovariate(1 / quality.latency_s_mean) + size / quality.bandwidth_bytes_per_s
        if rng.random() < quality.spike_probability:
            latency += rng.random() * quality.spike_s_max
            self.faults["spike"] += 1
        now = self._loop.now
        arrival = now + latency
        if stream:
            arrival = link.last_arrivals[stream] = max(arrival, link.last_arrivals.get(stream, 0.0))
        if arrival < link.last_arrival:
            if quality.ordered:
                arrival = link.last_arrival
            else:
                self.faults["reorder"] += 1
        link.last_arrival = max(link.last_arrival, arrival)
        return arrival

    def _is_lost(self, source: str, target: str) -> bool:
        """Whether a message vanishes now, at its start or its end."""
        if self._link(source, target).is_cut:
            self.faults["cut message"] += 1
            return True
        return False

    def _send(self, source: str, target: str, size: int, deliver: Callable[..., None], *args: Any, stream: str = "") -> None:
        """Start a message; `deliver` runs where and when it arrives."""
        self.messages["sent"] += 1
        quality = self._link(source, target).quality
        if self._is_lost(source, target):
            return
        if self._rng.random() < quality.loss_probability:
            self.faults["loss"] += 1
            return
        life = self._node(source).life
        arrival = self._arrival(source, target, size, stream)
        self._at(arrival, self._arrive, source, life, target, deliver, args)

    def _arrive(self, source: str, life: int, target: str, deliver: Callable[..., None], args: Any) -> None:
        if self._is_lost(source, target):
            return
        if self._node(source).life != life and self._rng.random() < 0.5:
            self.faults["lost with its sender"] += 1
            return
        self.messages["arrived"] += 1
        deliver(*args)

    # --- calls ---------------------------------------------------------------------------------------------------------

    async def _call(self, endpoint: Endpoint, target: str, request: Message, timeout: float) -> Message:
        call = self._open(endpoint, target, timeout)
        data = request.SerializeToString()
        call.name = name_of_message(type(request), data, forwarded=False)
        self._leave(call)
        stream = type(request).__name__ if type(request).__name__ in STREAMED else ""
        self._send(call.source, target, len(data), self._deliver, call, type(request), data, stream=stream)
        if self._rng.random() < self._link(call.source, target).quality.duplicate_probability:
            self.faults["duplicate"] += 1
            self._send(call.source, target, len(data), self._deliver, call, type(request), data, stream=stream)
        call.cancels_handlers = not stream
        response: Message = await self._wait(call, endpoint)
        return response

    def _open(self, endpoint: Endpoint, target: str, timeout: float) -> _Call:
        self._call_number += 1
        source = endpoint.name
        call = _Call(self._call_number, source, target, endpoint.life, self._loop.now + timeout)
        if endpoint.closed or self._node(source).life != endpoint.life:
            raise PeerUnreachable(f"{source} has closed its transport")
        call.future = self._loop.create_future()
        self._calls[call.number] = call
        endpoint.calls[call.number] = call
        return call

    def _leave(self, call: _Call) -> None:
        """A request is about to leave its node."""
        if self.on_place(call.source, f"{call.name} {SENT}"):
            raise PowerCut

    async def _wait(self, call: _Call, endpoint: Endpoint) -> Any:
        """Wait for the answer until the deadline. A caller that stops waiting tells the other side, if it still can."""
        assert call.future is not None
        timer = self._loop.call_at_true(call.deadline, self._time_out, call)
        try:
            return await call.future
        finally:
            timer.cancel()
            self._calls.pop(call.number, None)
            endpoint.calls.pop(call.number, None)
            if call.cancels_handlers and (call.future.cancelled() or call.future.exception() is not None):
                self._send(call.source, call.target, 0, self._cancel_handlers, call)

    def _time_out(self, call: _Call) -> None:
        self.faults["timeout"] += 1
        self._reset(call, "no answer in time")

    def _reset(self, call: _Call, why: str, refused: bool = False, lost: bool = False) -> None:
        if call.future is not None and not call.future.done():
            message = f"{call.target} is unreachable from {call.source}: {why}"
            call.future.set_exception(PeerUnreachable(message, refused, lost))

    def _cancel_handlers(self, call: _Call) -> None:
        for task in call.handlers:
            if not task.done():
                self.faults["handler cancelled"] += 1
                task.cancel()

    def _deliver(self, call: _Call, request_type: type[Message], data: bytes) -> None:
        """A request arrives."""
        node = self._node(call.target)
        if node.handler is None or node.context is None:
            self._refuse(call)
            return
        if self.on_place(call.target, f"{call.name} {ARRIVED}"):
            return
        coro = self._serve(call, node, node.life, node.handler, request_type.FromString(data))
        name = f"{call.target}:{request_type.__name__}#{call.number}"
        call.handlers.append(self._loop.create_task(coro, name=name, context=node.context.copy()))

    def _refuse(self, call: _Call) -> None:
        self.faults["nobody there"] += 1
        if self._rng.random() < self._link(call.target, call.source).quality.reset_probability:
            self._send(call.target, call.source, 0, self._reset, call, "connection refused", True)
        else:
            self._later(KEEPALIVE_S, self._reset, call, "no connection", False, False)

    async def _serve(self, call: _Call, node: _Node, life: int, handler: Handler, request: Message) -> None:
        """Run a handler, in its node's group, and send its answer back."""
        try:
            response = await handler(request)
        except KvnodeError as error:
            self._context.run(self._answer_error, call, node, life, error)
            return
        data = response.SerializeToString()
        if node.life == life and not self.on_place(call.target, f"{call.name} {ANSWERED}"):
            self._context.run(self._send, call.target, call.source, len(data), self._finish, call, type(response), data)

    def _answer_error(self, call: _Call, node: _Node, life: int, error: KvnodeError) -> None:
        if node.life == life:
            self._send(call.target, call.source, 100, self._finish_error, call, error)

    def _finish(self, call: _Call, response_type: type[Message], data: bytes) -> None:
        """An answer arrives: the first one counts."""
        if self._node(call.source).life == call.source_life and self.on_place(call.source, f"{call.name} {HEARD}"):
            return
        if call.future is not None and not call.future.done():
            call.future.set_result(response_type.FromString(data))

    def _finish_error(self, call: _Call, error: KvnodeError) -> None:
        if call.future is not None and not call.future.done():
            copy = type(error).__new__(type(error), error.message)
            copy.__dict__.update(error.__dict__, metadata=dict(error.metadata))
            call.future.set_exception(copy)

    # --- clients' requests ---------------------------------------------------------------------------------------------

    async def _forward(self, endpoint: Endpoint, target: str, request: Message, timeout: float, hops: int) -> Message:
        """A unary call that is never doubled: whoever is told "refused" may trust that the request was not handled."""
        call = self._open(endpoint, target, timeout)
        data = request.SerializeToString()
        call.name = name_of_message(type(request), data, forwarded=hops > 0)
        if hops:
            self._leave(call)
        self._send(call.source, target, len(data), self._deliver_forward, call, type(request), data, timeout, hops)
        response: Message = await self._wait(call, endpoint)
        return response

    def _deliver_forward(self, call: _Call, request_type: type[Message], data: bytes, timeout: float, hops: int) -> None:
        node = self._node(call.target)
        forward = node.forward
        if forward is None or node.context is None:
            self._refuse(call)
            return
        if self.on_place(call.target, f"{call.name} {ARRIVED}"):
            return

        async def serve(request: Message) -> Message:
            # As gRPC does it: the server counts the caller's remaining time from the arrival.
            return await forward(request, timeout, hops)

        coro = self._serve(call, node, node.life, serve, request_type.FromString(data))
        name = f"{call.target}:{request_type.__name__}#{call.number}"
        call.handlers.append(self._loop.create_task(coro, name=name, context=node.context.copy()))

    # --- snapshots -----------------------------------------------------------------------------------------------------

    async def _install_snapshot(
        self,
        endpoint: Endpoint,
        target: str,
        requests: AsyncIterable[InstallSnapshotRequest] | Iterable[InstallSnapshotRequest],
        timeout: float,
    ) -> InstallSnapshotResponse:
        """One stream, in order, part after part; a lost part breaks it, as TCP does in the end."""
        call = self._open(endpoint, target, timeout)
        call.name = "InstallSnapshot"
        sender = self._loop.create_task(self._send_parts(call, requests), name=f"{call.source}:snapshot#{call.number}")
        try:
            response = await self._wait(call, endpoint)
        finally:
            sender.cancel()
        if not isinstance(response, InstallSnapshotResponse):
            raise TypeError(f"{target} answered a snapshot with {type(response).__name__}")
        return response

    async def _send_parts(
        self, call: _Call, requests: AsyncIterable[InstallSnapshotRequest] | Iterable[InstallSnapshotRequest]
    ) -> None:
        parts: asyncio.Queue[bytes | None] = asyncio.Queue()
        self._send(call.source, call.target, 0, self._deliver_stream, call, parts)
        try:
            if isinstance(requests, AsyncIterable):
                async for request in requests:
                    await self._send_part(call, parts, request.SerializeToString())
            else:
                for request in requests:
                    await self._send_part(call, parts, request.SerializeToString())
            await self._send_part(call, parts, None)
            # An answer that gets lost breaks the connection too.
            self._later(KEEPALIVE_S, self._reset, call, "the connection is dead", False, True)
        except Exception as error:
            if call.future is not None and not call.future.done():
                call.future.set_exception(error)

    async def _send_part(self, call: _Call, parts: asyncio.Queue[bytes | None], data: bytes | None) -> None:
        """Send a part and wait until it is through: the stream's flow control."""
        self._leave(call)
        through = self._loop.create_future()
        self._send(call.source, call.target, len(data or b""), self._deliver_part, call, parts, data, through)
        timer = self._later(KEEPALIVE_S, self._reset, call, "the connection is dead", False, True)
        await through
        timer.cancel()

    def _deliver_part(
        self, call: _Call, parts: asyncio.Queue[bytes | None], data: bytes | None, through: asyncio.Future[None]
    ) -> None:
        if self.on_place(call.target, f"{call.name} {ARRIVED}"):
            return
        parts.put_nowait(data)
        if not through.done():
            through.set_result(None)

    def _deliver_stream(self, call: _Call, parts: asyncio.Queue[bytes | None]) -> None:
        node = self._node(call.target)
        if node.install_snapshot is None or node.context is None:
            self._refuse(call)
            return

        async def received() -> AsyncIterator[InstallSnapshotRequest]:
            while (data := await parts.get()) is not None:
                yield InstallSnapshotRequest.FromString(data)

        install_snapshot = node.install_snapshot

        async def install(_: Message) -> Message:
            return await install_snapshot(received())

        coro = self._serve(call, node, node.life, install, InstallSnapshotRequest())
        name = f"{call.target}:InstallSnapshot#{call.number}"
        call.handlers.append(self._loop.create_task(coro, name=name, context=node.context.copy()))
        self._loop.call_at_true(call.deadline, self._cancel_handlers, call, context=self._context)


class Endpoint:
    """A node's way to the others: implements `kvnode.runtime.transport.Transport`."""

    def __init__(self, network: Network, name: str, life: int) -> None:
        self.name, self.life = name, life
        self.closed = False
        self.calls: dict[int, _Call] = {}
        self._network = network

    async def call(self, to: str, request: Any, timeout: float) -> Any:
        """Send a request and return the answer. Raises PeerUnreachable, within `timeout` seconds, or what the handler
        raised (errors of kvnode.errors only)."""
        return await self._network._call(self, to, request, timeout)

    async def install_snapshot(
        self,
        to: str,
        requests: AsyncIterable[InstallSnapshotRequest] | Iterable[InstallSnapshotRequest],
        timeout: float,
    ) -> InstallSnapshotResponse:
        """Stream a snapshot. Raises PeerUnreachable, within `timeout` seconds."""
        return await self._network._install_snapshot(self, to, requests, timeout)

    async def forward(self, to: str, request: Any, timeout: float, hops: int) -> Any:
        """Pass a client's request on. Raises PeerUnreachable, or the KvnodeError that the node answered."""
        return await self._network._forward(self, to, request, timeout, hops)

    async def close(self) -> None:
        """Close: calls that wait fail, and no others begin."""
        self.closed = True
        for call in list(self.calls.values()):
            self._network._reset(call, "the transport was closed")
