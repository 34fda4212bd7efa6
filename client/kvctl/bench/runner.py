"""The callers: so many tasks that take turns, do operations and note how long they took.

Owns the hot path. Its cost adds to every operation, so it looks nothing up twice and makes no objects.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from kvclient import KvError
from kvctl.bench.operations import Perform, Target
from kvctl.bench.samples import CUT_SHORT, Notes
from kvctl.bench.schedule import Turns

DRAIN_S_MAX = 1.0
"""How long Ctrl-C waits for operations under way."""


class Runner:
    """Some callers, each with a client, or a session, of its own."""

    def __init__(self, targets: Sequence[Target], next_kind: Callable[[], str], perform: Mapping[str, Perform]) -> None:
        self._targets, self._next_kind, self._perform = targets, next_kind, perform
        self._turns: Turns | None = None
        self._callers: list[asyncio.Task[None]] = []

    async def run(self, turns: Turns, notes: Notes) -> None:
        """Take turns until there are no more, and wait for the operations under way. A defect ends it at once."""
        self._turns = turns
        self._callers = [asyncio.create_task(self._call(target, turns, notes)) for target in self._targets]
        try:
            ended, _ = await asyncio.wait(self._callers, return_when=asyncio.FIRST_EXCEPTION)
        finally:
            self._cut_short()
        for caller in ended:
            if not caller.cancelled():
                caller.result()

    def stop(self) -> None:
        """No more turns; what is under way may end within a moment."""
        if self._turns is not None:
            self._turns.stop()
            asyncio.get_running_loop().call_later(DRAIN_S_MAX, self._cut_short)

    def _cut_short(self) -> None:
        for caller in self._callers:
            caller.cancel()

    async def _call(self, target: Target, turns: Turns, notes: Notes) -> None:
        now, take, next_kind, perform = asyncio.get_running_loop().time, turns.take, self._next_kind, self._perform
        latencies, services, is_open = notes.latencies, notes.services, turns.is_open
        while (due := await take()) is not None:
            kind = next_kind()
            began = now()
            try:
                if await perform[kind](target):
                    notes.absent[kind] += 1
            except KvError as error:
                notes.errors[kind][error.reason] += 1
            except asyncio.CancelledError:
                notes.errors[kind][CUT_SHORT] += 1
                latencies[kind].append(int((now() - due) * 1e6))
                raise
            ended = now()
            latencies[kind].append(int((ended - due) * 1e6))
            if is_open:
                services[kind].append(int((ended - began) * 1e6))
