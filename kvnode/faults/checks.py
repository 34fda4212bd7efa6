"""Whether a fault can be injected: every bound, and the name of the field that breaks it."""

from __future__ import annotations

from collections.abc import Collection, Iterable

from kvapi.v1 import fault_pb2
from kvnode.errors import InvalidRequest
from kvnode.types import NodeName

DURATION_MS_DEFAULT = 60_000
DURATION_MS_MAX = 3_600_000
DELAY_MS_MAX = 60_000
CLOCK_ERROR_MS_MAX = 600_000
"""How wrong the wall clock may become, by all faults together. The simulator's clocks jump as far."""
CLOCK_RATE_MIN, CLOCK_RATE_MAX = 0.5, 2.0


def check(
    fault: fault_pb2.InjectedFault, me: NodeName, peers: Collection[NodeName], active: Iterable[fault_pb2.InjectedFault]
) -> None:
    """Raises `InvalidRequest` for a fault that says nothing, or too much. `active`: those that last."""
    kind = fault.WhichOneof("fault")
    if kind is None:
        raise InvalidRequest("fault.fault", "is missing: give link, disk or clock")
    _at_most("fault.duration_ms", fault.duration_ms, DURATION_MS_MAX, "an hour")
    if kind == "link":
        _check_link(fault.link, me, peers)
    elif kind == "disk":
        _at_most("fault.disk.delay_ms", fault.disk.delay_ms, DELAY_MS_MAX, "a minute")
        if not (fault.disk.delay_ms or fault.disk.full or fault.disk.fail):
            raise InvalidRequest("fault.disk", "changes nothing: give delay_ms, full or fail")
    else:
        _check_clock(fault, active)


def _check_link(link: fault_pb2.LinkFault, me: NodeName, peers: Collection[NodeName]) -> None:
    if link.peer and link.peer not in peers:
        what = "this node itself" if link.peer == me else "unknown"
        raise InvalidRequest("fault.link.peer", f"{link.peer!r} is {what}: the peers of {me} are {', '.join(peers) or 'none'}")
    if link.direction not in fault_pb2.LinkDirection.values():
        raise InvalidRequest("fault.link.direction", f"{link.direction} is none: it is BOTH, OUT or IN")
    if not 0 <= link.loss <= 1:  # (also of what is no number)
        raise InvalidRequest("fault.link.loss", f"is {link.loss}, must be from 0 to 1")
    _at_most("fault.link.delay_ms", link.delay_ms, DELAY_MS_MAX, "a minute")
    _at_most("fault.link.jitter_ms", link.jitter_ms, DELAY_MS_MAX, "a minute")
    if not (link.loss or link.delay_ms or link.jitter_ms):
        raise InvalidRequest("fault.link", "changes nothing: give loss, delay_ms or jitter_ms")


def _check_clock(fault: fault_pb2.InjectedFault, active: Iterable[fault_pb2.InjectedFault]) -> None:
    clock = fault.clock
    if clock.rate and not CLOCK_RATE_MIN <= clock.rate <= CLOCK_RATE_MAX:
        raise InvalidRequest("fault.clock.rate", f"is {clock.rate}, must be from {CLOCK_RATE_MIN} to {CLOCK_RATE_MAX}")
    if not clock.offset_ms and clock.rate in (0.0, 1.0):
        raise InvalidRequest("fault.clock", "changes nothing: give offset_ms or rate")
    error_ms = sum(clock_error_ms_max(one) for one in (fault, *active))
    if error_ms > CLOCK_ERROR_MS_MAX:
        raise InvalidRequest(
            "fault.clock.offset_ms" if abs(clock.offset_ms) > CLOCK_ERROR_MS_MAX // 2 else "fault.clock.rate",
            f"the clock would be wrong by up to {error_ms:.0f} ms, with the faults that last; at most {CLOCK_ERROR_MS_MAX} "
            "(ten minutes): a smaller offset, a rate nearer to 1, or a shorter time",
        )


def clock_error_ms_max(fault: fault_pb2.InjectedFault) -> float:
    """How wrong a fault can make the clock until it ends, milliseconds."""
    duration_ms = fault.duration_ms or DURATION_MS_DEFAULT
    drift = abs(fault.clock.rate - 1) if fault.clock.rate else 0.0
    return abs(fault.clock.offset_ms) + drift * duration_ms if fault.WhichOneof("fault") == "clock" else 0.0


def _at_most(field: str, value: int, most: int, words: str) -> None:
    if value > most:
        raise InvalidRequest(field, f"is {value}, must be at most {most} ({words})")
