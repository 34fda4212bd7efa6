"""A round of probes: who is asked, and what the answers together say."""

from __future__ import annotations

from random import Random

import pytest

from kvnode.protocol.failure_detection.confirmation import Confirmation, Verdict, choose_helpers


@pytest.mark.parametrize(
    ("answers", "before_timeout", "after_timeout"),
    [
        ({}, Verdict.PENDING, Verdict.UNANSWERED),
        ({"n2": False}, Verdict.PENDING, Verdict.DEAD),
        ({"n2": False, "n3": False}, Verdict.DEAD, Verdict.DEAD),
        ({"n2": True}, Verdict.ALIVE, Verdict.ALIVE),
        ({"n2": False, "n3": True}, Verdict.ALIVE, Verdict.ALIVE),
        ({"n9": False}, Verdict.PENDING, Verdict.UNANSWERED),
    ],
)
def test_verdict_of_answers(answers: dict[str, bool], before_timeout: Verdict, after_timeout: Verdict) -> None:
    """The whole table: one who reached it wins; all who answered must have failed; strangers do not count."""
    confirmation = Confirmation(("n2", "n3"), until=1.0)
    for helper, alive in answers.items():
        confirmation.on_answer(helper, alive)
    assert confirmation.verdict(0.9) is before_timeout
    assert confirmation.verdict(1.0) is after_timeout


def test_verdict_without_helpers_is_unanswered_at_once() -> None:
    """With nobody to ask there is nothing to wait for."""
    assert Confirmation((), until=1.0).verdict(0.0) is Verdict.UNANSWERED


def test_answer_of_a_helper_repeated_counts_the_first() -> None:
    """A duplicate with another content changes nothing."""
    confirmation = Confirmation(("n2",), until=1.0)
    confirmation.on_answer("n2", False)
    confirmation.on_answer("n2", True)
    assert confirmation.verdict(0.0) is Verdict.DEAD
    assert confirmation.said(alive=False) == "n2"


def test_choose_helpers_with_few_or_many_candidates_takes_distinct_ones() -> None:
    """At most as many as asked for, never one twice, and the same for the same seed."""
    assert choose_helpers([], 2, Random(1)) == ()
    assert choose_helpers(["n2"], 2, Random(1)) == ("n2",)
    names = [f"n{n}" for n in range(10)]
    chosen = choose_helpers(names, 3, Random(1))
    assert len(dict.fromkeys(chosen)) == 3
    assert chosen == choose_helpers(names, 3, Random(1))
