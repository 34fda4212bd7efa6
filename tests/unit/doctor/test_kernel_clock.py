"""What the kernel says of its clock, and what that means."""

from __future__ import annotations

import pytest

from kvnode.doctor import kernel_clock
from kvnode.doctor.finding import Level
from kvnode.doctor.kernel_clock import KernelClock, check_kernel_clock, decode, judge_kernel_clock, read_kernel_clock


@pytest.mark.parametrize(
    ("state", "status", "synchronised"),
    [(0, 0x2001, True), (0, 0x2041, False), (5, 0x0040, False), (5, 0x0001, False), (1, 0x0011, True)],
)
def test_clock_by_the_kernels_words_is_synchronised_or_not(state: int, status: int, synchronised: bool) -> None:
    """TIME_ERROR and STA_UNSYNC say no; an announced leap second (state 1, STA_INS) does not."""
    assert decode(state, status, 1500) == KernelClock(synchronised, 1.5)


@pytest.mark.parametrize(
    ("clock", "level", "words"),
    [
        (KernelClock(True, 12.0), Level.OK, "kept by a time service, wrong by 12 ms at most"),
        (KernelClock(True, 800.0), Level.WARNING, "wrong by up to 800 ms, and clock.max_clock_skew_ms is 500"),
        (KernelClock(False, 16_000.0), Level.WARNING, "no time service keeps it"),
    ],
)
def test_clock_by_its_error_is_judged(clock: KernelClock, level: Level, words: str) -> None:
    """A clock that nobody keeps, or not well enough, is warned about."""
    finding = judge_kernel_clock(clock, 500)
    assert (finding.level, words in finding.found) == (level, True)


def test_clock_of_this_host_can_be_read_or_says_why_not() -> None:
    """The structure fits the kernel's: the values are possible ones."""
    try:
        clock = read_kernel_clock()
    except OSError as error:
        pytest.skip(f"adjtimex is not permitted here: {error}")
    assert 0 <= clock.error_ms_max <= 16_000_000
    assert len(check_kernel_clock(500)) == 1


def test_clock_that_may_not_be_asked_for_is_skipped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may forbid the call."""

    def forbid() -> KernelClock:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(kernel_clock, "read_kernel_clock", forbid)
    (found,) = check_kernel_clock(500)
    assert found.level == Level.SKIPPED
    assert "Operation not permitted" in found.found
