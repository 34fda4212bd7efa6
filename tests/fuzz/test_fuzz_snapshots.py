"""Snapshots on their way, damaged: refused with the old state whole; and the true one afterwards is taken."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import google_crc32c
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2, replication_pb2
from kvnode.errors import KvnodeError
from kvnode.shard.state_machine import LOCAL, META, StateMachine
from kvnode.storage.snapshot import encode_chunks
from tests.fuzz.profile import fuzz
from tests.fuzz.worlds import Cluster, in_a_cluster

CHUNK_SIZE_BYTES = 200
SHARD = 0
Part = replication_pb2.InstallSnapshotRequest
Damage = tuple[str, int, int]

damages = st.tuples(
    st.sampled_from(
        ("bit", "crc", "drop", "swap", "end", "done", "index", "term", "offset", "garbage", "shard", "leader", "empty", "local")
    ),
    st.integers(0, 2**16),
    st.integers(0, 2**16),
)


def damaged(parts: list[Part], damage: Damage) -> list[Part]:
    """The stream with one thing wrong."""
    kind, one, other = damage
    parts = [Part.FromString(part.SerializeToString()) for part in parts]
    part = parts[one % len(parts)]
    if kind == "bit":
        at = other % (len(part.data) * 8)
        part.data = part.data[: at // 8] + bytes([part.data[at // 8] ^ 1 << at % 8]) + part.data[at // 8 + 1 :]
    elif kind == "crc":
        part.crc32c ^= 1 << other % 32
    elif kind == "drop":
        parts.remove(part)
    elif kind == "swap":
        first, second = one % len(parts), (one + 1) % len(parts)
        parts[first], parts[second] = parts[second], parts[first]
    elif kind == "end":
        del parts[one % len(parts) :]
    elif kind == "done":
        parts[one % (len(parts) - 1)].done = True
    elif kind == "index":
        _all(parts, last_index=(0, part.last_index + 1 + other, 2**64 - 1)[one % 3])
    elif kind == "term":
        _all(parts, last_term=part.last_term + 1 + other)
    elif kind == "offset":
        part.offset = (part.offset + 1 + other) % 2**64
    elif kind == "garbage":
        _with_data(part, (b"", b"\0", bytes(100), b"\xff" * 300)[other % 4])
    elif kind == "shard":
        part.shard = 2 + other
    elif kind == "leader":
        _all(parts, term=(0, 2**63, 2**64 - 1)[one % 3])
    elif kind == "empty":
        parts = parts[:1]
        _with_data(parts[0], b"")
        parts[0].done = True
    else:
        _with_data(part, part.data + next(encode_chunks([(LOCAL + b"n1", b"mine")], 100)))
    return parts


def _all(parts: list[Part], **fields: int) -> None:
    for part in parts:
        for name, value in fields.items():
            setattr(part, name, value)


def _with_data(part: Part, data: bytes) -> None:
    part.data, part.crc32c = data, google_crc32c.value(data)


async def stream_to(cluster: Cluster, parts: list[Part], wanted: list[bool]) -> None:
    """A stream of parts arrives at n3, which says whether the snapshot is installed."""

    async def stream() -> AsyncIterator[Part]:
        for part in parts:
            yield part
            await asyncio.sleep(0)

    async def install(_: Any) -> None:
        response = await cluster.node("n3").endpoint.install_snapshot(stream())
        wanted.append(response.success)

    cluster.spawn("n3", kv_pb2.PutRequest(), install)
    await cluster.answered()


async def snapshot_of(cluster: Cluster, behind: int) -> list[Part]:
    """n3 is cut off with an older state; a snapshot of the leader's newer one, in many parts."""
    world = cluster.world
    for n in range(4):
        cluster.to_kv("n1", kv_pb2.PutRequest(key=b"a%d" % n, value=b"before" * 9))
    await cluster.answered()
    await cluster.demand_agreement()
    world.network.isolate("n3")
    await world.sleep(6.0)
    for n in range(behind):
        cluster.to_kv("n1", kv_pb2.PutRequest(key=b"a%d" % n, value=b"after" * 9))
        cluster.to_kv("n1", kv_pb2.DeleteRequest(key=b"gone%d" % n))
    await cluster.answered()
    leader = next(name for name in ("n1", "n2") if cluster.node(name).replicas[SHARD].is_leader)
    node, group = cluster.node(leader), world.nodes[leader].group
    assert group is not None
    await group.create_task(node.flusher.flush(), name="flush")
    with node.store.snapshot(SHARD) as rows:
        chunks = list(encode_chunks([row for row in rows if not row[0].startswith(LOCAL)], CHUNK_SIZE_BYTES))
    at, parts, offset = StateMachine.position(node.store.get(SHARD, META)), [], 0
    for chunk in chunks:
        part = Part(
            shard=SHARD, term=node.replicas[SHARD].raft.term, last_index=at.index, last_term=at.term, offset=offset, data=chunk
        )
        part.crc32c = google_crc32c.value(chunk)
        part.message.CopyFrom(cluster.envelope(leader, "n3"))
        parts.append(part)
        offset += len(chunk)
    parts[-1].done = True
    assert len(parts) > 2
    assert cluster.node("n3").replicas[SHARD].applied < at.index
    return parts


@given(these=st.lists(damages, min_size=1, max_size=12), behind=st.integers(3, 8))
@fuzz(6)
def test_snapshots_that_are_damaged_leave_the_old_state_whole(these: list[Damage], behind: int) -> None:
    """Streams with one thing wrong, one after the other, are all refused; the rows stay as they were; the true one is taken."""

    async def send(cluster: Cluster) -> None:
        parts = await snapshot_of(cluster, behind)
        replica, store = cluster.node("n3").replicas[SHARD], cluster.node("n3").store
        before, applied = list(store.scan(SHARD, b"", None)), replica.applied
        for damage in these:
            installed: list[bool] = []
            try:
                await stream_to(cluster, damaged(parts, damage), installed)
            except KvnodeError:
                pass
            assert installed in ([], [False]), f"{damage} was taken"
            assert (list(store.scan(SHARD, b"", None)), replica.applied) == (before, applied), f"{damage} changed the state"
        installed = []
        await stream_to(cluster, [*parts[:1], *parts], installed)
        assert installed == [True]
        assert replica.applied == parts[0].last_index
        cluster.world.network.heal()

    in_a_cluster(send)
