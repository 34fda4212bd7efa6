"""The client's name for its writes, by which the servers tell a retry from another write.

Owns the session's name, the numbers of its writes, which of them nobody will ask for again, and the client's idea of the
cluster's clock. Never sends, never decides what is retried (`_retry`).

Invariants:
- A number is given once, and all attempts of an operation carry the same.
- `acknowledged` is below every number whose operation has not ended: the servers never forget what may still be asked for.
- A session's name belongs to one process: it is drawn with its first write, and anew after a fork.
"""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager
from typing import Any

from kvclient._requests import Call

SESSION_SIZE_BYTES = 16
CLOCK_KEPT_S = 10.0
"""How long the lowest of the nodes' clocks counts, unless a lower one is heard."""
RENEWALS_MAX = 3
"""Of one operation; after so many the servers' clocks and windows cannot be met by trying again."""
COUNTER_BITS = 16
"""Of a hybrid logical clock: Unix milliseconds << 16 | counter."""


class WriteSession:
    """One name and its numbers, from 1. Not locked: `RequestIds` does that."""

    __slots__ = ("_ended", "_last", "acknowledged", "name", "process")

    def __init__(self) -> None:
        self.name = os.urandom(SESSION_SIZE_BYTES)
        self.process = os.getpid()
        self.acknowledged = 0
        """Every operation up to this number has ended."""
        self._last = 0
        self._ended: set[int] = set()
        """Those above `acknowledged`."""

    def begin(self) -> int:
        """The next number; its operation is outstanding until `end`."""
        self._last += 1
        return self._last

    def end(self, sequence: int) -> None:
        """The operation ended, whatever came of it."""
        if sequence != self.acknowledged + 1:
            self._ended.add(sequence)
            return
        while sequence + 1 in self._ended:
            sequence += 1
            self._ended.remove(sequence)
        self.acknowledged = sequence


class RequestIds:
    """Names the writes of one client."""

    def __init__(self, mutex: AbstractContextManager[Any]) -> None:
        self._mutex = mutex
        self._session: WriteSession | None = None
        self._heard = (0, 0.0)
        """The clock that is furthest behind of those heard lately, and when. Replaced whole, without a lock: a lost update is
        made good by the next."""
        self._floor = 0
        """Writes named below it were refused as too old, though a node's clock is there, far behind the others."""

    def on_clock(self, hlc: int) -> None:
        """An answer told a node's hybrid logical clock.

        That of a node that has crashed and is back may be seconds ahead of the others' (`kvnode.protocol.clock`), who refuse
        names from the future. From the past they take them, as long as they remember who wrote then: so the lowest counts.
        """
        heard, heard_at = self._heard
        now = time.monotonic()
        if hlc and (not heard or hlc < _later(heard, now - heard_at) or now - heard_at > CLOCK_KEPT_S):
            self._heard = (hlc, now)

    def begin(self, call: Call) -> None:
        """Name an operation that starts; `end` must follow."""
        with self._mutex:
            session = self._session
            if session is None or session.process != os.getpid():
                session = self._session = WriteSession()
            self._name(call, session)

    def end(self, call: Call) -> None:
        """The operation ended, well or not, or its caller left."""
        if call.request_id is not None:
            session, sequence = call.request_id
            with self._mutex:
                call.request_id = None
                session.end(sequence)

    def renew(self, call: Call, clock: int) -> bool:
        """The servers do not take the operation's name any more: give it another, and all later ones, at `clock` (0: unknown).

        False: it may not have another, because an attempt under the old one may still take effect, or it had too many.
        Operations that learn of the same session's end at once move to the same new one.
        """
        if call.request_id is None or call.in_doubt or call.renewals == RENEWALS_MAX:
            return False
        old, _ = call.request_id  # Nothing starts under it any more, so its numbers need not end.
        with self._mutex:
            if clock:
                self._heard = (clock, time.monotonic())
                self._floor = clock if clock > call.request.request.started > 0 else 0
            session = self._session
            if session is None or session is old:
                session = self._session = WriteSession()
            self._name(call, session)
        call.renewals += 1
        return True

    def _name(self, call: Call, session: WriteSession) -> None:
        sequence = session.begin()
        call.request_id = (session, sequence)
        hlc, heard_at = self._heard
        request_id = call.request.request
        request_id.session = session.name
        request_id.sequence = sequence
        request_id.acknowledged = session.acknowledged
        request_id.started = max(self._floor, _later(hlc, time.monotonic() - heard_at)) if hlc else 0


def _later(hlc: int, seconds: float) -> int:
    return hlc + (int(seconds * 1e3) << COUNTER_BITS)
