"""Sessions: each reads its own writes and never goes back, from whichever replica, whatever happened in between.

A client writes its own keys eventually, one write after the other, so that the writes of a key are numbered. A read must show
the last acknowledged or seen one, or a later one. An earlier one, or none, is right where the missed write was superseded; an
earlier one also where the missed write was applied, and then replaced before what was read.
"""

from __future__ import annotations

from typing import Any, ClassVar

import kvclient
from kvapi.v1 import kv_pb2
from kvclient import OperationState
from tests.sim.history import Outcome

from .eventual import ask_fate, ask_fates, fates_of
from .faults import Clock
from .record import History, Op, Recorder
from .workload import Client, Failure, Pinned, Workload

KEYS = 2
"""Of each client at a time."""


class Sessions(Workload):
    """Eventual puts and session reads of a client's own keys."""

    name: ClassVar[str] = "session"
    clients: ClassVar[int] = 2
    pause_s_mean: ClassVar[float] = 0.05

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self._written: dict[str, Op] = {}
        """Client -> its last acknowledged write."""
        self._tokens: dict[str, tuple[int, bytes]] = {}
        """Client -> generation, and all that its session has seen."""

    async def step(self, client: Client) -> None:
        """A write, or a read of what was written. A new generation of keys has a new session."""
        generation = self.rotation.next()
        known, token = self._tokens.get(client.name, (-1, b""))
        session = client.kv.session(token if known == generation else b"")
        key, timeout = f"session/{client.name}/{generation}/{client.rng.randrange(KEYS)}", client.timeout()
        what = client.rng.random()
        if what < 0.15 and (written := self._written.get(client.name)):
            await ask_fate(self, client, written)
            return
        if what < 0.6:
            op = self.invoke(client.name, "put", key, client.unique(), timeout=timeout)

            def put(answer: kvclient.PutResult) -> dict[str, Any]:
                return {"node": answer.served.node, "more": {"operation_id": answer.operation_id}}

            if await self.settle(op, session.put(key, op.value, consistency="eventual", timeout=timeout), put) is not None:
                self._written[client.name] = op
            self._tokens[client.name] = generation, session.token
            return
        if client.rng.random() < 0.3:
            token = await self._get(client, session, key, timeout)
        else:
            token = await self._get_at(client, client.rng.choice(self.nodes), session.token, key, timeout)
        self._tokens[client.name] = generation, token

    async def _get(self, client: Client, session: kvclient.AsyncSession, key: str, timeout: float) -> bytes:
        """A read at the nearest replica, mostly the one that took the write; returns the token."""
        op = self.invoke(client.name, "get", key, timeout=timeout)

        def got(answer: kvclient.GetResult) -> dict[str, Any]:
            value, node = answer.value, answer.served.node
            if value is None:
                return {"found": False, "node": node}
            more = {"tentative": value.tentative}
            return {"found": True, "value": value.text, "revision": value.revision, "node": node, "more": more}

        await self.settle(op, session.get_result(key, timeout=timeout), got, reads=True)
        return session.token

    async def _get_at(self, client: Client, node: Pinned, token: bytes, key: str, timeout: float) -> bytes:
        """A read at any node, which may be behind and must not show it; returns the token."""
        op = self.invoke(client.name, "get", key, timeout=timeout)
        request = kv_pb2.GetRequest(key=key.encode(), consistency=kv_pb2.CONSISTENCY_SESSION, session=token)

        def got(answer: Any) -> dict[str, Any]:
            served = {"node": answer.served.node, "note": f"asked at {node.name}"}
            if not answer.found:
                return {"found": False, **served}
            more = {"tentative": answer.tentative}
            return {"found": True, "value": answer.value.decode(), "revision": answer.revision, "more": more, **served}

        answer = await self.settle(op, node.kv.Get(request, timeout=timeout), got, reads=True)
        return token if answer is None else answer.served.session

    async def learn_fates(self, client: Client) -> None:
        """What became of every acknowledged write: it decides whether one may have been missed."""
        await ask_fates(self, client)

    async def finish(self, client: Client) -> None:
        """Nothing: what a session saw while things broke is what counts."""

    @classmethod
    def check(cls, history: History) -> list[Failure]:
        """Each key is of one client, whose operations follow one another."""
        keys: dict[str, list[Op]] = {}
        for op in history.of(cls.name):
            keys.setdefault(op.key, []).append(op)
        is_clock_wrong = Clock.kind in history.header["faults"]
        return [failure for key, ops in keys.items() for failure in _check_key(key, ops, is_clock_wrong=is_clock_wrong)]


def _check_key(key: str, ops: list[Op], *, is_clock_wrong: bool) -> list[Failure]:
    failures = []
    puts = {op.value: op for op in ops if op.op == "put"}
    fates, contradictory = fates_of(ops)
    for before, after in contradictory:
        failures.append(Failure("session", key, "a fate is final", f"{before}\n  {after}"))
    floor = ""
    """The value that the session has written or seen last."""
    for op in ops:
        if op.outcome is not Outcome.OK or op.op not in ("put", "get"):
            continue
        if op.op == "put":
            floor = op.value
            continue
        write = puts.get(op.value) if op.found else None
        if op.found and write is None:
            failures.append(Failure("session", key, "what is read was written by somebody", str(op)))
            continue
        if write is not None and write.outcome is Outcome.FAILED:
            rule = "what was definitely refused did happen"
            failures.append(Failure("session", key, rule, f"{write}\n  {op}"))
            continue
        if floor and (write is None or write.invoked < puts[floor].invoked):
            if not _may_be_missed(op, puts[floor], fates.get(floor), is_clock_wrong=is_clock_wrong):
                message = f"{puts[floor]}\n  {fates.get(floor, 'its fate is not known')}\n  {op}"
                failures.append(Failure("session", key, "a session reads its writes and never goes back", message))
        elif write is not None:
            floor = op.value
    return failures


def _may_be_missed(read: Op, write: Op, fate: Op | None, *, is_clock_wrong: bool) -> bool:
    """Whether the write's fate explains that the read did not show it."""
    if fate is None:
        return write.outcome is not Outcome.OK  # seen, but never acknowledged: nobody can be asked for its fate
    if fate.more["state"] in (str(OperationState.SUPERSEDED), str(OperationState.SETTLED)):
        return True
    if not read.found:
        return False  # it took effect, and nobody deletes
    if read.more["tentative"]:
        # It may lose yet; only clocks that are too far apart let an earlier write of the session look like the later one.
        return is_clock_wrong
    return bool(fate.revision) and (read.revision or 0) >= (fate.revision or 0)
