"""Small clusters of detectors in virtual time: no false alarms under the jitter of busy processes, real deaths found soon.

The world knows latency, loss, processes that stall as a whole, that are killed (connections close, reconnects are
refused), paused (the kernel holds connections open) and links cut in one direction. Every run is determined by its seed.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from itertools import count
from random import Random

import pytest

from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE, NODE_STATE_FAILED
from kvnode.protocol.failure_detection import FailureDetectionSettings, FailureDetector, Progress, Transition

HEARTBEAT_S = 0.1
PROBE_TIMEOUT_S = 0.3
RECONNECT_S = 0.1


class Node:
    """One process: a detector, and whether and until when it runs."""

    def __init__(self, name: str, names: list[str], seed: int) -> None:
        self.name = name
        self.detector = FailureDetector(name, names, FailureDetectionSettings(), Random(seed))
        self.alive = True
        self.runs_from = 0.0
        self.progress = 0
        self.transitions: list[tuple[float, Transition]] = []


class World:
    """Virtual time, the network, and the driver's duties."""

    def __init__(self, nodes: int, seed: int, busy: bool = True) -> None:
        self.rng = Random(seed)
        self.now = 0.0
        self.busy = busy
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.order = count()
        names = [f"n{n}" for n in range(1, nodes + 1)]
        self.nodes = {name: Node(name, names, seed + n) for n, name in enumerate(names)}
        self.cut: dict[tuple[str, str], bool] = {}
        self.arrival: dict[tuple[str, str], float] = {}
        for node in self.nodes.values():
            node.detector.set_own_state(NODE_STATE_ACTIVE)
            self.after(self.rng.uniform(0.0, HEARTBEAT_S), lambda node=node: self.beat(node))
            self.after(0.0, lambda node=node: self.step(node))

    def after(self, delay: float, action: Callable[[], None]) -> None:
        heapq.heappush(self.queue, (self.now + delay, next(self.order), action))

    def on(self, node: Node, action: Callable[[], None]) -> None:
        """Runs `action` on the node's event loop: later if that is stopped, never if it is dead."""
        if not node.alive:
            return
        if self.now < node.runs_from:
            self.after(node.runs_from - self.now, lambda: self.on(node, action))
        else:
            action()

    def run(self, seconds: float) -> None:
        end = self.now + seconds
        while self.queue and self.queue[0][0] <= end:
            self.now, _, action = heapq.heappop(self.queue)
            action()
        self.now = end

    def latency(self) -> float:
        """Loopback, and once in a hundred a delay of up to 300 ms: the other side's event loop is busy."""
        late = self.rng.uniform(0.0, 0.3) if self.busy and self.rng.random() < 0.01 else 0.0
        return self.rng.uniform(0.0002, 0.002) + late

    def send(self, sender: Node, receiver: Node, action: Callable[[], None]) -> None:
        """One message. A connection keeps the order: nothing overtakes, and a close comes after what was sent before."""
        link = (sender.name, receiver.name)
        if not self.cut.get(link):
            arrival = max(self.now + self.latency(), self.arrival.get(link, 0.0))
            self.arrival[link] = arrival
            self.after(arrival - self.now, lambda: self.on(receiver, action))

    def beat(self, node: Node) -> None:
        """The heartbeat timer, itself late at times."""

        def send_all() -> None:
            node.progress += 1
            for peer in self.nodes.values():
                if peer is not node:
                    self.send(node, peer, lambda peer=peer: self.on_heartbeat(peer, node))
            self.after(HEARTBEAT_S, lambda: self.beat(node))

        self.after(self.latency(), lambda: self.on(node, send_all))

    def on_heartbeat(self, receiver: Node, sender: Node) -> None:
        self.heard(receiver, sender)
        self.send(receiver, sender, lambda: self.heard(sender, receiver))

    def heard(self, receiver: Node, sender: Node) -> None:
        progress = Progress(sender.progress, sender.progress, 0)
        receiver.detector.on_heard(sender.name, self.now, 1, NODE_STATE_ACTIVE, progress)

    def step(self, node: Node, again: bool = True) -> None:
        def run() -> None:
            actions = node.detector.step(self.now)
            node.transitions += [(self.now, transition) for transition in actions.transitions]
            for helper, target in actions.probe:
                self.probe(node, self.nodes[helper], self.nodes[target])
            if again and actions.deadline is not None:
                self.after(actions.deadline - self.now, lambda: self.step(node))

        self.on(node, run)

    def probe(self, asker: Node, helper: Node, target: Node) -> None:
        def answer(alive: bool) -> None:
            def take() -> None:
                asker.detector.on_probe_result(helper.name, target.name, alive, self.now)
                self.step(asker, again=False)

            self.send(helper, asker, take)

        def ask() -> None:
            if not target.alive:
                answer(alive=False)  # Refused.
                return
            answered: list[bool] = []

            def once(alive: bool) -> None:
                if not answered:
                    answered.append(alive)
                    answer(alive)

            self.send(helper, target, lambda: self.send(target, helper, lambda: once(alive=True)))
            self.after(PROBE_TIMEOUT_S, lambda: self.on(helper, lambda: once(alive=False)))

        self.send(asker, helper, ask)

    def kill(self, victim: Node) -> None:
        """kill -9: kernels close its connections at once, and refuse new ones."""
        victim.alive = False
        for peer in self.nodes.values():
            self.send(victim, peer, lambda peer=peer: self.lost(peer, victim, refused=False))

    def lost(self, peer: Node, victim: Node, refused: bool) -> None:
        peer.detector.on_connection_lost(victim.name, self.now, refused)
        self.step(peer, again=False)
        self.reconnect(peer, victim)

    def reconnect(self, peer: Node, victim: Node) -> None:
        def attempt() -> None:
            if not victim.alive:
                self.lost(peer, victim, refused=True)

        self.after(RECONNECT_S, lambda: self.on(peer, attempt))

    def failed(self) -> list[tuple[str, str, float]]:
        """(observer, node, when) of every FAILED."""
        return [
            (node.name, transition.node, at)
            for node in self.nodes.values()
            for at, transition in node.transitions
            if transition.to_state == NODE_STATE_FAILED
        ]


def detection_times(nodes: int, strike: Callable[[World, Node], None], busy: bool = True) -> list[float]:
    """Seconds from the strike on n2 to each survivor's FAILED, over several seeds; nobody else may be FAILED."""
    times = []
    for seed in range(12):
        world = World(nodes, seed, busy)
        world.run(5.0 + seed / 100)
        struck_at = world.now
        strike(world, world.nodes["n2"])
        world.run(4.0)
        failed = world.failed()
        assert [node for _, node, _ in failed] == ["n2"] * (nodes - 1)
        times += [at - struck_at for _, _, at in failed]
    return sorted(times)


def pause(world: World, victim: Node) -> None:
    """SIGSTOP: nothing runs, connections stay open."""
    victim.runs_from = world.now + 3600.0


@pytest.mark.parametrize("nodes", [2, 3, 5])
def test_busy_processes_for_minutes_are_never_failed(nodes: int) -> None:
    """Delays of up to 300 ms on 1 % of all messages and timers: no FAILED at all, and nobody stays suspected."""
    for seed in range(2):
        world = World(nodes, seed)
        world.run(60.0)
        assert world.failed() == []
        for node in world.nodes.values():
            assert not any(view.suspected for view in node.detector.snapshot(world.now))


@pytest.mark.parametrize(("nodes", "within_s"), [(2, 0.6), (3, 0.5), (5, 0.5)])
def test_killed_process_is_failed_within_half_a_second(nodes: int, within_s: float) -> None:
    """kill -9 closes connections: suspected at once, confirmed by helpers or by refused reconnects."""
    times = detection_times(nodes, World.kill)
    assert times[-1] < within_s


@pytest.mark.parametrize(("nodes", "earliest_s", "latest_s"), [(2, 0.5, 1.2), (3, 0.5, 1.2), (5, 0.5, 1.2)])
def test_paused_process_is_failed_within_the_bounds(nodes: int, earliest_s: float, latest_s: float) -> None:
    """SIGSTOP leaves only silence: phi finds it, not too soon and not too late."""
    times = detection_times(nodes, pause)
    assert earliest_s < times[0]
    assert times[-1] < latest_s


def test_paused_process_on_waking_fails_nobody() -> None:
    """Ten seconds stopped: the others called it FAILED and take it back; it calls nobody FAILED."""
    for seed in range(5):
        world = World(3, seed)
        world.run(5.0)
        world.nodes["n2"].runs_from = world.now + 10.0
        world.run(20.0)
        assert [(observer, node) for observer, node, _ in world.failed()] == [("n1", "n2"), ("n3", "n2")]
        assert [world.nodes[name].detector.state("n2") for name in ("n1", "n3")] == [NODE_STATE_ACTIVE] * 2


def test_link_cut_in_both_directions_between_two_of_three_fails_nobody() -> None:
    """The third vouches for each to the other as long as the cut lasts."""
    world = World(3, 1)
    world.run(5.0)
    world.cut = {("n1", "n2"): True, ("n2", "n1"): True}
    world.run(20.0)
    assert world.failed() == []
    assert "n3 reached it" in world.nodes["n1"].detector.why("n2")
    assert not world.nodes["n1"].detector.routable("n2")
    world.cut = {}
    world.run(2.0)
    assert world.nodes["n1"].detector.routable("n2")


def test_node_cut_off_from_all_doubts_itself() -> None:
    """Alone it marks all others FAILED with a doubt in the reason; the others fail it, confirmed."""
    world = World(3, 1, busy=False)
    world.run(5.0)
    for peer in ("n2", "n3"):
        world.cut[("n1", peer)] = world.cut[(peer, "n1")] = True
    world.run(5.0)
    assert sorted((observer, node) for observer, node, _ in world.failed()) == [
        ("n1", "n2"),
        ("n1", "n3"),
        ("n2", "n1"),
        ("n3", "n1"),
    ]
    reasons = {node.name: node.transitions[-1][1].why for node in world.nodes.values()}
    assert "may itself be cut off" in reasons["n1"]
    assert "confirmed by n3" in reasons["n2"]
    assert "confirmed by n2" in reasons["n3"]
