"""Disks that are full, lost, damaged or somebody else's, under real processes.

What a test breaks it puts back, so that the next one finds a healthy cluster.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest

import kvclient
from kvapi.v1 import kv_pb2
from kvclient.errors import NoSpace
from kvctl.playground import Playground
from kvnode import exit_codes
from tests.integration import harness

MIB = 1024 * 1024
QUOTA_BYTES = 24 * MIB


@pytest.fixture(scope="module")
def small_cluster() -> Iterator[Playground]:
    """A cluster whose segments and memory tables are so small, and whose memory of old entries is so short, that a follower
    which was away needs a snapshot."""
    with harness.playground(settings={**harness.SMALL_STORAGE, "replication.entries_retained": 16}) as cluster:
        yield cluster


@pytest.fixture
def cluster(small_cluster: Playground) -> Playground:
    """The module's cluster, healthy."""
    harness.heal(small_cluster)
    return small_cluster


def _run(config_path: Path, *flags: str, timeout_s: float = 20) -> tuple[int, str]:
    """Run a daemon that is expected to end by itself: its exit code and what it said."""
    command = [sys.executable, "-m", "kvnode", "run", "--config", str(config_path), *flags]
    done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s, check=False, cwd=config_path.parent)
    return done.returncode, done.stdout + done.stderr


@contextmanager
def _put_aside(path: Path) -> Iterator[Path]:
    """The directory is elsewhere inside the block, and back after it, whatever took its place."""
    elsewhere = path.with_name(path.name + ".aside")
    path.rename(elsewhere)
    try:
        yield elsewhere
    finally:
        shutil.rmtree(path, ignore_errors=True)
        elsewhere.rename(path)


async def _write(client: kvclient.AsyncClient, name: str, count: int, size_bytes: int = 2000) -> dict[bytes, bytes]:
    """Write so many new keys, in batches."""
    written = {f"{name}/{number:05}".encode(): os.urandom(size_bytes) for number in range(count)}
    items = list(written.items())
    for first in range(0, count, 50):
        batch = client.batch()
        for key, value in items[first : first + 50]:
            batch.put(key, value)
        for result in await batch.run(timeout=20):
            assert isinstance(result, kvclient.PutResult), result
    return written


async def _check(client: kvclient.AsyncClient, written: dict[bytes, bytes], name: str) -> None:
    present = {item.key: item.value async for item in client.range(prefix=f"{name}/", timeout=20)}
    assert present == written


# Followers that were away.


async def test_follower_behind_the_cut_log_gets_a_snapshot_and_agrees(cluster: Playground) -> None:
    """While a node is down the others write more than they keep in their logs; when it starts it gets snapshots, and its
    state's hash is that of the others at the same index."""
    async with harness.connect(cluster) as client:
        before = await _write(client, "snap/before", 100)
        await asyncio.to_thread(cluster.kill, "n3")
        written = await _write(client, "snap/away", 1200)
        for key in list(before)[:50]:
            await client.delete(key)
            del before[key]
        n3_applied = {shard.shard: shard.flushed_index for shard in harness.statuses(cluster)["n1"].shards}
        assert any(n3_applied.values()), "nothing was flushed: the test writes too little"
        await asyncio.to_thread(cluster.start, "n3")
        await asyncio.to_thread(cluster.wait_caught_up, "n3")
        await asyncio.to_thread(harness.await_log, cluster, "n3", "snapshot installed")
        await asyncio.to_thread(harness.await_agreement, cluster)
        async with harness.connect_node(cluster.node("n3").address) as node:
            for key, value in list(written.items())[::100]:
                answer = await node.kv.Get(kv_pb2.GetRequest(key=key, consistency=kv_pb2.CONSISTENCY_EVENTUAL), timeout=5)
                assert answer.value == value
                assert answer.served.node == "n3"
        await _check(client, written, "snap/away")
        await _check(client, before, "snap/before")


async def test_restarts_after_flushes_and_cuts_find_everything(cluster: Playground) -> None:
    """After the log was cut behind flushes many times, all nodes die at once: what was flushed and what was not is there."""
    async with harness.connect(cluster) as client:
        written = await _write(client, "cut", 600)
        await asyncio.gather(*(asyncio.to_thread(cluster.kill, name) for name in cluster.names))
        await asyncio.to_thread(cluster.up)
        await _check(client, written, "cut")
    await asyncio.to_thread(harness.await_agreement, cluster)


# Directories of somebody else.


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (lambda one: ("--cluster.id", "another-cluster"), "is of cluster"),
        (lambda one: ("--node.name", "n2", "--node.listen", one.node("n2").address), "is of node"),
        (lambda one: ("--cluster.shards", "16"), "is of number of shards"),
    ],
    ids=["another cluster", "another node", "other shards"],
)
def test_data_directory_of_somebody_else_is_refused_at_the_start(
    cluster: Playground, flags: Callable[[Playground], tuple[str, ...]], words: str
) -> None:
    """A node that finds another cluster's, or another node's, data does not start: exit code 65, and a message with both
    names. Nothing is changed: with the right configuration it starts."""
    cluster.stop("n1")
    node = cluster.node("n1")
    given = flags(cluster)
    if "--node.name" in given:
        cluster.stop("n2")
    code, said = _run(node.config_path, *given)
    assert code == exit_codes.UNUSABLE_DATA, said
    assert words in said
    assert str(node.data_path) in said
    assert "use another data directory" in said
    cluster.start("n1")
    cluster.wait_caught_up("n1")


def test_data_directory_of_a_newer_format_is_refused_before_anything_is_touched(cluster: Playground) -> None:
    """A release that cannot read the directory says which one can, ends with EX_DATAERR, and leaves every file as it was: not
    even the ballast, the spare segment or what a broken snapshot left is touched."""
    cluster.stop("n1")
    node = cluster.node("n1")
    mark = node.data_path / "FORMAT"
    ours = mark.read_text()
    leftover = node.data_path / "snapshot-3"
    leftover.write_text("half a snapshot")
    (node.data_path / "ballast").unlink()
    mark.write_text("kvnode data format 2\nwritten by kvnode 9.1.0\n")
    before = {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in node.data_path.rglob("*")}
    code, said = _run(node.config_path)
    assert code == 65, said
    assert f"{node.data_path} has data format 2" in said
    assert "reads format 1" in said
    assert "Install kvnode 9.1.0" in said
    assert {path: (path.stat().st_mtime_ns, path.stat().st_size) for path in node.data_path.rglob("*")} == before
    mark.write_text(ours)
    cluster.start("n1")
    cluster.wait_caught_up("n1")
    assert not leftover.exists()


def test_data_directory_in_use_is_refused_at_the_start(cluster: Playground) -> None:
    """Two processes on one data directory would destroy it: the second one does not start, the first one is not disturbed."""
    node = cluster.node("n1")
    port = harness.free_base_port(1)
    config = node.config_path.read_text().replace(node.address, f"127.0.0.1:{port}")
    second = node.config_path.with_name("second.toml")
    second.write_text(config)
    try:
        code, said = _run(second)
    finally:
        second.unlink()
    assert code == exit_codes.FAILED, said
    assert str(node.data_path) in said
    assert cluster.node("n1").state == "running"
    with kvclient.connect_sync(cluster.uri) as kv:
        kv.put("in/use", "1")
    harness.await_agreement(cluster)


# Lost and damaged disks.


async def test_node_with_a_lost_disk_may_not_vote_under_its_old_name(cluster: Playground) -> None:
    """A write is on n1 and n3. n3's disk is lost and n1 is down: n2, which lacks the write, and the empty n3 must not make a
    majority, or the acknowledged write would be gone. Both say clearly what is wrong; when n1 is back, the write is there."""
    key = b"lost{disk}"
    n3 = cluster.node("n3")
    async with harness.connect(cluster) as client:
        await client.put(key, "before")
        await asyncio.to_thread(cluster.wait_caught_up, "n2")
        await asyncio.to_thread(cluster.kill, "n2")
        await harness.until_async(lambda: client.put(key, "after", timeout=5), what="a write without n2")
    await asyncio.to_thread(cluster.kill, "n1")
    await asyncio.to_thread(cluster.kill, "n3")
    with _put_aside(n3.data_path):
        try:
            await asyncio.gather(*(asyncio.to_thread(cluster.start, name) for name in ("n2", "n3")))
            deadline = time.monotonic() + 4
            while time.monotonic() < deadline:
                for name, status in harness.statuses(cluster).items():
                    led = [shard.shard for shard in status.shards if shard.role == kv_pb2.ROLE_LEADER]
                    assert not led, f"{name} leads shards {led} with the vote of a node that lost its disk"
                await asyncio.sleep(0.2)
            for name in ("n2", "n3"):
                async with harness.connect_node(cluster.node(name).address) as node:
                    with pytest.raises(grpc.RpcError) as refused:
                        await node.kv.Get(kv_pb2.GetRequest(key=key), timeout=1)
                    codes = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
                    assert refused.value.code() in codes  # type: ignore[attr-defined]
            said = [await asyncio.to_thread(harness.await_log, cluster, name, "data directory", 3.0) for name in ("n2", "n3")]
            assert all("n3" in line for line in said)
            assert any("a lost disk makes a new node" in line for line in said)
            await asyncio.to_thread(cluster.start, "n1")
            async with harness.connect(cluster) as client:
                found = await harness.until_async(lambda: client.get(key, timeout=5), what="the write")
                assert found.value == b"after"
        finally:
            await asyncio.to_thread(cluster.kill, "n3")
    await asyncio.to_thread(harness.heal, cluster)


def _damage(path: Path) -> tuple[Path, int]:
    """Flip a byte in the middle of what was written to the newest log segment: the file, and the byte."""
    segment = max(path.glob("log-0*"))
    data = segment.read_bytes()
    offset = len(data.rstrip(b"\0")) // 2
    with segment.open("r+b") as file:
        file.seek(offset)
        file.write(bytes([data[offset] ^ 0xFF]))
    return segment, offset


async def test_damaged_log_is_refused_with_file_and_offset_while_the_others_go_on(cluster: Playground) -> None:
    """A flipped byte in the middle of a segment is corruption and no torn tail: the node does not start, names the file and
    the place, changes nothing, and says what to do; the others serve; with the right bytes it starts again."""
    node = cluster.node("n2")
    async with harness.connect(cluster) as client:
        written = await _write(client, "damage", 60)
        await asyncio.to_thread(cluster.kill, "n2")
        segment, offset = _damage(node.data_path)
        damaged = segment.read_bytes()
        try:
            code, said = await asyncio.to_thread(_run, node.config_path)
            assert code == exit_codes.UNUSABLE_DATA, said
            event = next(line for line in map(json.loads, said.splitlines()) if line["level"] == "critical")
            assert segment.name in event["error"]
            place = int(event["error"].split("damaged at byte ")[1].split(":")[0])
            assert place <= offset
            assert "Nothing was changed" in event["error"]
            assert segment.read_bytes() == damaged
            await client.put("damage/meanwhile", "1", timeout=10)
            written[b"damage/meanwhile"] = b"1"
            await _check(client, written, "damage")
        finally:
            with segment.open("r+b") as file:
                file.seek(offset)
                file.write(bytes([damaged[offset] ^ 0xFF]))
        await asyncio.to_thread(cluster.start, "n2")
        await asyncio.to_thread(cluster.wait_caught_up, "n2")
    await asyncio.to_thread(harness.await_agreement, cluster)


async def test_torn_tail_of_a_log_is_cut_and_the_node_starts(cluster: Playground) -> None:
    """Bytes behind the last whole frame that never became one are what a power cut leaves: the node starts and catches up."""
    node = cluster.node("n3")
    async with harness.connect(cluster) as client:
        written = await _write(client, "torn", 60)
        await asyncio.to_thread(cluster.kill, "n3")
        segment = max(node.data_path.glob("log-0*"))
        data = segment.read_bytes()
        end = -(-len(data.rstrip(b"\0")) // 512) * 512
        with segment.open("r+b") as file:
            file.seek(end)
            file.write(b"kvL1" + bytes(8))
        await asyncio.to_thread(cluster.start, "n3")
        await asyncio.to_thread(cluster.wait_caught_up, "n3")
        await _check(client, written, "torn")
    await asyncio.to_thread(harness.await_agreement, cluster)


# Full disks.


def _fill(path: Path, quota_bytes: int) -> Path:
    """Something else takes nearly all of a quota."""
    used = sum(entry.stat().st_blocks * 512 for entry in path.rglob("*") if entry.is_file())
    filler = path / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(4096, quota_bytes - used - 4096))
    return filler


async def _write_until_refused(client: kvclient.AsyncClient, name: str, **options: Any) -> tuple[dict[bytes, bytes], NoSpace]:
    acked: dict[bytes, bytes] = {}
    deadline = time.monotonic() + 40
    number = 0
    while time.monotonic() < deadline:
        batch, values = client.batch(), {}
        for _ in range(16):
            key = f"{name}/{number:06}".encode()
            number += 1
            values[key] = os.urandom(8_000)
            batch.put(key, values[key], **options)
        refused = None
        for key, result in zip(values, await batch.run(timeout=3), strict=True):
            if isinstance(result, kvclient.PutResult):
                acked[key] = values[key]
            elif isinstance(result, NoSpace):
                refused = result
        if refused is not None:
            return acked, refused
    raise AssertionError("writes were never refused with NO_SPACE")


async def _reads_go_on(client: kvclient.AsyncClient, acked: dict[bytes, bytes]) -> None:
    for key in list(acked)[:: max(1, len(acked) // 20)]:
        found = await client.get(key, timeout=10)
        assert found is not None
        assert found.value == acked[key]
        # A replica whose own disk is full may lack what the two others hold: it answers with what it has.
        eventual = await client.get(key, consistency="eventual", timeout=10)
        assert eventual is None or eventual.value == acked[key]


async def _writes_go_on(client: kvclient.AsyncClient) -> None:
    for number in range(16):
        await harness.until_async(
            lambda n=number: client.put(f"again/{n}", "1", timeout=3), what="a write after there is space"
        )  # type: ignore[misc]


async def test_full_quota_refuses_writes_serves_reads_and_recovers_when_space_returns() -> None:
    """Something else fills every node's quota: writes, strong and eventual, are refused with NO_SPACE, reads of all levels go
    on, nothing acknowledged is lost; when the space returns the nodes take writes again by themselves. Then the quota is
    filled by writes alone, and raised: everything is there, and writes go on."""
    settings = {**harness.SMALL_STORAGE, "storage.quota_bytes": QUOTA_BYTES}
    with harness.playground(settings=settings) as cluster:
        async with harness.connect(cluster) as client:
            before = await _write(client, "before", 50)
            fillers = [_fill(node.data_path, QUOTA_BYTES) for node in cluster.nodes]
            acked, refused = await _write_until_refused(client, "full")
            assert refused.definite
            assert refused.code is grpc.StatusCode.RESOURCE_EXHAUSTED
            await _write_until_refused(client, "full-eventual", consistency="eventual")
            await _reads_go_on(client, before | acked)
            assert any(status.out_of_space for status in harness.statuses(cluster).values())
            for filler in fillers:
                filler.unlink()
            await _writes_go_on(client)
            harness.until(
                lambda: not any(status.out_of_space for status in harness.statuses(cluster).values()), what="space everywhere"
            )
            await _reads_go_on(client, before | acked)

            more, _ = await _write_until_refused(client, "more")
            await _reads_go_on(client, more)
            Playground.create(cluster.directory, settings={"storage.quota_bytes": 4 * QUOTA_BYTES})
            for name in cluster.names:
                await asyncio.to_thread(cluster.stop, name)
                await asyncio.to_thread(cluster.start, name)
            await _writes_go_on(client)
            present = {item.key async for item in client.range(prefix="", keys_only=True, timeout=20)}
            assert not set(before | acked | more) - present
        await asyncio.to_thread(harness.await_agreement, cluster)


async def test_full_disk_of_one_node_leaves_the_cluster_writing() -> None:
    """Only one node's quota is full: its shards' leaderships go to the others, and strong writes go on."""
    settings = {**harness.SMALL_STORAGE, "storage.quota_bytes": QUOTA_BYTES}
    with harness.playground(settings=settings) as cluster:
        async with harness.connect(cluster) as client:
            await _write(client, "before", 20)
            filler = _fill(cluster.node("n1").data_path, QUOTA_BYTES)

            async def all_shards() -> bool:
                for number in range(100):
                    await client.put(f"one/{number}", os.urandom(8_000), timeout=5)
                return harness.statuses(cluster)["n1"].out_of_space

            await harness.until_async(all_shards, 40, "a round of writes while n1 has no space")
            for number in range(100):
                await harness.until_async(
                    lambda n=number: client.put(f"one/{n}", os.urandom(100), timeout=3),
                    what="a write while n1 has no space",  # type: ignore[misc]
                )
            filler.unlink()
            await asyncio.to_thread(cluster.wait_caught_up, "n1")
        await asyncio.to_thread(harness.await_agreement, cluster)


@contextmanager
def _tmpfs(size_bytes: int) -> Iterator[Path]:
    directory = Path(tempfile.mkdtemp(prefix="kvnode-tmpfs-"))
    command = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "kvnode-test", str(directory)]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        directory.rmdir()
        pytest.skip("there is no mount command")
    if done.returncode:
        directory.rmdir()
        pytest.skip(f"a file system cannot be mounted here: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        subprocess.run(["umount", str(directory)], check=True)
        directory.rmdir()


async def test_full_file_system_refuses_writes_serves_reads_and_recovers() -> None:
    """A real small file system (needs root to mount one): ENOSPC from the kernel is no failure of the disk; the node goes on
    reading, and writes again when space returns."""
    settings = {**harness.SMALL_STORAGE, "storage.store_size_bytes_max": 256 * MIB}
    with _tmpfs(24 * MIB) as directory, harness.playground(1, settings, directory) as cluster:
        async with harness.connect(cluster) as client:
            filler = directory / "filler"
            with filler.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, 10 * MIB)
            acked, _ = await _write_until_refused(client, "full")
            await _reads_go_on(client, acked)
            filler.unlink()
            await _writes_go_on(client)
            await _reads_go_on(client, acked)
            await asyncio.to_thread(cluster.kill, "n1")
            await asyncio.to_thread(cluster.start, "n1")
            await _reads_go_on(client, acked)
        assert cluster.node("n1").state == "running"
