"""A shard's real rows, of all kinds, as a node stored them: what is damaged in the tests of rows and snapshots."""

from __future__ import annotations

import functools
import random

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode import limits
from kvnode.shard.state_machine import StateMachine
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import Table
from kvnode.types import Entry

Command = replication_pb2.Command
NOW = 1_700_000_000_000 << 16
SHARD = 0


def _commands() -> list[Command]:
    """Puts, deletes, clients' names, eventual writes of two origins, transactions under way and ended."""
    txn = [two_phase_commit_pb2.TransactionId(start=n, id=bytes([n]) * 16) for n in range(1, 5)]
    put = [kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=b"t%d" % n, value=b"in %d" % n)) for n in range(4)]
    prepare = [
        replication_pb2.PrepareCommand(
            transaction=txn[n], anchor=0, participants=[0, 1], part=two_phase_commit_pb2.TransactionPart(then=[put[n]])
        )
        for n in range(3)
    ]
    writes = [
        replication_pb2.EventualWrite(node="n2", incarnation=1, sequence=n, hlc=NOW + n, base=0, key=b"e%d" % n, value=b"v")
        for n in range(1, 4)
    ]
    late = replication_pb2.EventualWrite(node="n3", incarnation=2, sequence=1, hlc=NOW, base=0, key=b"k1", value=b"late")
    locked = replication_pb2.EventualWrite(node="n3", incarnation=2, sequence=2, hlc=NOW, base=9, key=b"t0", value=b"waits")
    name = kv_pb2.RequestId(session=b"c" * 16, sequence=1, started=NOW)
    return [
        Command(term_start=replication_pb2.TermStartCommand()),
        *(Command(put=replication_pb2.PutCommand(key=b"k%d" % n, value=b"value %d" % n)) for n in range(5)),
        Command(delete=replication_pb2.DeleteCommand(key=b"k2")),
        Command(put=replication_pb2.PutCommand(key=b"named", value=b"once"), request=name),
        Command(sequence=replication_pb2.SequenceCommand(writes=[*writes, late])),
        *(Command(prepare=one) for one in prepare),
        Command(sequence=replication_pb2.SequenceCommand(writes=[locked])),
        Command(decide=replication_pb2.DecideCommand(transaction=txn[1], commit=True, succeeded=True)),
        Command(decide=replication_pb2.DecideCommand(transaction=txn[2], commit=False)),
        Command(decide=replication_pb2.DecideCommand(transaction=txn[3], commit=False)),
    ]


@functools.cache
def rows() -> tuple[tuple[bytes, bytes], ...]:
    """All rows of the shard after these commands, in order."""
    store = MemoryStore(random.Random(0))
    table = Table(SHARD, store)
    machine = StateMachine(table)
    for index, command in enumerate(_commands(), 1):
        command.hlc = NOW + index
        machine.apply(Entry(index, 1, int(replication_pb2.ENTRY_KIND_COMMAND), command.SerializeToString()))
    machine.before_freeze()
    found = tuple(table.scan(b"", None))
    assert {key[:1] for key, _ in found} == {b"c", b"d", b"e", b"m", b"n", b"p", b"s", b"t", b"w"}, "a kind of row is missing"
    assert len(found) < limits.RANGE_ROWS_SCANNED_MAX
    return found


def store_of(these: list[tuple[bytes, bytes]] | tuple[tuple[bytes, bytes], ...]) -> MemoryStore:
    """A store with these rows in the shard."""
    store = MemoryStore(random.Random(0))
    store.commit({SHARD: these})
    return store
