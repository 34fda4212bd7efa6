"""Clients between two connections: the old one goes away while the new one is made."""

from __future__ import annotations

import asyncio
import ssl

import grpc
import pytest

from tests.wire import raw
from tests.wire.certificates import authority
from tests.wire.frames import goaway, settings
from tests.wire.pairs import HOST, Context, Rig, Wire, path, service, soon, unary_unary
from tests.wire.test_goaway_clients import Calls, reply

READY = grpc.ChannelConnectivity.READY
OK, UNAVAILABLE = grpc.StatusCode.OK, grpc.StatusCode.UNAVAILABLE


@pytest.mark.parametrize("answers", [True, False])
@pytest.mark.parametrize("ending", ["its call ends", "it is lost"])
async def test_old_connection_that_ends_while_a_new_one_is_made_says_nothing_of_it(
    client_wire: Wire, ending: str, answers: bool
) -> None:
    """The new one counts as made when its server greets; one that never does has failed in the time for that."""
    async with raw.listen(greets=False) as listener:
        options = [("grpc.min_reconnect_backoff_ms", 250), ("grpc.initial_reconnect_backoff_ms", 250)]
        channel = client_wire.insecure_channel(listener.address, options=options)
        try:
            calls = Calls(listener, channel)
            old_call = calls.begin()
            old = await listener.accept()
            await old.send(settings())
            stream = await calls.arrived(old)
            await old.send(goaway(stream))
            await old.settled()
            new_call = calls.begin()
            new = await listener.accept()
            if ending == "its call ends":
                await reply(old, stream)
                assert await soon(old_call) is OK
                await old.end()
            else:
                old.writer.transport.abort()
                assert await soon(old_call) is UNAVAILABLE
            if answers:
                await new.send(settings())
                await reply(new, await calls.arrived(new))
                assert await soon(new_call) is OK
                assert len(listener.peers) == 2
            else:
                assert await soon(new_call, 5) is UNAVAILABLE
        finally:
            await channel.close()


async def test_old_connection_that_is_slow_to_close_fails_no_other(client_wire: Wire) -> None:
    """With TLS both sides say goodbye: one that waits for that may be lost while another is on its way."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.set_alpn_protocols(["h2"])
    authority().ca.issue_cert("localhost").configure_cert(tls)
    async with raw.listen(greets=False, tls=tls) as listener:
        credentials = client_wire.ssl_channel_credentials(authority().root)
        channel = client_wire.secure_channel(f"localhost:{listener.port}", credentials)
        try:
            calls = Calls(listener, channel)
            code = calls.begin()
            old = await listener.accept()
            await old.send(settings())
            stream = await calls.arrived(old)
            await reply(old, stream)
            assert await soon(code) is OK
            await old.stop_reading()
            await old.send(goaway(stream))
            if channel.get_state() is READY:
                await soon(channel.wait_for_state_change(READY))
            code = calls.begin()
            new = await listener.accept()
            old.writer.transport.abort()
            await asyncio.sleep(0.05)
            await new.send(settings())
            await reply(new, await calls.arrived(new))
            assert await soon(code) is OK
        finally:
            await channel.close()


async def test_server_replaced_on_its_port_under_load_fails_no_call(rig: Rig) -> None:
    """A rolling restart: the next server listens before the last one stops; calls in flight finish, those that cross the
    GOAWAY are made again at the other, and no caller hears of it. (grpcio's server cancels calls that it took late, and resets
    connections that it had not taken yet.)"""
    is_abrupt = rig.pair.server.name == "grpcio"
    permitted = {OK, grpc.StatusCode.CANCELLED, grpc.StatusCode.UNAVAILABLE} if is_abrupt else {OK}

    async def echo(request: bytes, context: Context) -> bytes:
        await asyncio.sleep(0.001)
        return request

    async def serve(port: int) -> tuple[grpc.aio.Server, int]:
        server = rig.pair.server.server()
        server.add_generic_rpc_handlers([service(Echo=unary_unary(echo))])
        port = server.add_insecure_port(f"{HOST}:{port}")
        await server.start()
        return server, port

    async def call_on() -> None:
        number = 0
        while not over.is_set():
            number += 1
            call = method(b"x", timeout=25)
            assert await call.code() in permitted, await call.details()
        done.append(number)

    over, done = asyncio.Event(), list[int]()
    server, port = await serve(0)
    try:
        method = rig.connect(f"{HOST}:{port}").unary_unary(path("Echo"))
        callers = [asyncio.ensure_future(call_on()) for _ in range(20)]
        for _ in range(5):
            await asyncio.sleep(0.05)
            old, (server, same) = server, await serve(port)
            assert same == port
            await soon(old.stop(20))
        over.set()
        await soon(asyncio.gather(*callers))
        assert sum(done) > 50
    finally:
        over.set()
        await soon(server.stop(None))
