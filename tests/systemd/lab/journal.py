"""Entries of the journal, for tests: who said what, how urgent it was, and kvnode's own lines taken apart.

Owns the reading of `journalctl --output=json`. Runs nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

CRITICAL, ERROR, WARNING, INFO, DEBUG = 2, 3, 4, 6, 7
"""Priorities of syslog: the smaller, the more urgent."""


@dataclass(frozen=True)
class Entry:
    """One entry."""

    time: float
    """When it was written, Unix time. (The journal's own order is that of arrival, and there are several ways into it.)"""
    message: str
    priority: int
    pid: int
    is_from_process: bool
    """Whether a process of the unit wrote it; else systemd said it of the unit."""

    @property
    def event(self) -> str:
        """Of a JSON line of kvnode what happened; else ""."""
        return str(self.fields.get("event", ""))

    @property
    def fields(self) -> dict[str, Any]:
        """A JSON line of kvnode; else {}."""
        if not (self.is_from_process and self.message.startswith('{"')):
            return {}
        found: dict[str, Any] = json.loads(self.message)
        return found


def parse(text: str, without: str = "") -> list[Entry]:
    """What `journalctl --output=json` printed, but for the entry of that cursor, in the order in which it was written."""
    raw = [json.loads(line) for line in text.splitlines()]
    return sorted((_entry(each) for each in raw if each["__CURSOR"] != without), key=lambda entry: entry.time)


def _entry(raw: dict[str, Any]) -> Entry:
    message = raw.get("MESSAGE") or ""
    if isinstance(message, list):  # (Bytes that are no text.)
        message = bytes(message).decode(errors="replace")
    time = int(raw.get("_SOURCE_REALTIME_TIMESTAMP", raw["__REALTIME_TIMESTAMP"])) / 1e6
    entry = Entry(time, message, int(raw.get("PRIORITY", INFO)), int(raw.get("_PID", 0)), raw.get("_TRANSPORT") == "stdout")
    stamp = entry.fields.get("timestamp")
    return replace(entry, time=datetime.fromisoformat(stamp).timestamp()) if stamp else entry
