"""The primitives on asyncio, and what is refused before anything is sent."""

from __future__ import annotations

import asyncio
import time

import pytest

from kvclient._backend import async_ as backend
from kvclient._backend import sync
from kvclient._requests import txn_call
from kvclient.errors import InvalidArgument
from kvclient.expressions import Put


@pytest.mark.parametrize("is_short", [True, False])
async def test_outcome_nobody_sets_it_the_wait_ends_at_its_deadline(is_short: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a timer of its own and with a shared one: not before the deadline, and hardly after it."""
    monkeypatch.setattr(backend, "SHORT_S", 1.0 if is_short else 0.0)
    alarm = backend.Alarm()
    deadline = time.monotonic() + 0.03
    async with asyncio.timeout(5):
        await asyncio.gather(*(backend.Outcome(alarm).wait(deadline) for _ in range(3)))
    assert time.monotonic() > deadline - 0.002
    assert alarm._slots == {}


async def test_outcome_set_or_cancelled_leaves_nothing_with_the_alarm() -> None:
    """Millions of operations that are answered in time must not pile up until their deadlines."""
    alarm = backend.Alarm()
    deadline = time.monotonic() + 60
    answered, left = backend.Outcome(alarm), backend.Outcome(alarm)
    waiting = [asyncio.ensure_future(one.wait(deadline)) for one in (answered, left)]
    await asyncio.sleep(0)
    assert [len(slot) for slot in alarm._slots.values()] == [2]
    answered.set()
    waiting[1].cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    left.set()
    assert [len(slot) for slot in alarm._slots.values()] == [0]


async def test_gate_full_lets_in_whoever_waited_first_or_nobody_after_the_deadline() -> None:
    """Places are given back to those who wait; a deadline ends the wait; cancelling one who waits loses no place."""
    gate = backend.Gate(1)
    assert await gate.enter(time.monotonic() + 5)
    assert await gate.enter(time.monotonic() + 0.005) is False
    victim = asyncio.ensure_future(gate.enter(time.monotonic() + 5))
    waiting = asyncio.ensure_future(gate.enter(time.monotonic() + 5))
    await asyncio.sleep(0)
    victim.cancel()
    gate.leave()
    assert await waiting is True


async def test_run_body_of_asyncio_refuses_what_is_no_async_function() -> None:
    """A plain function would have run outside of what is awaited."""
    for body in (lambda t: None, 5):
        with pytest.raises(InvalidArgument, match="no async function"):
            await backend.run_body(body, None)  # type: ignore[arg-type]


def test_run_body_of_threads_refuses_an_async_function() -> None:
    """Its body would never run, and nothing would be committed."""

    async def body(t: object) -> None:
        """Never awaited."""

    with pytest.raises(InvalidArgument, match="no plain function"):
        sync.run_body(body, None)


def test_txn_call_larger_than_a_request_is_refused_before_it_is_sent() -> None:
    """Definitely nothing happens, and the error says how much may be sent at once."""
    operations = [Put(f"k{number}", bytes(1024 * 1024)).encoded() for number in range(5)]
    with pytest.raises(InvalidArgument, match="at most 4194304"):
        txn_call([], operations, [])
