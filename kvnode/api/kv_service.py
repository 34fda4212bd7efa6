"""`kvapi.v1.KV`: checks each request, lets the router serve it, translates the outcome."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import grpc

from kvapi.v1 import kv_pb2, kv_pb2_grpc
from kvnode import limits
from kvnode.api import check_txn, convert
from kvnode.api.status import abort, to_operation_error
from kvnode.errors import DeadlineExpired, InvalidRequest, KvnodeError, Overloaded
from kvnode.invariant import InvariantViolated
from kvnode.observe.calls import Calls, Headers, headers_of
from kvnode.observe.stages import OPERATIONS, REPLY, Timeline
from kvnode.routing.context import HOPS_MAX, RequestContext
from kvnode.routing.router import Router
from kvnode.routing.transactions import TransactionRouter
from kvnode.types import Seconds

STRONG = kv_pb2.CONSISTENCY_STRONG
_HOPS = {str(count): count for count in range(1, HOPS_MAX + 1)}
"""What nodes send; anything else is no node's word."""
DEADLINE_BLUR: Seconds = 0.05
"""What is cancelled so shortly before its deadline was not given up by its caller: timers and networks are no more exact."""
DEADLINE_S_MAX: Seconds = 3600.0
_DOES_NOT_FIT = kv_pb2.BatchResult(
    error=to_operation_error(
        Overloaded(
            f"the batch's answer has more than {limits.BATCH_RESPONSE_SIZE_BYTES_MAX} bytes; read this again in another one"
        )
    )
)

Request = TypeVar("Request")
Response = TypeVar("Response")


class KvService(kv_pb2_grpc.KVServicer):
    """The servicer, for any transport that has grpc.aio's interface."""

    def __init__(self, router: Router, transactions: TransactionRouter, calls: Calls) -> None:
        self._router, self._transactions, self._calls = router, transactions, calls
        self._loop = router.local.driver.loop
        self.in_flight = 0

    async def Put(self, request: kv_pb2.PutRequest, context: Any) -> kv_pb2.PutResponse:
        """Writes one key."""
        return await self._serve("put", request.consistency or STRONG, self.put, request, context)

    async def Get(self, request: kv_pb2.GetRequest, context: Any) -> kv_pb2.GetResponse:
        """Reads one key."""
        return await self._serve("get", request.consistency or STRONG, self.get, request, context)

    async def Delete(self, request: kv_pb2.DeleteRequest, context: Any) -> kv_pb2.DeleteResponse:
        """Deletes one key."""
        return await self._serve("delete", request.consistency or STRONG, self.delete, request, context)

    async def Range(self, request: kv_pb2.RangeRequest, context: Any) -> kv_pb2.RangeResponse:
        """Reads a page of a range."""
        return await self._serve("range", request.consistency or STRONG, self.range, request, context)

    async def Batch(self, request: kv_pb2.BatchRequest, context: Any) -> kv_pb2.BatchResponse:
        """Runs independent operations at once."""
        return await self._serve("batch", 0, self.batch, request, context)

    async def Txn(self, request: kv_pb2.TxnRequest, context: Any) -> kv_pb2.TxnResponse:
        """Runs a transaction."""
        return await self._serve("txn", STRONG, self.txn, request, context)

    async def Operation(self, request: kv_pb2.OperationRequest, context: Any) -> kv_pb2.OperationResponse:
        """Tells what became of an eventual write."""
        return await self._serve("operation", 0, self._router.operation, request, context)

    async def _serve(
        self,
        name: str,
        consistency: int,
        operation: Callable[[Request, RequestContext], Awaitable[Response]],
        request: Request,
        call: grpc.aio.ServicerContext[Any, Any],
    ) -> Response:
        headers = headers_of(call.invocation_metadata())  # type: ignore[arg-type]
        timeline = self._calls.arrive(name, consistency, headers, call)
        context = self._context_of(headers, timeline, call)
        self.in_flight += 1
        try:
            response = await operation(request, context)
        except KvnodeError as error:
            await abort(call, error, self._calls.leave(timeline, error, headers))
            raise
        except BaseException as error:
            if isinstance(error, InvariantViolated):
                self._router.local.driver.fatal(error)
            self._calls.leave(timeline, self._cause(error, context), headers)
            raise
        finally:
            self.in_flight -= 1
        if trailing := self._calls.leave(timeline, None, headers):
            call.set_trailing_metadata(trailing)
        return response

    def _cause(self, error: BaseException, context: RequestContext) -> BaseException:
        """Why a request failed. With its deadline the transport cancels it, and so does its caller, at the same moment."""
        if isinstance(error, asyncio.CancelledError) and self._loop.time() >= context.deadline - DEADLINE_BLUR:
            return DeadlineExpired("the deadline passed")
        return error

    def _context_of(self, headers: Headers, timeline: Timeline, call: Any) -> RequestContext:
        remaining = call.time_remaining()
        if remaining is None or remaining > DEADLINE_S_MAX:
            remaining = limits.REQUEST_TIMEOUT_S_DEFAULT
        hops = _HOPS.get(str(headers.hops), 0)
        if hops:
            timeline.hops = hops
            timeline.describe("kvnode.hops", hops)
        return RequestContext(self._loop.time() + remaining, hops, timeline)

    # ---- the operations, as the simulator calls them too ------------------------------------------------------------

    async def put(self, request: kv_pb2.PutRequest, context: RequestContext) -> kv_pb2.PutResponse:
        """Checks and serves a put. Raises `KvnodeError`."""
        convert.check_put(request)
        return await self._router.put(request, context)

    async def get(self, request: kv_pb2.GetRequest, context: RequestContext) -> kv_pb2.GetResponse:
        """Checks and serves a get."""
        convert.check_get(request)
        response = await self._router.get(request, context)
        if request.text:
            convert.show_text(response, request.key)
        return response

    async def delete(self, request: kv_pb2.DeleteRequest, context: RequestContext) -> kv_pb2.DeleteResponse:
        """Checks and serves a delete."""
        convert.check_delete(request)
        return await self._router.delete(request, context)

    async def range(self, request: kv_pb2.RangeRequest, context: RequestContext) -> kv_pb2.RangeResponse:
        """Checks and serves one page of a range."""
        convert.check_range(request, self._router.map.shards)
        response = await self._router.range(request, context)
        if request.text:
            for item in response.items:
                convert.show_text(item, item.key)
        return response

    async def txn(self, request: kv_pb2.TxnRequest, context: RequestContext) -> kv_pb2.TxnResponse:
        """Checks and serves a transaction."""
        check_txn.check_txn(request)
        response = await self._transactions.txn(request, context)
        if request.text:
            check_txn.show_text(request, response)
        return response

    async def batch(self, request: kv_pb2.BatchRequest, context: RequestContext) -> kv_pb2.BatchResponse:
        """Serves independent operations at once; each has its own outcome."""
        convert.check_batch(request)
        context.timeline.describe("db.operation.batch.size", len(request.operations))
        context.timeline.enter(OPERATIONS)
        results = await asyncio.gather(*(self._one(each, context, at) for at, each in enumerate(request.operations)))
        context.timeline.enter(REPLY)
        response = kv_pb2.BatchResponse()
        size = 0
        for result in results:
            size += result.ByteSize()
            fits = size <= limits.BATCH_RESPONSE_SIZE_BYTES_MAX or result.WhichOneof("result") not in ("get", "range")
            response.results.append(result if fits else _DOES_NOT_FIT)
        return response

    async def _one(self, operation: kv_pb2.BatchOperation, context: RequestContext, number: int) -> kv_pb2.BatchResult:
        """One operation of a batch, with a timeline of its own."""
        which = operation.WhichOneof("operation") or ""
        if not which or not context.timeline.is_recorded:
            return await self._run(which, operation, context)
        consistency = getattr(operation, which).consistency or STRONG
        timeline = self._calls.operation(which, consistency, context.timeline, operation.traceparent, number)
        try:
            result = await self._run(which, operation, RequestContext(context.deadline, context.hops, timeline))
        except BaseException as error:
            self._calls.fail(timeline, self._cause(error, context))
            raise
        if result.HasField("error"):
            self._calls.end(timeline, result.error.reason, result.error.code)
        else:
            self._calls.end(timeline)
        return result

    async def _run(self, which: str, operation: kv_pb2.BatchOperation, context: RequestContext) -> kv_pb2.BatchResult:
        try:
            if which == "put":
                return kv_pb2.BatchResult(put=await self.put(operation.put, context))
            if which == "get":
                return kv_pb2.BatchResult(get=await self.get(operation.get, context))
            if which == "delete":
                return kv_pb2.BatchResult(delete=await self.delete(operation.delete, context))
            if which == "range":
                return kv_pb2.BatchResult(range=await self.range(operation.range, context))
            raise InvalidRequest("operations", "an operation is empty: this server knows put, get, delete and range")
        except KvnodeError as error:
            return kv_pb2.BatchResult(error=to_operation_error(error))

    async def dispatch(self, request: Any, context: RequestContext) -> Any:
        """Serves a request by its type: what a forwarding node sends."""
        handlers: dict[type, Callable[[Any, RequestContext], Awaitable[Any]]] = {
            kv_pb2.PutRequest: self.put,
            kv_pb2.GetRequest: self.get,
            kv_pb2.DeleteRequest: self.delete,
            kv_pb2.RangeRequest: self.range,
            kv_pb2.BatchRequest: self.batch,
            kv_pb2.TxnRequest: self.txn,
            kv_pb2.OperationRequest: self._router.operation,
        }
        return await handlers[type(request)](request, context)
