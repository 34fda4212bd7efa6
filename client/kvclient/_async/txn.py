"""Transactions whose keys are known beforehand: `if_`, `then`, `else_`, one request.

Owns the builder. What it is made of is in `expressions`; sending and retrying are the client's.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from kvclient import _requests as requests
from kvclient import types
from kvclient._requests import Call
from kvclient.expressions import Compare, Operation, checked_compares, checked_operations


class AsyncTxn:
    """A transaction: `await kv.txn().if_(Key("a").value == "1").then(Put("a", "2")).else_(Get("a")).run()`.

    All its reads, in comparisons and operations, see one state: the one just before its writes. A branch writes each key at
    most once; comparisons and operations together are at most 128.
    """

    def __init__(self, execute: Callable[[Call, float | None], Awaitable[Any]]) -> None:
        self._execute = execute
        self._compares: list[Compare] = []
        self._then: list[Operation] = []
        self._otherwise: list[Operation] = []
        self._ran = False

    def if_(self, *compares: Compare) -> AsyncTxn:
        """Add comparisons: all must hold for `then`. Without any, `then` is taken."""
        self._compares += checked_compares(compares)
        return self

    def then(self, *operations: Operation) -> AsyncTxn:
        """Add operations to do if all comparisons hold."""
        self._then += checked_operations("then", operations)
        return self

    def else_(self, *operations: Operation) -> AsyncTxn:
        """Add operations to do if a comparison does not hold."""
        self._otherwise += checked_operations("else", operations)
        return self

    async def run(self, *, timeout: float | None = None) -> types.TxnResult:
        """Run it, once; a second time raises `InvalidArgument`.

        Raises `Conflict` if it lost against another transaction: nothing was changed, and a new one may be tried.
        """
        if self._ran:
            raise requests.invalid("txn", "was run already: build a new one")
        call = requests.txn_call(
            [compare.encoded() for compare in self._compares],
            [operation.encoded() for operation in self._then],
            [operation.encoded() for operation in self._otherwise],
        )
        self._ran = True
        return types.txn_result_from(await self._execute(call, timeout))
