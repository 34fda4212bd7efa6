"""Cluster addresses: `kv://host:port,host:port?timeout=5`.

Owns their grammar. Never connects.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple
from urllib.parse import parse_qsl

from kvclient.errors import InvalidArgument

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


def parse_uri(uri: str) -> ClusterUri:
    """Read a cluster address.

    Raises `InvalidArgument` naming the part that is wrong.
    """
    if not uri.startswith(SCHEME):
        raise _wrong("uri", f"{uri!r} does not begin with {SCHEME}, as in kv://127.0.0.1:7401,127.0.0.1:7402?timeout=5")
    hosts, _, query = uri[len(SCHEME) :].partition("?")
    endpoints = tuple(_endpoint(part.strip()) for part in hosts.rstrip("/").split(","))
    settings: dict[str, Any] = {}
    for name, text in parse_qsl(query, keep_blank_values=True):
        if name not in _SETTINGS:
            raise _wrong(name, f"unknown setting in {uri!r}; known are {', '.join(sorted(_SETTINGS))}")
        settings[name] = _SETTINGS[name](name, text)
    return ClusterUri(endpoints, **settings)


def _endpoint(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if not colon or not host or not port.isdigit() or not 0 < int(port) < 65536:
        raise _wrong("uri", f"{text!r} is not host:port")
    return f"{host}:{int(port)}"


def _seconds(name: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise _wrong(name, f"{text!r} is not a positive number of seconds")
    return value


def _count(name: str, text: str) -> int:
    if not text.isdigit() or not 0 < int(text) <= 1_024:
        raise _wrong(name, f"{text!r} is not a number from 1 to 1024")
    return int(text)


_SETTINGS: dict[str, Callable[[str, str], Any]] = {"timeout": _seconds, "pipeline": _count}


def _wrong(field: str, message: str) -> InvalidArgument:
    return InvalidArgument(f"{field}: {message}", metadata={"field": field})
