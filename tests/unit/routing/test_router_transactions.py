"""Single operations beside transactions: what waits for locked keys, what does not, what is shown meanwhile."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kvapi.v1 import kv_pb2
from kvnode.errors import CompareFailed, DeadlineExpired, InvalidRequest, SessionExpired
from kvnode.routing import session
from tests.unit.routing.two_phase_stand import TwoPhaseStand, simulated, turns
from tests.unit.shard.machine import delete, get, put, request, txn

STRONG, EVENTUAL = kv_pb2.CONSISTENCY_STRONG, kv_pb2.CONSISTENCY_EVENTUAL
SESSION, BOUNDED = kv_pb2.CONSISTENCY_SESSION, kv_pb2.CONSISTENCY_BOUNDED
ONE, TWO = txn(1, 10), txn(2, 20)
CLIENT = bytes(16)


def write(stand: TwoPhaseStand, key: bytes, value: bytes = b"v", level: int = STRONG, **fields: Any) -> asyncio.Task[Any]:
    """A put begins."""
    one = kv_pb2.PutRequest(key=key, value=value, consistency=level, **fields)  # type: ignore[arg-type]
    return asyncio.ensure_future(stand.router.put(one, stand.context()))


def read(stand: TwoPhaseStand, key: bytes, level: int = STRONG, **fields: Any) -> asyncio.Task[Any]:
    """A get begins."""
    one = kv_pb2.GetRequest(key=key, consistency=level, **fields)  # type: ignore[arg-type]
    return asyncio.ensure_future(stand.router.get(one, stand.context()))


def scan(stand: TwoPhaseStand, level: int = STRONG, **fields: Any) -> asyncio.Task[Any]:
    """A range of shard 0 begins."""
    one = kv_pb2.RangeRequest(shard=0, consistency=level, **fields)  # type: ignore[arg-type]
    return asyncio.ensure_future(stand.router.range(one, stand.context()))


def token(revision: int) -> bytes:
    """A session that has seen so much of shard 0."""
    made = kv_pb2.SessionToken(positions=[kv_pb2.SessionPosition(shard=0, revision=revision)])
    return made.SerializeToString()


# ---- reads ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("commit", "value"), [(True, b"new"), (False, b"old")])
@simulated
async def test_strong_read_of_a_locked_key_waits_for_the_end(stand: TwoPhaseStand, commit: bool, value: bytes) -> None:
    """The transaction's client may have been answered already: the decision is in another shard's log."""
    key = stand.key(0)
    await write(stand, key, b"old")
    await stand.lock(ONE, put(key, b"new"))
    reading, other = read(stand, key), read(stand, stand.key(0, b"other"))
    await asyncio.sleep(1.0)
    assert (reading.done(), other.done()) == (False, True)
    await stand.decide(ONE, commit)
    assert (await reading).value == value


@simulated
async def test_strong_read_of_a_key_that_others_read_does_not_wait(stand: TwoPhaseStand) -> None:
    """Shared locks are in no reader's way."""
    key = stand.key(0)
    await write(stand, key, b"old")
    await stand.lock(ONE, get(key))
    assert (await asyncio.wait_for(read(stand, key), 0.01)).value == b"old"


@simulated
async def test_strong_read_past_its_deadline_names_the_transaction(stand: TwoPhaseStand) -> None:
    """And is never weakened."""
    key = stand.key(0)
    await stand.lock(ONE, put(key))
    with pytest.raises(DeadlineExpired, match=str(ONE)):
        await stand.router.get(kv_pb2.GetRequest(key=key, consistency=STRONG), stand.context(0.3))


@simulated
async def test_strong_range_over_a_locked_key_waits_for_the_end(stand: TwoPhaseStand) -> None:
    """Also where the key does not exist yet; a range beside it goes on."""
    key = stand.key(0, b"m")
    await stand.lock(ONE, put(key, b"new"))
    reading, beside = scan(stand, prefix=key[:3]), scan(stand, start=key + b"\0")
    await asyncio.sleep(1.0)
    assert (reading.done(), beside.done()) == (False, True)
    await stand.decide(ONE)
    assert [(item.key, item.value) for item in (await reading).items] == [(key, b"new")]


@pytest.mark.parametrize("remove", [False, True])
@simulated
async def test_strong_page_is_one_state_of_its_shard(stand: TwoPhaseStand, remove: bool) -> None:
    """A vote came after the read's index, and a newer row after the vote: with that row, the page must have the vote's, too."""
    early, late = stand.key(0, b"a"), stand.key(0, b"z")
    await write(stand, early, b"old")
    stand.answers_rounds = False
    reading = scan(stand)
    await turns()
    locking = asyncio.ensure_future(stand.lock(ONE, delete(early) if remove else put(early, b"new")))
    await locking
    await write(stand, late, b"newer")
    stand.answers_rounds = True
    await asyncio.sleep(1.0)
    assert not reading.done()
    end = await stand.decide(ONE)
    assert end.end.committed
    page = await reading
    expected = [(late, b"newer")] if remove else [(early, b"new"), (late, b"newer")]
    assert [(item.key, item.value) for item in page.items] == expected
    assert (page.count, page.next_page_token) == (len(expected), b"")


@simulated
async def test_token_of_a_strong_page_covers_what_the_page_shows(stand: TwoPhaseStand) -> None:
    """Else the session's next read, at another replica, could go back behind it."""
    early, late = stand.key(0, b"a"), stand.key(0, b"z")
    await write(stand, early, b"old")
    stand.answers_rounds = False
    reading = scan(stand)
    await turns()
    await stand.lock(ONE, put(early, b"new"))
    await write(stand, late, b"newer")
    stand.answers_rounds = True
    await asyncio.sleep(1.0)
    await stand.decide(ONE)
    ended_at = stand.replica.applied
    page = await reading
    assert [item.value for item in page.items] == [b"new", b"newer"]
    seen = session.position(session.decode(page.served[0].session), 0)
    assert seen is not None
    assert seen.revision >= ended_at


@simulated
async def test_session_read_waits_for_votes_that_its_token_covers(stand: TwoPhaseStand) -> None:
    """A transaction's answer carries its votes' indexes: with an older token it does not wait, in a range neither."""
    key = stand.key(0)
    vote = await stand.lock(ONE, put(key, b"new"))
    behind = [read(stand, key, SESSION, session=token(vote.index - 1)), scan(stand, SESSION, session=token(vote.index - 1))]
    behind.append(read(stand, key, SESSION))
    covering = [read(stand, key, SESSION, session=token(vote.index)), scan(stand, SESSION, session=token(vote.index))]
    await asyncio.sleep(0.5)
    assert ([one.done() for one in behind], [one.done() for one in covering]) == ([True] * 3, [False] * 2)
    await stand.decide(ONE)
    found, page = [await one for one in covering]
    assert (found.value, page.items[0].value) == (b"new", b"new")


@pytest.mark.parametrize(("level", "waits"), [(BOUNDED, True), (EVENTUAL, False)])
@simulated
async def test_weaker_read_of_a_locked_key_waits_as_its_level_says(stand: TwoPhaseStand, level: int, waits: bool) -> None:
    """A bounded read by what is applied here; an eventual one never."""
    key = stand.key(0)
    await stand.lock(ONE, put(key, b"new"))
    bound = {"max_staleness_ms": 60_000} if level == BOUNDED else {}
    reading = read(stand, key, level, **bound)
    await asyncio.sleep(0.5)
    assert reading.done() is not waits
    await stand.decide(ONE)
    assert (await reading).found is waits


# ---- eventual writes that wait --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("commit", "state"), [(False, kv_pb2.OPERATION_STATE_APPLIED), (True, kv_pb2.OPERATION_STATE_SUPERSEDED)]
)
@simulated
async def test_eventual_write_that_waits_for_a_transaction_is_pending(stand: TwoPhaseStand, commit: bool, state: int) -> None:
    """It has its place in the log, and no effect yet; then it has one, or the transaction's write is the stronger."""
    key = stand.key(0)
    await stand.lock(ONE, put(key, b"strong"))
    written = await write(stand, key, b"eventual", EVENTUAL)
    await turns()
    assert (stand.replica.holder.size, len(stand.replica.machine.waiting)) == (0, 1)
    asked = kv_pb2.OperationRequest(operation_id=written.operation_id)
    assert (await stand.router.operation(asked, stand.context())).state == kv_pb2.OPERATION_STATE_PENDING
    await stand.decide(ONE, commit)
    after = await stand.router.operation(asked, stand.context())
    assert (after.state, after.key, after.revision) == (state, key, stand.replica.applied)


@simulated
async def test_eventual_write_that_waits_is_shown_as_tentative(stand: TwoPhaseStand) -> None:
    """To its session and to eventual reads, in ranges too; a token that saw it covers its place in the log."""
    key = stand.key(0)
    await write(stand, key, b"old")
    await stand.lock(ONE, get(key))
    written = await write(stand, key, b"waiting", EVENTUAL)
    await turns()
    for level in (EVENTUAL, SESSION):
        fields = {"session": written.served.session} if level == SESSION else {}
        found = await read(stand, key, level, **fields)
        assert (found.value, found.tentative) == (b"waiting", True)
        seen = session.position(session.decode(found.served.session), 0)
        assert seen is not None
        assert (seen.revision >= stand.replica.applied, list(seen.origins)) == (True, [])
        page = await scan(stand, level, **fields)
        assert [(item.value, item.tentative) for item in page.items] == [(b"waiting", True)]
    strong = await read(stand, key)
    assert (strong.value, strong.tentative) == (b"old", False)
    await stand.decide(ONE)
    assert (await read(stand, key)).value == b"waiting"


# ---- requests that execute once -------------------------------------------------------------------------------------


@simulated
async def test_retry_of_a_put_or_delete_is_answered_as_the_first(stand: TwoPhaseStand) -> None:
    """Whatever was written since."""
    key = stand.key(0)
    first = await write(stand, key, request=request(CLIENT, 1, started=1 << 16))
    removal = kv_pb2.DeleteRequest(key=key, consistency=STRONG, request=request(CLIENT, 2, started=1 << 16))
    removed = await stand.router.delete(removal, stand.context())
    await write(stand, key, b"since")
    assert (await write(stand, key, request=request(CLIENT, 1, started=1 << 16))).revision == first.revision
    again = await stand.router.delete(removal, stand.context())
    assert (again.revision, again.found) == (removed.revision, True)
    assert (await read(stand, key)).value == b"since"


@simulated
async def test_retry_of_a_put_that_compared_in_vain_fails_as_the_first(stand: TwoPhaseStand) -> None:
    """Though it would hold by now; and a request too old is refused as that, with a clock to go on with."""
    key = stand.key(0)
    with pytest.raises(CompareFailed):
        await write(stand, key, if_revision=2, request=request(CLIENT, 5, acknowledged=4, started=1 << 16))
    assert (await write(stand, key)).revision == 3
    with pytest.raises(CompareFailed) as failed:
        await write(stand, key, if_revision=3, request=request(CLIENT, 5, acknowledged=4, started=1 << 16))
    assert failed.value.metadata["revision"] == "0"
    with pytest.raises(SessionExpired) as expired:
        await write(stand, key, request=request(CLIENT, 4, started=1 << 16))
    assert int(expired.value.metadata["clock"]) > 1 << 16


@simulated
async def test_write_that_waited_for_a_lock_executes_once(stand: TwoPhaseStand) -> None:
    """Two attempts wait at the same time: the second gets the first's answer."""
    key = stand.key(0)
    await stand.lock(ONE, put(key))
    attempts = [write(stand, key, request=request(CLIENT, 1, started=1 << 16)) for _ in range(2)]
    await turns()
    await stand.decide(ONE)
    first, second = [await attempt for attempt in attempts]
    assert first.revision == second.revision
    version = stand.replica.machine.version(key)
    assert version is not None
    assert version.version == 2


@pytest.mark.parametrize("shards", [1, 2])
@simulated
async def test_transaction_under_the_name_of_a_put_is_refused(stand: TwoPhaseStand, shards: int) -> None:
    """Its result would be none of a transaction; at once, not when the time is over, and nothing is left locked."""
    keys = [stand.key(shard) for shard in range(shards)]
    name = request(CLIENT, 1, started=1 << 16)
    await write(stand, keys[0], b"first", request=name)
    begun = stand.loop.time()
    with pytest.raises(InvalidRequest) as refused:
        await stand.two_phase.router.txn(kv_pb2.TxnRequest(then=map(put, keys), request=name), stand.context())
    assert (refused.value.field, stand.loop.time() - begun < 1.0) == ("request", True)
    await asyncio.sleep(1.0)
    assert not any(replica.machine.transactions.locks for replica in stand.replicas.values())
    assert (await read(stand, keys[0])).value == b"first"


@pytest.mark.parametrize("shards", [1, 2])
@simulated
async def test_put_under_the_name_of_a_transaction_is_refused(stand: TwoPhaseStand, shards: int) -> None:
    """Likewise."""
    keys = [stand.key(shard) for shard in range(shards)]
    name = request(CLIENT, 1, started=1 << 16)
    await stand.two_phase.router.txn(kv_pb2.TxnRequest(then=map(put, keys), request=name), stand.context())
    with pytest.raises(InvalidRequest) as refused:
        await write(stand, keys[0], b"second", request=name)
    assert refused.value.field == "request"
    assert (await read(stand, keys[0])).value == b"t"
