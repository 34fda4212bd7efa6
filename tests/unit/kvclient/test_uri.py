"""Cluster addresses."""

from __future__ import annotations

from typing import Any

import pytest

from kvclient.errors import InvalidArgument
from kvclient.uri import ClusterUri, parse_uri


@pytest.mark.parametrize(
    ("text", "uri"),
    [
        ("kv://a:1", ClusterUri(("a:1",))),
        ("kv://a:1, b:2/", ClusterUri(("a:1", "b:2"))),
        ("kv://[::1]:7401?timeout=0.5&pipeline=8", ClusterUri(("[::1]:7401",), 0.5, 8)),
        ("kv://a:1?transport=kvwire", ClusterUri(("a:1",), transport="kvwire")),
        ("kv://a:1?transport=grpcio", ClusterUri(("a:1",), transport="grpcio")),
    ],
)
def test_parse_uri_good_address_gives_its_parts(text: str, uri: ClusterUri) -> None:
    """Hosts, ports and settings are read; the rest has defaults."""
    assert parse_uri(text) == uri


@pytest.mark.parametrize(
    ("text", "field"),
    [
        ("http://a:1", "uri"),
        ("kv://", "uri"),
        ("kv://a", "uri"),
        ("kv://a:0", "uri"),
        ("kv://a:70000", "uri"),
        ("kv://a:1,", "uri"),
        ("kv://a:1?timeout=0", "timeout"),
        ("kv://a:1?timeout=nan", "timeout"),
        ("kv://a:1?timeout=soon", "timeout"),
        ("kv://a:1?timeout=inf", "timeout"),
        ("kv://a:1?timeout=1e9", "timeout"),
        ("kv://a:\u00b2", "uri"),
        ("kv://a:" + "9" * 5_000, "uri"),
        ("kv://\ud800:1", "uri"),
        (None, "uri"),
        (b"kv://a:1", "uri"),
        (["kv://a:1", "kv://b:1"], "uri"),
        ("kv://a:1?pipeline=0", "pipeline"),
        ("kv://a:1?transport=pigeon", "transport"),
        ("kv://a:1?transport=", "transport"),
        ("kv://a:1?time_out=3", "time_out"),
    ],
)
def test_parse_uri_wrong_address_names_the_part(text: Any, field: str) -> None:
    """A mistake is an error that names what is wrong, not a default."""
    with pytest.raises(InvalidArgument) as caught:
        parse_uri(text)
    assert caught.value.field == field
