"""What each operation is: its kind, its key and its value, seeded, so that a run can be repeated.

Owns the mix and the values. Pure: sends nothing, reads no clock.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator

from kvctl.bench.keys import make_keys
from kvctl.bench.plan import Plan

KINDS_AT_ONCE = 1_024
VALUES_POOL_BYTES = 64 * 1024
"""Values are cut out of so many random bytes: making them costs nothing, and no disk or wire can compress them away."""


class Workload:
    """The operations of one process of a run."""

    kind: Callable[[], str]
    """The next operation's kind."""

    def __init__(self, plan: Plan, index: int) -> None:
        rng = random.Random(f"{plan.seed}/{index}")
        self._plan, self._keys, self._random = plan, make_keys(plan, index, rng), rng.random
        self._least, self._sizes = plan.value_size_bytes_min, plan.value_size_bytes_max - plan.value_size_bytes_min + 1
        self._pool = rng.randbytes(VALUES_POOL_BYTES + plan.value_size_bytes_max)
        self.kind = self._kinds(random.Random(f"{plan.seed}/{index}/kinds")).__next__

    def _kinds(self, rng: random.Random) -> Iterator[str]:
        kinds, shares = list(self._plan.mix), list(self._plan.mix.values())
        while True:
            yield from rng.choices(kinds, shares, k=KINDS_AT_ONCE)  # one at a time they would cost five times as much

    def read_key(self) -> bytes:
        """A key to read."""
        return self._plan.key(self._keys.read())

    def write_key(self) -> bytes:
        """A key to write."""
        return self._plan.key(self._keys.write())

    def two_keys(self) -> tuple[bytes, bytes]:
        """Two different keys to write; there are two at least."""
        first = second = self._keys.write()
        while second == first:
            second = self._keys.write()
        return self._plan.key(first), self._plan.key(second)

    def value(self) -> bytes:
        """A value."""
        at = int(self._random() * VALUES_POOL_BYTES)
        return self._pool[at : at + self._least + int(self._random() * self._sizes)]
