"""The demo's load: an open loop of strong and eventual puts and gets, and a ledger of what was acknowledged.

Owns the schedule, the latencies and the ledger. An operation's latency counts from the moment it was *due*, not from the
moment it was sent, so that a stall shows in every operation it delayed (no coordinated omission: Tene, "How not to measure
latency"). Every put writes a key of its own, so that whether an acknowledged write was lost has one answer.
"""

from __future__ import annotations

import asyncio
import itertools
import random
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from hdrh.histogram import HdrHistogram

if TYPE_CHECKING:
    from kvclient import AsyncClient

LATENCY_US_MAX = 60_000_000
SIGNIFICANT_DIGITS = 3
VALUE_SIZE_BYTES = 100
BUSY_TAG = "{busy}"
"""Keys with this tag share a shard: the busy one."""


class Kind(NamedTuple):
    """One kind of operation."""

    operation: str
    consistency: str


STRONG_PUT, STRONG_GET = Kind("put", "strong"), Kind("get", "strong")
EVENTUAL_PUT, EVENTUAL_GET = Kind("put", "eventual"), Kind("get", "eventual")
MIX = [STRONG_PUT] * 6 + [STRONG_GET] * 6 + [EVENTUAL_PUT] * 4 + [EVENTUAL_GET] * 4
"""Of twenty operations."""


class Ack(NamedTuple):
    """An acknowledged strong put."""

    at: float
    """Monotonic seconds."""
    shard: int
    busy: bool


class LatencyRow(NamedTuple):
    """A line of the latency table; milliseconds."""

    operation: str
    consistency: str
    operations: int
    failed: int
    average_ms: float
    min_ms: float
    max_ms: float
    p50_ms: float
    p95_ms: float
    p99_ms: float


@dataclass
class Ledger:
    """What the cluster promised, and what it did not."""

    strong: dict[bytes, bytes] = field(default_factory=dict)
    """Acknowledged strong puts."""
    eventual: dict[bytes, bytes] = field(default_factory=dict)
    """Acknowledged eventual puts."""
    unknown: dict[bytes, bytes] = field(default_factory=dict)
    """Strong puts whose outcome nobody can know: they may be there, or not."""
    acks: list[Ack] = field(default_factory=list)
    """Acknowledged strong puts, in order of acknowledgement."""
    failures: Counter[str] = field(default_factory=Counter)
    """Failed operations by reason."""
    stale_strong_reads: list[bytes] = field(default_factory=list)
    """Keys of strong reads that did not see a put acknowledged before they began: there must be none."""


class Latencies:
    """A histogram for each kind of operation."""

    def __init__(self) -> None:
        self._histograms = {kind: HdrHistogram(1, LATENCY_US_MAX, SIGNIFICANT_DIGITS) for kind in dict.fromkeys(MIX)}
        self._failed: Counter[Kind] = Counter()
        self._sums_us: Counter[Kind] = Counter()

    def record(self, kind: Kind, seconds: float, ok: bool) -> None:
        """One operation, failed or not: a failure that took 5 s took 5 s of somebody's time."""
        us = min(LATENCY_US_MAX, max(1, round(seconds * 1e6)))
        self._histograms[kind].record_value(us)
        self._sums_us[kind] += us
        self._failed[kind] += not ok

    def rows(self) -> list[LatencyRow]:
        """The table."""
        rows = []
        for kind, histogram in self._histograms.items():
            if count := histogram.get_total_count():
                percentiles = [histogram.get_value_at_percentile(percentile) / 1e3 for percentile in (50, 95, 99)]
                average_ms = self._sums_us[kind] / count / 1e3
                low_ms, high_ms = histogram.get_min_value() / 1e3, histogram.get_max_value() / 1e3
                rows.append(LatencyRow(*kind, count, self._failed[kind], average_ms, low_ms, high_ms, *percentiles))
        return rows


class Load:
    """An open loop: operations come due at a steady rate, whatever became of those before."""

    def __init__(self, client: AsyncClient, rate: float, *, in_flight_max: int = 1024, seed: int = 1) -> None:
        """`rate` in operations a second. Beyond `in_flight_max` operations wait their turn, and their latency says so."""
        self.ledger, self.latencies = Ledger(), Latencies()
        self.rate, self.issued, self.in_flight_most = rate, 0, 0
        self._client = client
        self._slots = asyncio.Semaphore(in_flight_max)
        self._random = random.Random(seed)
        self._running: set[asyncio.Task[None]] = set()
        self._known: list[bytes] = []
        self._stop = asyncio.Event()
        self._strong_puts = 0
        self._broken: BaseException | None = None

    async def run(self) -> None:
        """Issue operations until `stop`, then wait for those in flight."""
        mix = MIX.copy()
        self._random.shuffle(mix)
        began = time.monotonic()
        while not self._stop.is_set():
            due = began + self.issued / self.rate
            if (delay := due - time.monotonic()) > 0:
                await asyncio.sleep(delay)
            await self._slots.acquire()
            task = asyncio.create_task(self._one(mix[self.issued % len(mix)], self.issued, due))
            self._running.add(task)
            task.add_done_callback(self._on_done)
            self.issued += 1
            self.in_flight_most = max(self.in_flight_most, len(self._running))
        if self._running:
            await asyncio.wait(self._running)
        if self._broken is not None:
            raise self._broken

    def _on_done(self, task: asyncio.Task[None]) -> None:
        self._running.discard(task)
        if not task.cancelled() and task.exception() is not None:
            self._broken = task.exception()  # a defect, not an outcome
            self._stop.set()

    def stop(self) -> None:
        """No more operations come due."""
        self._stop.set()

    async def _one(self, kind: Kind, number: int, due: float) -> None:
        from kvclient import KvError

        ok = True
        try:
            if kind.operation == "put":
                await self._put(kind, number)
            else:
                await self._get(kind)
        except KvError as error:
            ok = False
            self.ledger.failures[error.reason] += 1
        finally:
            self._slots.release()
        self.latencies.record(kind, time.monotonic() - due, ok)

    async def _put(self, kind: Kind, number: int) -> None:
        from kvclient import OutcomeUnknown

        self._strong_puts += kind is STRONG_PUT
        busy = kind is STRONG_PUT and self._strong_puts % 2 == 0
        key = f"load/{BUSY_TAG if busy else kind.consistency}/{number:07}".encode()
        value = f"{number}:".encode().ljust(VALUE_SIZE_BYTES, b"x")
        try:
            result = await self._client.put(key, value, consistency=kind.consistency)
        except OutcomeUnknown:
            if kind is STRONG_PUT:
                self.ledger.unknown[key] = value
            raise
        if kind is STRONG_PUT:
            self.ledger.strong[key] = value
            self.ledger.acks.append(Ack(time.monotonic(), result.served.shard, busy))
            self._known.append(key)
        else:
            self.ledger.eventual[key] = value

    async def _get(self, kind: Kind) -> None:
        # A strong read must see every put that was acknowledged before it began; an eventual one may be behind.
        key = self._random.choice(self._known) if self._known else b"load/none"
        found = await self._client.get(key, consistency=kind.consistency)
        if kind is STRONG_GET and key in self.ledger.strong and (found is None or found.value != self.ledger.strong[key]):
            self.ledger.stale_strong_reads.append(key)


def longest_gap_s(times: list[float], since: float, until: float) -> float:
    """The longest time without an acknowledgement that touches [since, until], seconds. The gap that is open at `since`
    counts from its beginning; one that is still open at `until` counts so far.
    """
    before = max((at for at in times if at <= since), default=since)
    moments = [before, *sorted(at for at in times if since < at <= until), until]
    return max(later - earlier for earlier, later in itertools.pairwise(moments))
