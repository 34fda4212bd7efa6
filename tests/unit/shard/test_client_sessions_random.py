"""Exactly once under arbitrary requests, retries, acknowledgements, evictions, idle times, and reloads."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvnode import limits
from kvnode.errors import CompareFailed, SessionExpired
from kvnode.shard import client_sessions
from kvnode.shard.client_sessions import RESULT_OVERHEAD_BYTES
from tests.unit.shard.machine import Command, Machine, RequestId, get, part, put, replication_pb2, request

BEGIN = 1_000
IDLE, SKEW = 15, 5
SESSIONS_MAX, RESULTS_MAX, SIZE_MAX = 2, 3, 5 * RESULT_OVERHEAD_BYTES
RESULT_SIZE_BYTES = RESULT_OVERHEAD_BYTES + 40
"""At most."""
SESSIONS = tuple(bytes([number]) * 16 for number in range(3))


class Step(NamedTuple):
    """A client sends a request, maybe again, at the leader's time of `passed` later."""

    session: bytes
    sequence: int
    acknowledged: int
    started: int
    passed: int
    kind: str
    reload: bool


STEPS = st.lists(
    st.builds(
        Step,
        session=st.sampled_from(SESSIONS),
        sequence=st.integers(1, 6),
        acknowledged=st.integers(0, 3),
        started=st.integers(-20, SKEW + 2),
        passed=st.sampled_from([0, 0, 1, 3, IDLE, -2]),
        kind=st.sampled_from(["put", "compare", "transact"]),
        reload=st.booleans(),
    ),
    max_size=40,
)


@dataclass
class Life:
    """One life of a session, as its requests show it: from its first one to its being forgotten."""

    kept: object
    """What the shard has of it."""
    after: int
    active_at: int = 0
    acknowledged: int = 0
    executed: list[int] = field(default_factory=list)


class Clients:
    """Clients who send the same request in every attempt, and what they may expect."""

    def __init__(self) -> None:
        self.now = BEGIN
        self.time = self.horizon = 0
        self.first: dict[tuple[bytes, int], tuple[int, str]] = {}
        self.results: dict[tuple[bytes, int], object] = {}
        self.lives: dict[bytes, Life] = {}

    def request(self, step: Step) -> tuple[RequestId, str]:
        """The request's name, and what it does: both as in its first attempt."""
        self.now += step.passed
        self.time = max(self.time, self.now)
        started, kind = self.first.setdefault((step.session, step.sequence), (self.now + step.started, step.kind))
        return request(step.session, step.sequence, min(step.acknowledged, step.sequence - 1), started), kind

    def check(self, machine: Machine, name: RequestId, outcome: object, changed: bool) -> None:
        """The promises, after one attempt; `changed`: it wrote."""
        key = (name.session, name.sequence)
        refused = isinstance(outcome, SessionExpired)
        executes = key not in self.results and not refused
        assert changed == (executes and not isinstance(outcome, CompareFailed)), "executed, or not, against its outcome"
        if key in self.results:
            assert refused or shown(outcome) == shown(self.results[key])
        horizon = self.horizon
        self._check_forgotten(machine, name.session if executes else None)
        life = self.lives.get(name.session) or self._begin(machine, name.session, horizon)
        if executes:
            self.results[key] = outcome
            life.active_at = max(life.active_at, self.time, name.started)
            life.acknowledged = max(life.acknowledged, name.acknowledged)
            life.executed.append(name.sequence)
            self.lives[name.session] = life
        elif refused and key not in self.results:
            too_old = name.started <= life.after or name.sequence <= getattr(life.kept, "forgotten", 0)
            assert too_old or name.started > self.time + SKEW, "a fresh request was refused without need"

    def _begin(self, machine: Machine, session: bytes, horizon: int) -> Life:
        """A new life remembers the horizon of its beginning: after the idle have gone, and before it displaces another."""
        kept = machine.clients._sessions.get(session)
        after = self.horizon if kept is None else kept.after
        assert horizon <= after <= self.horizon
        return Life(kept, after)

    def _check_forgotten(self, machine: Machine, executing: bytes | None) -> None:
        """Sessions go only when they are idle, or too many with the one that executes now, or too large."""
        results = sum(len(life.executed) for life in self.lives.values()) + (executing is not None)
        sessions = len(self.lives) + (executing is not None and executing not in self.lives)
        over = sessions > SESSIONS_MAX or results * RESULT_SIZE_BYTES > SIZE_MAX
        for session, life in list(self.lives.items()):
            if machine.clients._sessions.get(session) is not life.kept:
                assert over or life.active_at + IDLE < self.time, "forgotten without need"
                self.horizon = max(self.horizon, life.active_at)
                del self.lives[session]

    def check_whole(self, machine: Machine) -> None:
        """What the shard remembers is what the lives say, and within its bounds."""
        clients = machine.clients
        assert sorted(clients._sessions) == sorted(self.lives)
        assert clients.horizon == self.horizon
        assert len(clients) <= SESSIONS_MAX
        for session, life in self.lives.items():
            kept = clients._sessions[session]
            assert (kept.after, kept.active_at) == (life.after, life.active_at)
            assert life.acknowledged <= kept.forgotten <= max([life.acknowledged, *life.executed])
            assert set(kept.results) == {sequence for sequence in life.executed if sequence > kept.forgotten}
            assert len(kept.results) <= RESULTS_MAX


def shown(result: object) -> object:
    """What the client sees of a result."""
    return (result.message, result.metadata) if isinstance(result, CompareFailed) else result


def command(kind: str) -> Command:
    """A write of key "k": it takes effect at its own index, or compares in vain."""
    if kind == "transact":
        return Command(transact=replication_pb2.TransactCommand(part=part(put(), get())))
    expected = 999 if kind == "compare" else None
    return Command(put=replication_pb2.PutCommand(key=b"k", value=b"v", if_revision=expected))


@given(STEPS)
def test_requests_sent_any_number_of_times_execute_at_most_once(steps: list[Step]) -> None:
    """Nor is a fresh request refused but where the docs say so; a replica that reloads whenever ends with equal rows."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(client_sessions, "IDLE", IDLE)
        patch.setattr(client_sessions, "SKEW", SKEW)
        patch.setattr(limits, "CLIENT_SESSIONS_PER_SHARD_MAX", SESSIONS_MAX)
        patch.setattr(limits, "CLIENT_RESULTS_PER_SESSION_MAX", RESULTS_MAX)
        patch.setattr(limits, "CLIENT_RESULTS_SIZE_BYTES_MAX", SIZE_MAX)
        patch.setattr(limits, "CLIENT_RESULTS_PER_SESSION_SIZE_BYTES_MAX", SIZE_MAX // 2)
        live, other, clients = Machine(), Machine(), Clients()
        for machine in (live, other):
            machine.put(hlc=BEGIN)
        for step in steps:
            name, kind = clients.request(step)
            before = live.version(b"k")
            outcome = live.do(command(kind), clients.now, name)
            assert shown(other.do(command(kind), clients.now, name)) == shown(outcome) or isinstance(outcome, SessionExpired)
            clients.check(live, name, outcome, live.version(b"k") != before)
            clients.check_whole(live)
            if step.reload:
                other = other.reloaded()
        assert live.state_hash == other.state_hash
        assert live.rows() == other.rows()
