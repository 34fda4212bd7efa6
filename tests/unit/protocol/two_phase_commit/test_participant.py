"""The two tables of what a shard knows of a transaction: what they say, and what they must never say."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode.invariant import InvariantViolated
from kvnode.protocol.two_phase_commit.participant import ANCHOR, PARTICIPANT, Event, State, Table, next_state

PREPARE, COMMIT, ABORT = Event.PREPARE, Event.COMMIT, Event.ABORT
KNOWN = (State.INIT, State.PREPARED, State.COMMITTED, State.ABORTED)


def after(table: Table, *events: Event) -> State:
    """The state after the events, from nothing."""
    state = State.INIT
    for event in events:
        state = next_state(table, state, event, "t")
    return state


@pytest.mark.parametrize("table", [PARTICIPANT, ANCHOR], ids=["participant", "anchor"])
def test_pair_that_is_not_in_the_table_breaks_an_invariant(table: Table) -> None:
    """Every other pair of a state and an event: the node stops rather than guess, and says about which transaction."""
    missing = [pair for pair in product(State, Event) if pair not in table]
    assert len(missing) + len(table) == len(State) * len(Event)
    for state, event in missing:
        with pytest.raises(InvariantViolated, match="transaction 7"):
            next_state(table, state, event, "transaction 7")


@pytest.mark.parametrize(
    ("table", "never"),
    [
        (PARTICIPANT, [(State.INIT, COMMIT), (State.COMMITTED, ABORT), (State.ABORTED, COMMIT)]),
        (ANCHOR, []),
    ],
    ids=["participant", "anchor"],
)
def test_states_that_a_shard_can_know_take_every_event_but_these(table: Table, never: list[tuple[State, Event]]) -> None:
    """A participant meets no COMMIT without its vote and no second decision that differs; an anchor takes all."""
    assert [pair for pair in product(KNOWN, (PREPARE, COMMIT, ABORT)) if pair not in table] == never
    assert all(state in KNOWN for pair, following in table.items() for state in (pair[0], following))


@pytest.mark.parametrize("table", [PARTICIPANT, ANCHOR], ids=["participant", "anchor"])
@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([PREPARE, COMMIT], State.COMMITTED),
        ([PREPARE, ABORT], State.ABORTED),
        ([ABORT, PREPARE], State.ABORTED),
        ([PREPARE, PREPARE], State.PREPARED),
        ([PREPARE, COMMIT, PREPARE, COMMIT], State.COMMITTED),
        ([PREPARE, ABORT, ABORT, PREPARE], State.ABORTED),
    ],
)
def test_shard_with_late_or_repeated_messages_stays_where_it_was(table: Table, events: list[Event], state: State) -> None:
    """A tombstone meets a late PREPARE; repeated messages change nothing."""
    assert after(table, *events) is state


@pytest.mark.parametrize(
    ("events", "state"),
    [
        ([PREPARE, COMMIT, ABORT], State.COMMITTED),
        ([PREPARE, ABORT, COMMIT], State.ABORTED),
        ([COMMIT], State.ABORTED),
        ([COMMIT, PREPARE, COMMIT], State.ABORTED),
        ([ABORT, COMMIT], State.ABORTED),
    ],
)
def test_anchor_asked_for_both_ends_keeps_its_first_decision(events: list[Event], state: State) -> None:
    """And commits nothing that it has not voted for itself."""
    assert after(ANCHOR, *events) is state


@given(st.lists(st.sampled_from(Event), max_size=12))
def test_anchor_once_decided_never_decides_otherwise(events: list[Event]) -> None:
    """Section 12.10, over every order of messages: ends are final, and COMMITTED needs a vote before it."""
    state, decided, voted = State.INIT, None, False
    for event in events:
        before, state = state, next_state(ANCHOR, state, event, "t")
        voted = voted or (before is State.INIT and event is PREPARE)
        if decided is not None:
            assert state is decided
        elif state in (State.COMMITTED, State.ABORTED):
            decided = state
            assert state is State.ABORTED or voted
