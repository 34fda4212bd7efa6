"""Addresses as gRPC writes them: "host:port", "[::1]:port", "unix:path", "dns:///host:port", "ipv4:1.2.3.4:5"."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import urllib.parse
from typing import Any, NamedTuple

BACKLOG = 4_096


class Address(NamedTuple):
    """Where to listen or connect: a host with a port, or a unix socket's path (then host is empty)."""

    host: str
    port: int
    path: str = ""

    @property
    def described(self) -> str:
        """As errors name it: "ipv4:127.0.0.1:7401"."""
        if self.path:
            return f"unix:{self.path}"
        kind = "ipv6:" if ":" in self.host else "ipv4:" if self.host.replace(".", "").isdigit() else ""
        return kind + self.authority

    @property
    def authority(self) -> str:
        """`:authority` of calls to it."""
        return "localhost" if self.path else f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse(target: str, default_port: int = 443) -> Address:
    """Raises ValueError for what is no address."""
    scheme, separator, rest = target.partition(":")
    if scheme in ("unix", "unix-abstract") and separator:
        path = rest[2:] if rest.startswith("//") else rest
        if not path:
            raise ValueError(f"{target!r} names no socket")
        return Address("", 0, "\0" + path if scheme == "unix-abstract" else path)
    if scheme in ("dns", "ipv4", "ipv6", "passthrough") and separator:
        target = rest.rpartition("/")[2]
    target = urllib.parse.unquote(target)
    if target.startswith("["):
        host, bracket, port = target[1:].partition("]")
        if not bracket or (port and not port.startswith(":")):
            raise ValueError(f"{target!r} is no address: write [host]:port")
        port = port[1:]
    elif target.count(":") > 1:
        host, port = target, ""
    else:
        host, _, port = target.partition(":")
    if not host or (port and not (port.isdigit() and int(port) < 65_536)):
        raise ValueError(f"{target!r} is no address: write host:port")
    return Address(host, int(port) if port else default_port)


def listen(address: Address, reuse_port: bool) -> list[socket.socket]:
    """Bound sockets for a server, all on one port. Raises OSError."""
    if address.path:
        return [_listen_unix(address.path)]
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    bound: list[socket.socket] = []
    port = address.port
    try:
        for family, kind, protocol, _, where in found:
            sock = socket.socket(family, kind, protocol)
            bound.append(sock)
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if reuse_port:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            if family == socket.AF_INET6:
                # "[::]" serves IPv4 as well, as with grpcio; a host with addresses of both kinds gets two sockets.
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0 if where[0] == "::" else 1)
            sock.bind((where[0], port, *where[2:]))
            port = sock.getsockname()[1]
    except BaseException:
        for sock in bound:
            sock.close()
        raise
    return bound


def _listen_unix(path: str) -> socket.socket:
    if not path.startswith("\0"):
        with contextlib.suppress(FileNotFoundError):
            if stat.S_ISSOCK(os.stat(path).st_mode) and not _answers(path):
                os.unlink(path)  # Left behind by a process that is gone.
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.bind(path)
    except BaseException:
        sock.close()
        raise
    return sock


def _answers(path: str) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        return probe.connect_ex(path) == 0


def peer_name(name: Any) -> str:
    """A socket's peer as grpcio writes it."""
    if not isinstance(name, tuple):
        text = name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name or "")
        return f"unix:{text}"
    if len(name) == 2:
        return f"ipv4:{name[0]}:{name[1]}"
    if str(name[0]).startswith("::ffff:"):
        return f"ipv4:{name[0][7:]}:{name[1]}"
    return f"ipv6:%5B{name[0]}%5D:{name[1]}"
