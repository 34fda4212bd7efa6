"""A cluster on paper: what happens to its nodes by a schedule, and what each of them records of it.

Owns the truth, and the records that nodes would make of it: heartbeats, silence until FAILED, another node's word for a
suspect, goodbyes, starts, wall clocks that differ. Each step is 50 ms, as the nodes' own housekeeping. Judges nothing.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from kvapi.v1 import cluster_pb2
from kvapi.v1.message_pb2 import (
    NODE_STATE_ACTIVE,
    NODE_STATE_FAILED,
    NODE_STATE_INACTIVE,
    NODE_STATE_RECOVERING,
    NodeState,
)

EPOCH_MS = 1_700_000_000_000
STEP_MS = 50
HEARTBEAT_MS = 200
DETECTION_MS = (700, 1600)
"""Silence until FAILED."""
REPAIR_MS = 300
"""From the start of a process to ACTIVE."""
ALIVE_INTERVAL_MS = 2000


@dataclass
class View:
    """What one node thinks of another."""

    heard_ms: int
    limit_ms: int
    state: NodeState = NODE_STATE_INACTIVE
    incarnation: int = 0
    left: bool = False


@dataclass
class Node:
    """One node: its process, its memory, its disk."""

    name: str
    skew_ms: int
    runs: bool = False
    paused: bool = False
    incarnation: int = 0
    started_ms: int = 0
    stopped: bool = False
    alive_ms: int = 0
    views: dict[str, View] = field(default_factory=dict)
    state: NodeState = NODE_STATE_INACTIVE
    events: list[cluster_pb2.NodeEvent] = field(default_factory=list)
    held_alive_ms: int = 0
    """What the disk of the life before says."""
    record: cluster_pb2.AvailabilityResponse = field(default_factory=cluster_pb2.AvailabilityResponse)
    """Its leaderships."""

    @property
    def leaderships(self) -> Any:
        """A repeated field."""
        return self.record.leaderships


class World:
    """Nodes n1, n2, ... Say what happens at which moment, then `run`; all times are milliseconds since the beginning."""

    def __init__(
        self, nodes: int = 3, skews_ms: Iterable[int] = (), seed: int = 0, detection_ms: tuple[int, int] = DETECTION_MS
    ):
        skews = [*skews_ms, *[0] * nodes]
        self.nodes = {f"n{i + 1}": Node(f"n{i + 1}", skews[i]) for i in range(nodes)}
        self.now_ms = 0
        self._rng = random.Random(seed)
        self._due: list[tuple[int, int, Callable[[], None]]] = []
        self._cut: Counter[tuple[str, str]] = Counter()
        for name in self.nodes:
            self._start(name)

    # ---- what happens ----------------------------------------------------------------------------------------------

    def at(self, at_ms: int, do: Callable[..., None], *args: object) -> None:
        """`do` at a moment."""
        self._due.append((at_ms, len(self._due), lambda: do(*args)))

    def crash(self, name: str, from_ms: int, to_ms: int | None = None) -> None:
        """kill -9; started again at `to_ms`."""
        self.at(from_ms, self._end, name)
        if to_ms is not None:
            self.at(to_ms, self._start, name)

    def stop(self, name: str, from_ms: int, to_ms: int | None = None) -> None:
        """SIGTERM: it says goodbye first, for a heartbeat."""
        self.at(from_ms, self._say_goodbye, name)
        self.at(from_ms + 2 * HEARTBEAT_MS, self._end, name)
        if to_ms is not None:
            self.at(to_ms, self._start, name)

    def pause(self, name: str, from_ms: int, to_ms: int | None = None) -> None:
        """SIGSTOP, and SIGCONT."""
        self.at(from_ms, setattr, self.nodes[name], "paused", True)
        if to_ms is not None:
            self.at(to_ms, self._resume, name)

    def cut(self, one: Iterable[str], others: Iterable[str], from_ms: int, to_ms: int | None = None) -> None:
        """Nothing passes between two groups."""
        pairs = [pair for a in one for b in others for pair in ((a, b), (b, a))]
        self.at(from_ms, self._cut.update, pairs)
        if to_ms is not None:
            self.at(to_ms, self._cut.subtract, pairs)

    def run(self, to_ms: int) -> None:
        """Up to a moment."""
        due = sorted(self._due)
        while self.now_ms < to_ms:
            while due and due[0][0] <= self.now_ms:
                due.pop(0)[2]()
            for node in self.nodes.values():
                if node.runs and not node.paused:
                    self._step(node)
            self.now_ms += STEP_MS
        self._due = due

    def answers(self, *without: str) -> list[cluster_pb2.AvailabilityResponse]:
        """The records of the nodes that answer now."""
        return [
            cluster_pb2.AvailabilityResponse(
                node=node.name,
                at_ms=self.wall_ms(node.name),
                started_ms=EPOCH_MS + node.started_ms + node.skew_ms,
                events=node.events,
                leaderships=node.leaderships,
            )
            for node in self.nodes.values()
            if node.runs and not node.paused and node.name not in without
        ]

    def wall_ms(self, name: str) -> int:
        """A node's clock."""
        return EPOCH_MS + self.now_ms + self.nodes[name].skew_ms

    def lead(self, name: str, shard: int, term: int, previous: str, leaderless_ms: int, cause: str) -> None:
        """A node comes to lead a shard just now; the others hear of it a moment later."""
        for node in self.nodes.values():
            if node.name == name or self._reaches(node, self.nodes[name]):
                late_ms = 0 if node.name == name else STEP_MS
                is_known = node.name == name or bool(previous)
                node.leaderships.add(
                    shard=shard,
                    term=term,
                    leader=name,
                    previous=previous,
                    at_ms=self.wall_ms(node.name) + late_ms,
                    leaderless_ms=leaderless_ms + late_ms if is_known else 0,
                    cause=cluster_pb2.LeadershipCause.Value(f"LEADERSHIP_CAUSE_{cause if is_known else 'UNSPECIFIED'}"),
                )

    # ---- a process -------------------------------------------------------------------------------------------------

    def _start(self, name: str) -> None:
        node = self.nodes[name]
        if node.runs:
            return
        node.runs, node.paused, node.stopped, node.started_ms = True, False, False, self.now_ms
        node.incarnation += 1
        node.held_alive_ms, node.alive_ms = node.alive_ms, 0
        node.views = {other: View(self.now_ms, self._limit_ms()) for other in self.nodes if other != name}
        node.state = NODE_STATE_INACTIVE

    def _end(self, name: str) -> None:
        self.nodes[name].runs = False

    def _resume(self, name: str) -> None:
        node = self.nodes[name]
        node.paused = False
        for view in node.views.values():
            view.heard_ms = self.now_ms  # its own stall is nobody's silence

    def _say_goodbye(self, name: str) -> None:
        self.nodes[name].stopped = True

    def _limit_ms(self) -> int:
        return self._rng.randint(*DETECTION_MS)

    def _step(self, node: Node) -> None:
        state = NODE_STATE_ACTIVE if self.now_ms >= node.started_ms + REPAIR_MS else NODE_STATE_RECOVERING
        state = NODE_STATE_INACTIVE if node.stopped else state
        if state != node.state:
            event = self._event(node, node.name, node.state, state, node.incarnation)
            event.last_alive_ms, node.held_alive_ms = node.held_alive_ms, 0
            node.state = state
        if self.wall_ms(node.name) >= node.alive_ms + ALIVE_INTERVAL_MS:
            node.alive_ms = self.wall_ms(node.name)
        beats = (self.now_ms - node.started_ms) % HEARTBEAT_MS == 0
        for name, view in node.views.items():
            other = self.nodes[name]
            if self._reaches(node, other):
                if beats or view.state == NODE_STATE_FAILED:
                    self._hear(node, other, view)
            elif self.now_ms - view.heard_ms >= view.limit_ms and view.state != NODE_STATE_FAILED and not view.left:
                if not any(self._reaches(node, helper) and self._reaches(helper, other) for helper in self.nodes.values()):
                    event = self._event(node, name, view.state, NODE_STATE_FAILED, view.incarnation)
                    event.silent_ms = self.now_ms - view.heard_ms
                    view.state = NODE_STATE_FAILED

    def _reaches(self, one: Node, other: Node) -> bool:
        return all(node.runs and not node.paused for node in (one, other)) and not self._cut[one.name, other.name]

    def _hear(self, node: Node, other: Node, view: View) -> None:
        if other.state == NODE_STATE_INACTIVE and not other.stopped:
            return  # it has not begun to speak
        view.heard_ms, view.limit_ms = self.now_ms, self._limit_ms()
        view.incarnation, view.left = other.incarnation, other.stopped
        if view.state != other.state:
            self._event(node, other.name, view.state, other.state, other.incarnation)
            view.state = other.state

    def _event(self, node: Node, about: str, was: NodeState, now: NodeState, incarnation: int) -> cluster_pb2.NodeEvent:
        event = cluster_pb2.NodeEvent(
            node=about, to=now, at_ms=self.wall_ms(node.name), incarnation=incarnation, **{"from": was}
        )
        node.events.append(event)
        return node.events[-1]
