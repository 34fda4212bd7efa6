"""Strong writes under way while nodes go and come back, and the longest time that any caller waited for one.

Owns the load and its record: who wrote when, to which shard, how it ended; and how late the load's own event loop was, so that
a gap of a busy machine can be told from one of the cluster. Judges nothing. Moments are monotonic seconds.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import kvclient
from kvclient.hashing import shard_of

LAG_INTERVAL_S = 0.005


@dataclass(frozen=True)
class Write:
    """One write, from the call to its end."""

    writer: str
    shard: int
    began: float
    ended: float
    error: kvclient.KvError | None
    attempts: int = 1

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

    def longest_gap_s(self, since: float, until: float) -> float:
        """The longest time that any shard's writers, all together, went without an acknowledgement.

        Every shard always has writers waiting, so nothing but the cluster, or a busy machine, makes such a gap.
        """
        return max(self.gaps_s(since, until).values())

    def gaps_s(self, since: float, until: float) -> dict[int, float]:
        """The same for each shard."""
        ends: dict[int, list[float]] = {}
        for write in self.writes:
            if write.error is None:
                ends.setdefault(write.shard, []).append(write.ended)
        return {
            shard: max(b - a for a, b in itertools.pairwise([since, *sorted(e for e in found if since < e < until), until]))
            for shard, found in ends.items()
        }

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


class Load:
    """Writers through one client: each writes to one shard, new keys, one after the other, with a pause between."""

    def __init__(self, client: kvclient.AsyncClient, shards: int, writers: int = 16, pause_s: float = 0.01) -> None:
        self.record = Record()
        self._client, self._tags, self._writers, self._pause_s = client, tags(shards), writers, pause_s
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> Load:
        self._tasks = [asyncio.create_task(self._write(number)) for number in range(self._writers)]
        self._tasks.append(asyncio.create_task(self._measure_lag()))
        return self

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks)

    async def _write(self, number: int) -> None:
        shard = number % len(self._tags)
        for count in itertools.count():
            if self._over:
                return
            key = f"gaps/{number}/{count}".encode() + self._tags[shard]
            await self._put(f"task {number}", shard, key)
            await asyncio.sleep(self._pause_s)

    async def _put(self, writer: str, shard: int, key: bytes) -> None:
        began, error = time.monotonic(), None
        try:
            await self._client.put(key, key)
        except kvclient.KvError as caught:
            error = caught
        else:
            self.record.acknowledged[key] = key
        self.record.writes.append(Write(writer, shard, began, time.monotonic(), error))

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
                client.put(key, key)
            except kvclient.KvError as caught:
                error = caught
            else:
                record.acknowledged[key] = key
            record.writes.append(Write("thread", shard, began, time.monotonic(), error))
            time.sleep(pause_s)

    thread = threading.Thread(target=write, name="blocking writer")
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def table(rows: Iterable[Write], record: Record, started: float) -> str:
    """Writes as lines for people."""
    return "\n".join(
        f"  {write.seconds * 1000:6.0f} ms  at {write.began - started:6.2f} s  shard {write.shard}  {write.writer:8}  "
        f"{write.error or ''}  [{record.phases_of(write)}]"
        for write in rows
    )
