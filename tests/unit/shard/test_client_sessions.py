"""A retry executes nothing twice: each rule by an example. `test_client_sessions_random.py` plays all of them at random."""

from __future__ import annotations

import pytest

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import CompareFailed, InvalidRequest, SessionExpired
from kvnode.shard.client_sessions import IDLE, SKEW
from kvnode.shard.state_machine import WriteResult
from kvnode.shard.transactions import Locked
from tests.unit.shard.machine import (
    NOW,
    Command,
    Machine,
    RequestId,
    delete,
    get,
    part,
    put,
    replication_pb2,
    request,
    txn,
)

A, B, C = (bytes([number]) * 16 for number in range(3))


def write(
    machine: Machine, name: RequestId, value: bytes = b"v", if_revision: int | None = None, hlc: int = NOW, key: bytes = b"k"
) -> object:
    """A strong put under a client's name."""
    command = replication_pb2.PutCommand(key=key, value=value, if_revision=if_revision)
    return machine.do(Command(put=command), hlc, name)


def test_retry_of_a_write_is_answered_with_its_first_result() -> None:
    """Whatever has happened to the key since."""
    machine = Machine()
    assert write(machine, request(A, 1)) == WriteResult(1, False)
    machine.put(value=b"other")
    assert write(machine, request(A, 1)) == WriteResult(1, False)
    assert machine.value() == b"other"


def test_retry_of_a_delete_says_whether_it_found_the_key_first() -> None:
    """By now it is gone in any case."""
    machine = Machine()
    machine.put()
    command = Command(delete=replication_pb2.DeleteCommand(key=b"k"))
    assert machine.do(command, request=request(A, 1)) == WriteResult(2, True)
    machine = machine.reloaded()
    assert machine.do(command, request=request(A, 1)) == WriteResult(2, True)


def test_retry_of_a_failed_comparison_fails_as_before() -> None:
    """A failed comparison is a result: it would hold by now, and must not execute."""
    machine = Machine()
    first = write(machine, request(A, 1), if_revision=2)
    machine.put()
    machine.put()
    assert machine.version(b"k").revision == 3  # type: ignore[union-attr]
    for one in (machine, machine.reloaded()):
        again = write(one, request(A, 1), if_revision=3)
        assert isinstance(first, CompareFailed)
        assert isinstance(again, CompareFailed)
        assert (again.message, again.metadata) == (first.message, first.metadata)


def test_failed_comparison_answered_again_is_an_error_of_its_own() -> None:
    """Errors carry tracebacks: none is kept to be raised twice."""
    machine = Machine()
    write(machine, request(A, 1), if_revision=2)
    assert write(machine, request(A, 1)) is not write(machine, request(A, 1))


def test_retry_of_a_transaction_is_answered_with_its_first_response() -> None:
    """Also one whose response is empty: nothing compared equal, and there was nothing else to do."""
    machine = Machine()
    exists = kv_pb2.Compare(key=b"k", exists=True)
    one, nothing = part(put(), get()), part(compare=[exists])
    first = machine.transact(one, request=request(A, 1))
    assert machine.transact(part(compare=[kv_pb2.Compare(key=b"x", exists=True)]), request=request(A, 2)) == b""
    machine.delete()
    machine = machine.reloaded()
    assert machine.transact(one, request=request(A, 1)) == first
    machine.put(b"x")
    assert machine.transact(nothing, request=request(A, 2)) == b""
    assert machine.value() is None


def test_refused_write_tried_again_under_its_name_executes() -> None:
    """Refused is not executed: a lock was in the way, and now it is not."""
    machine = Machine()
    machine.prepare(txn(1), part(put()))
    assert write(machine, request(A, 1)) == Locked((txn(1),))
    machine.decide(txn(1), commit=False)
    assert write(machine, request(A, 1)) == WriteResult(4, False)


def test_transaction_whose_reads_are_too_large_tried_again_may_execute(monkeypatch: pytest.MonkeyPatch) -> None:
    """Refused for what it would return, it has changed nothing, and its name is free."""
    monkeypatch.setattr(limits, "TRANSACTION_RESULTS_SIZE_BYTES_MAX", 60)
    machine = Machine()
    machine.put(b"large", bytes(90))
    one = part(put(), get(b"large"))
    assert isinstance(machine.transact(one, request=request(A, 1)), Exception)
    assert machine.value() is None
    machine.delete(b"large")
    assert isinstance(machine.transact(one, request=request(A, 1)), bytes)
    assert machine.value() == b"t"


# ---- what is refused ------------------------------------------------------------------------------------------------


def test_request_acknowledged_before_is_refused_and_not_executed() -> None:
    """Its result is forgotten, so that nobody knows; the other results stay."""
    machine = Machine()
    for sequence in (1, 2, 3):
        write(machine, request(A, sequence, acknowledged=max(0, sequence - 2)))
    again = write(machine, request(A, 1), b"twice")
    assert isinstance(again, SessionExpired)
    assert machine.value() == b"v"
    assert write(machine, request(A, 2)) == WriteResult(2, True)


def test_request_below_a_full_window_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest eighth goes, and at least one; the rest is answered."""
    monkeypatch.setattr(limits, "CLIENT_RESULTS_PER_SESSION_MAX", 16)
    machine = Machine()
    for sequence in range(1, 18):
        write(machine, request(A, sequence))
    outcomes = [write(machine, request(A, sequence)) for sequence in range(1, 18)]
    assert [isinstance(outcome, SessionExpired) for outcome in outcomes] == [True] * 3 + [False] * 14


@pytest.mark.parametrize(("ahead", "refused"), [(SKEW, False), (SKEW + 1, True)])
def test_request_from_a_clock_too_far_ahead_is_refused(ahead: int, refused: bool) -> None:
    """It would keep its session's end, and the horizon, in the future."""
    machine = Machine()
    outcome = write(machine, request(A, 1, started=NOW + ahead))
    assert isinstance(outcome, SessionExpired) is refused
    assert machine.value() == (None if refused else b"v")


def test_session_beyond_the_bound_is_forgotten_and_its_retries_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """The longest idle goes; who starts anew with the clock that the error names goes on."""
    monkeypatch.setattr(limits, "CLIENT_SESSIONS_PER_SHARD_MAX", 2)
    machine = Machine()
    write(machine, request(A, 1, started=NOW), hlc=NOW)
    write(machine, request(B, 1, started=NOW + 1), hlc=NOW + 1)
    write(machine, request(A, 2, started=NOW + 2), hlc=NOW + 2)
    write(machine, request(C, 1, started=NOW + 3), hlc=NOW + 3)
    assert len(machine.clients) == 2
    refused = write(machine, request(B, 1, started=NOW + 1), hlc=NOW + 4)
    assert isinstance(refused, SessionExpired)
    clock = int(refused.metadata["clock"])
    assert write(machine, request(B, 2, started=clock), hlc=NOW + 5) == WriteResult(6, True)


def test_session_that_came_back_refuses_what_its_earlier_life_executed(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client's newer request makes the session known again; its older ones must not slip in behind it."""
    monkeypatch.setattr(limits, "CLIENT_SESSIONS_PER_SHARD_MAX", 1)
    machine = Machine()
    write(machine, request(A, 1, started=NOW), hlc=NOW)
    write(machine, request(B, 1, started=NOW + 1), hlc=NOW + 1)
    write(machine, request(A, 2, started=NOW + 2), b"new", hlc=NOW + 2)
    for one in (machine, machine.reloaded()):
        assert isinstance(write(one, request(A, 1, started=NOW), b"twice", hlc=NOW + 3), SessionExpired)
        assert one.value() == b"new"


def test_session_idle_for_long_is_forgotten_by_the_shards_time() -> None:
    """By the entries' stamps, no clock; at the very moment it is still known."""
    machine = Machine()
    write(machine, request(A, 1))
    assert write(machine, request(A, 1), hlc=NOW + IDLE) == WriteResult(1, False)
    assert isinstance(write(machine, request(A, 1), hlc=NOW + IDLE + 1), SessionExpired)
    assert (len(machine.clients), machine.clients.horizon) == (0, NOW)
    assert isinstance(write(machine.reloaded(), request(A, 1), hlc=NOW + IDLE + 1), SessionExpired)


def test_session_whose_clock_is_ahead_refuses_its_retry_once_forgotten() -> None:
    """Its activity counts from its own clock where that is later: else the retry would be above the horizon."""
    machine = Machine()
    write(machine, request(A, 1, started=NOW + SKEW))
    later = NOW + SKEW + IDLE + 1
    assert isinstance(write(machine, request(A, 1, started=NOW + SKEW), b"twice", hlc=later), SessionExpired)
    assert machine.value() == b"v"


def test_shards_time_goes_never_back_with_a_leaders_clock() -> None:
    """A new leader's clock may be behind: a session that was forgotten stays so."""
    machine = Machine()
    write(machine, request(A, 1))
    write(machine, request(B, 1, started=NOW + IDLE + 1), hlc=NOW + IDLE + 1)
    assert isinstance(write(machine, request(A, 1)), SessionExpired)


def test_results_of_all_clients_too_large_forget_the_longest_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of transactions may be large; the client that was active last keeps its own."""
    monkeypatch.setattr(limits, "CLIENT_RESULTS_SIZE_BYTES_MAX", 1_000)
    machine = Machine()
    machine.put(b"large", bytes(400))
    read = part(put(), get(b"large"))
    for name in (request(A, 1), request(B, 1)):
        machine.transact(read, NOW, name)
    assert isinstance(machine.transact(read, NOW, request(A, 1)), SessionExpired)
    machine = machine.reloaded()
    machine.transact(read, NOW, request(B, 2, started=NOW + 1))
    assert isinstance(machine.transact(read, NOW, request(B, 1)), bytes)
    assert len(machine.clients) == 1


def test_results_of_one_client_too_large_forget_its_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it is the only one; other clients lose nothing by it."""
    monkeypatch.setattr(limits, "CLIENT_RESULTS_PER_SESSION_SIZE_BYTES_MAX", 1_200)
    machine = Machine()
    machine.put(b"large", bytes(400))
    read = part(put(), get(b"large"))
    machine.transact(read, NOW, request(A, 1))
    for sequence in (1, 2):
        machine.transact(read, NOW, request(B, sequence))
    machine = machine.reloaded()
    machine.transact(read, NOW, request(B, 3))
    assert isinstance(machine.transact(read, NOW, request(B, 1)), SessionExpired)
    assert [isinstance(machine.transact(read, NOW, one), bytes) for one in (request(A, 1), request(B, 2), request(B, 3))] == [
        True
    ] * 3


def test_clock_of_a_refusal_is_above_the_horizon_and_the_shards_time() -> None:
    """A new request that carries it is neither too old nor too far ahead."""
    machine = Machine()
    write(machine, request(A, 1))
    refused = write(machine, request(A, 1), hlc=NOW + 2 * IDLE)
    assert isinstance(refused, SessionExpired)
    assert int(refused.metadata["clock"]) == NOW + 2 * IDLE
    assert refused.definite


# ---- transactions over several shards -------------------------------------------------------------------------------


def test_decision_of_an_executed_request_aborts_and_answers_what_was_executed() -> None:
    """The client's second attempt came under another transaction: its writes have no effect."""
    machine = Machine()
    first = kv_pb2.TxnResponse(succeeded=True, transaction_id="1").SerializeToString()
    machine.prepare(txn(1), part(put(value=b"first")))
    machine.decide(txn(1), request=request(A, 1), response=first)
    machine.prepare(txn(2), part(put(value=b"second")))
    decision = machine.decide(txn(2), request=request(A, 1), response=b"other")
    assert (decision.end.committed, decision.executed, decision.refused) == (False, first, None)  # type: ignore[attr-defined]
    assert (machine.value(), bool(machine.transactions.locks)) == (b"first", False)


def test_decision_of_an_expired_request_aborts_and_says_so() -> None:
    """Nobody can know whether it was executed: it is not executed now, and the locks go."""
    machine = Machine()
    machine.prepare(txn(1), part(delete()))
    decision = machine.decide(txn(1), request=request(A, 1, started=NOW + SKEW + 1))
    assert isinstance(decision.refused, SessionExpired)  # type: ignore[attr-defined]
    assert (decision.end.committed, bool(machine.transactions.locks)) == (False, False)  # type: ignore[attr-defined]


@pytest.mark.parametrize("if_revision", [None, 7])
def test_decision_of_a_request_that_was_no_transaction_is_refused(if_revision: int | None) -> None:
    """Its result is none of a transaction: tried again it would never end."""
    machine = Machine()
    write(machine, request(A, 1), if_revision=if_revision, key=b"other")
    machine.prepare(txn(1), part(put()))
    decision = machine.decide(txn(1), request=request(A, 1))
    assert isinstance(decision.refused, InvalidRequest)  # type: ignore[attr-defined]
    assert (decision.executed, machine.value(), bool(machine.transactions.locks)) == (None, None, False)  # type: ignore[attr-defined]


def test_request_of_a_transaction_that_was_aborted_may_be_tried_again() -> None:
    """Only what is committed is a result."""
    machine = Machine()
    machine.prepare(txn(1), part(put()))
    machine.decide(txn(1), commit=False)
    assert not machine.decide(txn(1), request=request(A, 1)).end.committed  # type: ignore[attr-defined]
    machine.prepare(txn(2), part(put()))
    assert machine.decide(txn(2), request=request(A, 1), response=b"r").end.committed  # type: ignore[attr-defined]
    assert machine.transact(part(), request=request(A, 1)) == b"r"


def test_repeated_decision_records_its_request_once() -> None:
    """The answer of the first stands, and no second result is counted."""
    machine = Machine()
    machine.prepare(txn(1), part(put()))
    machine.decide(txn(1), request=request(A, 1), response=b"r")
    before = machine.reloaded().rows()
    decision = machine.decide(txn(1), request=request(A, 1), response=b"other")
    assert decision.end.committed  # type: ignore[attr-defined]
    assert [row for row in machine.rows() if row[0][:1] == b"c"] == [row for row in before if row[0][:1] == b"c"]
