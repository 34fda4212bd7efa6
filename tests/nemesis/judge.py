"""The verdict on a history: every workload's checks, and what was found while it ran.

Owns which workloads there are. A history that is not complete is no proof of anything, so it is a failure.
"""

from __future__ import annotations

from .bank import Bank
from .eventual import Eventual
from .grow_set import GrowSet
from .record import History
from .sessions import Sessions
from .single_keys import CompareAndSet, Register
from .workload import Failure, Workload

WORKLOADS: dict[str, type[Workload]] = {one.name: one for one in (Register, CompareAndSet, Bank, GrowSet, Eventual, Sessions)}


def judge(history: History) -> list[Failure]:
    """Everything that is broken; empty: nothing was found."""
    failures = [Failure("run", "", "found while it ran", text) for text in history.findings]
    if not history.complete:
        failures.append(Failure("run", "", "the history is complete", "its last line is missing: operations may be, too"))
    for workload in WORKLOADS.values():
        failures += workload.check(history)
    return failures
