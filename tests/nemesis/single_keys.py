"""Strong operations on single keys: a register, and compare-and-set. Both must be linearizable, key by key.

The reads of `pinned_step` go to each node in turn, deposed and cut-off ones too: that is who would serve what is stale.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable
from typing import Any, ClassVar

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of
from tests.sim.history import Kind, Operation, Outcome, check_revision_order
from tests.sim.linearizability import check_linearizability

from .record import History, Op
from .workload import FINAL_TIMEOUT_S, Client, Failure, Pinned, Workload

STEPS_MAX = 1_000_000
KEYS = 3
"""In use at a time."""


class _SingleKeys(Workload):
    """What both have in common: keys, reads, the last reads, and the judgement."""

    reads_at_nodes: ClassVar[bool] = True

    def key(self, rng: random.Random) -> str:
        """One of the keys of now."""
        return f"{self.name}/{self.rotation.next()}/{rng.randrange(KEYS)}"

    async def get(self, client: Client, key: str, timeout: float, *, final: bool = False) -> Op:
        """A strong read, recorded."""
        op = self.invoke(client.name, "get", key, timeout=timeout, final=final)

        def took(answer: Any) -> dict[str, Any]:
            value = answer.value
            if value is None:
                return {"found": False, "node": answer.served.node}
            return {"found": True, "value": value.text, "revision": value.revision, "node": answer.served.node}

        await self.settle(op, client.kv.get_result(key, timeout=timeout), took, reads=True)
        return op

    async def put(self, client: Client, key: str, timeout: float, expected: int | None = None) -> None:
        """A strong write, recorded."""
        op = self.invoke(client.name, "put", key, client.unique(), expected=expected, timeout=timeout)
        call = client.kv.put(key, op.value, if_revision=expected, timeout=timeout)
        await self.settle(op, call, lambda answer: {"revision": answer.revision, "node": answer.served.node})

    async def delete(self, client: Client, key: str, timeout: float, expected: int | None = None) -> None:
        """A strong deletion, recorded."""
        op = self.invoke(client.name, "delete", key, expected=expected, timeout=timeout)
        call = client.kv.delete(key, if_revision=expected, timeout=timeout)
        await self.settle(
            op, call, lambda answer: {"revision": answer.revision, "found": answer.found, "node": answer.served.node}
        )

    async def pinned_step(self, node: Pinned, rng: random.Random) -> None:
        """A strong read that this node has to answer for, whoever leads."""
        timeout = rng.choice((1.0, 3.0, 8.0))
        op = self.invoke(f"{self.name}-at-{node.name}", "get", self.key(rng), timeout=timeout)

        def took(answer: Any) -> dict[str, Any]:
            if not answer.found:
                return {"found": False, "node": node.name}
            return {"found": True, "value": answer.value.decode(), "revision": answer.revision, "node": node.name}

        request = kv_pb2.GetRequest(key=op.key.encode(), consistency=kv_pb2.CONSISTENCY_STRONG)
        await self.settle(op, node.kv.Get(request, timeout=timeout), took, reads=True)

    async def finish(self, client: Client) -> None:
        """Every key of the run is read once more."""
        keys = dict.fromkeys(op.key for op in self.recorder.history.of(self.name))
        slots = asyncio.Semaphore(16)

        async def read(key: str) -> None:
            async def once() -> bool:
                return (await self.get(client, key, FINAL_TIMEOUT_S, final=True)).outcome is Outcome.OK

            async with slots:
                await self.retry_finally(once, f"a read of {key}")

        await asyncio.gather(*map(read, keys))

    @classmethod
    def check(cls, history: History) -> list[Failure]:
        """Order of revisions, then a linearization of each key."""
        operations = as_operations(history.of(cls.name), history.header["shards"])
        failures = [Failure(cls.name, "", one.rule, one.message) for one in check_revision_order(operations)]
        for report in check_linearizability(operations, steps_max=STEPS_MAX).failures:
            failures.append(Failure(cls.name, report.key.decode(), f"{report.verdict}", str(report)))
        return failures


def as_operations(ops: Iterable[Op], shards: int) -> list[Operation]:
    """As the simulator's checkers take them."""
    return [
        Operation(
            id=op.id,
            client=op.client,
            kind=Kind(op.op),
            key=op.key.encode(),
            value=None if op.value is None else op.value.encode(),
            expected=op.expected,
            invoked=op.invoked,
            invoked_at=op.invoked_at,
            answered=op.answered,
            answered_at=op.answered_at,
            outcome=op.outcome,
            revision=op.revision,
            found=op.found,
            shard=shard_of(op.key.encode(), shards),
            note=op.note,
        )
        for op in ops
    ]


class Register(_SingleKeys):
    """Blind puts and deletes, and reads."""

    name: ClassVar[str] = "register"

    async def step(self, client: Client) -> None:
        """One operation on one key."""
        rng = client.rng
        key, timeout, what = self.key(rng), client.timeout(), rng.random()
        if what < 0.4:
            await self.get(client, key, timeout)
        elif what < 0.85:
            await self.put(client, key, timeout)
        else:
            await self.delete(client, key, timeout)


class CompareAndSet(_SingleKeys):
    """Read, then write only if nobody else did."""

    name: ClassVar[str] = "cas"

    async def step(self, client: Client) -> None:
        """A read, and a conditional write of what it saw; now and then of what nobody saw."""
        rng = client.rng
        key, timeout = self.key(rng), client.timeout()
        read = await self.get(client, key, timeout)
        if read.outcome is not Outcome.OK:
            return
        expected = (read.revision or 0) if rng.random() < 0.95 else rng.randrange(1, 50)
        if rng.random() < 0.85:
            await self.put(client, key, timeout, expected)
        else:
            await self.delete(client, key, timeout, expected)
