"""kvclient: the Python SDK of kvnode.

    import kvclient

    async with kvclient.connect("kv://127.0.0.1:7401,127.0.0.1:7402") as kv:
        await kv.put("greeting", "hello")
        print((await kv.get("greeting")).text)

    with kvclient.connect_sync("kv://127.0.0.1:7401,127.0.0.1:7402") as kv:
        print(kv.get("greeting").text)

Both clients have the same operations; the second is for threads. Owns the public names; imports no server code.
"""

from __future__ import annotations

from opentelemetry.trace import TracerProvider

from kvclient import errors
from kvclient._async.batch import AsyncBatch
from kvclient._async.client import AsyncClient
from kvclient._async.session import AsyncSession
from kvclient._async.transaction import AsyncTransaction
from kvclient._async.txn import AsyncTxn
from kvclient._sync.batch import Batch
from kvclient._sync.client import Client
from kvclient._sync.session import Session
from kvclient._sync.transaction import Transaction
from kvclient._sync.txn import Txn
from kvclient.errors import CompareFailed, Conflict, KvError, OutcomeUnknown
from kvclient.expressions import Compare, Delete, Get, Key, Operation, Put, Range
from kvclient.types import (
    Consistency,
    DeleteResult,
    GetResult,
    KeyValue,
    Location,
    OperationResult,
    OperationState,
    OperationStatistics,
    PutResult,
    RangePage,
    Role,
    Served,
    Statistics,
    SupersededReason,
    TxnResult,
    Value,
)
from kvclient.uri import parse_uri

__all__ = [
    "AsyncBatch",
    "AsyncClient",
    "AsyncSession",
    "AsyncTransaction",
    "AsyncTxn",
    "Batch",
    "Client",
    "Compare",
    "CompareFailed",
    "Conflict",
    "Consistency",
    "Delete",
    "DeleteResult",
    "Get",
    "GetResult",
    "Key",
    "KeyValue",
    "KvError",
    "Location",
    "Operation",
    "OperationResult",
    "OperationState",
    "OperationStatistics",
    "OutcomeUnknown",
    "Put",
    "PutResult",
    "Range",
    "RangePage",
    "Role",
    "Served",
    "Session",
    "Statistics",
    "SupersededReason",
    "Transaction",
    "Txn",
    "TxnResult",
    "Value",
    "connect",
    "connect_sync",
    "errors",
]


def connect(uri: str, *, tracer_provider: TracerProvider | None = None) -> AsyncClient:
    """A client for asyncio, for one event loop: the one on which it is first used. Make one for each `asyncio.run`.

    `uri` is `kv://host:port,host:port?timeout=5&pipeline=2&transport=kvwire`: some of the cluster's nodes, the seconds an
    operation may take, the calls in flight to one node, and what carries them, "kvwire" or "grpcio". Use it with `async with`,
    or `await client.close()` in the end. It connects with its first operation. Raises `InvalidArgument` for a wrong address.
    """
    return AsyncClient(parse_uri(uri), tracer_provider)


def connect_sync(uri: str, *, tracer_provider: TracerProvider | None = None) -> Client:
    """A client for threads, which may share it; `uri` as for `connect`, but its calls are always carried by grpcio. Use it
    with `with`, or `client.close()` in the end.
    """
    return Client(parse_uri(uri), tracer_provider)
