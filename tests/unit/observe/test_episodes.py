"""What is no request leaves traces too: each with its cause, how long it took, and links to the requests it is about."""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import cluster_pb2, kv_pb2, replication_pb2
from kvnode.config import Tracing as Settings
from kvnode.observe.episodes import Episodes
from kvnode.observe.observer import Observer
from kvnode.observe.tracing import Tracing
from kvnode.protocol.eventual.verdict import Superseded
from kvnode.protocol.raft.leadership import Leadership
from kvnode.shard.superseded import Settled

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SAMPLED = f"00-{TRACE}-{SPAN}-01"
RECOVERED = 4
"""What the log had at the start."""


class World:
    """Episodes of node n1, which leads shard 3; the observer's clock and the wall clock are set."""

    def __init__(self, **settings: Any) -> None:
        self.now, self.wall_ms = 50.0, 1_000_000
        self.tracing = Tracing(Settings(**settings), "n1")
        self.observer = Observer(self.tracing, lambda: self.now, wall_ms=lambda: self.wall_ms)
        self.episodes = Episodes("n1", self.observer)
        replica = SimpleNamespace(is_leader=False, raft=SimpleNamespace(log=SimpleNamespace(last_index=RECOVERED)))
        self.driver: Any = SimpleNamespace(loop=asyncio.get_running_loop(), replicas={3: replica})
        parts: Any = SimpleNamespace()
        self.episodes.watch(self.driver, parts, parts, [parts])

    def spans(self) -> list[dict[str, Any]]:
        return [
            {
                "name": span["name"],
                "ms": round((int(span["endTimeUnixNano"]) - int(span["startTimeUnixNano"])) / 1e6),
                "links": [link["spanId"] for link in span.get("links", ())],
                **{each["key"]: next(iter(each["value"].values())) for each in span["attributes"]},
            }
            for line in self.tracing.latest()
            for resource in json.loads(line)["resourceSpans"]
            for scope in resource["scopeSpans"]
            for span in scope["spans"]
        ]


def write(node: str = "n1", traceparent: str = "") -> replication_pb2.EventualWrite:
    """Accepted 250 ms ago."""
    return replication_pb2.EventualWrite(node=node, sequence=1, hlc=(1_000_000 - 250) << 16, traceparent=traceparent)


async def test_leadership_is_an_election_of_the_time_without_a_leader() -> None:
    """From the last word of the leader before, with the cause."""
    world = World()
    now = world.driver.loop.time()
    cause = cluster_pb2.LEADERSHIP_CAUSE_NODE_FAILED
    world.episodes.on_leadership(
        3, Leadership(term=7, leader="n1", previous="n2", leaderless_since=now - 1.5, serves_since=now - 0.3, cause=cause)
    )
    (span,) = world.spans()
    assert (span["name"], span["ms"], span["kvnode.term"]) == ("kvnode.election", 1200, "7")
    assert (span["kvnode.leader"], span["kvnode.leader.previous"]) == ("n1", "n2")
    assert span["kvnode.cause"] == "the leader before was FAILED"


async def test_disk_stall_and_snapshots_say_how_long_and_why() -> None:
    """They end now."""
    world = World()
    world.episodes.on_disk_moves_again(2.0)
    world.episodes.on_snapshot_sent(3, "n2", 900, False, 0.5)
    world.episodes.on_snapshot_installed(3, "n3", 900, 0.25)
    found = [(span["name"], span["ms"]) for span in world.spans()]
    assert found == [("kvnode.disk_stall", 2000), ("kvnode.snapshot.send", 500), ("kvnode.snapshot.install", 250)]
    assert all(span["kvnode.cause"] for span in world.spans())


async def test_eventual_write_of_a_sampled_request_is_linked_when_it_gets_its_place() -> None:
    """On every node its apply, from its acceptance on; on the leader how it came into the log, too."""
    world = World()
    settled = [Settled(write("n2", SAMPLED), 40, None)]
    world.episodes.on_settled(3, settled)
    (span,) = world.spans()
    assert (span["name"], span["ms"], span["links"]) == ("kvnode.eventual.apply", 250, [SPAN])
    assert (span["kvnode.outcome"], span["kvnode.revision"]) == ("applied", "40")

    world.driver.replicas[3].is_leader = True
    world.observer.times.on_submit(1, [(3, 41, 0)])
    world.now += 0.02
    world.episodes.on_settled(3, [Settled(write("n2", SAMPLED), 41, None)])
    assert [(span["name"], span["ms"]) for span in world.spans()[1:]] == [
        ("kvnode.eventual.sequence", 20),
        ("kvnode.eventual.apply", 250),
    ]


@pytest.mark.parametrize(("origin", "traces"), [("n1", 1), ("n2", 0)])
async def test_superseded_write_always_leaves_a_trace_on_the_node_that_accepted_it(origin: str, traces: int) -> None:
    """Sampled or not: its caller was told that it was taken. Other nodes need not say it again."""
    world = World()
    superseded = Superseded(kv_pb2.SUPERSEDED_REASON_STRONG_WRITE, 39)
    world.episodes.on_settled(3, [Settled(write(origin), 40, superseded)])
    spans = world.spans()
    assert len(spans) == traces
    for span in spans:
        assert (span["kvnode.outcome"], span["kvnode.kept"], span["kvnode.superseded.by"]) == ("superseded", "superseded", "39")
        assert span["kvnode.cause"] == "SUPERSEDED_REASON_STRONG_WRITE"


async def test_writes_that_a_restart_applies_again_leave_no_second_trace() -> None:
    """Their age would be the time that the node was down."""
    world = World()
    superseded = Superseded(kv_pb2.SUPERSEDED_REASON_STRONG_WRITE, 1)
    world.episodes.on_settled(3, [Settled(write("n2", SAMPLED), RECOVERED - 1, None), Settled(write(), RECOVERED, superseded)])
    assert world.spans() == []
    world.episodes.on_settled(3, [Settled(write("n2", SAMPLED), RECOVERED + 1, None)])
    assert len(world.spans()) == 1


async def test_superseded_writes_in_a_flood_leave_a_bounded_number_of_traces() -> None:
    """As do requests that nobody sampled."""
    world = World(kept_per_second_max=5)
    superseded = Superseded(kv_pb2.SUPERSEDED_REASON_STRONG_WRITE, 39)
    world.episodes.on_settled(3, [Settled(write(), 40, superseded)] * 100)
    assert len(world.spans()) == 5


async def test_replication_of_sampled_writes_is_linked_to_all_of_them() -> None:
    """One trace for the batch; nothing where nobody asked."""
    world = World()
    world.episodes.on_replicated("n2", [write()], 49.0)
    assert world.spans() == []
    world.episodes.on_replicated("n2", [write(traceparent=SAMPLED), write(), write(traceparent=SAMPLED)], 49.9)
    (span,) = world.spans()
    assert (span["name"], span["ms"], span["links"]) == ("kvnode.eventual.replicate", 100, [SPAN, SPAN])
