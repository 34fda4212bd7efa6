"""A node as a real process: threads, files, sockets and signals around `kvnode.node`.

SIGTERM and SIGINT stop it gracefully: health says NOT_SERVING, leaderships are handed over, calls in flight are answered,
memory is flushed; exit code 0. A fatal error ends the process at once with 1: nothing may be acknowledged after it.
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
from pathlib import Path
from typing import Any

import structlog
import uvloop

from kvnode import __version__
from kvnode.api.cluster_service import ClusterService
from kvnode.api.fault_service import FaultService
from kvnode.api.peer_service import PeerService
from kvnode.api.server import KV_SERVICE, LEADER_SERVICE, Server
from kvnode.config import Config
from kvnode.errors import KvnodeError
from kvnode.faults.injector import Injector
from kvnode.node import Node, Ports
from kvnode.observe.gc_pauses import GcPauses
from kvnode.observe.logging import configure_logging
from kvnode.observe.loop_lag import LoopLag
from kvnode.observe.metrics_server import MetricsServer
from kvnode.observe.observer import Observer
from kvnode.observe.tracing import Tracing
from kvnode.runtime.grpc_transport import GrpcTransport
from kvnode.runtime.worker import ThreadWorker
from kvnode.storage.directory import STORE_NAME, take
from kvnode.storage.disk import DiskFailed, OutOfSpace, RealDisk
from kvnode.storage.store import LmdbStore
from kvnode.types import Seconds

logger = structlog.get_logger(__name__)

STOP_GRACE: Seconds = 2.0
"""How long calls in flight may take once the server stops."""
STOP_MAX: Seconds = 15.0
"""After this a stop is given up: a disk that hangs must not keep the process for ever."""
HEALTH_INTERVAL: Seconds = 0.5
THREAD_SWITCH_INTERVAL: Seconds = 0.0005
"""The log and store threads must not hold the interpreter for long while the event loop has work."""


def run_node(config: Config) -> None:
    """Runs a node until SIGTERM or SIGINT; exits with 1 after a fatal error, with 0 otherwise."""
    configure_logging(config.log, node=config.node.name)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        code = runner.run(_serve(config))
    sys.stdout.flush()
    os._exit(code) if code else sys.exit(code)


async def _serve(config: Config) -> int:
    loop = asyncio.get_running_loop()
    sys.setswitchinterval(THREAD_SWITCH_INTERVAL)
    over: asyncio.Future[int] = loop.create_future()

    def end(code: int) -> None:
        if not over.done():
            over.set_result(code)

    fatal: asyncio.Future[int] = loop.create_future()

    def on_fatal(error: BaseException) -> None:
        if not fatal.done():
            fatal.set_result(1)
        logger.critical("fatal: the node stops, nothing is acknowledged any more", error=repr(error), exc_info=error)
        end(1)

    directory = Path(config.node.data_dir)
    peers = {name: address for name, address in config.cluster.members.items() if name != config.node.name}
    try:
        tracing = Tracing(config.tracing, config.node.name, config.node.advertise)
        take(directory)  # and hold it until this process ends
        disk = RealDisk(directory, config.storage.quota_bytes, config.storage.ballast_size_bytes)
        ports = Ports(
            loop=loop,
            disk=disk,
            store=LmdbStore(directory / STORE_NAME, config.storage.store_size_bytes_max),
            log_worker=ThreadWorker("log", loop),
            store_worker=ThreadWorker("store", loop),
            transport=GrpcTransport(peers, config.node.transport, loop),
            wall_ms=lambda: time.time_ns() // 1_000_000,
            rng=random.Random(),
            new_uid=lambda: uuid.uuid4().hex,
            on_fatal=on_fatal,
            observer=Observer(tracing, time.perf_counter, loop.call_later, lambda: time.time_ns() // 1_000_000),
        )
        injector = Injector(config.node.name, peers, ports) if config.faults.enabled else None
        node = Node(config, injector.ports if injector else ports)
        server = Server(
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
        metrics = _measure(node, server)
        metrics_address = metrics.start() if metrics else ""
        node.start()
        port = await server.start()
    except (KvnodeError, DiskFailed, OutOfSpace, OSError) as error:
        logger.critical("cannot start", error=str(error))
        return 1
    await server.set_health({"": True, KV_SERVICE: True, LEADER_SERVICE: False})
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, end, 0)
    gc.collect()
    gc.freeze()
    shown = {"metrics": metrics_address} if metrics else {}
    logger.info("serving", listen=config.node.listen, port=port, **shown, version=__version__, pid=os.getpid())
    health = loop.create_task(_report_leadership(node, server))
    code = await over
    health.cancel()
    if code:
        return code
    logger.info("stopping")
    stop = loop.create_task(_stop(node, server, metrics))
    waiting: list[asyncio.Future[Any]] = [stop, fatal]
    await asyncio.wait(waiting, timeout=STOP_MAX, return_when=asyncio.FIRST_COMPLETED)
    if fatal.done() or not stop.done() or stop.exception():
        logger.critical(
            "not stopped in good order: what was not acknowledged may be lost", error=str(stop.done() and stop.exception())
        )
        return 1
    node.observer.recorder.flush()
    tracing.shutdown()
    logger.info("stopped")
    return 0


def _measure(node: Node, server: Server) -> MetricsServer | None:
    """Begins to measure the process; what serves it, if anything shall."""
    sources = node.metrics.sources
    sources.wire, sources.loop_lag, sources.gc_pauses = server.wire, LoopLag(node.loop), GcPauses()
    sources.loop_lag.start()
    sources.gc_pauses.start()
    listen = node.config.metrics.listen
    return MetricsServer(listen, node.metrics, node.loop) if listen else None


async def _stop(node: Node, server: Server, metrics: MetricsServer | None) -> None:
    await server.set_health({"": False, KV_SERVICE: False, LEADER_SERVICE: False})
    await node.hand_over()
    await server.stop(STOP_GRACE)
    if metrics:
        await metrics.stop()
    await node.stop()


async def _report_leadership(node: Node, server: Server) -> None:
    while True:
        await server.set_health({LEADER_SERVICE: any(replica.is_leader for replica in node.replicas.values())})
        await asyncio.sleep(HEALTH_INTERVAL)
