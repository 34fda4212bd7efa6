"""What a shard remembers of its clients' writes, so that a retry executes nothing twice (Ongaro 2014, section 6.3).

Replicated state: changed by log entries alone, and by their stamps alone where time matters. It has bounds of number, size and
idle time; whatever is forgotten is an error when it comes again, never a second execution.

Invariants (DESIGN section 12.12):
- A request that executed is answered with its first result, or refused for good: at its session's `forgotten` number or
  below, or, with that session gone, at `horizon` or below. That holds because a session's `active_at` is never below the
  `started` of what it executed, `horizon` never below the `active_at` of a session that is gone, and a session that comes
  back remembers the `horizon` of that moment as `after`.
- A request that was never tried is refused only where that cannot be told from one that was.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode import limits
from kvnode.errors import CompareFailed, SessionExpired
from kvnode.types import Hlc, Index

RESULT_OVERHEAD_BYTES = 120
SKEW: Hlc = limits.CLOCK_SKEW_MS_MAX << 16
IDLE: Hlc = limits.CLIENT_SESSION_IDLE_MS_MAX << 16


class WriteResult(NamedTuple):
    """A strong write took effect."""

    revision: Index
    existed: bool


class ComparedInVain(NamedTuple):
    """A strong write did not take effect: the key's revision was another one. (No exception: that would keep alive all that
    whoever raises it has in hand.)"""

    revision: Index
    message: str

    def error(self) -> CompareFailed:
        """What the client is told."""
        return CompareFailed(self.message, revision=self.revision)


Result = WriteResult | ComparedInVain | bytes
"""Of a put or delete; of one that compared in vain; of a transaction: its serialized `TxnResponse`."""


@dataclass(slots=True)
class _Session:
    """One client's writes to this shard."""

    after: Hlc
    forgotten: int = 0
    active_at: Hlc = 0
    active_index: Index = 0
    size_bytes: int = 0
    results: OrderedDict[int, Result] = field(default_factory=OrderedDict)


class ClientSessions:
    """By session, the longest idle first."""

    def __init__(self) -> None:
        self.horizon: Hlc = 0
        """No session that is gone was active later."""
        self.time: Hlc = 0
        """The largest stamp of any entry with a request."""
        self._sessions: OrderedDict[bytes, _Session] = OrderedDict()
        self._size_bytes = 0
        self._changed: dict[bytes, None] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    # ---- asking -----------------------------------------------------------------------------------------------------

    def find(self, request: kv_pb2.RequestId, now: Hlc) -> Result | SessionExpired | None:
        """What became of the request, or that nobody can know; None: it was never executed here. `now`: the entry's stamp."""
        self.time = max(self.time, now)
        self._expire_idle()
        session = self._sessions.get(request.session) or _Session(after=self.horizon)
        result = session.results.get(request.sequence)
        if result is not None:
            return result
        latest = max(self.time + SKEW, self.horizon + 1)
        if request.sequence > session.forgotten and session.after < request.started <= latest:
            return None
        clock = max(self.horizon + 1, self.time)
        return SessionExpired(
            f"request {request.sequence} of client {request.session.hex()[:8]} is too old, or from a clock too far ahead, to "
            "know whether it was executed before; this attempt was not",
            clock=clock,
        )

    def record(self, request: kv_pb2.RequestId, result: Result, index: Index) -> None:
        """The request was executed, by the entry `index`, which asked `find`."""
        session = self._sessions.get(request.session)
        if session is None:
            session = self._sessions[request.session] = _Session(after=self.horizon)
        self._sessions.move_to_end(request.session)
        self._changed[request.session] = None
        session.active_at, session.active_index = max(session.active_at, self.time, request.started), index
        session.results[request.sequence] = result
        self._grow(session, _size(result))
        if request.acknowledged > session.forgotten:
            self._forget_up_to(session, request.acknowledged)
        while (
            len(session.results) > limits.CLIENT_RESULTS_PER_SESSION_MAX
            or session.size_bytes > limits.CLIENT_RESULTS_PER_SESSION_SIZE_BYTES_MAX
        ):
            self._forget_lowest(session)
        while len(self._sessions) > limits.CLIENT_SESSIONS_PER_SHARD_MAX or (
            self._size_bytes > limits.CLIENT_RESULTS_SIZE_BYTES_MAX and len(self._sessions) > 1
        ):
            self._drop_longest_idle()

    # ---- forgetting -------------------------------------------------------------------------------------------------

    def _forget_up_to(self, session: _Session, sequence: int) -> None:
        session.forgotten = max(session.forgotten, sequence)
        for old in [number for number in session.results if number <= session.forgotten]:
            self._grow(session, -_size(session.results.pop(old)))

    def _grow(self, session: _Session, size_bytes: int) -> None:
        session.size_bytes += size_bytes
        self._size_bytes += size_bytes

    def _forget_lowest(self, session: _Session) -> None:
        # An eighth at once, so that a full window does not cost a search for each write.
        self._forget_up_to(session, sorted(session.results)[len(session.results) // 8])

    def _expire_idle(self) -> None:
        while self._sessions and next(iter(self._sessions.values())).active_at + IDLE < self.time:
            self._drop_longest_idle()

    def _drop_longest_idle(self) -> None:
        name, session = self._sessions.popitem(last=False)
        self.horizon = max(self.horizon, session.active_at)
        self._size_bytes -= session.size_bytes
        self._changed[name] = None

    # ---- rows -------------------------------------------------------------------------------------------------------

    def rows_due(self) -> Iterator[tuple[bytes, bytes | None]]:
        """Sessions that changed since the last call, by name; None: gone."""
        changed, self._changed = self._changed, {}
        for name in changed:
            session = self._sessions.get(name)
            yield name, None if session is None else _encode(name, session)

    def restore(self, rows: Iterator[bytes], horizon: Hlc, time: Hlc) -> None:
        """From what was stored."""
        self.horizon, self.time = horizon, time
        stored = [replication_pb2.ClientSession.FromString(row) for row in rows]
        for one in sorted(stored, key=lambda session: session.active_index):
            session = _Session(one.after, one.forgotten, one.active_at, one.active_index)
            for result in one.results:
                session.results[result.sequence] = _decode_result(result)
            self._sessions[one.session] = session
            self._grow(session, sum(map(_size, session.results.values())))


def _size(result: Result) -> int:
    if isinstance(result, bytes):
        return RESULT_OVERHEAD_BYTES + len(result)
    return RESULT_OVERHEAD_BYTES + (len(result.message) if isinstance(result, ComparedInVain) else 0)


def _encode(name: bytes, session: _Session) -> bytes:
    row = replication_pb2.ClientSession(
        session=name,
        forgotten=session.forgotten,
        active_at=session.active_at,
        active_index=session.active_index,
        after=session.after,
    )
    for sequence, result in session.results.items():
        stored = row.results.add(sequence=sequence)
        if isinstance(result, bytes):
            stored.response = result
        elif isinstance(result, ComparedInVain):
            stored.compare_failed, stored.message = result
        else:
            stored.revision, stored.existed = result
    return row.SerializeToString()


def _decode_result(stored: replication_pb2.ClientSession.Result) -> Result:
    if stored.HasField("compare_failed"):
        return ComparedInVain(stored.compare_failed, stored.message)
    if stored.revision:
        return WriteResult(stored.revision, stored.existed)
    return stored.response
