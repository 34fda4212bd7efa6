"""What commands print: text, tables, JSON.

Owns the forms of bytes (text, hex, base64) and of tables. Where they fit a terminal, tables are drawn by rich; elsewhere
they are plain aligned columns, for grep and awk. Invariant: what comes from the store reaches a terminal, or a table, only
with its control characters escaped.
"""

from __future__ import annotations

import base64
import binascii
import json
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum, StrEnum
from typing import Any

from kvctl.failures import printable, usage

HLC_COUNTER_BITS = 16
"""The low bits of a hybrid logical clock; above them are Unix milliseconds."""

CELL_WIDTH_MAX = 60
"""Of a key or a value in a table, in characters."""


class Output(StrEnum):
    """-o"""

    TABLE = "table"
    JSON = "json"


class Encoding(Enum):
    """The form of keys and values, in arguments and in answers."""

    TEXT = ""
    HEX = "hex"
    BASE64 = "base64"

    def decode(self, text: str, what: str) -> bytes:
        """Bytes from an argument. Raises a usage failure that names `what`."""
        try:
            if self is Encoding.HEX:
                return bytes.fromhex(text)
            if self is Encoding.BASE64:
                return base64.b64decode(text, validate=True)
        except (ValueError, binascii.Error):
            form = "pairs of 0-9 and a-f" if self is Encoding.HEX else "groups of four of A-Z, a-z, 0-9, + and /, padded with ="
            raise usage(f"{what} is not {self.value}: {text!r}; expected {form}") from None
        return text.encode("utf-8", "surrogateescape")  # arguments that are not UTF-8 arrive that way

    def encode(self, data: bytes) -> str:
        """Bytes for a person, on one line: control characters and undecodable bytes of a text are shown as \\xNN."""
        if self is Encoding.HEX:
            return data.hex()
        if self is Encoding.BASE64:
            return base64.b64encode(data).decode()
        return printable(data.decode("utf-8", "backslashreplace"))

    def shorten(self, data: bytes) -> str:
        """Bytes for a cell of a table: what is long is cut, and its size told."""
        text = self.encode(data[: 4 * (CELL_WIDTH_MAX + 1)])  # a character has at most four bytes
        if not self.is_long(data):
            return text
        return f"{text[: CELL_WIDTH_MAX - 12]}… {size_text(len(data))}"

    def is_long(self, data: bytes) -> bool:
        """Whether `shorten` cuts it."""
        return len(self.encode(data[: 4 * (CELL_WIDTH_MAX + 1)])) > CELL_WIDTH_MAX

    def json_field(self, name: str, data: bytes) -> dict[str, str]:
        """Bytes for a program, never ambiguous: {name: text}, {name_hex: ...} or {name_base64: ...}; what is not text
        comes as base64.
        """
        if self is Encoding.TEXT:
            try:
                return {name: data.decode()}
            except UnicodeDecodeError:
                return {f"{name}_base64": base64.b64encode(data).decode()}
        return {f"{name}_{self.value}": self.encode(data)}


def print_json(value: Any) -> None:
    """One JSON value on standard output."""
    print(json.dumps(value, indent=2))


def print_value(encoding: Encoding, data: bytes) -> None:
    """A value alone on standard output. A program that reads it gets the exact bytes and a newline; on a terminal, control
    characters other than newline and tab are escaped.
    """
    if encoding is not Encoding.TEXT:
        print(encoding.encode(data))
    elif sys.stdout.isatty():
        print(printable(data.decode("utf-8", "backslashreplace"), keep="\n\t"))
    else:
        sys.stdout.flush()
        sys.stdout.buffer.write(data + b"\n")
        sys.stdout.buffer.flush()


def print_table(headers: Sequence[str], rows: Sequence[Sequence[object]], *, title: str = "", right: str = "") -> None:
    """A table on standard output; `right` names the columns to align right, separated by spaces."""
    texts = [[printable(str(cell)) for cell in row] for row in rows]
    numeric = {header for header in headers if header in right.split()}
    if title:
        print(printable(title))
    widths = [max([len(header), *(len(row[i]) for row in texts)]) for i, header in enumerate(headers)]
    if sys.stdout.isatty() and sum(widths) + 3 * len(widths) <= shutil.get_terminal_size().columns:
        _print_rich_table(headers, texts, numeric)
        return
    for row in [[header.upper() for header in headers], *texts]:
        cells = [
            cell.rjust(width) if header in numeric else cell.ljust(width)
            for cell, width, header in zip(row, widths, headers, strict=True)
        ]
        print("  ".join(cells).rstrip())


def _print_rich_table(headers: Sequence[str], rows: Sequence[Sequence[str]], numeric: set[str]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for header in headers:
        table.add_column(header, justify="right" if header in numeric else "left", overflow="fold")
    for row in rows:
        table.add_row(*(Text(cell, style=_STYLES.get(cell, "")) for cell in row))
    Console().print(table)


_STYLES = {
    **dict.fromkeys(("ACTIVE", "running", "leader", "APPLIED", "COMMITTED"), "green"),
    **dict.fromkeys(("FAILED", "died", "no answer", "none"), "bold red"),
    **dict.fromkeys(
        ("INACTIVE", "RECOVERING", "paused", "PENDING", "SUPERSEDED", "PREPARED", "COMMITTING", "candidate"), "yellow"
    ),
    "stopped": "dim",
}
"""Colours of words that a person looks for."""


def enum_name(name: str, prefix: str) -> str:
    """A protobuf enum's value without its prefix: NODE_STATE_ACTIVE -> ACTIVE."""
    return name.removeprefix(prefix)


def hlc_time(hlc: int) -> str:
    """The physical part of a hybrid logical clock, as UTC."""
    return time_text(hlc >> HLC_COUNTER_BITS)


def time_text(unix_ms: int) -> str:
    """Unix milliseconds as UTC, ISO 8601."""
    return datetime.fromtimestamp(unix_ms / 1000, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def size_text(size_bytes: float) -> str:
    """A size for a person: 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if size_bytes < 1024:
            return f"{size_bytes:.0f} {unit}" if unit == "B" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1024
    return f"{size_bytes:.1f} TiB"


def duration_text(seconds: float) -> str:
    """A duration for a person: 850 ms, 3.2 s, 5 min 12 s, 3 h 05 min."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(int(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
