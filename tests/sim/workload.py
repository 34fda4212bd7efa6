"""Clients: what they ask, what they are told, and what they may conclude from it.

Owns: the clients' tasks and the record of what they saw. Never: looks into a node; a client is outside, behind the network.

Three kinds of keys: `s…` get strong operations only (register and compare-and-set); `m…` get strong and eventual ones;
`p<client>…` belong to one session, which writes eventually and reads at session level.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of
from kvnode.errors import CompareFailed, KvnodeError

from .client import Client
from .history import EventualState, EventualWrite, History, Kind, Operation, Outcome
from .world import World

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
SESSION, BOUNDED = kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED

TIMEOUTS_S = (0.05, 0.5, 2.0, 5.0)
SESSION_KEYS = 3
"""Of each session."""


@dataclass
class Eventual:
    """An eventual write, from its client's side."""

    operation: Operation
    client: str
    operation_id: str = ""
    acks: int = 0
    number: int = 0
    """Of a session's own key: its place among the session's writes to the key, from 1."""


@dataclass
class SessionRead:
    """A session's read of its own key: which write it saw (0: none), and which it had to see at least."""

    key: bytes
    at: float
    expected: int
    seen: int
    tentative: bool
    node: str
    revision: int


class WeakRead(NamedTuple):
    """What an eventual, session or bounded read showed of a key that many write."""

    key: bytes
    value: bytes
    revision: int
    tentative: bool
    client: str


class Following(NamedTuple):
    """A session's eventual write to a key of which it had seen a version before."""

    write: Eventual
    seen_hlc: int


@dataclass
class Session:
    """One session's memory."""

    token: bytes = b""
    writes: dict[bytes, list[Eventual]] = field(default_factory=dict)
    acknowledged: dict[bytes, int] = field(default_factory=dict)
    revisions: dict[bytes, int] = field(default_factory=dict)
    clocks: dict[bytes, int] = field(default_factory=dict)
    """Of each key that others write too, the latest clock of a version that the session has seen."""

    def on_token(self, sent: bytes, received: bytes) -> None:
        """An answer's token covers the one that its request carried; what came in between is joined to it."""
        self.token = received if self.token == sent else self.token + received


class Workload:
    """All clients of a run."""

    def __init__(self, world: World, *, clients: int, pause_s_mean: float) -> None:
        self.world = world
        self.history = History(world.loop.time, lambda key: shard_of(key, world.config.cluster.shards))
        self.eventual: list[Eventual] = []
        self.session_reads: list[SessionRead] = []
        self.fates: list[tuple[Eventual, kv_pb2.OperationResponse]] = []
        """What was told of eventual writes' fates while they were under way."""
        self.weak_reads: list[WeakRead] = []
        self.following: list[Following] = []
        self.running = True
        self.finished = 0
        self.clients = clients
        self._pause_s_mean = pause_s_mean
        self._number = 0
        rng = world.loop.random("keys")
        self.strong_keys = [b"s%d" % i for i in range(rng.choice((2, 4, 8)))]
        self.mixed_keys = [b"m%d" % i for i in range(rng.choice((2, 4, 8)))]
        self.value_sizes = rng.choice(((8, 16), (16, 400), (300, 2000)))
        self.eventual_share = rng.choice((0.0, 0.3, 0.3, 0.6, 0.9))
        self._shares_keys = world.loop.random("shared sessions").random() < 0.4
        """Sessions also read and write keys that others write."""

    def start(self) -> None:
        """Begins to ask."""
        for number in range(self.clients):
            name = f"c{number + 1}"
            self.world.loop.create_task(self._run(name), name=name)

    async def stop(self) -> None:
        """Asks nothing new, and waits for the last answers."""
        self.running = False
        while self.finished < self.clients:
            await self.world.sleep(0.1)

    # ---- one client -------------------------------------------------------------------------------------------------

    async def _run(self, name: str) -> None:
        rng = self.world.loop.random(f"client {name}")
        client = Client(self.world, name, rng)
        session = Session()
        try:
            while self.running:
                await self.pause(rng)
                await self.step(client, session)
        finally:
            self.finished += 1

    async def pause(self, rng: random.Random) -> None:
        """Until a client does its next step."""
        await self.world.sleep(rng.expovariate(1 / self._pause_s_mean))

    async def step(self, client: Client, session: Session) -> None:
        """One thing that a client does."""
        rng = client.rng
        if rng.random() < 0.3:
            client.move()
        timeout = rng.choice(TIMEOUTS_S)
        if rng.random() >= self.eventual_share:
            await self.strong(client, timeout)
        elif rng.random() < 0.5:
            await self._mixed(client, timeout)
        else:
            await self.in_session(client, timeout, session)

    def value(self, rng: random.Random) -> bytes:
        """One that nobody else writes."""
        self._number += 1
        return b"%d." % self._number + b"x" * rng.randint(*self.value_sizes)

    async def strong(self, client: Client, timeout: float) -> None:
        """A strong operation, or two: a read, and what it leads to."""
        rng, name = client.rng, client.name
        key = rng.choice(self.strong_keys if rng.random() < 0.7 or not self.eventual_share else self.mixed_keys)
        what = rng.random()
        if what < 0.4:
            await self._get(client, key, timeout)
        elif what < 0.7:
            operation = self.history.invoke(name, Kind.PUT, key, value := self.value(rng))
            await self._write(operation, client, kv_pb2.PutRequest(key=key, value=value), timeout)
        elif what < 0.8:
            operation = self.history.invoke(name, Kind.DELETE, key)
            await self._write(operation, client, kv_pb2.DeleteRequest(key=key), timeout)
        else:
            read = await self._get(client, key, timeout)
            if read is None:
                return
            expected = (read.revision or 0) if read.found else 0
            operation = self.history.invoke(name, Kind.PUT, key, value := self.value(rng), expected=expected)
            request = kv_pb2.PutRequest(key=key, value=value, if_revision=expected)
            await self._write(operation, client, request, timeout)

    async def _get(self, client: Client, key: bytes, timeout: float) -> Operation | None:
        operation = self.history.invoke(client.name, Kind.GET, key)
        await self._conclude(operation, client.ask(kv_pb2.GetRequest(key=key, consistency=STRONG), timeout))
        return operation if operation.outcome is Outcome.OK else None

    async def _write(self, operation: Operation, client: Client, request: Any, timeout: float) -> None:
        # With a name it may be asked again and again, and is executed once all the same.
        named = client.rng.random() < 0.7
        attempt = client.write(request, timeout, client.rng.choice((1, 2, 5))) if named else client.ask(request, timeout)
        await self._conclude(operation, attempt)

    async def _conclude(self, operation: Operation, attempt: Awaitable[Any]) -> None:
        answer: Any = None
        try:
            answer = await attempt
        except KvnodeError as error:
            answer = error
        finally:
            self.conclude(operation, answer)

    def conclude(self, operation: Operation, answer: Any) -> None:
        """What an answer says: a response, an error, or None where the client did not wait for it."""
        if answer is None and operation.is_write:
            self.history.unknown(operation, "the client went away")
        elif answer is None or (isinstance(answer, KvnodeError) and not operation.is_write):
            self.history.fail(operation, type(answer).__name__)
        elif isinstance(answer, CompareFailed):
            self.history.compare_failed(operation, int(answer.metadata["revision"]))
        elif isinstance(answer, KvnodeError):
            note = f"{type(answer).__name__}: {answer.message}"
            if answer.definite:
                self.history.fail(operation, note)
            else:
                self.history.unknown(operation, note)
        elif operation.is_write:
            found = answer.found if operation.kind is Kind.DELETE else None
            self.history.ok(operation, revision=answer.revision, found=found)
        else:
            if answer.tentative:
                self.world.violate("a strong read shows nothing tentative", f"{operation.describe()} -> {answer}")
            self.history.ok(operation, found=answer.found, value=answer.value, revision=answer.revision)
        self._note(operation)

    # ---- eventual ---------------------------------------------------------------------------------------------------

    async def _mixed(self, client: Client, timeout: float) -> None:
        rng = client.rng
        key = rng.choice(self.mixed_keys)
        if rng.random() < 0.15:
            await self._ask_fate(client, timeout)
            return
        if rng.random() < 0.3:
            level = rng.choice((EVENTUAL, BOUNDED))
            request = kv_pb2.GetRequest(key=key, consistency=level)
            if level == BOUNDED:
                request.max_staleness_ms = rng.choice((1, 50, 1000))
            asked_at = self.world.loop.now
            try:
                response = await client.ask(request, timeout)
            except KvnodeError:
                return
            if level == BOUNDED:
                self.world.witness.staleness.check(request, response, asked_at)
                if response.tentative:
                    self.world.violate("a bounded read shows nothing tentative", str(response))
            if response.found:
                self.weak_reads.append(WeakRead(key, response.value, response.revision, response.tentative, client.name))
            return
        await self.put_eventually(client, key, None if rng.random() < 0.15 else self.value(rng), timeout, b"")

    async def _ask_fate(self, client: Client, timeout: float) -> None:
        """What became of one of the last eventual writes, whoever made it."""
        known = [write for write in self.eventual[-50:] if write.operation_id]
        if known:
            write = client.rng.choice(known)
            try:
                response = await Client.ask(client, kv_pb2.OperationRequest(operation_id=write.operation_id), timeout)
            except KvnodeError:
                return
            self.fates.append((write, response))

    async def put_eventually(
        self, client: Client, key: bytes, value: bytes | None, timeout: float, token: bytes
    ) -> tuple[Eventual, bytes | None]:
        """An eventual write, None deletes; also the session's new token, where there was an answer."""
        acks = client.rng.choice((0, 0, 1, 2, 3))
        acks = min(acks, self.world.config.cluster.replication_factor)
        operation = self.history.invoke(client.name, Kind.DELETE if value is None else Kind.PUT, key, value)
        write = Eventual(operation, client.name)
        self.eventual.append(write)
        request: Any
        if value is None:
            request = kv_pb2.DeleteRequest(key=key, consistency=EVENTUAL, acks=acks, session=token)
        else:
            request = kv_pb2.PutRequest(key=key, value=value, consistency=EVENTUAL, acks=acks, session=token)
        served = None
        try:
            response = await client.ask(request, timeout)
        except KvnodeError as error:
            operation.note = f"{type(error).__name__}: {error.message}"
            if error.definite:
                self.history.fail(operation, operation.note)
            write.operation_id = error.metadata.get("operation_id", "")
            if write.operation_id:
                write.acks = 1
        else:
            write.operation_id, write.acks, served = response.operation_id, response.acks, response.served.session
            if response.acks < max(acks, 1):
                self.world.violate("as many replicas hold it as asked", f"{operation.describe()}: {response.acks} of {acks}")
        shown = kind_of(operation) + f" eventual acks={write.acks} {write.operation_id} {operation.note}"
        self.world.note("", f"{client.name} -> {client.home}: {shown}")
        return write, served

    async def in_session(self, client: Client, timeout: float, session: Session, place: int | None = None) -> None:
        """A session's write or read of one of its own keys, of which only one at a time may be under way."""
        rng = client.rng
        if self._shares_keys and place is None and rng.random() < 0.5:
            await self._in_shared_session(client, timeout, session)
            return
        key = b"p%s.%d" % (client.name.encode(), rng.randrange(SESSION_KEYS) if place is None else place)
        own, sent = session.writes.setdefault(key, []), session.token
        if rng.random() < 0.5:
            write, served = await self.put_eventually(client, key, self.value(rng), timeout, sent)
            own.append(write)
            write.number = len(own)
            if served is not None:
                session.on_token(sent, served)
                session.acknowledged[key] = write.number
            return
        request = kv_pb2.GetRequest(key=key, consistency=SESSION, session=sent)
        try:
            response = await client.ask(request, timeout)
        except KvnodeError:
            return
        session.on_token(sent, response.served.session)
        seen = next((w.number for w in own if w.operation.value == response.value), -1) if response.found else 0
        read = SessionRead(
            key,
            self.world.loop.time(),
            session.acknowledged.get(key, 0),
            seen,
            response.tentative,
            response.served.node,
            response.revision,
        )
        self.session_reads.append(read)
        self.world.note("", f"{client.name} -> {client.home}: session {read}")
        if seen < 0:
            self.world.violate("a session's own key has its own values", f"{read}: {response.value[:20]!r}")
        if response.found and not response.tentative:
            before = session.revisions.get(key, 0)
            if response.revision < before:
                self.world.violate("session reads are monotonic", f"{read} after revision {before}")
            session.revisions[key] = response.revision

    async def _in_shared_session(self, client: Client, timeout: float, session: Session) -> None:
        """A session's read or write of a key that others write too: it never goes back, and its writes follow its reads."""
        rng, sent = client.rng, session.token
        key = rng.choice(self.mixed_keys)
        if rng.random() < 0.4:
            seen_hlc = session.clocks.get(key, 0)
            write, served = await self.put_eventually(client, key, self.value(rng), timeout, sent)
            self.following.append(Following(write, seen_hlc))
            if served is not None:
                session.on_token(sent, served)
            return
        try:
            response = await client.ask(kv_pb2.GetRequest(key=key, consistency=SESSION, session=sent), timeout)
        except KvnodeError:
            return
        session.on_token(sent, response.served.session)
        self.world.counts["session reads of shared keys"] += 1
        if not response.found:
            return
        self.weak_reads.append(WeakRead(key, response.value, response.revision, response.tentative, client.name))
        session.clocks[key] = max(session.clocks.get(key, 0), response.hlc)
        if not response.tentative:
            before = session.revisions.get(key, 0)
            if response.revision < before:
                self.world.violate("session reads are monotonic", f"{client.name}: {key!r} after revision {before}: {response}")
            session.revisions[key] = max(before, response.revision)

    def _note(self, operation: Operation) -> None:
        self.world.note("", f"{operation.client}: {operation.key!r} {kind_of(operation)} -> {operation.answer()[:120]}")

    # ---- the end ----------------------------------------------------------------------------------------------------

    def outcome_of(self, write: Eventual) -> EventualWrite:
        """What became of an eventual write, as the log says."""
        world, operation = self.world, write.operation
        acknowledged = write.acks > 0
        if write.operation_id in world.witness.superseded:
            place, by = world.witness.superseded[write.operation_id]
            return EventualWrite(write.operation_id, operation.key, acknowledged, EventualState.SUPERSEDED, place, by)
        revision = 0
        if write.operation_id:
            shard = operation.shard
            for index, applied in world.witness.applied.get(shard, {}).items():
                if any(a.operation_id == write.operation_id for a in applied):
                    revision = index
        if revision:
            return EventualWrite(write.operation_id, operation.key, acknowledged, EventualState.APPLIED, revision)
        return EventualWrite(write.operation_id, operation.key, acknowledged, EventualState.UNKNOWN)


def kind_of(operation: Operation) -> str:
    """The request in words, short."""
    value = b"" if operation.value is None or operation.kind is Kind.GET else operation.value[:8]
    expected = "" if operation.expected is None else f" if {operation.expected}"
    return f"{operation.kind} {value!r}{expected}"
