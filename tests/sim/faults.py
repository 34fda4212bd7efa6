"""What goes wrong, and when: a seeded nemesis over a `World`.

Owns: the choice, the duration and the repair of faults. Never: looks at what the cluster does, so that a fault comes at any
moment. Each run enables a random subset of the kinds its scenario permits: a fault that happens all the time hides others.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Sequence

from .loop import SimulatedWorker
from .machine import SimNode
from .network import LinkQuality
from .places import PLACES
from .world import World

PROCESS = ("kill", "power loss", "die within a sync", "die at a place", "pause", "SIGTERM", "power loss of all")
NETWORK = ("partition", "isolate", "cut one way", "flap", "bad network", "slow link", "bridge")
DISK = ("log hangs", "store hangs", "disk slow", "write fails", "sync fails", "commit fails", "disk full", "die within a sync")
CLOCK = ("clock jumps", "clock drifts", "clock strobes")
LOST = ("disk lost",)
DAMAGE = ("bits flip",)
ALWAYS = (*LOST, *DAMAGE)
"""Where a scenario permits these, every run has them; once, and of one node."""

SCENARIOS: dict[str, Sequence[str]] = {
    "calm": (),
    "crashes": PROCESS,
    "partitions": NETWORK,
    "disks": DISK,
    "clocks": (*CLOCK, "kill", "partition"),
    "mixed": (*PROCESS, *NETWORK, *DISK, *CLOCK),
    "transactions": (*PROCESS, *NETWORK),
    "leases": ("pause", "SIGTERM", "isolate", "cut one way", "bad network", "slow link", "log hangs"),
    "places": ("die at a place",),
    "lost-disk": (*PROCESS, *NETWORK, *LOST),
    "damage": (*PROCESS, *DAMAGE),
}


class Faults:
    """Breaks things until told to stop; `heal` mends everything that can be mended."""

    def __init__(self, world: World, scenario: str, *, interval_s_mean: float, without: Collection[str] = ()) -> None:
        self.world = world
        self.rng = world.loop.random("faults")
        self.running = True
        self.kinds = [kind for kind in dict.fromkeys(SCENARIOS[scenario]) if self.rng.random() < 0.5 or kind in ALWAYS]
        self._interval_s_mean, self._without = interval_s_mean, without
        self._actions: dict[str, Callable[[SimNode], Awaitable[None]]] = {
            "kill": self._kill,
            "power loss": self._power_loss,
            "power loss of all": self._power_loss_of_all,
            "die within a sync": self._die_within_a_sync,
            "die at a place": self._die_at_a_place,
            "pause": self._pause,
            "SIGTERM": self._sigterm,
            "partition": self._partition,
            "isolate": self._isolate,
            "cut one way": self._cut_one_way,
            "flap": self._flap,
            "bad network": self._bad_network,
            "slow link": self._slow_link,
            "bridge": self._bridge,
            "log hangs": self._log_hangs,
            "store hangs": self._store_hangs,
            "disk slow": self._disk_slow,
            "write fails": self._write_fails,
            "sync fails": self._sync_fails,
            "commit fails": self._commit_fails,
            "disk full": self._disk_full,
            "clock jumps": self._clock_jumps,
            "clock drifts": self._clock_drifts,
            "clock strobes": self._clock_strobes,
            "disk lost": self._disk_lost,
            "bits flip": self._bits_flip,
        }

    async def run(self) -> None:
        """Breaks things, one after the other; they overlap."""
        while self.running and self.kinds:
            await self.world.sleep(self.rng.expovariate(1 / self._interval_s_mean))
            kind = self.rng.choice(self.kinds)
            node = self.rng.choice(list(self.world.nodes.values()))
            if self.running and kind not in self._without:
                self.world.note("", f"fault: {kind} ({node.name})")
                self.world.faults[kind] += 1
                await self._actions[kind](node)

    def heal(self, dead: Sequence[str] = ()) -> None:
        """Mends everything; nodes named in `dead` stay dead, those whose disk is lost too."""
        self.running = False
        world = self.world
        world.places.running = False
        world.network.heal()
        world.network.set_quality(LinkQuality())
        for node in world.nodes.values():
            node.disk.on_sync = None
            node.disk.capacity_bytes = 2**40
            node.clock_rate = 1.0
            node.clock_offset_ms = self.rng.uniform(-0.2, 0.2) * world.config.clock.max_clock_skew_ms
            self._resume(node)
            for worker in (node.log_worker, node.store_worker):
                if worker is not None:
                    worker.slow_s_mean = 0.0
                if worker is not None and worker._hung:
                    node.group.run(worker.recover) if node.group else None
            if node.name in dead or node.lost:
                node.kill("stays dead")
            elif not node.up:
                node.start()
            elif node.stopping:
                # (A stop that is under way would end it after the healing.)
                node.kill("its stop is cut short")
                node.start()

    # ---- processes --------------------------------------------------------------------------------------------------

    def _later(self, low: float, high: float, callback: Callable[..., None], *args: object) -> None:
        self.world.outside(self.rng.uniform(low, high), self._if_running, callback, *args)

    def _if_running(self, callback: Callable[..., None], *args: object) -> None:
        if self.running:
            callback(*args)

    async def _kill(self, node: SimNode) -> None:
        node.kill()
        self._later(0.01, 3.0, node.start)

    async def _power_loss(self, node: SimNode) -> None:
        if node.up:
            node.lose_power()
        self._later(0.01, 3.0, node.start)

    async def _power_loss_of_all(self, _: SimNode) -> None:
        for node in self.world.nodes.values():
            if node.up:
                node.lose_power()
            self._later(0.01, 2.0, node.start)

    async def _die_within_a_sync(self, node: SimNode) -> None:
        if node.up and node.disk.on_sync is None:
            node.die_at_sync(self.rng.choice((1, 1, 2, 3, 8, 20)), self.rng.random() < 0.5)

    async def _die_at_a_place(self, _: SimNode) -> None:
        """Whoever comes there first; several places, since most are rare."""
        names = self.rng.sample(PLACES, self.rng.choice((1, 3, 10)))
        if self.rng.random() < 0.5:
            names = [name for name in names if self.world.places.reached[name] < 1000] or names
        self.world.places.plan(names, power=self.rng.random() < 0.5)

    async def _pause(self, node: SimNode) -> None:
        if node.group is not None:
            node.group.pause()
            self._later(0.02, self.rng.choice((0.3, 2.0, 6.0)), self._resume, node)

    @staticmethod
    def _resume(node: SimNode) -> None:
        if node.group is not None and node.group.paused:
            node.group.resume()

    async def _sigterm(self, node: SimNode) -> None:
        self.world.loop.create_task(self._stop_and_start(node), name=f"sigterm {node.name}")

    async def _stop_and_start(self, node: SimNode) -> None:
        life = node.life
        await node.stop()
        await self.world.sleep(self.rng.uniform(0.01, 1.0))
        if node.life == life and not node.up and self.running:
            node.start()

    # ---- the network ------------------------------------------------------------------------------------------------

    async def _partition(self, _: SimNode) -> None:
        names = list(self.world.nodes)
        self.rng.shuffle(names)
        size = self.rng.randint(1, len(names) - 1)
        self.world.network.partition(names[:size], names[size:])
        self._later(0.1, 6.0, self.world.network.heal)

    async def _isolate(self, node: SimNode) -> None:
        self.world.network.partition([node.name], [name for name in self.world.nodes if name != node.name])
        self._later(0.1, 6.0, self.world.network.heal)

    def _two(self) -> tuple[str, str]:
        first, second = self.rng.sample(list(self.world.nodes), 2)
        return first, second

    async def _cut_one_way(self, _: SimNode) -> None:
        source, target = self._two()
        self.world.network.cut(source, target)
        self._later(0.1, 6.0, self.world.network.heal, source, target)

    async def _bridge(self, node: SimNode) -> None:
        others = [name for name in self.world.nodes if name != node.name]
        half = len(others) // 2
        self.world.network.partition(others[:half], others[half:])
        self._later(0.1, 6.0, self.world.network.heal)

    async def _flap(self, _: SimNode) -> None:
        source, target = self._two()
        self.world.network.flap(source, target, self.rng.uniform(0.05, 1.0), self.rng.uniform(0.05, 1.0))
        self._later(1.0, 6.0, self.world.network.heal, source, target)

    async def _slow_link(self, _: SimNode) -> None:
        source, target = self._two()
        self.world.network.slow(source, target, self.rng.choice((10.0, 100.0, 500.0)))
        self._later(0.5, 6.0, self.world.network.heal, source, target)

    async def _bad_network(self, _: SimNode) -> None:
        self.world.network.set_quality(LinkQuality.randomized(self.rng))
        self._later(0.5, 6.0, self.world.network.set_quality, LinkQuality())

    # ---- disks ------------------------------------------------------------------------------------------------------

    async def _log_hangs(self, node: SimNode) -> None:
        if node.log_worker is not None and node.group is not None:
            node.log_worker.hang()
            self._later(0.05, self.rng.choice((0.5, 5.0)), self._recover, node, node.life)

    async def _store_hangs(self, node: SimNode) -> None:
        if node.store_worker is not None and node.group is not None:
            node.store_worker.hang()
            self._later(0.05, self.rng.choice((0.5, 5.0)), self._recover, node, node.life)

    @staticmethod
    def _recover(node: SimNode, life: int) -> None:
        for worker in (node.log_worker, node.store_worker):
            # (What the first one does now may be the node's end.)
            if worker is not None and node.life == life and node.group is not None:
                node.group.run(worker.recover)

    async def _disk_slow(self, node: SimNode) -> None:
        slow = self.rng.choice((0.01, 0.1, 0.5))
        for worker in (node.log_worker, node.store_worker):
            if worker is not None and self.rng.random() < 0.7:
                worker.slow_s_mean = slow
                self._later(0.2, 6.0, self._quick_again, worker)

    @staticmethod
    def _quick_again(worker: SimulatedWorker) -> None:
        worker.slow_s_mean = 0.0

    async def _write_fails(self, node: SimNode) -> None:
        if node.up:
            node.disk.fail_next_write()

    async def _sync_fails(self, node: SimNode) -> None:
        if node.up:
            node.disk.fail_next_sync()

    async def _commit_fails(self, node: SimNode) -> None:
        if node.up:
            node.store.fail_next_commit()

    async def _disk_full(self, node: SimNode) -> None:
        used = sum(node.disk.size(name) for name in node.disk.names())
        node.disk.capacity_bytes = used + self.rng.choice((0, 4096, 65536))
        self._later(0.2, 6.0, self._disk_has_space, node)

    @staticmethod
    def _disk_has_space(node: SimNode) -> None:
        node.disk.capacity_bytes = 2**40

    def _may_be_lost(self) -> bool:
        return self.world.loop.now > 3.0 and not any(other.lost or other.damage for other in self.world.nodes.values())

    async def _disk_lost(self, node: SimNode) -> None:
        if self._may_be_lost():
            node.lose_disk()
            self._later(0.01, 3.0, node.start)

    async def _bits_flip(self, node: SimNode) -> None:
        if self._may_be_lost():
            node.flip_bits(self.rng.choice((1, 1, 1, 8)))
            self._later(0.01, 3.0, node.start)

    # ---- clocks -----------------------------------------------------------------------------------------------------

    async def _clock_jumps(self, node: SimNode) -> None:
        skew = self.world.config.clock.max_clock_skew_ms
        node.clock_offset_ms = self.rng.choice((0.4 * skew, -0.4 * skew, 3.0 * skew, -3.0 * skew, 6e5, -6e5))
        node.clock_offset_ms *= self.rng.random()

    async def _clock_strobes(self, node: SimNode) -> None:
        """Forth and back, many times a second."""
        period, jump = self.rng.choice((0.005, 0.05, 0.3)), self.rng.choice((50.0, 500.0, 5000.0)) * self.rng.random()
        self._strobe(node, period, jump, self.rng.randint(5, 60))

    def _strobe(self, node: SimNode, period: float, jump: float, times: int) -> None:
        node.clock_offset_ms += jump
        if times:
            self.world.outside(period, self._if_running, self._strobe, node, period, -jump, times - 1)

    async def _clock_drifts(self, node: SimNode) -> None:
        node.clock_rate = self.rng.choice((0.5, 0.99, 1.01, 2.0))
