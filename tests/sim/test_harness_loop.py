"""The simulated event loop and the trace: time, order, executors, groups, endings, and the same run from the same seed."""

from __future__ import annotations

import asyncio
import operator
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from .loop import Deadlock, SimulatedLoop, SimulationError, StepLimit, TimeLimit, UnhandledErrors, run
from .trace import VIOLATION, Trace


def busy_run(seed: int, fuzz: bool = False) -> tuple[str, float, int]:
    """A program with something of everything, and its trace."""

    async def main(loop: SimulatedLoop) -> tuple[str, float, int]:
        trace = Trace(loop.time)
        queue: asyncio.Queue[int] = asyncio.Queue()
        rng = loop.random("program")

        async def worker(name: str) -> None:
            try:
                while True:
                    item = await queue.get()
                    await asyncio.sleep(rng.random() * 0.01)
                    doubled = await loop.run_in_executor(None, operator.mul, item, 2)
                    trace.event(name, f"{item} -> {doubled}")
                    queue.task_done()
            finally:
                trace.event(name, f"ends as {asyncio.current_task().get_name()}")  # type: ignore[union-attr]

        async def give_up() -> None:
            await queue.join()
            raise LookupError("done")

        for item in range(50):
            queue.put_nowait(item)

        async def work() -> None:
            async with asyncio.TaskGroup() as group:
                for number in range(7):
                    group.create_task(worker(f"n{number}"))
                group.create_task(give_up())

        with pytest.raises(ExceptionGroup):
            await work()
        done, _ = await asyncio.wait({asyncio.ensure_future(asyncio.sleep(0.1, number)) for number in range(20)})
        trace.event("", " ".join(str(task.result()) for task in done))
        return trace.hash(), loop.time(), trace.count

    return run(main, seed, fuzz=fuzz)


def test_loop_same_seed_same_trace() -> None:
    """Two runs of one seed have the same trace, another seed or fuzzing has another."""
    assert busy_run(1) == busy_run(1)
    assert busy_run(1, fuzz=True) == busy_run(1, fuzz=True)
    assert len({busy_run(1)[0], busy_run(2)[0], busy_run(1, fuzz=True)[0]}) == 3


def test_loop_other_hash_seed_same_trace() -> None:
    """PYTHONHASHSEED has no part in a run."""
    program = f"from {__package__}.test_harness_loop import busy_run; print(busy_run(5))"
    root = Path(__file__).parents[len(str(__package__).split("."))]
    paths = os.pathsep.join([str(root), *sys.path])
    for hash_seed in ("1", "77"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": paths}
        answer = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
        assert answer.stdout.strip() == str(busy_run(5))


def test_loop_sleep_of_years_costs_nothing() -> None:
    """Time jumps to the next timer; equal times fire in the order in which they were set."""

    async def main(loop: SimulatedLoop) -> tuple[float, list[int]]:
        order: list[int] = []
        for number in range(100):
            loop.call_at(50.0, order.append, number)
        await asyncio.sleep(3e7)
        return loop.time(), order

    assert run(main, 0, until=4e7) == (3e7, list(range(100)))


def test_loop_nothing_can_happen_raises_deadlock_with_the_waiting_tasks() -> None:
    """A deadlock is reported with every waiting task and the line it waits at."""

    async def waits_for_a_lock(lock: asyncio.Lock) -> None:
        async with lock:
            await asyncio.Event().wait()

    async def main(loop: SimulatedLoop) -> None:
        lock = asyncio.Lock()
        node = loop.group("n1")
        await asyncio.gather(
            node.create_task(waits_for_a_lock(lock), name="holder"), node.create_task(waits_for_a_lock(lock), name="waiter")
        )

    with pytest.raises(Deadlock) as caught:
        run(main, 0)
    report = str(caught.value)
    assert "holder" in report
    assert "n1" in report
    assert "Event.wait" in report
    assert "Lock.acquire" in report
    assert "test_harness_loop.py" in report


def test_loop_without_end_is_bounded_in_time_and_steps() -> None:
    """A run that never ends is stopped by virtual time, one that never lets time pass by its callbacks."""

    async def tick() -> None:
        while True:
            await asyncio.sleep(1)

    async def spin() -> None:
        while True:
            await asyncio.sleep(0)

    with pytest.raises(TimeLimit, match="100 s"):
        run(tick(), 0, until=100)
    with pytest.raises(StepLimit, match="1,000 callbacks"):
        run(spin(), 0, steps_max=1_000)


def test_loop_error_that_nobody_saw_fails_the_run() -> None:
    """Failed tasks and callbacks do not go unnoticed."""

    async def fails() -> None:
        raise ZeroDivisionError("lost")

    async def main() -> None:
        asyncio.get_running_loop().call_soon(lambda: 1 // 0)
        asyncio.create_task(fails())  # noqa: RUF006
        await asyncio.sleep(1)

    with pytest.raises(UnhandledErrors) as caught:
        run(main(), 0)
    assert "lost" in str(caught.value)
    assert "division" in str(caught.value)
    run(main(), 0, strict=False)


def test_loop_real_resources_are_refused() -> None:
    """No socket, no signal, no resolver."""

    async def main() -> None:
        with pytest.raises(SimulationError):
            await asyncio.open_connection("127.0.0.1", 1)
        with pytest.raises(SimulationError):
            asyncio.get_running_loop().add_signal_handler(15, print)

    run(main(), 0)


def test_executor_one_thread_keeps_order_and_takes_time() -> None:
    """Calls of a single-threaded executor run one after the other; errors reach the caller."""

    async def main(loop: SimulatedLoop) -> tuple[list[int], bool]:
        executor = ThreadPoolExecutor(max_workers=1)
        order: list[int] = []
        calls = [loop.run_in_executor(executor, order.append, number) for number in range(50)]
        await asyncio.gather(*calls)
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(None, lambda: 1 // 0)
        worker = loop.worker()
        worker.hang()
        late = worker.submit(order.append, 50)
        await asyncio.sleep(10)
        assert not late.done()
        worker.recover()
        await late
        worker.submit(order.append, 51)
        worker.close()
        return order, loop.time() > 50 * 50e-6

    assert run(main, 3) == (list(range(52)), True)


def test_group_killed_runs_nothing_more() -> None:
    """A kill is no cancellation: no finally block, no timer, no executor call of the group runs afterwards."""

    async def main(loop: SimulatedLoop) -> list[str]:
        seen: list[str] = []

        async def child() -> None:
            try:
                await loop.run_in_executor(None, seen.append, "executor")
                loop.call_later(5.0, seen.append, "timer")
                while True:
                    await asyncio.sleep(1)
                    seen.append("tick")
            finally:
                seen.append("finally")

        async def node() -> None:
            await asyncio.gather(child(), asyncio.create_task(child()))

        group = loop.group("n1")
        group.create_task(node())
        await asyncio.sleep(2.5)
        group.kill()
        before = list(seen)
        await asyncio.sleep(100)
        assert seen == before
        return before

    assert run(main, 0) == ["executor", "executor", "tick", "tick", "tick", "tick"]


def test_group_paused_goes_on_where_it_was() -> None:
    """What becomes due in a pause happens at its end, and others go on meanwhile."""

    async def main(loop: SimulatedLoop) -> tuple[list[float], list[float]]:
        here: list[float] = []
        there: list[float] = []

        async def tick(seen: list[float]) -> None:
            while True:
                await asyncio.sleep(1)
                seen.append(loop.time())

        paused = loop.group("n1")
        paused.create_task(tick(here))
        loop.group("n2").create_task(tick(there))
        await asyncio.sleep(1.5)
        paused.pause()
        await asyncio.sleep(3)
        paused.resume()
        await asyncio.sleep(1.9)
        return here, there

    assert run(main, 0) == ([1.0, 4.5, 5.5], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0])


def test_trace_tail_shows_lanes_and_hash_covers_all() -> None:
    """The tail is readable; the hash covers events that are no longer kept."""
    now = 0.0
    trace, other = Trace(lambda: now, kept=3), Trace(lambda: now, kept=3)
    other.event("n2", "only here")
    for number in range(5):
        now += 0.25
        for each in (trace, other):
            each.event(f"n{number % 2 + 1}", f"event {number}")
    tail = trace.tail(2)
    assert "n1 n2" in tail
    assert "event 4" in tail
    assert "event 3" in tail
    assert "event 2" not in tail
    assert "+250.000" in tail
    assert trace.events() == other.events()
    assert trace.hash() != other.hash()


def test_trace_tail_of_a_broken_promise_ends_soon_after_it() -> None:
    """What led to a violation is shown, however long the run went on."""
    trace = Trace(lambda: 0.0)
    for number in range(40):
        trace.event("n1", f"{VIOLATION}of a promise" if number == 20 else f"event {number}.")
    tail = trace.tail(12)
    assert "VIOLATION" in tail
    assert [number for number in range(40) if f"event {number}." in tail] == [*range(11, 20), 21, 22]
