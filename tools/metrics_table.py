"""Writes the tables of `docs/metrics.md` from the code's catalogue of metrics.

    python tools/metrics_table.py [--check]

They stand between `<!-- metrics -->` and `<!-- end -->`. `--check` writes nothing and fails if they are old.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from kvnode.observe.metric_families import SECTIONS, Family

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"
PLACE = re.compile(r"(<!-- metrics -->\n).*?(<!-- end -->)", re.DOTALL)
SUFFIXES = {"counter": "_total", "info": "_info"}


def shown(family: Family) -> str:
    """The name that queries use; of a histogram what `_bucket`, `_count` and `_sum` are added to."""
    return family.name + SUFFIXES.get(family.kind, "")


def tables() -> str:
    """A table a section."""
    lines: list[str] = []
    for title, families in SECTIONS.items():
        lines += ["", f"### {title}", "", "| metric | kind | labels | meaning |", "|---|---|---|---|"]
        for family in families:
            labels = ", ".join(f"`{label}`" for label in family.labels)
            kind = "gauge" if family.kind == "info" else family.kind
            lines.append(f"| `{shown(family)}` | {kind} | {labels} | {family.help} |")
    return "\n".join([*lines, "", ""])


def written(text: str) -> str:
    """The page with its tables as the catalogue is now."""
    return PLACE.sub(lambda found: found[1] + tables() + found[2], text)


def main(arguments: list[str]) -> int:
    """Write, or check; the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    before = PAGE.read_text(encoding="utf-8")
    after = written(before)
    if arguments and before != after:
        print(f"{PAGE.name}: its tables are not the catalogue; run python tools/metrics_table.py", file=sys.stderr)
        return 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
