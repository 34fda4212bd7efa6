"""Entries of the journal, for tests: who said what, how urgent it was, and kvnode's own lines taken apart.

Owns the reading of `journalctl --output=json`. Runs nothing.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

ERROR, WARNING, INFO = 3, 4, 6
"""Priorities of syslog: the smaller, the more urgent."""


@dataclass(frozen=True)
class Entry:
    """One entry."""

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
        if not (self.is_from_process and self.message.startswith("{")):
            return {}
        found: dict[str, Any] = json.loads(self.message)
        return found


def parse(text: str) -> list[Entry]:
    """What `journalctl --output=json` printed."""
    return [_entry(json.loads(line)) for line in text.splitlines()]


def _entry(raw: dict[str, Any]) -> Entry:
    message = raw.get("MESSAGE") or ""
    if isinstance(message, list):  # (Bytes that are no text.)
        message = bytes(message).decode(errors="replace")
    return Entry(message, int(raw.get("PRIORITY", INFO)), int(raw.get("_PID", 0)), raw.get("_TRANSPORT") == "stdout")
