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
from kvnode.errors import InvalidRequest, KvnodeError, Overloaded
from kvnode.invariant import InvariantViolated
from kvnode.routing.context import HOPS_MAX, RequestContext
from kvnode.routing.router import Router
from kvnode.routing.transactions import TransactionRouter
from kvnode.types import Seconds

HOPS_KEY = "kvnode-hops"
"""Metadata of a forwarded request."""
_HOPS = {str(count): count for count in range(1, HOPS_MAX + 1)}
"""What nodes send; anything else is no node's word."""
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

    def __init__(self, router: Router, transactions: TransactionRouter) -> None:
        self._router, self._transactions = router, transactions
        self._loop = router.local.driver.loop
        self.in_flight = 0

    async def Put(self, request: kv_pb2.PutRequest, context: Any) -> kv_pb2.PutResponse:
        """Writes one key."""
        return await self._serve(self.put, request, context)

    async def Get(self, request: kv_pb2.GetRequest, context: Any) -> kv_pb2.GetResponse:
        """Reads one key."""
        return await self._serve(self.get, request, context)

    async def Delete(self, request: kv_pb2.DeleteRequest, context: Any) -> kv_pb2.DeleteResponse:
        """Deletes one key."""
        return await self._serve(self.delete, request, context)

    async def Range(self, request: kv_pb2.RangeRequest, context: Any) -> kv_pb2.RangeResponse:
        """Reads a page of a range."""
        return await self._serve(self.range, request, context)

    async def Batch(self, request: kv_pb2.BatchRequest, context: Any) -> kv_pb2.BatchResponse:
        """Runs independent operations at once."""
        return await self._serve(self.batch, request, context)

    async def Txn(self, request: kv_pb2.TxnRequest, context: Any) -> kv_pb2.TxnResponse:
        """Runs a transaction."""
        return await self._serve(self.txn, request, context)

    async def Operation(self, request: kv_pb2.OperationRequest, context: Any) -> kv_pb2.OperationResponse:
        """Tells what became of an eventual write."""
        return await self._serve(self._router.operation, request, context)

    async def _serve(
        self,
        operation: Callable[[Request, RequestContext], Awaitable[Response]],
        request: Request,
        context: grpc.aio.ServicerContext[Any, Any],
    ) -> Response:
        self.in_flight += 1
        try:
            return await operation(request, self._context_of(context))
        except KvnodeError as error:
            await abort(context, error)
            raise
        except InvariantViolated as violated:
            self._router.local.driver.fatal(violated)
            raise
        finally:
            self.in_flight -= 1

    def _context_of(self, context: grpc.aio.ServicerContext[Any, Any]) -> RequestContext:
        remaining = context.time_remaining()
        if remaining is None or remaining > DEADLINE_S_MAX:
            remaining = limits.REQUEST_TIMEOUT_S_DEFAULT
        hops = next((value for key, value in context.invocation_metadata() or () if key == HOPS_KEY), "0")
        return RequestContext(self._loop.time() + remaining, _HOPS.get(str(hops), 0))

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
        results = await asyncio.gather(*(self._one(operation, context) for operation in request.operations))
        response = kv_pb2.BatchResponse()
        size = 0
        for result in results:
            size += result.ByteSize()
            fits = size <= limits.BATCH_RESPONSE_SIZE_BYTES_MAX or result.WhichOneof("result") not in ("get", "range")
            response.results.append(result if fits else _DOES_NOT_FIT)
        return response

    async def _one(self, operation: kv_pb2.BatchOperation, context: RequestContext) -> kv_pb2.BatchResult:
        which = operation.WhichOneof("operation")
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
