"""What header lists of requests and responses say (gRPC over HTTP/2; RFC 9113 §8). They never change, and may be remembered.

Judges a list as a whole: malformed ones are refused by their stream, whatever they ask for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from kvwire.codes import INTERNAL, PERMISSION_DENIED, UNAUTHENTICATED, UNAVAILABLE, UNIMPLEMENTED, UNKNOWN
from kvwire.header_block import Field, list_size
from kvwire.metadata import Metadatum, decode_message, decode_metadata, decode_timeout

_CONNECTION_SPECIFIC = frozenset((b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"upgrade"))
_REQUEST_PSEUDO = frozenset((b":method", b":scheme", b":path", b":authority"))

_NAME = re.compile(rb":?[!#$%&'*+.^_`|~0-9a-z-]+")
_NOT_IN_VALUES = re.compile(rb"[\x00\r\n]")

HTTP_STATUS_CODES = {
    400: INTERNAL,
    401: UNAUTHENTICATED,
    403: PERMISSION_DENIED,
    404: UNIMPLEMENTED,
    429: UNAVAILABLE,
    502: UNAVAILABLE,
    503: UNAVAILABLE,
    504: UNAVAILABLE,
}
"""Status of a call whose answer is no gRPC, by its HTTP status ("HTTP to gRPC Status Code Mapping"); others: UNKNOWN."""


class RequestHead:
    """The beginning of a call, at the server."""

    __slots__ = (
        "_metadata",
        "authority",
        "content_type",
        "encoding",
        "fields",
        "is_judged",
        "malformed",
        "method",
        "path",
        "refusal",
        "size",
        "timeout",
        "timeout_is_bad",
    )

    def __init__(self, fields: list[Field], begun: RequestHead | None = None) -> None:
        """`begun`: what stands before these fields; it has all of the pseudo-headers."""
        self.refusal: Any = None
        self.is_judged = False  # For whoever admits requests.
        self.malformed: str | None = None
        self._metadata: tuple[Metadatum, ...] | None = None
        scheme, seen, is_regular = b"", set[bytes](), begun is not None
        if begun is None:
            self.fields, self.size = fields, list_size(fields)
            self.method = self.path = self.content_type = self.authority = b""
            self.encoding = b"identity"
            self.timeout: float | None = None
            self.timeout_is_bad = False
        else:
            self.fields, self.size = begun.fields + fields, begun.size + list_size(fields)
            self.method, self.path, self.authority, scheme = begun.method, begun.path, begun.authority, b"known"
            self.content_type, self.encoding = begun.content_type, begun.encoding
            self.timeout, self.timeout_is_bad = begun.timeout, begun.timeout_is_bad
        for name, value in fields:
            if name[:1] == b":":
                if is_regular or name in seen or name not in _REQUEST_PSEUDO:
                    self.malformed = f"pseudo-header {name.decode('latin-1')!r} is unknown, twice, or behind others"
                seen.add(name)
                if name == b":path":
                    self.path = value
                elif name == b":method":
                    self.method = value
                elif name == b":scheme":
                    scheme = value
                else:
                    self.authority = value
                continue
            is_regular = True
            if name == b"content-type":
                self.content_type = value
            elif name == b"grpc-timeout":
                self.timeout = decode_timeout(value)
                self.timeout_is_bad = self.timeout is None
            elif name == b"grpc-encoding":
                self.encoding = value
            elif name in _CONNECTION_SPECIFIC or (name == b"te" and value != b"trailers"):
                self.malformed = f"header {name.decode('latin-1')!r} is none of HTTP/2"
        if not (self.method and self.path and scheme):
            self.malformed = "a pseudo-header is missing"
        self.malformed = self.malformed or _misfit(fields)

    @property
    def metadata(self) -> tuple[Metadatum, ...]:
        """The application's part."""
        if self._metadata is None:
            self._metadata = decode_metadata(self.fields)
        return self._metadata


class ResponseHead:
    """Initial metadata or trailers, at the client."""

    __slots__ = (
        "_metadata",
        "content_type",
        "encoding",
        "fields",
        "http_status",
        "is_beginning",
        "malformed",
        "message",
        "size",
        "status",
        "success",
    )

    def __init__(self, fields: list[Field]) -> None:
        self.fields, self.size = fields, list_size(fields)
        self.is_beginning = False
        """Whether it was found fit to be initial metadata."""
        self.success: Any = None
        """The status that it makes as trailers, once it has made one."""
        self.http_status: int | None = None
        self.status: int | None = None
        self.message = ""
        self.content_type, self.encoding = b"", b"identity"
        self.malformed: str | None = None
        self._metadata: tuple[Metadatum, ...] | None = None
        for name, value in fields:
            if name == b":status":
                self.http_status = int(value) if value.isdigit() and len(value) == 3 else 0
            elif name == b"grpc-status":
                self.status = int(value) if value.isdigit() and len(value) <= 9 else UNKNOWN
            elif name == b"grpc-message":
                self.message = decode_message(value)
            elif name == b"content-type":
                self.content_type = value
            elif name == b"grpc-encoding":
                self.encoding = value
            elif name[:1] == b":":
                self.malformed = f"header {name.decode('latin-1')!r} is none of a response's"
        self.malformed = self.malformed or _misfit(fields)

    @property
    def is_informational(self) -> bool:
        """Whether the response follows later (1xx)."""
        return self.http_status is not None and 100 <= self.http_status < 200

    @property
    def metadata(self) -> tuple[Metadatum, ...]:
        """The application's part."""
        if self._metadata is None:
            self._metadata = decode_metadata(self.fields)
        return self._metadata


def _misfit(fields: Iterable[Field]) -> str | None:
    """Why a list's values cannot be what they should be."""
    for name, value in fields:
        if not _NAME.fullmatch(name):
            return f"{name.decode('latin-1')!r} is no header's name"
        if _NOT_IN_VALUES.search(value):
            return f"the value of header {name.decode('latin-1')!r} holds a line break or a NUL"
        if name.endswith(b"-bin"):
            try:
                decode_metadata(((name, value),))
            except ValueError as error:
                return f"header {name.decode('latin-1')!r}: {error}"
    return None
