"""Independent operations that are sent together.

Owns the builder. Each operation has its own outcome. They run concurrently: there is no order between them (a get may or may
not see a put of the same batch) and no atomicity.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable
from typing import Any

from kvclient import _requests as requests
from kvclient import types
from kvclient._requests import Call
from kvclient.errors import KvError
from kvclient.types import Bytes, Consistency, ConsistencyLike, DeleteResult, PutResult, Value, consistency_of

Result = PutResult | DeleteResult | Value | None | KvError
"""Of one operation; None: the key of a get does not exist."""


class AsyncBatch:
    """Operations to run together: `results = await kv.batch().put("a", "1").get("b").run()`."""

    def __init__(
        self,
        execute_many: Callable[[list[Call], float | None], Awaitable[list[Any | KvError]]],
        default_read: Consistency,
    ) -> None:
        self._execute_many = execute_many
        self._default_read = default_read
        self._calls: list[Call] = []
        self._decoders: list[Callable[[Any], Result]] = []
        self._ran = False

    def __len__(self) -> int:
        return len(self._calls)

    def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        consistency: ConsistencyLike = Consistency.STRONG,
        if_revision: int | None = None,
        acks: int | None = None,
    ) -> AsyncBatch:
        """Add a write; as the client's `put`."""
        call = requests.put_call(key, value, consistency_of(consistency), if_revision, acks)
        return self._add(call, types.put_result_from)

    def get(self, key: Bytes, *, consistency: ConsistencyLike | None = None, max_staleness: float | None = None) -> AsyncBatch:
        """Add a read; as the client's `get`."""
        level = requests.read_level(consistency, max_staleness, self._default_read)
        return self._add(requests.get_call(key, level, max_staleness), types.value_from)

    def delete(
        self,
        key: Bytes,
        *,
        consistency: ConsistencyLike = Consistency.STRONG,
        if_revision: int | None = None,
        acks: int | None = None,
    ) -> AsyncBatch:
        """Add a deletion; as the client's `delete`."""
        call = requests.delete_call(key, consistency_of(consistency), if_revision, acks)
        return self._add(call, types.delete_result_from)

    async def run(self, *, timeout: float | None = None) -> list[Result]:
        """Run all, concurrently and in no order; the results come in the order of the operations: each a value, or the
        `KvError` with which that operation failed.

        A batch runs once, then raises `InvalidArgument`. Any number of operations may be in it: they leave in as many calls as
        needed, a node's together.
        """
        if self._ran:
            raise requests.invalid("batch", "was run already; a second run would repeat its writes: build a new one")
        self._ran = True
        now = time.monotonic()
        for call in self._calls:
            call.started = now
        responses = await self._execute_many(self._calls, timeout)
        return [
            response if isinstance(response, KvError) else decode(response)
            for response, decode in zip(responses, self._decoders, strict=True)
        ]

    def _add(self, call: Call, decode: Callable[[Any], Result]) -> AsyncBatch:
        self._calls.append(call)
        self._decoders.append(decode)
        return self
