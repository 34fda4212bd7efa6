"""What differs between two sets of requests: before and after, leader A and leader B.

Owns the comparison and its honesty: a rank test (Mann and Whitney's U) says whether two sets differ at all, whatever their
distribution; too few requests are said to be too few. Which stage explains a change is told by means along the critical path,
because only means of parts sum to the mean of the whole. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kvctl.traces.words import duration_words

COUNT_MIN = 8
"""Of requests on either side: with fewer the test's normal approximation says nothing."""
P_VALUE_MAX = 0.01
"""What chance alone brings about less often is a difference."""
WORTH_SAYING = 0.15
"""Of a change: the part of a stage from which it is told."""


class Verdict(StrEnum):
    """What a comparison found."""

    SLOWER = "slower"
    FASTER = "faster"
    NOISE = "noise"
    """No difference that chance could not have made."""
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Figures:
    """One side of a comparison; nanoseconds."""

    count: int
    mean: float
    p50: float
    p95: float
    p99: float


@dataclass(frozen=True, slots=True)
class Change:
    """One stage, or the whole (stage ""), of one kind of request on both sides. A stage's time is that on the critical path,
    0 for requests that did not wait for it.
    """

    stage: str
    before: Figures
    after: Figures
    p_value: float | None
    """How often chance alone brings about such a difference; None: too few to say."""
    share: float
    """Of the whole's change of the mean; 1 for the whole. Shares of stages sum to 1."""

    @property
    def delta_ns(self) -> float:
        """Of the median."""
        return self.after.p50 - self.before.p50

    @property
    def ratio(self) -> float | None:
        """Of the medians; None where the first is 0."""
        return self.after.p50 / self.before.p50 if self.before.p50 else None

    @property
    def verdict(self) -> Verdict:
        """Whether it differs."""
        if self.p_value is None:
            return Verdict.TOO_FEW
        if self.p_value > P_VALUE_MAX:
            return Verdict.NOISE
        return Verdict.SLOWER if self.after.mean > self.before.mean else Verdict.FASTER


@dataclass(frozen=True, slots=True)
class Difference:
    """One kind of request on both sides."""

    operation: str
    consistency: str
    by_client: bool
    """Whether durations are the clients'; else the nodes'."""
    whole: Change
    stages: tuple[Change, ...]
    """What contributed most to the change first."""

    @property
    def text(self) -> str:
        """What differs and why, in a sentence."""
        whole = self.whole
        name = f"{self.operation.capitalize()}{f' ({self.consistency})' if self.consistency else ''}"
        medians = f"median {duration_words(whole.before.p50)} → {duration_words(whole.after.p50)}"
        if whole.verdict is Verdict.TOO_FEW:
            counts = f"{whole.before.count:,} and {whole.after.count:,} requests"
            return f"{name}: too few to compare ({counts}; at least {COUNT_MIN} each), {medians}."
        if whole.verdict is Verdict.NOISE:
            return f"{name}: within noise, {medians} (chance alone does that in {whole.p_value:.0%} of cases)."
        mean = whole.after.mean - whole.before.mean
        reasons = [
            f"{one.stage} {duration_words(one.after.mean - one.before.mean)} ({one.share:.0%})"
            for one in self.stages
            if one.share >= WORTH_SAYING
        ]
        why = f"; of {duration_words(mean)} in the mean: {', '.join(reasons)}" if reasons else ""
        percent = f" ({whole.ratio - 1:+.0%})" if whole.ratio else ""
        return f"{name}: {whole.verdict}, {medians}{percent}{why}."


@dataclass(slots=True)
class Samples:
    """Requests of one kind, on one side. Each list has an entry a request, nanoseconds."""

    whole: list[float] = field(default_factory=list)
    stages: dict[str, list[float]] = field(default_factory=dict)
    """On the critical path."""


Kind = tuple[str, str, bool]
"""Operation, consistency, by_client."""


def compare(before: Mapping[Kind, Samples], after: Mapping[Kind, Samples]) -> list[Difference]:
    """Kinds that are on both sides; the most frequent first."""
    kinds = sorted(before.keys() & after.keys(), key=lambda kind: (-len(before[kind].whole) - len(after[kind].whole), kind))
    return [_difference(kind, before[kind], after[kind]) for kind in kinds]


def _difference(kind: Kind, before: Samples, after: Samples) -> Difference:
    whole = _change("", before.whole, after.whole, 0)
    total = whole.after.mean - whole.before.mean
    stages = []
    for stage in sorted(before.stages.keys() | after.stages.keys()):
        first, second = (one.stages.get(stage, [0.0] * len(one.whole)) for one in (before, after))
        stages.append(_change(stage, first, second, total))
    stages.sort(key=lambda one: (-abs(one.share), one.stage))
    return Difference(*kind, whole, tuple(stages))


def _change(stage: str, before: Sequence[float], after: Sequence[float], total: float) -> Change:
    figures = figures_of(before), figures_of(after)
    share = 1.0 if not stage else (figures[1].mean - figures[0].mean) / total if total else 0.0
    few = min(len(before), len(after)) < COUNT_MIN
    return Change(stage, *figures, None if few else rank_test(before, after), share)


def figures_of(values: Sequence[float]) -> Figures:
    """Of at least one value."""
    ranked = sorted(values)
    count = len(ranked)
    p50, p95, p99 = (ranked[max(0, math.ceil(count * percent / 100) - 1)] for percent in (50, 95, 99))
    return Figures(count, sum(ranked) / count, p50, p95, p99)


def rank_test(before: Sequence[float], after: Sequence[float]) -> float:
    """Mann and Whitney's U test, two-sided, by its normal approximation with ties: how often chance alone brings about that
    one side's values are so often greater than the other's.
    """
    n, m = len(before), len(after)
    ranked = sorted([(value, 0) for value in before] + [(value, 1) for value in after])
    rank_sum, ties, at = 0.0, 0.0, 0
    while at < n + m:
        end = at
        while end < n + m and ranked[end][0] == ranked[at][0]:
            end += 1
        equal = end - at
        rank_sum += (at + end + 1) / 2 * sum(1 for _, side in ranked[at:end] if side == 0)
        ties += equal**3 - equal
        at = end
    variance = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    if variance <= 0:
        return 1.0  # all values are the same
    distance = max(0.0, abs(rank_sum - n * (n + m + 1) / 2) - 0.5)
    return math.erfc(distance / math.sqrt(2 * variance))
