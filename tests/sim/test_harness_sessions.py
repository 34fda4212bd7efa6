"""The checks of what sessions are promised: each fires, and the one excuse excuses no more than it says."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest

from tests.sim.history import EventualState, EventualWrite
from tests.sim.session_guarantees import check_read_your_writes, check_writes_follow_reads
from tests.sim.witness import Stamped, Witness

FIRST, SECOND = "0.n1.1.1", "0.n2.1.1"


def _world(stamps: dict[str, Stamped], token_cut_down: tuple[str, ...] = ()) -> Any:
    applied = [SimpleNamespace(operation_id=name, hlc=stamped.counted) for name, stamped in stamps.items()]
    witness: Any = SimpleNamespace(stamps=stamps, applied={0: {1: applied}}, _token_cut_down=dict.fromkeys(token_cut_down))
    witness.was_cut_down = lambda operation: Witness.was_cut_down(witness, operation)
    return SimpleNamespace(witness=witness, nodes={}, counts=Counter())


def _read(**changes: Any) -> Any:
    told = {"key": b"p", "at": 1.0, "expected": 2, "seen": 1, "tentative": True, "node": "n1", "revision": 0}
    return SimpleNamespace(**(told | changes))


def _workload(read: Any, state: EventualState = EventualState.APPLIED) -> Any:
    writes = [
        SimpleNamespace(operation=SimpleNamespace(key=b"p"), number=number, operation_id=name)
        for number, name in enumerate((FIRST, SECOND), 1)
    ]
    outcome = EventualWrite(SECOND, b"p", True, state, 7)
    return SimpleNamespace(eventual=writes, session_reads=[read], outcome_of=lambda _: outcome)


@pytest.mark.parametrize(
    ("first", "second", "cut_down"),
    [
        (Stamped(10, 10), Stamped(11, 11), ()),
        (Stamped(11, 11), Stamped(10, 10), ()),
        (Stamped(10, 10), Stamped(11, 11), (SECOND,)),
    ],
    ids=["earlier clock", "later clock without a reason", "cut down and later all the same"],
)
def test_session_that_misses_its_write_is_found(first: Stamped, second: Stamped, cut_down: tuple[str, ...]) -> None:
    """A read shows the session's first write although the second was acknowledged."""
    found = check_read_your_writes(_world({FIRST: first, SECOND: second}, cut_down), _workload(_read()))
    assert [violation.rule for violation in found] == ["read your writes"]


@pytest.mark.parametrize(
    ("first", "second", "cut_down"),
    [(Stamped(11, 11), Stamped(11, 11), (SECOND,)), (Stamped(50, 20), Stamped(60, 20), ())],
    ids=["the session's clock was cut down", "the write's clock was cut down"],
)
def test_session_whose_clock_was_too_far_ahead_is_excused(first: Stamped, second: Stamped, cut_down: tuple[str, ...]) -> None:
    """The second write's clock was cut down to what nodes tolerate, and the first has the later one."""
    assert not check_read_your_writes(_world({FIRST: first, SECOND: second}, cut_down), _workload(_read()))


def test_session_that_reads_a_state_behind_its_write_passes() -> None:
    """Somebody's later write may be shown; what was read includes the session's own."""
    world = _world({FIRST: Stamped(10, 10), SECOND: Stamped(11, 11)})
    assert not check_read_your_writes(world, _workload(_read(tentative=False, revision=8)))


def test_session_write_with_an_earlier_clock_than_what_it_saw_is_found() -> None:
    """A session's write comes after what the session has read; unless its clock was cut down."""
    workload: Any = SimpleNamespace(following=[(SimpleNamespace(operation_id=SECOND, client="c1"), 12)])
    found = check_writes_follow_reads(_world({SECOND: Stamped(12, 12)}), workload)
    assert [violation.rule for violation in found] == ["a session's writes follow its reads"]
    assert not check_writes_follow_reads(_world({SECOND: Stamped(13, 13)}), workload)
    assert not check_writes_follow_reads(_world({SECOND: Stamped(12, 12)}, (SECOND,)), workload)
