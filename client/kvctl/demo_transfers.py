"""The demo's transfers: transactions over two shards, one after another, whatever becomes of the nodes.

Owns some pairs of accounts, a teller for each, an auditor, and the book of what they were told. A transfer is a compare-and-set
of both accounts of a pair, which only its teller writes: a comparison fails only if a transfer took place twice, or not though
it was acknowledged. A sum other than the opening one is a transfer by half.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING, NamedTuple, cast

from kvctl.demo_load import BUSY_TAG

if TYPE_CHECKING:
    from kvclient import AsyncClient, PutResult, TxnResult, Value

TELLERS = 4
OPENING = 1_000
"""What is in each account at first."""
TOTAL = 2 * TELLERS * OPENING
TELLER_PAUSE_S = 0.2
AUDITOR_PAUSE_S = 0.1
"""They are not to be the load."""
VOLLEY_S_MAX = 5.0
"""For those under way to end before all begin at once."""
VOLLEYS_MAX = 20
"""Until one is in the middle of it."""
SUCCESS = "success"


class Transfer(NamedTuple):
    """One transfer; monotonic seconds."""

    began: float
    ended: float
    reported: str
    """SUCCESS, or what else its client was told."""

    @property
    def seconds(self) -> float:
        """How long it took."""
        return self.ended - self.began


class Pair:
    """Two accounts on different shards, as their teller knows them."""

    def __init__(self, client: AsyncClient, keys: tuple[str, str]) -> None:
        self.keys, self.balances, self.revisions = keys, [OPENING, OPENING], [0, 0]
        self._client = client

    async def transfer(self, amount: int) -> str:
        """Move an amount from the first to the second. Returns what was reported. Raises KvError if it was refused, so that
        nothing was done.
        """
        from kvclient import Key, OutcomeUnknown, Put

        balances = [self.balances[0] - amount, self.balances[1] + amount]
        compares = [Key(key).revision == revision for key, revision in zip(self.keys, self.revisions, strict=True)]
        puts = [Put(key, str(balance)) for key, balance in zip(self.keys, balances, strict=True)]
        try:
            result = await self._client.txn().if_(*compares).then(*puts).run()
        except OutcomeUnknown as error:
            return error.reason
        if not result.succeeded:
            return "COMPARE_FAILED"
        self.balances, self.revisions = balances, revisions_of(result)
        return SUCCESS


class Transfers:
    """Money on its way, and somebody who counts it."""

    def __init__(self, client: AsyncClient) -> None:
        self.book: list[Transfer] = []
        self.refusals: Counter[str] = Counter()
        """After which a transfer was tried again, by reason."""
        self.audits, self.wrong_sums = 0, list[int]()
        self.pairs: list[Pair] = []
        self._client = client
        self._stop, self._may_begin, self._idle = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self._idle.set()
        self._may_begin.set()
        self._under_way = 0

    async def open(self) -> None:
        """Find pairs of an account in the busy shard and one elsewhere, and fill all at once."""
        from kvclient import Put

        busy = (await self._client.locate(f"account/{BUSY_TAG}")).shard
        number = 0
        while len(self.pairs) < TELLERS:
            number += 1
            if (await self._client.locate(f"account/{number}")).shard != busy:
                self.pairs.append(Pair(self._client, (f"account/{BUSY_TAG}/{number}", f"account/{number}")))
        result = await self._client.txn().then(*(Put(key, str(OPENING)) for pair in self.pairs for key in pair.keys)).run()
        revisions = revisions_of(result)
        for position, pair in enumerate(self.pairs):
            pair.revisions = revisions[2 * position : 2 * position + 2]

    async def run(self) -> None:
        """Transfer and audit until `stop`."""
        await asyncio.gather(self._audit(), *map(self._tell, self.pairs))

    def stop(self) -> None:
        """What is under way is the last."""
        self._stop.set()
        self._may_begin.set()

    async def volley(self) -> None:
        """Let all tellers begin at once, and wait until they are in the middle of it. On a busy machine the wait may last
        longer than all the transfers: then once more.
        """
        for _ in range(VOLLEYS_MAX):
            self._may_begin.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._idle.wait(), VOLLEY_S_MAX)
            usual_s = min((transfer.seconds for transfer in self.book[-TELLERS:]), default=0.0)
            await asyncio.sleep(TELLER_PAUSE_S)
            self._may_begin.set()
            await asyncio.sleep(usual_s / 3)
            if self._under_way:
                return

    async def balanced(self) -> bool:
        """Whether the accounts hold what the tellers' books say."""
        return await self._read() == [balance for pair in self.pairs for balance in pair.balances]

    async def _tell(self, pair: Pair) -> None:
        while not self._stop.is_set():
            await self._may_begin.wait()
            began = time.monotonic()
            self._under_way += 1
            self._idle.clear()
            reported = await self._until_reported(pair)
            self._under_way -= 1
            if not self._under_way:
                self._idle.set()
            if reported:
                self.book.append(Transfer(began, time.monotonic(), reported))
            await asyncio.sleep(TELLER_PAUSE_S)

    async def _until_reported(self, pair: Pair) -> str:
        """A transfer, again and again while it is refused; empty: it was refused to the last, when all stops."""
        from kvclient import KvError

        while True:
            try:
                return await pair.transfer(1 + len(self.book) % 9)
            except KvError as error:
                self.refusals[error.reason] += 1
                if self._stop.is_set():
                    return ""
                await asyncio.sleep(AUDITOR_PAUSE_S)

    async def _audit(self) -> None:
        from kvclient import KvError

        while not self._stop.is_set():
            with contextlib.suppress(KvError):  # no answer is no wrong answer
                total = sum(await self._read())
                self.audits += 1
                if total != TOTAL:
                    self.wrong_sums.append(total)
            await asyncio.sleep(AUDITOR_PAUSE_S)

    async def _read(self) -> list[int]:
        """All balances, in one read-only transaction."""
        from kvclient import Get

        result = await self._client.txn().then(*(Get(key) for pair in self.pairs for key in pair.keys)).run()
        return [int(value.text) for value in cast("tuple[Value, ...]", result.results)]


def revisions_of(result: TxnResult) -> list[int]:
    """Of what a transaction put."""
    return [put.revision for put in cast("tuple[PutResult, ...]", result.results)]
