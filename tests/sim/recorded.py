"""A client whose every request and answer becomes a record for `serializability`.

Owns: how transactions and strong operations on one key are asked for, and what their answers mean. What an answer says about
itself is checked at once: as many results as operations, comparisons that fit what was read, one revision in each shard.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of
from kvnode.errors import CompareFailed, KvnodeError

from .client import Client
from .serializability import Seen, Transaction, Transactions, Writes
from .world import World

if TYPE_CHECKING:
    from .invariants import Invariant

STRONG, SESSION = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_SESSION
EQUAL, NOT_EQUAL = kv_pb2.COMPARE_OPERATOR_EQUAL, kv_pb2.COMPARE_OPERATOR_NOT_EQUAL
GREATER, LESS = kv_pb2.COMPARE_OPERATOR_GREATER, kv_pb2.COMPARE_OPERATOR_LESS


def put(key: bytes, value: bytes) -> kv_pb2.BatchOperation:
    """A put in a transaction."""
    return kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=key, value=value))


def get(key: bytes) -> kv_pb2.BatchOperation:
    """A get in a transaction."""
    return kv_pb2.BatchOperation(get=kv_pb2.GetRequest(key=key))


def delete(key: bytes) -> kv_pb2.BatchOperation:
    """A deletion in a transaction."""
    return kv_pb2.BatchOperation(delete=kv_pb2.DeleteRequest(key=key))


def all_with(prefix: bytes) -> kv_pb2.BatchOperation:
    """A range in a transaction."""
    return kv_pb2.BatchOperation(range=kv_pb2.RangeRequest(prefix=prefix))


def at_revision(key: bytes, revision: int) -> kv_pb2.Compare:
    """The comparison that fails if the key was written since."""
    return kv_pb2.Compare(key=key, revision=revision)


class RecordedClient(Client):
    """Returns records, whatever came of the request."""

    def __init__(self, world: World, name: str, rng: random.Random, transactions: Transactions) -> None:
        super().__init__(world, name, rng)
        self.transactions = transactions
        self.token = b""
        self._values = 0

    def value(self, number: int) -> bytes:
        """A value that stands for a number, and that nobody else writes."""
        self._values += 1
        return b"%d#%s.%d" % (number, self.name.encode(), self._values)

    async def step(self, invariant: Invariant) -> None:
        """One thing that a client does for an invariant."""
        await invariant.step(self)

    def _patience(self) -> tuple[float, int]:
        return self.rng.choice((0.1, 0.5, 2.0, 5.0)), self.rng.choice((1, 2, 4, 8))

    # ---- transactions -----------------------------------------------------------------------------------------------

    async def txn(
        self,
        compare: Sequence[kv_pb2.Compare],
        then: Sequence[kv_pb2.BatchOperation],
        otherwise: Sequence[kv_pb2.BatchOperation] = (),
    ) -> Transaction:
        """A transaction; afterwards, perhaps, a session read of what it wrote."""
        expected = {c.key: c.revision for c in compare if c.WhichOneof("operand") == "revision" and c.operator in (0, EQUAL)}
        record = self.transactions.invoke(self.name, _writes(then), _writes(otherwise), expected)
        request = kv_pb2.TxnRequest(compare=compare, then=then, otherwise=otherwise, session=self.token)
        is_write = bool(record.then or record.otherwise)
        try:
            response = await (self.write if is_write else self.ask)(request, *self._patience())
        except KvnodeError as error:
            self._refused(record, error, is_write)
            return record
        self.token = response.served[-1].session
        self._check_token(record)
        self._executed(record, compare, then if response.succeeded else otherwise, response)
        if record.writes and self.rng.random() < 0.2:
            await self._read_back(record, self.token)
        return record

    def _check_token(self, record: Transaction) -> None:
        """Servers join what they are told: a token does not grow."""
        shards = [position.shard for position in kv_pb2.SessionToken.FromString(self.token).positions]
        if len(shards) != len(dict.fromkeys(shards)):
            self.world.violate("a session's token has each shard once", f"{record}: {shards}")

    async def look(self, keys: Sequence[bytes]) -> Transaction:
        """A transaction that only reads."""
        return await self.txn([], [get(key) for key in keys])

    def _executed(
        self,
        record: Transaction,
        compare: Sequence[kv_pb2.Compare],
        operations: Sequence[kv_pb2.BatchOperation],
        response: kv_pb2.TxnResponse,
    ) -> None:
        reads: dict[bytes, Seen] = {}
        revisions: dict[bytes, int] = {}
        asked = [operation.WhichOneof("operation") for operation in operations]
        if asked != [result.WhichOneof("result") for result in response.results]:
            self.world.violate("every operation has its result", f"{record}: {asked}, {response}")
        for operation, result in zip(operations, response.results, strict=False):
            if result.HasField("get"):
                reads[operation.get.key] = seen_in(result.get)
            elif result.HasField("put"):
                revisions[operation.put.key] = result.put.revision
            elif result.HasField("delete"):
                revisions[operation.delete.key] = result.delete.revision
            elif result.HasField("range"):
                reads.update((item.key, Seen(item.value, item.revision, item.version)) for item in result.range.items)
                record.prefixes.append(operation.range.prefix)
        self.transactions.ok(record, reads, revisions, succeeded=response.succeeded)
        self._note(record)
        places: dict[int, int] = {}
        for key, revision in revisions.items():
            if places.setdefault(shard_of(key, self.world.config.cluster.shards), revision) != revision:
                self.world.violate("a transaction has one revision in each shard", str(record))
        held = [holds(one, reads[one.key]) for one in compare if one.key in reads]
        told_all = len(held) == len(compare)
        if (response.succeeded and not all(held)) or (told_all and all(held) and not response.succeeded):
            shown = ", ".join(str(one).replace("\n", " ") for one in compare)
            self.world.violate("comparisons and reads see one state", f"{record}: {shown}: {response}")

    async def _read_back(self, record: Transaction, token: bytes) -> None:
        """Read your writes: a session read, wherever, after the transaction has been answered."""
        key = self.rng.choice(list(record.writes))
        request = kv_pb2.GetRequest(key=key, consistency=SESSION, session=token)
        try:
            response = await self.ask(request, 1.0)
        except KvnodeError:
            return
        self.world.counts["transactions read back"] += 1
        if response.found and not response.tentative and response.revision < record.revisions[key]:
            self.world.violate("a session reads what its transaction wrote", f"{key!r} in {record}: {response}")

    # ---- one key ----------------------------------------------------------------------------------------------------

    async def put(self, key: bytes, value: bytes, expected: int | None = None) -> Transaction:
        """A strong put; with `expected` a compare-and-set."""
        request = kv_pb2.PutRequest(key=key, value=value, consistency=STRONG, if_revision=expected)
        return await self._write(key, value, expected, request)

    async def delete(self, key: bytes) -> Transaction:
        """A strong deletion."""
        return await self._write(key, None, None, kv_pb2.DeleteRequest(key=key, consistency=STRONG))

    async def _write(self, key: bytes, value: bytes | None, expected: int | None, request: Any) -> Transaction:
        record = self.transactions.invoke(self.name, {key: value}, {}, {} if expected is None else {key: expected})
        try:
            response = await self.write(request, *self._patience())
        except CompareFailed as error:
            revision = int(error.metadata["revision"])
            if revision == expected:
                self.world.violate("a comparison that failed did not hold", f"{record}: {error}")
            self.transactions.ok(record, {key: Seen(None, revision)}, succeeded=False)
            self._note(record)
        except KvnodeError as error:
            self._refused(record, error, True)
        else:
            self.transactions.ok(record, {}, {key: response.revision})
            self._note(record)
        return record

    async def get(self, key: bytes) -> Transaction:
        """A strong read."""
        record = self.transactions.invoke(self.name)
        try:
            response = await self.ask(kv_pb2.GetRequest(key=key, consistency=STRONG), *self._patience())
        except KvnodeError as error:
            self._refused(record, error, False)
        else:
            if response.tentative:
                self.world.violate("a strong read shows nothing tentative", f"{record}: {response}")
            self.transactions.ok(record, {key: seen_in(response)})
            self._note(record)
        return record

    def _refused(self, record: Transaction, error: KvnodeError, is_write: bool) -> None:
        note = f"{type(error).__name__}: {error.message}"
        if error.definite or not is_write:
            self.transactions.fail(record, note)
        else:
            self.transactions.unknown(record, note)
        self._note(record)

    def _note(self, record: Transaction) -> None:
        self.world.counts[f"transactions {record.outcome if record.succeeded in (None, True) else 'compared in vain'}"] += 1
        self.world.note("", str(record))


def seen_in(response: kv_pb2.GetResponse) -> Seen:
    """What a get answered."""
    return Seen(response.value, response.revision, response.version) if response.found else Seen(None, 0)


def holds(compare: kv_pb2.Compare, seen: Seen) -> bool:
    """Whether a comparison holds of what was read, by kv.proto's words."""
    operand, operator = compare.WhichOneof("operand"), compare.operator or EQUAL
    if operand == "value" and seen.value is None:
        return operator == NOT_EQUAL
    actual: Any = {"value": seen.value, "revision": seen.revision, "exists": seen.revision > 0}[operand]
    operands = actual, getattr(compare, operand)
    return {
        EQUAL: operands[0] == operands[1],
        NOT_EQUAL: operands[0] != operands[1],
        GREATER: operands[0] > operands[1],
        LESS: operands[0] < operands[1],
    }[operator]


def _writes(operations: Sequence[kv_pb2.BatchOperation]) -> Writes:
    writes: Writes = {}
    for operation in operations:
        if operation.HasField("put"):
            writes[operation.put.key] = operation.put.value
        elif operation.HasField("delete"):
            writes[operation.delete.key] = None
    return writes
