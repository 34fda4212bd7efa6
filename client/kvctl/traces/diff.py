"""What differs between two sets of requests: before and after, leader A and leader B.

Owns the comparison and its honesty: a rank test (Mann and Whitney's U) says whether one side's requests tend to be slower, an
exact test (Fisher's) whether one side has more of the slowest twentieth, and what neither can tell from chance is called noise.
Which stage explains a change is told by means along the critical path, because only means of parts sum to that of the whole.
Pure.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from kvctl.traces.words import duration_words, signed_words

COUNT_MIN = 8
"""Of requests on either side: with fewer the test's normal approximation says nothing."""
P_VALUE_MAX = 0.01
"""What chance alone brings about less often is a difference."""
TAIL = 0.05
"""Of all requests: the slowest."""
WORTH_SAYING = 0.15
"""Of a change: the part of a stage from which it is told."""


class Verdict(StrEnum):
    """What a comparison found."""

    SLOWER = "slower"
    FASTER = "faster"
    SLOWER_TAIL = "slower tail"
    """As a rule as quick as before, and more often very slow."""
    FASTER_TAIL = "faster tail"
    NOISE = "noise"
    """No difference that chance could not have made."""
    TOO_FEW = "too few"


@dataclass(frozen=True, slots=True)
class Test:
    """What a test found."""

    p_value: float
    """How often chance alone brings about such a difference."""
    is_more: bool
    """In which direction: the second side has more."""

    @property
    def is_sure(self) -> bool:
        """Whether it was hardly chance."""
        return self.p_value <= P_VALUE_MAX


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
    shift: Test | None
    """Whether requests tend to be slower, or quicker. None: too few to say."""
    tail: Test | None
    """Whether more of them are very slow, or fewer."""
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
        if self.shift is None or self.tail is None:
            return Verdict.TOO_FEW
        if self.shift.is_sure:
            return Verdict.SLOWER if self.shift.is_more else Verdict.FASTER
        if self.tail.is_sure:
            return Verdict.SLOWER_TAIL if self.tail.is_more else Verdict.FASTER_TAIL
        return Verdict.NOISE

    @property
    def is_real(self) -> bool:
        """Whether more than chance made it."""
        return self.verdict not in (Verdict.NOISE, Verdict.TOO_FEW)


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
        medians = f"median {_both(whole, 'p50')}"
        if whole.shift is None:
            counts = f"{whole.before.count:,} and {whole.after.count:,} requests"
            return f"{name}: too few to compare ({counts}; at least {COUNT_MIN} each), {medians}."
        if whole.verdict is Verdict.NOISE:
            return f"{name}: within noise, {medians} (chance alone does that in {whole.shift.p_value:.0%} of cases)."
        if whole.shift.is_sure:
            found = f"{name}: {whole.verdict}, {medians}{f' ({whole.ratio - 1:+.0%})' if whole.ratio else ''}"
        else:
            found = f"{name}: {whole.verdict}, p95 {_both(whole, 'p95')}, p99 {_both(whole, 'p99')}, {medians}"
        return f"{found}{self._reasons()}."

    @property
    def has_reasons(self) -> bool:
        """Whether shares of stages mean anything: there is a difference, and the mean went the same way."""
        is_slower = self.whole.verdict in (Verdict.SLOWER, Verdict.SLOWER_TAIL)
        return self.whole.is_real and is_slower == (self.whole.after.mean > self.whole.before.mean)

    def _reasons(self) -> str:
        """The stages that the mean's change consists of."""
        mean = self.whole.after.mean - self.whole.before.mean
        told = [
            f"{one.stage} {signed_words(one.after.mean - one.before.mean)} ({one.share:.0%})"
            for one in self.stages
            if one.share >= WORTH_SAYING
        ]
        return f"; of {signed_words(mean)} in the mean: {', '.join(told)}" if told and self.has_reasons else ""


def _both(change: Change, figure: str) -> str:
    return f"{duration_words(getattr(change.before, figure))} → {duration_words(getattr(change.after, figure))}"


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
    if min(len(before), len(after)) < COUNT_MIN:
        return Change(stage, *figures, None, None, share)
    return Change(stage, *figures, rank_test(before, after), tail_test(before, after), share)


def figures_of(values: Sequence[float]) -> Figures:
    """Of at least one value."""
    ranked = sorted(values)
    count = len(ranked)
    p50, p95, p99 = (ranked[max(0, math.ceil(count * percent / 100) - 1)] for percent in (50, 95, 99))
    return Figures(count, sum(ranked) / count, p50, p95, p99)


def rank_test(before: Sequence[float], after: Sequence[float]) -> Test:
    """Mann and Whitney's U test, two-sided, by its normal approximation with ties: whether one side's values are greater than
    the other's more often than chance would have it.
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
    expected = n * (n + m + 1) / 2
    variance = n * m / 12 * (n + m + 1 - ties / ((n + m) * (n + m - 1)))
    distance = max(0.0, abs(rank_sum - expected) - 0.5)
    p_value = math.erfc(distance / math.sqrt(2 * variance)) if variance > 0 else 1.0  # all values are the same
    return Test(p_value, rank_sum < expected)


def tail_test(before: Sequence[float], after: Sequence[float]) -> Test:
    """Fisher's exact test, two-sided: whether one side has more of the slowest twentieth of all than chance would have it."""
    n, m = len(before), len(after)
    everything = sorted([*before, *after])
    bound = everything[math.ceil((1 - TAIL) * (n + m)) - 1]
    slow_before, slow_after = (sum(1 for value in side if value > bound) for side in (before, after))
    slow = slow_before + slow_after

    def log_likelihood(count: int) -> float:
        """Of `count` slow ones on the first side, if nothing but chance decides where they are."""
        return _log_choose(n, count) + _log_choose(m, slow - count) - _log_choose(n + m, slow)

    seen = log_likelihood(slow_before) + 1e-9
    possible = range(max(0, slow - m), min(n, slow) + 1)
    p_value = sum(math.exp(chance) for count in possible if (chance := log_likelihood(count)) <= seen)
    return Test(min(1.0, p_value), slow_after * n > slow_before * m)


def _log_choose(n: int, k: int) -> float:
    return math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1)
