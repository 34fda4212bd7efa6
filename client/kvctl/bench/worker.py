"""One process of a run: connects, loads its keys, warms up, measures, and deletes its keys, phase by phase as it is told.

Owns the phases and its clients. It is told when to begin the next phase, so that all processes begin together, and sends what
it notes several times a second. When its starter is gone, so is it.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import math
import random
import time
import traceback
from array import array
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from multiprocessing.connection import Connection
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import kvclient
from kvclient import AsyncClient, KvError
from kvctl.bench.operations import Operations, Target
from kvctl.bench.plan import Plan
from kvctl.bench.precise_loop import precise_loop
from kvctl.bench.runner import Runner
from kvctl.bench.samples import LATENCY_CODE, Failed, Finished, Message, Notes, Progress, Ready, Sample
from kvctl.bench.schedule import ClosedLoop, OpenLoop, Turns, even, poisson
from kvctl.bench.workload import Workload

if TYPE_CHECKING:
    from kvctl.bench.traces import Traces

DoBatch: TypeAlias = Callable[[AsyncClient, Sequence[int]], Awaitable[None]]
FLUSHES_A_SECOND = 4
"""Often enough for a display, and so little at a time that the pipe takes it at once: a full one would stall the load."""
BATCH_KEYS_MAX = 100
BATCH_BYTES_MAX = 256 * 1024
BATCHES_UNDER_WAY = 4
BATCH_TIMEOUT_S = 30.0


class Go(NamedTuple):
    """Begin the next phase at this moment of the monotonic clock, which all processes of a machine share."""

    at: float


class Stop(NamedTuple):
    """End the present phase early."""


class Worker:
    """The process, told what to do by `Go` and `Stop`."""

    def __init__(self, plan: Plan, index: int, send: Callable[[Message], None]) -> None:
        self.plan, self.index, self._send = plan, index, send
        self._orders: asyncio.Queue[Go] = asyncio.Queue()
        self._stopped = False
        self._runner: Runner | None = None
        self._traces: Traces | None = None
        if plan.traces:
            from kvctl.bench.traces import Traces  # OpenTelemetry's SDK takes a while to load

            self._traces = Traces(plan, index)

    def on_order(self, order: Go | Stop) -> None:
        """Something that the starter says."""
        if isinstance(order, Go):
            self._orders.put_nowait(order)
            return
        self._stopped = True
        if self._runner is not None:
            self._runner.stop()

    async def run(self) -> None:
        """All phases."""
        plan = self.plan
        async with self._connected() as clients:
            if plan.load:
                await self._begin()
                await self._batches(clients, self._load)
            if plan.measures:
                workload = Workload(plan, self.index)
                operations = Operations(plan, workload)
                self._runner = Runner(self._targets(clients), workload.kind, operations.by_kind)
                gc.freeze()  # what is there now stays; looking through it again and again would show in the tail
                if plan.warmup_s:
                    await self._warm_up(await self._begin(), self._runner)
                begin = await self._begin()
                if self._stopped:
                    self._send(Finished(0.0, {}, 0.0, b""))
                else:
                    await self._measure(begin, self._runner, workload)
            if plan.clean:
                await self._begin()
                self._stopped = False
                await self._batches(clients, self._delete)
            self._send(Ready())

    async def _begin(self) -> float:
        """Wait for the phase's beginning, with all other processes; the moment."""
        self._send(Ready())
        at = (await self._orders.get()).at
        await asyncio.sleep(at - asyncio.get_running_loop().time())
        return at

    @asynccontextmanager
    async def _connected(self) -> AsyncIterator[list[AsyncClient]]:
        async with AsyncExitStack() as stack:
            provider = self._traces.provider if self._traces is not None else None
            clients = [kvclient.connect(self.plan.uri, tracer_provider=provider) for _ in range(self.plan.clients)]
            yield [await stack.enter_async_context(client) for client in clients]

    def _targets(self, clients: Sequence[AsyncClient]) -> list[Target]:
        """A client for each caller, or a session: what it reads is what it has seen, not what others have."""
        mine = [clients[number % len(clients)] for number in range(self.plan.callers_of(self.index))]
        return [client.session() for client in mine] if self.plan.read_consistency == "session" else list(mine)

    # The load.

    def _turns(self, begin: float, until: float, operations: int | None) -> Turns:
        plan, loop = self.plan, asyncio.get_running_loop()
        if plan.rate is None:
            return ClosedLoop(loop, until, operations)
        arrivals: Iterator[float]
        if plan.arrivals == "even":
            arrivals = even(begin, plan.rate, self.index, plan.processes)
        else:
            arrivals = poisson(begin, plan.rate / plan.processes, random.Random(f"{plan.seed}/{self.index}/arrivals"))
        return OpenLoop(loop, itertools.islice(arrivals, operations), until)

    async def _warm_up(self, begin: float, runner: Runner) -> None:
        await runner.run(self._turns(begin, begin + self.plan.warmup_s, None), Notes(self.plan.mix))

    async def _measure(self, begin: float, runner: Runner, workload: Workload) -> None:
        plan, loop = self.plan, asyncio.get_running_loop()
        until, notes = begin + plan.duration_s, Notes(plan.mix)
        turns = self._turns(begin, until, plan.operations_of(self.index))
        flushes = _Flushes(begin, plan.interval_s, until, notes, self._send)
        cpu_began = time.process_time()
        if self._traces is not None:
            self._traces.begin()
        await runner.run(turns, notes)
        cpu_s, ended_s = time.process_time() - cpu_began, loop.time() - begin
        flushes.end()
        if self._traces is not None:
            self._traces.end()
        left_over: dict[str, array[int]] = {}
        late: array[int] = array(LATENCY_CODE)
        if isinstance(turns, OpenLoop):
            for waited_s in turns.left_over():
                left_over.setdefault(workload.kind(), array(LATENCY_CODE)).append(int(waited_s * 1e6))
            late.extend(int(seconds * 1e6) for seconds in turns.wakes_late_s)
        waited = {kind: values.tobytes() for kind, values in left_over.items()}
        was_cut = self._stopped or plan.operations is not None
        measured_s = ended_s if was_cut else max(ended_s, plan.duration_s)  # the last operation may have been due long before
        self._send(Finished(measured_s, waited, cpu_s / max(ended_s, 1e-9), late.tobytes()))

    # Loading and deleting.

    async def _batches(self, clients: Sequence[AsyncClient], do: DoBatch) -> None:
        """Do something with all keys of this process, some batches at a time. The first error ends it."""
        numbers = self.plan.keys_of(self.index)
        size = min(BATCH_KEYS_MAX, max(1, BATCH_BYTES_MAX // max(1, self.plan.value_size_bytes_max)))
        batches = iter([numbers[at : at + size] for at in range(0, len(numbers), size)])

        async def lane(client: AsyncClient) -> None:
            for batch in batches:
                if self._stopped:
                    return
                await do(client, batch)
                self._send(Progress(len(batch)))

        await asyncio.gather(*(lane(clients[number % len(clients)]) for number in range(BATCHES_UNDER_WAY)))

    async def _load(self, client: AsyncClient, numbers: Sequence[int]) -> None:
        plan, batch = self.plan, client.batch()
        rng = random.Random(f"{plan.seed}/load/{numbers[0]}")
        for number in numbers:
            batch.put(plan.key(number), rng.randbytes(rng.randint(plan.value_size_bytes_min, plan.value_size_bytes_max)))
        _raise_first(await batch.run(timeout=BATCH_TIMEOUT_S))

    async def _delete(self, client: AsyncClient, numbers: Sequence[int]) -> None:
        batch = client.batch()
        for number in numbers:
            batch.delete(self.plan.key(number))
        _raise_first(await batch.run(timeout=BATCH_TIMEOUT_S))


class _Flushes:
    """Sends what was noted: several times in each interval, and when the measured time is over."""

    def __init__(self, begin: float, interval_s: float, until: float, notes: Notes, send: Callable[[Message], None]) -> None:
        self._loop, self._until, self._notes, self._send = asyncio.get_running_loop(), until, notes, send
        self._moments = flush_moments(begin, interval_s, until)
        self._wait()

    def _wait(self) -> None:
        self._at, self._interval = next(self._moments)
        self._timer = self._loop.call_at(self._at, self._flush)

    def _flush(self) -> None:
        self._send(Sample(self._interval, self._at <= self._until, self._notes.take()))
        self._wait()

    def end(self) -> None:
        """Send the rest."""
        self._timer.cancel()
        self._send(Sample(self._interval, self._loop.time() <= self._until, self._notes.take()))


def flush_moments(begin: float, interval_s: float, until: float) -> Iterator[tuple[float, int]]:
    """When to send, and the interval that ends then or later: the ends of equal parts of intervals, and `until`."""
    parts = max(1, math.ceil(interval_s * FLUSHES_A_SECOND))
    before = begin
    for number in itertools.count():
        at, interval = begin + (number + 1) * interval_s / parts, number // parts
        if before < until < at:
            yield until, interval
        yield at, interval
        before = at


def _raise_first(results: Sequence[object]) -> None:
    for result in results:
        if isinstance(result, KvError):
            raise result


def work(plan: Plan, index: int, starter: Connection) -> None:
    """The process's whole life."""
    try:
        with asyncio.Runner(loop_factory=precise_loop) as runner:
            runner.run(_live(Worker(plan, index, starter.send), starter))
    except (asyncio.CancelledError, BrokenPipeError):
        pass  # the starter has gone, and with it whoever wanted to know
    except KvError as error:
        key = "" if error.key is None else f"key '{error.key.decode(errors='backslashreplace')}': "
        starter.send(Failed(error.reason, key + error.message))
    except BaseException:
        starter.send(Failed("", traceback.format_exc()))


async def _live(worker: Worker, starter: Connection[Any, Any]) -> None:
    """Run, and listen to the starter; cancelled when it is gone."""
    loop, life = asyncio.get_running_loop(), asyncio.current_task()
    assert life is not None

    def listen() -> None:
        try:
            worker.on_order(starter.recv())
        except EOFError:
            loop.remove_reader(starter.fileno())
            life.cancel()

    loop.add_reader(starter.fileno(), listen)
    try:
        await worker.run()
    finally:
        loop.remove_reader(starter.fileno())
