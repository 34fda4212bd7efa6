"""What the tests with real processes share: clusters that always go away again, and a ledger of acknowledged writes.

Owns no judgement: the tests decide. Processes are ended by their ids, through `Playground`; directories are removed also when
a test fails, and the end of every node's log is part of the failure's report then.
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import grpc
from google.rpc import error_details_pb2, status_pb2

import kvclient
from kvapi.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2_grpc
from kvclient.hashing import shard_of
from kvclient.transport import TRANSPORT_DEFAULT, TRANSPORTS, insecure_channel
from kvctl.playground import Playground, free_base_port
from kvctl.probe import ClusterProbe

Answer = TypeVar("Answer")

TRANSPORT_OF_NODES = os.environ.get("KVNODE_TRANSPORT") or None
"""What carries gRPC to nodes and between them in these tests: "kvwire", "grpcio", or "other", the one that is not the default;
None: the nodes' own default."""
if TRANSPORT_OF_NODES == "other":
    TRANSPORT_OF_NODES = next(name for name in TRANSPORTS if name != TRANSPORT_DEFAULT)
TRANSPORT = TRANSPORT_OF_NODES or TRANSPORT_DEFAULT
"""The same for the clients."""
CONVERGENCE_TIMEOUT_S = 15.0
POLL_INTERVAL_S = 0.05
SMALL_STORAGE: Mapping[str, Any] = {
    "storage.segment_size_bytes": 256 * 1024,
    "storage.memtable_size_bytes": 256 * 1024,
    "storage.ballast_size_bytes": 512 * 1024,
}
"""Segments and memory tables so small that a test fills many."""


@contextmanager
def playground(
    nodes: int = 3,
    settings: Mapping[str, Any] | None = None,
    directory: Path | None = None,
    shards: int = 8,
    transport: str | None = TRANSPORT_OF_NODES,
    prepare: Callable[[Playground], None] = lambda made: None,
) -> Iterator[Playground]:
    """A running cluster in a directory of its own, or in `directory`, as `prepare` has left its configuration; processes and
    files are gone afterwards."""
    place = directory or Path(tempfile.mkdtemp(prefix="kvnode-test-"))
    made = create(place / "cluster", nodes, shards, settings, transport)
    try:
        prepare(made)
        made.up()
        yield made
    except BaseException:
        print_logs(made)
        raise
    finally:
        made.down(timeout_s=5)
        if directory is None:
            shutil.rmtree(place)


def create(
    directory: Path,
    nodes: int,
    shards: int,
    settings: Mapping[str, Any] | None,
    transport: str | None = TRANSPORT_OF_NODES,
) -> Playground:
    """A cluster that is laid out, and not started."""
    port = free_base_port(nodes)
    return Playground.create(directory, nodes, port, shards=shards, transport=transport, settings=settings)


def print_logs(cluster: Playground, lines_max: int = 25) -> None:
    """The end of every node's log, for the report of a failure."""
    for name in cluster.names:
        lines = [line for line in cluster.log_tail(name, 1000).splitlines() if '"level":"debug"' not in line]
        print(f"---- {name}", *lines[-lines_max:], sep="\n")


def heal(cluster: Playground) -> None:
    """Whatever the test before did: all nodes run, serve, and have caught up."""
    for node in cluster.nodes:
        if node.state == "paused":
            cluster.resume(node.name)
    cluster.up()
    for name in cluster.names:
        cluster.wait_caught_up(name, CONVERGENCE_TIMEOUT_S)


def log_lines(cluster: Playground, name: str) -> list[dict[str, Any]]:
    """A node's log; fails for a line that is no JSON."""
    return [json.loads(line) for line in cluster.node(name).log_path.read_text().splitlines()]


def await_log(cluster: Playground, name: str, text: str, timeout_s: float = CONVERGENCE_TIMEOUT_S) -> str:
    """The first line of a node's log with `text`, once it is there."""
    path = cluster.node(name).log_path
    return until(
        lambda: next((line for line in path.read_text().splitlines() if text in line), ""), timeout_s, f"{text!r} in {path}"
    )


def until(probe: Callable[[], Answer], timeout_s: float = CONVERGENCE_TIMEOUT_S, what: str = "the condition") -> Answer:
    """The first true answer of `probe`. Blocks."""
    deadline = time.monotonic() + timeout_s
    while not (answer := probe()):
        assert time.monotonic() < deadline, f"{what} is not there after {timeout_s:.0f} s"
        time.sleep(POLL_INTERVAL_S)
    return answer


async def until_async(
    probe: Callable[[], Awaitable[Answer]], timeout_s: float = CONVERGENCE_TIMEOUT_S, what: str = "the condition"
) -> Answer:
    """The first true answer of `probe`; errors of the cluster count as not yet."""
    deadline = time.monotonic() + timeout_s
    last: BaseException | None = None
    while time.monotonic() < deadline:
        try:
            if answer := await probe():
                return answer
        except (kvclient.KvError, grpc.RpcError) as error:
            last = error
        await asyncio.sleep(POLL_INTERVAL_S)
    raise AssertionError(f"{what} is not there after {timeout_s:.0f} s: {last}")


def connect(cluster: Playground, timeout_s: float = 5.0, transport: str = TRANSPORT) -> kvclient.AsyncClient:
    """The SDK's asynchronous client."""
    return kvclient.connect(f"{cluster.uri}?timeout={timeout_s}&transport={transport}")


# One node at a time.


@dataclass(frozen=True)
class NodeStubs:
    """A connection to one node, which follows no redirect."""

    channel: grpc.aio.Channel
    kv: Any
    cluster: Any


@asynccontextmanager
async def connect_node(address: str, transport: str = TRANSPORT) -> AsyncIterator[NodeStubs]:
    """Stubs for one node, by "host:port"."""
    options = [("grpc.max_send_message_length", -1), ("grpc.max_receive_message_length", -1), ("grpc.enable_http_proxy", 0)]
    async with insecure_channel(transport, address, options) as channel:
        yield NodeStubs(channel, kv_pb2_grpc.KVStub(channel), cluster_pb2_grpc.ClusterStub(channel))


def error_info(error: grpc.RpcError) -> tuple[status_pb2.Status, error_details_pb2.ErrorInfo]:
    """The rich status of a failed call, and its ErrorInfo; fails if there is none."""
    raw = next(value for key, value in error.trailing_metadata() if key == "grpc-status-details-bin")  # type: ignore[attr-defined]
    status = status_pb2.Status.FromString(raw)
    info = error_details_pb2.ErrorInfo()
    assert any(detail.Unpack(info) for detail in status.details), status
    return status, info


def leader_name(cluster: Playground, key: bytes) -> str:
    """The node that leads the key's shard, as most nodes see it; waits for one."""

    def ask() -> str:
        running = {node.name: node.address for node in cluster.nodes if node.state == "running"}
        with ClusterProbe(running) as probe:
            views = probe.topology(running)
        shard = shard_of(key, cluster.shards)
        named = [view.shards[shard].leader for view in views.values() if view.shards[shard].leader]
        return max(named, key=named.count) if named else ""

    return until(ask, what=f"a leader for {key!r}")


def statuses(cluster: Playground) -> dict[str, cluster_pb2.StatusResponse]:
    """`Cluster.Status` of every node that runs and answers."""
    return {found.node.name: found.answer for found in cluster.status() if found.answer is not None}


def await_agreement(cluster: Playground, timeout_s: float = CONVERGENCE_TIMEOUT_S) -> None:
    """Wait until every shard's replicas have applied the same index with the same state hash (invariant 13), and no replica
    holds an eventual write without a place in the log: one that stays so for ever is a bug."""

    def agree() -> bool:
        answers = statuses(cluster)
        if len(answers) < len(cluster.names):
            return False
        states: dict[int, dict[int, set[int]]] = {}
        pending = 0
        for answer in answers.values():
            for shard in answer.shards:
                pending += shard.pending_eventual
                states.setdefault(shard.shard, {}).setdefault(shard.applied_index, set()).add(shard.state_hash)
        for shard, by_index in states.items():
            for index, hashes in by_index.items():
                assert len(hashes) == 1, f"shard {shard}: replicas differ at index {index}"
        return pending == 0 and all(len(by_index) == 1 for by_index in states.values())

    until(agree, timeout_s, "agreement of all replicas, with nothing pending,")


# Writes under way while things break.


@dataclass
class Ledger:
    """What the cluster promised."""

    strong: dict[bytes, bytes] = field(default_factory=dict)
    eventual: dict[bytes, tuple[bytes, str]] = field(default_factory=dict)
    """Value and operation id."""
    unknown: dict[bytes, bytes] = field(default_factory=dict)
    acked: list[tuple[float, float, bytes]] = field(default_factory=list)
    """Strong writes: when they began, when they were acknowledged, the key."""
    errors: list[kvclient.KvError] = field(default_factory=list)


class Writers:
    """A bounded load: so many writers, each writing new keys one after the other with a pause between.

    Half of the strong writers write to one shard, that of `BUSY`; the others all over the place.
    """

    BUSY = b"{busy}"

    def __init__(
        self, client: kvclient.AsyncClient, name: str, *, strong: int = 6, eventual: int = 0, pause_s: float = 0.01
    ) -> None:
        self.ledger = Ledger()
        self._client, self._name, self._pause_s = client, name, pause_s
        self._kinds = ["strong"] * strong + ["eventual"] * eventual
        self._tasks: list[asyncio.Task[None]] = []
        self._over = False

    async def __aenter__(self) -> Writers:
        self._tasks = [asyncio.create_task(self._write(kind, number)) for number, kind in enumerate(self._kinds)]
        return self

    async def __aexit__(self, *error: object) -> None:
        self._over = True
        await asyncio.gather(*self._tasks, return_exceptions=bool(error[0]))

    async def _write(self, kind: str, writer: int) -> None:
        ledger, client = self.ledger, self._client
        tag = self.BUSY if kind == "strong" and writer % 2 == 0 else b""
        for count in itertools.count():
            if self._over:
                return
            key = f"{self._name}/{kind}/{writer}/{count}".encode() + tag
            value = f"{kind} {count}".encode()
            began = time.monotonic()
            try:
                result = await client.put(key, value, consistency=kind)
            except kvclient.OutcomeUnknown as error:
                ledger.unknown[key] = value
                ledger.errors.append(error)
            except kvclient.KvError as error:
                ledger.errors.append(error)
            else:
                if kind == "strong":
                    ledger.strong[key] = value
                    ledger.acked.append((began, time.monotonic(), key))
                else:
                    ledger.eventual[key] = value, result.operation_id
            await asyncio.sleep(self._pause_s)

    async def acked_after(self, moment: float, timeout_s: float) -> float:
        """Wait for an acknowledgement of a strong write to the busy shard that began after `moment`; seconds since then."""

        async def seen() -> float:
            times = [end for began, end, key in self.ledger.acked if began >= moment and self.BUSY in key]
            return min(times, default=0.0)

        return await until_async(seen, timeout_s, "an acknowledged strong write to the busy shard") - moment


async def verify(client: kvclient.AsyncClient, ledger: Ledger, name: str) -> None:
    """Every acknowledged write is there, or, of the eventual ones, reported superseded."""
    present = {item.key: item.value async for item in client.range(prefix=name, timeout=CONVERGENCE_TIMEOUT_S)}
    lost = [key for key, value in ledger.strong.items() if present.get(key) != value]
    assert not lost, f"{len(lost)} of {len(ledger.strong)} acknowledged strong writes are lost, as {lost[0]!r}"
    for key, (value, operation_id) in ledger.eventual.items():
        if present.get(key) != value:
            await until_async(lambda i=operation_id: _settled(client, i), what=f"the fate of {key!r}")  # type: ignore[misc]


async def _settled(client: kvclient.AsyncClient, operation_id: str) -> bool:
    found = await client.operation(operation_id)
    return found.state in (kvclient.OperationState.APPLIED, kvclient.OperationState.SUPERSEDED, kvclient.OperationState.SETTLED)
