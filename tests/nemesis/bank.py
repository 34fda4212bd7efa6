"""A bank: transfers between accounts on several shards, and audits that read all of them in one transaction.

Every value is a balance and the name of the transfer that wrote it, so that who reads it knows who wrote it. The sum must hold
at every audit, and there must be one order of all transfers and audits, within their calls and answers, that explains what
each of them saw (`tests/sim/serializability.py`): that finds lost transfers, torn ones, stale audits, and refused ones that
took place.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, ClassVar

import kvclient
from kvclient import Get, Key, Put
from tests.sim.history import Outcome
from tests.sim.serializability import Seen, Transaction, check_serializability

from .record import History, Op, Recorder
from .workload import FINAL_TIMEOUT_S, Client, Failure, Rotation, Workload

ACCOUNTS = 5
BALANCE = 100
TOTAL = ACCOUNTS * BALANCE


def accounts(bank: int) -> list[str]:
    """The keys of a bank's accounts."""
    return [f"bank/{bank}/{number}" for number in range(ACCOUNTS)]


def balance_of(value: str) -> int:
    """What is in an account."""
    return int(value.split()[0])


class Bank(Workload):
    """Transfers and audits."""

    name: ClassVar[str] = "bank"
    pause_s_mean: ClassVar[float] = 0.06

    def __init__(self, recorder: Recorder) -> None:
        super().__init__(recorder)
        self.rotation = Rotation(ops_max=400, age_s_max=20.0)
        self._open: set[int] = set()
        """Banks that are known to have their accounts."""

    async def step(self, client: Client) -> None:
        """A transfer, or an audit; of a bank without accounts, its opening."""
        bank = self.rotation.next()
        timeout = client.timeout()
        if bank not in self._open:
            await self._open_bank(client, bank, timeout)
        elif (what := client.rng.random()) < 0.25:
            await self._audit(client, bank, timeout)
        elif what < 0.65:
            await self._transfer(client, bank, timeout)
        else:
            await self._transfer_in_body(client, bank, timeout)

    async def _open_bank(self, client: Client, bank: int, timeout: float) -> None:
        keys = accounts(bank)
        mark = client.unique()
        writes = dict.fromkeys(keys, f"{BALANCE} {mark}")
        op = self.invoke(client.name, "open", f"bank/{bank}", timeout=timeout, more={"writes": writes})
        txn = client.kv.txn().if_(*(Key(key).absent() for key in keys)).then(*(Put(k, v) for k, v in writes.items()))
        txn.else_(*(Get(key) for key in keys))

        def took(result: kvclient.TxnResult) -> dict[str, Any]:
            if result.succeeded:
                more = {"writes": writes, "revisions": _revisions(keys, result), "reads": {key: [None, 0] for key in keys}}
            else:
                more = {"writes": {}, "refused": writes, "reads": _reads(keys, result)}
            return {"found": result.succeeded, "more": more}

        if await self.settle(op, txn.run(timeout=timeout), took) is not None:
            self._open.add(bank)

    async def _transfer(self, client: Client, bank: int, timeout: float) -> None:
        """Two reads, then a transaction of comparisons and writes."""
        source, target = client.rng.sample(accounts(bank), 2)
        amount = client.rng.randint(1, 30)
        try:
            held = [await client.kv.get(key, timeout=timeout) for key in (source, target)]
        except kvclient.KvError:
            return
        if None in held:
            return  # opened by a transaction that this read did not see, which the audits will tell
        before: dict[str, kvclient.Value] = {key: value for key, value in zip((source, target), held, strict=True) if value}
        mark = client.unique()
        writes = _moved(source, target, {key: value.text for key, value in before.items()}, amount, mark)
        if not writes:
            return
        expected = {key: value.revision for key, value in before.items()}
        reads = {key: [value.text, value.revision] for key, value in before.items()}
        more = {"writes": writes, "expected": expected}
        op = self.invoke(client.name, "transfer", f"bank/{bank}", amount, timeout=timeout, more=more)
        txn = client.kv.txn().if_(*(Key(key).revision == revision for key, revision in expected.items()))
        txn.then(*(Put(key, value) for key, value in writes.items())).else_(Get(source), Get(target))

        def took(result: kvclient.TxnResult) -> dict[str, Any]:
            if result.succeeded:
                facts = {**more, "revisions": _revisions(writes, result), "reads": reads}
            else:
                facts = {"writes": {}, "refused": writes, "reads": _reads((source, target), result)}
            return {"found": result.succeeded, "more": facts}

        await self.settle(op, txn.run(timeout=timeout), took)

    async def _transfer_in_body(self, client: Client, bank: int, timeout: float) -> None:
        """`run_in_transaction`: all of its attempts but the last have definitely failed."""
        source, target = client.rng.sample(accounts(bank), 2)
        amount = client.rng.randint(1, 30)
        attempts: list[dict[str, Any]] = []
        last: list[Any] = []
        op = self.invoke(client.name, "transfer", f"bank/{bank}", amount, timeout=timeout, more={"attempts": attempts})

        async def body(t: Any) -> None:
            last[:] = [t]
            attempts.append({"writes": {}, "reads": {}})
            values = {key: await t.get(key) for key in (source, target)}
            if None in values.values():
                return
            texts = {key: value.decode() for key, value in values.items()}
            writes = _moved(source, target, texts, amount, client.unique())
            attempts[-1] = {"writes": writes, "reads": {key: [text, None] for key, text in texts.items()}}
            for key, value in writes.items():
                t.put(key, value)

        def took(_: None) -> dict[str, Any]:
            facts = {**attempts[-1], "refused_attempts": [one["writes"] for one in attempts[:-1]]}
            if facts["writes"]:
                facts["revisions"] = _revisions(facts["writes"], last[0].result)
            return {"found": True, "more": facts}

        await self.settle(op, client.kv.run_in_transaction(body, timeout=timeout), took)

    async def _audit(self, client: Client, bank: int, timeout: float, *, final: bool = False) -> Op:
        op = self.invoke(client.name, "audit", f"bank/{bank}", timeout=timeout, final=final)
        keys = accounts(bank)
        txn = client.kv.txn().then(*(Get(key) for key in keys))
        took = lambda result: {"more": {"writes": {}, "reads": _reads(keys, result)}}  # noqa: E731
        await self.settle(op, txn.run(timeout=timeout), took, reads=True)
        return op

    async def finish(self, client: Client) -> None:
        """Every bank is audited once more."""
        slots = asyncio.Semaphore(4)

        async def audit(bank: int) -> None:
            async def once() -> bool:
                return (await self._audit(client, bank, FINAL_TIMEOUT_S, final=True)).outcome is Outcome.OK

            async with slots:
                await self.retry_finally(once, f"an audit of bank {bank}")

        await asyncio.gather(*map(audit, range(self.rotation.generation + 1)))

    @classmethod
    def check(cls, history: History) -> list[Failure]:
        """The sum of every audit, then strict serializability of each bank."""
        banks: dict[str, list[Op]] = {}
        for op in history.of(cls.name):
            banks.setdefault(op.key, []).append(op)
        failures = []
        for bank, ops in banks.items():
            failures += _check_sums(bank, ops)
            found = check_serializability(_as_transactions(ops))
            failures += [Failure(cls.name, bank, one.rule, one.message) for one in found]
        return failures


def _moved(source: str, target: str, values: dict[str, str], amount: int, mark: str) -> dict[str, str]:
    """The writes of a transfer; none where the money is not there."""
    have, has = balance_of(values[source]), balance_of(values[target])
    return {source: f"{have - amount} {mark}", target: f"{has + amount} {mark}"} if have >= amount else {}


def _reads(keys: Iterable[str], result: kvclient.TxnResult) -> dict[str, list[Any]]:
    return {
        key: [one.text, one.revision] if isinstance(one, kvclient.Value) else [None, 0]
        for key, one in zip(keys, result.results, strict=True)
    }


def _revisions(keys: Iterable[str], result: kvclient.TxnResult) -> dict[str, int]:
    return {key: one.revision for key, one in zip(keys, result.results, strict=True) if isinstance(one, kvclient.PutResult)}


def _check_sums(bank: str, ops: list[Op]) -> list[Failure]:
    failures = []
    opened = min((op.answered or 0 for op in ops if op.op == "open" and op.outcome is Outcome.OK), default=None)
    for op in ops:
        if op.op != "audit" or op.outcome is not Outcome.OK:
            continue
        values = [value for value, _ in op.more["reads"].values()]
        if all(value is None for value in values) and (opened is None or opened > op.invoked):
            continue
        balances = [balance_of(value) for value in values if value is not None]
        if sum(balances) != TOTAL or len(balances) != ACCOUNTS:
            message = f"{op}\n  saw {sum(balances)} in {len(balances)} accounts: {op.more['reads']}"
            failures.append(Failure("bank", bank, f"the sum is {TOTAL} in {ACCOUNTS} accounts", message))
        if any(balance < 0 for balance in balances):
            failures.append(Failure("bank", bank, "no account is overdrawn", f"{op}\n  saw {op.more['reads']}"))
    return failures


def _as_transactions(ops: list[Op]) -> list[Transaction]:
    """As the simulator's checker takes them; a refused attempt is a transaction that failed."""
    transactions: list[Transaction] = []
    times = {}
    for op in ops:
        more = op.more
        attempts = more.get("attempts", [])
        refused = [*more.get("refused_attempts", ()), *(one["writes"] for one in attempts[:-1])]
        last = attempts[-1] if attempts and op.outcome is not Outcome.OK else more
        transaction = Transaction(
            id=len(transactions),
            client=op.client,
            then=_encoded(last.get("writes", {})),
            otherwise={},
            expected={key.encode(): revision for key, revision in more.get("expected", {}).items()},
            invoked=op.invoked,
            invoked_at=op.invoked_at,
            answered=op.answered,
            answered_at=op.answered_at,
            outcome=op.outcome,
            note=f"operation {op.id}, {op.op} {op.note}",
        )
        times[transaction.id] = op
        if op.outcome is Outcome.OK:
            transaction.succeeded = op.found is not False
            transaction.reads = {key.encode(): _seen(value, revision) for key, (value, revision) in more["reads"].items()}
            transaction.revisions = {key.encode(): revision for key, revision in more.get("revisions", {}).items()}
            if not transaction.succeeded:
                refused.append(more.get("refused", {}))
        transactions.append(transaction)
        for writes in refused:
            if writes:
                failed = replace(
                    transaction, id=len(transactions), then=_encoded(writes), reads={}, revisions={}, expected={},
                    outcome=Outcome.FAILED, succeeded=None, note=f"a refused attempt of operation {op.id}",
                )  # fmt: skip
                transactions.append(failed)
    return _with_revisions(transactions)


def _seen(value: str | None, revision: int | None) -> Seen:
    return Seen(None if value is None else value.encode(), -1 if revision is None else revision)


def _encoded(writes: dict[str, str]) -> dict[bytes, bytes | None]:
    return {key.encode(): value.encode() for key, value in writes.items()}


def _with_revisions(transactions: list[Transaction]) -> list[Transaction]:
    """A body's reads have values without revisions: they are those of whoever wrote or saw the same value; else left out."""
    known: dict[tuple[bytes, bytes | None], int] = {}
    for t in transactions:
        for key, seen in t.reads.items():
            if seen.revision > 0:
                known[key, seen.value] = seen.revision
        for key, revision in t.revisions.items():
            known[key, t.then.get(key)] = revision
    for t in transactions:
        t.reads = {
            key: seen if seen.revision >= 0 else Seen(seen.value, known.get((key, seen.value), -1))
            for key, seen in t.reads.items()
        }
        t.reads = {key: seen for key, seen in t.reads.items() if seen.revision >= 0}
    return transactions
