"""Operations under way while nodes go and come back, and the longest time that any caller waited for one.

Owns the load and its record: who did what when, in which shard, how it ended; and how late the load's own event loop was, so
that a gap of a busy machine can be told from one of the cluster; and the judgement of it. Moments are monotonic seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field

import pytest

import kvclient
from kvclient.hashing import shard_of
from tests.integration.neighbours import Neighbours

LAG_INTERVAL_S = 0.005
VALUE = b"value"
COUNTER = b"gaps/counter"


@dataclass(frozen=True)
class Write:
    """One operation, from the call to its end."""

    writer: str
    shard: int
    began: float
    ended: float
    error: kvclient.KvError | None

    @property
    def seconds(self) -> float:
        """How long the caller waited."""
        return self.ended - self.began


@dataclass
class Record:
    """What became of the writes."""

    writes: list[Write] = field(default_factory=list)
    acknowledged: dict[bytes, bytes] = field(default_factory=dict)
    lags: list[tuple[float, float]] = field(default_factory=list)
    """When the load's event loop woke up, and how much too late."""
    phases: list[tuple[float, str]] = field(default_factory=list)
    """When what began."""

    def mark(self, phase: str) -> float:
        """A phase begins now."""
        now = time.monotonic()
        self.phases.append((now, phase))
        return now

    @property
    def failed(self) -> list[Write]:
        """Those that were not acknowledged, or maybe not done."""
        return [write for write in self.writes if write.error is not None]

    def phases_of(self, write: Write) -> str:
        """The phases during which a caller waited."""
        spans = itertools.pairwise([*self.phases, (float("inf"), "")])
        return ", ".join(name for (start, name), (end, _) in spans if start < write.ended and end > write.began)

    def slowest(self, since: float = 0.0, until: float = float("inf")) -> list[Write]:
        """Writes that began or ended in between, the longest first."""
        return sorted((w for w in self.writes if w.ended > since and w.began < until), key=lambda w: -w.seconds)

    def gaps(self, since: float, until: float) -> list[tuple[float, float]]:
        """The longest time in each shard in which its writers, all together, went without an acknowledgement.

        Every shard always has writers waiting, so nothing but the cluster, or a busy machine, makes such a gap.
        """
        ends: dict[int, list[float]] = {}
        for write in self.writes:
            if write.error is None and write.writer.startswith("put") and since < write.ended < until:
                ends.setdefault(write.shard, []).append(write.ended)
        return [
            max(itertools.pairwise([since, *sorted(found), until]), key=lambda gap: gap[1] - gap[0]) for found in ends.values()
        ]

    def longest_gap_s(self, since: float, until: float) -> float:
        """The longest of all shards, in seconds."""
        return max(end - begin for begin, end in self.gaps(since, until))

    def lag_s(self, since: float, until: float) -> float:
        """The greatest lateness of the load's own event loop."""
        return max((lag for at, lag in self.lags if since <= at <= until), default=0.0)


def tags(shards: int) -> list[bytes]:
    """A tag for each shard, in order: keys with it belong there."""
    found: dict[int, bytes] = {}
    for number in itertools.count():
        tag = f"{{{number}}}".encode()
        found.setdefault(shard_of(tag, shards), tag)
        if len(found) == shards:
            return [found[shard] for shard in range(shards)]
    raise AssertionError


Operation = Callable[[int, bytes], Awaitable[Iterable[bytes]]]
"""Given a shard and a name for new keys, does something with them; answers those that are written now."""


class Load:
    """Callers of one client, each with one kind of operation and one shard: new keys, one operation after the other, with a
    pause between."""

    def __init__(
        self,
        client: kvclient.AsyncClient,
        shards: int,
        callers: Mapping[str, int],
        pause_s: float = 0.01,
        name: str = "gaps",
    ) -> None:
        """All keys begin with `name`. `callers`: how many of each kind: "put", "eventual", "batch", "txn" (over three shards),
        "get", "increment" (of one counter, by transactions over two shards)."""
        self.record = Record()
        self._client, self._tags, self._callers, self._pause_s, self._name = client, tags(shards), callers, pause_s, name
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [
            asyncio.create_task(self._call(kind, number)) for kind, count in self._callers.items() for number in range(count)
        ]
        self._tasks.append(asyncio.create_task(self._measure_lag()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _call(self, kind: str, number: int) -> None:
        operation: Operation = getattr(self, f"_{kind}")
        shard = number % len(self._tags)
        for count in itertools.count():
            if self._over:
                return
            began, error = time.monotonic(), None
            try:
                written = await operation(shard, f"{self._name}/{kind}/{number}/{count}".encode())
                self.record.acknowledged.update(dict.fromkeys(written, VALUE))
            except kvclient.KvError as caught:
                error = caught
            self.record.writes.append(Write(f"{kind} {number}", shard, began, time.monotonic(), error))
            await asyncio.sleep(self._pause_s)

    def _key(self, name: bytes, shard: int) -> bytes:
        return name + self._tags[shard % len(self._tags)]

    async def _put(self, shard: int, name: bytes) -> list[bytes]:
        await self._client.put(key := self._key(name, shard), VALUE)
        return [key]

    async def _eventual(self, shard: int, name: bytes) -> list[bytes]:
        await self._client.put(self._key(name, shard), VALUE, consistency="eventual")
        return []

    async def _batch(self, shard: int, name: bytes) -> list[bytes]:
        keys = [self._key(name, shard + offset) for offset in range(4)]
        batch = self._client.batch()
        for key in keys:
            batch.put(key, VALUE)
        for result in await batch.run():
            if isinstance(result, kvclient.KvError):
                raise result
        return keys

    async def _txn(self, shard: int, name: bytes) -> list[bytes]:
        keys = [self._key(name, shard + offset) for offset in range(3)]
        await self._client.txn().then(*(kvclient.Put(key, VALUE) for key in keys)).run()
        return keys

    async def _get(self, shard: int, name: bytes) -> list[bytes]:
        await self._client.get(self._key(b"gaps/put/0/0", shard))
        return []

    async def _increment(self, shard: int, name: bytes) -> list[bytes]:
        async def add(transaction: kvclient.AsyncTransaction) -> None:
            for key in (self._key(COUNTER, 0), self._key(COUNTER, 1)):
                value = await transaction.get(key)
                transaction.put(key, str(int(value or 0) + 1))

        await self._client.run_in_transaction(add)
        return []

    async def counted(self) -> list[int]:
        """The counters' values."""
        values = [await self._client.get(self._key(COUNTER, shard)) for shard in (0, 1)]
        return [int(value.text) if value else 0 for value in values]

    async def _measure_lag(self) -> None:
        while not self._over:
            due = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            now = time.monotonic()
            self.record.lags.append((now, now - due))


@contextmanager
def blocking_writer(client: kvclient.Client, record: Record, shards: int, pause_s: float = 0.01) -> Iterator[None]:
    """A thread that writes to one shard after the other through the blocking client, while the block runs."""
    over = threading.Event()

    def write() -> None:
        for count, (shard, tag) in enumerate(itertools.cycle(enumerate(tags(shards)))):
            if over.is_set():
                return
            key = f"gaps/thread/{count}".encode() + tag
            began, error = time.monotonic(), None
            try:
                client.put(key, VALUE)
            except kvclient.KvError as caught:
                error = caught
            else:
                record.acknowledged[key] = VALUE
            record.writes.append(Write("put thread", shard, began, time.monotonic(), error))
            time.sleep(pause_s)

    thread = threading.Thread(target=write, name="blocking writer")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


PAUSE_S_MAX = 0.5
"""So long may a strong write wait, and a shard go without an acknowledgement, while nodes are restarted."""
OTHERS_SHARE_MAX = 0.25
"""Other programs that had less of the machine during a pause are not what made it."""
Span = tuple[float, float]


def demand_no_pause(record: Record, usual: Span, restart: Span, neighbours: Neighbours) -> None:
    """Fails when a strong write waited for too long, or a shard went without one; skips the rest of the test where that is so
    only because a process of the cluster, or of the load, waited for a processor that other programs had."""
    waits = [(write.began, write.ended) for write in record.slowest(*restart) if write.writer.startswith("put")]
    pauses = [pause for pause in [*waits, *record.gaps(*restart)] if pause[1] - pause[0] > PAUSE_S_MAX]
    if not pauses:
        return
    excused = [
        neighbours.share(*pause) > OTHERS_SHARE_MAX and pause[1] - pause[0] - neighbours.waited_s(*pause) <= PAUSE_S_MAX
        for pause in pauses
    ]
    worst = max(pauses, key=lambda pause: pause[1] - pause[0])
    told = (
        f"a strong write waited, or a shard had none, for {_ms(worst[1] - worst[0])}; before the restart for at most "
        f"{_ms(record.longest_gap_s(*usual))}. Meanwhile other programs had {neighbours.share(*worst):.0%} of the machine, and "
        f"a process of ours waited {_ms(neighbours.waited_s(*worst))} for a processor; the load's own loop was late by "
        f"{_ms(record.lag_s(*worst))}\n{table(record.slowest(*worst)[:10], record, restart[0])}"
    )
    assert all(excused), told
    pytest.skip(f"the machine is too busy with other programs to measure: {told}")


def _ms(seconds: float) -> str:
    return f"{seconds * 1000:.0f} ms"


def table(rows: Iterable[Write], record: Record, started: float) -> str:
    """Writes as lines for people."""
    return "\n".join(
        f"  {write.seconds * 1000:6.0f} ms  at {write.began - started:6.2f} s  shard {write.shard}  {write.writer:8}  "
        f"{write.error or ''}  [{record.phases_of(write)}]"
        for write in rows
    )
