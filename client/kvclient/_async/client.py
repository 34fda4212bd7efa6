"""The client: routes operations, tries them again where that is safe, and keeps its map of the cluster fresh.

Owns the connections, the router, and the attempts of each operation. What may be retried is decided in `_retry`, where it goes
in `_routing`, how it is sent in `connection`.

Invariants:
- All attempts of an operation together keep its deadline.
- A strong write has its request id from before its first attempt until it has ended for good.
- At most one refresh of the map runs at a time, and no operation waits for one; only the first of all waits for the first map.
- A client stays on the event loop on which it was first used: connections cannot move.
- Cancelling any operation, at any point, leaves the client as usable as before.
"""

from __future__ import annotations

import random
import time
from types import TracebackType
from typing import Any

from opentelemetry.trace import TracerProvider

from kvapi.v1 import cluster_pb2, kv_pb2
from kvclient import _requests as requests
from kvclient import _retry, types
from kvclient._async.connection import Connection
from kvclient._async.operations import AsyncOperations
from kvclient._async.session import AsyncSession
from kvclient._backend import async_ as _backend
from kvclient._lane import Ticket
from kvclient._request_ids import RequestIds
from kvclient._requests import LOCATE, OPERATION, RANGE, TXN, TXN_READ_ONLY, Call
from kvclient._routing import Router
from kvclient._statistics import Counters
from kvclient._tracing import Recording, Tracing
from kvclient.errors import ClientClosed, DeadlineExceeded, KvError, SessionExpired, Unavailable
from kvclient.types import Bytes
from kvclient.uri import ClusterUri

REFRESH_S_MIN = 0.05
"""Between two refreshes of the map."""
REFRESH_TIMEOUT_S = 0.5
"""For one node to answer with its map."""
REFRESH_NODES_MAX = 3
"""Nodes that one refresh asks before it gives up; the next failure starts another."""


class AsyncClient(AsyncOperations):
    """A connection to a cluster: make one with `kvclient.connect` and share it.

    It connects with its first operation, or at once in `async with` or by `open`, so that a wrong address shows early.
    """

    def __init__(
        self, uri: ClusterUri, tracer_provider: TracerProvider | None = None, rng: random.Random | None = None
    ) -> None:
        self._uri = uri
        self._rng = rng or random.Random()
        self._router = Router(uri.endpoints, self._rng)
        self._tracing = Tracing(tracer_provider)
        self._connections: dict[str, Connection] = {}
        self._home = _backend.Home()
        self._mutex = _backend.Mutex()
        self._request_ids = RequestIds(_backend.Mutex())
        self._counters = Counters()
        self._opening = _backend.Gate(1)
        self._background = _backend.Background()
        self._refreshed_at = 0.0
        self._refreshing = False
        self._closed = False

    async def __aenter__(self) -> AsyncClient:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def open(self, *, timeout: float | None = None) -> None:
        """Connect and learn the cluster's map, unless that is done already. Raises `Unavailable`, `DeadlineExceeded`."""
        deadline = self.deadline_of(timeout)
        if self._router.map is None:
            try:
                await self._open(deadline)
            except BaseException:
                await self.close()
                raise

    async def close(self) -> None:
        """Close all connections. Operations that wait fail with `ClientClosed`, writes under way with `OutcomeUnknown`."""
        is_home_gone = self._home.is_gone()
        if not is_home_gone:
            self._home.check()
        with self._mutex:
            self._closed = True
            connections = list(self._connections.values())
            self._connections = {}
        if is_home_gone:
            return  # What ran there ended with it, and nobody waits.
        for connection in connections:
            await connection.close()
        await self._background.close()

    def session(self, token: bytes = b"") -> AsyncSession:
        """A session; with the `token` of another session, one that goes on from there."""
        return AsyncSession(self, token)

    async def locate(self, key: Bytes, *, timeout: float | None = None) -> types.Location:
        """Where `key` lives, as a node sees it now."""
        response = await self._execute(requests.locate_call(key), timeout)
        return types.Location(response.shard, response.leader, tuple(response.replicas), response.epoch)

    def statistics(self) -> types.Statistics:
        """How often the operations of this client ended how, and how long they took: all of them, also of its sessions,
        batches and transactions, since it was made."""
        return self._counters.statistics()

    def deadline_of(self, timeout: float | None) -> float:
        """When an operation that begins now must have ended, in monotonic seconds: after `timeout`, or the client's.

        Raises `InvalidArgument` for a wrong time-out, and on another event loop than the client's.
        """
        self._home.check()
        return time.monotonic() + (self._uri.timeout if timeout is None else requests.timeout_seconds(timeout))

    # One operation: its span, its attempts.

    async def _execute(self, call: Call, timeout: float | None) -> Any:
        return await self._execute_by(call, self.deadline_of(timeout))

    async def _execute_by(self, call: Call, deadline: float) -> Any:
        call.deadline = deadline
        call.recording = self._tracing.start(call)
        try:
            response = await self._attempts(call)
        except BaseException as error:
            self._on_end(call, error)
            raise
        self._on_end(call, None)
        return response

    def _on_end(self, call: Call, error: BaseException | None) -> None:
        if call.recording is not None:
            call.recording.end(call.attempts, error)
        self._counters.count(call, error)

    async def _attempts(self, call: Call) -> Any:
        recording = call.recording
        if self._router.map is None:
            await self._open(call.deadline, recording)
        if call.executes_once:
            self._request_ids.begin(call)
        attempt, not_this = 1, None
        last: KvError | None = None
        try:
            while True:
                now = time.monotonic()
                call.attempts = attempt
                if recording is not None:
                    recording.begin(attempt, self._router.shard_for(call))
                node = self._router.node_for(call, now, not_this)
                share = _retry.attempt_share(attempt, is_repeatable=call.is_repeatable)
                call.attempt_deadline = now + (call.deadline - now) * share
                try:
                    response = await self._connection_to(node).run(call)
                except KvError as error:
                    error.attempts = attempt
                    if recording is not None:
                        recording.settle(error)
                    pause = self._on_failure(call, node, error, attempt, now)
                    if pause is None:
                        final = _retry.final_error(error, last, in_doubt=call.in_doubt)
                        if final is error:
                            raise
                        raise final from final.__cause__
                    if pause:
                        if recording is not None:
                            recording.pause(error)
                        await _backend.sleep(pause)
                    last = error
                    attempt, not_this = attempt + 1, None if error.reason in _retry.SAME_NODE else node
                else:
                    self._on_answer(call, response)
                    return response
        finally:
            self._request_ids.end(call)

    async def _execute_many(self, calls: list[Call], timeout: float | None) -> list[Any | KvError]:
        return await self._execute_many_by(calls, self.deadline_of(timeout))

    async def _execute_many_by(self, calls: list[Call], deadline: float) -> list[Any | KvError]:
        recording = self._tracing.start_many(calls, time.monotonic())
        for call in calls:
            call.deadline, call.recording = deadline, recording
        results: dict[int, Any | KvError] = {}
        try:
            if self._router.map is None:
                await self._open(deadline, recording)
            for call in calls:
                if call.executes_once:
                    self._request_ids.begin(call)
            await self._attempts_of_many(calls, deadline, results)
        except BaseException as error:
            for index, call in enumerate(calls):
                if index not in results:
                    self._counters.count(call, error)
            if recording is not None:
                recording.end(max(call.attempts for call in calls), error)
            raise
        finally:
            for call in calls:
                self._request_ids.end(call)
        if recording is not None:
            failed = sum(isinstance(result, KvError) for result in results.values())
            if failed:
                recording.facts["kvnode.batch.failed"] = failed
            recording.end(max(call.attempts for call in calls), None)
        return [results[index] for index in range(len(calls))]

    async def _attempts_of_many(self, calls: list[Call], deadline: float, results: dict[int, Any | KvError]) -> None:
        """Fills `results`, by index, as they become final."""
        recording = calls[0].recording if calls else None
        pending = list(range(len(calls)))
        nodes: dict[int, str] = {}
        attempt = 1
        while pending:
            now = time.monotonic()
            if recording is not None:
                recording.begin(attempt, None)
            groups: dict[str, list[int]] = {}
            for index in pending:
                call = calls[index]
                call.attempts = attempt
                share = _retry.attempt_share(attempt, is_repeatable=call.is_repeatable)
                call.attempt_deadline = now + (deadline - now) * share
                nodes[index] = self._router.node_for(call, now, nodes.get(index))
                groups.setdefault(nodes[index], []).append(index)
            answers = await self._run_groups(calls, groups)
            if recording is not None:
                recording.settle()
            pause, paused_by = 0.0, None
            retried = []
            for index in pending:
                call, answer = calls[index], answers[index]
                if not isinstance(answer, KvError):
                    self._on_answer(call, answer)
                    self._counters.count(call, None)
                    results[index] = answer
                    continue
                answer.attempts = attempt
                wanted = self._on_failure(call, nodes[index], answer, attempt, now)
                if wanted is None:
                    final = results[index] = _retry.final_error(answer, None, in_doubt=call.in_doubt)
                    self._counters.count(call, final)
                    continue
                if answer.reason in _retry.SAME_NODE:
                    del nodes[index]
                if wanted > pause:
                    pause, paused_by = wanted, answer
                retried.append(index)
            pending = retried
            attempt += 1
            if paused_by is not None:
                if recording is not None:
                    recording.pause(paused_by)
                await _backend.sleep(pause)

    async def _run_groups(self, calls: list[Call], groups: dict[str, list[int]]) -> dict[int, Any | KvError]:
        """One attempt of many operations: all nodes at once, each node's operations together."""
        answers: dict[int, Any | KvError] = {}
        started: list[tuple[int, Connection, Ticket]] = []
        try:
            for node, indexes in groups.items():
                try:
                    connection = self._connection_to(node)
                except ClientClosed as closed:
                    for index in indexes:
                        answers[index] = closed
                    continue
                tickets = connection.start([calls[index] for index in indexes])
                started += [(index, connection, ticket) for index, ticket in zip(indexes, tickets, strict=True)]
            for index, connection, ticket in started:
                try:
                    answers[index] = await connection.wait(ticket)
                except KvError as error:
                    answers[index] = error
        except BaseException:
            for _, connection, ticket in started:
                connection.abandon(ticket)
            raise
        return answers

    # Learning from what comes back.

    def _on_answer(self, call: Call, response: Any) -> None:
        method = call.method
        if method is RANGE or method is OPERATION or method is LOCATE:
            return
        if method is TXN or method is TXN_READ_ONLY:
            for served in response.served:
                self._on_served(served)
        else:
            self._on_served(response.served)

    def _on_served(self, served: kv_pb2.Served) -> None:
        self._request_ids.on_clock(served.hlc)
        if self._router.on_served(served):
            self._refresh_soon()

    def _on_failure(self, call: Call, node: str, error: KvError, attempt: int, started: float) -> float | None:
        """Seconds to wait before the next attempt; None: there is none, the error is final."""
        now = time.monotonic()
        call.in_doubt = call.in_doubt or not error.definite
        if self._router.on_error(call, node, error, now, now - started):
            self._refresh_soon()
        if isinstance(error, SessionExpired) and self._request_ids.renew(call, error.clock):
            pause = 0.0
        elif _retry.may_retry(error, is_repeatable=call.is_repeatable, in_doubt=call.in_doubt):
            pause = _retry.pause_before(error, attempt, self._rng)
        else:
            return None
        if now + pause >= call.deadline:
            return None
        return pause

    # The map of the cluster.

    async def _open(self, deadline: float, recording: Recording | None = None) -> None:
        """Learn the map for the first time: ask node after node until one answers or the time is over."""
        if recording is not None:
            recording.open()
        if not await self._opening.enter(deadline):
            raise DeadlineExceeded(f"no answer from {', '.join(self._router.endpoints)}")
        try:
            attempt = 1
            failed: KvError = Unavailable("no node told its map of the cluster", definite=True)
            while self._router.map is None:
                for node in self._router.endpoints:
                    try:
                        if await self._fetch(node, min(deadline, time.monotonic() + self._uri.timeout / 2)):
                            return
                    except KvError as error:
                        if not _retry.may_retry(error, is_repeatable=True):
                            raise
                        failed = _retry.final_error(error, failed, in_doubt=False)
                pause = _retry.pause_before(failed, attempt + 1, self._rng)
                if time.monotonic() + pause >= deadline:
                    raise failed
                await _backend.sleep(pause)
                attempt += 1
        finally:
            self._opening.leave()

    def _refresh_soon(self) -> None:
        """Have a newer map fetched, while operations go on; nobody waits for it."""
        with self._mutex:
            too_soon = time.monotonic() - self._refreshed_at < REFRESH_S_MIN
            if self._refreshing or self._closed or too_soon:
                return
            self._refreshing = True
        self._ask(1, None)

    def _ask(self, attempt: int, not_this: str | None) -> None:
        """Ask a healthy node for its map, then another. Failing is no error: the old map still works, by one hop more."""
        node = self._router.health.nearest(self._router.nodes, time.monotonic(), not_this)

        def on_topology(topology: cluster_pb2.TopologyResponse | None, error: KvError | None) -> None:
            now = time.monotonic()
            if error is not None and not isinstance(error, ClientClosed):
                self._router.health.on_failure(node, now)
            is_taken = topology is not None and self._take(topology, now)
            if is_taken or attempt == REFRESH_NODES_MAX or self._closed:
                self._refreshed_at = now
                self._refreshing = False
            else:
                self._ask(attempt + 1, node)

        try:
            self._connection_to(node).ask_topology(REFRESH_TIMEOUT_S, on_topology)
        except ClientClosed:
            self._refreshing = False

    async def _fetch(self, node: str, deadline: float) -> bool:
        """Ask one node for its map; True: it was taken."""
        call = requests.topology_call()
        call.deadline = call.attempt_deadline = deadline
        topology = await self._connection_to(node).run(call)
        return self._take(topology, time.monotonic())

    def _take(self, topology: cluster_pb2.TopologyResponse, now: float) -> bool:
        self._request_ids.on_clock(topology.hlc)
        return self._router.load(topology, now)

    def _connection_to(self, node: str) -> Connection:
        connection = self._connections.get(node)
        if connection is None:
            with self._mutex:
                if self._closed:
                    raise ClientClosed("the client is closed", definite=True, node=node)
                connection = self._connections.get(node)
                if connection is None:
                    health = self._router.health.of(node)
                    connection = Connection(node, self._uri, health, self._background)
                    self._connections[node] = connection
        return connection
