"""Which requests the log tells of, and how often."""

from __future__ import annotations

from structlog.testing import capture_logs

from kvapi.v1 import kv_pb2
from kvnode.config import Tracing as Settings
from kvnode.observe.observer import Observer
from kvnode.observe.stages import QUORUM
from kvnode.observe.tracing import Tracing


class World:
    """A node's recorder, with a clock that is set."""

    def __init__(self, slow_ms: float = 100) -> None:
        self.now = 100.0
        tracing = Tracing(Settings(sample_ratio=0.0, slow_ms=slow_ms), "n1", "127.0.0.1:7401")
        self.recorder = Observer(tracing, lambda: self.now).recorder

    def request(self, seconds: float = 0.0, outcome: str = "OK", operation: str = "put") -> None:
        timeline = self.recorder.begin(operation, kv_pb2.CONSISTENCY_STRONG, None)
        self.now += seconds / 4
        timeline.enter(QUORUM)
        self.now += seconds * 3 / 4
        self.recorder.end(timeline, outcome, outcome)


def test_requests_that_failed_or_were_slow_leave_a_line_with_their_longest_stage() -> None:
    """Others leave none, a caller's mistake neither."""
    world = World()
    with capture_logs() as lines:
        for seconds, outcome in ((0.01, "OK"), (0.01, "COMPARE_FAILED"), (0.2, "OK"), (0.04, "NO_LEADER")):
            world.request(seconds, outcome)
    slow, failed = lines
    assert (slow["event"], slow["log_level"], slow["ms"]) == ("request was slow", "info", 200.0)
    assert (failed["event"], failed["log_level"], failed["outcome"]) == ("request failed", "warning", "NO_LEADER")
    assert (failed["operation"], failed["consistency"]) == ("put", "strong")
    assert (failed["longest_stage"], failed["longest_stage_ms"]) == ("quorum", 30.0)


def test_requests_that_fail_by_the_thousand_leave_one_line_a_second_of_each_outcome() -> None:
    """A bad minute does not fill the disk, and the rare error is not lost among the frequent ones."""
    world = World()
    with capture_logs() as lines:
        for _ in range(1000):
            world.request(outcome="NO_LEADER")
        world.request(outcome="NO_SPACE")
        world.now += 1
        world.request(outcome="NO_LEADER")
        world.now += 1
        world.request(outcome="NO_LEADER")
    assert [(line["outcome"], line.get("others_since")) for line in lines] == [
        ("NO_LEADER", None),
        ("NO_SPACE", None),
        ("NO_LEADER", 999),
        ("NO_LEADER", None),
    ]


def test_requests_of_operators_that_are_slow_leave_no_line_and_take_no_place() -> None:
    """Whoever watches the cluster does not push what users waited for out of the log."""
    world = World()
    with capture_logs() as lines:
        world.request(0.5, operation="cluster.Status")
        world.request(0.2)
    assert [line["operation"] for line in lines] == ["put"]


def test_requests_where_nobody_traces_leave_no_line() -> None:
    """Simulations fail requests by the thousand, on purpose."""
    recorder = Observer().recorder
    with capture_logs() as lines:
        recorder.end(recorder.begin("put", kv_pb2.CONSISTENCY_STRONG, None), "NO_LEADER", "UNAVAILABLE")
    assert lines == []
