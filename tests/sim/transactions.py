"""Transactions under faults: clients that keep invariants, beside everything else that happens in a run.

Owns: which invariants a run has, their setup, their clients, and the checks at the end. Never: says what the keys mean
(`invariants` does), or what an answer means (`recorded` does).
"""

from __future__ import annotations

import random
from collections.abc import Callable, Coroutine
from typing import Any

from kvapi.v1 import kv_pb2
from kvclient.hashing import shard_of

from .history import Outcome, Violation, check_acknowledged_applied
from .invariants import Bank, Counters, Invariant, OnCall, Registers, Ring, Rows, Versions
from .linearizability import check_linearizability
from .recorded import RecordedClient, put
from .serializability import Seen, Transactions, check_serializability, project
from .workload import Workload
from .world import World

KEYS_READ_AT_ONCE = 100
LAST_READS_MAX = 50


class TransactionWorkload:
    """All clients of transactions. Those of eventual writes go through `workload`, which checks them."""

    def __init__(self, world: World, workload: Workload, *, always: bool) -> None:
        rng = world.loop.random("transactions")
        shards = world.config.cluster.shards
        self.world, self.transactions = world, Transactions(world.loop.time)
        self.running = True
        self.invariants: list[Invariant] = []
        self._workload = workload
        self._ready: list[Invariant] = []
        self._clients: list[RecordedClient] = []
        self._tasks = 0
        if not always and rng.random() < 0.5:
            return
        kinds: tuple[type[Invariant], ...] = (Ring, Bank, OnCall, Counters, Versions)
        self.invariants = [kind(rng, shards) for kind in kinds if rng.random() < 0.5]
        if rng.random() < 0.5 or not self.invariants:
            self.invariants.append(Registers(rng, shards, self._put_eventually))
        more = world.loop.random("rows")
        if more.random() < 0.5:
            self.invariants.append(Rows(more, shards))
        self._clients = [self._client(f"t{number + 1}") for number in range(rng.choice((1, 2, 4)))]
        self._at_once = rng.choice((1, 1, 3))
        self._pause_s_mean = len(self._clients) * self._at_once / rng.choice((10.0, 40.0, 80.0))

    def leave_out(self) -> None:
        """Nothing of it happens."""
        self.invariants, self._clients = [], []

    def _client(self, name: str) -> RecordedClient:
        return RecordedClient(self.world, name, self.world.loop.random(f"client {name}"), self.transactions)

    def replace_clients(self, make: Callable[[str, random.Random, Transactions], RecordedClient]) -> None:
        """About every second client is another one, under its old name."""
        for place in range(0, len(self._clients), 2):
            name = self._clients[place].name
            self._clients[place] = make(name, self.world.loop.random(f"client {name}"), self.transactions)

    # ---- while it runs ----------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Begins: each invariant is set up, and from then on clients take its steps."""
        for invariant in self.invariants:
            self._begin(self._set_up(invariant), f"set up {invariant.prefix.decode()}")
        for client in self._clients:
            for number in range(self._at_once):
                self._begin(self._run(client), f"{client.name}.{number + 1}")

    def _begin(self, work: Coroutine[Any, Any, None], name: str) -> None:
        self._tasks += 1
        task = self.world.loop.create_task(work, name=name)
        task.add_done_callback(self._end)

    def _end(self, _: object) -> None:
        self._tasks -= 1

    async def stop(self) -> None:
        """Asks nothing new, and waits for the last answers."""
        self.running = False
        while self._tasks and not self.world.violations:
            await self.world.sleep(0.1)

    async def _set_up(self, invariant: Invariant) -> None:
        """Writes the initial state, once, whatever the answers were."""
        client = self._client(f"set up {invariant.prefix.decode()}")
        keys = zip(invariant.keys, invariant.numbers(), strict=True)
        writes = [put(key, client.value(number)) for key, number in keys if number >= 0]
        while writes and not self.world.violations:
            record = await client.txn([kv_pb2.Compare(key=invariant.keys[0], exists=False)], writes)
            if record.outcome is Outcome.OK:
                break
            # Another transaction writes other values.
            for operation in writes:
                operation.put.value = client.value(int(operation.put.value.split(b"#")[0]))
        self._ready.append(invariant)

    async def _run(self, client: RecordedClient) -> None:
        while self.running:
            invariant = await (self._some_time(client) if client.rng.random() < 0.5 else self._next_beat())
            if client.rng.random() < 0.3:
                client.move()
            if invariant is not None:
                await client.step(invariant)

    async def _some_time(self, client: RecordedClient) -> Invariant | None:
        """Clients do anything at any time…"""
        await self.world.sleep(client.rng.expovariate(1 / self._pause_s_mean))
        return client.rng.choice(self._ready) if self._ready else None

    async def _next_beat(self) -> Invariant | None:
        """… or all the same at once, so that they meet."""
        now = self.world.loop.time()
        beat = int(now / self._pause_s_mean) + 1
        await self.world.sleep(beat * self._pause_s_mean - now)
        return self._ready[beat % len(self._ready)] if self._ready else None

    async def _put_eventually(self, client: RecordedClient, key: bytes, value: bytes | None) -> None:
        record = self.transactions.invoke(client.name, {key: value})
        write, _ = await self._workload.put_eventually(client, key, value, client.rng.choice((0.5, 2.0)), b"")
        if write.operation.outcome is Outcome.FAILED:
            self.transactions.fail(record, write.operation.note)

    # ---- the end ----------------------------------------------------------------------------------------------------

    def has(self, key: bytes) -> bool:
        """Whether one of the invariants is about the key."""
        return any(key in invariant.keys for invariant in self.invariants)

    async def last_states(self) -> list[dict[bytes, Seen]]:
        """Reads all keys, in transactions."""
        return [await self._last_state(invariant) for invariant in self.invariants]

    async def _last_state(self, invariant: Invariant) -> dict[bytes, Seen]:
        client, keys, state = self._client("last"), invariant.keys_to_check(), dict[bytes, Seen]()
        for _ in range(LAST_READS_MAX):
            record = await client.look(keys[len(state) : len(state) + KEYS_READ_AT_ONCE])
            state.update(record.reads)
            if len(state) == len(keys):
                return state
        self.world.violate("progress", f"{type(invariant).__name__}: {LAST_READS_MAX} last reads failed")
        return dict.fromkeys(keys, Seen(None, 0))

    def check(self, last: list[dict[bytes, Seen]]) -> list[Violation]:
        """All that was told, with the last states."""
        violations = [
            Violation(f"{type(invariant).__name__}: in the end", broken)
            for invariant, state in zip(self.invariants, last, strict=True)
            for broken in invariant.check(state)
        ]
        violations += check_serializability(self.transactions.all)
        operations = project(self.transactions.all, lambda key: shard_of(key, self.world.config.cluster.shards))
        for shard, places in self.world.witness.applied.items():
            applied = [write for writes in places.values() for write in writes]
            violations += check_acknowledged_applied((o for o in operations if o.shard == shard), applied)
        if not violations:
            report = check_linearizability(operations)
            violations += [Violation("linearizability", str(failure)) for failure in report.failures]
        return violations
