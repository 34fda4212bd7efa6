"""The server's bounds, made small: what takes days or thousands of clients to reach happens within a run of seconds.

Owns: which bounds, and how small. Never: differs between the nodes of a run; replicas must agree on what they forget.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

from kvnode import limits
from kvnode.shard import client_sessions

SMALL: tuple[tuple[object, str, tuple[int, ...]], ...] = (
    (limits, "TRANSACTIONS_ENDED_PER_SHARD_MAX", (4, 32)),
    (limits, "TRANSACTIONS_PREPARED_PER_SHARD_MAX", (2, 4)),
    (limits, "TRANSACTION_WAITING_EVENTUAL_MAX", (1, 4)),
    (limits, "CLIENT_SESSIONS_PER_SHARD_MAX", (6, 12)),
    (limits, "CLIENT_RESULTS_PER_SESSION_MAX", (2, 8)),
    (client_sessions, "IDLE", (1000 << 16, 5000 << 16)),
    (limits, "PROPOSALS_PER_SHARD_MAX", (4, 16)),
    (limits, "PROPOSED_SIZE_BYTES_MAX", (16 * 1024, 64 * 1024)),
    (limits, "READS_PER_SHARD_MAX", (2, 8)),
    (limits, "LOCK_WAITERS_PER_SHARD_MAX", (1, 4)),
    (limits, "PENDING_EVENTUAL_PER_SHARD_MAX", (8, 32)),
    (limits, "FORWARDS_IN_FLIGHT_MAX", (2, 8)),
    (limits, "TRANSACTIONS_COORDINATED_MAX", (4, 16)),
)


@contextmanager
def small_bounds(rng: random.Random) -> Iterator[None]:
    """Makes some of them small, in half of the runs, while it lasts."""
    share = rng.choice((0.0, 0.5))
    before = [(module, name, getattr(module, name)) for module, name, _ in SMALL]
    try:
        for module, name, values in SMALL:
            if rng.random() < share:
                setattr(module, name, rng.choice(values))
        yield
    finally:
        for module, name, value in before:
            setattr(module, name, value)
