"""TLS: contexts from PEM texts, with HTTP/2 by ALPN. grpcio's credentials are opaque, so these are our own, equally called."""

from __future__ import annotations

import asyncio
import ssl
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ALPN = ["h2"]
_ALTERNATIVES = {"DNS": "peer_dns", "IP Address": "peer_ip", "URI": "peer_uri", "email": "peer_email"}


class ServerCredentials:
    """What a server's secure port needs: an `ssl.SSLContext`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


class ChannelCredentials:
    """What a secure channel needs: an `ssl.SSLContext`."""

    def __init__(self, context: ssl.SSLContext) -> None:
        self.context = context


def ssl_server_credentials(
    private_key_certificate_chain_pairs: Sequence[tuple[bytes, bytes]],
    root_certificates: bytes | None = None,
    require_client_auth: bool = False,
) -> ServerCredentials:
    """As `grpc.ssl_server_credentials`. Raises ValueError for arguments that do not go together."""
    if not private_key_certificate_chain_pairs:
        raise ValueError("At least one private key-certificate chain pair is required!")
    if require_client_auth and root_certificates is None:
        raise ValueError("Illegal to require client auth without providing root certificates!")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _harden(context)
    for key, chain in private_key_certificate_chain_pairs:
        _load(context, key, chain)
    if root_certificates is not None:
        context.load_verify_locations(cadata=root_certificates.decode("ascii"))
        context.verify_mode = (
            ssl.CERT_REQUIRED if require_client_auth else ssl.CERT_NONE
        )  # (As grpcio: nobody is asked in vain.)
    return ServerCredentials(context)


def ssl_channel_credentials(
    root_certificates: bytes | None = None, private_key: bytes | None = None, certificate_chain: bytes | None = None
) -> ChannelCredentials:
    """As `grpc.ssl_channel_credentials`; without roots, the system's."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    _harden(context)
    if root_certificates is None:
        context.load_default_certs()
    else:
        context.load_verify_locations(cadata=root_certificates.decode("ascii"))
    if private_key is not None and certificate_chain is not None:
        _load(context, private_key, certificate_chain)
    return ChannelCredentials(context)


def auth_context(transport: asyncio.BaseTransport) -> dict[str, list[bytes]]:
    """What is known about the peer of a connection, under grpcio's names."""
    tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
    if tls is None:
        return {"transport_security_type": [b"insecure"], "security_level": [b"TSI_SECURITY_NONE"]}
    known = {"transport_security_type": [b"ssl"], "security_level": [b"TSI_PRIVACY_AND_INTEGRITY"]}
    certificate: dict[str, Any] = tls.getpeercert() or {}
    if not certificate:
        return known
    for part in certificate.get("subject", ()):
        known.setdefault("x509_common_name", []).extend(value.encode() for key, value in part if key == "commonName")
    for kind, value in certificate.get("subjectAltName", ()):
        known.setdefault("x509_subject_alternative_name", []).append(value.encode())
        if kind in _ALTERNATIVES:
            known.setdefault(_ALTERNATIVES[kind], []).append(value.encode())
    known["x509_pem_cert"] = [ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"").encode()]
    return {key: values for key, values in known.items() if values}


def _harden(context: ssl.SSLContext) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_alpn_protocols(ALPN)
    context.options |= ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION


def _load(context: ssl.SSLContext, key: bytes, chain: bytes) -> None:
    """The ssl module reads keys from files only: one that nobody else can read, for as long as that takes."""
    with tempfile.TemporaryDirectory(prefix="kvwire-") as directory:
        path = Path(directory) / "pair.pem"
        path.touch(mode=0o600)
        path.write_bytes(key.rstrip() + b"\n" + chain)
        context.load_cert_chain(path)
