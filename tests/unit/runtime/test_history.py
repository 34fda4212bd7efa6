"""What a node records of others, of itself, and of its leaderships: with the right times, and over restarts."""

from __future__ import annotations

from typing import Any

from kvapi.v1 import cluster_pb2
from kvapi.v1.cluster_pb2 import LEADERSHIP_CAUSE_NODE_FAILED
from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE, NODE_STATE_FAILED, NODE_STATE_INACTIVE, NODE_STATE_RECOVERING
from kvnode.protocol.failure_detection.actions import Transition
from kvnode.protocol.raft.leadership import Leadership
from kvnode.runtime.flusher import NODE_ROWS
from kvnode.runtime.history import ALIVE_INTERVAL, History
from kvnode.runtime.recovery import ALIVE_RECORD, Recovered, replay
from kvnode.storage.memory_store import MemoryStore
from kvnode.storage.records import NodeRecord
from kvnode.types import Origin

BOOTED_MS = 1_700_000_000_000
"""Wall time at 0 of the event loop."""


class Machine:
    """One node's disk, as far as its history goes, and its clocks."""

    def __init__(self) -> None:
        self.now, self.incarnation = 50.0, 0
        self.records: list[NodeRecord] = []
        self.store = MemoryStore()
        self.history = self.restarted()

    def restarted(self) -> History:
        """The next life."""
        self.incarnation += 1
        driver: Any = self
        self.loop: Any = self
        recovered = replay(self.records)
        self.history = History(Origin("n1", self.incarnation), driver, self.store, recovered, self.wall_ms)
        return self.history

    def wall_ms(self) -> int:
        """Unix milliseconds."""
        return BOOTED_MS + round(self.now * 1000)

    def time(self) -> float:
        """The event loop's."""
        return self.now

    def write_node_record(self, record: NodeRecord) -> None:
        """At once on disk."""
        self.records.append(record)

    def flush(self) -> None:
        """The store has it, the log has lost it."""
        self.store.commit({NODE_ROWS: self.history.rows()})
        self.history.on_flushed()
        self.records = [record for record in self.records if record.kind < 16]


def started(to: int = NODE_STATE_RECOVERING) -> Transition:
    """The detector's word about its own node, at the first tick."""
    return Transition("n1", NODE_STATE_INACTIVE, to, "says so itself", 0)  # type: ignore[arg-type]


def test_history_of_a_failure_says_how_long_it_had_been_silent() -> None:
    """So that the outage can be counted from the last word heard; and when it was noticed, not when it is recorded."""
    machine = Machine()
    machine.history.on_transition(Transition("n2", NODE_STATE_ACTIVE, NODE_STATE_FAILED, "silent", 7, 49.97, 850))
    found = cluster_pb2.NodeEvent(
        node="n2", to=NODE_STATE_FAILED, at_ms=BOOTED_MS + 49_970, why="silent", incarnation=7, silent_ms=850
    )
    setattr(found, "from", NODE_STATE_ACTIVE)
    assert list(machine.history.events) == [found]


def test_history_of_a_peer_never_heard_has_no_incarnation() -> None:
    """The observer's own would be a wrong one."""
    machine = Machine()
    machine.history.on_transition(Transition("n2", NODE_STATE_INACTIVE, NODE_STATE_FAILED, "never heard", 0, None, 3000))
    assert [event.incarnation for event in machine.history.events] == [0]


def test_history_of_a_restart_says_when_the_life_before_was_last_alive() -> None:
    """With the first word about itself, and only with that; the first life of all knows of none."""
    machine = Machine()
    machine.history.step(machine.now)
    machine.history.on_transition(started())
    machine.now += ALIVE_INTERVAL / 2
    machine.history.step(machine.now)
    machine.now += ALIVE_INTERVAL / 2
    machine.history.step(machine.now)
    alive_ms = machine.wall_ms()
    machine.now += ALIVE_INTERVAL * 0.9
    machine.history.step(machine.now)
    machine.now += 100
    machine.restarted()
    machine.history.on_transition(Transition("n2", NODE_STATE_INACTIVE, NODE_STATE_ACTIVE, "says so itself", 1))
    machine.history.on_transition(started())
    machine.history.on_transition(Transition("n1", NODE_STATE_RECOVERING, NODE_STATE_ACTIVE, "says so itself", 0))
    told = [(event.node, event.incarnation, event.last_alive_ms) for event in machine.history.events]
    assert told == [("n1", 1, 0), ("n2", 1, 0), ("n1", 2, alive_ms), ("n1", 2, 0)]


def test_history_says_every_other_second_that_the_node_runs() -> None:
    """However often it is stepped: each is a write."""
    machine = Machine()
    for _ in range(100):
        machine.history.step(machine.now)
        machine.now += 0.05
    assert [record.kind for record in machine.records] == [ALIVE_RECORD] * 3


def test_history_of_a_leadership_has_the_moments_that_the_core_kept() -> None:
    """It is recorded at the next tick, and says when it was."""
    machine = Machine()
    won = Leadership(5, "n1", "n3", leaderless_since=48.5, serves_since=49.96, cause=LEADERSHIP_CAUSE_NODE_FAILED)
    machine.history.on_leadership(2, won)
    assert list(machine.history.leaderships) == [
        cluster_pb2.LeadershipEvent(
            shard=2,
            term=5,
            leader="n1",
            previous="n3",
            at_ms=BOOTED_MS + 49_960,
            leaderless_ms=1460,
            cause=LEADERSHIP_CAUSE_NODE_FAILED,
        )
    ]


def test_history_restarted_has_both_journals_from_log_and_store() -> None:
    """Neither knows the other's records or rows."""
    machine = Machine()
    won = Leadership(5, "n1", "n3", 48.5, 49.96, LEADERSHIP_CAUSE_NODE_FAILED)
    for flushed in (True, False):
        machine.history.on_transition(started())
        machine.history.on_leadership(2, won)
        if flushed:
            machine.flush()
    before = list(machine.history.events), list(machine.history.leaderships)
    machine.restarted()
    assert (list(machine.history.events), list(machine.history.leaderships)) == before
    assert [len(journal) for journal in before] == [2, 2]


def test_history_without_a_data_directory_is_empty() -> None:
    """The first start."""
    driver: Any = Machine()
    history = History(Origin("n1", 1), driver, MemoryStore(), Recovered(), lambda: BOOTED_MS)
    assert (list(history.events), list(history.leaderships), history.rows()) == ([], [], [])
