"""A state machine on a table in memory, and entries for it."""

from __future__ import annotations

from collections.abc import Sequence

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode.shard.state_machine import StateMachine
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import Table
from kvnode.types import Entry, Txn

Command = replication_pb2.Command
EventualWrite = replication_pb2.EventualWrite
Compare, Operation, RequestId = kv_pb2.Compare, kv_pb2.BatchOperation, kv_pb2.RequestId
Part = two_phase_commit_pb2.TransactionPart
NOW = 1_000_000 << 16


class Machine(StateMachine):
    """Applies commands at the next index."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        super().__init__(Table(0, self.store))

    def do(self, command: Command, hlc: int = NOW, request: RequestId | None = None) -> object:
        """Applies a command."""
        command.hlc = hlc
        if request is not None:
            command.request.CopyFrom(request)
        return self.apply(Entry(self.applied + 1, 1, 1, command.SerializeToString()))

    def put(self, key: bytes = b"k", value: bytes = b"v", if_revision: int | None = None, hlc: int = NOW) -> object:
        """A strong put."""
        return self.do(Command(put=replication_pb2.PutCommand(key=key, value=value, if_revision=if_revision)), hlc)

    def delete(self, key: bytes = b"k", if_revision: int | None = None) -> object:
        """A strong delete."""
        return self.do(Command(delete=replication_pb2.DeleteCommand(key=key, if_revision=if_revision)))

    def sequence(self, *writes: EventualWrite, hlc: int = NOW) -> object:
        """Eventual writes get their places."""
        return self.do(Command(sequence=replication_pb2.SequenceCommand(writes=writes)), hlc)

    def collect(self, horizon: int) -> object:
        """Tombstones go."""
        return self.do(Command(collect=replication_pb2.CollectCommand(horizon=horizon)))

    def transact(self, part: Part, hlc: int = NOW, request: RequestId | None = None) -> object:
        """A transaction inside the shard."""
        return self.do(Command(transact=replication_pb2.TransactCommand(part=part)), hlc, request)

    def prepare(self, txn: Txn, part: Part, anchor: int = 0, participants: Sequence[int] = (0, 1), hlc: int = NOW) -> object:
        """A vote."""
        prepare = replication_pb2.PrepareCommand(transaction=named(txn), anchor=anchor, participants=participants, part=part)
        return self.do(Command(prepare=prepare), hlc)

    def decide(
        self,
        txn: Txn,
        commit: bool = True,
        succeeded: bool = True,
        hlc: int = NOW,
        request: RequestId | None = None,
        response: bytes = b"",
    ) -> object:
        """A decision, in the anchor's log."""
        decide = replication_pb2.DecideCommand(transaction=named(txn), commit=commit, succeeded=succeeded, response=response)
        return self.do(Command(decide=decide), hlc, request)

    def resolve(self, txn: Txn, commit: bool = True, succeeded: bool = True, committed_at: int = NOW, hlc: int = NOW) -> object:
        """The end, in a participant's log."""
        resolve = replication_pb2.ResolveCommand(
            transaction=named(txn), commit=commit, succeeded=succeeded, committed_at=committed_at
        )
        return self.do(Command(resolve=resolve), hlc)

    def forget(self, *txns: Txn) -> object:
        """Decisions that all have applied."""
        return self.do(Command(forget=replication_pb2.ForgetCommand(transactions=map(named, txns))))

    def rows(self) -> list[tuple[bytes, bytes]]:
        """Everything that a flush, or a snapshot, of this one holds."""
        self.before_freeze()
        return list(self.table.scan(b"", None))

    def value(self, key: bytes = b"k") -> bytes | None:
        """What a reader sees."""
        version = self.version(key)
        return version.value if version else None

    def reloaded(self) -> Machine:
        """Another machine with what a flush, or a snapshot, of this one holds."""
        other = Machine()
        other.store.commit({0: self.rows()})
        other.reload()
        return other


def eventual(
    sequence: int,
    key: bytes = b"k",
    value: bytes | None = b"e",
    hlc: int = NOW,
    base: int = 99,
    node: str = "b",
    incarnation: int = 1,
) -> EventualWrite:
    """An eventual write; None deletes. With its base at 99 it has seen everything."""
    return EventualWrite(
        node=node,
        incarnation=incarnation,
        sequence=sequence,
        hlc=hlc,
        base=base,
        key=key,
        value=value or b"",
        deletion=value is None,
    )


def txn(number: int, start: int | None = None) -> Txn:
    """A transaction; without a start it is as old as its number is small."""
    return Txn(number if start is None else start, b"%016d" % number)


def named(one: Txn) -> two_phase_commit_pb2.TransactionId:
    """As a message names it."""
    return two_phase_commit_pb2.TransactionId(start=one.start, id=one.id)


def put(key: bytes = b"k", value: bytes = b"t") -> Operation:
    """An operation of a transaction."""
    return Operation(put=kv_pb2.PutRequest(key=key, value=value))


def delete(key: bytes = b"k") -> Operation:
    """An operation of a transaction."""
    return Operation(delete=kv_pb2.DeleteRequest(key=key))


def get(key: bytes = b"k") -> Operation:
    """An operation of a transaction."""
    return Operation(get=kv_pb2.GetRequest(key=key))


def ranged(prefix: bytes, limit: int = 0, keys_only: bool = False) -> Operation:
    """An operation of a transaction."""
    return Operation(range=kv_pb2.RangeRequest(prefix=prefix, limit=limit, keys_only=keys_only))


def part(*then: Operation, compare: Sequence[Compare] = (), otherwise: Sequence[Operation] = ()) -> Part:
    """What a shard has to do."""
    return Part(compare=compare, then=then, otherwise=otherwise)


def request(session: bytes, sequence: int, acknowledged: int = 0, started: int = NOW) -> RequestId:
    """A client's name for a request."""
    return RequestId(session=session, sequence=sequence, acknowledged=acknowledged, started=started)
