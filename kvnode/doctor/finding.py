"""What a check answers: how it is, what was found, and what to do.

Owns the levels. Never formats: that is `kvnode.doctor.report`.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum
from typing import NamedTuple


class Level(StrEnum):
    """How it is."""

    OK = "ok"
    WARNING = "warning"
    """The node works, but worse, or less safely, than it could."""
    PROBLEM = "problem"
    """The node cannot start, cannot reach its peers, or will fail."""
    SKIPPED = "skipped"
    """It could not be looked at; why not is what was found."""


class Finding(NamedTuple):
    """One thing that was looked at. `advice`: a sentence, or empty."""

    name: str
    level: Level
    found: str
    advice: str = ""


def ok(name: str, found: str, advice: str = "") -> Finding:
    """All is well; `advice` may say what to know about it."""
    return Finding(name, Level.OK, found, advice)


def warning(name: str, found: str, advice: str) -> Finding:
    """It works, but see to it."""
    return Finding(name, Level.WARNING, found, advice)


def problem(name: str, found: str, advice: str) -> Finding:
    """It does not work."""
    return Finding(name, Level.PROBLEM, found, advice)


def skipped(name: str, found: str, advice: str = "") -> Finding:
    """Nobody knows, because of what was found."""
    return Finding(name, Level.SKIPPED, found, advice)


def attempt(name: str, run: Callable[..., list[Finding]], *arguments: object) -> list[Finding]:
    """What a check finds; a host that is broken in a way that it did not expect keeps no other check from running."""
    try:
        return run(*arguments)
    except Exception as error:
        return [skipped(name, f"could not be looked at: {error!r}", "See the kernel log, if it is an error of the disk")]


def size_text(size_bytes: float) -> str:
    """As people write sizes: "64 MiB"."""
    units = ["bytes", "KiB", "MiB", "GiB", "TiB"]
    while size_bytes >= 1024 and len(units) > 1:
        size_bytes /= 1024
        del units[0]
    digits = 0 if size_bytes >= 100 or size_bytes == int(size_bytes) else 1
    return f"{size_bytes:.{digits}f} {units[0]}"
