"""The demo's plot, on a fake playground: the acts go through, and a cluster that breaks a promise is found out."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from kvctl import demo as demo_module
from kvctl.demo import Demo
from kvctl.demo_story import Story
from kvctl.demo_transfers import Transfers
from kvctl.playground import Playground
from tests.unit.kvctl.admin_cluster import AdminCluster, serving


class FakePlayground:
    """What the demo asks of a playground, done to a fake cluster: nodes that are away lead nothing, and a lone node has to
    keep eventual writes to itself.
    """

    def __init__(self, cluster: AdminCluster, do: Callable[[Any], Any]) -> None:
        self.cluster, self._do = cluster, do
        self.names, self.shards, self.uri = list(cluster.nodes), len(cluster.shards), cluster.uri
        self._away: set[str] = set()

    @property
    def nodes(self) -> list[SimpleNamespace]:
        """All nodes."""
        return [self.node(name) for name in self.names]

    def node(self, name: str) -> SimpleNamespace:
        """A node."""
        return SimpleNamespace(name=name, address=self.cluster.nodes[name].address, pid=1)

    def up(self) -> list[str]:
        """The fake cluster serves already."""
        return self.names

    def kill(self, name: str) -> float:
        """Connections break, the others elect."""
        self._do(self.cluster.nodes[name].stop())
        self._leave(name)
        return 0.0

    def start(self, name: str) -> float:
        """The node listens again."""
        self._do(self.cluster.nodes[name].start())
        self.resume(name)
        return 0.0

    def pause(self, name: str) -> None:
        """To the others a frozen node is away."""
        self._leave(name)

    def resume(self, name: str) -> None:
        """The node is back: whoever has a majority elects, and what waited gets its place in the log."""
        self._away.discard(name)
        self._elect()
        if not self._away:
            self.cluster.holds_eventual = False
            self.cluster.settle()

    def wait_caught_up(self, name: str, timeout_s: float) -> float:
        """Replicas of the fake cluster do not lag."""
        return 0.0

    def _leave(self, name: str) -> None:
        self._away.add(name)
        self._elect()

    def _elect(self) -> None:
        there = [name for name in self.names if name not in self._away]
        self.cluster.holds_eventual = len(there) < 2
        for shard in self.cluster.shards:
            if len(there) < 2:
                self.cluster.elect(shard.number, None)
            elif self.cluster.leaders[shard.number] not in there:
                self.cluster.elect(shard.number, there[shard.number % len(there)])


@pytest.fixture
def playground(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakePlayground]:
    """A fake playground, and a plot in a hurry."""
    for name in ("STEADY_S", "DOWN_S", "AFTER_S"):
        monkeypatch.setattr(demo_module, name, 0.15)
    cluster = AdminCluster()
    with serving(cluster) as do:
        yield FakePlayground(cluster, do)


def play(playground: FakePlayground) -> tuple[Demo, str]:
    """One run: the demo, and what it told."""
    text = io.StringIO()
    demo = Demo(cast(Playground, playground), Story(Console(file=text, width=110)))
    asyncio.run(demo.run())
    return demo, text.getvalue()


def test_demo_on_a_cluster_that_keeps_its_promises_tells_the_whole_story(playground: FakePlayground) -> None:
    """Every act happens, every claim holds, and the figures say what the text says."""
    demo, text = play(playground)
    assert demo.story.held, text
    words_of_acts = ("kill -9", "comes back", "all reported success", "tentative", "superseded")
    for words in (*words_of_acts, "none lost", "same state hash", "p99"):
        assert words in text
    figures = demo.figures.values
    assert figures["strong_lost"] == figures["eventual_lost"] == figures["stale_strong_reads"] == 0
    assert (figures["island_state"], figures["contested_state"]) == ("APPLIED", "SUPERSEDED")
    assert figures["crash_gap_busy_s"] > 0
    assert figures["transfers"] > 1
    assert figures["audits"] > 1
    assert figures["transfers_struck_s"]
    assert figures["audits_wrong"] == len(figures["transfers_without_success"]) == 0
    assert {(row["operation"], row["consistency"]) for row in figures["latency"]} == {
        *(("put", "strong"), ("get", "strong")),
        *(("put", "eventual"), ("get", "eventual")),
    }


def test_demo_on_a_cluster_that_loses_a_write_fails(playground: FakePlayground, monkeypatch: pytest.MonkeyPatch) -> None:
    """An acknowledged write that is gone is named, and the demo does not hold."""
    verify = Demo.verify

    async def forget_then_verify(demo: Demo, client: Any, load: Any) -> None:
        key = next(iter(load.ledger.strong))
        for shard in playground.cluster.shards:
            shard.tables[-1].pop(key, None)
        await verify(demo, client, load)

    monkeypatch.setattr(Demo, "verify", forget_then_verify)
    demo, text = play(playground)
    assert not demo.story.held
    assert "1 lost, as load/" in text
    assert demo.figures.values["strong_lost"] == 1


def test_demo_on_a_cluster_that_does_not_converge_fails(playground: FakePlayground, monkeypatch: pytest.MonkeyPatch) -> None:
    """An eventual write that stays pending is a broken claim, after a bounded wait."""
    monkeypatch.setattr("kvctl.demo_checks.CONVERGENCE_TIMEOUT_S", 0.1)
    monkeypatch.setattr(playground.cluster, "settle", lambda: None)
    demo, _ = play(playground)
    assert not demo.story.held
    assert demo.figures.values["island_state"] == "PENDING"


def test_demo_on_a_cluster_that_moves_money_by_half_fails(playground: FakePlayground, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sum that is wrong, and a transfer that reports no success, are broken claims that say how."""
    audit = Demo.audit

    async def spoil_then_audit(demo: Demo, transfers: Transfers) -> None:
        transfers.wrong_sums.append(7)
        transfers.book[0] = transfers.book[0]._replace(reported="COMPARE_FAILED")
        await audit(demo, transfers)

    monkeypatch.setattr(Demo, "audit", spoil_then_audit)
    demo, text = play(playground)
    assert not demo.story.held
    assert "1 saw another sum, as 7" in text
    assert "1 ended with COMPARE_FAILED" in text
