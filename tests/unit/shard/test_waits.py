"""Who waits for what, and what wakes them."""

from __future__ import annotations

import pytest

from kvnode.errors import Unavailable
from kvnode.shard.waits import Waits


def tokens(replies: list[object]) -> list[object]:
    """Who was replied to."""
    return [reply.token for reply in replies]  # type: ignore[attr-defined]


@pytest.mark.parametrize(("applied", "holds_more", "woken"), [(5, False, []), (6, False, ["x"]), (5, True, ["x"])])
def test_waiter_for_a_change_is_woken_by_entries_and_held_writes(applied: int, holds_more: bool, woken: list[str]) -> None:
    """Whatever brought them: an entry, a snapshot, a peer. Once."""
    waits = Waits(5)
    waits.for_change("x")
    assert tokens(waits.released_by_state(applied, holds_more)) == woken  # type: ignore[arg-type]
    assert waits.released_by_state(applied, False) == []


def test_waiters_for_an_index_are_woken_when_it_is_applied() -> None:
    """Each with its own index."""
    waits = Waits(0)
    for token, index in (("a", 3), ("b", 1), ("c", 2)):
        waits.for_applied(index, token)
    assert [(r.token, r.result) for r in waits.released_by_state(2, False)] == [("b", 1), ("c", 2)]
    assert tokens(waits.released_by_state(3, False)) == ["a"]  # type: ignore[arg-type]


def test_waiters_for_a_leader_are_woken_by_another_view_only() -> None:
    """Another leader, another term, a handing-over that begins or ends."""
    waits = Waits(0)
    waits.for_leader("x")
    assert waits.released_by_leader(("", 0, False)) == []
    assert tokens(waits.released_by_leader(("a", 1, False))) == ["x"]  # type: ignore[arg-type]
    waits.for_leader("y")
    assert waits.released_by_leader(("a", 1, False)) == []
    assert tokens(waits.released_by_leader(("a", 1, True))) == ["y"]  # type: ignore[arg-type]


def test_waiters_for_anything_are_told_that_the_node_stops() -> None:
    """Nothing that they wait for will happen here."""
    waits, why = Waits(0), Unavailable("n1 is stopping")
    waits.for_applied(3, "a")
    waits.for_change("b")
    waits.for_end("c")
    waits.for_leader("d")
    assert [tuple(reply) for reply in waits.released_by_stop(why)] == [(token, why) for token in "abcd"]
    assert waits.released_by_stop(why) == []
    assert waits.released_by_state(9, True) == []


def test_waiter_that_went_away_is_forgotten_everywhere() -> None:
    """Callers that time out do not pile up."""
    waits = Waits(0)
    waits.for_change("x")
    waits.for_applied(1, "x")
    waits.for_leader("x")
    waits.forget("x")
    waits.forget("never there")
    assert waits.released_by_state(9, True) == []
    assert waits.released_by_stop(Unavailable("x")) == []


def test_waiters_for_an_end_are_woken_by_the_next_one_only() -> None:
    """Entries and held writes give no locks back; each waits for itself anew."""
    waits = Waits(0)
    waits.for_end("x")
    waits.for_end("y")
    assert waits.released_by_state(7, True, releases=0) == []
    assert [(r.token, r.result) for r in waits.released_by_state(8, False, releases=1)] == [("x", None), ("y", None)]
    assert waits.released_by_state(9, False, releases=2) == []


@pytest.mark.parametrize("releases", [3, 9])
def test_waiter_for_an_end_is_woken_by_whatever_changes_their_number(releases: int) -> None:
    """Several at once; and their count begins anew with a snapshot."""
    waits = Waits(0)
    waits.released_by_state(1, False, releases=5)
    waits.for_end("x")
    assert waits.released_by_state(1, False, releases=5) == []
    assert tokens(waits.released_by_state(1, False, releases=releases)) == ["x"]  # type: ignore[arg-type]


def test_waiter_for_an_end_that_went_away_is_forgotten() -> None:
    """And nobody else is: neither with it, nor by a leader that changes."""
    waits = Waits(0)
    waits.for_end("x")
    waits.for_end("y")
    waits.forget("x")
    assert waits.released_by_leader(("a", 1, False)) == []
    assert tokens(waits.released_by_state(1, False, releases=1)) == ["y"]  # type: ignore[arg-type]
