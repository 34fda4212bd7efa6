"""When the service manager is told what, and that the watchdog is fed by work and by nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import pairwise

import pytest

from kvnode.runtime import supervision
from kvnode.runtime.service_manager import ServiceManager
from kvnode.runtime.supervision import Supervision, replaying


class RecordingManager(ServiceManager):
    """Remembers what it is told, and wakes whoever waits for a word."""

    def __init__(self, watchdog_timeout: float = 0.0) -> None:
        super().__init__({})
        self.watchdog_timeout = watchdog_timeout
        self.told: list[str] = []
        self.word: asyncio.Event | None = None

    @property
    def listens(self) -> bool:
        return True

    def _tell(self, message: str) -> None:
        self.told.append(message)
        if self.word:
            self.word.set()

    async def wait_for(self, message: str, count: int = 1) -> None:
        """Until it was told `message` so often."""
        while self.told.count(message) < count:
            self.word = asyncio.Event()
            await asyncio.wait_for(self.word.wait(), 10)


class HeldWorker:
    """A log thread that takes things up when the test says so."""

    def __init__(self) -> None:
        self.waiting: list[asyncio.Future[None]] = []
        self.submitted = asyncio.Event()
        self.moves = True

    def submit(self, function: object, *_arguments: object) -> asyncio.Future[None]:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.moves:
            future.set_result(None)
        self.waiting.append(future)
        self.submitted.set()
        return future

    def close(self) -> None: ...


class World:
    """A supervised node of which every part can be stopped."""

    def __init__(self) -> None:
        self.manager = RecordingManager(watchdog_timeout=0.04)
        self.worker = HeldWorker()
        self.ticking = True
        self.ticks = 0
        self.asked = asyncio.Event()
        self.supervision = Supervision(
            self.manager,
            asyncio.get_running_loop(),
            lambda: f"ACTIVE: {self.ticks}",
            self._count,
            self.worker,  # type: ignore[arg-type]
        )

    def _count(self) -> int:
        self.ticks += self.ticking
        self.asked.set()
        return self.ticks

    async def asked_times(self, count: int) -> None:
        """Until the ticker was looked at so often."""
        for _ in range(count):
            self.asked.clear()
            await asyncio.wait_for(self.asked.wait(), 10)


@pytest.fixture
async def world(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[World]:
    """One that is watched closely."""
    monkeypatch.setattr(supervision, "SIGN_INTERVAL_MIN", 0.001)
    world = World()
    yield world
    world.supervision.stop()


async def test_start_says_the_status_and_then_that_it_is_ready(world: World) -> None:
    """`systemctl start` returns at READY: the status must be there by then."""
    world.supervision.start()
    assert world.manager.told == ["STATUS=ACTIVE: 0", "READY=1"]


async def test_signs_of_life_come_while_all_parts_move(world: World) -> None:
    """Loop, ticker and log's thread."""
    world.supervision.start()
    await world.manager.wait_for("WATCHDOG=1", 3)
    assert len(world.worker.waiting) >= 3


async def test_ticker_that_died_ends_the_signs_of_life(world: World) -> None:
    """The loop still runs, and the log's thread still answers."""
    world.supervision.start()
    await world.manager.wait_for("WATCHDOG=1")
    world.ticking = False
    await world.asked_times(2)
    before = world.manager.told.count("WATCHDOG=1")
    await world.asked_times(6)
    assert world.manager.told.count("WATCHDOG=1") == before


async def test_log_thread_that_hangs_ends_the_signs_of_life_until_it_moves(world: World) -> None:
    """A disk that hangs for longer than the time-out gets the node restarted, a slow one does not."""
    world.worker.moves = False
    world.supervision.start()
    await asyncio.wait_for(world.worker.submitted.wait(), 10)
    assert "WATCHDOG=1" not in world.manager.told
    world.worker.waiting[0].set_result(None)
    await world.manager.wait_for("WATCHDOG=1")
    assert len(world.worker.waiting) <= 2  # (the next probe waits again)


async def test_stop_is_the_last_word(world: World) -> None:
    """No sign of life and no status after it: systemd would take them for news."""
    world.supervision.start()
    await world.manager.wait_for("WATCHDOG=1")
    world.supervision.stop()
    assert world.manager.told[-2:] == ["STOPPING=1", "STATUS=stopping"]
    told = len(world.manager.told)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert len(world.manager.told) == told


async def test_node_without_a_watchdog_gives_no_signs() -> None:
    """WatchdogSec is the unit's choice."""
    manager = RecordingManager()
    worker = HeldWorker()
    watched = Supervision(manager, asyncio.get_running_loop(), lambda: "", lambda: 0, worker)  # type: ignore[arg-type]
    watched.start()
    await asyncio.sleep(0)
    watched.stop()
    assert not worker.waiting


def test_replay_that_moves_gets_more_time_and_says_how_far_it_is() -> None:
    """Half a millisecond a record: a word about every second, with the records so far; the records come through unchanged."""
    manager = RecordingManager()
    time = 0.0

    def records() -> Iterator[int]:
        nonlocal time
        for number in range(5_000):
            time += 0.0005
            yield number

    assert list(replaying(records(), manager, lambda: time)) == list(range(5_000))
    assert manager.told == [
        "EXTEND_TIMEOUT_USEC=30000000",
        "STATUS=RECOVERING: the log is being replayed",
        "EXTEND_TIMEOUT_USEC=30000000",
        "STATUS=RECOVERING: 2,048 records of the log replayed in 1 s",
        "EXTEND_TIMEOUT_USEC=30000000",
        "STATUS=RECOVERING: 4,096 records of the log replayed in 2 s",
    ]


def test_replay_of_large_records_from_a_slow_disk_gets_more_time_before_the_last_is_over() -> None:
    """A tenth of a second each: 10 MB/s. Between two words, and after the last one, is less time than was asked for."""
    told_at: list[float] = []
    time = 0.0

    class TimedManager(RecordingManager):
        def extend_timeout(self, seconds: float) -> None:
            told_at.append(time)

    def records() -> Iterator[int]:
        nonlocal time
        for number in range(1_500):
            time += 0.1
            yield number

    list(replaying(records(), TimedManager(), lambda: time))
    assert max(later - earlier for earlier, later in pairwise([*told_at, time])) < supervision.REPLAY_STEP_MAX


def test_replay_that_is_quick_says_no_more_than_that_it_has_begun() -> None:
    """Most take less than a second."""
    manager = RecordingManager()
    assert len(list(replaying(range(10_000), manager, lambda: 0.0))) == 10_000
    assert manager.told == ["EXTEND_TIMEOUT_USEC=30000000", "STATUS=RECOVERING: the log is being replayed"]
