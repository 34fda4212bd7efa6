"""Eventual writes: each acknowledged one takes effect, or is reported superseded, and in the end all replicas show the same.

Between them strong reads of the same keys, which must never show a write that was refused or superseded, nor go back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from typing import Any, ClassVar

import grpc

import kvclient
from kvapi.v1 import kv_pb2
from kvclient import OperationState
from kvclient.hashing import shard_of
from tests.sim.history import Kind, Operation, Outcome, check_revision_order

from .record import History, Op, Recorder
from .workload import FINAL_TIMEOUT_S, Client, Failure, Pinned, Workload

KEYS = 3
SETTLED_S_MAX = 30.0
"""After all is healed, until the last acknowledged write has its place."""
_ENDED = (OperationState.APPLIED, OperationState.SUPERSEDED, OperationState.SETTLED)
_KNOWN = (str(OperationState.APPLIED), str(OperationState.SUPERSEDED))


async def ask_fates(workload: Workload, client: Client) -> None:
    """What became of every acknowledged put of a workload; each is asked until there is a last word. Recorded as `fate`."""
    writes = [op for op in workload.recorder.history.of(workload.name) if op.op == "put" and op.outcome is Outcome.OK]
    slots = asyncio.Semaphore(16)
    loop = asyncio.get_running_loop()

    async def ask(operation_id: str, deadline: float) -> kvclient.OperationResult:
        while True:
            try:
                fate = await client.kv.operation(operation_id, timeout=5)
            except kvclient.KvError:
                if loop.time() > deadline:
                    raise
            else:
                if fate.state in _ENDED or loop.time() > deadline:
                    return fate
            await asyncio.sleep(0.1)

    async def one(write: Op) -> None:
        async with slots:
            op = workload.invoke(client.name, "fate", write.key, write.value, final=True, timeout=SETTLED_S_MAX)
            await workload.settle(op, ask(write.more["operation_id"], loop.time() + SETTLED_S_MAX), _told, reads=True)

    await asyncio.gather(*map(one, writes))


async def ask_fate(workload: Workload, client: Client, write: Op) -> None:
    """What is known of an acknowledged put now."""
    timeout = client.timeout()
    op = workload.invoke(client.name, "fate", write.key, write.value, timeout=timeout)
    await workload.settle(op, client.kv.operation(write.more["operation_id"], timeout=timeout), _told, reads=True)


def _told(fate: kvclient.OperationResult) -> dict[str, Any]:
    more = {"state": str(fate.state), "reason": str(fate.reason), "superseded_by": fate.superseded_by}
    return {"revision": fate.revision or None, "node": fate.served.node, "more": more}


def fates_of(ops: Iterable[Op]) -> tuple[dict[str, Op], list[tuple[Op, Op]]]:
    """Value -> the answer that says most about its write; and answers that contradict each other."""
    fates: dict[str, Op] = {}
    contradictory = []
    for op in ops:
        if op.op != "fate" or op.outcome is not Outcome.OK:
            continue
        known = fates.get(op.value)
        is_lost = op.final and op.more["state"] not in map(str, _ENDED)
        if known is None or known.more["state"] not in _KNOWN or is_lost:
            fates[op.value] = op
        elif op.more["state"] in _KNOWN and (op.more["state"], op.revision) != (known.more["state"], known.revision):
            contradictory.append((known, op))
    return fates, contradictory


class Eventual(Workload):
    """Eventual puts, strong reads."""

    name: ClassVar[str] = "eventual"
    pause_s_mean: ClassVar[float] = 0.05

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._written: dict[str, Op] = {}
        """Client -> its last acknowledged write."""

    async def step(self, client: Client) -> None:
        """Mostly a write; also reads, and questions what became of a write, which nodes know only for some time."""
        key, timeout = f"eventual/{self.rotation.next()}/{client.rng.randrange(KEYS)}", client.timeout()
        what = client.rng.random()
        if what < 0.2:
            await self._get(client, key, timeout)
            return
        if what < 0.4 and (written := self._written.get(client.name)):
            await ask_fate(self, client, written)
            return
        acks = client.rng.choice((1, 1, 1, 2))
        op = self.invoke(client.name, "put", key, client.unique(), timeout=timeout, more={"acks": acks})

        def took(answer: kvclient.PutResult) -> dict[str, Any]:
            return {"node": answer.served.node, "more": {"acks": answer.acks, "operation_id": answer.operation_id}}

        call = client.kv.put(key, op.value, consistency="eventual", acks=acks, timeout=timeout)
        if await self.settle(op, call, took) is not None:
            self._written[client.name] = op

    async def _get(self, client: Client, key: str, timeout: float, *, final: bool = False) -> Op:
        op = self.invoke(client.name, "get", key, timeout=timeout, final=final)

        def took(answer: kvclient.GetResult) -> dict[str, Any]:
            value, node = answer.value, answer.served.node
            if value is None:
                return {"found": False, "node": node}
            more = {"tentative": value.tentative}
            return {"found": True, "value": value.text, "revision": value.revision, "node": node, "more": more}

        await self.settle(op, client.kv.get_result(key, timeout=timeout), took, reads=True)
        return op

    # ---- the end --------------------------------------------------------------------------------------------------------

    async def learn_fates(self, client: Client) -> None:
        """What became of every acknowledged write."""
        await ask_fates(self, client)

    async def finish(self, client: Client) -> None:
        """Every key, strongly, and as each node shows it."""
        slots = asyncio.Semaphore(16)

        async def look(key: str) -> None:
            async def once() -> bool:
                return (await self._get(client, key, FINAL_TIMEOUT_S, final=True)).outcome is Outcome.OK

            async with slots:
                await self.retry_finally(once, f"a read of {key}")
                for node in self.nodes:
                    await self.retry_finally(lambda node=node: self._look_at(node, key), f"{key} at {node.name}")  # type: ignore[misc]

        await asyncio.gather(*map(look, dict.fromkeys(op.key for op in self.recorder.history.of(self.name))))

    async def _look_at(self, node: Pinned, key: str) -> bool:
        op = self.invoke(f"eventual-at-{node.name}", "look", key, final=True, timeout=FINAL_TIMEOUT_S)
        request = kv_pb2.GetRequest(key=key.encode(), consistency=kv_pb2.CONSISTENCY_EVENTUAL)

        def took(answer: Any) -> dict[str, Any]:
            value = answer.value.decode() if answer.found else None
            more = {"tentative": answer.tentative, "served_by": answer.served.node}
            return {"found": answer.found, "value": value, "revision": answer.revision or None, "node": node.name, "more": more}

        call: grpc.aio.UnaryUnaryCall[Any, Any] = node.kv.Get(request, timeout=FINAL_TIMEOUT_S)
        return await self.settle(op, call, took, reads=True) is not None

    # ---- the judgement --------------------------------------------------------------------------------------------------

    @classmethod
    def check(cls, history: History) -> list[Failure]:
        """Fates, strong reads, and the last state, key by key."""
        keys: dict[str, list[Op]] = {}
        for op in history.of(cls.name):
            keys.setdefault(op.key, []).append(op)
        failures = []
        for key, ops in keys.items():
            failures += _check_key(key, ops)
            reads = [_as_read(op, history.header["shards"]) for op in ops if op.op == "get"]
            failures += [Failure(cls.name, key, one.rule, one.message) for one in check_revision_order(reads)]
        return failures


def _as_read(op: Op, shards: int) -> Operation:
    key = op.key.encode()
    value = op.value.encode() if op.value is not None else None
    return Operation(
        op.id, op.client, Kind.GET, key, value, None, op.invoked, op.invoked_at, op.answered, op.answered_at, op.outcome,
        op.revision, op.found, shard_of(key, shards), op.note,
    )  # fmt: skip


def _check_key(key: str, ops: list[Op]) -> list[Failure]:
    failures = []
    puts = {op.value: op for op in ops if op.op == "put"}
    fates, contradictory = fates_of(ops)
    placed: dict[int, str] = {}
    """Revision -> the write that was applied there."""

    def fail(rule: str, *involved: object) -> None:
        failures.append(Failure("eventual", key, rule, "\n  ".join(map(str, involved))))

    for before, after in contradictory:
        fail("a fate is final", puts[before.value], before, after)
    for value, put in puts.items():
        if put.outcome is not Outcome.OK:
            continue
        fate = fates.get(value)
        state = "not told" if fate is None else fate.more["state"]
        if state not in [str(ended) for ended in _ENDED]:
            fail("an acknowledged eventual write is applied or superseded", put, f"its state is {state}")
        elif fate is not None and state == str(OperationState.APPLIED) and fate.revision:
            other = placed.setdefault(fate.revision, value)
            if other != value:
                fail("one revision has one value", put, puts[other], f"both applied at revision {fate.revision}")
    for read in ops:
        if read.op not in ("get", "look") or read.outcome is not Outcome.OK or not read.found:
            continue
        write, fate = puts.get(read.value), fates.get(read.value)
        tentative = read.more.get("tentative", False)
        if tentative and (read.op == "get" or read.final):
            fail("nothing tentative in strong reads, nor once all is settled", read)
        if write is None or write.invoked > (read.answered or 0):
            fail("what is read was written by somebody", read)
        elif write.outcome is Outcome.FAILED:
            fail("what was definitely refused did happen", write, read)
        elif fate is not None and fate.more["state"] == str(OperationState.SUPERSEDED):
            fail("a superseded write has no effect", fate, read)
        elif fate is not None and fate.more["state"] == str(OperationState.APPLIED) and fate.revision != read.revision:
            fail("applied once, where it was said", fate, read)
    last = [op for op in ops if op.final and op.op in ("get", "look") and op.outcome is Outcome.OK]
    for one in last:
        if (one.value, one.revision) != (last[0].value, last[0].revision):
            fail("replicas converge", last[0], one)
        if placed and (one.revision or 0) < max(placed):
            fail("the last state has every applied write", one, f"{placed[max(placed)]} was applied at {max(placed)}")
    return failures
