"""Numbers in words."""

from __future__ import annotations

import pytest

from kvctl.report.words import share_text, span_text, tick_duration, tick_time
from tests.unit.kvctl.report.made import AT_MS


@pytest.mark.parametrize(
    ("share", "words"),
    [
        (None, "–"),
        (0, "0 %"),
        (1, "100 %"),
        (0.5, "50 %"),
        (0.012, "1.2 %"),
        (0.976, "97.6 %"),
        (0.99987, "99.99 %"),
        (0.999999, "99.9999 %"),
        (1 - 1e-9, "> 99.9999 %"),
        (1e-9, "< 0.0001 %"),
    ],
)
def test_share_is_never_rounded_to_all_or_nothing(share: float | None, words: str) -> None:
    """100 % is said only of everything."""
    assert share_text(share) == words


def test_axis_words_are_short_and_have_units() -> None:
    """Milliseconds below a second; times of day as fine as the step."""
    assert [tick_duration(ns) for ns in (0, 1e4, 5e5, 2e6, 1e9)] == ["0 ms", "0.01 ms", "0.5 ms", "2 ms", "1 s"]
    assert [tick_time(AT_MS, step) for step in (100, 1000, 60_000, 86_400_000)] == [
        "22:13:20.000",
        "22:13:20",
        "22:13",
        "2023-11-14",
    ]
    assert span_text(None) == "–"
