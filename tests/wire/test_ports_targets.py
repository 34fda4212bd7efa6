"""What channels call their servers by: names and addresses in all of gRPC's forms, and what servers are told of that."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any
from urllib.parse import quote

import grpc
import pytest

from tests.wire import frames as h2
from tests.wire import raw
from tests.wire.frames import data, message, response, trailers
from tests.wire.pairs import GRPCIO, Wire, path, refusal, soon

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def authority_of(wire: Wire, target: str, options: list[tuple[str, Any]] | None = None) -> str:
    """`:authority` of a call to a raw server; its port is 7 there."""
    async with raw.listen() as listener:
        channel = wire.insecure_channel(target.replace("PORT", str(listener.port)), options=options)
        try:
            call = asyncio.ensure_future(channel.unary_unary(path("Method"))(b"q", timeout=20).code())
            peer = await listener.accept()
            request = await listener.request(peer)
            await peer.take(lambda frame: frame.ends_stream)
            await peer.send(response(request.stream), data(request.stream, message()), trailers(request.stream))
            assert await soon(call) is grpc.StatusCode.OK
        finally:
            await channel.close()
    return dict(request.fields or ())[":authority"].replace(str(listener.port), "PORT")


@pytest.mark.parametrize(
    ("target", "authority"),
    [
        ("127.0.0.1:PORT", "127.0.0.1:PORT"),
        ("localhost:PORT", "localhost:PORT"),
        ("dns:localhost:PORT", "localhost:PORT"),
        ("dns:///localhost:PORT", "localhost:PORT"),
        ("dns:///127.0.0.1:PORT", "127.0.0.1:PORT"),
        ("ipv4:127.0.0.1:PORT", "127.0.0.1:PORT"),
        ("ipv4:///127.0.0.1:PORT", "127.0.0.1:PORT"),
    ],
)
async def test_target_in_any_form_reaches_its_server(client_wire: Wire, target: str, authority: str) -> None:
    """The server is told the name without the scheme."""
    assert await authority_of(client_wire, target) == authority


async def test_target_may_be_called_by_another_name(client_wire: Wire) -> None:
    """grpc.default_authority: what the server is told, wherever it is."""
    assert await authority_of(client_wire, "127.0.0.1:PORT", [("grpc.default_authority", "store.test:1")]) == "store.test:1"


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_target_of_a_unix_socket_is_called_localhost(client_wire: Wire, tmp_path: Path, form: str) -> None:
    """A path is no name that a server could be told. (grpcio tells it.)"""
    arrived: asyncio.Future[raw.Peer] = asyncio.get_running_loop().create_future()

    async def on_connection(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        peer = raw.Peer(reader, writer)
        await reader.readexactly(len(h2.PREFACE))
        peer.start()
        arrived.set_result(peer)

    where = tmp_path / "socket"
    channel = client_wire.insecure_channel(form.format(where))
    async with await asyncio.start_unix_server(on_connection, where):
        try:
            call = asyncio.ensure_future(channel.unary_unary(path("Method"))(b"q", timeout=20).code())
            peer = await soon(arrived)
            await peer.send(h2.settings())
            request = await peer.take(h2.HEADERS)
            told = dict(request.fields or ())[":authority"]
            assert told == (quote(str(where)[1:], "") if client_wire.name == GRPCIO else "localhost")
            await peer.take(lambda frame: frame.ends_stream)
            await peer.send(response(request.stream), data(request.stream, message()), trailers(request.stream))
            assert await soon(call) is grpc.StatusCode.OK
            await peer.close()
        finally:
            await channel.close()


LOCALHOST = {str(found[4][0]) for found in socket.getaddrinfo("localhost", None)}


@pytest.mark.parametrize("target", ["localhost:PORT", "dns:///localhost:PORT"])
@pytest.mark.parametrize("host", sorted(LOCALHOST))
async def test_target_with_several_addresses_finds_the_one_that_is_served(client_wire: Wire, target: str, host: str) -> None:
    """localhost may be ::1 and 127.0.0.1: the one that is not served costs nothing but the attempt."""
    server = client_wire.server()
    port = server.add_insecure_port(f"[{host}]:0" if ":" in host else f"{host}:0")
    await server.start()
    channel = client_wire.insecure_channel(target.replace("PORT", str(port)))
    try:
        call = channel.unary_unary(path("Nothing"))
        assert await soon(call(b"", timeout=20).code()) is grpc.StatusCode.UNIMPLEMENTED
    finally:
        await channel.close()
        await soon(server.stop(None))


@pytest.mark.parametrize(
    "target", ["no-such-host.invalid:1", "dns:///no-such-host.invalid:1", "unix:/no/such/socket", "127.0.0.1:1"]
)
async def test_target_that_is_nowhere_is_unavailable(client_wire: Wire, target: str) -> None:
    """At once; a call that waits meets its deadline."""
    channel = client_wire.insecure_channel(target)
    try:
        call = channel.unary_unary(path("Method"))
        assert (await refusal(call(b"q", timeout=20))).code() is UNAVAILABLE
        waiting = call(b"q", timeout=0.2, wait_for_ready=True)
        assert await soon(waiting.code()) is grpc.StatusCode.DEADLINE_EXCEEDED
    finally:
        await channel.close()
