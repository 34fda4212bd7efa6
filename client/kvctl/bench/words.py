"""How figures read: milliseconds and rates with three digits, counts with commas, and the sentences about a run.

Owns the words. Measures nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from kvctl.bench.plan import Plan
from kvctl.output import duration_text, size_text

SPARKS = "▁▂▃▄▅▆▇█"
SPARKS_MAX = 60


def ms_text(milliseconds: float) -> str:
    """Three digits: 0.85, 12.3, 432, 1,240."""
    if milliseconds >= 99.95:
        return f"{milliseconds:,.0f}"
    return f"{milliseconds:.1f}" if milliseconds >= 9.995 else f"{milliseconds:.2f}"


def span_text(milliseconds: float) -> str:
    """With its unit: 0.85 ms, 432 ms, 1.24 s."""
    return f"{ms_text(milliseconds)} ms" if milliseconds < 999.5 else f"{ms_text(milliseconds / 1e3)} s"


def seconds_text(seconds: float) -> str:
    """10 s, 2.5 s, 500 ms, 2 min 0 s."""
    return duration_text(seconds).replace(".0 s", " s")


def rate_text(per_second: float) -> str:
    """3,912 or 39.1 or 0.39."""
    return f"{per_second:,.0f}" if per_second >= 99.95 or not per_second else ms_text(per_second)


def given_text(number: float) -> str:
    """A number as it was given: 5,000, 20, 0.5."""
    return f"{number:,.10g}"


def count_text(number: int, noun: str) -> str:
    """1 error, 2 errors, 3,000 errors."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def percent_text(share: float) -> str:
    """90 %, 12.5 %, 0.1 %."""
    return f"{share * 100:.3g} %"


def plan_text(plan: Plan) -> str:
    """What a run does, in one line."""
    length = f"{plan.operations:,} operations" if plan.operations is not None else seconds_text(plan.duration_s)
    mix = ", ".join(f"{percent_text(share)} {kind}" for kind, share in plan.mix.items())
    if plan.rate is None:
        load = f"a closed loop of {count_text(plan.concurrency, 'caller')}"
    else:
        gaps = "evenly spaced" if plan.arrivals == "even" else "Poisson"
        load = f"an open loop of {given_text(plan.rate)} operations/s ({gaps})"
    return f"{length}, {load}: {mix}"


def data_text(plan: Plan) -> str:
    """What it touches, in one line."""
    least, most = plan.value_size_bytes_min, plan.value_size_bytes_max
    sizes = size_text(least) if least == most else f"{size_text(least)} to {size_text(most)}"
    theta = f" {plan.zipf_theta:g}" if plan.distribution == "zipf" else ""
    levels = []
    if plan.mix.keys() & {"read", "range"}:
        levels.append(f"{plan.read_consistency} reads")
    if plan.mix.keys() & {"write", "delete"}:
        acks = f" (acks {plan.acks})" if plan.acks else ""
        levels.append(f"{plan.write_consistency} writes{acks}")
    prefix = plan.prefix.decode("utf-8", "backslashreplace")
    keys = f"{count_text(plan.keys, 'key')} {prefix}… ({plan.distribution}{theta}), values of {sizes}"
    return ", ".join([keys, *levels])


def sparkline(values: Sequence[float]) -> str:
    """▁▁█·▂: each value's height, from 0 to the greatest; · is 0 itself. Of many values the greatest of every few."""
    each = -(-len(values) // SPARKS_MAX)
    heights = [max(values[at : at + each]) for at in range(0, len(values), each)]
    steps = [min(len(SPARKS) - 1, int(height / (max(heights) or 1.0) * len(SPARKS))) for height in heights]
    return "".join(SPARKS[step] if height else "·" for step, height in zip(steps, heights, strict=True))


def round_rate(per_second: float) -> str:
    """A rate to try: two digits, without commas."""
    digits = max(0, math.floor(math.log10(per_second)) - 1) if per_second >= 1 else 0
    return f"{max(1, int(per_second // 10**digits * 10**digits))}"
