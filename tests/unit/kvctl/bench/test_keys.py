"""Distributions of keys and kinds, checked against their laws; seeds are fixed, so that chance decides nothing."""

from __future__ import annotations

import random
from collections import Counter

import pytest

from kvctl.bench.keys import HOT_KEYS, HOT_OPERATIONS, Hotspot, Latest, Uniform, Zipf, zeta
from kvctl.bench.workload import Workload
from tests.unit.kvctl.bench.plans import plan

DRAWS = 200_000


def chi_square(counts: list[int], expected: list[float]) -> float:
    """Pearson's statistic, divided by its degrees of freedom: about 1 where the law holds."""
    return sum((count - mean) ** 2 / mean for count, mean in zip(counts, expected, strict=True)) / (len(counts) - 1)


def test_uniform_keys_are_all_drawn_alike() -> None:
    """Chi-square over a hundred keys; 1.5 is far beyond chance (p < 0.001)."""
    keys = Uniform(100, random.Random(1))
    counts = Counter(keys.read() for _ in range(DRAWS))
    assert set(counts) == set(range(100))
    assert chi_square([counts[key] for key in range(100)], [DRAWS / 100] * 100) < 1.5


@pytest.mark.parametrize(("n", "theta"), [(10, 0.5), (1_000, 0.99), (50_000, 0.2), (50_000, 0.99)])
def test_zeta_by_its_series_is_the_plain_sum(n: int, theta: float) -> None:
    """Beyond a thousand terms, too."""
    assert zeta(n, theta) == pytest.approx(sum(i**-theta for i in range(1, n + 1)), rel=1e-10)


@pytest.mark.parametrize("theta", [0.5, 0.8, 0.99])
def test_zipf_keys_follow_the_law_of_their_rank(theta: float) -> None:
    """The first two ranks exactly; beyond, the paper's approximation prefers low ranks a little: 5 % of the first ten."""
    n = 10_000
    keys = Zipf(n, theta, random.Random(2))
    counts = Counter(keys.read() for _ in range(DRAWS))
    assert max(counts) < n
    total = zeta(n, theta)
    for rank in (1, 2):
        expected = DRAWS * rank**-theta / total
        assert abs(counts[rank - 1] - expected) < 4 * expected**0.5
    for first, tolerance in ((10, 0.06), (100, 0.04), (1_000, 0.02), (5_000, 0.01)):
        drawn = sum(counts[key] for key in range(first)) / DRAWS
        assert drawn == pytest.approx(zeta(first, theta) / total, rel=tolerance)


@pytest.mark.parametrize("n", [1, 2, 3])
def test_zipf_of_very_few_keys_stays_inside_of_them(n: int) -> None:
    """Where the formula has no middle."""
    keys = Zipf(n, 0.99, random.Random(3))
    counts = Counter(keys.read() for _ in range(10_000))
    assert sorted(counts) == list(range(n))
    assert counts[0] == max(counts.values())


def test_hotspot_gives_most_operations_to_a_few_keys() -> None:
    """80 % of the operations meet 20 % of the keys; inside of each part all are alike."""
    keys = Hotspot(100, random.Random(4))
    counts = Counter(keys.read() for _ in range(DRAWS))
    hot = int(100 * HOT_KEYS)
    means = [DRAWS * HOT_OPERATIONS / hot] * hot + [DRAWS * (1 - HOT_OPERATIONS) / (100 - hot)] * (100 - hot)
    assert chi_square([counts[key] for key in range(100)], means) < 1.5


def test_hotspot_of_one_key_draws_it() -> None:
    """Where no cold key is left."""
    assert {Hotspot(1, random.Random(5)).read() for _ in range(100)} == {0}


def test_latest_writes_go_round_and_reads_follow_them() -> None:
    """The key written last is read most, then the one before it, across the end of the round."""
    keys = Latest(range(1, 100, 2), 0.99, random.Random(6))
    assert [keys.write() for _ in range(52)] == [*range(1, 100, 2), 1, 3]
    counts = Counter(keys.read() for _ in range(DRAWS))
    assert [key for key, _ in counts.most_common(4)] == [3, 1, 99, 97]
    assert set(counts) <= set(range(1, 100, 2))


def test_latest_before_any_write_reads_what_was_loaded_last() -> None:
    """Loading writes the keys in order."""
    keys = Latest(range(50), 0.99, random.Random(7))
    assert Counter(keys.read() for _ in range(10_000)).most_common(1)[0][0] == 49


def test_kinds_of_operations_come_in_the_shares_of_the_mix() -> None:
    """Chi-square over six kinds."""
    mix = {"read": 0.5, "write": 0.2, "delete": 0.1, "cas": 0.1, "txn": 0.06, "range": 0.04}
    workload = Workload(plan(mix=mix), 0)
    counts = Counter(workload.kind() for _ in range(DRAWS))
    assert chi_square([counts[kind] for kind in mix], [DRAWS * share for share in mix.values()]) < 3


def test_workload_of_one_seed_is_the_same_again_and_others_differ() -> None:
    """By seed, and by process."""

    def drawn(seed: int, index: int) -> list[object]:
        workload = Workload(plan(seed=seed, processes=2), index)
        return [(workload.kind(), workload.read_key(), workload.value()) for _ in range(50)]

    assert drawn(1, 0) == drawn(1, 0)
    assert len({str(drawn(seed, index)) for seed in (1, 2) for index in (0, 1)}) == 4


def test_values_have_every_size_between_the_bounds() -> None:
    """Both bounds included."""
    workload = Workload(plan(value_size_bytes_min=3, value_size_bytes_max=6), 0)
    sizes = Counter(len(workload.value()) for _ in range(4_000))
    assert sorted(sizes) == [3, 4, 5, 6]
    assert chi_square(list(sizes.values()), [1_000.0] * 4) < 5


def test_two_keys_of_a_transaction_are_never_the_same() -> None:
    """Also where almost all draws meet one key."""
    workload = Workload(plan(keys=2, distribution="zipf"), 0)
    assert {workload.two_keys() for _ in range(100)} == {
        (b"bench/00000000", b"bench/00000001"),
        (b"bench/00000001", b"bench/00000000"),
    }
