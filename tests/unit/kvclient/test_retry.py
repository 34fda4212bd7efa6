"""When to try again."""

from __future__ import annotations

import random

import pytest

from kvclient import errors
from kvclient._retry import attempt_share, final_error, may_retry, pause_before
from kvclient._status import CONNECT_FAILED, CONNECTION_LOST, unknown

LOST = errors.Unavailable("gone", reason=CONNECTION_LOST)

# error, retried as a read, or as a write that executes once, and as a write without an id
TABLE = [
    (errors.NoLeader("x"), True, True),
    (errors.NotLeader("x"), True, True),
    (errors.WrongShard("x"), True, True),
    (errors.Overloaded("x"), True, True),
    (errors.Unavailable("x", definite=True), True, True),
    (errors.Unavailable("x", reason=CONNECT_FAILED, definite=True), True, True),
    (errors.Unavailable("x", definite=False), True, False),
    (LOST, True, False),
    (unknown(LOST), True, False),
    (errors.OutcomeUnknown("the server's own"), True, False),
    (errors.DeadlineExceeded("x"), True, False),
    (unknown(errors.DeadlineExceeded("x")), True, False),
    (unknown(errors.InternalError("x", reason="UNKNOWN")), True, False),
    (unknown(errors.ClientClosed("x", reason="CANCELLED")), True, False),
    (errors.CompareFailed("x"), False, False),
    (errors.Conflict("x"), False, False),
    (errors.SessionExpired("x"), False, False),
    (errors.NoSpace("x"), False, False),
    (errors.InvalidArgument("x"), False, False),
    (errors.Corrupt("x"), False, False),
    (errors.WrongCluster("x"), False, False),
    (errors.Unsupported("x"), False, False),
    (errors.ClientClosed("x", definite=True), False, False),
    (unknown(errors.ClientClosed("x")), False, False),
    (errors.InternalError("x"), False, False),
    (unknown(errors.InternalError("x")), False, False),
    (errors.Overloaded("x", reason="RESOURCE_EXHAUSTED", definite=False), False, False),
]


@pytest.mark.parametrize(("error", "repeatable", "other"), TABLE, ids=lambda value: getattr(value, "reason", None))
def test_may_retry_each_error_what_executes_once_freely_other_writes_only_what_is_definite(
    error: errors.KvError, repeatable: bool, other: bool
) -> None:
    """The whole table; and no write without an id is retried after an error that is not definite, whatever it is called."""
    assert may_retry(error, is_repeatable=True) is repeatable
    assert may_retry(error, is_repeatable=True, in_doubt=True) is (repeatable or isinstance(error, errors.Conflict))
    assert may_retry(error, is_repeatable=False) is other
    error.definite = False
    assert may_retry(error, is_repeatable=False) is False


@pytest.mark.parametrize("error", [error for error, _, _ in TABLE], ids=lambda error: error.reason)
def test_final_error_attempt_in_doubt_only_what_the_server_decided_is_definite(error: errors.KvError) -> None:
    """A definite failure after an attempt in doubt leaves the doubt; without one it is told as it is."""
    error.definite = type(error).default_definite
    error.attempts = 3
    assert final_error(error, None, in_doubt=False) is error
    told = final_error(error, None, in_doubt=True)
    if isinstance(error, errors.CompareFailed) or not error.definite:
        assert told is error
    else:
        assert isinstance(told, errors.OutcomeUnknown)
        assert (told.cause, told.definite, told.attempts) == (error, False, 3)


def test_final_error_last_attempt_never_left_tells_the_one_before() -> None:
    """What kept the operation from succeeding says more than that the time is over, also when it leaves a doubt."""
    before, late = errors.NoLeader("x"), errors.NotSentInTime("y")
    assert final_error(late, before, in_doubt=False) is before
    told = final_error(late, before, in_doubt=True)
    assert isinstance(told, errors.OutcomeUnknown)
    assert told.cause is before


def test_pause_before_each_attempt_grows_with_jitter_and_is_bounded() -> None:
    """From 20 ms, doubling, to 1 s; jitter over the upper half."""
    rng = random.Random(1)
    for attempt in range(2, 40):
        longest = min(1.0, 0.02 * 2 ** (attempt - 1))
        pauses = [pause_before(errors.NoLeader("x"), attempt, rng) for _ in range(50)]
        assert longest / 2 <= min(pauses) < max(pauses) <= longest


def test_pause_before_server_asks_for_more_is_obeyed() -> None:
    """RetryInfo is a lower bound."""
    assert pause_before(errors.Overloaded("x", retry_after=3.0), 1, random.Random(1)) >= 3.0


def test_pause_before_first_redirect_is_none() -> None:
    """A redirect, or a node that cannot be reached, is answered by going elsewhere at once; only the first time."""
    for error in (errors.NotLeader("x"), errors.WrongShard("x"), errors.Unavailable("x", reason=CONNECT_FAILED), unknown(LOST)):
        assert pause_before(error, 1, random.Random(1)) == 0.0
        assert pause_before(error, 2, random.Random(1)) > 0.0


def test_attempt_share_repeatable_keeps_time_for_another_node_other_writes_take_all() -> None:
    """Three attempts share the time of what may be repeated; a write that may not is never cut short."""
    assert [attempt_share(attempt, is_repeatable=True) for attempt in (1, 2, 3, 9)] == [1 / 3, 1 / 2, 1.0, 1.0]
    assert attempt_share(1, is_repeatable=False) == 1.0
