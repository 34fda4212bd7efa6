"""A deterministic asyncio event loop on virtual time: the ground the whole simulation stands on.

Owns: the virtual clock, the order of callbacks, the seed from which every random stream is derived, the groups of tasks that
live and die together (a group is what a process is outside), and the report when nothing can go on.
Never: reads a real clock, opens a socket, starts a thread, handles a signal, or iterates a set.

Invariants:
- The same seed and the same program give the same sequence of callbacks, whatever PYTHONHASHSEED and memory addresses are.
  Tasks and futures hash by their number, since asyncio keeps them in sets (`TaskGroup` cancels its children in the order
  of a set, `asyncio.wait` returns sets), and cyclic garbage is collected only at fixed counts of callbacks, since finalizers
  may schedule callbacks.
- Virtual time moves only when nothing is ready, and then exactly to the next timer. Timers of the same instant fire in the
  order in which they were set; ready callbacks run first in, first out, as asyncio promises (unless `fuzz` asks otherwise).
- After `Group.kill` not one more instruction of that group runs, `finally` blocks included: a crash, not a cancellation.
"""

from __future__ import annotations

import asyncio
import contextvars
import gc
import heapq
import math
import random
import sys
import threading
import warnings
from asyncio import events
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Generator
from functools import partial
from typing import Any, NoReturn, ParamSpec, TypeVar, TypeVarTuple, Unpack, cast

_T = TypeVar("_T")
_P = ParamSpec("_P")
_Ts = TypeVarTuple("_Ts")

STEPS_MAX = 20_000_000
"""Callbacks a run may take before it is called a livelock."""
SWEEP_TASKS = 1_024
"""Finished tasks are let go after so many new ones: that is when errors that nobody looked at come to light."""
COLLECT_STEPS = 500_000
"""Cyclic garbage is collected every so many callbacks."""
MONOTONIC_DRIFT_MAX = 0.05
"""How much faster or slower than true time a machine's monotonic clock runs at most."""
SHUTDOWN_STEPS_MAX = 200_000
"""Callbacks that the tasks left at the end have for their cancellation."""


class SimulationError(Exception):
    """The run could not go on; the message is a report for people."""


class Deadlock(SimulationError):
    """Nothing is ready and no timer is set: what is awaited will never come."""


class TimeLimit(SimulationError):
    """The run reached its virtual time limit before its main coroutine returned."""


class StepLimit(SimulationError):
    """The run took more callbacks than it may: most likely a loop that never lets time pass."""


class UnhandledErrors(SimulationError):
    """Callbacks or tasks failed and nobody looked at the error."""


class Group:
    """Tasks, timers and executor calls that live and die together, as the threads of a process do.

    Whatever is scheduled from within a group belongs to it. `pause` is SIGSTOP, `resume` is SIGCONT, `kill` is SIGKILL. A
    killed group stays dead: start the next life of a node in a new group.
    """

    def __init__(self, loop: SimulatedLoop, name: str, rate: float = 1.0, offset_s: float = 0.0) -> None:
        self.name = name
        self.rate, self.offset_s = rate, offset_s
        """Its monotonic clock: what `loop.time()` says within the group is `offset_s` plus `rate` times the true time."""
        self.paused = False
        self.killed = False
        self.resumed_at = -math.inf
        """When it went on after its last pause, by its own clock."""
        self._loop = loop
        self._context = contextvars.copy_context()
        self._context.run(_group.set, self)
        self._held: list[asyncio.Handle] = []

    def create_task(self, coro: Coroutine[Any, Any, _T], *, name: str | None = None) -> asyncio.Task[_T]:
        """Start a coroutine in this group."""
        return self._loop.create_task(coro, name=name, context=self._context.copy())

    def run(self, function: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> _T:
        """Call a function in this group: what it schedules and registers belongs to the group."""
        return self._context.copy().run(function, *args)

    def true_time(self, when: float) -> float:
        """The first instant at which the group's clock shows `when`, or more."""
        true = (when - self.offset_s) / self.rate
        while self.offset_s + self.rate * true < when:
            true = math.nextafter(true, math.inf)
        return true

    def pause(self) -> None:
        """Hold everything of this group; what becomes due meanwhile waits."""
        self.paused = True
        self._loop._any_stopped = True

    def resume(self) -> None:
        """Let a paused group go on: what became due meanwhile runs now, in its order."""
        self.paused = False
        self.resumed_at = self.offset_s + self.rate * self._loop.now
        held, self._held = self._held, []
        self._loop._queue.extend(held)

    def kill(self) -> None:
        """End this group here and now: nothing of it runs any more."""
        self.killed = True
        self._held = []
        self._loop._bury(self)

    def _hold(self, handle: asyncio.Handle) -> None:
        if not self.killed:
            self._held.append(handle)


_group: contextvars.ContextVar[Group | None] = contextvars.ContextVar("simulation_group", default=None)


def current_group() -> Group | None:
    """The group of the running code; None: the world outside all nodes."""
    return _group.get()


class SimulatedTask(asyncio.Task[Any]):
    """A task whose hash is its number, so that sets of tasks have the same order in each run."""

    def __init__(self, coro: Any, *, loop: SimulatedLoop, number: int, name: str, context: contextvars.Context | None) -> None:
        self.number = number
        self.group = _group.get() if context is None else context.get(_group)
        super().__init__(coro, loop=loop, name=name, context=context)

    def __hash__(self) -> int:
        return self.number


class SimulatedFuture(asyncio.Future[Any]):
    """A future whose hash is its number, for the same reason."""

    def __init__(self, *, loop: SimulatedLoop, number: int) -> None:
        self.number = number
        super().__init__(loop=loop)

    def __hash__(self) -> int:
        return self.number


class _Workers:
    """When the threads of one executor are free: calls start in order, each on the first free thread."""

    def __init__(self, size: int) -> None:
        self._free_at = [0.0] * size

    def book(self, now: float, duration: float) -> tuple[float, float]:
        """Start and end of the next call."""
        start = max(now, heapq.heappop(self._free_at))
        heapq.heappush(self._free_at, start + duration)
        return start, start + duration


class SimulatedWorker:
    """One simulated thread: implements `kvnode.runtime.worker.Worker`."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop, self._workers = loop, _Workers(1)
        self._submitted: deque[tuple[asyncio.Future[Any], Callable[[], Any], float]] = deque()
        self._closed = self._hung = False
        self._due_while_hung = 0
        self.slow_s_mean = 0.0
        """How much longer each call takes, as when a disk is slow."""

    def submit(self, function: Callable[_P, _T], *args: _P.args, **kwargs: _P.kwargs) -> asyncio.Future[_T]:
        """The future of the function's result; functions run inline, in the order of submission, each at some later time."""
        if self._closed:
            raise RuntimeError("the worker is closed")
        at, end = self._loop._book(self._workers, self.slow_s_mean)
        future: asyncio.Future[_T] = self._loop.create_future()
        self._submitted.append((future, partial(function, *args, **kwargs), end))
        self._loop.call_at_true(at, self._run_next)
        return future

    def close(self) -> None:
        """Runs what was submitted, now."""
        self._closed = True
        while self._submitted:
            self._run_next()

    def hang(self) -> None:
        """Nothing runs from now on, as when a disk does not answer; the call that is being answered is answered."""
        self._hung = True

    def recover(self) -> None:
        """What should have run meanwhile runs now."""
        self._hung = False
        due, self._due_while_hung = self._due_while_hung, 0
        for _ in range(due):
            self._run_next()

    def _run_next(self) -> None:
        if self._hung and not self._closed:
            self._due_while_hung += 1
        elif self._submitted:
            future, function, end = self._submitted.popleft()
            self._loop._run_in_worker(future, end, function, ())


class SimulatedLoop(asyncio.BaseEventLoop):
    """An event loop on virtual time, from 0.0 s. `run` makes one, runs a coroutine on it and closes it."""

    def __init__(
        self,
        seed: int | str,
        *,
        fuzz: bool = False,
        executor_latency_s_min: float = 50e-6,
        executor_latency_s_mean: float = 300e-6,
        executor_threads: int = 8,
    ) -> None:
        """`fuzz` runs the callbacks of one turn in a seeded random order. Executor latencies are exponential above their
        minimum; `executor_threads` is the size of the default executor."""
        super().__init__()
        self.set_debug(False)
        self.seed = seed
        self.steps = 0
        self.steps_max = STEPS_MAX
        self.until = float("inf")
        self.unhandled: list[str] = []
        self._now = 0.0
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._timer_number = 0
        self._timers_cancelled = 0
        self._task_number = 0
        self._future_number = 0
        self._live: dict[int, SimulatedTask] = {}
        self._buried: list[SimulatedTask] = []
        self._any_stopped = False
        self._stop_asked = False
        self._fuzz = self.random("schedule") if fuzz else None
        self._executor_random = self.random("executor")
        self._executor_latency_s_min = executor_latency_s_min
        self._executor_latency_s_mean = executor_latency_s_mean
        self._executor_threads = executor_threads
        self._workers: dict[Any, _Workers] = {}
        self.set_exception_handler(lambda _, context: self._on_unhandled(context))

    def random(self, stream: str) -> random.Random:
        """A random stream of its own for each purpose: more draws from one leave the others as they were."""
        return random.Random(f"{self.seed}/{stream}")

    def group(self, name: str, rate: float = 1.0, offset_s: float = 0.0) -> Group:
        """A new, empty group, with a monotonic clock of its own."""
        return Group(self, name, rate, offset_s)

    # --- asyncio's interface -------------------------------------------------------------------------------------------

    def time(self) -> float:
        """What the monotonic clock of the running code's group shows; outside of all groups the true time."""
        group = _group.get()
        return self._now if group is None else group.offset_s + group.rate * self._now

    @property
    def now(self) -> float:
        """The true time: virtual seconds since the start."""
        return self._now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Run a callback in the next turn, at this virtual instant."""
        if self.is_closed():
            raise RuntimeError("the simulated loop is closed")
        handle = asyncio.Handle(callback, args, self, context)
        self._queue.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_later(  # type: ignore[override]
        self, delay: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback after a delay in seconds of the running code's clock."""
        group = _group.get()
        return self.call_at_true(self._now + (delay if group is None else delay / group.rate), callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback when the running code's clock shows `when`."""
        group = _group.get()
        return self.call_at_true(when if group is None else group.true_time(when), callback, *args, context=context)

    def call_at_true(
        self, when: float, callback: Callable[..., object], *args: Any, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Run a callback at a true time, whatever clocks show."""
        if self.is_closed():
            raise RuntimeError("the simulated loop is closed")
        timer = asyncio.TimerHandle(when, callback, args, self, context)
        timer._scheduled = True  # type: ignore[attr-defined]
        self._timer_number += 1
        heapq.heappush(self._timers, (when, self._timer_number, timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Rebuild the heap when more than half of it is dead: most timeouts are cancelled long before they are due."""
        self._timers_cancelled += 1
        if self._timers_cancelled > 1_000 and self._timers_cancelled * 2 > len(self._timers):
            self._timers = [timer for timer in self._timers if not timer[2].cancelled()]
            heapq.heapify(self._timers)
            self._timers_cancelled = 0

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T] | Generator[Any, None, _T],
        *,
        name: object = None,
        context: contextvars.Context | None = None,
        **_: Any,
    ) -> asyncio.Task[_T]:
        """A task with a number of this loop, so that its name does not depend on what ran before in this process."""
        self._task_number = number = self._task_number + 1
        task = SimulatedTask(coro, loop=self, number=number, name=str(name or f"task-{number}"), context=context)
        self._live[number] = task
        if number % SWEEP_TASKS == 0:
            self._sweep()
        return cast("asyncio.Task[_T]", task)

    def create_future(self) -> asyncio.Future[Any]:
        """A future with a number of this loop."""
        self._future_number = number = self._future_number + 1
        return SimulatedFuture(loop=self, number=number)

    def run_in_executor(self, executor: Any, func: Callable[[Unpack[_Ts]], _T], *args: *_Ts) -> asyncio.Future[_T]:
        """Run a function inline, later: at a random moment of its latency, its answer arriving at the end of it.

        Between the two lies what a crash can hit: the work is done and nobody knows. An executor's threads
        (`max_workers`, the real thing is never started) are busy meanwhile; one thread keeps the order of its calls.
        """
        workers = self._workers.get(executor)
        if workers is None:
            size = self._executor_threads if executor is None else getattr(executor, "_max_workers", 1)
            workers = self._workers[executor] = _Workers(size)
        at, end = self._book(workers)
        future: asyncio.Future[_T] = self.create_future()
        self.call_at_true(at, self._run_in_worker, future, end, func, args)
        return future

    def _book(self, workers: _Workers, slow_s_mean: float = 0.0) -> tuple[float, float]:
        """When the next call of an executor does its work, and when its answer is back."""
        rng = self._executor_random
        latency = self._executor_latency_s_min + rng.expovariate(1 / (self._executor_latency_s_mean + slow_s_mean))
        start, end = workers.book(self._now, latency)
        return start + (end - start) * rng.random(), end

    def worker(self) -> SimulatedWorker:
        """A `kvnode.runtime.worker.Worker` with the latencies of this loop's executors."""
        return SimulatedWorker(self)

    def _run_in_worker(self, future: asyncio.Future[Any], end: float, func: Callable[..., Any], args: Any) -> None:
        if future.cancelled():
            return
        try:
            result, error = func(*args), None
        except BaseException as caught:  # as a thread pool does: the error belongs to whoever awaits the call
            result, error = None, caught
        self.call_at_true(end, self._finish_in_worker, future, result, error)

    @staticmethod
    def _finish_in_worker(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
        if future.done():
            return
        if error is not None:
            future.set_exception(error)
        else:
            future.set_result(result)

    def set_default_executor(self, executor: Any) -> None:
        """Nothing to set: executors are simulated."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Nothing to shut down."""

    def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise SimulationError("sockets, pipes, processes and signals are not simulated: pass a simulated port instead")

    add_reader = add_writer = add_signal_handler = getaddrinfo = getnameinfo = _refuse  # type: ignore[assignment]
    create_connection = create_server = create_datagram_endpoint = _refuse
    create_unix_server = create_unix_connection = _refuse
    subprocess_exec = subprocess_shell = connect_read_pipe = connect_write_pipe = _refuse

    # --- turning -------------------------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Leave `run_forever` after this turn."""
        self._stop_asked = True

    def run_forever(self) -> None:
        """Turn until `stop`. Raises Deadlock, TimeLimit or StepLimit."""
        self._check_closed()  # type: ignore[attr-defined]
        self._check_running()  # type: ignore[attr-defined]
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=lambda _: None, finalizer=self._on_generator_abandoned)
        self._thread_id = threading.get_ident()
        events._set_running_loop(self)
        try:
            while not self._stop_asked:
                self._turn()
        finally:
            self._stop_asked = False
            self._thread_id = None  # type: ignore[assignment]
            events._set_running_loop(None)
            sys.set_asyncgen_hooks(*hooks)

    def _turn(self) -> None:
        """Run what is ready now, each callback once; what these schedule waits for the next turn."""
        queue, timers = self._queue, self._timers
        if not queue:
            self._advance()
        while timers and timers[0][0] <= self._now:
            queue.append(heapq.heappop(timers)[2])
        if self._fuzz is not None and len(queue) > 1:
            shuffled = list(queue)
            self._fuzz.shuffle(shuffled)
            queue.clear()
            queue.extend(shuffled)
        count = len(queue)
        popleft = queue.popleft
        for _ in range(count):
            handle: Any = popleft()
            if handle._cancelled:
                continue
            if self._any_stopped:
                group = handle._context.get(_group)
                if group is not None and (group.killed or group.paused):
                    group._hold(handle)
                    continue
            handle._run()
        handle = None
        before, self.steps = self.steps, self.steps + count
        if self.steps > self.steps_max:
            raise StepLimit(f"more than {self.steps_max:,} callbacks\n{self.report()}")
        if before // COLLECT_STEPS != self.steps // COLLECT_STEPS:
            gc.collect()

    def _advance(self) -> None:
        """Let time pass until the next timer."""
        timers = self._timers
        while timers and timers[0][2].cancelled():
            heapq.heappop(timers)
            self._timers_cancelled = max(0, self._timers_cancelled - 1)
        if not timers:
            raise Deadlock(f"nothing is ready and no timer is set\n{self.report()}")
        when = timers[0][0]
        if when > self.until:
            self._now = self.until
            raise TimeLimit(f"not finished after {self.until:g} s of virtual time\n{self.report()}")
        self._now = max(self._now, when)

    # --- groups and endings --------------------------------------------------------------------------------------------

    def _bury(self, group: Group) -> None:
        """Keep a killed group's tasks from the garbage collector, which would run their `finally` blocks."""
        self._any_stopped = True
        for number in [number for number, task in self._live.items() if task.group is group]:
            task = self._live.pop(number)
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            if not task.done():
                self._buried.append(task)
        # Callbacks and timers stay where they are and are dropped as they come up: cheaper than a search, and the order
        # of all others is untouched.

    def _sweep(self) -> None:
        self._live = {number: task for number, task in self._live.items() if not task.done()}

    def _on_generator_abandoned(self, generator: Any) -> None:
        if not self.is_closed():
            self.create_task(generator.aclose(), name="aclose")

    def _on_unhandled(self, context: dict[str, Any]) -> None:
        task = context.get("task") or context.get("future")
        group = getattr(task, "group", None) or _group.get()
        if group is not None and group.killed:
            return
        error = context.get("exception")
        where = task.get_name() if isinstance(task, asyncio.Task) else context.get("handle", "a callback")
        node = f"[{group.name}] " if group is not None else ""
        self.unhandled.append(f"{self._now:12.6f} s  {node}{where}: {context.get('message')}: {error!r}")

    def report(self) -> str:
        """Who waits for what, one task a line, in the order of their creation."""
        self._sweep()
        rows = [(task.get_name(), task.group.name if task.group else "-", _waiting_place(task)) for task in self._live.values()]
        name_width = max([len(row[0]) for row in rows] + [4])
        group_width = max([len(row[1]) for row in rows] + [5])
        lines = [f"at {self._now:.6f} s of virtual time, after {self.steps:,} callbacks, {len(rows)} tasks wait:"]
        lines += [f"  {name:<{name_width}}  {group:<{group_width}}  {place}" for name, group, place in rows[:60]]
        if len(rows) > 60:
            lines.append(f"  ... and {len(rows) - 60} more")
        if self._queue:
            ready = Counter(_callback_name(handle) for handle in self._queue)
            lines.append("ready: " + ", ".join(f"{name} x{count}" for name, count in ready.most_common(8)))
        return "\n".join(lines)

    def shut_down(self) -> None:
        """Cancel what is left, in the order of creation, and close. Killed and paused groups get no further turn."""
        self._sweep()
        left = [task for task in self._live.values() if task.group is None or not (task.group.paused or task.group.killed)]
        for task in left:
            task.cancel()
        self.until, self.steps_max = float("inf"), self.steps + SHUTDOWN_STEPS_MAX
        if left:
            try:
                self.run_until_complete(asyncio.wait(left, timeout=3600.0))
            except SimulationError as error:
                self.unhandled.append(f"tasks did not end when cancelled: {error}")
        abandoned = [task for task in self._live.values() if not task.done()] + self._buried
        for task in abandoned:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
        self._sweep()
        left.clear()
        self._live.clear()
        self._queue.clear()
        self._timers.clear()
        self.close()
        with warnings.catch_warnings():
            # (They may want to start tasks, which cannot be.)
            warnings.simplefilter("ignore", RuntimeWarning)
            for task in abandoned:
                # Their `finally` blocks may run now: nobody looks any more.
                try:
                    coro = task.get_coro()
                    if coro is not None:
                        coro.close()
                except BaseException:  # whatever the dead say at this point means nothing
                    pass
        self._buried.clear()


def run(
    main: Coroutine[Any, Any, _T] | Callable[[SimulatedLoop], Coroutine[Any, Any, _T]],
    seed: int | str,
    until: float = 86_400.0,
    *,
    steps_max: int = STEPS_MAX,
    strict: bool = True,
    **options: Any,
) -> _T:
    """Run a coroutine (or a function of the loop that makes one) on a new loop and return its result.

    `until`: virtual seconds it may take. `steps_max`: callbacks it may take. `strict`: errors that nobody looked at fail the
    run. `options` go to SimulatedLoop. Raises what the coroutine raises, or Deadlock, TimeLimit, StepLimit, UnhandledErrors.
    Take a trace's hash before `main` returns: what is left is cancelled or closed afterwards, and its `finally` blocks run.
    The global random source is seeded too, for libraries that draw from it, and restored afterwards; so is the collector.
    """
    loop = SimulatedLoop(seed, **options)
    loop.until, loop.steps_max = until, steps_max
    random_state = random.getstate()
    random.seed(f"{seed}/global")
    collecting = gc.isenabled()
    gc.disable()
    gc.freeze()
    asyncio.set_event_loop(loop)
    try:
        try:
            result = loop.run_until_complete(main(loop) if callable(main) else main)
        finally:
            loop.shut_down()
        if strict and loop.unhandled:
            raise UnhandledErrors("errors that nobody looked at:\n" + "\n".join(loop.unhandled))
        return result
    finally:
        asyncio.set_event_loop(None)
        gc.unfreeze()
        if collecting:
            gc.enable()
        random.setstate(random_state)


def _waiting_place(task: asyncio.Task[Any]) -> str:
    """The chain of awaits down to the line that waits."""
    names: list[str] = []
    place = ""
    awaited: Any = task.get_coro()
    while awaited is not None:
        frame = getattr(awaited, "cr_frame", None) or getattr(awaited, "gi_frame", None) or getattr(awaited, "ag_frame", None)
        if frame is not None:
            names.append(getattr(awaited, "__qualname__", "?").replace("<locals>.", ""))
            path = frame.f_code.co_filename.replace("\\", "/").split("/")
            if place == "" or "asyncio" not in path:
                place = "/".join(path[-2:]) + f":{frame.f_lineno}"
        awaited = (
            getattr(awaited, "cr_await", None) or getattr(awaited, "gi_yieldfrom", None) or getattr(awaited, "ag_await", None)
        )
    return f"{' > '.join(names)}  ({place})" if names else "ready to start or to finish"


def _callback_name(handle: Any) -> str:
    callback = handle._callback
    owner = getattr(callback, "__self__", None)
    if isinstance(owner, asyncio.Task):
        return owner.get_name()
    return str(getattr(callback, "__qualname__", callback.__class__.__name__))
