"""The transports' benchmark: what is made of measured figures."""

from __future__ import annotations

import pytest

from benchmarks.wire_bounds import BOUNDS, REFERENCE, SUBJECT, Bound, Limit, judge, median, ratio


def figures(reference: list[float], subject: list[float]) -> dict[str, dict[str, list[float]]]:
    """One figure, named "speed"."""
    return {"speed": {REFERENCE: reference, SUBJECT: subject}}


def test_ratio_of_noisy_rounds_is_that_of_the_medians() -> None:
    """One bad round on each side changes nothing."""
    assert ratio(figures([10, 11, 500], [1, 88, 90]), "speed") == 8


@pytest.mark.parametrize(
    "measured", [{}, figures([], []), figures([1], []), figures([], [1]), figures([0], [1])], ids=lambda found: str(found)
)
def test_ratio_without_both_sides_is_unknown(measured: dict[str, dict[str, list[float]]]) -> None:
    """What was left out, or a reference of nothing, has no ratio, and is no error."""
    assert ratio(measured, "speed") is None


@pytest.mark.parametrize(
    ("bound", "measured", "holds"),
    [
        (Bound("fast", "speed", at_least=8), 8.0, True),
        (Bound("fast", "speed", at_least=8), 7.9, False),
        (Bound("short", "speed", at_most=0.5), 0.5, True),
        (Bound("short", "speed", at_most=0.5), 0.51, False),
    ],
)
def test_bound_on_either_side_of_its_edge_is_judged(bound: Bound, measured: float, holds: bool) -> None:
    """The edge itself is within."""
    (verdict,) = judge(figures([10], [measured * 10]), [bound])
    assert verdict.measured == pytest.approx(measured)
    assert verdict.holds is holds


def test_limit_of_a_figure_looks_at_the_subject_alone() -> None:
    """Growth has no reference; less than none is fine."""
    limit = Limit("growth", "speed", 4, "MiB")
    for grown, holds in ((-1.0, True), (4.0, True), (4.1, False)):
        (verdict,) = judge(figures([], [grown]), [limit])
        assert (verdict.measured, verdict.holds, verdict.asked) == (grown, holds, "≤ 4 MiB")


def test_judgement_of_what_was_not_measured_is_open() -> None:
    """A bound is neither met nor missed by a run that left its scenario out."""
    verdicts = judge({})
    assert len(verdicts) == len(BOUNDS)
    assert all(verdict.measured is None and verdict.holds is None for verdict in verdicts)
    assert median({}, "speed", SUBJECT) is None
