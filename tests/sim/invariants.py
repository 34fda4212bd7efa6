"""What transactions keep true: a ring stays a ring, money is neither made nor lost, somebody is on call, nothing counts twice.

Owns: workloads in the manner of FoundationDB's, each with its keys, the steps of its clients, and what must hold of every state
(`broken`) and of the last one (`check`). Never: looks at the cluster. Keys are spread over the shards, so that nearly every
transaction needs two-phase commit.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import NamedTuple

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of

from .history import Outcome
from .recorded import GREATER, LESS, NOT_EQUAL, RecordedClient, all_with, at_revision, delete, get, put
from .serializability import Seen, Transaction

State = Mapping[bytes, Seen]
PutEventually = Callable[[RecordedClient, bytes, bytes | None], Awaitable[None]]


def number_in(seen: Seen) -> int:
    """What `RecordedClient.value` was given; of an absent key -1."""
    return -1 if seen.value is None else int(seen.value.split(b"#")[0])


def spread(prefix: bytes, count: int, shards: int) -> list[bytes]:
    """Keys of which each is in the shard after that of the one before it."""
    return [
        next(key for n in range(100_000) if shard_of(key := b"%s%d.%d" % (prefix, place, n), shards) == place % shards)
        for place in range(count)
    ]


class Invariant(ABC):
    """A workload. `initial` is what its keys stand for in the beginning; -1: absent."""

    prefix: bytes
    count: tuple[int, ...]
    initial = -1

    def __init__(self, rng: random.Random, shards: int) -> None:
        self.keys = spread(self.prefix, rng.choice(self.count), shards)

    def numbers(self) -> list[int]:
        """The numbers that `keys` begin with."""
        return [self.initial] * len(self.keys)

    @abstractmethod
    async def step(self, client: RecordedClient) -> None:
        """One thing that a client does."""

    async def look(self, client: RecordedClient) -> None:
        """Reads all keys in one transaction: their state must be whole."""
        by_range = client.rng.random() < 0.3
        record = await client.txn([], [all_with(self.prefix)] if by_range else [get(key) for key in self.keys])
        if record.outcome is Outcome.OK:
            absent = Seen(None, 0)
            broken = self.broken({key: record.reads.get(key, absent) for key in self.keys})
            if broken:
                client.world.violate(f"{type(self).__name__}: every state is whole", f"{broken}: {record}")

    def broken(self, state: State) -> str:
        """What is wrong with a state of all keys; empty: nothing."""
        return ""

    def keys_to_check(self) -> list[bytes]:
        """What `check` wants to see."""
        return self.keys

    def check(self, final: State) -> Iterator[str]:
        """What is wrong in the end."""
        if broken := self.broken(final):
            yield broken


class Ring(Invariant):
    """Each key names the next, in one ring; a transaction lets two neighbours change their places (FoundationDB's Cycle)."""

    prefix, count = b"ring", (3, 5, 8)

    def numbers(self) -> list[int]:
        """A ring in the order of the keys."""
        return [(place + 1) % len(self.keys) for place in range(len(self.keys))]

    async def step(self, client: RecordedClient) -> None:
        """first -> second -> third -> fourth becomes first -> third -> second -> fourth."""
        if client.rng.random() < 0.25:
            await self.look(client)
            return
        places, compare = [client.rng.randrange(len(self.keys))], []
        for _ in range(3):
            key = self.keys[places[-1]]
            read = await client.get(key)
            if read.outcome is not Outcome.OK:
                return
            places.append(number_in(read.reads[key]))
            compare.append(at_revision(key, read.reads[key].revision))
        first, second, third, fourth = places
        # Three reads are no snapshot: a ring that others changed between them must not be changed by them.
        following = {first: third, third: second, second: fourth}
        await client.txn(compare, [put(self.keys[place], client.value(number)) for place, number in following.items()])

    def broken(self, state: State) -> str:
        """Whether it is one ring of all."""
        place, visited = 0, []
        while place not in visited and 0 <= place < len(self.keys):
            visited.append(place)
            place = number_in(state[self.keys[place]])
        whole = place == 0 and len(visited) == len(self.keys)
        return "" if whole else f"from 0 the ring goes {visited} and then {place}"


class Transfer(NamedTuple):
    """Money on its way; `marker` is written with it."""

    marker: bytes
    giver: bytes
    taker: bytes
    amount: int
    record: Transaction


class Bank(Invariant):
    """Money moves between accounts; each transfer leaves a marker of its own."""

    prefix, count, initial = b"account", (2, 4, 6), 100

    def __init__(self, rng: random.Random, shards: int) -> None:
        super().__init__(rng, shards)
        self.transfers: list[Transfer] = []
        self._markers = 0

    def new_marker(self) -> bytes:
        """The key that a transfer leaves behind."""
        self._markers += 1
        return b"transfer%d" % self._markers

    async def step(self, client: RecordedClient) -> None:
        """Reads two balances, and moves some of the one to the other if neither changed meanwhile."""
        if client.rng.random() < 0.3:
            await self.look(client)
            return
        giver, taker = client.rng.sample(self.keys, 2)
        read = await client.look([giver, taker])
        if read.outcome is not Outcome.OK or number_in(read.reads[giver]) <= 0:
            return
        amount = client.rng.randint(1, number_in(read.reads[giver]))
        marker = self.new_marker()
        balances = {giver: number_in(read.reads[giver]) - amount, taker: number_in(read.reads[taker]) + amount}
        compare = [at_revision(key, read.reads[key].revision) for key in balances]
        writes = [put(key, client.value(balance)) for key, balance in balances.items()]
        record = await client.txn(compare, [*writes, put(marker, client.value(amount))], [get(giver), get(taker)])
        self.transfers.append(Transfer(marker, giver, taker, amount, record))

    def broken(self, state: State) -> str:
        """Whether the sum is another, or a balance below zero."""
        balances = [number_in(state[key]) for key in self.keys]
        whole = sum(balances) == self.initial * len(self.keys) and min(balances) >= 0
        return "" if whole else f"the balances are {balances}"

    def keys_to_check(self) -> list[bytes]:
        """The markers too."""
        return [*self.keys, *(transfer.marker for transfer in self.transfers)]

    def check(self, final: State) -> Iterator[str]:
        """The balances are those that the markers make, and the markers are those of the transfers that took place."""
        yield from super().check(final)
        balances = dict.fromkeys(self.keys, self.initial)
        for transfer in self.transfers:
            marker, record = final[transfer.marker], transfer.record
            executed = record.outcome is Outcome.OK and record.succeeded
            if executed and not marker.revision:
                yield f"an acknowledged transfer is lost: {transfer}"
            if marker.revision and not executed and not record.is_open:
                yield f"a transfer took place that definitely did not: {transfer}"
            if marker.version > 1:
                yield f"a transfer was executed {marker.version} times: {transfer}"
            if marker.revision:
                balances[transfer.giver] -= transfer.amount
                balances[transfer.taker] += transfer.amount
        actual = {key: number_in(final[key]) for key in self.keys}
        if actual != balances:
            yield f"the balances are {actual}, by the transfers {balances}"


class OnCall(Invariant):
    """Of each pair of doctors one is on call; either may leave while the other one is (write skew)."""

    prefix, count, initial = b"doctor", (2, 4), 1

    def __init__(self, rng: random.Random, shards: int) -> None:
        super().__init__(rng, shards)
        self._leaves = 0

    async def step(self, client: RecordedClient) -> None:
        """Looks, leaves if both are on call, or comes back."""
        rng = client.rng
        what = rng.random()
        if what < 0.15:
            await self.look(client)
            return
        first = rng.randrange(0, len(self.keys), 2)
        pair = self.keys[first : first + 2]
        mine = rng.choice(pair)
        if what < 0.55:
            both = [kv_pb2.Compare(key=key, operator=GREATER, value=b"1") for key in pair]
            # The anchor is anywhere, so that whoever leaves may be heard first where the other one is.
            self._leaves += 1
            # Every other time nothing but the comparisons themselves keeps the other one on call.
            reads = [get(key) for key in pair] if self._leaves % 2 else []
            notice = put(b"leave%d" % self._leaves, client.value(0))
            await client.txn(both, [notice, put(mine, client.value(0)), *reads], reads)
        elif what < 0.75:
            await client.txn([], [put(mine, client.value(1)), get(mine)])
        else:
            await client.put(mine, client.value(1))

    def broken(self, state: State) -> str:
        """Whether a pair has nobody."""
        numbers = [number_in(state[key]) for key in self.keys]
        alone = [place for place in range(0, len(numbers), 2) if numbers[place] + numbers[place + 1] < 1]
        return f"nobody is on call in pairs {alone} of {numbers}" if alone else ""


class Counters(Invariant):
    """Two counters in two shards count the same: how often somebody counted."""

    prefix, count, initial = b"counter", (2,), 0

    def __init__(self, rng: random.Random, shards: int) -> None:
        super().__init__(rng, shards)
        self.increments: list[Transaction] = []

    async def step(self, client: RecordedClient) -> None:
        """Reads one of them, and writes both if it did not change; both at once must do, as they are always equal."""
        if client.rng.random() < 0.2:
            await self.look(client)
            return
        key = client.rng.choice(self.keys)
        read = await client.get(key)
        if read.outcome is not Outcome.OK:
            return
        following = number_in(read.reads[key]) + 1
        compare = [at_revision(key, read.reads[key].revision)]
        if client.rng.random() < 0.3:
            compare = [kv_pb2.Compare(key=key, value=read.reads[key].value)]
        self.increments.append(await client.txn(compare, [put(each, client.value(following)) for each in self.keys]))

    def broken(self, state: State) -> str:
        """Whether they differ."""
        numbers = [number_in(state[key]) for key in self.keys]
        return "" if numbers[0] == numbers[1] else f"the counters are {numbers}"

    def check(self, final: State) -> Iterator[str]:
        """As many as were acknowledged, or more by those that are in doubt."""
        yield from super().check(final)
        counted, least, most = number_in(final[self.keys[0]]), *executions(self.increments)
        if not least <= counted <= most:
            yield f"{counted} was counted, by {least} to {most} increments"


class Versions(Invariant):
    """Puts and compare-and-sets of single keys: a key's version says how often it was written."""

    prefix, count = b"version", (2, 4)

    def __init__(self, rng: random.Random, shards: int) -> None:
        super().__init__(rng, shards)
        self.writes: dict[bytes, list[Transaction]] = {key: [] for key in self.keys}

    async def step(self, client: RecordedClient) -> None:
        """Writes a key."""
        key, expected = client.rng.choice(self.keys), None
        if client.rng.random() < 0.5:
            read = await client.get(key)
            if read.outcome is not Outcome.OK:
                return
            expected = read.reads[key].revision
        self.writes[key].append(await client.put(key, client.value(1), expected))

    def check(self, final: State) -> Iterator[str]:
        """As many as were acknowledged, or more by those that are in doubt."""
        for key, writes in self.writes.items():
            least, most = executions(writes)
            if not least <= final[key].version <= most:
                yield f"key {key!r} was written {final[key].version} times, by {least} to {most} writes"


class Rows(Invariant):
    """Several rows in one shard and one in another, always written together: who reads those of the one shard alone, which
    needs neither locks nor a second look at the other, sees one number, too."""

    prefix, count, initial = b"rows", (3, 5), 0

    def __init__(self, rng: random.Random, shards: int) -> None:
        super().__init__(rng, shards)
        self.near = [b"rows{near}%d" % place for place in range(len(self.keys) - 1)]
        far = (b"rows{far%d}" % number for number in range(100_000))
        here = shard_of(self.near[0], shards)
        self.keys = [*self.near, next(key for key in far if shards == 1 or shard_of(key, shards) != here)]
        self._number = 0

    async def step(self, client: RecordedClient) -> None:
        """Writes all, reads all, or reads those of the one shard."""
        what = client.rng.random()
        if what < 0.4:
            self._number += 1
            await client.txn([], [put(key, client.value(self._number)) for key in self.keys])
        elif what < 0.6:
            await self.look(client)
        else:
            by_range = client.rng.random() < 0.5
            record = await client.txn([], [all_with(b"rows{near}")] if by_range else [get(key) for key in self.near])
            numbers = [number_in(record.reads.get(key, Seen(None, 0))) for key in self.near]
            if record.outcome is Outcome.OK and len(dict.fromkeys(numbers)) > 1:
                client.world.violate("Rows: the rows of one shard are whole", f"{numbers}: {record}")

    def broken(self, state: State) -> str:
        """Whether they differ."""
        numbers = [number_in(state[key]) for key in self.keys]
        return "" if len(dict.fromkeys(numbers)) == 1 else f"the rows are {numbers}"


class Registers(Invariant):
    """Anything with a few keys: branches, deletions, ranges, eventual writes and strong operations on one key. What must hold
    is left to the checks of histories."""

    prefix, count = b"register", (2, 4, 6)

    def __init__(self, rng: random.Random, shards: int, put_eventually: PutEventually) -> None:
        super().__init__(rng, shards)
        self._put_eventually = put_eventually
        self._known: dict[bytes, Seen] = {}
        """What anybody saw last."""

    async def step(self, client: RecordedClient) -> None:
        """One of everything that there is."""
        rng, key = client.rng, client.rng.choice(self.keys)
        what = rng.random()
        if what < 0.4:
            record = await self._txn(client)
        elif what < 0.5:
            record = await client.txn([], [all_with(self.prefix)])
        elif what < 0.6:
            record = await client.look(rng.sample(self.keys, 2))
        elif what < 0.7:
            record = await client.get(key)
        elif what < 0.8:
            expected = self._known[key].revision if key in self._known and rng.random() < 0.5 else None
            record = await client.put(key, client.value(1), expected)
        elif what < 0.85:
            record = await client.delete(key)
        else:
            await self._put_eventually(client, key, None if rng.random() < 0.15 else client.value(2))
            return
        self._known.update(record.reads)

    async def _txn(self, client: RecordedClient) -> Transaction:
        rng = client.rng
        compare = [self._compare(rng, key) for key in rng.sample(self.keys, rng.choice((0, 1, 1, 2)))]
        then, otherwise = self._branch(client, compare), self._branch(client, compare)
        return await client.txn(compare, then or [get(self.keys[0])], otherwise)

    def _compare(self, rng: random.Random, key: bytes) -> kv_pb2.Compare:
        seen = self._known.get(key, Seen(None, 0))
        operator = rng.choice((0, 0, 0, NOT_EQUAL, GREATER, LESS))
        what = rng.random()
        if what < 0.2:
            return kv_pb2.Compare(key=key, operator=operator if operator < GREATER else 0, exists=rng.random() < 0.7)
        if what < 0.4 and seen.value is not None:
            return kv_pb2.Compare(key=key, operator=operator, value=seen.value)
        return kv_pb2.Compare(key=key, operator=operator, revision=seen.revision)

    def _branch(self, client: RecordedClient, compare: Sequence[kv_pb2.Compare]) -> list[kv_pb2.BatchOperation]:
        rng = client.rng
        operations = [get(one.key) for one in compare] if rng.random() < 0.5 else []
        for key in rng.sample(self.keys, rng.choice((0, 1, 2, 2))):
            operations.append(put(key, client.value(3)) if rng.random() < 0.85 else delete(key))
        if rng.random() < 0.2:
            operations.append(all_with(self.prefix))
        rng.shuffle(operations)
        return operations


def executions(records: Sequence[Transaction]) -> tuple[int, int]:
    """How many certainly took place with `then`, and how many may have."""
    least = sum(record.outcome is Outcome.OK and bool(record.succeeded) for record in records)
    return least, least + sum(record.is_open for record in records)
