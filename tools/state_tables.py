"""Draws the state diagrams of `docs/protocols/two_phase_commit.md` from the tables in the code.

    python tools/state_tables.py [--check]

Each diagram stands between `<!-- states: NAME -->` and `<!-- end -->`. `--check` writes nothing and fails if one is old.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path

from kvnode.protocol.two_phase_commit import coordinator, participant
from kvnode.protocol.two_phase_commit.participant import State

PAGE = Path(__file__).resolve().parent.parent / "docs" / "protocols" / "two_phase_commit.md"
TABLES: Mapping[str, Mapping[tuple[State, StrEnum], State]] = {
    "participant": participant.PARTICIPANT,
    "anchor": participant.ANCHOR,
    "coordinator": coordinator.TRANSITIONS,
}
PLACE = re.compile(r"(<!-- states: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def diagram(table: Mapping[tuple[State, StrEnum], State]) -> str:
    """A table as a Mermaid state diagram; events that lead from one state to the same next one share an arrow."""
    arrows: dict[tuple[State, State], list[str]] = {}
    for (before, event), after in table.items():
        arrows.setdefault((before, after), []).append(str(event))
    lines = ["```mermaid", "stateDiagram-v2", f"    [*] --> {State.INIT}"]
    lines += [f"    {before} --> {after}: {', '.join(events)}" for (before, after), events in arrows.items()]
    last = [state for state in dict.fromkeys(table.values()) if not any(b is state and a is not state for b, a in arrows)]
    lines += [f"    {state} --> [*]" for state in last]
    return "\n".join([*lines, "```", ""])


def drawn(text: str) -> str:
    """The page with its diagrams as the tables are now."""
    return PLACE.sub(lambda found: found[1] + diagram(TABLES[found[2]]) + found[3], text)


def main(arguments: list[str]) -> int:
    """Write, or check; the exit status."""
    if arguments not in ([], ["--check"]):
        print(__doc__, file=sys.stderr)
        return 2
    before = PAGE.read_text(encoding="utf-8")
    after = drawn(before)
    if arguments and before != after:
        print(f"{PAGE.name}: its diagrams are not what the tables say; run python tools/state_tables.py", file=sys.stderr)
        return 1
    PAGE.write_text(after, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
