"""How the page says numbers, moments and shares.

Owns the few forms that the command line does not have; durations of requests are `kvctl.traces.words`'s.
"""

from __future__ import annotations

from kvctl.output import duration_text, time_text

NONE = "–"
"""Where there is no figure."""


def count(number: int) -> str:
    """As "12,345"."""
    return f"{number:,}"


def share_text(share: float | None) -> str:
    """As "12 %", "99.982 %": what is near the whole with the digits that tell it from it. 100 % and 0 % are exact."""
    if share is None:
        return NONE
    if share in (0.0, 1.0):
        return f"{share:.0%}".replace("%", " %")
    for digits in range(5):
        shown = f"{100 * share:.{digits}f}"
        if float(shown) not in (0.0, 100.0) and (0.1 <= share < 0.9 or digits >= 1):
            return f"{shown} %"
    return "> 99.9999 %" if share > 0.5 else "< 0.0001 %"


def span_text(ms: float | None) -> str:
    """A length of time, milliseconds; NONE of None."""
    return NONE if ms is None else duration_text(ms / 1000)


def moment(unix_ms: int) -> str:
    """As "2026-03-01T12:00:00.123Z"."""
    return time_text(unix_ms)


def clock(unix_ms: int, with_ms: bool = True) -> str:
    """The time of day of it, as "12:00:00.123Z"."""
    whole = time_text(unix_ms).partition("T")[2]
    return whole if with_ms else f"{whole[:8]}Z"


def tick_time(unix_ms: int, step_ms: int) -> str:
    """What an axis says: the time of day, or the day where steps are days."""
    date, _, time = time_text(unix_ms).partition("T")
    if step_ms >= 86_400_000:
        return date
    return f"{time[:12]}" if step_ms < 1000 else time[:8] if step_ms < 60_000 else time[:5]


def tick_duration(ns: float) -> str:
    """What an axis says, as "0.1 ms", "10 ms", "2 s"."""
    ms = ns / 1e6
    return f"{ms / 1000:g} s" if ms >= 1000 else f"{ms:g} ms"


def plural(number: int, one: str, many: str = "") -> str:
    """As "1 node", "3 nodes"."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"
