"""A state machine on a table in memory, and entries for it."""

from __future__ import annotations

from kvapi.v1 import replication_pb2
from kvnode.shard.state_machine import StateMachine
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.table import Table
from kvnode.types import Entry

Command = replication_pb2.Command
EventualWrite = replication_pb2.EventualWrite
NOW = 1_000_000 << 16


class Machine(StateMachine):
    """Applies commands at the next index."""

    def __init__(self) -> None:
        self.store = MemoryStore()
        super().__init__(Table(0, self.store))

    def do(self, command: Command, hlc: int = NOW) -> object:
        """Applies a command."""
        command.hlc = hlc
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

    def value(self, key: bytes = b"k") -> bytes | None:
        """What a reader sees."""
        version = self.version(key)
        return version.value if version else None

    def reloaded(self) -> Machine:
        """Another machine with what a flush, or a snapshot, of this one holds."""
        other = Machine()
        self.before_freeze()
        other.store.commit({0: list(self.table.scan(b"", None))})
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
