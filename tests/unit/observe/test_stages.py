"""The stages of a request: they follow each other without gaps; a proposal's way through the log is told from what that did."""

from __future__ import annotations

import pytest

from kvapi.v1 import replication_pb2
from kvnode.observe.log_times import MOMENTS_KEPT, LogTimes
from kvnode.observe.stages import APPLY, LOG_QUEUE, LOG_WRITE, QUORUM, REPLY, UNTIMED, Timeline, server_timing

SHARD, INDEX = 3, 7


class Watch:
    """A clock that is set."""

    def __init__(self) -> None:
        self.now = 0.0
        self.times = LogTimes(lambda: self.now)
        self.times.process = "n1/2"

    def at(self, now: float) -> LogTimes:
        self.now = now
        return self.times

    def timeline(self) -> Timeline:
        return Timeline(lambda: self.now, "put", 2, None, None)


@pytest.fixture
def watch() -> Watch:
    """At zero."""
    return Watch()


def told(timeline: Timeline) -> dict[str, float]:
    """Stage -> seconds; and no gaps."""
    at = timeline.began
    for stage in timeline.stages():
        assert stage.start == at
        assert stage.end >= at
        at = stage.end
    assert at == timeline.ended
    return {stage: pytest.approx(seconds) for stage, seconds in timeline.sums().items()}


def proposal(watch: Watch, *, submitted: float, done: float, committed: float, applied: float, by: str = "n2") -> Timeline:
    """A request that proposes at 1 and hears of it at 12."""
    timeline = watch.timeline()
    watch.at(1)
    timeline.enter(LOG_QUEUE)
    write = watch.at(submitted).on_submit(1, [(SHARD, INDEX, 0)])
    for moment in sorted({done, committed, applied}):
        if moment == done:
            watch.at(moment).on_written(write)
        if moment == committed:
            watch.at(moment).on_commit(SHARD, INDEX, by)
        if moment == applied:
            watch.at(moment).on_apply(SHARD, INDEX)
    watch.at(12)
    timeline.proposed(watch.times, SHARD, INDEX)
    watch.at(13)
    timeline.finish()
    return timeline


def test_proposal_that_waits_for_followers_has_every_stage(watch: Watch) -> None:
    """Queue, own disk, quorum, apply: each with its length, the quorum with who completed it."""
    timeline = proposal(watch, submitted=3, done=5, committed=9, applied=10)
    assert told(timeline) == {"admission": 1, LOG_QUEUE: 2, LOG_WRITE: 2, QUORUM: 4, APPLY: 1, REPLY: 3}
    stages = {stage.name: stage for stage in timeline.stages()}
    assert stages[LOG_WRITE].attributes is watch.times.write_of(SHARD, INDEX)
    assert stages[QUORUM].attributes == {"kvnode.quorum.node": "n2"}


def test_proposal_whose_followers_are_faster_waits_for_its_own_disk_only_until_then(watch: Watch) -> None:
    """Two followers are a majority: the leader's own sync, still going on, is not what was waited for."""
    timeline = proposal(watch, submitted=2, done=11, committed=4, applied=5)
    assert told(timeline) == {"admission": 1, LOG_QUEUE: 1, LOG_WRITE: 2, APPLY: 1, REPLY: 8}


def test_proposal_whose_own_disk_is_last_has_no_quorum_stage(watch: Watch) -> None:
    """It is committed by its own write."""
    timeline = proposal(watch, submitted=2, done=6, committed=6, applied=7, by="n1")
    assert told(timeline) == {"admission": 1, LOG_QUEUE: 1, LOG_WRITE: 4, APPLY: 1, REPLY: 6}


def test_proposal_that_is_given_up_says_where_it_stood(watch: Watch) -> None:
    """A deadline that passes: in the queue, on the disk, or waiting for followers that do not answer."""
    timeline = watch.timeline()
    timeline.enter(LOG_QUEUE)
    watch.at(5)
    timeline.proposed(watch.times, SHARD, INDEX)
    timeline.finish()
    assert told(timeline) == {"admission": 0, LOG_QUEUE: 5, REPLY: 0}

    watch.at(0)
    timeline = watch.timeline()
    timeline.enter(LOG_QUEUE)
    write = watch.at(1).on_submit(1, [(SHARD, INDEX, 0)])
    watch.at(5)
    timeline.proposed(watch.times, SHARD, INDEX)
    timeline.finish()
    assert told(timeline) == {"admission": 0, LOG_QUEUE: 1, LOG_WRITE: 4, REPLY: 0}

    watch.at(0)
    timeline = watch.timeline()
    timeline.enter(LOG_QUEUE)
    watch.at(2).on_written(write)
    watch.at(9)
    timeline.proposed(watch.times, SHARD, INDEX)
    timeline.finish()
    assert told(timeline) == {"admission": 0, LOG_QUEUE: 1, LOG_WRITE: 1, QUORUM: 7, REPLY: 0}


def test_eventual_write_is_accepted_once_its_batch_is_durable(watch: Watch) -> None:
    """Its place is its sequence, not an index."""
    timeline = watch.timeline()
    timeline.enter(LOG_QUEUE)
    write = watch.at(1).on_submit(4, [(SHARD, 0, 11)])
    watch.at(3).on_written(write)
    watch.at(4)
    timeline.accepted(watch.times, SHARD, 10)
    timeline.finish()
    assert told(timeline) == {"admission": 0, LOG_QUEUE: 1, LOG_WRITE: 2, REPLY: 1}


def test_stage_that_comes_twice_is_told_as_a_sum(watch: Watch) -> None:
    """Histograms count a request once for each stage."""
    timeline = watch.timeline()
    watch.at(1)
    timeline.enter("leader_wait")
    watch.at(3)
    timeline.enter("admission")
    watch.at(7)
    timeline.finish()
    assert told(timeline) == {"admission": 5, "leader_wait": 2}
    assert server_timing(timeline) == "total;dur=7000.000, admission;dur=5000.000, leader_wait;dur=2000.000"


def test_untimed_timeline_takes_everything_and_keeps_nothing(watch: Watch) -> None:
    """It is shared by all that is no request of its own."""
    UNTIMED.enter("leader_wait")
    UNTIMED.proposed(watch.times, SHARD, INDEX)
    UNTIMED.accepted(watch.times, SHARD, 1)
    UNTIMED.describe("a", 1)
    assert not UNTIMED.is_recorded
    assert (list(UNTIMED.stages()), UNTIMED.attributes) == ([], None)


# ---- what the log did -------------------------------------------------------------------------------------------------------


def test_write_of_an_index_is_the_batch_that_held_it(watch: Watch) -> None:
    """Several entries share a batch; an index without a batch yet has none."""
    first = watch.times.on_submit(2, [(SHARD, 5, 0)])
    second = watch.times.on_submit(3, [(SHARD, 9, 0), (0, 1, 0)])
    assert [watch.times.write_of(SHARD, index) for index in (4, 5, 6, 9, 10)] == [first, first, second, second, None]
    assert watch.times.write_of(1, 1) is None


def test_write_that_is_submitted_again_counts_the_second_time(watch: Watch) -> None:
    """After a full disk the same entries go to the log in another batch."""
    watch.times.on_submit(1, [(SHARD, 5, 0)])
    again = watch.times.on_submit(1, [(SHARD, 5, 0)])
    assert watch.times.write_of(SHARD, 5) is again


def test_moments_of_a_shorter_log_replace_those_of_the_longer_one(watch: Watch) -> None:
    """A new leader cut it: what was written at these indexes is another history."""
    watch.times.on_submit(1, [(SHARD, 50, 0)])
    write = watch.times.on_submit(1, [(SHARD, 20, 0)])
    assert watch.times.write_of(SHARD, 20) is write
    assert watch.times.write_of(SHARD, 30) is None


def test_moments_that_are_forgotten_are_not_mistaken_for_later_ones(watch: Watch) -> None:
    """Only so many are kept: an index before them has no answer, rather than a wrong one."""
    for index in range(1, MOMENTS_KEPT + 10):
        watch.at(index).on_apply(SHARD, index)
    assert watch.times.applied_at(SHARD, 3) is None
    assert watch.times.applied_at(SHARD, MOMENTS_KEPT) == MOMENTS_KEPT


def test_commit_told_twice_is_remembered_as_first_heard(watch: Watch) -> None:
    """The word that completed the quorum counts, not what came after it."""
    watch.at(1).on_commit(SHARD, 5, "n2")
    watch.at(2).on_commit(SHARD, 5, "n3")
    commit = watch.times.commit_of(SHARD, 4)
    assert commit is not None
    assert (commit.index, commit.at, commit.by) == (5, 1, "n2")


def test_appends_of_an_entry_name_each_follower_that_answered(watch: Watch) -> None:
    """With the leader's times and the follower's own."""
    timing = replication_pb2.AppendTiming(total_us=900, fsync_us=700)
    watch.at(2).on_append(SHARD, "n2", 8, 1.0, timing)
    watch.at(3).on_append(SHARD, "n3", 6, 1.0, timing)
    (found,) = watch.times.appends_of(SHARD, INDEX).items()
    assert found[0] == "n2"
    assert (found[1].sent, found[1].answered, found[1].timing.fsync_us) == (1.0, 2, 700)
