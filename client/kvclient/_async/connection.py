"""One node: its channel, its lane, and the calls that carry operations to it.

Owns sending and the meaning of what comes back. Never retries, never chooses a node.

Invariants:
- A slot that was taken is released, whatever happens to the caller.
- Every ticket gets its answer or its error once; a caller that left takes nobody with it.
- A write whose caller stops waiting after it was sent is an `OutcomeUnknown`, before that a definite error.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import grpc

from kvapi.v1 import cluster_pb2_grpc, kv_pb2, kv_pb2_grpc
from kvclient import _tracing
from kvclient._backend import async_ as _backend
from kvclient._backend.channels import ChannelClosed
from kvclient._health import NodeHealth
from kvclient._lane import DONE, QUEUED_MAX, Lane, Ticket
from kvclient._requests import BATCH, GET, Call, topology_call
from kvclient._status import error_from, failure_of_call, failure_of_operation, unknown
from kvclient._tracing import Departure, Place
from kvclient.errors import ClientClosed, DeadlineExceeded, InternalError, KvError, NotSentInTime, Overloaded
from kvclient.uri import ClusterUri


class Connection:
    """Carries operations to one node."""

    def __init__(self, address: str, settings: ClusterUri, health: NodeHealth, background: _backend.Background) -> None:
        self.address = address
        self._place = Place(address)
        self._health = health
        self._background = background
        self._mutex = _backend.Mutex()
        self._alarm = _backend.Alarm()
        self._lane = Lane(settings.pipeline)
        self._closed = False
        self._channel = _backend.open_channel(address, settings.transport)
        stubs: dict[str, Any] = {
            "kvapi.v1.KV": kv_pb2_grpc.KVStub(self._channel),
            "kvapi.v1.Cluster": cluster_pb2_grpc.ClusterStub(self._channel),
        }
        self._stubs = stubs
        self._batch = stubs[BATCH.service].Batch

    async def run(self, call: Call) -> Any:
        """Carry one operation; returns its response message. Raises `KvError`."""
        if not call.method.batched:
            return await self._send_alone(call)
        ticket = Ticket(call)
        with self._mutex:
            batches = self._lane.offer((ticket,))
            if not batches:
                ticket.offered = time.monotonic()
                ticket.outcome = _backend.Outcome(self._alarm)
        if batches:  # A slot was free, so nothing was queued: it goes out by itself, at once.
            try:
                return await self._send_alone(call)
            finally:
                self._release()
        if batches is None:
            raise self._too_many(call)
        return await self.wait(ticket)

    def start(self, calls: Sequence[Call]) -> list[Ticket]:
        """Begin to carry many; `wait` for each ticket, or `abandon` it. Those that cannot be queued fail at once."""
        tickets = [Ticket(call, _backend.Outcome(self._alarm)) for call in calls]
        with self._mutex:
            batches = None if self._closed else self._lane.offer(tickets)
        if batches is None:
            for ticket in tickets:
                call = ticket.call
                ticket.error = self._closed_error(call, False) if self._closed else self._too_many(call)
                self._wake(ticket)
            return tickets
        now = time.monotonic()
        for ticket in tickets:
            ticket.offered = now
        for batch in batches:
            self._start(batch)
        return tickets

    async def wait(self, ticket: Ticket) -> Any:
        """The response message of a queued operation, until its deadline. Raises `KvError`."""
        try:
            await ticket.outcome.wait(ticket.call.attempt_deadline)
        finally:
            withdrawn = self.abandon(ticket)
        if ticket.state != DONE:
            call = ticket.call
            if withdrawn:
                raise NotSentInTime("time ran out before the operation was sent", key=call.key, node=self.address)
            late = DeadlineExceeded("no answer in time", key=call.key, node=self.address)
            raise unknown(late) if call.method.is_write else late
        if ticket.error is not None:
            raise ticket.error
        return ticket.response

    def abandon(self, ticket: Ticket) -> bool:
        """Nobody waits for it any more. True: it was not sent and will not be."""
        with self._mutex:
            is_withdrawn = self._lane.withdraw(ticket)
        if is_withdrawn:
            ticket.call.queued_s += time.monotonic() - ticket.offered
        return is_withdrawn

    def ask_topology(self, timeout: float, on_topology: Callable[[Any, KvError | None], None]) -> None:
        """Ask for the cluster's map without waiting; `on_topology(topology, error)` follows, with one of them None."""
        call = topology_call()

        def on_done(response: Any, error: Exception | None) -> None:
            on_topology(response, None if error is None else self._error_of_any(call, error))

        self._background.call(self._stubs[call.method.service].Topology, call.request, timeout, None, on_done)

    async def close(self) -> None:
        """Fail what waits, cancel what is under way."""
        with self._mutex:
            self._closed = True
            waiting = self._lane.drain()
        for ticket in waiting:
            ticket.error = self._closed_error(ticket.call, False)
            self._wake(ticket)
        await _backend.close_channel(self._channel)

    async def _send_alone(self, call: Call) -> Any:
        """One operation, one call."""
        started = time.monotonic()
        timeout = call.attempt_deadline - started
        if timeout <= 0:
            raise NotSentInTime("time ran out before the operation was sent", key=call.key, node=self.address)
        span = None if call.recording is None else call.recording.leave(started, self._place, {})
        method = getattr(self._stubs[call.method.service], call.method.name)
        try:
            response = await _backend.invoke(method, call.request, timeout, _tracing.metadata_of(span))
        except grpc.RpcError as caught:
            raise self._error_of(call, caught) from None
        except ChannelClosed as caught:
            raise self._closed_error(call, caught.sent) from None
        self._health.on_answer()
        if call.method is GET:
            self._lane.on_value(len(response.value))
            if not call.strong:
                self._health.on_latency(time.monotonic() - started)
        return response

    def _release(self) -> None:
        with self._mutex:
            batches = self._lane.release()
        now = time.monotonic()
        for batch in batches:
            for ticket in batch:
                ticket.call.queued_s += now - ticket.offered
            self._start(batch)

    def _start(self, batch: list[Ticket]) -> None:
        """Send queued operations in one call, whose slot is taken; `_on_done` follows."""
        calls = [ticket.call for ticket in batch]
        now = time.monotonic()
        timeout = max(call.attempt_deadline for call in calls) - now
        if timeout <= 0:
            self._fail(batch, NotSentInTime("time ran out before the operation was sent", node=self.address))
            return
        departure = _tracing.leave(calls, now, self._place)
        if len(calls) == 1:
            method = getattr(self._stubs[calls[0].method.service], calls[0].method.name)
            request = calls[0].request
        else:
            method = self._batch
            request = kv_pb2.BatchRequest(
                operations=[kv_pb2.BatchOperation(**{call.method.batched: call.request}) for call in calls]
            )
            if departure is not None:
                departure.mark(request)

        def on_done(response: Any, error: Exception | None) -> None:
            self._on_done(batch, response, error, departure)

        metadata = departure.metadata if departure is not None else None
        self._background.call(method, request, timeout, metadata, on_done)

    def _on_done(self, batch: list[Ticket], response: Any, error: Exception | None, departure: Departure | None) -> None:
        """A call for queued operations ended: free its slot first, so that the next leaves, then hand out the results."""
        answered = time.monotonic()
        self._release()
        if error is not None:
            for ticket in batch:
                ticket.error = self._error_of_any(ticket.call, error)
        else:
            self._health.on_answer()
            self._read(batch, response)
        if departure is not None:
            departure.end(answered, batch[0].error if error is not None else None, [ticket.error for ticket in batch])
        for ticket in batch:
            self._wake(ticket)

    def _read(self, batch: list[Ticket], response: Any) -> None:
        """Take each operation's response, or its error, from what the call returned."""
        if len(batch) == 1:
            self._take(batch[0], response)
            return
        results = response.results
        if len(results) != len(batch):
            mismatch = InternalError(f"{len(results)} results for {len(batch)} operations", node=self.address)
            for ticket in batch:
                ticket.error = unknown(mismatch) if ticket.call.method.is_write else mismatch
            return
        for ticket, result in zip(batch, results, strict=True):
            call = ticket.call
            kind = result.WhichOneof("result")
            if kind == call.method.batched:
                self._take(ticket, getattr(result, kind))
            else:
                failure = failure_of_operation(result.error)  # An answer of another kind reads as an error without a reason.
                ticket.error = error_from(failure, is_write=call.method.is_write, key=call.key, node=self.address)

    def _take(self, ticket: Ticket, response: Any) -> None:
        ticket.response = response
        if ticket.call.method is GET:
            self._lane.on_value(len(response.value))

    def _wake(self, ticket: Ticket) -> None:
        """Its response or its error is there."""
        ticket.state = DONE
        ticket.outcome.set()

    def _fail(self, batch: list[Ticket], error: KvError) -> None:
        self._release()
        for ticket in batch:
            ticket.error = error
            self._wake(ticket)

    def _error_of_any(self, call: Call, error: Exception) -> KvError:
        if isinstance(error, grpc.RpcError):
            return self._error_of(call, error)
        if isinstance(error, ChannelClosed):
            return self._closed_error(call, error.sent)
        internal = InternalError(f"the call failed in the client: {error!r}", key=call.key, node=self.address)
        return unknown(internal) if call.method.is_write else internal

    def _error_of(self, call: Call, caught: Any) -> KvError:
        failure = failure_of_call(caught.code(), caught.details() or "", caught.trailing_metadata() or (), self.address)
        return error_from(failure, is_write=call.method.is_write, key=call.key, node=self.address)

    def _closed_error(self, call: Call, sent: bool) -> KvError:
        definite = not sent or not call.method.is_write
        error = ClientClosed("the client was closed", definite=definite, key=call.key, node=self.address)
        return error if definite else unknown(error)

    def _too_many(self, call: Call) -> Overloaded:
        message = f"{QUEUED_MAX} operations of this client wait for the node already"
        return Overloaded(message, retry_after=0.1, key=call.key, node=self.address)
