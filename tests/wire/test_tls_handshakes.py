"""TLS: who is trusted by whom, under which name, and that HTTP/2 is agreed on."""

from __future__ import annotations

import asyncio
import ssl

import grpc
import pytest

from tests.wire import raw
from tests.wire.certificates import authority, stranger
from tests.wire.frames import data, message, response, trailers
from tests.wire.pairs import Context, Rig, Wire, path, refusal, service, soon, unary_unary
from tests.wire.serving import served

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE
OVERRIDE = "grpc.ssl_target_name_override"


async def echo(request: bytes, context: Context) -> bytes:
    """Echoes a message."""
    return request


METHODS = service(Echo=unary_unary(echo))


async def call(rig: Rig, server: object, client: object, host: str = "localhost", **options: str) -> bytes:
    """Echo "x" over a secure channel; `server` and `client` are their credentials."""
    at = await rig.serve(METHODS, credentials=server)
    names = [(name.replace("__", "."), value) for name, value in options.items()]
    channel = rig.connect(f"{host}:{at.port}", credentials=client, options=names)
    answer: bytes = await soon(channel.unary_unary(path("Echo"))(b"x", timeout=20))
    return answer


def serving(rig: Rig, *names: str) -> object:
    """Credentials of a server of these names."""
    issued = authority().issue(*names) if names else authority().server
    return rig.pair.server.ssl_server_credentials([issued])


def trusting(rig: Rig) -> object:
    """Credentials of a client that trusts the authority."""
    return rig.pair.client.ssl_channel_credentials(authority().root)


async def test_secure_channel_with_a_trusted_server_carries_calls(rig: Rig) -> None:
    """Also large messages, which fill many records."""
    at = await rig.serve(METHODS, credentials=serving(rig))
    channel = rig.connect(f"localhost:{at.port}", credentials=trusting(rig))
    echoing = channel.unary_unary(path("Echo"))
    assert await soon(echoing(b"x")) == b"x"
    assert await soon(echoing(bytes(1_000_000))) == bytes(1_000_000)
    assert await soon(asyncio.gather(*(echoing(b"%d" % number) for number in range(50)))) == [b"%d" % n for n in range(50)]


async def test_server_of_an_unknown_authority_is_unavailable(rig: Rig) -> None:
    """Nothing is sent to a server whose certificate nobody vouches for."""
    client = rig.pair.client.ssl_channel_credentials(stranger().root)
    assert (await refusal(call(rig, serving(rig), client))).code() is UNAVAILABLE


async def test_server_of_another_name_is_unavailable(rig: Rig) -> None:
    """A certificate that is trusted, for somebody else."""
    assert (await refusal(call(rig, serving(rig, "else.test"), trusting(rig)))).code() is UNAVAILABLE


@pytest.mark.parametrize("option", [OVERRIDE, "grpc.default_authority"])
async def test_server_of_another_name_is_taken_when_it_was_asked_for(rig: Rig, option: str) -> None:
    """The name may be given apart from the address; a name that is not the certificate's is refused then, too."""
    options = {option.replace(".", "__"): "else.test"}
    assert await call(rig, serving(rig, "else.test"), trusting(rig), **options) == b"x"
    assert (await refusal(call(rig, serving(rig), trusting(rig), **options))).code() is UNAVAILABLE


@pytest.mark.parametrize(
    ("names", "host", "taken"),
    [(("127.0.0.1",), "127.0.0.1", True), (("localhost",), "127.0.0.1", False), (("127.0.0.1",), "localhost", False)],
)
async def test_server_reached_by_its_address_needs_it_in_its_certificate(
    rig: Rig, names: tuple[str, ...], host: str, taken: bool
) -> None:
    """An IP address is no name."""
    calling = call(rig, serving(rig, *names), trusting(rig), host)
    if taken:
        assert await calling == b"x"
    else:
        assert (await refusal(calling)).code() is UNAVAILABLE


async def test_server_of_a_common_name_alone_is_unavailable(rig: Rig) -> None:
    """Only alternative names count."""
    server = rig.pair.server.ssl_server_credentials([authority().issue("x.test", common_name="localhost")])
    assert (await refusal(call(rig, server, trusting(rig)))).code() is UNAVAILABLE


async def test_plaintext_on_either_side_of_tls_is_unavailable(rig: Rig) -> None:
    """Neither hangs, and the server goes on."""
    at = await rig.serve(METHODS, credentials=serving(rig))
    plain = rig.connect(f"localhost:{at.port}").unary_unary(path("Echo"))
    assert (await refusal(plain(b"x", timeout=20))).code() is UNAVAILABLE
    assert (await refusal(call(rig, None, trusting(rig)))).code() is UNAVAILABLE
    good = rig.connect(f"localhost:{at.port}", credentials=trusting(rig)).unary_unary(path("Echo"))
    assert await soon(good(b"x")) == b"x"


async def test_credentials_that_are_none_are_refused_at_once(server_wire: Wire) -> None:
    """A key that cannot be read is found when the port is opened, not by the first client."""
    server = server_wire.server()
    with pytest.raises((RuntimeError, ValueError, OSError)):
        server.add_secure_port("127.0.0.1:0", server_wire.ssl_server_credentials([(b"no key", b"no chain")]))
    with pytest.raises(ValueError):
        server_wire.ssl_server_credentials([authority().server], None, True)
    await server.stop(None)


def context(protocols: list[str], newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED) -> ssl.SSLContext:
    """A client's context that trusts the authority."""
    made = ssl.create_default_context(cadata=authority().root.decode())
    made.maximum_version = newest
    if protocols:
        made.set_alpn_protocols(protocols)
    return made


@pytest.mark.parametrize("newest", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
@pytest.mark.parametrize("protocols", [["h2"], ["http/1.1", "h2"]])
async def test_client_that_offers_h2_is_served(server_wire: Wire, protocols: list[str], newest: ssl.TLSVersion) -> None:
    """Over both versions of TLS; the answer to the offer is h2."""
    credentials = server_wire.ssl_server_credentials([authority().server])
    async with (
        served(server_wire, METHODS, credentials=credentials) as address,
        raw.connect(address, tls=context(protocols, newest), name="localhost") as peer,
    ):
        assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "h2"
        assert (await peer.call(1, path("Echo"), b"x")).messages == [b"x"]


@pytest.mark.parametrize("protocols", [["http/1.1"], []])
async def test_client_that_does_not_offer_h2_is_hung_up_on(server_wire: Wire, protocols: list[str]) -> None:
    """RFC 9113, 3.2: HTTP/2 over TLS is agreed on by ALPN."""
    credentials = server_wire.ssl_server_credentials([authority().server])
    async with served(server_wire, METHODS, credentials=credentials) as address:
        try:
            async with raw.connect(address, tls=context(protocols), name="localhost") as peer:
                await peer.end()
                assert not peer.seen
        except OSError:
            pass  # refused within the handshake


async def test_server_hung_up_on_within_its_handshake_serves_others(server_wire: Wire) -> None:
    """A port scanner, a client that dies early, and one that says nothing at all."""
    credentials = server_wire.ssl_server_credentials([authority().server])
    async with (
        served(server_wire, METHODS, credentials=credentials) as address,
        raw.connect(address, preface=b""),
        raw.connect(address, preface=b"\x16\x03\x01\x02\x00\x01"),
    ):
        async with raw.connect(address, preface=b"GET / HTTP/1.1\r\n\r\n") as lost:
            await lost.end()
        async with raw.connect(address, tls=context(["h2"]), name="localhost") as peer:
            assert (await peer.call(1, path("Echo"), b"x")).messages == [b"x"]


@pytest.mark.parametrize("protocols", [["h2"], ["http/1.1"], []])
async def test_server_must_agree_on_h2_to_be_called(client_wire: Wire, protocols: list[str]) -> None:
    """A server that does not choose h2 gets no request; the call is UNAVAILABLE."""
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority().ca.issue_cert("localhost").configure_cert(tls)
    if protocols:
        tls.set_alpn_protocols(protocols)
    async with raw.listen(tls=tls) as listener:
        channel = client_wire.secure_channel(
            f"localhost:{listener.port}", client_wire.ssl_channel_credentials(authority().root)
        )
        try:
            code = asyncio.ensure_future(channel.unary_unary(path("Echo"))(b"x", timeout=20).code())
            if protocols == ["h2"]:
                peer = await listener.accept()
                fields = dict((await listener.request(peer)).fields or ())
                assert (fields[":scheme"], fields[":authority"]) == ("https", f"localhost:{listener.port}")
                await peer.send(response(1), data(1, message(b"x")), trailers(1))
                assert await soon(code) is grpc.StatusCode.OK
            else:
                assert await soon(code) is UNAVAILABLE
        finally:
            await channel.close()
