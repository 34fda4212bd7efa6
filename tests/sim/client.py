"""A client as an SDK makes it: every strong write has a name, and is asked again, elsewhere, until it is answered.

Owns: the names of requests, what has been acknowledged, and what may be concluded from several attempts (two_phase_commit.md,
"Exactly once"). Never: gives a request a new name while an earlier attempt may have been executed under the old one.

Now and then an attempt is sent twice at once, to two nodes, or once more long after it was answered: whoever gets an answer
gets the same one.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass, field
from typing import Any

from kvapi.v1 import kv_pb2
from kvnode.errors import CompareFailed, InvalidRequest, KvnodeError, OutcomeUnknown, SessionExpired, Unavailable
from kvnode.runtime.transport import PeerUnreachable

from .world import World


@dataclass
class _Naming:
    """Whose writes these are, as far as the servers know."""

    session: bytes
    sequence: int = 0
    under_way: dict[int, None] = field(default_factory=dict)


class Client:
    """Asks, and asks again. Errors are `KvnodeError`s, of which `definite` says what may be concluded."""

    def __init__(self, world: World, name: str, rng: random.Random) -> None:
        self.world, self.name, self.rng = world, name, rng
        self.endpoint = world.network.endpoint(name)
        self.home = rng.choice(list(world.nodes))
        self._naming = _Naming(rng.randbytes(16))
        self._clock = 0

    def move(self) -> str:
        """Another node to ask, perhaps."""
        self.home = self.rng.choice(list(self.world.nodes))
        return self.home

    async def ask(self, request: Any, timeout: float, attempts: int = 1) -> Any:
        """Asks without a name: several times only what changes nothing."""
        for attempt in range(attempts):
            (answer,) = await self._attempt(request, timeout, 1)
            if not isinstance(answer, Exception):
                return self._heard(answer)
            if attempt + 1 < attempts:
                await self._back_off()
        raise _refusal(answer)

    async def write(self, request: Any, timeout: float, attempts: int = 1) -> Any:
        """Asks for a strong put, delete or transaction, which is executed once at most."""
        naming, doubt = self._naming, ""
        name = self._name(naming, self._clock)
        for attempt in range(attempts):
            request.request.CopyFrom(name)
            answers = await self._attempt(request, timeout, 2 if self.rng.random() < 0.1 else 1)
            executed = [answer for answer in answers if isinstance(answer, CompareFailed) or not isinstance(answer, Exception)]
            if executed:
                self._check_same(request, executed)
                if self.rng.random() < 0.1:
                    self.world.loop.create_task(self._straggle(request, executed[0]), name=f"{self.name}: straggler")
                naming.under_way.pop(name.sequence)
                if isinstance(executed[0], CompareFailed):
                    raise executed[0]
                return self._heard(executed[0])
            doubt = next((f"{answer!r}" for answer in answers if not _is_definite(answer)), doubt)
            expired = next((answer for answer in answers if isinstance(answer, SessionExpired)), None)
            if expired is not None:
                if doubt:
                    break
                naming.under_way.pop(name.sequence)
                naming = self._naming = _Naming(self.rng.randbytes(16))
                name = self._name(naming, int(expired.metadata["clock"]))
                self.world.counts["requests named anew"] += 1
            if attempt + 1 < attempts:
                await self._back_off()
        naming.under_way.pop(name.sequence)
        raise OutcomeUnknown(doubt) if doubt else _refusal(answers[0])

    def _name(self, naming: _Naming, started: int) -> kv_pb2.RequestId:
        naming.sequence += 1
        naming.under_way[naming.sequence] = None
        acknowledged = min(naming.under_way) - 1
        return kv_pb2.RequestId(session=naming.session, sequence=naming.sequence, acknowledged=acknowledged, started=started)

    async def _attempt(self, request: Any, timeout: float, copies: int) -> list[Any]:
        nodes = [self.home, *(self.move() for _ in range(copies - 1))]
        calls = (self.endpoint.forward(node, request, timeout, 0) for node in nodes)
        answers = await asyncio.gather(*calls, return_exceptions=True)
        for answer in answers:
            if isinstance(answer, InvalidRequest):
                self.world.violate("what clients ask is valid", f"{self.name}: {answer}: {request}")
            if isinstance(answer, BaseException) and not isinstance(answer, (KvnodeError, PeerUnreachable)):
                raise answer
        return answers

    async def _straggle(self, request: Any, answer: Any) -> None:
        """A copy that was long on its way: it changes nothing any more."""
        await self.world.sleep(self.rng.uniform(0.0, 3.0))
        (late,) = await self._attempt(request, 2.0, 1)
        if isinstance(late, CompareFailed) or not isinstance(late, Exception):
            self._check_same(request, [answer, late])
        self.world.counts["stragglers"] += 1

    async def _back_off(self) -> None:
        self.world.counts["attempts repeated"] += 1
        await self.world.sleep(self.rng.uniform(0.0, 0.1))
        if self.rng.random() < 0.5:
            self.move()

    def _heard(self, response: Any) -> Any:
        served = response.served if hasattr(response.served, "hlc") else max(response.served, key=lambda s: s.hlc, default=None)
        self._clock = max(self._clock, served.hlc if served is not None else 0)
        return response

    def _check_same(self, request: Any, answers: list[Any]) -> None:
        told = [_told(answer) for answer in answers]
        if any(other != told[0] for other in told):
            name = f"{request.request.session.hex()[:8]}.{request.request.sequence}"
            self.world.violate("one request, one answer", f"{self.name}: {name}, {type(request).__name__}: {told}")


def _is_definite(answer: Any) -> bool:
    return answer.refused if isinstance(answer, PeerUnreachable) else answer.definite


def _refusal(answer: KvnodeError | PeerUnreachable) -> KvnodeError:
    """What an application is told of its last attempt."""
    if isinstance(answer, KvnodeError):
        return answer
    return Unavailable(str(answer)) if answer.refused else OutcomeUnknown(str(answer))


def _told(answer: Any) -> Any:
    """What must be the same in all answers to one request."""
    if isinstance(answer, CompareFailed):
        return "compare failed", answer.metadata["revision"]
    if isinstance(answer, kv_pb2.TxnResponse):
        return answer.succeeded, list(answer.results)
    return answer.revision, answer.found if isinstance(answer, kv_pb2.DeleteResponse) else None
