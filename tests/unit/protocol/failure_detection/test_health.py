"""A peer that answers is not therefore healthy: its disk and its event loop must move."""

from __future__ import annotations

from kvapi.v1 import failure_detection_pb2
from kvnode.protocol.failure_detection.health import Health, Progress


def test_health_with_a_disk_that_hangs_is_unhealthy_until_a_write_completes() -> None:
    """No completed write and an old waiting one: unhealthy, and says why; the next completed write heals it."""
    health = Health()
    health.on_progress(Progress(1, 10, 0), now=0.0)
    health.on_progress(Progress(2, 10, 1_000), now=1.0)
    assert health.why == ""
    health.on_progress(Progress(3, 10, 1_001), now=1.1)
    assert "disk" in health.why
    assert "1001 ms" in health.why
    health.on_progress(Progress(4, 11, 900), now=1.2)
    assert health.why == ""


def test_health_with_a_slow_disk_that_completes_writes_is_healthy() -> None:
    """A long queue is load, no failure, as long as writes complete."""
    health = Health()
    for turn in range(20):
        health.on_progress(Progress(turn + 1, turn, 5_000), now=turn / 10)
        assert health.why == ""


def test_health_with_an_overtaken_report_does_not_take_it_for_movement() -> None:
    """A late report with older counts neither heals nor makes later reports look like progress."""
    health = Health()
    health.on_progress(Progress(1, 10, 0), now=0.0)
    health.on_progress(Progress(2, 9, 2_000), now=0.1)
    assert health.why
    health.on_progress(Progress(3, 10, 2_100), now=0.2)
    assert health.why


def test_health_with_an_event_loop_that_stands_still_is_unhealthy() -> None:
    """Reports from another thread do not hide that the event loop hangs; several reports must agree."""
    health = Health()
    for turn in range(15):
        health.on_progress(Progress(7, turn, 0), now=turn / 10)
    assert "event loop" in health.why
    health.on_progress(Progress(8, 20, 0), now=1.6)
    assert health.why == ""
    health.on_progress(Progress(8, 21, 0), now=9.0)
    assert health.why == "", "one report after a silence proves nothing"


def test_health_of_a_wire_message_that_reports_no_event_loop_is_healthy() -> None:
    """The protobuf message serves as it is, and a count of 0 is no count."""
    health = Health()
    for turn in range(30):
        health.on_progress(failure_detection_pb2.Progress(disk=turn), now=turn / 10)
    assert health.why == ""
