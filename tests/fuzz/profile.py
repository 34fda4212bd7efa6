"""How many examples a fuzz test tries, and from which seed.

Within `make test` the examples are always the same few, so that a failure there is a change of the code and not of luck.
`make fuzz` sets `KVNODE_FUZZ_FACTOR`: that many times more examples, other ones each time, and the blob that replays a failure.
"""

from __future__ import annotations

import os

from hypothesis import HealthCheck, settings

FACTOR = int(os.environ.get("KVNODE_FUZZ_FACTOR", "0"))
"""0: the same few examples each time."""


def fuzz(examples: int) -> settings:
    """The settings of a test that tries so many examples in `make test`."""
    return settings(
        max_examples=examples * max(1, FACTOR),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        print_blob=True,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
    )
