"""Mutual TLS: clients without a certificate are refused, and handlers learn who calls."""

from __future__ import annotations

import ast
from typing import Any

import grpc
import pytest

from tests.wire.certificates import CLIENT_NAMES, Pair, authority, stranger
from tests.wire.pairs import Context, Rig, path, refusal, service, soon, unary_unary

UNAVAILABLE = grpc.StatusCode.UNAVAILABLE


async def who(request: bytes, context: Context) -> bytes:
    """Tells what the handler knows of its caller."""
    known = {
        "auth": {key: list(values) for key, values in context.auth_context().items()},
        "identities": context.peer_identities(),
        "key": context.peer_identity_key(),
        "peer": context.peer(),
    }
    return repr(known).encode()


METHODS = service(Who=unary_unary(who))


async def ask(rig: Rig, server: Any, client: Any) -> dict[str, Any]:
    """What a handler knows of its caller."""
    at = await rig.serve(METHODS, credentials=server)
    channel = rig.connect(f"localhost:{at.port}", credentials=client)
    answer: dict[str, Any] = ast.literal_eval((await soon(channel.unary_unary(path("Who"))(b"", timeout=20))).decode())
    return answer


def demanding(rig: Rig) -> Any:
    """Credentials of a server that wants to know its clients."""
    return rig.pair.server.ssl_server_credentials([authority().server], authority().root, True)


def shown(rig: Rig, certificate: Pair) -> Any:
    """Credentials of a client with a certificate."""
    return rig.pair.client.ssl_channel_credentials(authority().root, certificate.key, certificate.chain)


async def test_client_with_a_certificate_is_known_by_its_names(rig: Rig) -> None:
    """Alternative names are its identities; common name, certificate and kind of transport are in the context."""
    known = await ask(rig, demanding(rig), shown(rig, authority().client))
    names = [name.encode() for name in CLIENT_NAMES]
    assert known["identities"] == names
    assert known["key"] == "x509_subject_alternative_name"
    auth = known["auth"]
    assert auth["x509_subject_alternative_name"] == names
    assert auth["x509_common_name"] == [b"the client"]
    assert auth["transport_security_type"] == [b"ssl"]
    assert auth["peer_dns"] == [CLIENT_NAMES[0].encode()]
    assert auth["peer_ip"] == [CLIENT_NAMES[1].encode()]
    certificate = auth["x509_pem_cert"][0].strip()
    assert authority().client.chain.startswith(certificate)
    assert known["peer"].startswith("ipv4:127.0.0.1:")


async def test_client_with_a_common_name_alone_is_known_by_it(rig: Rig) -> None:
    """Without alternative names the common name is the identity."""
    known = await ask(rig, demanding(rig), shown(rig, authority().issue(common_name="only this")))
    assert (known["key"], known["identities"]) == ("x509_common_name", [b"only this"])


async def test_client_without_a_certificate_is_refused(rig: Rig) -> None:
    """UNAVAILABLE: no call gets through."""
    client = rig.pair.client.ssl_channel_credentials(authority().root)
    assert (await refusal(ask(rig, demanding(rig), client))).code() is UNAVAILABLE


async def test_client_with_a_strangers_certificate_is_refused(rig: Rig) -> None:
    """Any certificate is not enough."""
    client = shown(rig, stranger().issue(*CLIENT_NAMES))
    assert (await refusal(ask(rig, demanding(rig), client))).code() is UNAVAILABLE


@pytest.mark.parametrize("roots", [True, False])
async def test_client_is_not_asked_who_it_is_unless_that_is_required(rig: Rig, roots: bool) -> None:
    """With or without authorities: the certificate that a client could show is not asked for."""
    server = rig.pair.server.ssl_server_credentials([authority().server], authority().root if roots else None, False)
    known = await ask(rig, server, shown(rig, authority().client))
    assert known["identities"] is None
    assert known["key"] is None
    assert known["auth"]["transport_security_type"] == [b"ssl"]


async def test_client_of_a_plain_port_has_no_identity(rig: Rig) -> None:
    """Nothing is claimed that was not proved."""
    known = await ask(rig, None, None)
    assert (known["identities"], known["key"]) == (None, None)
    assert known["auth"].get("transport_security_type") != [b"ssl"]


async def test_refused_clients_leave_the_server_to_others(rig: Rig) -> None:
    """One connection after the other is refused; the good one is served."""
    at = await rig.serve(METHODS, credentials=demanding(rig))
    for _ in range(5):
        channel = rig.connect(f"localhost:{at.port}", credentials=rig.pair.client.ssl_channel_credentials(authority().root))
        assert (await refusal(channel.unary_unary(path("Who"))(b"", timeout=20))).code() is UNAVAILABLE
    good = rig.connect(f"localhost:{at.port}", credentials=shown(rig, authority().client))
    assert b"the client" in await soon(good.unary_unary(path("Who"))(b""))
