"""Where servers listen: addresses of all kinds, ports that are taken, sockets that are left behind."""

from __future__ import annotations

import socket
import stat
from pathlib import Path

import grpc
import pytest

from tests.wire.pairs import GRPCIO, HOST, Context, Rig, Wire, path, refusal, service, soon, unary_unary

ALONE = [("grpc.so_reuseport", 0)]


async def peer(request: bytes, context: Context) -> bytes:
    """Who calls, as the server sees it."""
    return context.peer().encode()


METHODS = service(Peer=unary_unary(peer))


async def seen(rig: Rig, target: str) -> str:
    """How a server sees who calls a target."""
    return (await soon(rig.connect(target).unary_unary(path("Peer"))(b"", timeout=20))).decode()


def has_ipv6() -> bool:
    """Whether this machine has an IPv6 loopback."""
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


async def test_port_0_is_a_free_one(rig: Rig) -> None:
    """Each time another; callers have an address and a port of their own."""
    first, second = await rig.serve(METHODS), await rig.serve(METHODS)
    assert 0 < first.port != second.port > 0
    for served in (first, second):
        assert (await seen(rig, served.target)).startswith(f"ipv4:{HOST}:")


@needs_ipv6
async def test_port_of_ipv6_loopback_serves_ipv6(rig: Rig) -> None:
    """[::1]:0, called as [::1]:port."""
    served = await rig.serve(METHODS, address="[::1]:0")
    assert served.port > 0
    assert (await seen(rig, f"[::1]:{served.port}")).startswith("ipv6:%5B::1%5D:")
    assert (await seen(rig, f"ipv6:[::1]:{served.port}")).startswith("ipv6:%5B::1%5D:")


async def test_server_of_several_ports_serves_them_all(rig: Rig, tmp_path: Path) -> None:
    """TCP twice, and a unix socket; all closed by one stop()."""
    server = rig.pair.server.server(handlers=[METHODS])
    ports = [server.add_insecure_port(f"{HOST}:0") for _ in range(2)]
    server.add_insecure_port(f"unix:{tmp_path}/socket")
    await server.start()
    try:
        for target in (*(f"{HOST}:{port}" for port in ports), f"unix:{tmp_path}/socket"):
            assert await seen(rig, target)
    finally:
        await soon(server.stop(None))
    for port in ports:
        with socket.socket() as probe:
            assert probe.connect_ex((HOST, port)) != 0


@pytest.mark.parametrize("form", ["unix:{}", "unix://{}"])
async def test_unix_socket_is_there_until_the_server_stops(rig: Rig, tmp_path: Path, form: str) -> None:
    """unix:/path and unix:///path; the port is 1, the caller has no name, and afterwards there is no file."""
    where = tmp_path / "socket"
    server = rig.pair.server.server(handlers=[METHODS])
    assert server.add_insecure_port(form.format(where)) == 1
    await server.start()
    try:
        assert stat.S_ISSOCK(where.stat().st_mode)
        assert (await seen(rig, f"unix:{where}")).startswith("unix:")
        assert (await seen(rig, f"unix://{where}")).startswith("unix:")
    finally:
        await soon(server.stop(None))
    assert not where.exists()
    assert (await refusal(rig.connect(f"unix:{where}").unary_unary(path("Peer"))(b""))).code() is grpc.StatusCode.UNAVAILABLE


async def test_unix_socket_that_was_left_behind_is_replaced(rig: Rig, tmp_path: Path) -> None:
    """Whoever was killed leaves its file, at which nobody listens."""
    where = tmp_path / "socket"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(where))
        dead.listen()
    await rig.serve(METHODS, address=f"unix:{where}")
    assert await seen(rig, f"unix:{where}")


async def test_unix_path_that_is_a_file_is_left_alone(server_wire: Wire, tmp_path: Path) -> None:
    """What is no socket is nobody's to delete."""
    where = tmp_path / "precious"
    where.write_text("data")
    with pytest.raises(RuntimeError):
        server_wire.server().add_insecure_port(f"unix:{where}")
    assert where.read_text() == "data"


async def test_port_that_is_taken_is_an_error(server_wire: Wire) -> None:
    """RuntimeError with the address in its words, as soon as it is asked for."""
    first = server_wire.server(options=ALONE)
    port = first.add_insecure_port(f"{HOST}:0")
    await first.start()
    try:
        with pytest.raises(RuntimeError, match=f"{HOST}:{port}"):
            server_wire.server(options=ALONE).add_insecure_port(f"{HOST}:{port}")
        with pytest.raises(RuntimeError):
            server_wire.server().add_insecure_port(f"{HOST}:{port}")
    finally:
        await soon(first.stop(None))


async def test_port_that_is_shared_is_none(server_wire: Wire) -> None:
    """With so_reuseport, the default, several servers may have one port: processes may share the load of it."""
    first, second = server_wire.server(handlers=[METHODS]), server_wire.server(handlers=[METHODS])
    port = first.add_insecure_port(f"{HOST}:0")
    assert second.add_insecure_port(f"{HOST}:{port}") == port
    for server in (first, second):
        await server.start()
    for server in (first, second):
        await soon(server.stop(None))


@pytest.mark.parametrize("grace", [None, 1])
async def test_port_is_free_as_soon_as_the_server_has_stopped(rig: Rig, grace: float | None) -> None:
    """Also for one that shares it with nobody, with a caller that is still connected."""
    port = 0
    for _ in range(3):
        server = rig.pair.server.server(handlers=[METHODS], options=ALONE)
        port = server.add_insecure_port(f"{HOST}:{port}")
        await server.start()
        try:
            channel = rig.connect(f"{HOST}:{port}", options=[("grpc.use_local_subchannel_pool", 1)])
            await soon(channel.unary_unary(path("Peer"))(b"", timeout=20))
        finally:
            await soon(server.stop(grace))


async def test_port_of_a_server_that_never_started_is_free_again(server_wire: Wire) -> None:
    """stop() closes what add_insecure_port() bound. (grpcio keeps it for as long as the process lives.)"""
    server = server_wire.server(options=ALONE)
    port = server.add_insecure_port(f"{HOST}:0")
    await soon(server.stop(None))
    other = server_wire.server(options=ALONE)
    if server_wire.name == GRPCIO:
        with pytest.raises(RuntimeError):
            other.add_insecure_port(f"{HOST}:{port}")
        return
    assert other.add_insecure_port(f"{HOST}:{port}") == port
    await soon(other.stop(None))


TAKEN_BY_GRPCIO = ["127.0.0.1:99999", "unix:"]
"""It computes modulo 65,536, and makes a name up."""


@pytest.mark.parametrize(
    "address",
    [
        *TAKEN_BY_GRPCIO,
        "256.1.1.1:0",
        "127.0.0.1:no",
        "unix:/no/such/directory/socket",
        ":::",
        "198.51.100.1:0",
    ],
)
async def test_address_that_is_none_is_an_error(server_wire: Wire, address: str) -> None:
    """RuntimeError, whatever is wrong with it; the server is as good as before."""
    server = server_wire.server(handlers=[METHODS])
    if server_wire.name != GRPCIO or address not in TAKEN_BY_GRPCIO:
        with pytest.raises(RuntimeError):
            server.add_insecure_port(address)
    assert server.add_insecure_port(f"{HOST}:0") > 0
    await soon(server.stop(None))


async def test_name_of_a_host_is_an_address(rig: Rig) -> None:
    """localhost:0 serves on whatever the name stands for, under one port."""
    served = await rig.serve(METHODS, address="localhost:0")
    assert (await seen(rig, f"localhost:{served.port}")).startswith(("ipv4:127.0.0.1:", "ipv6:%5B::1%5D:"))
    assert (await seen(rig, served.target)).startswith("ipv4:127.0.0.1:")
