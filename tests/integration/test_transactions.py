"""Transactions over shards, and writes that execute once, with real processes that are killed while they run."""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import kvclient
from kvapi.v1 import cluster_pb2, kv_pb2, message_pb2, two_phase_commit_pb2
from kvclient import Delete, Get, Key, Put, Range
from kvclient.hashing import shard_of
from kvctl.playground import Playground
from tests.integration import harness

ACCOUNTS = 12
INITIAL = 100
PUSH_S = 1.0
"""`transactions.push_after_ms`, by default."""


async def test_txn_over_shards_takes_the_branch_that_its_comparisons_say(client: kvclient.AsyncClient) -> None:
    """Comparisons, reads and writes of several shards in one transaction; all reads see the state before the writes."""
    await client.put("t/stock", "3")
    sale = client.txn().if_(Key("t/stock").value == "3", Key("t/order").absent())
    sale.then(Put("t/stock", "2"), Put("t/order", "paid"), Get("t/stock"), Range(prefix="t/")).else_(Get("t/stock"))
    sold = await sale.run()
    assert sold.succeeded
    assert sold.results[2].text == "3"
    assert [item.key for item in sold.results[3].items] == [b"t/stock"]
    again = client.txn().if_(Key("t/stock").value == "3").then(Put("t/stock", "1")).else_(Get("t/stock"), Get("t/order"))
    refused = await again.run()
    assert not refused.succeeded
    assert [value.text for value in refused.results] == ["2", "paid"]
    revision = sold.results[0].revision
    assert (await client.get("t/stock")).revision == revision
    await client.compare_and_set("t/stock", "1", revision)
    deleted = await client.txn().then(Delete("t/stock"), Delete("t/order"), Delete("t/none")).run()
    assert [result.found for result in deleted.results] == [True, True, False]
    assert await client.count(prefix="t/") == 0


async def test_session_read_after_a_transaction_sees_it_on_every_node(
    cluster: Playground, client: kvclient.AsyncClient
) -> None:
    """Read your writes holds for transactions, from the first moment and wherever the read is served."""
    keys = [f"mine/{number}" for number in range(8)]
    for turn in range(20):
        session = client.session()
        await session.txn().then(*(Put(key, str(turn)) for key in keys)).run()
        for node in cluster.nodes:
            async with harness.connect_node(node.address) as stubs:
                key = random.choice(keys).encode()
                request = kv_pb2.GetRequest(key=key, consistency=kv_pb2.CONSISTENCY_SESSION, session=session.token)
                answer = await stubs.kv.Get(request, timeout=5)
                assert answer.value == str(turn).encode()


def test_grpcurl_runs_a_transaction_in_text(cluster: Playground, grpcurl: Path) -> None:
    """A person writes `compare`, `then` and `else` as text, and reads the answer as text."""
    request = {
        "compare": [{"key_text": "g/a", "exists": False}],
        "then": [{"put": {"key_text": "g/a", "value_text": "1"}}, {"put": {"key_text": "g/b", "value_text": "1"}}],
        "else": [{"get": {"key_text": "g/a"}}],
        "text": True,
    }

    def call() -> dict[str, object]:
        arguments = [grpcurl, "-plaintext", "-d", json.dumps(request), cluster.nodes[0].address, "kvapi.v1.KV/Txn"]
        return json.loads(subprocess.run(arguments, capture_output=True, text=True, timeout=20, check=True).stdout)

    assert call()["succeeded"] is True
    second = call()
    assert "succeeded" not in second
    assert second["results"][0]["get"]["value_text"] == "1"


# ---- the bank --------------------------------------------------------------------------------------------------------


@dataclass
class Bank:
    """Transfers between accounts on all shards, and audits beside them."""

    transfers: int = 0
    audits: int = 0
    wrong: list[str] = field(default_factory=list)
    unknown: int = 0
    markers: list[str] = field(default_factory=list)
    """Of transfers that were acknowledged."""


def _accounts() -> list[str]:
    return [f"bank/{number}" for number in range(ACCOUNTS)]


async def _transfer(client: kvclient.AsyncClient, bank: Bank, name: str, rng: random.Random) -> None:
    source, target = rng.sample(_accounts(), 2)
    amount = rng.randint(1, 9)

    async def move(t: kvclient.AsyncTransaction) -> None:
        have, there = await t.get(source), await t.get(target)
        assert have is not None
        assert there is not None
        t.put(source, str(int(have) - amount))
        t.put(target, str(int(there) + amount))
        t.put(f"marker/{name}", "done")

    try:
        await client.run_in_transaction(move, timeout=15)
    except kvclient.OutcomeUnknown:
        bank.unknown += 1
    else:
        bank.transfers += 1
        bank.markers.append(f"marker/{name}")


async def _audit(client: kvclient.AsyncClient, bank: Bank) -> None:
    found = await client.txn().then(*(Get(account) for account in _accounts())).run(timeout=15)
    total = sum(int(value.value) for value in found.results)
    bank.audits += 1
    if total != ACCOUNTS * INITIAL:
        bank.wrong.append(f"{total}: {[value.value for value in found.results]}")


@asynccontextmanager
async def _banking(client: kvclient.AsyncClient, bank: Bank) -> AsyncIterator[None]:
    over = False

    async def teller(number: int) -> None:
        rng, count = random.Random(number), 0
        while not over:
            count += 1
            try:
                await _transfer(client, bank, f"{number}.{count}", rng)
            except (kvclient.Conflict, kvclient.errors.DeadlineExceeded):
                pass

    async def auditor() -> None:
        while not over:
            try:
                await _audit(client, bank)
            except (kvclient.Conflict, kvclient.errors.DeadlineExceeded):
                pass

    tasks = [asyncio.create_task(teller(number)) for number in range(6)]
    tasks += [asyncio.create_task(auditor()) for _ in range(2)]
    try:
        yield
    finally:
        over = True
        await asyncio.gather(*tasks)


async def test_bank_under_kill_of_random_nodes_keeps_its_sum(cluster: Playground) -> None:
    """Six tellers and two auditors while random nodes are killed with SIGKILL, one after the other: every audit sees the same
    sum, every acknowledged transfer is there once, no lock is left, and all replicas agree."""
    rng = random.Random(7)
    async with harness.connect(cluster) as client:
        await client.txn().then(*(Put(account, str(INITIAL)) for account in _accounts())).run()
        bank = Bank()
        async with _banking(client, bank):
            for _ in range(5):
                await asyncio.sleep(rng.uniform(0.5, 1.5))
                victim = rng.choice(cluster.names)
                await asyncio.to_thread(cluster.kill, victim)
                await asyncio.sleep(rng.uniform(0.0, 1.5))
                await asyncio.to_thread(cluster.start, victim)
                await asyncio.to_thread(cluster.wait_caught_up, victim)
        assert not bank.wrong, bank.wrong[0]
        assert bank.transfers > 20
        assert bank.audits > 20
        await _audit(client, bank)
        assert not bank.wrong, bank.wrong[0]
        present = {item.key.decode(): item.version async for item in client.range(prefix="marker/")}
        assert [marker for marker in bank.markers if present.get(marker) != 1] == []
        assert len(present) <= bank.transfers + bank.unknown
        await harness.until_async(lambda: _no_locks(cluster), PUSH_S + 1.0, "the end of all transactions")
    await asyncio.to_thread(harness.await_agreement, cluster)


async def _no_locks(cluster: Playground) -> bool:
    prepared = two_phase_commit_pb2.TRANSACTION_STATE_PREPARED
    for node in cluster.nodes:
        async with harness.connect_node(node.address) as stubs:
            known = await stubs.cluster.Transactions(cluster_pb2.TransactionsRequest(), timeout=5)
            if any(one.state == prepared for one in known.transactions):
                return False
    return True


# ---- a transaction whose coordinator is gone -------------------------------------------------------------------------


def _two_keys() -> tuple[bytes, bytes]:
    """Keys of two different shards."""
    first = b"orphan/0"
    second = next(key for n in range(99) if shard_of(key := b"orphan/%d" % n, 8) != shard_of(first, 8))
    return first, second


async def _vote_without_coordinator(cluster: Playground, start: int) -> None:
    """Has one shard vote for a transaction that nobody will ever decide, as a peer that dies right after asking would."""
    first, second = _two_keys()
    name = await asyncio.to_thread(harness.leader_name, cluster, first)
    sender = next(other for other in cluster.names if other != name)
    async with harness.connect_node(cluster.node(name).address) as stubs:
        part = two_phase_commit_pb2.TransactionPart(
            then=[kv_pb2.BatchOperation(put=kv_pb2.PutRequest(key=first, value=b"never"))]
        )
        shards = [shard_of(first, 8), shard_of(second, 8)]
        request = two_phase_commit_pb2.PrepareRequest(
            transaction=two_phase_commit_pb2.TransactionId(start=start, id=bytes(15) + bytes([start % 251])),
            shard=shards[0],
            anchor=shards[1],
            participants=shards,
            part=part,
        )
        members = (await stubs.cluster.Members(cluster_pb2.MembersRequest())).members
        peer = next(member for member in members if member.name == sender)
        cluster_id = (await stubs.cluster.Topology(cluster_pb2.TopologyRequest())).cluster_id
        envelope = message_pb2.Message(
            id=1, from_node=sender, to_node=name, type=message_pb2.MESSAGE_TYPE_DATA, cluster_id=cluster_id, protocol_version=2,
            from_incarnation=peer.incarnation, from_uid=peer.uid, sent_at=start,
        )  # fmt: skip
        request.message.CopyFrom(envelope)
        prepare = stubs.channel.unary_unary(
            "/kvapi.v1.TwoPhaseCommit/Prepare",
            request_serializer=two_phase_commit_pb2.PrepareRequest.SerializeToString,
            response_deserializer=two_phase_commit_pb2.PrepareResponse.FromString,
        )
        vote = await prepare(request, timeout=5)
        assert vote.state == two_phase_commit_pb2.TRANSACTION_STATE_PREPARED


async def test_vote_of_a_dead_coordinator_blocks_no_longer_than_the_push(
    cluster: Playground, client: kvclient.AsyncClient
) -> None:
    """A shard has voted, and nobody will decide: a strong write of the key, and a strong read, wait for the push time-out and a
    round, no longer."""
    first, _ = _two_keys()
    await client.put(first, "before")
    clock = (await client.get(first)).served.hlc
    await _vote_without_coordinator(cluster, clock)
    began = time.monotonic()
    value, written = await asyncio.gather(client.get(first), client.put(first, "after"))
    waited = time.monotonic() - began
    assert value.text in ("before", "after")
    assert written.revision > 0
    assert PUSH_S * 0.5 < waited < PUSH_S + 1.0
    await harness.until_async(lambda: _no_locks(cluster), 1.0, "the end of the transaction")


# ---- exactly once ----------------------------------------------------------------------------------------------------


async def test_strong_writes_while_leaders_are_killed_execute_exactly_once(cluster: Playground) -> None:
    """Each writer writes its own key again and again while the nodes are killed one after the other: in the end the key's
    version, which counts executions, is the number of acknowledged writes; none was reported unknown."""
    counts: dict[str, int] = {}
    over = False
    async with harness.connect(cluster, timeout_s=20) as client:

        async def writer(number: int) -> None:
            key = f"once/{number}"
            while not over:
                await client.put(key, str(counts.get(key, 0)))
                counts[key] = counts.get(key, 0) + 1

        async def comparer(number: int) -> None:
            key, revision = f"once/cas/{number}", 0
            while not over:
                # Its own last revision is what is there: a retry that executed must not be told that it compared in vain.
                revision = (await client.compare_and_set(key, "x", revision)).revision
                counts[key] = counts.get(key, 0) + 1

        tasks = [asyncio.create_task(writer(number)) for number in range(8)]
        tasks += [asyncio.create_task(comparer(number)) for number in range(8)]
        for victim in cluster.names:
            await asyncio.sleep(0.5)
            await asyncio.to_thread(cluster.kill, victim)
            await asyncio.sleep(1.0)
            await asyncio.to_thread(cluster.start, victim)
            await asyncio.to_thread(cluster.wait_caught_up, victim)
        over = True
        await asyncio.gather(*tasks)
        versions = {item.key.decode(): item.version async for item in client.range(prefix="once/")}
    assert versions == counts
    assert sum(counts.values()) > 100


@pytest.mark.parametrize("key", ["again/1"])
async def test_same_request_sent_to_every_node_executes_once(cluster: Playground, key: str) -> None:
    """One put under one name, sent through all nodes at once and again later: one execution, one answer."""
    async with harness.connect_node(cluster.nodes[0].address) as stubs:
        clock = (await stubs.cluster.Topology(cluster_pb2.TopologyRequest())).hlc
    name = kv_pb2.RequestId(session=random.randbytes(16), sequence=1, started=clock)
    request = kv_pb2.PutRequest(key=key.encode(), value=b"v", request=name)

    async def send(address: str) -> int:
        async with harness.connect_node(address) as stubs:
            return int((await stubs.kv.Put(request, timeout=5)).revision)

    addresses = [node.address for node in cluster.nodes]
    revisions = await asyncio.gather(*map(send, addresses * 3))
    revisions += [await send(address) for address in addresses]
    assert len(dict.fromkeys(revisions)) == 1
    async with harness.connect(cluster) as client:
        assert (await client.get(key)).version == 1
