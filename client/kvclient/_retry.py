"""When to try again, and how long to wait first.

Owns the decision for one failed attempt. Never sleeps, never sends; randomness is injected.

Invariants:
- A write is tried again only after a *definite* failure: it did not take effect and never will. (With a request id, by which
  the server knows a retry from the first try, a write would be as retryable as a read; this is the place that would say so.)
- No retry begins that could not end before the deadline.
"""

from __future__ import annotations

import random

from kvclient._status import CONNECT_FAILED, CONNECTION_LOST
from kvclient.errors import KvError

BACKOFF_S_MIN = 0.02
BACKOFF_S_MAX = 1.0

AT_ONCE = frozenset(("NOT_LEADER", "WRONG_SHARD"))
"""The next attempt goes elsewhere: the first one need not wait."""
DEFINITE_RETRYABLE = frozenset(("NO_LEADER", "OVERLOADED", "UNAVAILABLE", CONNECT_FAILED)) | AT_ONCE
READ_RETRYABLE = DEFINITE_RETRYABLE | frozenset((CONNECTION_LOST, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED"))
"""DEADLINE_EXCEEDED: one attempt's share of the time is over (`attempt_share`); the caller's own deadline ends it all."""


def may_retry(error: KvError, *, is_write: bool) -> bool:
    """Whether the same operation may be tried again after `error`."""
    if is_write:
        return error.definite and error.reason in DEFINITE_RETRYABLE
    return error.reason in READ_RETRYABLE


def pause_before(error: KvError, attempt: int, rng: random.Random) -> float:
    """Seconds to wait before attempt number `attempt` + 1 (the first attempt is 1).

    Exponential from 20 ms to 1 s with jitter over the upper half, never less than what the server asked for; a first redirect
    is followed at once, and so is a first failure to connect, since the next attempt takes another node.
    """
    if attempt == 1 and (error.reason in AT_ONCE or error.reason in (CONNECT_FAILED, CONNECTION_LOST)):
        return error.retry_after or 0.0
    backoff: float = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(attempt - 1, 16))
    return max(backoff * rng.uniform(0.5, 1.0), (error.retry_after or 0.0) * rng.uniform(1.0, 1.25))


def attempt_share(attempt: int, *, is_write: bool) -> float:
    """The share of the remaining time that attempt number `attempt` may take.

    A read that hangs on a stalled node is tried elsewhere: a third of the time, then half of the rest, then all of it. A write
    is given everything: giving up on it early would only make its outcome unknown.
    """
    return 1.0 if is_write else 1.0 / max(1, 4 - attempt)
