"""What an injected fault is, in words for people."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kvctl.output import duration_text

if TYPE_CHECKING:
    from kvapi.v1 import fault_pb2


def fault_text(fault: fault_pb2.InjectedFault) -> str:
    """One line: requests to n2: cut."""
    kind = fault.WhichOneof("fault")
    if kind == "link":
        return f"{_which(fault.link)}: {', '.join(_link(fault.link))}"
    if kind == "disk":
        return f"disk: {', '.join(_disk(fault.disk))}"
    if kind == "clock":
        return f"clock: {', '.join(_clock(fault.clock))}"
    return "unknown to this kvctl"


def _which(link: fault_pb2.LinkFault) -> str:
    from kvapi.v1 import fault_pb2

    peer = link.peer or "all nodes"
    if link.direction == fault_pb2.LINK_DIRECTION_OUT:
        return f"requests to {peer}"
    if link.direction == fault_pb2.LINK_DIRECTION_IN:
        return f"what comes from {peer}"
    return f"link with {peer}"


def _link(link: fault_pb2.LinkFault) -> list[str]:
    words = ["cut"] if link.loss >= 1 else [f"{link.loss:.3g} lost"] if link.loss else []
    if link.delay_ms or link.jitter_ms:
        more = f" to {link.delay_ms + link.jitter_ms}" if link.jitter_ms else ""
        words.append(f"{link.delay_ms}{more} ms late")
    return words


def _disk(disk: fault_pb2.DiskFault) -> list[str]:
    words = [f"each write and sync {disk.delay_ms} ms late"] if disk.delay_ms else []
    return words + ["full"] * disk.full + ["the next sync fails"] * disk.fail


def _clock(clock: fault_pb2.ClockFault) -> list[str]:
    words = [f"{abs(clock.offset_ms)} ms {'ahead' if clock.offset_ms > 0 else 'behind'}"] if clock.offset_ms else []
    return words + ([f"runs at {clock.rate:.6g}"] if clock.rate not in (0.0, 1.0) else [])


def ends_in(fault: fault_pb2.InjectedFault) -> str:
    """How much longer it lasts."""
    return duration_text(fault.remaining_ms / 1000)
