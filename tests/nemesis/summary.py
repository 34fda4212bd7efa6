"""What a run did, in a few lines: operations and outcomes, faults, and how long nothing could be written.

Owns the numbers. Judges nothing.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable

from kvclient.hashing import shard_of
from tests.sim.history import Outcome

from .record import History, Op

GAP_S = 1.0
"""A longer time without an acknowledged strong write counts as unavailable."""
_SHORT = {Outcome.OK: "ok", Outcome.COMPARE_FAILED: "refused", Outcome.FAILED: "failed", Outcome.UNKNOWN: "unknown"}
_STRONG_WRITES = (("register", "put"), ("register", "delete"), ("cas", "put"), ("cas", "delete"), ("set", "add"))


def outcomes(ops: Iterable[Op]) -> dict[str, Counter[str]]:
    """Workload -> outcome -> operations, of those that were answered."""
    counts: dict[str, Counter[str]] = {}
    for op in ops:
        if op.outcome is not Outcome.PENDING:
            counts.setdefault(op.workload, Counter())[_SHORT[op.outcome]] += 1
    return counts


def faults(history: History) -> Counter[str]:
    """Kind -> how many began."""
    return Counter(one.kind for one in history.faults if one.event == "begin")


def gaps(history: History) -> list[tuple[float, float, int]]:
    """(seconds, when it began, shard; -1: any shard) for the times without an acknowledged strong write, while faults ran."""
    end = float(history.header.get("seconds", 0.0))
    shards = int(history.header.get("shards", 1))
    acknowledged: dict[int, list[float]] = {shard: [] for shard in (-1, *range(shards))}
    for op in history.ops:
        if (op.workload, op.op) in _STRONG_WRITES and op.outcome is Outcome.OK and (op.answered_at or 0.0) <= end:
            key = op.key + op.value if op.op == "add" else op.key
            for shard in (-1, shard_of(key.encode(), shards)):
                acknowledged[shard].append(op.answered_at or 0.0)
    return [
        (later - earlier, earlier, shard)
        for shard, times in acknowledged.items()
        for earlier, later in itertools.pairwise([0.0, *sorted(times), end])
    ]


def summary(history: History) -> str:
    """The lines."""
    lines = []
    seconds = float(history.header.get("seconds", 0.0))
    for workload, counts in outcomes(history.ops).items():
        lines.append(f"  {workload:<9} {sum(counts.values()):>6} operations: {_listed(counts)}")
    begun = faults(history)
    lines.append(f"  faults    {sum(begun.values()):>6}: {_listed(begun)}")
    all_gaps = gaps(history)
    together = [gap for gap in all_gaps if gap[2] == -1]
    if together and seconds:
        longest, worst = max(together), max(all_gaps)
        lost = sum(gap[0] for gap in together if gap[0] > GAP_S)
        lines.append(
            f"  longest time without an acknowledged strong write: {longest[0]:.1f} s (from {longest[1]:.1f} s on); "
            f"in one shard: {worst[0]:.1f} s (shard {worst[2]}, from {worst[1]:.1f} s on)"
        )
        lines.append(f"  in gaps over {GAP_S:.0f} s: {lost:.1f} of {seconds:.0f} s ({100 * lost / seconds:.1f} %)")
    late = max(
        (op.answered_at - op.invoked_at - op.timeout for op in history.ops if op.timeout and op.answered_at), default=0.0
    )
    lines.append(f"  latest answer after its deadline: {max(0.0, late):.1f} s")
    return "\n".join(lines)


def progress(history: History, now: float) -> str:
    """One line while it runs."""
    parts = [f"{now:5.0f} s"]
    for workload, counts in outcomes(history.ops).items():
        done = counts["ok"] + counts["refused"]
        parts.append(f"{workload} {done}/{counts['failed']}/{counts['unknown']}")
    return "  ".join([*parts, f"faults {sum(faults(history).values())}"])


def _listed(counts: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.most_common()) or "none"
