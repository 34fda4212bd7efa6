"""When to try again, and how long to wait first.

Owns the decision for one failed attempt, and the error that remains in the end. Never sleeps, never sends; randomness is
injected.

Invariants:
- A write without a request id is tried again only after a *definite* failure: it did not take effect and never will.
- What is *repeatable*, a read, or a write whose id tells the servers a retry from the first try, is tried again also when an
  attempt is in doubt. From then on no other attempt's definite failure is the operation's: the one in doubt may still take
  effect. Only what the servers decided about the operation itself is: a failed comparison, a wrong argument.
- No retry begins that could not end before the deadline.
"""

from __future__ import annotations

import random

from kvclient._status import CONNECT_FAILED, CONNECTION_LOST, unknown
from kvclient.errors import CompareFailed, KvError, NotSentInTime

BACKOFF_S_MIN = 0.02
BACKOFF_S_MAX = 1.0

AT_ONCE = frozenset(("NOT_LEADER", "WRONG_SHARD", CONNECT_FAILED, CONNECTION_LOST))
"""The next attempt goes elsewhere: the first one need not wait."""
SAME_NODE = frozenset(("OVERLOADED", "CONFLICT", "SESSION_EXPIRED"))
"""The node is the right one: the next attempt does not avoid it."""
DEFINITE_RETRYABLE = frozenset(("NO_LEADER", "OVERLOADED", "UNAVAILABLE", "NOT_LEADER", "WRONG_SHARD", CONNECT_FAILED))
REPEATABLE_RETRYABLE = DEFINITE_RETRYABLE | frozenset(
    (CONNECTION_LOST, "OUTCOME_UNKNOWN", "DEADLINE_EXCEEDED", "UNKNOWN", "CANCELLED")
)
"""DEADLINE_EXCEEDED: one attempt's share of the time is over (`attempt_share`); the caller's own deadline ends it all. UNKNOWN
and CANCELLED are never a node's word: gRPC says so when a stream is torn down."""


def may_retry(error: KvError, *, is_repeatable: bool, in_doubt: bool = False) -> bool:
    """Whether the same operation may be tried again after `error`; `in_doubt`: an attempt of it is, this one or an earlier."""
    if not is_repeatable:
        return error.definite and error.reason in DEFINITE_RETRYABLE
    reason = _reason(error)
    return reason in REPEATABLE_RETRYABLE or (in_doubt and reason == "CONFLICT")


def final_error(error: KvError, before: KvError | None, *, in_doubt: bool) -> KvError:
    """What the caller is told when `error` ended the last attempt and `before` the one before it."""
    if before is not None and isinstance(error, NotSentInTime):
        error = before  # What kept it from succeeding says more than that the time is over.
    if in_doubt and error.definite and not isinstance(error, CompareFailed):
        return unknown(error, "an earlier attempt of the write was sent and its answer is lost; the last one failed")
    return error


def pause_before(error: KvError, attempt: int, rng: random.Random) -> float:
    """Seconds to wait before attempt number `attempt` + 1 (the first attempt is 1).

    Exponential from 20 ms to 1 s with jitter over the upper half, never less than what the server asked for; a first redirect
    is followed at once, and so is a first failure to connect, since the next attempt takes another node.
    """
    if attempt == 1 and _reason(error) in AT_ONCE:
        return error.retry_after or 0.0
    backoff: float = min(BACKOFF_S_MAX, BACKOFF_S_MIN * 2.0 ** min(attempt - 1, 16))
    return max(backoff * rng.uniform(0.5, 1.0), (error.retry_after or 0.0) * rng.uniform(1.0, 1.25))


def attempt_share(attempt: int, *, is_repeatable: bool) -> float:
    """The share of the remaining time that attempt number `attempt` may take.

    What hangs on a stalled node is tried elsewhere: a third of the time, then half of the rest, then all of it. A write that
    must not be repeated is given everything: giving up on it early would only make its outcome unknown.
    """
    return 1.0 / max(1, 4 - attempt) if is_repeatable else 1.0


def _reason(error: KvError) -> str:
    """Why it failed; of an unknown outcome, what made it so."""
    cause: KvError | None = getattr(error, "cause", None)
    return error.reason if cause is None else cause.reason
