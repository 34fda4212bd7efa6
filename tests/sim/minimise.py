"""A failure made smaller: the kinds of faults without which the same seed still breaks the same promise.

Owns: what is left out, one kind after the other, as long as time permits. Never: changes anything else; leaving a kind out
gives another schedule, so only what was seen to fail counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from .faults import SCENARIOS
from .simulation import Result, simulate

SECONDS_MAX = 60.0
PARTS = ("transactions", "sdk")
"""Parts of the clients' work that may be left out too."""


def minimise(failed: Result, command: Callable[[Result], str]) -> str:
    """Says what is not needed for the failure, and how to replay it without."""
    rule, until = failed.violations[0].rule, time.perf_counter() + SECONDS_MAX
    smallest = failed
    candidates = [kind for kind in SCENARIOS[failed.scenario] if failed.faults[kind]]
    for kind in (*PARTS, *candidates):
        if time.perf_counter() > until:
            break
        result = simulate(failed.seed, failed.scenario, without=[*smallest.without, kind], tail=0)
        if result.violations and result.violations[0].rule == rule:
            smallest = result
    if smallest is failed:
        return f"smaller: {failed.scenario} {failed.seed} needs all of it to break {rule!r}"
    needed = [kind for kind in candidates if kind not in smallest.without]
    left = f"no other faults than {', '.join(needed)}" if needed else "none of the scenario's faults"
    return f"smaller: {failed.scenario} {failed.seed} breaks {rule!r} also with {left}\nreplay: {command(smallest)}"
