"""Certificates for tests, made once: an authority, a server "localhost", a client with and one without alternative names."""

from __future__ import annotations

import functools
from typing import NamedTuple

import trustme

SERVER_NAME = "localhost"
CLIENT_NAMES = ("client-1.test", "10.0.0.1")


class Pair(NamedTuple):
    """A private key and its certificate's chain, in PEM."""

    key: bytes
    chain: bytes


def pair(certificate: trustme.LeafCert) -> Pair:
    """A certificate as gRPC takes it."""
    return Pair(certificate.private_key_pem.bytes(), b"".join(part.bytes() for part in certificate.cert_chain_pems))


class Authority:
    """A certificate authority, and certificates of it."""

    def __init__(self) -> None:
        self.ca = trustme.CA()
        self.root = self.ca.cert_pem.bytes()

    def issue(self, *names: str, common_name: str | None = None) -> Pair:
        """A certificate for these names."""
        return pair(self.ca.issue_cert(*names, common_name=common_name))

    @functools.cached_property
    def server(self) -> Pair:
        """A server's certificate."""
        return self.issue(SERVER_NAME)

    @functools.cached_property
    def client(self) -> Pair:
        """A client's certificate, with a common name and with alternative names."""
        return self.issue(*CLIENT_NAMES, common_name="the client")


@functools.cache
def authority() -> Authority:
    """The authority that all trust."""
    return Authority()


@functools.cache
def stranger() -> Authority:
    """An authority that nobody trusts."""
    return Authority()
