"""The simulated gRPC: it answers as grpcio does, and everything that can happen to a connection says what gRPC would say."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import grpc
import pytest

from kvapi.v1 import kv_pb2, kv_pb2_grpc
from kvclient._backend.async_ import invoke
from kvclient._backend.channels import ChannelClosed
from kvclient._status import never_connected
from kvnode.api.decoding import DecodingServer
from kvnode.api.status import abort, from_rpc_error
from kvnode.errors import Conflict
from kvnode.observe.calls import HOPS

from .loop import Group, SimulatedLoop, run
from .network import LinkQuality, Network
from .wire import SimulatedChannel, SimulatedServer

ADDRESS = "127.0.0.1:7401"
Code = grpc.StatusCode


class Servicer(kv_pb2_grpc.KVServicer):
    """Does what the key says."""

    def __init__(self) -> None:
        self.begun: list[bytes] = []
        self.cancelled: list[bytes] = []
        self.remaining: float | None = None

    async def Get(self, request: kv_pb2.GetRequest, context: Any) -> kv_pb2.GetResponse:
        """Ends in one of all ways."""
        self.begun.append(request.key)
        self.remaining = context.time_remaining()
        if request.key == b"conflict":
            await abort(context, Conflict("lost", shard=7))
        elif request.key == b"abort":
            context.set_trailing_metadata((("one", "1"),))
            await context.abort(Code.NOT_FOUND, "not here", (("two-bin", b"\0\xff"),))
        elif request.key == b"code":
            context.set_code(Code.OUT_OF_RANGE)
            context.set_details("too far")
            context.set_trailing_metadata((("one", "1"),))
        elif request.key == b"error":
            raise ValueError("a bug")
        elif request.key == b"hops":
            hops = [value for key, value in context.invocation_metadata() if key == HOPS]
            return kv_pb2.GetResponse(found=True, value=repr(hops).encode())
        elif request.key == b"slow":
            try:
                await asyncio.sleep(10.0)
            except asyncio.CancelledError:
                self.cancelled.append(request.key)
                raise
        return kv_pb2.GetResponse(found=True, value=b"value")


async def outcome(stub: Any, key: bytes, *, timeout: float | None = 5.0, method: str = "Get", **options: Any) -> Any:
    """How a call ends: the value, or code, words and trailing metadata."""
    request = kv_pb2.GetRequest(key=key)
    try:
        return (await getattr(stub, method)(request, timeout=timeout, **options)).value
    except grpc.aio.AioRpcError as error:
        trailing = [(name, value) for name, value in error.trailing_metadata() or ()]
        return error.code(), error.details(), trailing


ENDINGS: dict[str, Callable[[Any], Awaitable[Any]]] = {
    "a response": lambda stub: outcome(stub, b"any"),
    "an error of kvnode": lambda stub: outcome(stub, b"conflict"),
    "aborted with metadata": lambda stub: outcome(stub, b"abort"),
    "a code is set": lambda stub: outcome(stub, b"code"),
    "a bug": lambda stub: outcome(stub, b"error"),
    "metadata arrives": lambda stub: outcome(stub, b"hops", metadata=((HOPS, "2"),)),
    "too late": lambda stub: outcome(stub, b"slow", timeout=0.02),
    "too late at once": lambda stub: outcome(stub, b"any", timeout=-1.0),
    "a method without an implementation": lambda stub: outcome(stub, b"any", method="Delete"),
}


class World:
    """A server n1 and a client c1."""

    def __init__(self, loop: SimulatedLoop, quality: LinkQuality | None = None) -> None:
        self.loop = loop
        self.network = Network(loop, loop.random("network"), quality=quality)
        self.channel = SimulatedChannel(self.network, self.network.endpoint("c1"), "n1", ADDRESS)
        self.stub: Any = kv_pb2_grpc.KVStub(self.channel)

    def start(self) -> Servicer:
        """A new life of n1."""
        self.servicer = Servicer()
        self.server = SimulatedServer(self.network)
        kv_pb2_grpc.add_KVServicer_to_server(self.servicer, self.server)
        self.group: Group = self.loop.group("n1")
        self.group.run(self.network.register, "n1", _unused, None, None, self.server)
        return self.servicer

    def crash(self) -> None:
        """kill -9."""
        self.group.kill()
        self.network.crash("n1")


async def _unused(_: Any) -> Any:
    raise AssertionError


def simulated(main: Callable[[World], Awaitable[Any]], *, reset: float = 1.0, strict: bool = True) -> Any:
    """Runs `main` in a world with n1 up; who finds nobody is refused with probability `reset`."""

    async def body(loop: SimulatedLoop) -> Any:
        world = World(loop, LinkQuality(reset_probability=reset))
        world.start()
        return await main(world)

    return run(body, 1, strict=strict)


async def _with_grpcio(ending: Callable[[Any], Awaitable[Any]]) -> Any:
    server = grpc.aio.server()
    kv_pb2_grpc.add_KVServicer_to_server(Servicer(), server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            return await ending(kv_pb2_grpc.KVStub(channel))
    finally:
        await server.stop(None)


@pytest.mark.parametrize("name", list(ENDINGS))
def test_wire_call_ends_as_with_grpcio(name: str) -> None:
    """Status, words, trailing metadata, values: what grpcio's own server and channel give on this machine."""
    ending = ENDINGS[name]
    assert simulated(lambda world: ending(world.stub), strict=False) == asyncio.run(_with_grpcio(ending))


def test_wire_error_of_kvnode_is_understood_as_such() -> None:
    """What `kvnode.api.status` packs on the one side it unpacks on the other."""

    async def main(world: World) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await world.stub.Get(kv_pb2.GetRequest(key=b"conflict"), timeout=1.0)
        error = from_rpc_error(caught.value)
        assert isinstance(error, Conflict)
        assert (error.message, error.metadata) == ("lost", {"shard": "7"})

    simulated(main)


def test_wire_unreadable_request_is_refused_by_the_real_decoder() -> None:
    """The servers' deserializers are in the way of every request."""

    async def main(world: World) -> None:
        world.servicer = Servicer()
        kv_pb2_grpc.add_KVServicer_to_server(world.servicer, DecodingServer(world.server))  # type: ignore[arg-type]
        raw = world.channel.unary_unary("/kvapi.v1.KV/Get")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await raw(b"\xff\xff", timeout=1.0)
        assert caught.value.code() is Code.INVALID_ARGUMENT
        assert not world.servicer.begun

    simulated(main)


def test_wire_nobody_listens_says_failed_to_connect_without_sending() -> None:
    """The SDK trusts these words: the call was sent to nobody. Until there is a connection again it fails at once."""

    async def main(world: World) -> None:
        world.network.unregister("n1")
        for _ in range(2):
            code, details, trailing = await outcome(world.stub, b"any")
            assert code is Code.UNAVAILABLE
            assert never_connected(details, ADDRESS)
            assert not trailing
        before = world.loop.time()
        assert (await outcome(world.stub, b"any"))[0] is Code.UNAVAILABLE
        assert world.loop.time() == before
        assert not world.servicer.begun
        world.start()
        await asyncio.sleep(1.0)
        assert await outcome(world.stub, b"any") == b"value"

    simulated(main)


def test_wire_no_word_from_the_other_side_gives_up_connecting() -> None:
    """A connection that nobody answers is none after a second; a shorter deadline comes first."""

    async def main(world: World) -> None:
        world.network.cut("c1", "n1")
        assert (await outcome(world.stub, b"any", timeout=0.3))[0] is Code.DEADLINE_EXCEEDED
        assert world.loop.time() == pytest.approx(0.3)
        code, details, _ = await outcome(world.stub, b"any")
        assert code is Code.UNAVAILABLE
        assert never_connected(details, ADDRESS)
        assert world.loop.time() == pytest.approx(1.0)

    simulated(main)


@pytest.mark.parametrize(("reset", "code"), [(1.0, Code.UNAVAILABLE), (0.0, Code.DEADLINE_EXCEEDED)])
def test_wire_server_dies_leaves_the_call_in_doubt(reset: float, code: grpc.StatusCode) -> None:
    """The connection breaks, or nothing is heard: never "failed to connect", for the call may have been executed."""

    async def main(world: World) -> None:
        call = world.stub.Get(kv_pb2.GetRequest(key=b"slow"), timeout=3.0)
        await asyncio.sleep(0.1)
        assert world.servicer.begun == [b"slow"]
        world.crash()
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call
        assert caught.value.code() is code
        assert not never_connected(caught.value.details() or "", ADDRESS)

    simulated(main, reset=reset)


def test_wire_server_was_restarted_silently_resets_the_old_connection() -> None:
    """A connection belongs to one life: what it still carries reaches nobody, and the next one is made anew."""

    async def main(world: World) -> None:
        assert await outcome(world.stub, b"any") == b"value"
        world.crash()
        servicer = world.start()
        code, details, _ = await outcome(world.stub, b"any")
        assert code is Code.UNAVAILABLE
        assert not never_connected(details, ADDRESS)
        assert not servicer.begun
        assert await outcome(world.stub, b"any") == b"value"

    simulated(main, reset=0.0)


def test_wire_deadline_passes_cancels_the_handler_without_any_message() -> None:
    """The server counts the deadline itself: it needs no word from a caller that cannot be heard."""

    async def main(world: World) -> None:
        call = world.stub.Get(kv_pb2.GetRequest(key=b"slow"), timeout=0.5)
        await asyncio.sleep(0.1)
        world.network.cut("c1", "n1")
        await asyncio.sleep(0.5)
        assert await call.code() is Code.DEADLINE_EXCEEDED
        assert world.servicer.cancelled == [b"slow"]
        assert world.servicer.remaining == pytest.approx(0.5, abs=0.1)

    simulated(main)


def test_wire_caller_cancels_cancels_the_handler() -> None:
    """Cancelling the call, or the task that waits for it, reaches the handler; who waits is cancelled."""

    async def main(world: World) -> None:
        call = world.stub.Get(kv_pb2.GetRequest(key=b"slow"))
        task = asyncio.ensure_future(_wait_for(call))
        await asyncio.sleep(0.1)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        assert call.done()
        assert not call.cancel()
        assert await call.code() is Code.CANCELLED
        await asyncio.sleep(0.1)
        assert world.servicer.cancelled == [b"slow"]

    simulated(main)


async def _wait_for(call: Any) -> Any:
    return await call


def test_wire_channel_closed_under_a_call_is_what_the_sdk_expects() -> None:
    """Calls under way are cancelled, later ones are a wrong use: the SDK tells the two apart."""

    async def main(world: World) -> None:
        task = asyncio.ensure_future(invoke(world.stub.Get, kv_pb2.GetRequest(key=b"slow"), 5.0, None))
        await asyncio.sleep(0.1)
        await world.channel.close()
        with pytest.raises(ChannelClosed) as caught:
            await task
        assert caught.value.sent
        with pytest.raises(ChannelClosed) as caught:
            await invoke(world.stub.Get, kv_pb2.GetRequest(key=b"any"), 5.0, None)
        assert not caught.value.sent

    simulated(main)


def test_wire_server_stops_lets_calls_end_within_its_grace() -> None:
    """Who asks anew is refused; who waited is answered in time, or told that all calls are cancelled."""

    async def main(world: World) -> None:
        call = world.stub.Get(kv_pb2.GetRequest(key=b"slow"), timeout=60.0)
        await asyncio.sleep(0.1)
        world.network.unregister("n1")
        stop = world.group.create_task(world.server.stop(2.0))
        await asyncio.sleep(0.1)
        code, details, _ = await outcome(world.stub, b"any")
        assert (code, never_connected(details, ADDRESS)) == (Code.UNAVAILABLE, True)
        assert not call.done()
        await stop
        with pytest.raises(grpc.aio.AioRpcError, match="Cancelling all calls"):
            await call
        assert world.servicer.cancelled == [b"slow"]
        assert world.loop.time() == pytest.approx(2.1, abs=0.1)

    simulated(main)


def test_wire_stream_is_asked_for_raises() -> None:
    """Nothing pretends to carry streams."""

    async def main(world: World) -> None:
        open_stream: Any = world.channel.stream_stream("/kvapi.v1.Replication/Append")
        with pytest.raises(NotImplementedError, match="Append"):
            open_stream()

    simulated(main)
