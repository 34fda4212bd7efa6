"""A cluster of whole nodes in a simulated world: the machines, the network between them, their time, and the verdict.

Owns: what belongs to no single machine. Never: decides when what fails (`faults` does), what clients ask (`workload` does), or
what a node must not do (`witness` does).
"""

from __future__ import annotations

import asyncio
import functools
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from typing import Any

import structlog

from kvnode.config import Cluster, Config
from kvnode.config import Node as NodeConfig
from kvnode.storage.disk import DiskFailed
from kvnode.types import NodeName

from .history import Violation
from .loop import MONOTONIC_DRIFT_MAX, SimulatedLoop, current_group
from .machine import SimNode
from .network import Network
from .places import Places, PowerCut
from .trace import VIOLATION, Trace
from .witness import Witness

KIB = 1024


class World:
    """Nodes, network, clocks, and everything that is known about the run."""

    def __init__(
        self,
        loop: SimulatedLoop,
        trace: Trace,
        *,
        nodes: int,
        shards: int,
        replication_factor: int,
        leader_lease: bool | None = None,
    ) -> None:
        """`leader_lease`: whether leaders have leases; None: as the seed says."""
        self.loop, self.trace = loop, trace
        self.rng = loop.random("world")
        self.faults: Counter[str] = Counter()
        self.violations: list[Violation] = []
        self.over = False
        """The verdict is out; what is still torn down says nothing."""
        self.network = Network(loop, loop.random("network"), trace=trace)
        self.places = Places(lambda sim, place, power: sim.die(place, power))
        self.network.on_place = lambda name, place: name in self.nodes and self.places.reach(self.nodes[name], place)
        self.config = self._random_config(nodes, shards, replication_factor)
        if leader_lease is not None:
            election = self.config.election.model_copy(update={"leader_lease": leader_lease})
            self.config = self.config.model_copy(update={"election": election})
        self.nodes = {name: SimNode(self, name) for name in self.config.cluster.members}
        self.counts: Counter[str] = Counter()
        self.witness = Witness(self)
        self._asleep: asyncio.Future[None] | None = None

    def _random_config(self, nodes: int, shards: int, replication_factor: int) -> Config:
        rng = self.loop.random("config")
        members = {f"n{i + 1}": f"127.0.0.1:{7401 + i}" for i in range(nodes)}
        config = Config.randomized(
            rng,
            node=NodeConfig(name="n1", listen=members["n1"], data_dir="simulated"),  # type: ignore[arg-type]
            cluster=Cluster(id="sim", shards=shards, replication_factor=replication_factor, members=members),
        )
        # Far below what the configuration permits, so that segments roll, tables are flushed and logs are cut all the time.
        storage = config.storage.model_copy(
            update={
                "segment_size_bytes": rng.choice((8, 16, 64)) * KIB,
                "memtable_size_bytes": rng.choice((8, 16, 64, 256)) * KIB,
                "flush_interval_s": rng.choice((0.5, 2.0, 5.0)),
            }
        )
        replication = config.replication.model_copy(update={"entries_retained": rng.choice((1, 16, 64))})
        return config.model_copy(update={"storage": storage, "replication": replication})

    @functools.cache  # noqa: B019
    def config_of(self, name: NodeName) -> Config:
        """A node's own configuration."""
        node = NodeConfig(name=name, listen=self.config.cluster.members[name], data_dir="simulated")  # type: ignore[arg-type]
        return self.config.model_copy(update={"node": node})

    def monotonic_clock(self, name: NodeName) -> tuple[float, float]:
        """A machine's own: how fast it runs (with leases within what they tolerate), and what it shows at time 0."""
        rng, election = self.loop.random(f"monotonic clock {name}"), self.config.election
        drift = election.clock_drift_max if election.leader_lease else rng.choice((0.0, 1e-4, MONOTONIC_DRIFT_MAX))
        return 1.0 + rng.uniform(-drift, drift) * 0.999, rng.uniform(0.0, 1e5)

    # ---- the world's own time ---------------------------------------------------------------------------------------

    def outside(self, delay: float, callback: Callable[..., Any], *args: Any) -> None:
        """Calls back later, outside of all nodes."""
        self.loop.call_at_true(self.loop.now + delay, callback, *args, context=self.network._context)

    async def sleep(self, seconds: float) -> None:
        """Waits in virtual time."""
        future = self.loop.create_future()
        self.loop.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        await future

    async def sleep_unless_broken(self, seconds: float) -> None:
        """The same, until a promise is broken."""
        self._asleep = future = self.loop.create_future()
        self.loop.call_later(seconds, lambda: None if future.done() else future.set_result(None))
        if not self.violations:
            await future

    def note(self, node: str, text: str) -> None:
        """An event for the trace."""
        self.trace.event(node, text)

    def violate(self, rule: str, message: str, error: BaseException | None = None) -> None:
        """A promise is broken."""
        if self.over:
            return
        violation = Violation(rule, f"at {self.loop.now:.6f} s: {message}")
        self.violations.append(violation)
        self.note("", f"{VIOLATION}{violation}")
        if self._asleep is not None and not self._asleep.done():
            self._asleep.set_result(None)
        if error is not None and error.__traceback__ is not None:
            self.note("", "".join(traceback.format_exception(error)[-12:]))

    def live(self) -> list[SimNode]:
        """Nodes that run and have their own disk."""
        return [node for node in self.nodes.values() if node.up and not node.lost]


# ---- what nodes log -----------------------------------------------------------------------------------------------------


def log_to(world: World) -> None:
    """What nodes log becomes part of the trace."""

    def into_trace(_: Any, method: str, fields: Any) -> Any:
        group = current_group()
        error = fields.pop("exc_info", None)
        text = " ".join(f"{name}={value}" for name, value in fields.items() if name != "event")
        world.note(group.name if group else "", f"{method}: {fields.get('event')} {text}")
        if isinstance(error, BaseException) and not isinstance(error, (DiskFailed, PowerCut)):
            world.note("", repr(error))
        raise structlog.DropEvent

    _forget_configured_loggers()
    structlog.configure(processors=[into_trace])


def _forget_configured_loggers() -> None:
    """Whatever this process logged before, and how: levels, and loggers that keep the settings of their first use."""
    structlog.reset_defaults()
    for name, module in list(sys.modules.items()):
        if name.startswith("kvnode.") and "logger" in vars(module):
            vars(module.logger).pop("bind", None)
