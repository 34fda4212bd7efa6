"""A small cluster in one process: the public services over real gRPC on loopback, and an honest in-memory store behind them.

What it keeps of the real thing: one log a shard, revisions that are log indexes, a leader a shard, replicas that may lag,
eventual writes that wait for a place in the log and may be superseded, session tokens whose concatenation is their union,
forwarding, writes that execute once, transactions, and the wire format of errors. What it leaves out: disks, elections, locks,
and everything between nodes. Nodes can be stopped and started, refuse, stall, or lose answers on demand.
"""

from __future__ import annotations

import asyncio
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import grpc.aio

from kvapi.v1 import cluster_pb2, cluster_pb2_grpc, kv_pb2, kv_pb2_grpc, message_pb2
from kvclient.hashing import KEY_HASH, anchor_key, shard_of
from tests.unit.kvclient.fake_transactions import ClientSessions, transact
from tests.unit.kvclient.refusals import CONFLICT, NO_LEADER, NO_SPACE, OUTCOME_UNKNOWN, OVERLOADED, Refusal

__all__ = ["CONFLICT", "NO_LEADER", "NO_SPACE", "OUTCOME_UNKNOWN", "OVERLOADED", "FakeCluster", "Fault", "Refusal"]


@dataclass
class Fault:
    """What goes wrong with one RPC: `before` it is executed, and `after`."""

    before: Refusal | None = None
    lose_answer: bool = False
    """Execute, then break off without a word."""
    stall: asyncio.Event | None = None
    """Wait for it before executing."""


@dataclass
class Record:
    """A key's last write, as applied."""

    value: bytes | None
    revision: int
    create_revision: int
    version: int
    strong_at: int


@dataclass
class Eventual:
    """An eventual write and what became of it."""

    operation_id: str
    origin: str
    shard: int
    key: bytes
    value: bytes | None
    base: int
    state: int = kv_pb2.OPERATION_STATE_PENDING
    revision: int = 0
    superseded_by: int = 0


class Shard:
    """One shard's log, and its table after each of its entries."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.tables: list[dict[bytes, Record]] = [{}]
        self.term = 1
        self.sessions = ClientSessions()

    @property
    def last(self) -> int:
        """Index of the last entry."""
        return len(self.tables) - 1

    def append(self, key: bytes, value: bytes | None, strong: bool, effective: bool = True) -> int:
        """A new entry; its index."""
        table, index = dict(self.tables[-1]), self.last + 1
        if effective:
            old = table.get(key)
            alive = old is not None and old.value is not None
            strong_at = index if strong else old.strong_at if old is not None else 0
            created = old.create_revision if old is not None and alive else index
            version = old.version + 1 if old is not None and alive else 1
            table[key] = Record(value, index, created, version, strong_at)
        self.tables.append(table)
        return index


class FakeNode(kv_pb2_grpc.KVServicer, cluster_pb2_grpc.ClusterServicer):
    """One node: a real gRPC server over the cluster's shared state."""

    def __init__(self, cluster: FakeCluster, name: str) -> None:
        self.cluster = cluster
        self.name = name
        self.port = 0
        self.server: grpc.aio.Server | None = None
        self.lag: dict[int, int] = {}
        """Shard -> index at which this replica's apply is held back."""
        self.faults: deque[Fault] = deque()
        """One for each of the next RPCs."""
        self.refusals: deque[tuple[Callable[[str, bytes], bool], Refusal]] = deque()
        """For single operations: the first that matches (kind, key) is used up."""
        self.calls: Counter[str] = Counter()
        self.batch_sizes: list[int] = []
        self.batches: list[kv_pb2.BatchRequest] = []
        self.transactions: list[kv_pb2.TxnRequest] = []
        self.metadata: list[dict[str, str]] = []

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Listen, on the same port as before."""
        self.server = grpc.aio.server(options=(("grpc.so_reuseport", 0), ("grpc.max_receive_message_length", 4 * 1024 * 1024)))
        self.register(self.server)
        self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        await self.server.start()

    def register(self, server: grpc.aio.Server) -> None:
        """What it serves."""
        kv_pb2_grpc.add_KVServicer_to_server(self, server)
        cluster_pb2_grpc.add_ClusterServicer_to_server(self, server)

    async def stop(self) -> None:
        """Stop at once: calls under way break off."""
        if self.server is not None:
            server, self.server = self.server, None
            await server.stop(None)

    def applied(self, shard: int) -> int:
        """This replica's applied index."""
        return min(self.lag.get(shard, 1 << 62), self.cluster.shards[shard].last)

    # The KV service.

    async def Put(self, request: kv_pb2.PutRequest, context: Any) -> kv_pb2.PutResponse:
        """One write."""
        return await self._serve("Put", context, lambda: self.put(request))  # type: ignore[no-any-return]

    async def Get(self, request: kv_pb2.GetRequest, context: Any) -> kv_pb2.GetResponse:
        """One read."""
        return await self._serve("Get", context, lambda: self.get(request))  # type: ignore[no-any-return]

    async def Delete(self, request: kv_pb2.DeleteRequest, context: Any) -> kv_pb2.DeleteResponse:
        """One deletion."""
        return await self._serve("Delete", context, lambda: self.delete(request))  # type: ignore[no-any-return]

    async def Range(self, request: kv_pb2.RangeRequest, context: Any) -> kv_pb2.RangeResponse:
        """One page."""
        return await self._serve("Range", context, lambda: self.range(request))  # type: ignore[no-any-return]

    async def Batch(self, request: kv_pb2.BatchRequest, context: Any) -> kv_pb2.BatchResponse:
        """Many operations."""
        self.batch_sizes.append(len(request.operations))
        self.batches.append(request)
        return await self._serve("Batch", context, lambda: self.batch(request))  # type: ignore[no-any-return]

    async def Txn(self, request: kv_pb2.TxnRequest, context: Any) -> kv_pb2.TxnResponse:
        """A transaction."""
        self.transactions.append(request)
        return await self._serve("Txn", context, lambda: self.txn(request))  # type: ignore[no-any-return]

    async def Operation(self, request: kv_pb2.OperationRequest, context: Any) -> kv_pb2.OperationResponse:
        """A question about an eventual write."""
        return await self._serve("Operation", context, lambda: self.operation(request))  # type: ignore[no-any-return]

    async def Topology(self, request: cluster_pb2.TopologyRequest, context: Any) -> cluster_pb2.TopologyResponse:
        """The shard map."""
        return await self._serve("Topology", context, self.cluster.topology)  # type: ignore[no-any-return]

    async def Locate(self, request: cluster_pb2.LocateRequest, context: Any) -> cluster_pb2.LocateResponse:
        """A key's place."""
        return await self._serve("Locate", context, lambda: self.cluster.locate(request.key))  # type: ignore[no-any-return]

    async def _serve(self, name: str, context: Any, execute: Callable[[], Any]) -> Any:
        self.calls[name] += 1
        self.metadata.append({key: value for key, value in context.invocation_metadata() or () if isinstance(value, str)})
        fault = self.faults.popleft() if self.faults and name != "Topology" else Fault()
        if fault.stall is not None:
            await fault.stall.wait()
        try:
            if fault.before is not None:
                raise fault.before
            response = execute()
        except Refusal as refusal:
            await context.abort(refusal.code, refusal.message, refusal.trailing())
        if fault.lose_answer:
            await context.abort(grpc.StatusCode.UNAVAILABLE, "Stream removed (Socket closed)")
        return response

    # Operations, without the network.

    def put(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        """Write; strong at the leader, eventual here."""
        self._refuse("put", request.key, request)
        if request.consistency == kv_pb2.CONSISTENCY_EVENTUAL:
            write = self._accept(request.key, request.value)
            served = self._served(write.shard, kv_pb2.CONSISTENCY_EVENTUAL, request.session, self, write.operation_id)
            return kv_pb2.PutResponse(operation_id=write.operation_id, acks=max(1, request.acks), served=served)
        return self._once(request, lambda: self._put_strong(request))  # type: ignore[no-any-return]

    def _put_strong(self, request: kv_pb2.PutRequest) -> kv_pb2.PutResponse:
        shard, _, revision = self._write(request, request.value)
        return kv_pb2.PutResponse(revision=revision, served=self._strong(shard, request.session))

    def delete(self, request: kv_pb2.DeleteRequest) -> kv_pb2.DeleteResponse:
        """Delete; as put."""
        self._refuse("delete", request.key, request)
        if request.consistency == kv_pb2.CONSISTENCY_EVENTUAL:
            write = self._accept(request.key, None)
            served = self._served(write.shard, kv_pb2.CONSISTENCY_EVENTUAL, request.session, self, write.operation_id)
            return kv_pb2.DeleteResponse(operation_id=write.operation_id, acks=max(1, request.acks), served=served)
        return self._once(request, lambda: self._delete_strong(request))  # type: ignore[no-any-return]

    def _delete_strong(self, request: kv_pb2.DeleteRequest) -> kv_pb2.DeleteResponse:
        shard, found, revision = self._write(request, None)
        return kv_pb2.DeleteResponse(found=found, revision=revision, served=self._strong(shard, request.session))

    def get(self, request: kv_pb2.GetRequest) -> kv_pb2.GetResponse:
        """Read at the level that was asked for; a replica that is behind forwards."""
        self._refuse("get", request.key)
        shard = self.cluster.shards[shard_of(request.key, len(self.cluster.shards))]
        level = request.consistency or kv_pb2.CONSISTENCY_STRONG
        node = self._reader(shard, level, request.session)
        response = kv_pb2.GetResponse(served=node._served(shard.number, level, request.session, node))
        overlay = node._tentative(request.key) if level != kv_pb2.CONSISTENCY_STRONG else None
        if overlay is not None:
            response.found, response.value, response.tentative = overlay.value is not None, overlay.value or b"", True
            return response
        record = shard.tables[node.applied(shard.number)].get(request.key)
        if record is not None and record.value is not None:
            response.found, response.value, response.revision = True, record.value, record.revision
            response.create_revision, response.version, response.hlc = (
                record.create_revision,
                record.version,
                record.revision << 16,
            )
        return response

    def range(self, request: kv_pb2.RangeRequest) -> kv_pb2.RangeResponse:
        """One page, over all shards; the token is the last key of the page before."""
        level = request.consistency or kv_pb2.CONSISTENCY_STRONG
        if request.limit > 1_000:
            raise Refusal(
                grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", {"field": "limit"}, message="limit: more than 1000"
            )
        items: dict[bytes, kv_pb2.KeyValue] = {}
        response = kv_pb2.RangeResponse()
        for shard in self.cluster.shards:
            node = self._reader(shard, level, request.session)
            response.served.append(node._served(shard.number, level, request.session, node))
            for key, record in shard.tables[node.applied(shard.number)].items():
                if record.value is not None:
                    items[key] = kv_pb2.KeyValue(
                        key=key,
                        value=b"" if request.keys_only else record.value,
                        revision=record.revision,
                        create_revision=record.create_revision,
                        version=record.version,
                    )
        wanted = [
            key
            for key in sorted(items)
            if key.startswith(request.prefix) and key >= request.start and (not request.end or key < request.end)
        ]
        response.count = len(wanted)
        if not request.count_only:
            rest = [key for key in wanted if key > request.page_token]
            page = rest[: request.limit or 100]
            response.items.extend(items[key] for key in page)
            response.count = len(page)
            response.next_page_token = page[-1] if len(rest) > len(page) else b""
        return response

    def batch(self, request: kv_pb2.BatchRequest) -> kv_pb2.BatchResponse:
        """Each operation with its own outcome."""
        response = kv_pb2.BatchResponse()
        for operation in request.operations:
            kind = operation.WhichOneof("operation")
            result = response.results.add()
            try:
                getattr(result, kind).CopyFrom(getattr(self, kind)(getattr(operation, kind)))
            except Refusal as refusal:
                result.error.code, result.error.message = refusal.code.value[0], refusal.message
                result.error.reason = refusal.reason
                result.error.metadata.update(refusal.metadata)
                if refusal.retry_after_ms is not None:
                    result.error.retry_after_ms = refusal.retry_after_ms
        return response

    def operation(self, request: kv_pb2.OperationRequest) -> kv_pb2.OperationResponse:
        """What became of an eventual write."""
        write = self.cluster.eventual.get(request.operation_id)
        if write is None:
            return kv_pb2.OperationResponse(state=kv_pb2.OPERATION_STATE_UNKNOWN)
        superseded = write.state == kv_pb2.OPERATION_STATE_SUPERSEDED
        return kv_pb2.OperationResponse(
            state=write.state,  # type: ignore[arg-type]
            revision=write.revision,
            reason=kv_pb2.SUPERSEDED_REASON_STRONG_WRITE if superseded else kv_pb2.SUPERSEDED_REASON_UNSPECIFIED,
            superseded_by=write.superseded_by,
            key=write.key,
        )

    def txn(self, request: kv_pb2.TxnRequest) -> kv_pb2.TxnResponse:
        """A transaction, at its anchor's leader."""
        self._refuse("txn", anchor_key(request), request)
        return transact(self, request)

    def _once(self, request: Any, execute: Callable[[], Any]) -> Any:
        """A strong write of one key, by its request id if it has one."""
        shard = self.cluster.shards[shard_of(request.key, len(self.cluster.shards))]
        self._leader_of(shard.number)
        return shard.sessions.once(request.request, execute) if request.HasField("request") else execute()

    def _refuse(self, kind: str, key: bytes, write: Any = None) -> None:
        if write is not None:
            named = write.HasField("request")
            self.cluster.request_ids.append(kv_pb2.RequestId.FromString(write.request.SerializeToString()) if named else None)
        for entry in self.refusals:
            if entry[0](kind, key):
                self.refusals.remove(entry)
                raise entry[1]

    def _leader_of(self, shard: int) -> FakeNode:
        leader = self.cluster.leaders[shard]
        if leader is None or self.cluster.nodes[leader].server is None:
            raise NO_LEADER
        if leader != self.name and not self.cluster.forwards:
            address = self.cluster.nodes[leader].address
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", {"leader": address, "shard": str(shard)}, 0)
        return self.cluster.nodes[leader]

    def _write(self, request: Any, value: bytes | None) -> tuple[int, bool, int]:
        """A strong write; its shard, whether the key existed, its revision."""
        shard = self.cluster.shards[shard_of(request.key, len(self.cluster.shards))]
        self._leader_of(shard.number)
        record = shard.tables[-1].get(request.key)
        exists = record is not None and record.value is not None
        revision = record.revision if record is not None and exists else 0
        if request.HasField("if_revision") and request.if_revision != revision:
            raise Refusal(grpc.StatusCode.FAILED_PRECONDITION, "COMPARE_FAILED", {"revision": str(revision)})
        return shard.number, exists, shard.append(request.key, value, strong=True)

    def _accept(self, key: bytes, value: bytes | None) -> Eventual:
        shard = shard_of(key, len(self.cluster.shards))
        operation_id = f"{self.name}.{len(self.cluster.eventual) + 1}"
        write = Eventual(operation_id, self.name, shard, key, value, self.applied(shard))
        self.cluster.eventual[operation_id] = write
        if not self.cluster.holds_eventual:
            self.cluster.settle()
        return write

    def _tentative(self, key: bytes) -> Eventual | None:
        """The latest eventual write of this node that waits for a place in the log."""
        waiting = [write for write in self.cluster.pending() if write.origin == self.name and write.key == key]
        return waiting[-1] if waiting else None

    def _reader(self, shard: Shard, level: int, session: bytes) -> FakeNode:
        if level == kv_pb2.CONSISTENCY_STRONG:
            return self._leader_of(shard.number)
        if level == kv_pb2.CONSISTENCY_SESSION:
            indexes, operations = parse_token(session)
            for operation_id in operations:
                write = self.cluster.eventual[operation_id]
                if write.shard == shard.number and write.state == kv_pb2.OPERATION_STATE_PENDING and write.origin != self.name:
                    return self.cluster.nodes[write.origin]
            if self.applied(shard.number) < indexes.get(shard.number, 0):
                return self.cluster.nodes[self.cluster.leaders[shard.number] or self.name]
        return self

    def _strong(self, shard: int, session: bytes) -> kv_pb2.Served:
        leader = self._leader_of(shard)
        return leader._served(shard, kv_pb2.CONSISTENCY_STRONG, session, leader)

    def _served(self, shard: int, level: int, session: bytes, node: FakeNode, operation_id: str = "") -> kv_pb2.Served:
        indexes, operations = parse_token(session)
        indexes[shard] = max(indexes.get(shard, 0), node.applied(shard))
        if operation_id:
            operations = [*operations, operation_id]
        return kv_pb2.Served(
            node=node.name,
            role=kv_pb2.ROLE_LEADER if self.cluster.leaders[shard] == node.name else kv_pb2.ROLE_FOLLOWER,
            consistency=level,  # type: ignore[arg-type]
            shard=shard,
            revision=node.applied(shard),
            hlc=node.applied(shard) << 16,
            staleness_ms=0 if level == kv_pb2.CONSISTENCY_STRONG else None,
            session=make_token(indexes, operations),
        )


class FakeCluster:
    """The nodes and what they agree on. `async with FakeCluster() as cluster: ... cluster.uri`."""

    def __init__(self, nodes: int = 3, shards: int = 4, replication_factor: int | None = None) -> None:
        self.nodes = {
            f"n{number}": FakeNode(self, f"n{number}")  # type: ignore[abstract]
            for number in range(1, nodes + 1)
        }
        self.shards = [Shard(number) for number in range(shards)]
        names = list(self.nodes)
        count = replication_factor or nodes
        self.replicas = [[names[(shard + offset) % nodes] for offset in range(count)] for shard in range(shards)]
        self.leaders: list[str | None] = [replicas[0] for replicas in self.replicas]
        self.eventual: dict[str, Eventual] = {}
        self.request_ids: list[kv_pb2.RequestId | None] = []
        """Of every write that came to be executed or refused, all attempts; None: it had none."""
        self.forwards = True
        """Nodes forward to the leader; else they say NOT_LEADER."""
        self.holds_eventual = False
        """Eventual writes wait for `settle`."""
        self.epoch = 1
        self.states: dict[str, int] = {}
        self.key_hash = KEY_HASH

    async def __aenter__(self) -> FakeCluster:
        for node in self.nodes.values():
            await node.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        for node in self.nodes.values():
            await node.stop()

    @property
    def hlc(self) -> int:
        """About now, as `Served.hlc`."""
        return (1 + max(shard.last for shard in self.shards)) << 16

    @property
    def uri(self) -> str:
        """For `kvclient.connect`."""
        return "kv://" + ",".join(node.address for node in self.nodes.values())

    def calls(self, name: str) -> int:
        """How many RPCs of that name all nodes took."""
        return sum(node.calls[name] for node in self.nodes.values())

    def shard_of(self, key: bytes | str) -> int:
        """The key's shard."""
        return shard_of(key.encode() if isinstance(key, str) else key, len(self.shards))

    def leader_of(self, key: bytes | str) -> FakeNode:
        """The node that leads the key's shard."""
        leader = self.leaders[self.shard_of(key)]
        assert leader is not None
        return self.nodes[leader]

    def elect(self, shard: int, leader: str | None) -> None:
        """A new leader, or none."""
        self.leaders[shard] = leader
        self.shards[shard].term += 1

    def pending(self) -> list[Eventual]:
        """Eventual writes without a place in the log."""
        return [write for write in self.eventual.values() if write.state == kv_pb2.OPERATION_STATE_PENDING]

    def settle(self) -> None:
        """Sequence all eventual writes that wait: superseded where a strong write came that they had not seen."""
        for write in self.pending():
            shard = self.shards[write.shard]
            record = shard.tables[-1].get(write.key)
            newer = record.strong_at if record is not None and record.strong_at > write.base else 0
            write.revision = shard.append(write.key, write.value, strong=False, effective=not newer)
            write.superseded_by = newer
            write.state = kv_pb2.OPERATION_STATE_SUPERSEDED if newer else kv_pb2.OPERATION_STATE_APPLIED

    def topology(self) -> cluster_pb2.TopologyResponse:
        """The shard map."""
        response = cluster_pb2.TopologyResponse(epoch=self.epoch, cluster_id="fake", key_hash=self.key_hash, hlc=self.hlc)
        for name, node in self.nodes.items():
            state = self.states.get(name, message_pb2.NODE_STATE_ACTIVE)
            response.members.add(name=name, address=node.address, state=state)
        for shard in self.shards:
            leader = self.leaders[shard.number] or ""
            response.shards.add(shard=shard.number, leader=leader, term=shard.term, replicas=self.replicas[shard.number])
        return response

    def locate(self, key: bytes) -> cluster_pb2.LocateResponse:
        """A key's place."""
        shard = self.shard_of(key)
        leader = self.leaders[shard]
        return cluster_pb2.LocateResponse(
            shard=shard,
            leader=self.nodes[leader].address if leader is not None else "",
            replicas=[self.nodes[name].address for name in self.replicas[shard]],
            epoch=self.epoch,
        )


def make_token(indexes: dict[int, int], operations: list[str]) -> bytes:
    """A session token: `shard:index;` for each shard, `@operation;` for each eventual write."""
    parts = [f"{shard}:{index};" for shard, index in sorted(indexes.items())]
    return "".join(parts + [f"@{operation};" for operation in dict.fromkeys(operations)]).encode()


def parse_token(token: bytes) -> tuple[dict[int, int], list[str]]:
    """Read one token, or several joined: the highest index of each shard, and all operations."""
    indexes: dict[int, int] = {}
    operations: list[str] = []
    for part in token.decode().split(";"):
        if part.startswith("@"):
            operations.append(part[1:])
        elif part:
            shard, index = part.split(":")
            indexes[int(shard)] = max(int(index), indexes.get(int(shard), 0))
    return indexes, operations


@contextmanager
def running_cluster(**options: Any) -> Iterator[tuple[FakeCluster, Callable[[Any], Any]]]:
    """A cluster on a loop in another thread, for tests of the client on threads; `do(coroutine)` runs something there."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever)
    thread.start()

    def do(coroutine: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, loop).result(10)

    cluster = FakeCluster(**options)
    try:
        do(cluster.__aenter__())
        yield cluster, do
        do(cluster.__aexit__())
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()
