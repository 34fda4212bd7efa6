"""gRPC's vocabulary in header fields: metadata, time-outs, messages of a status (gRPC over HTTP/2, "Requests", "Responses").

Translates in both directions and holds no state. What callers pass is checked here, before anything is sent.
"""

from __future__ import annotations

import base64
import binascii
import functools
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from kvwire.header_block import Field, integer

MetadataPairs = Iterable[tuple[str, str | bytes]]

_KEY = re.compile(rb"[0-9a-z_.\-]+")
_VALUE = re.compile(rb"[\x20-\x7e]*")
_ESCAPED = re.compile(rb"[^\x20-\x24\x26-\x7e]")
_ESCAPE = re.compile(rb"%([0-9A-Fa-f]{2})")
_ILLEGAL = "metadata value of {!r} is illegal: printable ASCII only; a key that ends in '-bin' takes any bytes"
_TIMEOUT = re.compile(rb"([0-9]{1,8})([HMSmun])")
_UNITS = {b"H": 3600.0, b"M": 60.0, b"S": 1.0, b"m": 1e-3, b"u": 1e-6, b"n": 1e-9}

OF_THE_TRANSPORT = frozenset(
    (
        b"te",
        b"host",
        b"content-type",
        b"connection",
        b"grpc-timeout",
        b"grpc-encoding",
        b"grpc-accept-encoding",
        b"grpc-status",
        b"grpc-message",
    )
)
"""Fields that are the transport's own: no part of the metadata that applications see."""
_NOT_TO_BE_SAID = OF_THE_TRANSPORT | {b"user-agent"}
"""Left out of what applications send, as by grpcio."""


class Metadatum(NamedTuple):
    """One pair of metadata: bytes for a key that ends in "-bin", text otherwise."""

    key: str
    value: str | bytes


def encode_metadata(metadata: Any) -> bytes:
    """The fields of an application's metadata. Raises ValueError for what cannot be sent."""
    return b"".join([_encode_pair(key, value) for key, value in metadata]) if metadata else b""


def _encode_pair(key: Any, value: Any) -> bytes:
    beginning, is_binary = _encode_key(key)
    if beginning is None:
        return b""
    if is_binary:
        if not isinstance(value, bytes):
            raise TypeError(f"metadata {key!r} must be bytes, since its key ends in '-bin', not {type(value).__name__}")
        raw = base64.b64encode(value).rstrip(b"=")
    elif isinstance(value, str):
        if not (value.isascii() and value.isprintable()):
            raise ValueError(_ILLEGAL.format(key))
        raw = value.encode()
    elif isinstance(value, bytes):
        if not _VALUE.fullmatch(value):
            raise ValueError(_ILLEGAL.format(key))
        raw = value
    else:
        raise TypeError(f"metadata {key!r} must be str or bytes, not {type(value).__name__}")
    return beginning + integer(len(raw), 7) + raw


@functools.lru_cache(maxsize=1_024)
def _encode_key(key: str | bytes) -> tuple[bytes | None, bool]:
    """A literal field up to its value, and whether the value is binary; None for what applications cannot say."""
    name = key.encode() if isinstance(key, str) else bytes(key)
    if name in _NOT_TO_BE_SAID:
        return None, False
    if not _KEY.fullmatch(name):
        raise ValueError(f"metadata key {key!r} is illegal: lower-case letters, digits, '_', '-' and '.' are possible")
    return b"\x00" + integer(len(name), 7) + name, name.endswith(b"-bin")


def decode_metadata(fields: Iterable[Field]) -> tuple[Metadatum, ...]:
    """The application's part of a header list, in its order. Raises ValueError for binary values that are not base64."""
    pairs: list[Metadatum] = []
    for name, value in fields:
        if name in OF_THE_TRANSPORT or name[:1] == b":":
            continue
        key = name.decode("latin-1")
        if name.endswith(b"-bin"):
            pairs.extend(Metadatum(key, _from_base64(part)) for part in value.split(b","))
        else:
            pairs.append(Metadatum(key, value.decode("latin-1")))
    return tuple(pairs)


def _from_base64(value: bytes) -> bytes:
    try:
        return base64.b64decode(value + b"=" * (-len(value) % 4), validate=True)
    except binascii.Error as error:
        raise ValueError(f"a binary metadata value is not base64: {error}") from error


def encode_timeout(seconds: float) -> bytes:
    """`grpc-timeout`: whole milliseconds where that loses little (equal texts are remembered by the peer), rounded up."""
    if seconds < 0.1:
        return b"%du" % max(1, round(seconds * 1e6 + 0.5))
    if seconds < 90_000:
        return b"%dm" % -int(-seconds * 1e3 // 1)
    return b"%dS" % min(99_999_999, int(seconds))


def decode_timeout(value: bytes) -> float | None:
    """Seconds; None for what is no time-out."""
    match = _TIMEOUT.fullmatch(value)
    return int(match[1]) * _UNITS[match[2]] if match else None


def encode_message(details: str) -> bytes:
    """`grpc-message`: percent-encoded UTF-8."""
    return _ESCAPED.sub(lambda match: b"%%%02X" % match[0][0], details.encode("utf-8", "replace"))


def decode_message(value: bytes) -> str:
    """The text of `grpc-message`; what is badly encoded is shown as it came."""
    if b"%" in value:
        value = _ESCAPE.sub(lambda match: bytes((int(match[1], 16),)), value)
    return value.decode("utf-8", "replace")
