"""What `kvctl availability` says of real nodes that are killed, frozen and restarted on a schedule, against that schedule and
against what a client saw meanwhile.

The bounds are the detection's own, from the configuration, and what the schedule itself measured: there is no allowance for a
busy machine.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

import kvclient
from kvapi.v1 import cluster_pb2
from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE, NODE_STATE_FAILED, NODE_STATE_INACTIVE
from kvclient.hashing import shard_of
from kvctl.admin import Admin
from kvctl.availability.ask import collect
from kvctl.availability.merge import availability
from kvctl.availability.model import Availability, Outage, ShardAvailability
from kvctl.availability.spans import Span, clipped, total_ms, united
from kvctl.playground import Playground
from tests.integration import harness

SHARDS = 4
HEARTBEAT_MS, SILENCE_MS_MAX, ELECTION_MS_MAX = 200, 1500, 1600
TICK_MS = 50
"""A node records what happened, and takes its own state, so often."""
PROBE_MS, PROBE_TIMEOUT_MS = 50, 1000
SETTINGS = {
    "failure_detection.heartbeat_interval_ms": HEARTBEAT_MS,
    "failure_detection.silence_ms_max": SILENCE_MS_MAX,
    "election.timeout_ms_max": ELECTION_MS_MAX,
    "election.rebalance_after_ms": 60_000,
}


def now_ms() -> float:
    """Unix milliseconds: all processes are on one machine, so there is one clock."""
    return time.time() * 1000


@dataclass
class Fault:
    """What the schedule did to a node, and between which moments it must have taken effect and have ended."""

    what: str
    node: str
    begin: tuple[float, float]
    end: tuple[float, float]
    led: frozenset[int]
    """The shards that it led just before."""


class Schedule:
    """Does it, and notes when. Between two faults everybody sees everybody ACTIVE again."""

    def __init__(self, cluster: Playground) -> None:
        self._cluster, self.faults = cluster, list[Fault]()

    async def all_are_well(self) -> None:
        """Wait until everybody is ACTIVE in everybody's eyes: who has never served cannot fail."""
        await asyncio.to_thread(harness.until, self._all_are_well, 10, "everybody ACTIVE in everybody's eyes")

    async def next_victim(self) -> str:
        """Of the nodes that had no fault yet the one that leads most shards."""
        spared = [name for name in self._cluster.names if name not in [fault.node for fault in self.faults]]
        leads = {name: await asyncio.to_thread(self._led, name) for name in spared}
        return max(spared, key=lambda name: len(leads[name]))

    async def kill(self, name: str, for_s: float) -> None:
        """kill -9, and a start later."""
        await self._do("kill", name, for_s, lambda: self._cluster.kill(name), lambda: self._cluster.start(name))

    async def freeze(self, name: str, for_s: float) -> None:
        """SIGSTOP, and SIGCONT once the others have noticed."""
        await self._do("freeze", name, for_s, lambda: self._cluster.pause(name), lambda: self._cluster.resume(name))

    async def restart(self, name: str, for_s: float) -> None:
        """SIGTERM, and a start."""
        await self._do("restart", name, for_s, lambda: self._cluster.stop(name), lambda: self._cluster.start(name))

    async def _do(self, what: str, name: str, for_s: float, down: Callable[[], object], up: Callable[[], object]) -> None:
        led = await asyncio.to_thread(self._led, name)
        begun = now_ms()
        await asyncio.to_thread(down)
        is_down = now_ms()
        state = NODE_STATE_INACTIVE if what == "restart" else NODE_STATE_FAILED
        await asyncio.to_thread(harness.until, lambda: self._is_seen(name, state), 10, f"{name} {what}")
        await asyncio.sleep(for_s)
        ending = now_ms()
        await asyncio.to_thread(up)
        await asyncio.to_thread(self._cluster.wait_caught_up, name)
        await self.all_are_well()
        await asyncio.to_thread(harness.until, lambda: self._records_itself(name), 10, f"{name} ACTIVE in its own record")
        self.faults.append(Fault(what, name, (begun, is_down), (ending, now_ms()), led))

    def _led(self, name: str) -> frozenset[int]:
        with Admin(self._cluster.endpoints, 5) as admin:
            return frozenset(place.shard for place in admin.topology().shards if place.leader == name)

    def _is_seen(self, name: str, state: int) -> bool:
        return all(states[name] == state for observer, states in self._states().items() if observer != name)

    def _all_are_well(self) -> bool:
        states = self._states()
        return len(states) == 3 and all(set(seen.values()) == {NODE_STATE_ACTIVE} for seen in states.values())

    def _records_itself(self, name: str) -> bool:
        request = cluster_pb2.EventsRequest(node=name, limit=1)
        with Admin([self._cluster.node(name).address], 5) as admin:
            _, answer = admin.any(lambda stub, timeout_s: stub.Events(request, timeout=timeout_s))
        return bool(answer.events[0].to == NODE_STATE_ACTIVE)

    def _states(self) -> dict[str, dict[str, int]]:
        """Each answering node's view of all."""
        running = {node.address: node.name for node in self._cluster.nodes if node.state == "running"}
        request = cluster_pb2.MembersRequest()
        with Admin(list(running), 2) as admin:
            answers = admin.each(list(running), lambda stub, timeout_s: stub.Members.future(request, timeout=timeout_s))
        return {
            running[address]: {member.name: member.state for member in answer.members}
            for address, answer in answers.items()
            if isinstance(answer, cluster_pb2.MembersResponse)
        }


@dataclass(frozen=True)
class Put:
    """A strong write that was acknowledged, Unix milliseconds."""

    began: float
    ended: float


class Prober:
    """Sends a strong put to each shard every 50 ms, whether the ones before have ended or not."""

    def __init__(self) -> None:
        self.acked: dict[int, list[Put]] = {}
        self.beats: list[float] = []
        """When it sent: it may be late itself, on a busy machine."""
        self._under_way: set[asyncio.Task[None]] = set()

    @asynccontextmanager
    async def at_work(self, cluster: Playground) -> AsyncIterator[None]:
        """Once every shard has acknowledged a put."""
        keys: dict[int, bytes] = {}
        for number in itertools.count():
            key = b"probe/%d" % number
            keys.setdefault(shard_of(key, SHARDS), key)
            if len(keys) == SHARDS:
                break
        self.acked = {shard: [] for shard in keys}
        async with harness.connect(cluster) as client:
            prober = asyncio.create_task(self._probe(client, keys))
            try:
                await harness.until_async(self._all_have_acked, what="a put of each shard")
                yield
            finally:
                prober.cancel()
                await asyncio.gather(prober, *self._under_way, return_exceptions=True)

    async def _all_have_acked(self) -> bool:
        return all(self.acked.values())

    async def _probe(self, client: kvclient.AsyncClient, keys: dict[int, bytes]) -> None:
        while True:
            self.beats.append(now_ms())
            for shard, key in keys.items():
                task = asyncio.create_task(self._put(client, shard, key))
                self._under_way.add(task)
                task.add_done_callback(self._under_way.discard)
            await asyncio.sleep(PROBE_MS / 1000)

    async def _put(self, client: kvclient.AsyncClient, shard: int, key: bytes) -> None:
        began = now_ms()
        try:
            await client.put(key, b"", timeout=PROBE_TIMEOUT_MS / 1000)
        except kvclient.KvError:
            return
        self.acked[shard].append(Put(began, now_ms()))

    def late_ms(self, begin: float, end: float) -> float:
        """How late it was itself, together, between two moments."""
        beats = [beat for beat in self.beats if begin <= beat <= end]
        return sum(max(0.0, later - earlier - PROBE_MS) for earlier, later in itertools.pairwise([begin, *beats, end]))


async def test_availability_agrees_with_a_schedule_of_failures_and_with_what_clients_saw() -> None:
    """A node is killed, another one frozen, a third one restarted by plan, with clients at work: each is one outage of its kind
    with begin and end within the detection's bounds; the shards' times without a leader are those that clients met."""
    with harness.playground(settings=SETTINGS, shards=SHARDS) as cluster:
        schedule = Schedule(cluster)
        await schedule.all_are_well()
        began = now_ms()
        prober = Prober()
        async with prober.at_work(cluster):
            await schedule.kill(await schedule.next_victim(), 1.0)
            await schedule.freeze(await schedule.next_victim(), 1.0)
            await schedule.restart(await schedule.next_victim(), 0.5)
            await asyncio.sleep(2 * PROBE_MS / 1000)
        with Admin(cluster.endpoints, 5) as admin:
            collected = await asyncio.to_thread(collect, admin)
        whole = availability(collected.answers, collected.missing, collected.replicas)
        found = availability(collected.answers, collected.missing, collected.replicas, (int(began), None))
    print_comparison(found, schedule, prober)
    assert not found.missing
    assert [node.state for node in found.nodes] == ["ACTIVE"] * 3
    for fault in schedule.faults:
        assert_node_agrees(whole, fault)
    for shard in found.shards:
        assert_shard_agrees(shard, schedule.faults, prober)
    assert_system_agrees(found)


def assert_node_agrees(found: Availability, fault: Fault) -> None:
    """One outage of one kind, where the schedule made it."""
    node = next(one for one in found.nodes if one.name == fault.node)
    (outage,) = node.outages
    planned = fault.what == "restart"
    assert (node.figures.failures, node.figures.stops, outage.planned) == ((0, 1, True) if planned else (1, 0, False))
    # It begins with the last word that anybody heard. That was not after it died; and a longer silence than the ceiling is
    # a failure in itself. A goodbye is in the node's own record at once. (Records have whole milliseconds.)
    assert fault.begin[0] - (1 if planned else SILENCE_MS_MAX) <= outage.span.from_ms <= fault.begin[1] + TICK_MS
    # It ends when the node serves: not before it was started, and not after the schedule saw it ACTIVE everywhere.
    assert fault.end[0] - 1 <= outage.span.to_ms <= fault.end[1]
    # The figures follow: of one outage, MTTR is its length, and MTTF all the rest of the time.
    least, most = fault.end[0] - fault.begin[1], fault.end[1] - fault.begin[0]
    figures = node.figures
    assert least - TICK_MS <= figures.down_ms <= most + (0 if planned else SILENCE_MS_MAX)
    observed_ms = found.window.to_ms - node.observed[0].from_ms
    assert figures.up_ms + figures.down_ms == observed_ms
    assert figures.uptime_share == (observed_ms - outage.span.ms) / observed_ms
    assert (figures.mttf_ms, figures.mttr_ms) == ((None, None) if planned else (figures.up_ms, outage.span.ms))


def assert_shard_agrees(shard: ShardAvailability, faults: list[Fault], prober: Prober) -> None:
    """It failed with the nodes that led it and with nobody else; clients met just these times."""
    puts = sorted(prober.acked[shard.shard], key=lambda put: put.ended)
    failures = [outage for outage in shard.outages if not outage.planned]
    causes = [fault for fault in faults if shard.shard in fault.led and fault.what != "restart"]
    assert len(failures) == len(causes), f"shard {shard.shard}: {failures}, {causes}"
    for outage, fault in zip(failures, causes, strict=True):
        assert fault.begin[0] - SILENCE_MS_MAX <= outage.span.from_ms <= fault.begin[1]
        # Not too short: no put that a client sent after the leader's death was acknowledged before the end.
        early = [put for put in puts if put.began > fault.begin[1] and put.ended < outage.span.to_ms]
        assert not early, f"shard {shard.shard} had no leader in {outage.span}, and acknowledged {early[0]}"
        assert puts[0].ended < outage.span.to_ms < puts[-1].began
    for outage in shard.outages:
        if outage.planned:
            # From the old leader's word to the new one's first commit: nobody was served by either.
            within = [put for put in puts if put.began > outage.span.from_ms and put.ended < outage.span.to_ms]
            assert not within, f"shard {shard.shard} was handed over in {outage.span}, and acknowledged {within[0]}"
    for earlier, later in itertools.pairwise(puts):
        # Not too long, and not missed: what clients waited beyond it is one operation's whole time, which may have met a dead
        # node first, and the time until the next one is sent.
        known = clipped(united(outage.span for outage in shard.outages), Span(int(earlier.ended), int(later.ended)))
        waited = later.ended - earlier.ended - total_ms(known) - prober.late_ms(earlier.ended, later.ended)
        assert waited <= PROBE_TIMEOUT_MS + PROBE_MS, f"shard {shard.shard}: nothing between {earlier} and {later}, and {known}"


def assert_system_agrees(found: Availability) -> None:
    """It was down whenever any shard was."""
    outages = [outage for shard in found.shards for outage in shard.outages]
    assert sum(o.span.ms for o in found.system.outages) <= sum(o.span.ms for o in outages)
    assert all(any(_covers(system, outage) for system in found.system.outages) for outage in outages)
    assert found.system.figures.down_ms == sum(outage.span.ms for outage in found.system.outages)


def _covers(one: Outage, other: Outage) -> bool:
    return one.span.from_ms <= other.span.from_ms and other.span.to_ms <= one.span.to_ms


def print_comparison(found: Availability, schedule: Schedule, prober: Prober) -> None:
    """How exact it was, for the report of a failure, and for who wants to know."""
    for fault in schedule.faults:
        node = next(one for one in found.nodes if one.name == fault.node)
        for outage in node.outages:
            begin, end = outage.span.from_ms - fault.begin[1], outage.span.to_ms - fault.end[0]
            most = fault.end[1] - fault.end[0]
            print(f"{fault.what} {fault.node}: began {begin:+.0f} ms, ended {end:+.0f} ms of {most:.0f}; {outage.why}")
    for shard in found.shards:
        ended = sorted(put.ended for put in prober.acked[shard.shard])
        for outage in shard.outages:
            span = outage.span
            pairs = [pair for pair in itertools.pairwise(ended) if pair[1] >= span.from_ms and pair[0] <= span.to_ms]
            met = max((later - earlier for earlier, later in pairs), default=0.0)
            print(f"shard {shard.shard}: {span.ms} ms without a leader, {met:.0f} ms for clients; {outage.why}")
