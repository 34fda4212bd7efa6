"""What a committed entry does to a shard: committed command -> writes + result.

Owns the meaning of every row of the shard's table. Deterministic: the same entries give the same rows, results and
`state_hash` on every replica (DESIGN section 12.13); it reads no clock, the time of an entry is in the entry.

Rows, by the first byte of their key:
  d + key                       the key's version (`version.py`)
  t + place (8 bytes) + key     a tombstone, so that collection finds the oldest first
  s + number (8 bytes)          a superseded eventual write; the latest `SUPERSEDED_KEPT_PER_SHARD` are kept
  w + number (8 bytes)          an eventual write that waits for a transaction to end
  p + start (8 bytes) + id      a transaction that this shard has voted for
  e + number (8 bytes)          how a transaction ended; the latest `TRANSACTIONS_ENDED_PER_SHARD_MAX` are kept
  c + session                   what became of a client's writes
  m                             applied index and term, hash, counters, watermarks
  n                             horizons and counters of transactions and clients
                                (p, e, c, m and n are written when the table is frozen)
  l + …                         local to this replica, not part of the replicated state: held eventual writes
"""

from __future__ import annotations

import struct
from collections import OrderedDict
from collections.abc import Iterator
from typing import NamedTuple, Protocol

import xxhash

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.errors import CompareFailed, InvalidRequest, KvnodeError, Overloaded, SessionExpired
from kvnode.invariant import invariant
from kvnode.protocol.eventual.verdict import Stamp, verdict
from kvnode.protocol.two_phase_commit.locks import Locks
from kvnode.shard.client_sessions import ClientSessions, ComparedInVain, Result, WriteResult
from kvnode.shard.evaluate import Operations, Reading, locks_of, writes_of
from kvnode.shard.rows import HORIZON_FIELDS, META_FIELDS, ORIGIN_FIELDS, origins_of, readable
from kvnode.shard.superseded import Settled, SupersededRecord, decode_superseded, encode_superseded
from kvnode.shard.transactions import End, Ended, Locked, Prepared, Transactions, Vote, txn_of
from kvnode.shard.version import Version, decode_version, encode_version
from kvnode.shard.waiting_writes import WaitingWrites
from kvnode.types import Entry, Hlc, Index, Origin, Term

DATA, TOMBSTONE, SUPERSEDED, META, LOCAL = b"d", b"t", b"s", b"m", b"l"
WAITING, PREPARED, ENDED, CLIENT, HORIZONS = b"w", b"p", b"e", b"c", b"n"
_U64 = struct.Struct(">Q")
_META, _ORIGIN, _HORIZONS = META_FIELDS, ORIGIN_FIELDS, HORIZON_FIELDS


class Table(Protocol):
    """The ordered rows of one shard; `kvnode.storage.table` is the real one."""

    def get(self, key: bytes) -> bytes | None: ...
    def put(self, key: bytes, value: bytes) -> None: ...
    def delete(self, key: bytes) -> None: ...
    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, bytes]]: ...


class Position(NamedTuple):
    """A place in the log."""

    index: Index  # type: ignore[assignment]
    term: Term


class Decision(NamedTuple):
    """What the anchor's log says of a transaction."""

    end: End
    executed: bytes | None = None
    """Aborted because the client's request was executed before: its answer then, a `TxnResponse`."""
    refused: KvnodeError | None = None
    """Aborted because nobody can know whether the client's request was executed before, or it was no transaction."""
    forgotten: bool = False
    """It is too old: how it ended, nobody knows any more."""


Applied = WriteResult | bytes | Vote | Ended | Locked | Decision | KvnodeError | list[tuple[Origin, int]] | None
"""Of a strong write; of a transaction (a serialized `TxnResponse`); of a vote; of a decision; of eventual writes: those that
got their place."""


class StateMachine:
    """One shard's replicated state over a `Table`."""

    def __init__(self, table: Table) -> None:
        self.table = table
        self.transactions = Transactions()
        self.reload()

    @readable("the stored state of a shard")
    def reload(self) -> None:
        """Reads what the table's last freeze, or a snapshot, says about the whole."""
        self.applied: Index = 0
        self.applied_term: Term = 0
        self.state_hash = self.horizon = self.superseded_total = self.keys = self.tombstones = 0
        self.sequenced: dict[Origin, int] = {}
        self.settled: list[Settled] = []
        """Eventual writes that somebody may want to hear of, since `Replica.ready` took them."""
        row = self.table.get(META)
        if row is not None:
            fields = _META.unpack_from(row)
            (
                self.applied,
                self.applied_term,
                self.state_hash,
                self.horizon,
                self.superseded_total,
                self.keys,
                self.tombstones,
            ) = fields
            for node, incarnation, sequence in origins_of(row):
                self.sequenced[Origin(node, incarnation)] = sequence
        self.superseded: OrderedDict[tuple[Origin, int], SupersededRecord] = OrderedDict()
        self.placed: OrderedDict[tuple[Origin, int], tuple[Index, bytes]] = OrderedDict()
        """Where the latest eventual writes took effect, and on which key; not part of the state: it only answers questions."""
        for value in self._rows(SUPERSEDED):
            record = decode_superseded(value)
            self.superseded[record.origin, record.sequence] = record
        horizons = self.table.get(HORIZONS)
        session_horizon, session_time, horizon, ends = _HORIZONS.unpack(horizons) if horizons else (0, 0, 0, 0)
        self.clients = ClientSessions()
        self.clients.restore(self._rows(CLIENT), session_horizon, session_time)
        # (Whoever waits for an end looks again: it may have come with these rows.)
        self.transactions = Transactions(releases=self.transactions.releases + 1)
        self.transactions.restore(self._rows(PREPARED), self._rows(ENDED), horizon, ends)
        self.waiting = WaitingWrites()
        for key, row in self.table.scan(WAITING, _after(WAITING)):
            self.waiting.restore(_U64.unpack_from(key, 1)[0], replication_pb2.EventualWrite.FromString(row))

    def _rows(self, space: bytes) -> Iterator[bytes]:
        return (row for _, row in self.table.scan(space, _after(space)))

    @staticmethod
    @readable("the stored position of a shard")
    def position(meta_row: bytes | None) -> Position:
        """What a flushed META row stands for; (0, 0) without one."""
        return Position(0, 0) if meta_row is None else Position(*_META.unpack_from(meta_row)[:2])

    def before_freeze(self) -> None:
        """Writes what the applied index implies into the table, so that it is flushed in the same transaction."""
        meta = _META.pack(
            self.applied, self.applied_term, self.state_hash, self.horizon, self.superseded_total, self.keys, self.tombstones
        )
        origins = b"".join(
            _ORIGIN.pack(sequence, origin.incarnation, len(origin.node.encode())) + origin.node.encode()
            for origin, sequence in self.sequenced.items()
        )
        self.table.put(META, meta + origins)
        clients, transactions = self.clients, self.transactions
        horizons = (clients.horizon, clients.time, transactions.horizon, transactions.ends)
        if any(horizons):
            self.table.put(HORIZONS, _HORIZONS.pack(*horizons))
        for name, row in clients.rows_due():
            self._put_or_delete(CLIENT + name, row)
        for txn, row in transactions.prepared_rows_due():
            self._put_or_delete(PREPARED + _U64.pack(txn.start) + txn.id, row)
        for number, row in transactions.ended_rows_due():
            self._put_or_delete(ENDED + _U64.pack(number), row)

    def _put_or_delete(self, key: bytes, row: bytes | None) -> None:
        if row is None:
            self.table.delete(key)
        else:
            self.table.put(key, row)

    # ---- reading ----------------------------------------------------------------------------------------------------

    def version(self, key: bytes) -> Version | None:
        """The key's version, a tombstone too; None where nothing is remembered."""
        row = self.table.get(DATA + key)
        return None if row is None else decode_version(row)

    def scan(self, start: bytes, end: bytes | None) -> Iterator[tuple[bytes, Version]]:
        """Versions with start <= key < end in key order, tombstones too."""
        for key, row in self.table.scan(DATA + start, _after(DATA) if end is None else DATA + end):
            yield key[1:], decode_version(row)

    # ---- applying ---------------------------------------------------------------------------------------------------

    def apply(self, entry: Entry) -> Applied:
        """Applies the next entry. Answers the outcome of what a client or a coordinator asked for, or the eventual writes that
        got their place."""
        invariant(entry.index == self.applied + 1, f"entry {entry.index} applied behind {self.applied}")
        command = replication_pb2.Command.FromString(entry.data)
        result = self._execute_once(entry.index, command)
        self.applied, self.applied_term = entry.index, entry.term
        self._mix(_U64.pack(entry.index))
        return result

    def _execute_once(self, index: Index, command: replication_pb2.Command) -> Applied:
        if not command.HasField("request") or command.HasField("decide"):
            return self._execute(index, command)
        known = self.clients.find(command.request, command.hlc)
        if known is not None:
            return known.error() if isinstance(known, ComparedInVain) else known
        result = self._execute(index, command)
        # (What was refused may be tried again under the same name.)
        if isinstance(result, CompareFailed):
            self._record(index, command.request, ComparedInVain(int(result.metadata["revision"]), result.message))
        elif isinstance(result, WriteResult | bytes):
            self._record(index, command.request, result)
        return result

    def _record(self, index: Index, request: kv_pb2.RequestId, result: Result) -> None:
        self.clients.record(request, result, index)
        self._mix(request.session + _U64.pack(request.sequence))

    def _execute(self, index: Index, command: replication_pb2.Command) -> Applied:
        operation = command.WhichOneof("operation")
        if operation == "put":
            put = command.put
            expected = put.if_revision if put.HasField("if_revision") else None
            return self._strong(index, command.hlc, put.key, put.value, expected)
        if operation == "delete":
            delete = command.delete
            expected = delete.if_revision if delete.HasField("if_revision") else None
            return self._strong(index, command.hlc, delete.key, None, expected)
        if operation == "sequence":
            return [self._sequence(index, command.hlc, write) for write in command.sequence.writes]
        if operation == "transact":
            return self._transact(index, command.hlc, command.transact.part)
        if operation == "prepare":
            return self._prepare(index, command.prepare)
        if operation == "decide":
            return self._decide(index, command)
        if operation == "resolve":
            end, prepared = self.transactions.on_resolve(command.resolve)
            self._end(index, command.hlc, command.resolve.transaction, end, prepared)
            return Decision(end)
        if operation == "forget":
            self.transactions.on_forget(txn_of(one) for one in command.forget.transactions)
        elif operation == "collect":
            self._collect(command.collect.horizon)
        else:
            invariant(operation == "term_start", f"entry {index}: unknown operation {operation}")
        return None

    def _strong(
        self, index: Index, hlc: Hlc, key: bytes, value: bytes | None, expected: Index | None
    ) -> WriteResult | KvnodeError | Locked:
        locked = self._locked(Locks(writes=(key,)))
        if locked is not None:
            return locked
        old = self.version(key)
        existed = old is not None and old.value is not None
        actual = old.revision if old is not None and existed else 0
        if expected is not None and actual != expected:
            what = f"has revision {actual}" if actual else "does not exist"
            return CompareFailed(f"key {key!r} {what}, not the expected {expected}", revision=actual)
        self._strong_write(index, index, hlc, key, value)
        return WriteResult(index, existed)

    def _locked(self, wanted: Locks) -> Locked | None:
        holders = self.transactions.locks.conflicts(wanted)
        return Locked(holders) if holders else None

    def _strong_write(self, revision: Index, place: Index, hlc: Hlc, key: bytes, value: bytes | None) -> None:
        # Deleting an absent key leaves a tombstone too: an eventual write that has not seen it must not undo it.
        # Above what it replaces, whatever the clocks said (DESIGN section 9.4).
        old = self.version(key)
        self._write(revision, key, value, old, max(hlc, old.hlc + 1 if old else 0), place, "", 0)

    # ---- transactions -----------------------------------------------------------------------------------------------

    def _transact(self, index: Index, hlc: Hlc, part: two_phase_commit_pb2.TransactionPart) -> bytes | Locked | KvnodeError:
        """A transaction inside this shard."""
        locked = self._locked(locks_of(part))
        if locked is not None:
            return locked
        reading = Reading(self)
        succeeded = reading.matches(part.compare)
        branch = part.then if succeeded else part.otherwise
        try:
            results = reading.results(branch, index)
        except InvalidRequest as error:
            return error
        self._take_effect(branch, index, index, hlc)
        return kv_pb2.TxnResponse(succeeded=succeeded, results=results).SerializeToString()

    def _take_effect(self, branch: Operations, revision: Index, place: Index, hlc: Hlc) -> None:
        for key, value in writes_of(branch):
            self._strong_write(revision, place, hlc, key, value)

    def _prepare(self, index: Index, command: replication_pb2.PrepareCommand) -> Vote | Ended | Locked | KvnodeError:
        """Phase one: takes the locks and votes, or changes nothing. While the locks are held, a repeated vote is the same."""
        transactions, txn, part = self.transactions, txn_of(command.transaction), command.part
        known = transactions.prepared.get(txn)
        end = transactions.end_of(txn)
        if end is not None:
            return Ended(end, transactions.horizon)
        wanted = locks_of(part)
        locked = self._locked(wanted) if known is None else None
        if locked is not None:
            return locked
        if known is None and transactions.is_full:
            return Overloaded(f"{len(transactions.prepared)} transactions are prepared in the shard already; try again")
        if known is not None:
            index = known.index
        reading = Reading(self)
        matched = reading.matches(part.compare) if known is None else known.matched
        try:
            then = reading.results(part.then, index) if matched else []
            vote = Vote(index, matched, then, reading.results(part.otherwise, index))
        except InvalidRequest as error:
            return error
        if known is None:
            transactions.on_prepare(command, index, matched, wanted)
            self._mix(txn.id)
        return vote

    def _decide(self, index: Index, command: replication_pb2.Command) -> Decision:
        """In the anchor's log: the decision, unless there is one. The client's request is executed here, at most once."""
        decide = command.decide
        txn = txn_of(decide.transaction)
        if self.transactions.is_forgotten(txn):
            return Decision(End(committed=False), forgotten=True)
        known: object = None
        if command.HasField("request") and decide.commit and self.transactions.end_of(txn) is None:
            known = self.clients.find(command.request, command.hlc)
            if known is not None:
                decide.commit = False
        end, prepared = self.transactions.on_decide(decide, command.hlc)
        if end.committed and prepared is not None and command.HasField("request"):
            self._record(index, command.request, decide.response)
        self._end(index, command.hlc, decide.transaction, end, prepared)
        if known is None or isinstance(known, bytes):
            return Decision(end, executed=known)
        if isinstance(known, SessionExpired):
            return Decision(end, refused=known)
        return Decision(end, refused=InvalidRequest("request", "this id belongs to another request, which was no transaction"))

    def _end(
        self, index: Index, now: Hlc, transaction: two_phase_commit_pb2.TransactionId, end: End, prepared: Prepared | None
    ) -> None:
        """Phase two: the writes take effect or not, and what waited for the locks goes on."""
        self._mix(transaction.id + bytes([end.committed]))
        if prepared is None:
            return
        if end.committed:
            part = prepared.command.part
            self._take_effect(part.then if end.succeeded else part.otherwise, prepared.index, index, end.committed_at)
        released = locks_of(prepared.command.part) if self.waiting else Locks()
        for number, write in self.waiting.take_unlocked(released, self.transactions.locks.is_locked):
            self.table.delete(WAITING + _U64.pack(number))
            self._eventual(index, now, write)

    # ---- eventual writes --------------------------------------------------------------------------------------------

    def _sequence(self, index: Index, now: Hlc, write: replication_pb2.EventualWrite) -> tuple[Origin, int]:
        """An eventual write gets its place: here, or where the transaction ends that has its key locked."""
        origin = Origin(write.node, write.incarnation)
        expected = self.sequenced.get(origin, 0) + 1
        if write.sequence < expected:
            return origin, write.sequence
        invariant(write.sequence == expected, f"eventual write {origin} {write.sequence} where {expected} was due")
        self.sequenced[origin] = write.sequence
        if self.transactions.locks.is_locked(write.key):
            number = self.waiting.add(write)
            self.table.put(WAITING + _U64.pack(number), write.SerializeToString())
        else:
            self._eventual(index, now, write)
        return origin, write.sequence

    def _eventual(self, index: Index, now: Hlc, write: replication_pb2.EventualWrite) -> None:
        origin = Origin(write.node, write.incarnation)
        old = self.version(write.key)
        # A stamp from a clock far ahead counts as the leader's time plus the tolerated skew.
        hlc = min(write.hlc, now + (limits.CLOCK_SKEW_MS_MAX << 16))
        if old is not None and (write.base >= old.place or origin == (old.node, old.incarnation)):
            # It had seen what it replaces, or its own origin wrote that before it: above it, whatever the clocks said.
            hlc = max(hlc, old.hlc + 1)
        lost = verdict(Stamp(hlc, *origin), write.base, old.current if old else None, self.horizon)
        if lost is not None or write.traceparent:
            self.settled.append(Settled(write, index, lost))
        if lost is not None:
            self._remember_superseded(SupersededRecord(origin, write.sequence, write.key, index, lost, hlc))
        else:
            strong_index = old.strong_index if old else self.horizon
            self._write(index, write.key, None if write.deletion else write.value, old, hlc, strong_index, *origin)
            self.placed[origin, write.sequence] = (index, write.key)
            if len(self.placed) > limits.PLACED_KEPT_PER_SHARD:
                self.placed.popitem(last=False)

    def _write(
        self,
        index: Index,
        key: bytes,
        value: bytes | None,
        old: Version | None,
        hlc: Hlc,
        strong: Index,
        node: str,
        incarnation: int,
    ) -> None:
        existed = old is not None and old.value is not None
        create = old.create_revision if old is not None and existed and value is not None else index
        number = old.version + 1 if old is not None and existed and value is not None else 1
        new = Version(index, create, number, hlc, strong, node, incarnation, value)
        row = encode_version(new)
        self.table.put(DATA + key, row)
        self.keys += (value is not None) - existed
        if value is None:
            tombstone = TOMBSTONE + _U64.pack(new.place) + key
            # (One entry may write a key twice: where writes have waited for a transaction.)
            self.tombstones += self.table.get(tombstone) is None
            self.table.put(tombstone, b"")
        self._mix(key + row)

    def _collect(self, horizon: Index) -> None:
        for row_key, _ in list(self.table.scan(TOMBSTONE, TOMBSTONE + _U64.pack(horizon + 1))):
            place, key = _U64.unpack_from(row_key, 1)[0], row_key[9:]
            self.table.delete(row_key)
            self.tombstones -= 1
            version = self.version(key)
            if version is not None and version.value is None and version.place == place:
                self.table.delete(DATA + key)
                self._mix(key)
        self.horizon = max(self.horizon, horizon)

    def oldest_tombstones(self, count: int, up_to: Index) -> Index:
        """The horizon that collects at most `count` tombstones, none newer than `up_to`; 0 when there is none."""
        horizon = 0
        for row_key, _ in self.table.scan(TOMBSTONE, TOMBSTONE + _U64.pack(up_to + 1)):
            horizon = _U64.unpack_from(row_key, 1)[0]
            count -= 1
            if count <= 0:
                break
        return horizon

    def _remember_superseded(self, record: SupersededRecord) -> None:
        self.superseded_total += 1
        self.table.put(SUPERSEDED + _U64.pack(self.superseded_total), encode_superseded(record))
        self.superseded[record.origin, record.sequence] = record
        if len(self.superseded) > limits.SUPERSEDED_KEPT_PER_SHARD:
            self.superseded.popitem(last=False)
            self.table.delete(SUPERSEDED + _U64.pack(self.superseded_total - limits.SUPERSEDED_KEPT_PER_SHARD))
        self._mix(record.key)

    def _mix(self, data: bytes) -> None:
        self.state_hash = xxhash.xxh3_64_intdigest(data, seed=self.state_hash)


def _after(space: bytes) -> bytes:
    return bytes([space[0] + 1])
