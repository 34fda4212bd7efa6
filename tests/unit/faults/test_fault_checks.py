"""What cannot be injected is refused, with the name of the field."""

from __future__ import annotations

import math

import pytest

from kvapi.v1 import fault_pb2
from kvnode.errors import InvalidRequest
from kvnode.faults.checks import check

Fault, Link, Disk, Clock = fault_pb2.InjectedFault, fault_pb2.LinkFault, fault_pb2.DiskFault, fault_pb2.ClockFault


@pytest.mark.parametrize(
    ("fault", "field"),
    [
        (Fault(), "fault.fault"),
        (Fault(disk=Disk(full=True), duration_ms=3_600_001), "fault.duration_ms"),
        (Fault(link=Link(peer="n4", loss=1)), "fault.link.peer"),
        (Fault(link=Link(peer="n1", loss=1)), "fault.link.peer"),
        (Fault(link=Link(loss=1, direction=7)), "fault.link.direction"),  # type: ignore[arg-type]
        (Fault(link=Link(loss=-0.1)), "fault.link.loss"),
        (Fault(link=Link(loss=1.1)), "fault.link.loss"),
        (Fault(link=Link(loss=math.nan)), "fault.link.loss"),
        (Fault(link=Link(delay_ms=60_001)), "fault.link.delay_ms"),
        (Fault(link=Link(jitter_ms=60_001)), "fault.link.jitter_ms"),
        (Fault(link=Link(peer="n2")), "fault.link"),
        (Fault(disk=Disk()), "fault.disk"),
        (Fault(disk=Disk(delay_ms=60_001)), "fault.disk.delay_ms"),
        (Fault(clock=Clock()), "fault.clock"),
        (Fault(clock=Clock(rate=1.0)), "fault.clock"),
        (Fault(clock=Clock(rate=-1.0)), "fault.clock.rate"),
        (Fault(clock=Clock(rate=2.5)), "fault.clock.rate"),
        (Fault(clock=Clock(rate=math.nan)), "fault.clock.rate"),
        (Fault(clock=Clock(offset_ms=600_001)), "fault.clock.offset_ms"),
        (Fault(clock=Clock(offset_ms=-600_001)), "fault.clock.offset_ms"),
        (Fault(clock=Clock(rate=1.5), duration_ms=1_300_000), "fault.clock.rate"),
    ],
)
def test_fault_out_of_bounds_is_refused_with_its_field(fault: fault_pb2.InjectedFault, field: str) -> None:
    """What says nothing, names nobody, or goes too far: the field, and what would be right."""
    with pytest.raises(InvalidRequest) as caught:
        check(fault, "n1", ["n2", "n3"], [])
    assert caught.value.field == field


@pytest.mark.parametrize(
    "fault",
    [
        Fault(link=Link(loss=1)),
        Fault(link=Link(peer="n3", loss=0.5, delay_ms=60_000, jitter_ms=60_000, direction=fault_pb2.LINK_DIRECTION_IN)),
        Fault(disk=Disk(delay_ms=60_000, full=True, fail=True), duration_ms=3_600_000),
        Fault(clock=Clock(offset_ms=-600_000)),
        Fault(clock=Clock(rate=2.0), duration_ms=600_000),
        Fault(clock=Clock(offset_ms=500_000, rate=0.5)),
    ],
)
def test_fault_at_its_bounds_is_accepted(fault: fault_pb2.InjectedFault) -> None:
    """The bounds themselves are inside."""
    check(fault, "n1", ["n2", "n3"], [])


def test_clock_faults_together_may_not_exceed_what_one_may() -> None:
    """Two of six minutes would make twelve: the second one is refused, and says why."""
    one = Fault(clock=Clock(offset_ms=360_000), duration_ms=1000)
    check(one, "n1", [], [Fault(link=Link(loss=1))])
    with pytest.raises(InvalidRequest, match="720000 ms"):
        check(one, "n1", [], [one])
