"""Clients of a run that ask through the SDK: the real `kvclient`, on simulated connections, with virtual time.

Owns: what the SDK gets instead of the world outside (clock, randomness, channels), and the translation of the workloads'
requests into the SDK's public calls and of its results and errors back, so that every check of a plain client holds for it too.
Never: retries, or concludes anything from an error; that is the SDK's part, and what is tested.
"""

from __future__ import annotations

import contextvars
import os
import random
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

from kvapi.v1 import kv_pb2
from kvclient import AsyncClient, AsyncSession, Compare, Consistency, Delete, Get, Key, Operation, Put, Range, errors, parse_uri
from kvclient import types as sdk
from kvclient._backend import async_ as backend
from kvnode.errors import CompareFailed, KvnodeError

from .client import Client
from .network import Endpoint
from .wire import SimulatedChannel
from .world import World

LATE_S_MAX = 0.011
"""The SDK's timers for operations ring up to 10 ms late."""
SESSIONS_KEPT = 4

_asking: contextvars.ContextVar[Endpoint] = contextvars.ContextVar("simulated_sdk_endpoint")


class _Time:
    """`time`, as far as the SDK uses it."""

    def __init__(self, world: World) -> None:
        self.monotonic = self.time = world.loop.time


class _Os:
    """`os`, as far as the SDK uses it."""

    def __init__(self, world: World) -> None:
        self.urandom = world.loop.random("os.urandom").randbytes

    @staticmethod
    def getpid() -> int:
        return 1


@contextmanager
def simulated_sdk(world: World) -> Iterator[None]:
    """While it lasts the SDK lives in this world: its modules have its clock and randomness, and connect over its network."""
    names = {address: name for name, address in world.config.cluster.members.items()}

    def open_channel(target: str, transport: str) -> Any:
        return SimulatedChannel(world.network, _asking.get(), names[target], target)

    replaced: list[tuple[Any, str, Any]] = [(backend, "open_channel", backend.open_channel)]
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] == "kvclient":
            replaced += [(module, each.__name__, each) for each in (time, os) if vars(module).get(each.__name__) is each]
    simulated = {"time": _Time(world), "os": _Os(world), "open_channel": open_channel}
    try:
        for module, name, _ in replaced:
            setattr(module, name, simulated[name])
        yield
    finally:
        for module, name, before in replaced:
            setattr(module, name, before)


class ToldBySdk(KvnodeError):
    """An error of the SDK, for those who expect the servers'."""

    def __init__(self, error: errors.KvError) -> None:
        super().__init__(f"{type(error).__name__}: {error.message}", **error.metadata)
        self.definite = error.definite  # type: ignore[misc]


class SdkClient(Client):
    """Asks through the SDK. The others' `attempts` mean nothing here: `timeout` is for all that the SDK does."""

    def __init__(self, world: World, name: str, rng: random.Random, *others: Any) -> None:
        super().__init__(world, name, rng, *others)
        self._made = 0
        self._sessions: dict[bytes, AsyncSession] = {}
        self.kv = self._connect()

    def _connect(self) -> AsyncClient:
        self._made += 1
        rng = self.world.loop.random(f"sdk {self.name} {self._made}")
        addresses = list(self.world.config.cluster.members.values())
        endpoints = rng.sample(addresses, rng.randint(1, len(addresses)))
        return AsyncClient(parse_uri(f"kv://{','.join(endpoints)}?pipeline={rng.choice((1, 2, 2, 8))}"), None, rng)

    async def reconnect(self) -> None:
        """Closes the client, whatever it is doing, and makes another."""
        kv, self.kv = self.kv, self._connect()
        self._sessions.clear()
        await kv.close()

    def session(self, token: bytes) -> AsyncSession:
        """The session that has come to this token; or another that goes on from there."""
        return self._sessions.get(token) or self.kv.session(token)

    def _keep(self, session: AsyncSession) -> bytes:
        token = session.token
        self._sessions = {known: kept for known, kept in self._sessions.items() if kept is not session}
        self._sessions[token] = session
        while len(self._sessions) > SESSIONS_KEPT:
            del self._sessions[next(iter(self._sessions))]
        return token

    # ---- one operation ----------------------------------------------------------------------------------------------

    async def ask(self, request: Any, timeout: float, attempts: int = 1) -> Any:
        """As `Client.ask`."""
        return await self._through_sdk(request, timeout)

    async def write(self, request: Any, timeout: float, attempts: int = 1) -> Any:
        """As `Client.write`."""
        return await self._through_sdk(request, timeout)

    async def _through_sdk(self, request: Any, timeout: float) -> Any:
        calls: dict[type, Callable[[Any, float], Awaitable[Any]]] = {
            kv_pb2.GetRequest: self._get,
            kv_pb2.PutRequest: self._put,
            kv_pb2.DeleteRequest: self._delete,
            kv_pb2.TxnRequest: self._txn,
        }
        return await self.told(calls[type(request)](request, timeout), timeout, request)

    async def told(self, work: Awaitable[Any], timeout: float, request: object) -> Any:
        """What the SDK gives, in time. Raises `KvnodeError`."""
        world, started = self.world, self.world.loop.time()
        _asking.set(self.endpoint)
        try:
            return await work
        except errors.KvError as error:
            raise self.translated(error, request) from None
        finally:
            world.counts["SDK operations"] += 1
            late = world.loop.time() - started - timeout
            if late > LATE_S_MAX:
                world.violate("the SDK keeps the deadline", f"{self.name}: {late:.6f} s after {timeout} s: {request}")

    def translated(self, error: errors.KvError, request: object) -> KvnodeError:
        """The error, for those who expect the servers'."""
        if isinstance(error, errors.CompareFailed):
            return CompareFailed(error.message, revision=error.revision)
        wrong = error if not isinstance(error, errors.OutcomeUnknown) else error.cause
        if isinstance(wrong, (errors.InvalidArgument, errors.Unsupported, errors.InternalError)):
            self.world.violate("what the SDK asks is understood", f"{self.name}: {error!r}: {request}")
        return ToldBySdk(error)

    async def _get(self, request: kv_pb2.GetRequest, timeout: float) -> kv_pb2.GetResponse:
        level = Consistency(request.consistency)
        session = self.session(request.session) if request.session or level is Consistency.SESSION else None
        staleness = request.max_staleness_ms / 1000 if level is Consistency.BOUNDED else None
        result = await (session or self.kv).get_result(request.key, consistency=level, max_staleness=staleness, timeout=timeout)
        return get_response(result.value, result.served, self._keep(session) if session else b"")

    async def _put(self, request: kv_pb2.PutRequest, timeout: float) -> kv_pb2.PutResponse:
        key, value, kv = request.key, request.value, self.kv
        if request.consistency != kv_pb2.CONSISTENCY_EVENTUAL:
            if not request.HasField("if_revision"):
                result = await kv.put(key, value, timeout=timeout)
            elif self.rng.random() < 0.5:
                result = await kv.compare_and_set(key, value, request.if_revision, timeout=timeout)
            else:
                result = await kv.put(key, value, if_revision=request.if_revision, timeout=timeout)
            return put_response(result)
        session = self.session(request.session)
        result = await session.put(key, value, consistency="eventual", acks=request.acks or None, timeout=timeout)
        return put_response(result, self._keep(session))

    async def _delete(self, request: kv_pb2.DeleteRequest, timeout: float) -> kv_pb2.DeleteResponse:
        if request.consistency != kv_pb2.CONSISTENCY_EVENTUAL:
            return delete_response(await self.kv.delete(request.key, timeout=timeout))
        session = self.session(request.session)
        result = await session.delete(request.key, consistency="eventual", acks=request.acks or None, timeout=timeout)
        return delete_response(result, self._keep(session))

    async def _txn(self, request: kv_pb2.TxnRequest, timeout: float) -> kv_pb2.TxnResponse:
        session = self.session(request.session)
        txn = session.txn().if_(*map(_compare, request.compare))
        txn.then(*map(_operation, request.then)).else_(*map(_operation, request.otherwise))
        result = await txn.run(timeout=timeout)
        response = kv_pb2.TxnResponse(succeeded=result.succeeded, transaction_id=result.transaction_id)
        operations = request.then if result.succeeded else request.otherwise
        for operation, one in zip(operations, result.results, strict=True):
            response.results.append(_result(operation, one))
        response.served.extend(served(one) for one in result.served)
        response.served[-1].session = self._keep(session)
        return response


# ---- from the SDK's words to the protocol's ------------------------------------------------------------------------------


def served(one: sdk.Served, token: bytes = b"") -> kv_pb2.Served:
    """What was served."""
    level = 0 if one.consistency is None else int(one.consistency)
    fields = {"node": one.node, "role": int(one.role), "consistency": level, "shard": one.shard}
    return kv_pb2.Served(**fields, revision=one.revision, hlc=one.hlc, session=token)  # type: ignore[arg-type]


def get_response(value: sdk.Value | None, by: sdk.Served, token: bytes = b"") -> kv_pb2.GetResponse:
    """A read's answer."""
    response = kv_pb2.GetResponse(found=value is not None, served=served(by, token))
    if value is not None:
        response.value, response.revision, response.create_revision = value.value, value.revision, value.create_revision
        response.version, response.hlc, response.tentative = value.version, value.hlc, value.tentative
    return response


def put_response(result: sdk.PutResult, token: bytes = b"") -> kv_pb2.PutResponse:
    """A write's answer."""
    by = served(result.served, token)
    return kv_pb2.PutResponse(revision=result.revision, operation_id=result.operation_id, acks=result.acks, served=by)


def delete_response(result: sdk.DeleteResult, token: bytes = b"") -> kv_pb2.DeleteResponse:
    """A deletion's answer."""
    response = kv_pb2.DeleteResponse(found=result.found, revision=result.revision, operation_id=result.operation_id)
    response.acks = result.acks
    response.served.CopyFrom(served(result.served, token))
    return response


def _result(operation: kv_pb2.BatchOperation, result: Any) -> kv_pb2.BatchResult:
    kind = operation.WhichOneof("operation")
    if kind == "get":
        nobody = sdk.Served("", sdk.Role.UNSPECIFIED, None, 0, 0, 0, None)
        return kv_pb2.BatchResult(get=get_response(result, nobody if result is None else result.served))
    if kind == "put":
        return kv_pb2.BatchResult(put=put_response(result))
    if kind == "delete":
        return kv_pb2.BatchResult(delete=delete_response(result))
    response = kv_pb2.RangeResponse(next_page_token=result.next_page_token)
    for item in result.items:
        response.items.add(key=item.key, value=item.value, revision=item.revision, version=item.version)
    return kv_pb2.BatchResult(range=response)


def _compare(compare: kv_pb2.Compare) -> Compare:
    operand = compare.WhichOneof("operand")
    if operand == "exists":
        key = Key(compare.key)
        return key.exists() if compare.exists is (compare.operator != kv_pb2.COMPARE_OPERATOR_NOT_EQUAL) else key.absent()
    left: Any = getattr(Key(compare.key), operand or "")
    right = getattr(compare, operand or "")
    if compare.operator == kv_pb2.COMPARE_OPERATOR_NOT_EQUAL:
        return left != right  # type: ignore[no-any-return]
    if compare.operator == kv_pb2.COMPARE_OPERATOR_GREATER:
        return left > right  # type: ignore[no-any-return]
    if compare.operator == kv_pb2.COMPARE_OPERATOR_LESS:
        return left < right  # type: ignore[no-any-return]
    return left == right  # type: ignore[no-any-return]


def _operation(operation: kv_pb2.BatchOperation) -> Operation:
    if operation.HasField("put"):
        return Put(operation.put.key, operation.put.value)
    if operation.HasField("get"):
        return Get(operation.get.key)
    if operation.HasField("delete"):
        return Delete(operation.delete.key)
    return Range(prefix=operation.range.prefix)
