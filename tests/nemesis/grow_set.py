"""A set that only grows: each element is a key of its own, and a read lists them.

What an element's client was told decides: an acknowledged one is in every list from then on, a refused one in none, and what
nobody knows may turn up, and then stays. Sets with an even number live in one shard, the others in all of them.
"""

from __future__ import annotations

import asyncio
from typing import Any, ClassVar

from tests.sim.history import Outcome

from .record import History, Op
from .workload import FINAL_TIMEOUT_S, Client, Failure, Workload


class GrowSet(Workload):
    """Adds, and lists of everything."""

    name: ClassVar[str] = "set"

    def prefix(self, number: int) -> str:
        """Of the keys of one set."""
        return f"set/{{{number}}}/" if number % 2 == 0 else f"set/{number}/"

    async def step(self, client: Client) -> None:
        """An element is added; now and then all are listed."""
        prefix, timeout = self.prefix(self.rotation.next()), client.timeout()
        if client.rng.random() < 0.1:
            await self._read(client, prefix, timeout)
            return
        op = self.invoke(client.name, "add", prefix, client.unique(), timeout=timeout)
        call = client.kv.put(prefix + op.value, "x", timeout=timeout)
        await self.settle(op, call, lambda answer: {"revision": answer.revision, "node": answer.served.node})

    async def _read(self, client: Client, prefix: str, timeout: float, *, final: bool = False) -> Op:
        op = self.invoke(client.name, "read", prefix, timeout=timeout, final=final)

        async def listed() -> list[str]:
            return [item.key.decode().removeprefix(prefix) async for item in client.kv.range(prefix=prefix, timeout=timeout)]

        def took(elements: list[str]) -> dict[str, Any]:
            return {"value": elements}

        await self.settle(op, listed(), took, reads=True)
        return op

    async def finish(self, client: Client) -> None:
        """Every set of the run is listed once more."""
        slots = asyncio.Semaphore(4)

        async def read(prefix: str) -> None:
            async def once() -> bool:
                return (await self._read(client, prefix, FINAL_TIMEOUT_S, final=True)).outcome is Outcome.OK

            async with slots:
                await self.retry_finally(once, f"a list of {prefix}")

        await asyncio.gather(*map(read, dict.fromkeys(op.key for op in self.recorder.history.of(self.name))))

    @classmethod
    def check(cls, history: History) -> list[Failure]:
        """Each list against what was acknowledged, refused, or seen before it began."""
        sets: dict[str, list[Op]] = {}
        for op in history.of(cls.name):
            sets.setdefault(op.key, []).append(op)
        return [failure for prefix, ops in sets.items() for failure in _check_set(prefix, ops)]


def _check_set(prefix: str, ops: list[Op]) -> list[Failure]:
    failures: dict[str, Failure] = {}
    adds = {op.value: op for op in ops if op.op == "add"}
    certain: dict[str, Op] = {}
    """Element -> the operation that proves that it is there for good."""

    def fail(element: str, rule: str, message: str) -> None:
        failures.setdefault(f"{element} {rule}", Failure("set", prefix + element, rule, message))

    events = [(op.invoked, False, op) for op in ops] + [(op.answered, True, op) for op in ops if op.answered is not None]
    at_invocation: dict[int, dict[str, Op]] = {}
    for _, is_answer, op in sorted(events, key=lambda event: event[0]):
        if not is_answer:
            if op.op == "read":
                at_invocation[op.id] = dict(certain)
            continue
        if op.outcome is not Outcome.OK:
            continue
        if op.op == "add":
            certain[op.value] = op
            continue
        listed = set(op.value)
        if len(listed) != len(op.value):
            fail("", "a list has each element once", str(op))
        for element, proof in at_invocation[op.id].items():
            if element not in listed:
                rule = "an acknowledged element is lost" if proof.op == "add" else "a seen element is gone"
                fail(element, rule, f"{proof}\n  is not in the later {op}")
        for element in op.value:
            add = adds.get(element)
            if add is None or add.invoked > (op.answered or 0):
                fail(element, "an element was added by somebody", str(op))
            elif add.outcome is Outcome.FAILED:
                fail(element, "what was definitely refused did happen", f"{add}\n  is in {op}")
            certain.setdefault(element, op)
    return list(failures.values())
