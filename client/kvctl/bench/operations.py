"""How each kind of operation is done with the SDK.

Owns the translation of kinds into calls, nothing of their time. Every function returns True where a read found no key.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

from kvclient import AsyncClient, AsyncSession, Consistency, Put
from kvctl.bench.plan import Plan
from kvctl.bench.workload import Workload

Target: TypeAlias = AsyncClient | AsyncSession
Perform: TypeAlias = Callable[[Target], Awaitable[bool]]

RANGE_KEYS = 10
"""What a range reads."""


class Operations:
    """The operations of one process."""

    def __init__(self, plan: Plan, workload: Workload) -> None:
        self._workload, self._prefix = workload, plan.prefix
        self._reading: dict[str, Any] = {
            "consistency": Consistency[plan.read_consistency.upper()],
            "max_staleness": plan.max_staleness_s,
        }
        self._writing: dict[str, Any] = {"consistency": Consistency[plan.write_consistency.upper()], "acks": plan.acks}

    @property
    def by_kind(self) -> dict[str, Perform]:
        """The function for each kind."""
        return {
            "read": self.read,
            "write": self.write,
            "delete": self.delete,
            "cas": self.cas,
            "txn": self.txn,
            "range": self.range,
        }

    async def read(self, target: Target) -> bool:
        """Get a key."""
        return await target.get(self._workload.read_key(), **self._reading) is None

    async def write(self, target: Target) -> bool:
        """Put a key."""
        await target.put(self._workload.write_key(), self._workload.value(), **self._writing)
        return False

    async def delete(self, target: Target) -> bool:
        """Delete a key."""
        await target.delete(self._workload.write_key(), **self._writing)
        return False

    async def cas(self, target: Target) -> bool:
        """Read a key, and write it if nobody else did meanwhile: two requests, as in any application."""
        key = self._workload.write_key()
        found = await target.get(key, consistency=Consistency.STRONG)
        await target.compare_and_set(key, self._workload.value(), 0 if found is None else found.revision)
        return False

    async def txn(self, target: Target) -> bool:
        """Write two keys, both or none; mostly on two shards."""
        first, second = self._workload.two_keys()
        await target.txn().then(Put(first, self._workload.value()), Put(second, self._workload.value())).run()
        return False

    async def range(self, target: Target) -> bool:
        """Read the next few keys, and their values, from a key on."""
        start = self._workload.read_key()
        page = await target.range_page(prefix=self._prefix, start=start, limit=RANGE_KEYS, **self._reading)
        return not page.items
