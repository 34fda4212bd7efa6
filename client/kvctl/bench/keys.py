"""Which key an operation takes: uniform, zipf, latest and hotspot, with YCSB's constants.

Owns the distributions. Pure: draws from the random generator it is given, and knows keys by their numbers only.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod

from kvctl.bench.plan import Plan

HOT_KEYS = 0.2
"""YCSB's hotspot: this share of the keys ..."""
HOT_OPERATIONS = 0.8
"""... gets this share of the operations."""
ZETA_TERMS_EXACT = 1_000


class Keys(ABC):
    """Numbers of keys."""

    @abstractmethod
    def read(self) -> int:
        """The next key to read."""

    def write(self) -> int:
        """The next key to write."""
        return self.read()


class Uniform(Keys):
    """Every key alike."""

    def __init__(self, keys: int, rng: random.Random) -> None:
        self._keys, self._random = keys, rng.random

    def read(self) -> int:
        """See `Keys`."""
        return int(self._random() * self._keys)


class Zipf(Keys):
    """The key of rank i is taken in proportion to 1 / i**theta; key 0 has rank 1.

    Gray et al., "Quickly generating billion-record synthetic databases", SIGMOD 1994: constant time for each draw, by an
    approximation that is exact for the first two ranks. YCSB has it too, and scatters the ranks over the keys; here the
    store's hash scatters them over the shards.
    """

    def __init__(self, keys: int, theta: float, rng: random.Random) -> None:
        """`theta` is above 0 and below 1; 0.99 is YCSB's."""
        self._keys, self._random = keys, rng.random
        self._zeta = zeta(keys, theta)
        self._second = 1.0 + 0.5**theta
        self._alpha = 1.0 / (1.0 - theta)
        self._eta = (1.0 - (2.0 / keys) ** (1.0 - theta)) / (1.0 - self._second / self._zeta) if keys > 2 else 0.0

    def read(self) -> int:
        """See `Keys`."""
        u = self._random()
        scaled = u * self._zeta
        if scaled < 1.0 or self._keys == 1:
            return 0
        if scaled < self._second or self._keys == 2:
            return 1
        return min(self._keys - 1, int(self._keys * (self._eta * u - self._eta + 1.0) ** self._alpha))


class Latest(Keys):
    """Writes go round through all keys; reads prefer, by Zipf's law, those that were written last.

    Of several processes each has keys of its own.
    """

    def __init__(self, keys: range, theta: float, rng: random.Random) -> None:
        self._keys = keys
        self._ages = Zipf(len(keys), theta, rng)
        self._last = len(keys) - 1  # loading ends there

    def read(self) -> int:
        """See `Keys`."""
        return self._keys[self._last - self._ages.read()]  # a negative position counts from the end: the round before

    def write(self) -> int:
        """See `Keys`."""
        self._last = (self._last + 1) % len(self._keys)
        return self._keys[self._last]


class Hotspot(Keys):
    """Most operations meet a few keys, the others the rest; alike within each of the two."""

    def __init__(self, keys: int, rng: random.Random) -> None:
        self._hot = max(1, int(keys * HOT_KEYS))
        self._cold, self._random = keys - self._hot, rng.random

    def read(self) -> int:
        """See `Keys`."""
        if self._random() < HOT_OPERATIONS or not self._cold:
            return int(self._random() * self._hot)
        return self._hot + int(self._random() * self._cold)


def zeta(n: int, theta: float) -> float:
    """The sum of 1 / i**theta for i from 1 to n; beyond a thousand terms by Euler and Maclaurin, to ten digits."""
    exact = min(n, ZETA_TERMS_EXACT)
    total: float = sum(i**-theta for i in range(1, exact + 1))
    if n == exact:
        return total
    integral = (n ** (1.0 - theta) - exact ** (1.0 - theta)) / (1.0 - theta)
    slope = theta * (exact ** (-theta - 1.0) - n ** (-theta - 1.0)) / 12.0
    return float(total + integral + (n**-theta - exact**-theta) / 2.0 + slope)


def make_keys(plan: Plan, index: int, rng: random.Random) -> Keys:
    """The distribution that a process of a run draws from."""
    match plan.distribution:
        case "uniform":
            return Uniform(plan.keys, rng)
        case "zipf":
            return Zipf(plan.keys, plan.zipf_theta, rng)
        case "latest":
            return Latest(plan.keys_of(index), plan.zipf_theta, rng)
        case "hotspot":
            return Hotspot(plan.keys, rng)
    raise ValueError(plan.distribution)
