"""One transaction's coordinator: what it asks for, when, and what it never asks for."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.invariant import InvariantViolated
from kvnode.protocol.two_phase_commit.coordinator import (
    TRANSITIONS,
    Action,
    Coordinator,
    Decide,
    Event,
    Forget,
    Prepare,
    Resolve,
)
from kvnode.protocol.two_phase_commit.participant import State
from kvnode.types import Txn

TXN = Txn(7, b"t")
SHARDS = (1, 2, 5)
ABORTS = tuple(Resolve(shard, False, False, 0) for shard in SHARDS)


def coordinator(*, prepared: bool = False, matched: bool = True) -> Coordinator:
    """Of three shards, shard 2 the anchor; all have voted yes, if `prepared`."""
    machine = Coordinator(TXN, 2, SHARDS)
    machine.begin()
    if prepared:
        for shard in SHARDS:
            machine.on_yes(shard, matched)
    return machine


def in_state(state: State) -> Coordinator:
    """A coordinator in that state, the shortest way."""
    if state is State.INIT:
        return Coordinator(TXN, 2, SHARDS)
    machine = coordinator(prepared=state not in (State.PREPARING, State.ABORTED))
    if state is State.ABORTED:
        machine.on_no("first")
    elif state is State.FAILED:
        machine.on_decision_lost()
    elif state in (State.COMMITTING, State.COMMITTED):
        machine.on_decided(True, 99)
        for shard in SHARDS if state is State.COMMITTED else ():
            machine.on_resolved(shard)
    assert machine.state is state
    return machine


def test_transaction_with_every_yes_is_prepared_decided_resolved_and_forgotten() -> None:
    """All shards are asked at once, then the anchor, then the others; the anchor forgets when all have applied the end."""
    machine = Coordinator(TXN, 2, SHARDS)
    assert machine.begin() == (Prepare(1), Prepare(2), Prepare(5))
    assert (machine.on_yes(5, True), machine.on_yes(1, True), machine.state) == ((), (), State.PREPARING)
    assert machine.on_yes(2, True) == (Decide(True),)
    assert machine.on_decided(True, 99) == (Resolve(1, True, True, 99), Resolve(5, True, True, 99))
    assert (machine.on_resolved(5), machine.state) == ((), State.COMMITTING)
    assert (machine.on_resolved(1), machine.state) == ((Forget(),), State.COMMITTED)


def test_transaction_with_a_comparison_that_fails_commits_its_other_branch() -> None:
    """One shard's comparison is enough; the branch is in the decision and in every end."""
    machine = coordinator()
    machine.on_yes(1, True)
    machine.on_yes(2, False)
    assert machine.on_yes(5, True) == (Decide(False),)
    assert machine.on_decided(True, 9) == (Resolve(1, True, False, 9), Resolve(5, True, False, 9))


def test_transaction_of_one_shard_is_forgotten_with_its_decision() -> None:
    """The anchor applied its own part with the decision: nobody else is to be told."""
    machine = Coordinator(TXN, 3, [3])
    machine.begin()
    assert machine.on_yes(3, True) == (Decide(True),)
    assert (machine.on_decided(True, 9), machine.state) == ((Forget(),), State.COMMITTED)


def test_anchor_that_takes_no_part_breaks_an_invariant() -> None:
    """COMMIT needs the anchor's own vote."""
    with pytest.raises(InvariantViolated):
        Coordinator(TXN, 9, SHARDS)


@pytest.mark.parametrize("voted", [(), (1,), (1, 5)])
def test_transaction_with_one_no_is_aborted_everywhere(voted: tuple[int, ...]) -> None:
    """Also where no vote came from: the tombstone meets a PREPARE that comes late. The first reason stays."""
    machine = coordinator()
    for shard in voted:
        machine.on_yes(shard, True)
    assert machine.on_no("locked") == ABORTS
    assert (machine.state, machine.why) == (State.ABORTED, "locked")
    assert (machine.on_no("again"), machine.on_yes(2, True), machine.why) == ((), (), "locked")


def test_vote_repeated_by_one_shard_counts_once() -> None:
    """A shard asked twice votes twice."""
    machine = coordinator()
    assert [machine.on_yes(1, True) for _ in range(3)] == [(), (), ()]
    assert machine.state is State.PREPARING
    assert [machine.has_voted(shard) for shard in SHARDS] == [True, False, False]


@pytest.mark.parametrize("state", [State.PREPARING, State.PREPARED])
def test_transaction_out_of_time_before_commit_was_asked_is_aborted(state: State) -> None:
    """No COMMIT can be in the anchor's log."""
    machine = in_state(state)
    assert machine.on_out_of_time("late") == ABORTS
    assert (machine.state, machine.why) == (State.ABORTED, "late")


def test_transaction_whose_decision_is_lost_says_nothing_any_more() -> None:
    """COMMIT may be in the anchor's log, or not: to abort now could contradict it."""
    machine = coordinator(prepared=True)
    assert (machine.on_decision_lost(), machine.state) == ((), State.FAILED)
    assert (machine.on_out_of_time("late"), machine.on_decided(False, 0), machine.on_no("no")) == ((), (), ())
    assert machine.state is State.FAILED


def test_transaction_that_the_anchor_aborted_is_aborted_everywhere() -> None:
    """Somebody pushed it; the others hold locks."""
    machine = coordinator(prepared=True)
    assert machine.on_decided(False, 0, "pushed") == ABORTS
    assert (machine.state, machine.why) == (State.ABORTED, "pushed")


EVENTS = {
    "yes": (lambda machine: machine.on_yes(1, True), [State.PREPARING]),
    "no": (lambda machine: machine.on_no("why"), [State.PREPARING]),
    "out of time": (lambda machine: machine.on_out_of_time("why"), [State.PREPARING, State.PREPARED]),
    "committed": (lambda machine: machine.on_decided(True, 5), [State.PREPARED]),
    "aborted": (lambda machine: machine.on_decided(False, 0, "why"), [State.PREPARED]),
    "decision lost": (lambda machine: machine.on_decision_lost(), [State.PREPARED]),
    "resolved": (lambda machine: machine.on_resolved(1), [State.COMMITTING]),
}


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("state", State)
def test_event_that_is_late_in_a_state_changes_nothing(event: str, state: State) -> None:
    """Messages come late and twice: where an event means nothing it asks for nothing, and leaves state and reason."""
    feed, meant_in = EVENTS[event]
    if state in meant_in:
        return
    machine = in_state(state)
    why = machine.why
    assert feed(machine) == ()
    assert (machine.state, machine.why) == (state, why)


def test_coordinator_begun_twice_breaks_an_invariant() -> None:
    """A transition that is not in the table cannot be."""
    with pytest.raises(InvariantViolated):
        coordinator().begin()


FEEDS = st.lists(st.tuples(st.sampled_from(list(EVENTS)), st.sampled_from(SHARDS), st.booleans()), max_size=20)


def feed(machine: Coordinator, event: str, shard: int, flag: bool, resolving: set[int]) -> tuple[Action, ...]:
    """One event; a shard has resolved only what it was told."""
    if event == "yes":
        return machine.on_yes(shard, flag)
    if event == "resolved":
        return machine.on_resolved(shard) if shard in resolving else ()
    return EVENTS[event][0](machine)


@given(FEEDS)
def test_coordinator_under_any_events_asks_to_commit_only_with_every_yes(events: list[tuple[str, int, bool]]) -> None:
    """And tells nobody COMMITTED before the anchor said so, forgets only what all applied, and moves by the table alone."""
    machine = Coordinator(TXN, 2, SHARDS)
    machine.begin()
    moves = {(before, after) for (before, _), after in TRANSITIONS.items()}
    yes, resolved, resolving = dict[int, bool](), {2}, set[int]()
    anchor_said_commit = decided = False
    for event, shard, flag in events:
        before = machine.state
        actions = feed(machine, event, shard, flag, resolving)
        if event == "yes" and before is State.PREPARING:
            yes[shard] = flag
        anchor_said_commit = anchor_said_commit or (event == "committed" and before is State.PREPARED)
        if event == "resolved" and shard in resolving:
            resolved.add(shard)
        assert before is machine.state or (before, machine.state) in moves
        for action in actions:
            if isinstance(action, Decide):
                assert (sorted(yes), decided) == (list(SHARDS), False)
                assert action.succeeded == all(yes.values())
                decided = True
            elif isinstance(action, Resolve):
                assert action.commit == anchor_said_commit
                assert not action.commit or (action.shard != 2 and action.succeeded == all(yes.values()))
                resolving.add(action.shard)
            elif isinstance(action, Forget):
                assert anchor_said_commit
                assert resolved == set(SHARDS)


def test_transitions_of_every_event_are_in_one_table() -> None:
    """Every state but INIT is reached by the table, ends have no way out, and every event is in it."""
    reached = set(TRANSITIONS.values())
    assert reached == set(State) - {State.INIT}
    assert {event for _, event in TRANSITIONS} == set(Event)
    ends = {State.COMMITTED, State.ABORTED, State.FAILED}
    assert not [pair for pair in product(ends, Event) if pair in TRANSITIONS]
