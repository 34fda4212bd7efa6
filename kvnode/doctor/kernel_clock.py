"""This host's clock, as the kernel knows it: does anything keep it?

Owns the reading of adjtimex(2), which is where chrony, ntpd and systemd-timesyncd leave their word. Never sets anything.
"""

from __future__ import annotations

import ctypes
import os
from typing import NamedTuple

from kvnode.doctor.finding import Finding, ok, skipped, warning

NAME = "clock"
STA_UNSYNC = 0x0040
"""Nobody has disciplined the clock lately (include/uapi/linux/timex.h)."""
TIME_ERROR = 5
ADVICE = "Start a time service and let it run: systemd-timesyncd (`timedatectl set-ntp true`) or chrony"


class _Timex(ctypes.Structure):
    """struct timex; `modes` 0 only reads. What is behind `status` is only room."""

    _fields_ = (
        ("modes", ctypes.c_uint),
        ("offset", ctypes.c_long),
        ("freq", ctypes.c_long),
        ("maxerror", ctypes.c_long),
        ("esterror", ctypes.c_long),
        ("status", ctypes.c_int),
        ("room", ctypes.c_long * 32),
    )


class KernelClock(NamedTuple):
    """What the kernel says."""

    is_synchronised: bool
    error_ms_max: float
    """How wrong it may be at most, as the time service says; it grows while that is silent."""


def read_kernel_clock() -> KernelClock:
    """Ask the kernel. Raises OSError, for instance where a container forbids it."""
    buffer = _Timex()
    state = ctypes.CDLL(None, use_errno=True).adjtimex(ctypes.byref(buffer))
    if state < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return decode(state, buffer.status, buffer.maxerror)


def decode(state: int, status: int, maxerror_us: int) -> KernelClock:
    """What adjtimex's answer means."""
    return KernelClock(state != TIME_ERROR and not status & STA_UNSYNC, maxerror_us / 1000)


def check_kernel_clock(max_clock_skew_ms: int) -> list[Finding]:
    """Whether something keeps the clock, and well enough for `clock.max_clock_skew_ms`."""
    try:
        clock = read_kernel_clock()
    except (OSError, AttributeError) as error:
        return [skipped(NAME, f"the kernel does not say whether anything keeps it ({error})")]
    return [judge_kernel_clock(clock, max_clock_skew_ms)]


def judge_kernel_clock(clock: KernelClock, max_clock_skew_ms: int) -> Finding:
    """Nothing is lost by a wrong clock, but stamps further ahead than `max_clock_skew_ms` are refused."""
    if not clock.is_synchronised:
        found = "no time service keeps it: it drifts away from the others'"
        return warning(NAME, found, ADVICE)
    if clock.error_ms_max > max_clock_skew_ms:
        found = f"kept, but wrong by up to {clock.error_ms_max:.0f} ms, and clock.max_clock_skew_ms is {max_clock_skew_ms}"
        return warning(NAME, found, "See why the time service hears nothing: `chronyc tracking`, `timedatectl timesync-status`")
    return ok(NAME, f"kept by a time service, wrong by {clock.error_ms_max:.0f} ms at most")
