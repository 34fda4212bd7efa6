"""The driver's duties (`kvnode.protocol.ready`): what leaves before, and what after the disk."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from kvapi.v1 import election_pb2, replication_pb2
from kvnode.invariant import InvariantViolated
from kvnode.protocol.raft.role import Role
from kvnode.protocol.ready import Answer, DurableMark, Ready, Reply, Send
from kvnode.runtime.driver import Driver
from kvnode.runtime.recovery import SNAPSHOT_MARK
from kvnode.storage.disk import DiskFailed, OutOfSpace
from kvnode.storage.records import EntryRecord, HardStateRecord, NodeRecord
from kvnode.types import Entry, HardState, Origin


class SlowWorker:
    """A log thread that ends a write when the test says so."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.writes: list[tuple[list[Any], asyncio.Future[None]]] = []

    def submit(self, function: Callable[..., Any], records: Any, times: Any) -> asyncio.Future[None]:
        """Keeps the batch."""
        future: asyncio.Future[None] = self._loop.create_future()
        self.writes.append((list(records), future))
        return future

    def close(self) -> None:
        """Nothing waits."""


class ScriptedReplica:
    """A core that gives out prepared `Ready`s, and notes what it is told."""

    shard = 0

    def __init__(self) -> None:
        self.me, self.commit, self.applied = Origin("1", 1), 0, 0
        self.due: list[Ready] = []
        self.told: list[DurableMark] = []
        self.raft = self
        self.role, self.term, self.leader = Role.FOLLOWER, 0, ""
        self.full: list[bool] = []
        self.stalled: list[bool] = []

    def ready(self, now: float) -> Ready:
        """The next one."""
        if not self.due:
            return ready()
        due = self.due.pop(0)
        if isinstance(due, BaseException):
            raise due
        return due

    def on_durable(self, mark: DurableMark, now: float) -> None:
        """Noted."""
        self.told.append(mark)

    def on_time(self, now: float) -> None:
        """Nothing is due."""

    def on_disk_full(self, full: bool) -> None:
        """Noted."""
        self.full.append(full)

    def on_disk_stalled(self, stalled: bool, now: float) -> None:
        """Noted."""
        self.stalled.append(stalled)


def ready(index: int = 0, **fields: Any) -> Ready:
    """A `Ready` with an entry to write, if `index` is given."""
    options: dict[str, Any] = {
        "hard_state": None,
        "entries": (Entry(index, 1, 1, b""),) if index else (),
        "eventual": (),
        "durable": DurableMark(index, 1, 0, ()) if index else None,
        "send": (),
        "answers": (),
        "accepted": (),
        "replies": (),
        "append_to": (),
        "snapshot_to": (),
        "round_wanted": False,
        "more": False,
        "deadline": 1e12,
    }
    return Ready(**(options | fields))


class Stage:
    """A driver with everything around it under the test's hand."""

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.worker, self.replica = SlowWorker(self.loop), ScriptedReplica()
        self.fatal: list[BaseException] = []
        self.sent: list[object] = []
        replica, worker = self.replica, self.worker
        self.driver = Driver({0: replica}, _Log(), worker, self.loop, self.fatal.append)  # type: ignore[dict-item, arg-type]
        self.driver.outbox = self  # type: ignore[assignment]

    def send(self, shard: int, to: str, message: object) -> None:
        """Noted."""
        self.sent.append(message)

    def want_append(self, shard: int, to: str) -> None:
        """Noted."""
        self.sent.append(("append", to))

    def want_snapshot(self, shard: int, to: str) -> None:
        """Noted."""

    def want_eventual(self) -> None:
        """Noted."""
        self.sent.append("eventual")

    def want_round(self) -> None:
        """Noted."""
        self.sent.append("round")

    async def turn(self, *due: Any) -> None:
        """The shard has these `Ready`s; a few turns of the loop."""
        self.replica.due.extend(due)
        self.driver.wake(0)
        for _ in range(4):
            await asyncio.sleep(0)

    async def written(self, error: BaseException | None = None) -> None:
        """The oldest write ends."""
        _, future = self.worker.writes.pop(0)
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(None)
        for _ in range(4):
            await asyncio.sleep(0)

    def future(self) -> asyncio.Future[Any]:
        """A caller."""
        return self.loop.create_future()


class _Log:
    sync_s = 0.0

    def write(self, batch: object) -> None:
        """The worker keeps it."""


@pytest.fixture
async def stage() -> Stage:
    """A fresh one."""
    return Stage()


async def test_requests_leave_at_once_and_answers_behind_the_disk(stage: Stage) -> None:
    """Duties 1 to 3 (DESIGN 12.1)."""
    answer, accepted = stage.future(), stage.future()
    due = ready(
        1, send=(Send("b", "vote?"),), answers=(Answer(answer, "yes"),), accepted=(Reply(accepted, "held"),), round_wanted=True
    )
    await stage.turn(due)
    assert stage.sent == ["vote?", "round"]
    assert (answer.done(), accepted.done(), stage.replica.told) == (False, False, [])
    await stage.written()
    assert (answer.result(), accepted.result(), [mark.index for mark in stage.replica.told]) == ("yes", "held", [1])


async def test_answer_without_a_write_waits_for_the_writes_before_it(stage: Stage) -> None:
    """It may depend on one that is under way, or that gathers."""
    answer = stage.future()
    await stage.turn(ready(1))
    await stage.turn(ready(2))
    await stage.turn(ready(answers=(Answer(answer, "yes"),)))
    await stage.written()
    assert not answer.done()
    await stage.written()
    assert answer.result() == "yes"


async def test_answer_without_any_write_leaves_at_once(stage: Stage) -> None:
    """Nothing is under way."""
    answer = stage.future()
    await stage.turn(ready(answers=(Answer(answer, "no"),)))
    assert answer.result() == "no"


async def test_replies_leave_at_once(stage: Stage) -> None:
    """Duty 4: what they say is committed and durable."""
    reply = stage.future()
    await stage.turn(ready(1, replies=(Reply(reply, 5),)))
    assert reply.result() == 5


async def test_writes_gather_while_one_is_under_way(stage: Stage) -> None:
    """Group commit; hard state before entries, in the order of the Readys."""
    await stage.turn(ready(1))
    await stage.turn(ready(2, hard_state=HardState(1, "a", 0)))
    await stage.turn(ready(3))
    assert len(stage.worker.writes) == 1
    await stage.written()
    records, _ = stage.worker.writes[0]
    assert records == [HardStateRecord(0, 1, "a", 0), EntryRecord(0, 2, 1, 1, b""), EntryRecord(0, 3, 1, 1, b"")]


async def test_failed_write_answers_nothing_for_ever(stage: Stage) -> None:
    """Duty 6 (DESIGN 12.8): also what comes later."""
    answer, later = stage.future(), stage.future()
    await stage.turn(ready(1, answers=(Answer(answer, "yes"),)))
    await stage.written(DiskFailed("broken"))
    await stage.turn(ready(answers=(Answer(later, "yes"),)))
    assert (answer.done(), later.done(), stage.replica.told, len(stage.fatal)) == (False, False, [], 1)


async def test_full_disk_keeps_entries_waiting_and_lets_votes_through(stage: Stage) -> None:
    """Not final: entries are written when there is space, and answered then; terms and votes go into the reserve."""
    append, vote, other, later = (stage.future() for _ in range(4))
    await stage.turn(
        ready(
            1,
            hard_state=HardState(4, "b", 0),
            durable=DurableMark(1, 1, 4, ()),
            answers=(
                Answer(append, replication_pb2.ShardAppendResult(shard=0)),
                Answer(vote, election_pb2.RequestVoteResponse(shard=0)),
                Answer(other, replication_pb2.ShardAppendResult(shard=5)),
            ),
        )
    )
    await stage.written(OutOfSpace("full"))
    assert (stage.driver.out_of_space, stage.replica.full, stage.fatal) == (True, [True], [])
    records, _ = stage.worker.writes[0]
    assert records == [HardStateRecord(0, 4, "b", 0)]
    await stage.written()
    assert (append.done(), vote.done(), other.done()) == (False, True, True)
    assert stage.replica.told == [DurableMark(0, 0, 4, ())]
    await stage.turn(ready(answers=(Answer(later, replication_pb2.ShardAppendResult(shard=0)),)))
    assert not later.done()
    stage.driver._retry()
    await stage.written()
    assert (append.done(), later.done()) == (True, True)
    assert stage.replica.told[1:] == [DurableMark(1, 1, 0, ())]
    stage.driver.set_out_of_space(False)
    assert stage.replica.full == [True, False]


async def test_full_disk_without_a_reserve_promises_nothing_until_there_is_space(stage: Stage) -> None:
    """A vote that cannot be written cannot be promised; it is written, and given, as soon as it can be."""
    vote = stage.future()
    answers = (Answer(vote, election_pb2.RequestVoteResponse(shard=0)),)
    await stage.turn(ready(hard_state=HardState(4, "b", 0), durable=DurableMark(0, 0, 4, ()), answers=answers))
    await stage.written(OutOfSpace("full"))
    assert (vote.done(), stage.worker.writes, stage.fatal) == (False, [], [])
    stage.driver._resubmit(stage.driver._writing)
    await stage.written()
    assert (vote.done(), stage.replica.told) == (True, [DurableMark(0, 0, 4, ())])


async def test_broken_invariant_halts_the_node(stage: Stage) -> None:
    """Nobody else catches it."""
    await stage.turn(InvariantViolated("memory and disk differ"))
    assert [type(error) for error in stage.fatal] == [InvariantViolated]
    await stage.turn(ready(1))
    assert stage.worker.writes == []


async def test_hanging_disk_is_noticed_and_its_return_too(stage: Stage) -> None:
    """DESIGN 12.6."""
    await stage.turn(ready(1))
    stage.driver.watch_disk(0.8)
    assert stage.replica.stalled == []
    stage.driver._writing_since -= 1.0
    stage.driver.watch_disk(0.8)
    stage.driver.watch_disk(0.8)
    await stage.written()
    stage.driver.watch_disk(0.8)
    assert stage.replica.stalled == [True, False]


async def test_node_record_and_snapshot_mark_are_written_in_order(stage: Stage) -> None:
    """The mark comes before every later entry of its shard."""
    await stage.turn(ready(1))
    record = stage.driver.write_node_record(NodeRecord(3, b"x"))
    mark = stage.driver.write_snapshot_mark(0, 7, 2)
    await stage.turn(ready(8))
    await stage.written()
    records, _ = stage.worker.writes[0]
    assert records == [NodeRecord(3, b"x"), EntryRecord(0, 7, 2, SNAPSHOT_MARK, b""), EntryRecord(0, 8, 1, 1, b"")]
    assert not record.done()
    await stage.written()
    assert record.done()
    assert mark.done()


async def test_driver_drained_when_everything_is_durable(stage: Stage) -> None:
    """A graceful stop waits for it."""
    await stage.turn(ready(1))
    drained = asyncio.ensure_future(stage.driver.drained())
    await stage.turn(ready(2))
    await stage.written()
    assert not drained.done()
    await stage.written()
    assert drained.done()


async def test_more_to_apply_is_drained_again_in_another_turn(stage: Stage) -> None:
    """Catching up leaves time for others."""
    await stage.turn(ready(more=True), ready(1))
    assert len(stage.worker.writes) == 1
