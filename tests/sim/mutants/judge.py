"""Whether a failed run is a catch: a promise of the product was seen broken, and not a mutant that is no program.

Owns: which violations say nothing about the simulator. Never: looks at the mutant.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

HARNESS = "the harness works"
NOT_A_PROGRAM = re.compile(r"\b(Name|Attribute|Type|UnboundLocal|Import|ModuleNotFound|Syntax|Indentation)Error\b")
"""What a mutant raises that was badly written: every test would notice it."""

Found = tuple[str, str]
"""A rule, and the message."""


def caught_by(violations: Sequence[Found]) -> str:
    """The rule that was seen broken first; empty: no catch."""
    return "" if not violations or doubtful(violations) else violations[0][0]


def doubtful(violations: Sequence[Found]) -> str:
    """The violation, if any, that makes the run worthless; empty: none."""
    for rule, message in violations:
        if rule == HARNESS or NOT_A_PROGRAM.search(message):
            return f"{rule}: {message}"
    return ""
