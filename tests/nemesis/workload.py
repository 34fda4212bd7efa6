"""What all workloads share: clients that record what they ask and are told, keys that rotate, and the discipline of outcomes.

Owns the loop of a client, and the one place where an answer or an error becomes an outcome. What is asked and how it is judged
are the workloads'.

Invariants:
- An error that says `definite` means: it did not and will not happen. Every other error of a write means that nobody knows.
- Each choice comes from a client's own random numbers, which the run's seed decides; what depends on time is not among them.
"""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import grpc

import kvclient
from kvapi.v1 import kv_pb2_grpc
from tests.sim.history import Outcome

from .record import History, Op, Recorder

Answer = TypeVar("Answer")

TIMEOUTS_S = (0.3, 1.0, 1.0, 3.0, 5.0)
FINAL_TIMEOUT_S = 20.0
GENERATION_OPS_MAX = 250
"""Operations of all clients on one generation of keys: it keeps the search for an order short."""
GENERATION_S_MAX = 15.0


@dataclass(frozen=True)
class Failure:
    """A promise that was broken."""

    workload: str
    key: str
    rule: str
    message: str

    def __str__(self) -> str:
        where = f", key {self.key!r}" if self.key else ""
        return f"[{self.workload}] {self.rule}{where}:\n  {self.message}"


@dataclass
class Rotation:
    """Which generation of keys is in use. Keys are few, so that clients meet; and they rotate, so that histories stay short."""

    ops_max: int = GENERATION_OPS_MAX
    age_s_max: float = GENERATION_S_MAX
    generation: int = 0
    _ops: int = 0
    _since: float = field(default_factory=time.monotonic)

    def next(self) -> int:
        """The generation of one more operation."""
        self._ops += 1
        if self._ops > self.ops_max or time.monotonic() - self._since > self.age_s_max:
            self.generation, self._ops, self._since = self.generation + 1, 0, time.monotonic()
        return self.generation


@dataclass
class Client:
    """One client: a connection of its own, and random numbers of its own."""

    name: str
    kv: kvclient.AsyncClient
    rng: random.Random
    count: int = 0

    def unique(self) -> str:
        """A text that no other write of the run has."""
        self.count += 1
        return f"{self.name}.{self.count}"

    def timeout(self) -> float:
        """How long the next operation may take, seconds."""
        return self.rng.choice(TIMEOUTS_S)


@dataclass(frozen=True)
class Pinned:
    """A connection to one node, for reads which that node itself has to answer for."""

    name: str
    kv: Any
    """A KVStub."""


class Workload:
    """One idea of what to ask and how to judge the answers. Subclasses say `name`, `step`, `finish` and `check`."""

    name: ClassVar[str]
    pause_s_mean: ClassVar[float] = 0.03
    """Of each client, between two operations."""
    clients: ClassVar[int] = 3
    reads_at_nodes: ClassVar[bool] = False
    """Whether there are strong reads at each node (`pinned_step`)."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.rotation = Rotation()
        self.nodes: Sequence[Pinned] = ()
        """Every node by itself; known once the run begins."""

    async def step(self, client: Client) -> None:
        """One thing that a client does."""
        raise NotImplementedError

    async def pinned_step(self, node: Pinned, rng: random.Random) -> None:
        """One strong read at one node."""
        raise NotImplementedError

    async def learn_fates(self, client: Client) -> None:
        """After all was healed: what became of writes that were acknowledged before they took effect. Most have none."""

    async def finish(self, client: Client) -> None:
        """The last operations, once all replicas agree: what is there now."""
        raise NotImplementedError

    @classmethod
    def check(cls, history: History) -> list[Failure]:
        """What the history proves broken."""
        raise NotImplementedError

    # ---- clients --------------------------------------------------------------------------------------------------------

    async def run(self, client: Client, over: asyncio.Event) -> None:
        """A client's life."""
        while not over.is_set():
            await asyncio.sleep(client.rng.expovariate(1 / self.pause_s_mean))
            await self.step(client)

    async def run_pinned(self, node: Pinned, rng: random.Random, over: asyncio.Event) -> None:
        """Reads at one node, also while earlier ones hang there: those are what a frozen node answers first afterwards."""
        async with asyncio.TaskGroup() as tasks:
            while not over.is_set():
                await asyncio.sleep(rng.expovariate(1 / (4 * self.pause_s_mean)))
                tasks.create_task(self.pinned_step(node, rng))

    def invoke(self, client: str, op: str, key: str = "", value: Any = None, **facts: Any) -> Op:
        """Record that a client asks."""
        return self.recorder.invoke(self.name, client, op, key, value, **facts)

    async def settle(
        self, op: Op, call: Awaitable[Answer], took: Callable[[Answer], dict[str, Any]], *, reads: bool = False
    ) -> Answer | None:
        """Wait for an answer, and record it: `took` says what is known of an operation that took place. None: it did not, or
        nobody knows. `reads`: it has no effect, so that whatever fails has definitely failed.
        """
        try:
            answer = await call
        except kvclient.CompareFailed as error:
            seen = error.metadata.get("revision")
            self.recorder.answer(
                op, Outcome.COMPARE_FAILED, revision=None if seen is None else int(seen), node=error.node or "", note=str(error)
            )
        except kvclient.KvError as error:
            outcome = Outcome.FAILED if error.definite or reads else Outcome.UNKNOWN
            self.recorder.answer(op, outcome, node=error.node or "", note=f"{type(error).__name__}: {error}")
        except grpc.aio.AioRpcError as error:
            outcome = Outcome.FAILED if reads else Outcome.UNKNOWN
            self.recorder.answer(op, outcome, note=f"{error.code().name}: {error.details()}")
        except Exception as error:  # the client raises nothing else: that is a finding in itself
            self.recorder.answer(op, Outcome.FAILED if reads else Outcome.UNKNOWN, note=repr(error))
            self.recorder.finding(f"the client raised what it never should, for {op}\n{traceback.format_exc()}")
        else:
            self.recorder.answer(op, Outcome.OK, **took(answer))
            return answer
        return None

    async def retry_finally(self, attempt: Callable[[], Awaitable[bool]], what: str) -> None:
        """Attempts until one is answered; in a healed cluster that is soon."""
        deadline = time.monotonic() + FINAL_TIMEOUT_S
        while not await attempt():
            if time.monotonic() > deadline:
                self.recorder.finding(f"{self.name}: {what} was not answered for {FINAL_TIMEOUT_S:.0f} s after all was healed")
                return
            await asyncio.sleep(0.1)


def pinned(name: str, channel: grpc.aio.Channel) -> Pinned:
    """A connection to one node."""
    return Pinned(name, kv_pb2_grpc.KVStub(channel))
