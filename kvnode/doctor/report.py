"""What the doctor says: lines for people, JSON for programs.

Owns both forms. Invariant: what others said of themselves reaches a terminal only with its control characters escaped.
"""

from __future__ import annotations

import json
import os
import shutil
import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import TextIO

from kvnode.doctor.finding import Finding, Level

_COLOURS = {Level.OK: "32", Level.WARNING: "33", Level.PROBLEM: "31", Level.SKIPPED: "2"}
WIDTH_MIN = 60


def show(findings: Sequence[Finding], subject: str, output: TextIO) -> None:
    """Lines for people: how it is, what was looked at, what was found, and below it what to do; a summary last."""
    is_terminal = output.isatty()
    width = max(WIDTH_MIN, shutil.get_terminal_size().columns) if is_terminal else 0
    print("\n".join(lines(findings, subject, width, is_terminal and "NO_COLOR" not in os.environ)), file=output)


def lines(findings: Sequence[Finding], subject: str, width: int = 0, is_coloured: bool = False) -> Iterator[str]:
    """The report, line by line; `width` 0: nothing is wrapped."""
    names = max(len(finding.name) for finding in findings)
    levels = max(len(level) for level in Level)
    indent = " " * (levels + 2 + names + 2)
    for finding in findings:
        level = finding.level.ljust(levels)
        if is_coloured:
            level = f"\x1b[{_COLOURS[finding.level]}m{level}\x1b[0m"
        first, *more = _wrapped(finding.found, width - len(indent) if width else 0)
        yield f"{level}  {finding.name.ljust(names)}  {first}"
        yield from (indent + line for line in more)
        advice = f"→ {finding.advice}" if finding.advice else ""
        yield from (indent + line for line in _wrapped(advice, width - len(indent) if width else 0) if line)
    yield ""
    yield summary(findings, subject)


def summary(findings: Sequence[Finding], subject: str) -> str:
    """One line: "n1: 1 problem, 2 warnings, 12 ok"."""
    counts = Counter(finding.level for finding in findings)
    words = {Level.PROBLEM: ("problem", "problems"), Level.WARNING: ("warning", "warnings")}
    parts = [f"{counts[level]} {forms[counts[level] != 1]}" for level, forms in words.items()]
    parts.append(f"{counts[Level.OK]} ok")
    if counts[Level.SKIPPED]:
        parts.append(f"{counts[Level.SKIPPED]} skipped")
    return f"{subject}: {', '.join(parts)}"


def as_json(findings: Sequence[Finding], **about: str) -> str:
    """One object: `about`, the counts, and all findings in order."""
    counts = Counter(finding.level for finding in findings)
    totals = {"problems": counts[Level.PROBLEM], "warnings": counts[Level.WARNING]}
    return json.dumps({**about, **totals, "findings": [finding._asdict() for finding in findings]}, indent=2)


def _wrapped(text: str, width: int) -> list[str]:
    text = printable(text)
    return textwrap.wrap(text, max(20, width), break_on_hyphens=False) or [""] if width else [text]


def printable(text: str) -> str:
    """Control characters as escapes."""
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode() for char in text)
