"""A node as a real process: threads, files, sockets, signals and the service manager around `kvnode.node`.

SIGTERM and SIGINT stop it gracefully: health says NOT_SERVING, leaderships are handed over, streams end, calls in flight are
answered, spans and log are flushed; exit code 0. SIGHUP reloads the configuration. A fatal error ends the process at once:
nothing may be acknowledged after it. Exit codes are `kvnode.exit_codes`'.
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
import time
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import structlog
import uvloop

from kvnode import __version__, reload
from kvnode.api.cluster_service import ClusterService
from kvnode.api.fault_service import FaultService
from kvnode.api.peer_service import PeerService
from kvnode.api.server import KV_SERVICE, LEADER_SERVICE, Server
from kvnode.config import Config, ConfigError
from kvnode.errors import KvnodeError, UnusableDirectory
from kvnode.exit_codes import OK, exit_code
from kvnode.faults.injector import Injector
from kvnode.node import Node, Ports
from kvnode.observe.gc_pauses import GcPauses
from kvnode.observe.logging import configure_logging
from kvnode.observe.loop_lag import LoopLag
from kvnode.observe.metrics_server import MetricsServer
from kvnode.observe.observer import Observer
from kvnode.observe.status_line import status_line
from kvnode.observe.tracing import Tracing
from kvnode.refusals import cannot_start
from kvnode.runtime.grpc_transport import GrpcTransport
from kvnode.runtime.service_manager import ServiceManager
from kvnode.runtime.supervision import Supervision, replaying
from kvnode.runtime.worker import ThreadWorker
from kvnode.storage.directory import STORE_NAME, take
from kvnode.storage.disk import DiskFailed, OutOfSpace, RealDisk
from kvnode.storage.store import LmdbStore
from kvnode.types import Seconds

logger = structlog.get_logger(__name__)

STOP_MAX: Seconds = 4.5
"""From the signal to the last step of the stop; what is not done then is left to the next start. The phases and their bounds:
leaving the cluster 2 s (`runtime.handover`), calls in flight 1 s and their connections 0.5 s, log and flush what is left."""
STOP_GRACE: Seconds = 1.0
"""How long calls in flight may take once the server stops."""
RESERVE: Seconds = 0.1
"""Between the last bound of a step and that of the whole."""
SPANS_MAX: Seconds = 0.3
"""How long the last spans may take to leave; a collector that does not answer must not keep the process."""
GREETING_MAX: Seconds = 0.5
"""How long the start waits for peers that do not answer."""
HEALTH_INTERVAL: Seconds = 0.5
THREAD_SWITCH_INTERVAL: Seconds = 0.0005
"""The log and store threads must not hold the interpreter for long while the event loop has work."""

LoadConfig = Callable[[], Config]


def run_node(config: Config, load: LoadConfig) -> None:
    """Runs a node until SIGTERM or SIGINT, and exits; from the main thread.

    `load` reads the configuration again, for SIGHUP; it raises ConfigError where that cannot be used.
    """
    configure_logging(config.log, node=config.node.name)
    if not _has_terminal():  # Until a reload is possible there is nothing to reload; by default SIGHUP ends a process.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_run(config, load))
        # Not by way of the interpreter's end: it waits for every thread, and one may hang with a disk or a name server.
        sys.stdout.flush()
        os._exit(code)


async def _run(config: Config, load: LoadConfig) -> int:
    return await Process(config, load, ServiceManager(os.environ)).run()


class Process:
    """One node's process, from its start to its exit code."""

    def __init__(self, config: Config, load: LoadConfig, manager: ServiceManager) -> None:
        """Within the running event loop."""
        self._config, self._load, self._manager = config, load, manager
        self._loop = asyncio.get_running_loop()
        self._over: asyncio.Future[int] = self._loop.create_future()
        self._fatal: asyncio.Future[BaseException] = self._loop.create_future()
        self._metrics: MetricsServer | None = None
        self._note = ""
        """What the status says beside the node's state."""

    async def run(self) -> int:
        """Starts, serves, stops; answers the exit code."""
        try:
            await self._start()
        except (KvnodeError, UnusableDirectory, DiskFailed, OutOfSpace, OSError) as error:
            logger.critical("cannot start", error=cannot_start(error))
            return exit_code(error)
        code = await self._over
        self._health.cancel()
        return code or await self._stop()

    def _end(self, code: int) -> None:
        if not self._over.done():
            self._over.set_result(code)

    def _on_fatal(self, error: BaseException) -> None:
        if not self._fatal.done():
            self._fatal.set_result(error)
        logger.critical("fatal: the node stops, nothing is acknowledged any more", error=repr(error), exc_info=error)
        self._end(exit_code(error))

    # ---- start ------------------------------------------------------------------------------------------------------

    async def _start(self) -> None:
        """Until the log is replayed and the port is bound. Raises what makes that impossible."""
        config, loop = self._config, self._loop
        sys.setswitchinterval(THREAD_SWITCH_INTERVAL)
        ports = self._open()
        peers = [name for name in config.cluster.members if name != config.node.name]
        injector = Injector(config.node.name, peers, ports) if config.faults.enabled else None
        self._node = node = Node(config, injector.ports if injector else ports)
        self._server = Server(
            config.node.transport,
            config.node.listen,
            node.kv,
            ClusterService(node),
            PeerService(injector.endpoint(node.endpoint) if injector else node.endpoint),
            (),
            FaultService(injector) if injector else None,
        )
        if injector:
            injector.on_disk_full = lambda: node.driver.set_out_of_space(True, "a full disk is injected")
        shown = self._measure()
        node.start()
        port = await self._server.start()
        # Who is told that this node is ready may stop the next one at once: its peers must know by then that it catches up.
        await node.heartbeats.wait_heard(loop.time() + GREETING_MAX)
        self._server.set_health({"": True, KV_SERVICE: True, LEADER_SERVICE: False})
        loop.add_signal_handler(signal.SIGTERM, self._end, OK)
        loop.add_signal_handler(signal.SIGINT, self._end, OK)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        gc.collect()
        gc.freeze()
        logger.info("serving", listen=config.node.listen, port=port, **shown, version=__version__, pid=os.getpid())
        self._health = loop.create_task(self._report_leadership(), name="health")
        self._supervision = Supervision(self._manager, loop, self._status, lambda: node.ticks, ports.log_worker)
        self._supervision.start()

    def _open(self) -> Ports:
        """The world as the node will see it. Raises OSError, `OutOfSpace`, `Corrupt`, `UnusableDirectory`."""
        config, loop = self._config, self._loop
        directory = Path(config.node.data_dir)
        peers = {name: address for name, address in config.cluster.members.items() if name != config.node.name}
        take(directory)  # and hold it until this process ends
        self._tracing = tracing = Tracing(config.tracing, config.node.name, config.node.advertise)
        self._disk = RealDisk(directory, config.storage.quota_bytes, config.storage.ballast_size_bytes)
        return Ports(
            loop=loop,
            disk=self._disk,
            store=LmdbStore(directory / STORE_NAME, config.storage.store_size_bytes_max),
            log_worker=ThreadWorker("log", loop),
            store_worker=ThreadWorker("store", loop),
            transport=GrpcTransport(peers, config.node.transport, loop),
            wall_ms=_wall_ms,
            rng=random.Random(),
            new_uid=lambda: uuid.uuid4().hex,
            on_fatal=self._on_fatal,
            observer=Observer(tracing, time.perf_counter, loop.call_later, _wall_ms),
            watch_replay=partial(replaying, manager=self._manager),
        )

    def _measure(self) -> dict[str, str]:
        """Begins to measure the process; what serves it, if anything shall, and where."""
        node = self._node
        sources = node.metrics.sources
        sources.wire, sources.loop_lag, sources.gc_pauses = self._server.wire, LoopLag(self._loop), GcPauses()
        sources.loop_lag.start()
        sources.gc_pauses.start()
        if not self._config.metrics.listen:
            return {}
        self._metrics = MetricsServer(self._config.metrics.listen, node.metrics, self._loop)
        return {"metrics": self._metrics.start()}

    # ---- while it serves --------------------------------------------------------------------------------------------

    async def _report_leadership(self) -> None:
        while True:
            self._server.set_health({LEADER_SERVICE: any(replica.is_leader for replica in self._node.replicas.values())})
            await asyncio.sleep(HEALTH_INTERVAL)

    def _status(self) -> str:
        node = self._node
        return status_line(node.state, node.driver.out_of_space, node.replicas, self._loop.time()) + self._note

    def _on_hangup(self) -> None:
        if _has_terminal():  # It was run by hand, and its terminal is gone.
            self._end(OK)
        elif not self._over.done():
            self._reload()

    def _reload(self) -> None:
        """Applies what can be applied of the configuration as it is now, and says what cannot."""
        self._manager.reloading()
        try:
            applied, waiting = reload.apply(reload.Running(self._node, self._disk), self._load())
        except ConfigError as error:
            logger.error("not reloaded: the configuration cannot be used; all stays as it was", problems=list(error.problems))
            self._note = "; the configuration was not reloaded: it cannot be used, see the journal"
        else:
            logger.info("reloaded", applied=[str(change) for change in applied])
            if waiting:
                logger.warning("these settings take a restart", settings=[str(change) for change in waiting])
            needs = ", ".join(change.setting for change in waiting)
            self._note = f"; a restart is needed for {needs}" if needs else ""
        self._manager.status(self._status())
        self._manager.ready()

    # ---- stop -------------------------------------------------------------------------------------------------------

    async def _stop(self) -> int:
        self._supervision.stop()
        logger.info("stopping")
        began = self._loop.time()
        stop = self._loop.create_task(self._stop_in_order(began + STOP_MAX), name="stop")
        waiting: list[asyncio.Future[Any]] = [stop, self._fatal]
        await asyncio.wait(waiting, timeout=STOP_MAX, return_when=asyncio.FIRST_COMPLETED)
        late = TimeoutError(f"not done after {STOP_MAX} s")
        error = self._fatal.result() if self._fatal.done() else stop.exception() if stop.done() else late
        if error is not None:
            logger.critical("not stopped in good order: what was not acknowledged may be lost", error=str(error))
            return exit_code(error)
        self._node.observer.recorder.flush()
        self._tracing.shutdown(SPANS_MAX)
        logger.info("stopped", seconds=round(self._loop.time() - began, 3))
        return OK

    async def _stop_in_order(self, until: Seconds) -> None:
        self._server.set_health({"": False, KV_SERVICE: False, LEADER_SERVICE: False})
        await self._node.hand_over()
        await self._server.stop(STOP_GRACE)
        if self._metrics:
            await self._metrics.stop()
        await self._node.stop(until - RESERVE - self._loop.time())


def _has_terminal() -> bool:
    return sys.stdin is not None and sys.stdin.isatty()


def _wall_ms() -> int:
    return time.time_ns() // 1_000_000
