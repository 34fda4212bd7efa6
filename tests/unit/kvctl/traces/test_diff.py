"""Comparing two sets: honest about chance, and about what explains a change."""

from __future__ import annotations

import math
import random

import pytest

from kvctl.traces.diff import COUNT_MIN, Samples, Verdict, compare, figures_of, rank_test, tail_test

PUT = ("put", "strong", True)


def test_rank_test_gives_what_the_tables_give() -> None:
    """Against values computed by SciPy's mannwhitneyu (asymptotic, with continuity), with and without ties."""
    assert rank_test(range(1, 9), range(11, 19)).p_value == pytest.approx(0.000939, abs=1e-6)
    assert rank_test([1, 1, 1, 2, 2, 2, 3, 3], [2, 2, 3, 3, 3, 4, 4, 5, 6]).p_value == pytest.approx(0.011592, abs=1e-6)
    assert rank_test([1, 2, 3], [1, 2, 3]).p_value == 1
    assert rank_test([7] * 9, [7] * 9).p_value == 1


def test_rank_test_of_equal_distributions_is_seldom_sure() -> None:
    """Of 400 comparisons of nothing, some 1 % are beyond 1 %: not many more, and not none of all."""
    chance = random.Random(1)

    def sample() -> list[float]:
        return [chance.lognormvariate(0, 1) for _ in range(30)]

    surprises = sum(rank_test(sample(), sample()).p_value < 0.05 for _ in range(400))
    assert 5 <= surprises <= 35


def test_rank_test_is_not_moved_by_one_outlier() -> None:
    """A single request that hung changes the mean, and says nothing of the others."""
    values = [float(number) for number in range(40)]
    assert rank_test(values, [*values[:-1], 1e12]).p_value > 0.9
    assert not tail_test(values, [*values[:-1], 1e12]).is_sure


def test_rank_test_goes_by_ranks_not_by_means() -> None:
    """Most requests got quicker, a few hang: the direction is that of the most."""
    found = rank_test([5.0] * 40, [4.0] * 38 + [1e9] * 2)
    assert (found.is_sure, found.is_more) == (True, False)


def test_tail_test_gives_what_counting_gives() -> None:
    """Ten slow ones among two hundred, one and nine: against the hypergeometric distribution in whole numbers."""
    before, after = [1.0] * 99 + [9.0], [1.0] * 91 + [9.0] * 9
    ways = [math.comb(100, count) * math.comb(100, 10 - count) for count in range(11)]
    p_value = sum(way for way in ways if way <= ways[1]) / math.comb(200, 10)
    assert tail_test(before, after).p_value == pytest.approx(p_value)
    assert tail_test(before, after).is_more
    assert not tail_test(after, before).is_more
    assert tail_test(before, before).p_value == pytest.approx(1)


def test_comparison_of_tails_is_told_where_medians_are_alike() -> None:
    """A tenth of the requests waits for a disk now: the median says nothing of it, the verdict does."""
    before = Samples([1e6 + number % 50 for number in range(200)])
    slow = [150e6 if number % 10 == 0 else 0.0 for number in range(200)]
    after = Samples([1e6 + number % 50 + slow[number] for number in range(200)], {"fsync": slow})
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.SLOWER_TAIL
    assert difference.text == (
        "Put (strong): slower tail, p95 1.0 ms → 151 ms, p99 1.0 ms → 151 ms, median 1.0 ms → 1.0 ms; "
        "of +15 ms in the mean: fsync +15 ms (100%)."
    )


def test_comparison_within_noise_says_so() -> None:
    """A median a tenth higher, by chance: no verdict, and no reason."""
    chance = random.Random(3)
    before, after = (Samples([1e6 * chance.lognormvariate(0, 1) for _ in range(20)]) for _ in range(2))
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.NOISE
    assert difference.text.startswith("Put (strong): within noise, median ")
    assert "chance alone does that in" in difference.text


def test_comparison_of_too_few_requests_says_how_many_it_takes() -> None:
    """One side has seven."""
    before, after = Samples([1e6] * 7), Samples([9e6] * 100)
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.TOO_FEW
    assert difference.text == (
        f"Put (strong): too few to compare (7 and 100 requests; at least {COUNT_MIN} each), median 1.0 ms → 9.0 ms."
    )


def test_comparison_tells_which_stages_explain_a_change() -> None:
    """By means, which sum: of four milliseconds more, three are the disk's; a new stage counts from zero."""
    before = Samples([2e6 + number for number in range(20)], {"fsync": [1e6] * 20, "apply": [1e6] * 20})
    after = Samples([6e6 + number for number in range(20)], {"fsync": [4e6] * 20, "apply": [1e6] * 20, "lock_wait": [1e6] * 20})
    (difference,) = compare({PUT: before}, {PUT: after})
    assert difference.whole.verdict is Verdict.SLOWER
    assert [(one.stage, round(one.share, 2)) for one in difference.stages] == [
        ("fsync", 0.75),
        ("lock_wait", 0.25),
        ("apply", 0),
    ]
    assert difference.text == (
        "Put (strong): slower, median 2.0 ms → 6.0 ms (+200%); "
        "of +4.0 ms in the mean: fsync +3.0 ms (75%), lock_wait +1.0 ms (25%)."
    )
    (back,) = compare({PUT: after}, {PUT: before})
    assert back.text == (
        "Put (strong): faster, median 6.0 ms → 2.0 ms (-67%); "
        "of -4.0 ms in the mean: fsync -3.0 ms (75%), lock_wait -1.0 ms (25%)."
    )


def test_comparison_takes_only_kinds_that_both_sides_have() -> None:
    """Clients' durations are not compared with nodes'; the most frequent kind comes first."""
    get, of_nodes = ("get", "strong", True), ("put", "strong", False)
    before = {PUT: Samples([1.0] * 9), get: Samples([1.0] * 20), of_nodes: Samples([1.0])}
    after = {PUT: Samples([1.0] * 9), get: Samples([1.0] * 20)}
    assert [difference.operation for difference in compare(before, after)] == ["get", "put"]


def test_figures_are_those_that_a_share_does_not_exceed() -> None:
    """Percentiles by nearest rank: values that were measured, never between two."""
    figures = figures_of([float(number) for number in range(100, 0, -1)])
    assert (figures.count, figures.mean, figures.p50, figures.p95, figures.p99) == (100, 50.5, 50, 95, 99)
    assert figures_of([3.0]).p99 == 3
