"""The kinds of values that settings have: sizes, addresses, names; each with what it says when a value is none.

Owns parsing of single values. Never looks at two of them at once: that is `kvnode.config`.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr

KIB, MIB, GIB = 1024, 1024**2, 1024**3
_UNITS = {"": 1, "B": 1, "KIB": KIB, "MIB": MIB, "GIB": GIB, "TIB": 1024**4}
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
_ADDRESS = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?):(?P<port>[0-9]{1,5})")

_HEADER = r"\s*[a-z0-9_.-]+\s*=[\x20-\x2b\x2d-\x7e]*"
_HEADERS = re.compile(rf"{_HEADER}(,{_HEADER})*")


def _size(value: object) -> object:
    """Bytes from a number or from text such as "64MiB"."""
    if not isinstance(value, str):
        return value
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", value)
    if not match or match[2].upper() not in _UNITS:
        raise ValueError('must be a number of bytes, or text as "64MiB"')
    return int(float(match[1]) * _UNITS[match[2].upper()]) if "." in match[1] else int(match[1]) * _UNITS[match[2].upper()]


def host_and_port(value: str) -> str:
    """An address that others can reach. Raises ValueError."""
    match = _ADDRESS.fullmatch(value)
    if not match or not 0 < int(match["port"]) < 65536:
        raise ValueError('must be "host:port" with a port from 1 to 65535')
    return value


def _address_or_none(value: str) -> str:
    match = _ADDRESS.fullmatch(value)
    if value and (not match or int(match["port"]) > 65535):
        raise ValueError('must be empty, or "host:port" with a port up to 65535; port 0: any')
    return value


def _name(value: str) -> str:
    if not _NAME.fullmatch(value):
        raise ValueError('must be 1 to 63 letters, digits, "_", "." or "-", and begin with a letter or digit')
    return value


def _endpoint(value: str) -> str:
    if value and not re.fullmatch(r"https?://[^/\s]+(/\S*)?", value):
        raise ValueError('must be empty, or a URL as "http://host:4317"')
    return value


def _headers(value: SecretStr) -> SecretStr:
    if value.get_secret_value() and not _HEADERS.fullmatch(value.get_secret_value()):
        raise ValueError('must be empty, or pairs as "name=value,name=value", names in lower case')
    return value


def headers(value: SecretStr) -> dict[str, str]:
    """The pairs of a value that is valid."""
    pairs = (pair.partition("=") for pair in value.get_secret_value().split(",") if pair)
    return {name.strip(): text.strip() for name, _, text in pairs}


def _directory(value: object) -> object:
    if value == "":
        raise ValueError("must not be empty")
    return value


Size = Annotated[int, BeforeValidator(_size)]
Address = Annotated[str, AfterValidator(host_and_port)]
AddressOrNone = Annotated[str, AfterValidator(_address_or_none)]
Endpoint = Annotated[str, AfterValidator(_endpoint)]
Headers = Annotated[SecretStr, AfterValidator(_headers)]
Name = Annotated[str, AfterValidator(_name)]
Directory = Annotated[Path, BeforeValidator(_directory)]
Milliseconds = Annotated[int, Field(ge=1, le=3_600_000)]
