"""What applications do with the SDK: many operations of one client at once, batches, sessions, ranges, transactions; clients
are closed under them, and callers leave.

Owns: which runs have such clients, and their steps. Never: judges an answer by itself: histories, sessions and transactions are
those of `workload` and `transactions`, with their checks.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

from kvapi.v1 import kv_pb2
from kvclient import AsyncTransaction, errors
from kvnode.errors import KvnodeError

from .faults import Faults
from .history import Kind, Operation, Outcome
from .invariants import Bank, Counters, Invariant, Transfer
from .recorded import RecordedClient
from .sdk_client import SdkClient, delete_response, get_response, put_response
from .serializability import Seen, Transaction
from .transactions import TransactionWorkload
from .workload import SESSION_KEYS, TIMEOUTS_S, Session, Workload
from .world import World


class SdkWorkload:
    """The SDK's clients of a run: in half of the runs, about half of the clients."""

    def __init__(
        self,
        world: World,
        workload: Workload,
        transactions: TransactionWorkload,
        faults: Faults,
        *,
        leave_out: bool = False,
    ) -> None:
        rng = world.loop.random("sdk")
        self.world, self._workload, self._faults = world, workload, faults
        self._clients: list[SdkClient] = []
        self._recorded: list[SdkRecordedClient] = []
        self._running = True
        self._tasks = 0
        if rng.random() < 0.5 or leave_out:
            return
        count = max(1, workload.clients // 2)
        workload.clients -= count
        self._clients = [SdkClient(world, name := f"k{n + 1}", world.loop.random(f"client {name}")) for n in range(count)]

        def make(*arguments: Any) -> RecordedClient:
            self._recorded.append(SdkRecordedClient(world, *arguments))
            return self._recorded[-1]

        transactions.replace_clients(make)

    def start(self) -> None:
        """Begins to ask."""
        for client in self._clients:
            self._tasks += 1
            task = self.world.loop.create_task(self._run(client), name=client.name)
            task.add_done_callback(self._on_done)
        if self._clients and self._faults.kinds:
            self.world.loop.create_task(self._break_links(), name="links of SDK clients")

    async def _break_links(self) -> None:
        """What is between the clients and the nodes fails too, as long as anything does: most of all, answers get lost."""
        world, rng = self.world, self.world.loop.random("links of SDK clients")
        names = [client.name for client in [*self._clients, *self._recorded]]
        while self._faults.running:
            await world.sleep(rng.expovariate(1 / 0.5))
            name, node = rng.choice(names), rng.choice(list(world.nodes.values()))
            if rng.random() < 0.5 and self._faults.running:
                connections = node.server.connections if node.server is not None else ()
                for connection in [each for each in connections if each.source == name]:
                    world.network.faults["connection reset"] += 1
                    connection.reset()
            elif self._faults.running:
                ways = rng.choice((((node.name, name),), ((name, node.name),), ((node.name, name), (name, node.name))))
                for source, target in ways:
                    world.network.cut(source, target)
                    world.outside(rng.uniform(0.05, 3.0), world.network.heal, source, target)

    def _on_done(self, _: object) -> None:
        self._tasks -= 1

    async def stop(self, progress_bound: float) -> None:
        """Asks nothing new, waits for the last answers, and demands one more of every client."""
        self._running = False
        while self._tasks and not self.world.violations:
            await self.world.sleep(0.1)
        if not self.world.violations:
            await asyncio.gather(*(self._demand_progress(client, progress_bound) for client in self._clients))

    async def _demand_progress(self, client: SdkClient, bound: float) -> None:
        """The cluster is well: whatever the SDK has seen, it must find its way. Its client ends with that."""
        started, last = self.world.loop.time(), ""
        router, nodes = client.kv._router, self.world.config.cluster.members.items()
        dead = [address for name, address in nodes if self.world.nodes[name].lost]
        if router.map is None and all(address in dead for address in router.endpoints):
            await client.kv.close()  # It was told of nobody else.
            return
        while self.world.loop.time() - started < bound:
            try:
                await client.write(kv_pb2.PutRequest(key=b"progress " + client.name.encode(), value=b"x"), 5.0)
                break
            except KvnodeError as error:
                last = str(error)
        else:
            self.world.violate("progress", f"nothing reaches the cluster through the SDK of {client.name}: {last}")
        await client.kv.close()

    # ---- one client -------------------------------------------------------------------------------------------------

    async def _run(self, client: SdkClient) -> None:
        rng, workload, session = client.rng, self._workload, Session()
        while self._running:
            await workload.pause(rng)
            what, timeout = rng.random(), rng.choice(TIMEOUTS_S)
            if what < 0.6:
                await workload.step(client, session)
            elif what < 0.75:
                await self._burst(client, timeout)
            elif what < 0.85:
                await self._batch(client, timeout)
            elif what < 0.9:
                await self._pages(client, timeout)
            elif workload.eventual_share:
                places = (workload.in_session(client, timeout, session, place) for place in range(SESSION_KEYS))
                await asyncio.gather(*places)

    async def _burst(self, client: SdkClient, timeout: float) -> None:
        """Many at once, which leave together; now and then some callers leave, or the client is closed under them."""
        rng, loop = client.rng, self.world.loop
        operations = [self._workload.strong(client, timeout) for _ in range(rng.choice((2, 4, 12)))]
        tasks = [loop.create_task(operation, name=f"{client.name}: {n}") for n, operation in enumerate(operations)]
        what = rng.random()
        if what < 0.2:
            await self.world.sleep(rng.expovariate(1 / 0.005))
            if what < 0.05:
                self.world.counts["SDK clients closed"] += 1
                await client.reconnect()
            else:
                for task in tasks:
                    if rng.random() < 0.5 and task.cancel():
                        self.world.counts["SDK operations cancelled"] += 1
        await asyncio.gather(*tasks, return_exceptions=True)
        for task in tasks:
            if not task.cancelled():
                task.result()

    async def _batch(self, client: SdkClient, timeout: float) -> None:
        """Independent operations, sent together."""
        rng, workload, batch = client.rng, self._workload, client.kv.batch()
        begun: list[tuple[Operation, Callable[[Any], Any]]] = []
        for _ in range(rng.choice((1, 3, 10))):
            key, what = rng.choice(workload.strong_keys), rng.random()
            if what < 0.4:
                batch.get(key)
                begun.append((workload.history.invoke(client.name, Kind.GET, key), _got))
            elif what < 0.9:
                value = workload.value(rng)
                batch.put(key, value)
                begun.append((workload.history.invoke(client.name, Kind.PUT, key, value), put_response))
            else:
                batch.delete(key)
                begun.append((workload.history.invoke(client.name, Kind.DELETE, key), delete_response))
        try:
            answers = await client.told(batch.run(timeout=timeout), timeout, "a batch")
        except KvnodeError as error:
            answers = [error] * len(begun)
        for (operation, decoded), answer in zip(begun, answers, strict=True):
            if isinstance(answer, errors.KvError):
                answer = client.translated(answer, operation)
            workload.conclude(operation, answer if isinstance(answer, KvnodeError) else decoded(answer))

    async def _pages(self, client: SdkClient, timeout: float) -> None:
        """A range, page by page: to each key a strong read, by which nothing is left out, and nothing comes twice."""
        rng, workload = client.rng, self._workload
        prefix, keys = rng.choice(((b"s", workload.strong_keys), (b"m", workload.mixed_keys)))
        open_reads = {key: workload.history.invoke(client.name, Kind.GET, key) for key in sorted(keys)}
        token, last = b"", b""
        while open_reads:
            request = client.kv.range_page(prefix=prefix, limit=rng.choice((1, 2, 500)), page_token=token, timeout=timeout)
            try:
                page = await client.told(request, timeout, "a page")
            except KvnodeError as error:
                for operation in open_reads.values():
                    workload.conclude(operation, error)
                return
            token = page.next_page_token
            for item in page.items:
                if item.key <= last or item.key not in open_reads:
                    self.world.violate("a range is in order, each key once", f"{client.name}: {item.key!r} after {last!r}")
                    return
                last = item.key
            found = {item.key: item for item in page.items}
            for key in [key for key in open_reads if not token or key <= last]:
                item = found.get(key)
                response = kv_pb2.GetResponse(found=item is not None)
                if item is not None:
                    response.value, response.revision, response.tentative = item.value, item.revision, item.tentative
                workload.conclude(open_reads.pop(key), response)


def _got(value: Any) -> kv_pb2.GetResponse:
    return kv_pb2.GetResponse() if value is None else get_response(value, value.served)


# ---- transactions -------------------------------------------------------------------------------------------------------

Writes = Callable[[AsyncTransaction], Coroutine[Any, Any, dict[bytes, bytes] | None]]


class SdkRecordedClient(SdkClient, RecordedClient):
    """`RecordedClient`, through the SDK: its transactions are built by `kv.txn()`, or run by `kv.run_in_transaction`."""

    async def step(self, invariant: Invariant) -> None:
        """One thing that a client does for an invariant."""
        if isinstance(invariant, Counters) and self.rng.random() < 0.5:
            await self._count(invariant)
        elif isinstance(invariant, Bank) and self.rng.random() < 0.5:
            await self._transfer(invariant)
        else:
            await invariant.step(self)

    def _check_token(self, record: Transaction) -> None:
        """The SDK sends what overlapping operations left one after the other, which is their union."""

    async def _count(self, counters: Counters) -> None:
        """Both counters, by one more."""

        async def body(t: AsyncTransaction) -> dict[bytes, bytes]:
            first, *others = [_number(await t.get(key)) for key in counters.keys]
            del others  # They are compared when it commits.
            return {key: self.value(first + 1) for key in counters.keys}

        await self._in_transaction(body, lambda record, _: counters.increments.append(record))

    async def _transfer(self, bank: Bank) -> None:
        """Some money, with a marker of its own for every attempt."""
        giver, taker = self.rng.sample(bank.keys, 2)
        amounts: list[int] = []

        async def body(t: AsyncTransaction) -> dict[bytes, bytes] | None:
            has, taken = _number(await t.get(giver)), _number(await t.get(taker))
            if has <= 0:
                return None
            amounts.append(self.rng.randint(1, has))
            balances = {giver: self.value(has - amounts[-1]), taker: self.value(taken + amounts[-1])}
            return {**balances, bank.new_marker(): self.value(amounts[-1])}

        def note(record: Transaction, marker: bytes) -> None:
            bank.transfers.append(Transfer(marker, giver, taker, amounts[-1], record))

        await self._in_transaction(body, note)

    async def _in_transaction(self, writes: Writes, note: Callable[[Transaction, bytes], None]) -> None:
        """Runs `writes` until it commits; `note` learns of every attempt that comes so far as to have something to write."""
        timeout = self.rng.choice((0.5, 2.0, 5.0))
        attempts: list[tuple[Transaction, AsyncTransaction]] = []

        async def body(t: AsyncTransaction) -> None:
            self._lose(attempts)
            wanted = await writes(t)
            if wanted is None:
                return
            for key, value in wanted.items():
                t.put(key, value)
            expected = {key: revision for key, (_, revision) in t._read.items()}
            record = self.transactions.invoke(self.name, dict(wanted), {}, expected)
            attempts.append((record, t))
            note(record, list(wanted)[-1])

        try:
            await self.told(self.kv.run_in_transaction(body, timeout=timeout), timeout, "run_in_transaction")
        except KvnodeError as error:
            if attempts and attempts[-1][0].outcome is Outcome.PENDING:
                self._refused(attempts[-1][0], error, True)
            return
        if not attempts or attempts[-1][0].outcome is not Outcome.PENDING:
            return  # The last time there was nothing to write.
        record, transaction = attempts[-1]
        assert transaction.result is not None
        puts = transaction.result.results
        revisions = {key: result.revision for key, result in zip(record.then, puts, strict=True)}  # type: ignore[union-attr]
        reads = {key: Seen(value, revision) for key, (value, revision) in transaction._read.items()}
        self.transactions.ok(record, reads, revisions)
        self._note(record)

    def _lose(self, attempts: list[tuple[Transaction, AsyncTransaction]]) -> None:
        """The body runs again: the attempt before had a conflict, and nothing of it was written."""
        if attempts and attempts[-1][0].outcome is Outcome.PENDING:
            self.world.counts["SDK transactions run again"] += 1
            self.transactions.fail(attempts[-1][0], "conflict")


def _number(value: bytes | None) -> int:
    return -1 if value is None else int(value.split(b"#")[0])
