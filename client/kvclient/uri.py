"""Cluster addresses: `kv://host:port,host:port?timeout=5&transport=kvwire`.

Owns their grammar. Never connects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from kvclient._requests import invalid, quoted, timeout_seconds
from kvclient.transport import TRANSPORT_DEFAULT, TRANSPORTS

SCHEME = "kv://"
TIMEOUT_S_DEFAULT = 5.0
PIPELINE_DEFAULT = 2


class ClusterUri(NamedTuple):
    """Where to begin, and the client's settings."""

    endpoints: tuple[str, ...]
    """ "host:port" of some nodes; the others are learned from them."""
    timeout: float = TIMEOUT_S_DEFAULT
    """Seconds an operation may take where the call says nothing."""
    pipeline: int = PIPELINE_DEFAULT
    """Calls in flight to one node; beyond, operations wait and leave together. More: lower latency for few callers on a fast
    node, more CPU a call."""
    transport: str = TRANSPORT_DEFAULT
    """What carries an asyncio client's calls: "kvwire" or "grpcio". A client for threads has grpcio, whatever this says."""


def parse_uri(uri: str) -> ClusterUri:
    """Read a cluster address.

    Raises `InvalidArgument` naming the part that is wrong.
    """
    if not isinstance(uri, str):
        raise invalid("uri", f"is {type(uri).__name__}; give one text, as kv://127.0.0.1:7401,127.0.0.1:7402?timeout=5")
    if not uri.isprintable():  # Lone surrogates are not, either.
        raise invalid("uri", f"{quoted(uri)} has characters that no address has")
    if not uri.startswith(SCHEME):
        raise invalid("uri", f"{uri!r} does not begin with {SCHEME}, as in kv://127.0.0.1:7401,127.0.0.1:7402?timeout=5")
    hosts, _, query = uri[len(SCHEME) :].partition("?")
    endpoints = tuple(_endpoint(part.strip()) for part in hosts.rstrip("/").split(","))
    settings: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _SETTINGS:
            raise invalid(name, f"unknown setting in {uri!r}; known are {', '.join(sorted(_SETTINGS))}")
        settings[name] = _SETTINGS[name](name, text)
    return ClusterUri(endpoints, **settings)


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not _is_count(port) or not 0 < int(port) < 65536:
        raise invalid("uri", f"{text!r} is not host:port")
    return f"{host}:{int(port)}"


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise invalid(name, f"{text!r} is not a number of seconds") from None
    return timeout_seconds(value)


def _count(name: str, text: str) -> int:
    if not _is_count(text) or not 0 < int(text) <= 1_024:
        raise invalid(name, f"{text!r} is not a number from 1 to 1024")
    return int(text)


def _transport(name: str, text: str) -> str:
    if text not in TRANSPORTS:
        raise invalid(name, f"{quoted(text)} is none of {', '.join(TRANSPORTS)}")
    return text


def _is_count(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 5


_SETTINGS: dict[str, Callable[[str, str], Any]] = {"timeout": _seconds, "pipeline": _count, "transport": _transport}
