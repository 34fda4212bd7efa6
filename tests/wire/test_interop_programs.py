"""Programs that people have: grpcurl, curl, nghttp, h2load; each finds in every server what it finds in grpcio's."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
import shutil
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from tests.wire.certificates import authority
from tests.wire.frames import message
from tests.wire.pairs import Context, Wire, path, service, soon, unary_unary

HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REQUEST_FIELDS = ("content-type: application/grpc", "te: trailers")


def program(name: str) -> str:
    """Where a program is; the test is skipped where it is not."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


class Done(NamedTuple):
    """How a program ended."""

    code: int
    out: str
    errors: str


async def run(name: str, *arguments: object) -> Done:
    """Run a program to its end."""
    process = await asyncio.create_subprocess_exec(
        program(name), *map(str, arguments), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    try:
        out, errors = await soon(process.communicate(), 25)
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
    return Done(process.returncode or 0, out.decode("utf-8", "replace"), errors.decode("utf-8", "replace"))


class Server(NamedTuple):
    """A server of health, reflection and an echo."""

    port: int
    health: health.aio.HealthServicer
    echoed: list[bytes]


@contextlib.asynccontextmanager
async def serving(wire: Wire, address: str = "127.0.0.1:0", *, secure: bool = False) -> AsyncIterator[Server]:
    """A server of a transport."""
    echoed: list[bytes] = []

    async def echo(request: bytes, context: Context) -> bytes:
        echoed.append(request)
        return request

    async def fail(request: bytes, context: Context) -> bytes:
        await context.abort(grpc.StatusCode.NOT_FOUND, "nothing there")

    server = wire.server()
    servicer = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    reflection.enable_server_reflection((HEALTH, reflection.SERVICE_NAME), server)
    server.add_generic_rpc_handlers([service(Echo=unary_unary(echo), Fail=unary_unary(fail))])
    if secure:
        credentials = wire.ssl_server_credentials([authority().server], authority().root, True)
        port = server.add_secure_port(address, credentials)
    else:
        port = server.add_insecure_port(address)
    await server.start()
    try:
        yield Server(port, servicer, echoed)
    finally:
        await soon(server.stop(None))


@pytest.fixture
def body(tmp_path: Path) -> Path:
    """A file with one framed message."""
    file = tmp_path / "message"
    file.write_bytes(message(b"hello"))
    return file


@pytest.fixture
def pems(tmp_path: Path) -> list[str]:
    """Files of the authority, a client's certificate and its key."""
    contents = {"root": authority().root, "chain": authority().client.chain, "key": authority().client.key}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
    return [str(tmp_path / name) for name in contents]


async def test_grpcurl_with_reflection_lists_and_describes(server_wire: Wire) -> None:
    """Reflection is a stream of requests and answers."""
    async with serving(server_wire) as server:
        listed = await run("grpcurl", "-plaintext", f"127.0.0.1:{server.port}", "list")
        assert listed.out.split() == [HEALTH, reflection.SERVICE_NAME], listed
        described = await run("grpcurl", "-plaintext", f"127.0.0.1:{server.port}", "describe", HEALTH)
        assert "rpc Watch" in described.out, described


async def test_grpcurl_with_health_checks_and_watches(server_wire: Wire) -> None:
    """A unary call, its failure, and a stream that ends by its deadline."""
    async with serving(server_wire) as server:
        at = f"127.0.0.1:{server.port}"
        await server.health.set("store", health_pb2.HealthCheckResponse.SERVING)
        check = ("grpcurl", "-plaintext", "-d", '{"service": "store"}')
        assert json.loads((await run(*check, at, f"{HEALTH}/Check")).out) == {"status": "SERVING"}
        watched = await run("grpcurl", "-plaintext", "-max-time", "0.5", "-d", '{"service": "store"}', at, f"{HEALTH}/Watch")
        assert '"SERVING"' in watched.out
        assert "DeadlineExceeded" in watched.errors
        missing = await run("grpcurl", "-plaintext", "-d", '{"service": "none"}', at, f"{HEALTH}/Check")
        assert "Code: NotFound" in missing.errors, missing


async def test_grpcurl_with_mutual_tls_is_served(server_wire: Wire, pems: list[str]) -> None:
    """With a client's certificate; without one it gets nothing."""
    root, chain, key = pems
    async with serving(server_wire, secure=True) as server:
        at = f"localhost:{server.port}"
        known = await run("grpcurl", "-cacert", root, "-cert", chain, "-key", key, at, f"{HEALTH}/Check")
        assert json.loads(known.out) == {"status": "SERVING"}, known
        assert (await run("grpcurl", "-connect-timeout", 2, "-cacert", root, at, f"{HEALTH}/Check")).code != 0


async def test_grpcurl_on_a_unix_socket_is_served(server_wire: Wire, tmp_path: Path) -> None:
    """An authority of its own: grpcurl names the socket's path."""
    socket = tmp_path / "s"
    async with serving(server_wire, f"unix:{socket}"):
        done = await run("grpcurl", "-plaintext", "-unix", socket, f"{HEALTH}/Check")
        assert json.loads(done.out) == {"status": "SERVING"}, done


async def test_curl_by_prior_knowledge_reads_message_and_trailers(server_wire: Wire, body: Path, tmp_path: Path) -> None:
    """A framed message posted; the answer, and grpc-status in the trailers."""
    fields = [part for field in REQUEST_FIELDS for part in ("-H", field)]
    answer = tmp_path / "answer"
    options = ("-sS", "--http2-prior-knowledge", *fields, "--data-binary", f"@{body}", "-D", "-")
    async with serving(server_wire) as server:
        done = await run("curl", *options, "-o", answer, f"http://127.0.0.1:{server.port}{path('Echo')}")
        assert answer.read_bytes() == message(b"hello"), done
        assert done.out.startswith("HTTP/2 200")
        assert re.search(r"^grpc-status: 0\r?$", done.out, re.MULTILINE), done
        done = await run("curl", *options, f"http://127.0.0.1:{server.port}{path('Fail')}")
        assert re.search(r"^grpc-status: 5\r?$", done.out, re.MULTILINE), done
        assert "grpc-message: nothing there" in done.out


async def test_curl_over_mutual_tls_agrees_on_http2(server_wire: Wire, body: Path, tmp_path: Path, pems: list[str]) -> None:
    """By ALPN, with a client's certificate."""
    root, chain, key = pems
    fields = [part for field in REQUEST_FIELDS for part in ("-H", field)]
    answer = tmp_path / "answer"
    options = ("-sS", "--http2", "--cacert", root, "--cert", chain, "--key", key, *fields, "--data-binary", f"@{body}")
    async with serving(server_wire, secure=True) as server:
        done = await run("curl", *options, "-D", "-", "-o", answer, f"https://localhost:{server.port}{path('Echo')}")
        assert answer.read_bytes() == message(b"hello"), done
        assert done.out.startswith("HTTP/2 200")


async def test_curl_with_http1_is_told_to_go(server_wire: Wire) -> None:
    """It ends at once, with an error of curl's or of HTTP."""
    async with serving(server_wire) as server:
        done = await run("curl", "-sS", "--http1.1", "-m", "10", f"http://127.0.0.1:{server.port}/")
        assert done.code not in (0, 28) or "HTTP/1" in done.out, done


async def test_nghttp_with_priorities_and_padding_is_answered(server_wire: Wire, body: Path) -> None:
    """nghttp sends PRIORITY frames, and a HEADERS frame with the flag; grpcio takes no padding."""
    fields = [part for field in (*REQUEST_FIELDS, ":method: POST") for part in ("-H", field)]
    padding = [] if server_wire.name == "grpcio" else ["-b", "17"]
    async with serving(server_wire) as server:
        done = await run("nghttp", "-v", *padding, "-d", body, *fields, f"http://127.0.0.1:{server.port}{path('Echo')}")
        assert "grpc-status: 0" in done.out, done
        assert server.echoed == [b"hello"]


@pytest.mark.parametrize("options", [(), ("-w", "10", "-W", "10"), ("--encoder-header-table-size=0",)])
async def test_h2load_with_many_requests_sees_none_fail(server_wire: Wire, body: Path, options: tuple[str, ...]) -> None:
    """Thousands of calls on a few connections, also in windows of 1,023 octets."""
    fields = [part for field in REQUEST_FIELDS for part in ("-H", field)]
    async with serving(server_wire) as server:
        target = f"http://127.0.0.1:{server.port}{path('Echo')}"
        done = await run("h2load", "-n", 600, "-c", 3, "-m", 50, *options, "-d", body, *fields, target)
        assert "600 succeeded, 0 failed, 0 errored, 0 timeout" in done.out, done
        assert "600 2xx" in done.out
        assert server.echoed == [b"hello"] * 600
