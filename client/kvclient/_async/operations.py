"""The operations that clients and sessions have in common.

Owns their signatures and defaults. Never sends: `_execute` and `_execute_many` of the class that uses this do.
"""

from __future__ import annotations

import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, ClassVar, TypeVar

from kvclient import _requests as requests
from kvclient import _retry, types
from kvclient._async.batch import AsyncBatch
from kvclient._async.transaction import AsyncTransaction
from kvclient._async.txn import AsyncTxn
from kvclient._backend import async_ as _backend
from kvclient._requests import Call, invalid, quoted, read_level
from kvclient.errors import Conflict, DeadlineExceeded, KvError
from kvclient.types import Bytes, Consistency, ConsistencyLike, KeyValue, RangePage, consistency_of

T = TypeVar("T")

PAGE_ITEMS = 500
"""Items that an iteration asks for at a time."""


class AsyncOperations:
    """Everything one can do with keys.

    Keys and values are bytes, or str, which is sent as UTF-8. `timeout` is in seconds, for all attempts together; without it
    the client's holds. All operations raise `kvclient.errors.KvError`; a write that may have happened raises `OutcomeUnknown`.
    """

    _default_read: ClassVar[Consistency] = Consistency.STRONG
    _rng: random.Random

    def deadline_of(self, timeout: float | None) -> float:
        """When an operation that begins now must have ended, in monotonic seconds: after `timeout`, or the client's.

        Raises `InvalidArgument` for a wrong time-out, and on another event loop than the client's.
        """
        raise NotImplementedError

    async def _execute(self, call: Call, timeout: float | None) -> Any:
        raise NotImplementedError

    async def _execute_many(self, calls: list[Call], timeout: float | None) -> list[Any | KvError]:
        raise NotImplementedError

    async def get(
        self,
        key: Bytes,
        *,
        consistency: ConsistencyLike | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> types.Value | None:
        """What `key` holds; None if it does not exist.

        `max_staleness`, in seconds, asks for a bounded read. `get_result` also tells what was served where there is no value.
        """
        level = read_level(consistency, max_staleness, self._default_read)
        return types.value_from(await self._execute(requests.get_call(key, level, max_staleness), timeout))

    async def get_result(
        self,
        key: Bytes,
        *,
        consistency: ConsistencyLike | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> types.GetResult:
        """As `get`, with what was served in any case: `result.value`, `result.served`."""
        level = read_level(consistency, max_staleness, self._default_read)
        return types.get_result_from(await self._execute(requests.get_call(key, level, max_staleness), timeout))

    async def put(
        self,
        key: Bytes,
        value: Bytes,
        *,
        consistency: ConsistencyLike = Consistency.STRONG,
        if_revision: int | None = None,
        acks: int | None = None,
        timeout: float | None = None,
    ) -> types.PutResult:
        """Write a key.

        Strong: on a majority's disks before it returns; with `if_revision`, only if the key's revision is that (0: only if it
        does not exist), else `CompareFailed`. Eventual: on `acks` replicas' disks (default 1) before it returns.
        """
        call = requests.put_call(key, value, consistency_of(consistency), if_revision, acks)
        return types.put_result_from(await self._execute(call, timeout))

    async def compare_and_set(
        self, key: Bytes, value: Bytes, revision: int, *, timeout: float | None = None
    ) -> types.PutResult:
        """Write a key whose revision is `revision`; 0: that does not exist. Raises `CompareFailed` with the actual revision."""
        return await self.put(key, value, if_revision=requests.revision_of("revision", revision), timeout=timeout)

    async def delete(
        self,
        key: Bytes,
        *,
        consistency: ConsistencyLike = Consistency.STRONG,
        if_revision: int | None = None,
        acks: int | None = None,
        timeout: float | None = None,
    ) -> types.DeleteResult:
        """Delete a key; options as for `put`. Deleting an absent key succeeds."""
        call = requests.delete_call(key, consistency_of(consistency), if_revision, acks)
        return types.delete_result_from(await self._execute(call, timeout))

    def range(
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        limit: int | None = None,
        keys_only: bool = False,
        consistency: ConsistencyLike | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> AsyncIterator[KeyValue]:
        """Iterate over keys in byte order: those with `prefix`, those in [start, end), or both bounds at once; at most `limit`.

        Pages are fetched as the iteration needs them, each within `timeout` and each as consistent as asked; the pages
        together are not one snapshot.
        """
        if limit is not None and (not isinstance(limit, int) or isinstance(limit, bool) or limit < 0):
            raise invalid("limit", f"{quoted(limit)} is not a whole number, 0 or more")
        if timeout is not None:
            requests.timeout_seconds(timeout)
        level = read_level(consistency, max_staleness, self._default_read)
        requests.range_call(prefix, start, end, level, max_staleness, keys_only=keys_only)  # A wrong argument shows here.
        return self._range(prefix, start, end, limit, keys_only, level, max_staleness, timeout)

    async def _range(
        self,
        prefix: Bytes | None,
        start: Bytes | None,
        end: Bytes | None,
        limit: int | None,
        keys_only: bool,
        level: Consistency,
        max_staleness: float | None,
        timeout: float | None,
    ) -> AsyncIterator[KeyValue]:
        token, left = b"", limit
        while left is None or left > 0:
            page = await self.range_page(
                prefix=prefix,
                start=start,
                end=end,
                limit=PAGE_ITEMS if left is None else min(left, PAGE_ITEMS),
                page_token=token,
                keys_only=keys_only,
                consistency=level,
                max_staleness=max_staleness,
                timeout=timeout,
            )
            for item in page.items:
                yield item
            token = page.next_page_token
            if not token:
                return
            if left is not None:
                left -= len(page.items)

    async def range_page(
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        limit: int = PAGE_ITEMS,
        page_token: bytes = b"",
        keys_only: bool = False,
        consistency: ConsistencyLike | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> RangePage:
        """One page of `range`: at most `limit` (1 to 1,000) items, fewer where they are large. For the next one give its
        `next_page_token` as `page_token` with the other arguments unchanged."""
        level = read_level(consistency, max_staleness, self._default_read)
        call = requests.range_call(
            prefix, start, end, level, max_staleness, limit=limit, page_token=page_token, keys_only=keys_only
        )
        return types.range_page_from(await self._execute(call, timeout))

    async def count(
        self,
        *,
        prefix: Bytes | None = None,
        start: Bytes | None = None,
        end: Bytes | None = None,
        consistency: ConsistencyLike | None = None,
        max_staleness: float | None = None,
        timeout: float | None = None,
    ) -> int:
        """How many keys `range` would iterate over, without fetching them."""
        level = read_level(consistency, max_staleness, self._default_read)
        call = requests.range_call(prefix, start, end, level, max_staleness, count_only=True)
        response = await self._execute(call, timeout)
        return int(response.count)

    def batch(self) -> AsyncBatch:
        """An empty batch of independent operations: add to it, then `run` it."""
        return AsyncBatch(self._execute_many, self._default_read)

    def txn(self) -> AsyncTxn:
        """An empty transaction of comparisons and operations: add to it, then `run` it."""
        return AsyncTxn(self._execute)

    def transaction(self) -> AsyncTransaction:
        """An optimistic transaction: `async with kv.transaction() as t`, with `await t.get(key)`, `t.put(key, value)`, and
        `t.delete(key)`.

        Writes are kept until the body ends, then committed together if nothing that was read has changed; else `Conflict` is
        raised and nothing is written, as when the body raises. Each read, and the commit, may take the client's time.
        `run_in_transaction` tries again by itself.
        """
        return AsyncTransaction(self._execute)

    async def run_in_transaction(self, body: Callable[[AsyncTransaction], Awaitable[T]], *, timeout: float | None = None) -> T:
        """What `await body(t)` returns, run in a transaction that committed.

        After a `Conflict` it is run again, with a new `t`, so it should have no effects but those on `t`; with growing pauses
        until `timeout` is over, which is for all of it together, then the last `Conflict` is raised. All other errors pass.
        """
        deadline = self.deadline_of(timeout)
        lost: Conflict | None = None
        attempt = 1
        while True:
            try:
                async with AsyncTransaction(self._execute, deadline) as transaction:
                    returned: T = await _backend.run_body(body, transaction)
                return returned
            except Conflict as conflict:
                lost = conflict
            except DeadlineExceeded:
                if lost is None or time.monotonic() < deadline:
                    raise
                raise lost from None
            pause = _retry.pause_before(lost, attempt, self._rng)
            if time.monotonic() + pause >= deadline:
                raise lost
            await _backend.sleep(pause)
            attempt += 1

    async def operation(self, operation_id: str, *, timeout: float | None = None) -> types.OperationResult:
        """What became of the eventual write whose result had this `operation_id`."""
        return types.operation_result_from(await self._execute(requests.operation_call(operation_id), timeout))
