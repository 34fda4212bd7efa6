"""The stamps of heartbeats: only this life's own clock is believed."""

from __future__ import annotations

from types import SimpleNamespace

from kvnode.runtime.heartbeats import LIVES, STAMP_BITS, Heartbeats


def life(incarnation: int) -> Heartbeats:
    """The stamping part of a node in this life."""
    made = Heartbeats.__new__(Heartbeats)
    made._envelopes = SimpleNamespace(incarnation=incarnation)  # type: ignore[assignment]
    return made


def test_stamp_of_this_life_is_a_time_not_after_it_was_made() -> None:
    """Milliseconds, rounded down: the bound may be too old, never too new."""
    made = life(7)
    heard = made._time_of(made._stamp(1234.5678))
    assert heard == 1234.567


def test_stamp_of_another_life_says_nothing() -> None:
    """After a reboot the monotonic clock begins anew; an echo of the life before would lie in the future for days."""
    before, after = life(7), life(8)
    assert after._time_of(before._stamp(900_000.0)) is None
    assert after._time_of(0) is None


def test_stamp_of_any_life_fits_its_field() -> None:
    """64 bits, also after a million restarts."""
    made = life(LIVES * 3 + 5)
    stamp = made._stamp(1e9)
    assert stamp < 1 << 64
    assert stamp >> STAMP_BITS == 5
    assert made._time_of(stamp) == 1e9
