"""When to try again."""

from __future__ import annotations

import random

import pytest

from kvclient import errors
from kvclient._retry import attempt_share, may_retry, pause_before
from kvclient._status import CONNECT_FAILED, CONNECTION_LOST, unknown

LOST = errors.Unavailable("gone", reason=CONNECTION_LOST)

# error, retried as a read, retried as a write
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
    (errors.DeadlineExceeded("x"), True, False),
    (errors.CompareFailed("x"), False, False),
    (errors.Conflict("x"), False, False),
    (errors.NoSpace("x"), False, False),
    (errors.InvalidArgument("x"), False, False),
    (errors.Corrupt("x"), False, False),
    (errors.WrongCluster("x"), False, False),
    (errors.Unsupported("x"), False, False),
    (errors.ClientClosed("x", definite=True), False, False),
    (errors.InternalError("x"), False, False),
    (errors.Overloaded("x", reason="RESOURCE_EXHAUSTED", definite=False), False, False),
]


@pytest.mark.parametrize(("error", "read", "write"), TABLE, ids=lambda value: getattr(value, "reason", None))
def test_may_retry_each_error_reads_freely_writes_only_what_is_definite(error: errors.KvError, read: bool, write: bool) -> None:
    """The whole table; and no write is retried after an error that is not definite, whatever it is called."""
    assert may_retry(error, is_write=False) is read
    assert may_retry(error, is_write=True) is write
    error.definite = False
    assert may_retry(error, is_write=True) is False


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
    for error in (errors.NotLeader("x"), errors.WrongShard("x"), errors.Unavailable("x", reason=CONNECT_FAILED)):
        assert pause_before(error, 1, random.Random(1)) == 0.0
        assert pause_before(error, 2, random.Random(1)) > 0.0


def test_attempt_share_read_keeps_time_for_another_node_write_takes_all() -> None:
    """Three attempts share a read's time; a write is never cut short."""
    assert [attempt_share(attempt, is_write=False) for attempt in (1, 2, 3, 9)] == [1 / 3, 1 / 2, 1.0, 1.0]
    assert attempt_share(1, is_write=True) == 1.0
