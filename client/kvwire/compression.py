"""Compressed messages: gzip and deflate (RFC 1950, 1952), read whenever a peer sends them, written only on request.

Invariant: never more than the limit of a message is unpacked, whatever the packed form says.
"""

from __future__ import annotations

import zlib

import grpc

from kvwire.codes import INTERNAL, RESOURCE_EXHAUSTED
from kvwire.stream import MessageRefused

IDENTITY, GZIP, DEFLATE = b"identity", b"gzip", b"deflate"
_WBITS = {GZIP: 31, DEFLATE: 15}
ACCEPTED = b"identity, deflate, gzip"
"""`grpc-accept-encoding`."""


def is_known(encoding: bytes) -> bool:
    """Whether messages so encoded can be read."""
    return encoding == IDENTITY or encoding in _WBITS


def encoding_of(compression: grpc.Compression | None) -> bytes:
    """`grpc-encoding` of a caller's wish."""
    return {grpc.Compression.Gzip: GZIP, grpc.Compression.Deflate: DEFLATE}.get(compression, IDENTITY)  # type: ignore[arg-type]


def compress(message: bytes, encoding: bytes) -> bytes:
    """The packed form of a message."""
    packer = zlib.compressobj(wbits=_WBITS[encoding])
    return packer.compress(message) + packer.flush()


def unpack(flag: int, message: bytes, encoding: bytes, size_max: int) -> bytes:
    """What a message's first byte and the stream's encoding make of it. Raises `MessageRefused`."""
    if not flag:
        return message
    if flag != 1:
        raise MessageRefused(INTERNAL, f"Bad GRPC frame type 0x{flag:02x}")
    if encoding not in _WBITS:
        raise MessageRefused(INTERNAL, "a message is compressed, but no grpc-encoding was named")
    unpacker = zlib.decompressobj(_WBITS[encoding])
    try:
        unpacked = unpacker.decompress(message, size_max + 1)
    except zlib.error as error:
        raise MessageRefused(INTERNAL, f"a compressed message cannot be unpacked: {error}") from error
    if len(unpacked) > size_max:
        raise MessageRefused(RESOURCE_EXHAUSTED, f"Received message larger than max (more than {size_max} bytes when unpacked)")
    if not unpacker.eof:
        raise MessageRefused(INTERNAL, "a compressed message is cut short")
    return unpacked
