"""Judges a stored history again: `python -m tests.nemesis.check FILE`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from .judge import judge
from .record import History, load
from .summary import summary
from .workload import Failure

FAILURES_SHOWN_MAX = 5


def verdict(history: History, failures: Sequence[Failure], places: str) -> str:
    """What a person is told at the end; `places`: where the files are."""
    lines = [summary(history)]
    if not failures:
        return "\n".join([*lines, f"nothing is broken ({places})"])
    lines.append(f"BROKEN: {len(failures)} failures (seed {history.header.get('seed')})")
    for failure in failures[:FAILURES_SHOWN_MAX]:
        lines.append(str(failure)[:6000])
    if len(failures) > FAILURES_SHOWN_MAX:
        lines.append(f"... and {len(failures) - FAILURES_SHOWN_MAX} more")
    return "\n".join([*lines, places])


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: 0, nothing is broken; 1, something is; 2, the file is no history."""
    parser = argparse.ArgumentParser(prog="python -m tests.nemesis.check", description=__doc__)
    parser.add_argument("file", type=Path)
    path = parser.parse_args(arguments).file
    try:
        with path.open() as file:
            history = load(file)
    except (OSError, ValueError) as error:
        print(f"{path}: {error}", file=sys.stderr)
        return 2
    failures = judge(history)
    print(verdict(history, failures, f"history: {path}"))
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
