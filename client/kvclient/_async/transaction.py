"""Optimistic transactions: read, decide, buffer writes, and commit if nothing that was read has changed.

Owns what one transaction has read and wants to write. Never retries: `run_in_transaction` does.

Invariants:
- Nothing is written before the body has ended well, and then all of it or nothing.
- Everything that was read is compared at commit, with the revision that was read.
"""

from __future__ import annotations

import enum
import time
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any

from kvclient import _requests as requests
from kvclient import types
from kvclient._async.txn import AsyncTxn
from kvclient._requests import Call
from kvclient.errors import Conflict, NotSentInTime
from kvclient.expressions import Delete, Key, Put
from kvclient.types import Bytes, Consistency


class _State(enum.Enum):
    NEW = "is used only inside `async with`"
    OPEN = ""
    CLOSED = "has ended: make a new one"


class AsyncTransaction:
    """Made by `kv.transaction()`, for `async with`; see there."""

    def __init__(self, execute: Callable[[Call, float | None], Awaitable[Any]], deadline: float | None = None) -> None:
        self._execute = execute
        self._deadline = deadline
        self._state = _State.NEW
        self._read: dict[bytes, tuple[bytes | None, int]] = {}
        """Key -> value and revision."""
        self._writes: dict[bytes, Put | Delete] = {}
        self.result: types.TxnResult | None = None
        """Of the commit; None before it, and where there was nothing to commit."""

    async def __aenter__(self) -> AsyncTransaction:
        if self._state is not _State.NEW:
            raise requests.invalid("transaction", "was begun already: make a new one")
        self._state = _State.OPEN
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._state = _State.CLOSED
        if error is None:
            await self._commit()

    async def get(self, key: Bytes) -> bytes | None:
        """What `key` holds; None if it does not exist.

        What this transaction has written itself comes first; else it is a strong read, made once a key. The value alone: of a
        write that is not committed there is nothing else to tell.
        """
        self._check_open()
        raw = requests.key_bytes(key)
        written = self._writes.get(raw)
        if written is not None:
            return written.value if isinstance(written, Put) else None
        if raw not in self._read:
            response = await self._execute(requests.get_call(raw, Consistency.STRONG, None), self._time_left())
            self._check_open()
            seen = (response.value, response.revision) if response.found else (None, 0)
            self._read.setdefault(raw, seen)  # Of reads that overlap the first to end is everybody's.
        return self._read[raw][0]

    def put(self, key: Bytes, value: Bytes) -> None:
        """Write `key` at commit; the last write of a key counts."""
        self._check_open()
        put = Put(key, value)
        self._writes[put.key] = put

    def delete(self, key: Bytes) -> None:
        """Delete `key` at commit."""
        self._check_open()
        delete = Delete(key)
        self._writes[delete.key] = delete

    async def _commit(self) -> None:
        if not self._read and not self._writes:
            return
        txn = AsyncTxn(self._execute).then(*self._writes.values())
        txn.if_(*(Key(key).revision == revision for key, (_, revision) in self._read.items()))
        self.result = await txn.run(timeout=self._time_left())
        if not self.result.succeeded:
            raise Conflict("a key that the transaction has read was changed since by somebody else; nothing was written")

    def _time_left(self) -> float | None:
        """For the next operation; None: as long as the client allows. Raises `NotSentInTime`."""
        if self._deadline is None:
            return None
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise NotSentInTime("time ran out before the transaction was committed")
        return left

    def _check_open(self) -> None:
        if self._state is not _State.OPEN:
            raise requests.invalid("transaction", self._state.value)
