"""What the commands for traces share: where spans come from, and which requests are meant.

Owns the words of the command line: files and trace ids in one list, filters, spans of time. Analyses nothing.
"""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from kvctl.command import Call
from kvctl.failures import Failure, printable, usage
from kvctl.traces.read import Reading, read_files, read_live
from kvctl.traces.store import TraceStore

_ID = re.compile(r"[0-9a-fA-F]{1,32}")
_AGO = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|min|h|d)")
_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "min": 60, "h": 3600, "d": 86_400}
_PAIRS = re.compile(r"\w+=[\w.:-]+(,\w+=[\w.:-]+)*")


def split(words: Iterable[str]) -> tuple[list[str], list[Path]]:
    """Trace ids, and files or directories. Raises a usage failure for what is neither."""
    ids, paths = [], []
    for word in words:
        path = Path(word)
        if path.exists() or "/" in word or "." in word:
            paths.append(path)
        elif _ID.fullmatch(word):
            ids.append(word)
        else:
            raise usage(f"{word!r} is neither a trace id nor a file", "trace ids are hexadecimal; their beginning is enough")
    return ids, paths


@contextmanager
def opened(call: Call, paths: list[Path]) -> Iterator[TraceStore]:
    """All spans of files, or, without any, what the cluster's nodes keep. What is missing is told on standard error."""
    from kvctl.playground_commands import spinner

    reading = Reading()
    with TraceStore() as store:
        with spinner("Reading traces …", call.as_json):
            if paths:
                store.add(read_files(paths, reading))
            else:
                _add_live(call, store, reading)
            store.analyse()
        for note in notes(reading):
            print(printable(note), file=sys.stderr)
        yield store


def _add_live(call: Call, store: TraceStore, reading: Reading) -> None:
    from kvctl.admin import Admin

    try:
        with Admin(call.endpoints, call.timeout_s) as admin:
            store.add(read_live(admin, reading))
    except Failure as failure:
        failure.hint = f"{failure.hint}; or name files of traces, or a playground's directory".removeprefix("; ")
        raise


def notes(reading: Reading) -> Iterator[str]:
    """What a person should know about what was read."""
    if reading.damaged_lines:
        yield f"{reading.damaged_lines:,} damaged line{'s' if reading.damaged_lines > 1 else ''} skipped"
    for node, why in sorted(reading.silent.items()):
        yield f"without the spans of {node}: {why}"


@dataclass
class Filter:
    """Which requests: conditions in SQL over the columns of `requests`, all of which hold."""

    conditions: list[str] = field(default_factory=list)
    parameters: list[Any] = field(default_factory=list)

    def add(self, condition: str, *parameters: Any) -> None:
        """One more."""
        self.conditions.append(f"({condition})")
        self.parameters += parameters

    @property
    def where(self) -> str:
        """For SQL's `where`."""
        return " and ".join(self.conditions) or "true"


def filter_of(
    *,
    operation: str = "",
    kept: str = "",
    node: str = "",
    min_ms: float = 0,
    since: str = "",
    errors: bool = False,
    where: str = "",
    background: bool = False,
) -> Filter:
    """What options of the command line say; background work only if it is asked for. Raises a usage failure."""
    found = Filter()
    found.add("background" if background else "not background")
    for column, value in (("operation", operation.lower()), ("kept", kept), ("node", node)):
        if value:
            found.add(f"{column} = ?", value)
    if min_ms:
        found.add("duration_ns >= ?", int(min_ms * 1e6))
    if since:
        found.add("start_ns >= ?", since_ns(since, time.time()))
    if errors:
        found.add("error <> ''")
    if where:
        found.add(*where_of(where))
    return found


def where_of(text: str) -> tuple[str, ...]:
    """A condition as people write it: SQL, or name=value pairs with commas between; and its parameters."""
    if not _PAIRS.fullmatch(text):
        return (text,)
    pairs = [pair.split("=", 1) for pair in text.split(",")]
    return (" and ".join(f"{name}::varchar = ?" for name, _ in pairs), *(value for _, value in pairs))


def since_ns(text: str, now_s: float) -> int:
    """ "15m", "2h", "30s" before now, or a time in ISO 8601: Unix nanoseconds. Raises a usage failure."""
    if match := _AGO.fullmatch(text.strip()):
        return int((now_s - float(match[1]) * _SECONDS[match[2]]) * 1e9)
    try:
        return int(datetime.fromisoformat(text).timestamp() * 1e9)
    except ValueError:
        hint = "for example --since 15m, --since 2h, --since 2026-03-01T12:00:00Z"
        raise usage(f"--since {text}: neither a span of time nor a time", hint) from None
