"""A cluster of real daemons on this machine, for trying things, for tests and for the demo.

Owns: starting and ending the nodes' processes, and knowing when the cluster serves. Prints nothing, and never touches a
process that it did not start itself (see `kvctl.process`). Everything is blocking; durations are seconds.

    with Playground.create("/tmp/demo", nodes=3, base_port=7401) as playground:   # up, and down at the end
        playground.kill("n1")
        playground.start("n1")
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from kvctl import process
from kvctl.daemons import STOP_TIMEOUT_S, Daemons, check_config, free_base_port
from kvctl.playground_files import (
    NodeRecord,
    PlaygroundError,
    PlaygroundFiles,
    check_same,
    check_settings,
    flatten,
    new_record,
    record_of,
)
from kvctl.process import ProcessState

if TYPE_CHECKING:
    from kvapi.v1 import cluster_pb2
    from kvctl.probe import ClusterProbe

__all__ = ["Node", "NodeStatus", "Playground", "PlaygroundError", "free_base_port"]

UP_TIMEOUT_S = 30.0
POLL_INTERVAL_S = 0.05


@dataclass(frozen=True)
class Node:
    """A node at one moment."""

    name: str
    address: str
    """"host:port"."""
    state: str
    """running, paused, stopped (by us), or died (by itself)."""
    pid: int | None
    """While running or paused."""
    uptime_s: float | None
    config_path: Path
    log_path: Path
    data_path: Path


@dataclass(frozen=True)
class NodeStatus:
    """A node, and what it says about itself if it answers."""

    node: Node
    answer: cluster_pb2.StatusResponse | None


class Playground:
    """A playground in a directory. Its state is on disk: any number of objects and processes may look at it at once."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        """Open an existing playground. Raises PlaygroundError if there is none."""
        self._files = PlaygroundFiles(Path(directory).resolve())
        self._files.load()
        self._daemons = Daemons(self._files)

    @classmethod
    def create(
        cls,
        directory: str | os.PathLike[str],
        nodes: int | None = None,
        base_port: int | None = None,
        *,
        shards: int | None = None,
        transport: str | None = None,
        settings: Mapping[str, Any] | None = None,
        command: Sequence[str] | None = None,
    ) -> Self:
        """Lay out a cluster, without starting it, or open the one that is there.

        Node i (n1, n2, ...) listens on 127.0.0.1, port `base_port` + i - 1. `settings` is additional configuration for all
        nodes, flat ("election.timeout_ms_min": 500) or nested; None takes one back. kvnode judges them before anything is
        written. Defaults: 3 nodes, port 7401, 8 shards, kvnode's own transport. Of an existing cluster nodes, base_port and
        shards cannot change; transport and settings take effect at a node's next start. Raises PlaygroundError.
        """
        files = PlaygroundFiles(Path(directory).resolve())
        flat = flatten(settings or {})
        check_settings(flat)
        with files.locked():
            try:
                if files.exists():
                    record = files.load()
                    check_same(files.directory, record, {"nodes": nodes, "base_port": base_port, "shards": shards})
                    if transport is None and not flat and command is None:
                        return cls(files.directory)
                else:
                    record = new_record(nodes or 3, base_port or 7401, shards or 8)
                record.transport = transport or record.transport
                record.settings = {name: value for name, value in (record.settings | flat).items() if value is not None}
                record.command = list(command) if command else record.command
                if transport is not None or flat:
                    check_config(files, record)
            except PlaygroundError:
                if not files.exists():
                    files.abandon()
                raise
            for name in record.nodes:
                files.write_config(record, name)
            files.save(record)
        return cls(files.directory)

    # What there is.

    @property
    def directory(self) -> Path:
        """The playground's directory."""
        return self._files.directory

    @property
    def cluster_id(self) -> str:
        """The cluster's identity, minted at its creation."""
        return self._files.load().cluster_id

    @property
    def shards(self) -> int:
        """Number of shards."""
        return self._files.load().shards

    @property
    def names(self) -> list[str]:
        """The nodes' names: n1, n2, ..."""
        return list(self._files.load().nodes)

    @property
    def endpoints(self) -> list[str]:
        """Every node's "host:port", running or not."""
        return [node.address for node in self._files.load().nodes.values()]

    @property
    def uri(self) -> str:
        """What `kvclient.connect` takes."""
        return "kv://" + ",".join(self.endpoints)

    @property
    def nodes(self) -> list[Node]:
        """All nodes, as they are now."""
        return [self._node(name, node) for name, node in self._files.load().nodes.items()]

    def node(self, name: str) -> Node:
        """A node, as it is now. Raises PlaygroundError if there is no such node."""
        return self._node(name, record_of(self._files.load(), name))

    def log_tail(self, name: str, lines_max: int = 15) -> str:
        """The last lines in a node's log, of all its processes."""
        return self._files.log_tail(name, lines_max)

    def status(self, timeout_s: float = 1.0) -> list[NodeStatus]:
        """All nodes, with `Cluster.Status` of those that answer within `timeout_s`."""
        nodes = self.nodes
        with self._probe() as probe:
            answers = probe.status([node.name for node in nodes if node.state == "running"], timeout_s)
        return [NodeStatus(node, answers.get(node.name)) for node in nodes]

    # The whole cluster.

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.down()

    def up(self, timeout_s: float = UP_TIMEOUT_S) -> list[str]:
        """Start what does not run, resume what is paused, and wait until the cluster serves. Returns the names started.

        Raises PlaygroundError if a daemon dies (those started by this call are stopped again) or the time is up.
        """
        started: list[str] = []
        try:
            with self._files.changing() as record:
                for name in record.nodes:
                    self._files.write_config(record, name)
                for name in record.nodes:
                    if self._daemons.start(record, name):
                        started.append(name)
            self.wait_serving(timeout_s)
        except PlaygroundError as error:
            if error.log_tail:
                self._daemons.end(started, STOP_TIMEOUT_S)
            raise
        return started

    def down(self, *, purge: bool = False, timeout_s: float = STOP_TIMEOUT_S) -> dict[str, float]:
        """Stop all nodes at once; one that does not end within `timeout_s` is killed. Returns the seconds each one took.

        The data stay, unless `purge`: then everything that the playground wrote is removed.
        """
        seconds = self._daemons.end(self.names, timeout_s)
        if purge:
            with self._files.locked():
                for name in self._files.load().nodes:
                    shutil.rmtree(self._files.node_directory(name), ignore_errors=True)
                self._files.record_path.unlink()
            self._files.abandon()
        return seconds

    def wait_serving(self, timeout_s: float = UP_TIMEOUT_S) -> float:
        """Wait until every running node answers and all of them know the same leader of every shard. Returns the seconds.

        Nodes that were stopped, killed or paused on purpose are left out. Raises PlaygroundError if one has died by itself,
        or the time is up.
        """
        from kvctl.probe import missing_to_serve

        def check(probe: ClusterProbe) -> list[str]:
            names = [node.name for node in self._living()]
            return missing_to_serve(names, probe.topology(names), self.shards) if names else ["no node runs"]

        return self._wait(check, timeout_s, "the cluster does not serve")

    def wait_caught_up(self, name: str, timeout_s: float = UP_TIMEOUT_S) -> float:
        """Wait until a node has applied, in every shard, what the shard's leader had applied. Returns the seconds."""
        from kvctl.probe import shards_behind

        def check(probe: ClusterProbe) -> list[str]:
            others = [node.name for node in self._living() if node.name != name]
            statuses = probe.status(others) | probe.status([name])  # leaders first: what they had is what counts
            if name not in statuses:
                return [f"{name} does not answer"]
            return [f"{name} is behind in shard {shard}" for shard in shards_behind(name, statuses)]

        return self._wait(check, timeout_s, f"{name} has not caught up")

    # One node.

    def start(self, name: str, timeout_s: float = UP_TIMEOUT_S) -> float:
        """Start a node, and wait until it answers. Returns the seconds; a running node is left alone."""
        began = time.monotonic()
        with self._files.changing() as record:
            self._daemons.start(record, name)
        self._wait(
            lambda probe: [] if self._living([name]) and probe.status([name]) else [f"{name} does not answer"],
            timeout_s, f"{name} does not serve",
        )  # fmt: skip
        return time.monotonic() - began

    def stop(self, name: str, timeout_s: float = STOP_TIMEOUT_S) -> float:
        """Stop a node gracefully (SIGTERM), also a paused one. Returns the seconds it took.

        Raises PlaygroundError if it still runs after `timeout_s`.
        """
        return self.stop_all([name], timeout_s)[name]

    def stop_all(self, names: Iterable[str], timeout_s: float = STOP_TIMEOUT_S) -> dict[str, float]:
        """Stop several nodes at once; otherwise as `stop`."""
        results = self._daemons.signal_end(names, signal.SIGTERM, timeout_s)
        for name, (_, ended) in results.items():
            if not ended:
                raise PlaygroundError(
                    f"{name} (pid {self.node(name).pid}) still runs {timeout_s:.0f} s after SIGTERM",
                    hint=f"end it hard: kvctl cluster kill {name} --dir {self.directory}",
                    log_tail=self.log_tail(name),
                )
        return {name: seconds for name, (seconds, _) in results.items()}

    def kill(self, name: str) -> float:
        """End a node at once (SIGKILL), as a crash would. Returns the seconds until the kernel had cleaned up."""
        return self.kill_all([name])[name]

    def kill_all(self, names: Iterable[str]) -> dict[str, float]:
        """End several nodes at once, as a power failure would."""
        results = self._daemons.signal_end(names, signal.SIGKILL, STOP_TIMEOUT_S)
        return {name: seconds for name, (seconds, _) in results.items()}

    def pause(self, name: str) -> None:
        """Freeze a node (SIGSTOP): it keeps its connections and says nothing. Raises PlaygroundError if it does not run."""
        self._daemons.freeze(name, signal.SIGSTOP, ProcessState.PAUSED)

    def resume(self, name: str) -> None:
        """Let a frozen node go on (SIGCONT). Raises PlaygroundError if it does not run."""
        self._daemons.freeze(name, signal.SIGCONT, ProcessState.RUNNING)

    # Inside.

    def _node(self, name: str, record: NodeRecord) -> Node:
        files, living = self._files, ProcessState.GONE
        if record.process is not None:
            living = process.state_of(record.process)
        if living is ProcessState.GONE or record.process is None:
            state, pid, uptime_s = "stopped" if record.process is None else "died", None, None
        else:
            state, pid, uptime_s = living.value, record.process.pid, process.age_s(record.process)
        return Node(
            name, record.address, state, pid, uptime_s, files.config_path(name), files.log_path(name), files.data_path(name)
        )

    def _living(self, names: Iterable[str] | None = None) -> list[Node]:
        """The nodes that should answer now. Raises PlaygroundError, with the end of its log, if one died by itself."""
        wanted = None if names is None else set(names)
        nodes = [node for node in self.nodes if wanted is None or node.name in wanted]
        for node in nodes:
            if node.state == "died":
                raise PlaygroundError(
                    f"{node.name} ({node.address}) died",
                    hint=f"the whole log: {node.log_path}",
                    log_tail=self._files.last_words(node.name) or "(it wrote nothing)",
                )
        return [node for node in nodes if node.state == "running"]

    def _probe(self) -> ClusterProbe:
        from kvctl.probe import ClusterProbe  # gRPC is slow to import, and stop and kill do without

        return ClusterProbe({name: node.address for name, node in self._files.load().nodes.items()})

    def _wait(self, check: Callable[[ClusterProbe], list[str]], timeout_s: float, what: str) -> float:
        began = time.monotonic()
        with self._probe() as probe:
            while missing := check(probe):
                if time.monotonic() - began > timeout_s:
                    raise PlaygroundError(
                        f"{what} after {timeout_s:.0f} s: {'; '.join(missing)}",
                        hint=f"kvctl cluster status --dir {self.directory}; the nodes' logs: {self.directory}/*/log.jsonl",
                    )
                time.sleep(POLL_INTERVAL_S)
        return time.monotonic() - began
