"""The stamps of heartbeats: only this life's own clock is believed. A node's goodbye: who hears it, and who is waited for."""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import failure_detection_pb2
from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE, NODE_STATE_FAILED, NODE_STATE_INACTIVE
from kvnode.errors import WrongCluster
from kvnode.protocol.failure_detection import FailureDetectionSettings, FailureDetector
from kvnode.runtime import heartbeats
from kvnode.runtime.heartbeats import LIVES, STAMP_BITS, Heartbeats
from kvnode.runtime.transport import PeerUnreachable


def life(incarnation: int) -> Heartbeats:
    """The stamping part of a node in this life."""
    made = Heartbeats.__new__(Heartbeats)
    made._envelopes = SimpleNamespace(incarnation=incarnation)  # type: ignore[assignment]
    return made


def test_stamp_of_this_life_is_a_time_not_after_it_was_made() -> None:
    """Milliseconds, rounded down: the bound may be too old, never too new."""
    made = life(7)
    heard = made._time_of(made._stamp(1234.5678))
    assert heard == 1234.567


def test_stamp_of_another_life_says_nothing() -> None:
    """After a reboot the monotonic clock begins anew; an echo of the life before would lie in the future for days."""
    before, after = life(7), life(8)
    assert after._time_of(before._stamp(900_000.0)) is None
    assert after._time_of(0) is None


def test_stamp_of_any_life_fits_its_field() -> None:
    """64 bits, also after a million restarts."""
    made = life(LIVES * 3 + 5)
    stamp = made._stamp(1e9)
    assert stamp < 1 << 64
    assert stamp >> STAMP_BITS == 5
    assert made._time_of(stamp) == 1e9


class Peers:
    """Heartbeats to n2 and n3, which answer when the test lets them."""

    def __init__(self) -> None:
        loop = asyncio.get_running_loop()
        self.detector = FailureDetector("n1", ["n2", "n3"], FailureDetectionSettings(), random.Random(1))
        self.state, self.news = NODE_STATE_ACTIVE, 0
        self.heard: list[tuple[str, int]] = []
        self.answers = {peer: asyncio.Event() for peer in ("n2", "n3")}
        self.unreachable: dict[str, None] = {}
        self.refusing: dict[str, None] = {}
        driver: Any = SimpleNamespace(loop=loop, wake=lambda shard: None, fatal=pytest.fail)
        envelopes: Any = SimpleNamespace(incarnation=1, seal=lambda peer, request: request)
        transport: Any = self
        self.heartbeats = Heartbeats(
            driver,
            {},
            {"n2": "", "n3": ""},
            envelopes,
            transport,
            self.detector,
            60.0,
            failure_detection_pb2.Progress,
            lambda: self.state,
            self._on_news,
        )

    def _on_news(self) -> None:
        self.news += 1
        self.detector.step(asyncio.get_running_loop().time())

    async def call(self, peer: str, request: failure_detection_pb2.HeartbeatRequest, timeout_s: float) -> Any:
        """The transport's part."""
        self.heard.append((peer, request.state))
        await self.answers[peer].wait()
        if peer in self.unreachable:
            raise PeerUnreachable(peer)
        if peer in self.refusing:
            raise WrongCluster(peer)
        answer = failure_detection_pb2.HeartbeatResponse(state=NODE_STATE_ACTIVE)
        answer.message.from_incarnation = 1
        return answer

    async def beaten(self) -> None:
        """Every peer has answered a heartbeat, and the next is due in a minute."""
        for answer in self.answers.values():
            answer.set()
        self.heartbeats.start()
        while any(self.detector.state(peer) != NODE_STATE_ACTIVE for peer in self.answers):
            await asyncio.sleep(0)
        for answer in self.answers.values():
            answer.clear()
        self.heard.clear()

    def say_goodbye(self) -> asyncio.Task[None]:
        """As a node that stops does."""
        self.state = NODE_STATE_INACTIVE
        self.heartbeats.say_goodbye()
        return asyncio.create_task(self.heartbeats.wait_heard(asyncio.get_running_loop().time() + 60))


async def test_greeting_is_waited_for_until_all_who_can_be_reached_have_heard_it() -> None:
    """Whoever refuses it has heard it, too."""
    peers = Peers()
    peers.heartbeats.start()
    greeted = asyncio.create_task(peers.heartbeats.wait_heard(asyncio.get_running_loop().time() + 60))
    peers.answers["n2"].set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not greeted.done()
    peers.refusing["n3"] = None
    peers.answers["n3"].set()
    await asyncio.wait_for(greeted, 5)
    await peers.heartbeats.stop()


async def test_goodbye_is_recorded_and_told_to_all_at_once_and_waited_for() -> None:
    """A minute before their next heartbeat would leave."""
    peers = Peers()
    await peers.beaten()
    news = peers.news
    told = peers.say_goodbye()
    assert (peers.news, peers.detector.state("n1")) == (news + 1, NODE_STATE_INACTIVE)
    while len(peers.heard) < 2:
        await asyncio.sleep(0)
    assert sorted(peers.heard) == [("n2", NODE_STATE_INACTIVE), ("n3", NODE_STATE_INACTIVE)]
    peers.answers["n2"].set()
    for _ in range(10):
        await asyncio.sleep(0)
    assert not told.done()
    peers.answers["n3"].set()
    await told
    await peers.heartbeats.stop()


async def test_goodbye_does_not_wait_for_who_cannot_be_reached_or_has_failed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor longer than a moment for who says nothing."""
    peers = Peers()
    await peers.beaten()
    monkeypatch.setattr(
        peers.detector, "state", {"n1": NODE_STATE_ACTIVE, "n2": NODE_STATE_ACTIVE, "n3": NODE_STATE_FAILED}.get
    )
    monkeypatch.setattr(heartbeats, "HEARD_WAIT_MAX", 60.0)
    peers.unreachable["n2"] = None
    told = peers.say_goodbye()
    peers.answers["n2"].set()
    await asyncio.wait_for(told, 5)
    monkeypatch.setattr(heartbeats, "HEARD_WAIT_MAX", 0.0)
    peers.answers["n2"].clear()
    await peers.say_goodbye()
    await peers.heartbeats.stop()
