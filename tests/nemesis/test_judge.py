"""The judge can fail: histories of an honest store pass, and each way to lie is found."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest

import kvclient
from kvclient import OperationState, errors
from tests.sim.history import Outcome

from . import check, single_keys
from .bank import ACCOUNTS, BALANCE, accounts
from .judge import judge
from .record import History, Op, Recorder, load
from .single_keys import Register

OK, FAILED, UNKNOWN = Outcome.OK, Outcome.FAILED, Outcome.UNKNOWN


class Script:
    """A history made by hand: each operation is answered at once."""

    def __init__(self) -> None:
        self.file = io.StringIO()
        self.recorder = Recorder(self.file, {"seed": "test", "seconds": 1.0, "nodes": 3, "shards": 4, "faults": ["kill"]})

    def op(self, workload: str, op: str, key: str, value: Any = None, outcome: Outcome = OK, **facts: Any) -> Op:
        """One operation, invoked and answered. `written`: what it was asked to write, where that is not `value`."""
        made = self.recorder.invoke(workload, "c1", op, key, facts.pop("written", value))
        self.recorder.answer(made, outcome, **({"value": value} | facts))
        return made

    def put(self, key: str, value: str, revision: int | None, outcome: Outcome = OK) -> Op:
        """A strong write of the register."""
        return self.op("register", "put", key, value, outcome, revision=revision)

    def get(self, key: str, value: str | None, revision: int | None = None) -> Op:
        """A strong read of the register."""
        return self.op("register", "get", key, value, found=value is not None, revision=revision)

    def rules(self) -> list[str]:
        """What the judge says, of the file as it would be read again."""
        self.recorder.end()
        return [failure.rule for failure in judge(load(self.file.getvalue().splitlines()))]


# --- registers ---------------------------------------------------------------------------------------------------------


def test_register_honest_history_passes() -> None:
    """Writes, reads of them, a refusal, and an unknown write that turned up late."""
    script = Script()
    script.put("k", "a", 1)
    script.get("k", "a", 1)
    script.put("k", "b", None, UNKNOWN)
    script.put("k", "c", None, FAILED)
    script.get("k", "a", 1)
    script.get("k", "b", 3)
    assert script.rules() == []


def test_register_lost_acknowledged_write_is_found() -> None:
    """Acknowledged, and then not there."""
    script = Script()
    script.put("k", "a", 1)
    script.get("k", None)
    assert "not linearizable" in script.rules()


def test_register_stale_read_is_found_and_its_window_is_small() -> None:
    """A read of what an acknowledged write has replaced; the report has only the operations that show it."""
    script = Script()
    for number in range(1, 40):
        script.put("k", f"v{number}", number)
        script.get("k", f"v{number}", number)
    script.get("k", "v38", 38)
    script.recorder.end()
    failures = judge(script.recorder.history)
    (found,) = [failure for failure in failures if failure.rule == "not linearizable"]
    assert "key b'k'" in found.message
    assert len(found.message.splitlines()) < 8


def test_register_refused_write_that_is_read_is_found() -> None:
    """The client said that it definitely did not happen."""
    script = Script()
    script.put("k", "a", None, FAILED)
    script.get("k", "a", 1)
    assert "not linearizable" in script.rules()


def test_compare_and_set_two_winners_of_one_revision_are_found() -> None:
    """Both replaced the same revision."""
    script = Script()
    script.op("cas", "put", "k", "a", revision=1, expected=0)
    script.op("cas", "put", "k", "b", revision=2, expected=1)
    script.op("cas", "put", "k", "c", revision=3, expected=1)
    assert "not linearizable" in script.rules()


def test_register_undecided_search_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    """Out of steps is not innocent."""
    monkeypatch.setattr(single_keys, "STEPS_MAX", 1)
    script = Script()
    script.put("k", "a", 1)
    script.put("k", "b", 2)
    assert script.rules() == ["undecided"]


# --- the set -----------------------------------------------------------------------------------------------------------


def test_set_honest_history_passes() -> None:
    """Acknowledged elements are listed, refused ones are not, an unknown one turns up and stays."""
    script = Script()
    script.op("set", "add", "set/1/", "a")
    script.op("set", "add", "set/1/", "b", FAILED)
    script.op("set", "add", "set/1/", "c", UNKNOWN)
    script.op("set", "read", "set/1/", ["a"])
    script.op("set", "read", "set/1/", ["a", "c"])
    script.op("set", "read", "set/1/", ["a", "c"], final=True)
    assert script.rules() == []


@pytest.mark.parametrize(
    ("lists", "rule"),
    [
        ([["c"]], "an acknowledged element is lost"),
        ([["a", "c"], ["a"]], "a seen element is gone"),
        ([["a", "b"]], "what was definitely refused did happen"),
        ([["a", "d"]], "an element was added by somebody"),
        ([["a", "a"]], "a list has each element once"),
    ],
)
def test_set_list_that_lies_is_found(lists: list[list[str]], rule: str) -> None:
    """One list too short or too long."""
    script = Script()
    script.op("set", "add", "set/1/", "a")
    script.op("set", "add", "set/1/", "b", FAILED)
    script.op("set", "add", "set/1/", "c", UNKNOWN)
    for listed in lists:
        script.op("set", "read", "set/1/", listed)
    assert script.rules() == [rule]


# --- the bank ----------------------------------------------------------------------------------------------------------


class BankScript(Script):
    """A bank that keeps its books; tests falsify them."""

    def __init__(self) -> None:
        super().__init__()
        self.state = dict.fromkeys(accounts(0), (f"{BALANCE} open", 1))
        writes = {key: value for key, (value, _) in self.state.items()}
        more = {"writes": writes, "revisions": dict.fromkeys(writes, 1), "reads": {key: [None, 0] for key in writes}}
        self.op("bank", "open", "bank/0", found=True, more=more)

    def transfer(self, mark: str, amount: int, *, outcome: Outcome = OK, executes: bool = True) -> None:
        """From the first account to the second."""
        source, target = accounts(0)[:2]
        before = {key: list(self.state[key]) for key in (source, target)}
        revision = max(revision for _, revision in self.state.values()) + 1
        writes = {key: f"{int(before[key][0].split()[0]) + sign * amount} {mark}" for key, sign in ((source, -1), (target, 1))}
        more: dict[str, Any] = {"writes": writes, "expected": {key: seen for key, (_, seen) in before.items()}}
        if outcome is OK:
            more |= {"revisions": dict.fromkeys(writes, revision), "reads": before}
        self.op("bank", "transfer", "bank/0", amount, outcome, found=True if outcome is OK else None, more=more)
        if executes:
            self.state |= {key: (value, revision) for key, value in writes.items()}

    def audit(self, change: Callable[[dict[str, tuple[str, int]]], None] = lambda state: None) -> None:
        """All accounts, as they are, or as `change` makes them."""
        state = dict(self.state)
        change(state)
        reads = {key: list(seen) for key, seen in state.items()}
        self.op("bank", "audit", "bank/0", more={"writes": {}, "reads": reads})


def test_bank_honest_history_passes() -> None:
    """Transfers with every outcome, and what really happened."""
    script = BankScript()
    script.transfer("t1", 10)
    script.audit()
    script.transfer("t2", 5, outcome=FAILED, executes=False)
    script.transfer("t3", 7, outcome=UNKNOWN)
    script.transfer("t4", 1)
    script.audit()
    script.transfer("t5", 9, outcome=UNKNOWN, executes=False)
    script.audit()
    assert script.rules() == []


def test_bank_sum_that_is_off_is_found() -> None:
    """A torn transfer: one account before it, one after."""
    script = BankScript()
    torn = script.state[accounts(0)[1]]
    script.transfer("t1", 10)
    script.audit(lambda state: state.update({accounts(0)[1]: torn}))
    assert script.rules()[0] == f"the sum is {ACCOUNTS * BALANCE} in {ACCOUNTS} accounts"


def test_bank_lost_transfer_is_found() -> None:
    """Acknowledged, and the next audit does not know of it, though the sum holds."""
    script = BankScript()
    script.transfer("t1", 10, executes=False)
    script.audit()
    assert script.rules() == ["strict serializability"]


def test_bank_refused_transfer_that_took_place_is_found() -> None:
    """The client said that it definitely did not happen; the sum holds all the same."""
    script = BankScript()
    script.transfer("t1", 10, outcome=FAILED, executes=True)
    script.audit()
    assert "definite means definite" in script.rules()


def test_bank_refused_attempt_of_a_body_that_took_place_is_found() -> None:
    """`run_in_transaction` tried again, and the attempt that had lost took place as well."""
    script = BankScript()
    source, target = accounts(0)[:2]
    lost, won = {source: "90 a", target: "110 a"}, {source: "80 b", target: "120 b"}
    more = {"writes": won, "reads": {source: ["90 a", None], target: ["110 a", None]}, "refused_attempts": [lost]}
    script.op("bank", "transfer", "bank/0", 10, found=True, more=more | {"revisions": dict.fromkeys(won, 3)})
    script.state |= {source: ("90 a", 2), target: ("110 a", 2)}
    script.audit()
    assert "definite means definite" in script.rules()


# --- eventual writes ---------------------------------------------------------------------------------------------------


def eventual_script(state: OperationState = OperationState.APPLIED, shown: str = "b", elsewhere: str = "b") -> Script:
    """Two acknowledged writes, the second with this fate, and what two nodes show at the end."""
    script = Script()
    revisions = {"a": 1, "b": 2, "c": 3}
    for value in ("a", "b"):
        script.op("eventual", "put", "k", value, more={"operation_id": value})
    script.op("eventual", "put", "k", "c", FAILED)
    script.op("eventual", "fate", "k", "a", revision=1, final=True, more={"state": "APPLIED"})
    script.op("eventual", "fate", "k", "b", revision=2, final=True, more={"state": str(state)})
    for value in (shown, elsewhere):
        script.op("eventual", "look", "k", value, found=True, revision=revisions[value], final=True, more={"tentative": False})
    return script


def test_eventual_honest_history_passes() -> None:
    """Both were applied, and the later one is shown everywhere."""
    assert eventual_script().rules() == []


@pytest.mark.parametrize(
    ("script", "rule"),
    [
        (lambda: eventual_script(OperationState.PENDING), "an acknowledged eventual write is applied or superseded"),
        (lambda: eventual_script(OperationState.UNKNOWN), "an acknowledged eventual write is applied or superseded"),
        (lambda: eventual_script(OperationState.SUPERSEDED), "a superseded write has no effect"),
        (lambda: eventual_script(elsewhere="a"), "replicas converge"),
        (lambda: eventual_script(shown="a", elsewhere="a"), "the last state has every applied write"),
        (lambda: eventual_script(shown="c", elsewhere="c"), "what was definitely refused did happen"),
    ],
)
def test_eventual_write_that_is_lost_or_undone_is_found(script: Callable[[], Script], rule: str) -> None:
    """Each way in which the end can contradict an acknowledgement or a report."""
    assert rule in script().rules()


@pytest.mark.parametrize(("state", "revision"), [("SUPERSEDED", 2), ("APPLIED", 7)])
def test_eventual_fate_that_changes_is_found(state: str, revision: int) -> None:
    """Once applied or superseded, at one place, for ever."""
    script = eventual_script()
    script.op("eventual", "fate", "k", "b", revision=revision, more={"state": state})
    assert script.rules() == ["a fate is final"]


def test_eventual_write_that_is_forgotten_at_the_end_is_found() -> None:
    """It had been applied, and in the end nobody knows it."""
    script = Script()
    script.op("eventual", "put", "k", "a", more={"operation_id": "a"})
    script.op("eventual", "fate", "k", "a", revision=1, more={"state": "APPLIED"})
    script.op("eventual", "fate", "k", "a", final=True, more={"state": "UNKNOWN"})
    assert script.rules() == ["an acknowledged eventual write is applied or superseded"]


def test_eventual_fate_that_was_known_earlier_counts_at_the_end() -> None:
    """The last answer knows only that the write is settled; an earlier one had said that it was superseded."""
    script = Script()
    script.op("eventual", "put", "k", "a", more={"operation_id": "a"})
    script.op("eventual", "fate", "k", "a", revision=1, more={"state": "SUPERSEDED"})
    script.op("eventual", "get", "k", "a", found=True, revision=1)
    script.op("eventual", "fate", "k", "a", final=True, more={"state": "SETTLED"})
    assert script.rules() == ["a superseded write has no effect"]


def test_eventual_strong_read_of_a_superseded_write_is_found() -> None:
    """A strong read shows only what took effect."""
    script = eventual_script(OperationState.SUPERSEDED, shown="a", elsewhere="a")
    script.op("eventual", "get", "k", "b", found=True, revision=2)
    assert "a superseded write has no effect" in script.rules()


# --- sessions ----------------------------------------------------------------------------------------------------------


def session_script(read: str | None, state: OperationState = OperationState.APPLIED, *, tentative: bool = False) -> Script:
    """A session writes twice (revisions 1 and 2), reads the second, and then `read`."""
    script = Script()
    for value in ("a", "b"):
        script.op("session", "put", "k", value, more={"operation_id": value})
    script.op("session", "put", "k", "c", FAILED)
    script.op("session", "get", "k", "b", found=True, revision=2, more={"tentative": False})
    revision = {"a": 1, "b": 2, "c": 3, None: None}[read]
    script.op("session", "get", "k", read, found=read is not None, revision=revision, more={"tentative": tentative})
    script.op("session", "fate", "k", "b", revision=2, final=True, more={"state": str(state)})
    return script


def test_session_honest_history_passes() -> None:
    """It reads its last write; or an earlier one or none, where the last is reported superseded."""
    assert session_script("b").rules() == []
    assert session_script(None, OperationState.SUPERSEDED).rules() == []
    assert session_script("a", OperationState.SUPERSEDED).rules() == []


@pytest.mark.parametrize(
    ("read", "tentative", "rule"),
    [
        ("a", False, "a session reads its writes and never goes back"),
        ("a", True, "a session reads its writes and never goes back"),
        (None, False, "a session reads its writes and never goes back"),
        ("c", False, "what was definitely refused did happen"),
    ],
)
def test_session_read_that_goes_back_is_found(read: str | None, tentative: bool, rule: str) -> None:
    """It had written, and read, something later."""
    assert session_script(read, tentative=tentative).rules() == [rule]


# --- the record, and the command ---------------------------------------------------------------------------------------


def test_history_without_its_last_line_is_a_failure() -> None:
    """Operations may be missing from it."""
    script = Script()
    script.put("k", "a", 1)
    assert [one.rule for one in judge(load(script.file.getvalue().splitlines()))] == ["the history is complete"]


def test_operation_without_an_answer_is_recorded_as_unknown() -> None:
    """At the end of a run; it may have happened, so a read of it is fine."""
    script = Script()
    script.recorder.invoke("register", "c1", "put", "k", "a")
    script.get("k", "a", 1)
    assert script.rules() == []
    assert [op.outcome for op in load(script.file.getvalue().splitlines()).ops] == [OK, UNKNOWN]


def test_check_command_exit_code_tells_the_verdict(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """0 for an honest history, 1 for one that lies, 2 for a file that is none."""
    honest, lying, none = tmp_path / "honest", tmp_path / "lying", tmp_path / "none"
    for path, value in ((honest, "a"), (lying, "z")):
        script = Script()
        script.put("k", "a", 1)
        script.get("k", value, 1)
        script.recorder.end()
        path.write_text(script.file.getvalue())
    none.write_text("{}\n")
    assert [check.main([str(path)]) for path in (honest, lying, none)] == [0, 1, 2]
    assert "no order of these operations" in capsys.readouterr().out


# --- outcomes ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "reads", "outcome"),
    [
        (errors.NoLeader("no leader"), False, FAILED),
        (errors.DeadlineExceeded("late"), False, FAILED),
        (kvclient.OutcomeUnknown("lost"), False, UNKNOWN),
        (errors.Unavailable("gone"), False, UNKNOWN),
        (errors.Unavailable("gone"), True, FAILED),
        (kvclient.CompareFailed("other", metadata={"revision": "7"}), False, Outcome.COMPARE_FAILED),
    ],
)
async def test_outcome_of_each_error_is_failed_only_where_definite(error: Exception, reads: bool, outcome: Outcome) -> None:
    """A write fails only where the client says `definite`; whatever else goes wrong leaves it unknown."""
    script = Script()

    async def call() -> None:
        raise error

    op = script.recorder.invoke("register", "c1", "put", "k", "a")
    await Register(script.recorder).settle(op, call(), lambda answer: {}, reads=reads)
    assert op.outcome is outcome
    assert script.recorder.history.findings == []


async def test_outcome_of_an_unforeseen_exception_is_unknown_and_a_finding() -> None:
    """The client promises to raise nothing but its own errors."""
    script = Script()

    async def call() -> None:
        raise KeyError("k")

    op = script.recorder.invoke("register", "c1", "put", "k", "a")
    await Register(script.recorder).settle(op, call(), lambda answer: {})
    assert op.outcome is UNKNOWN
    assert script.rules() == ["found while it ran"]


def test_history_round_trip_keeps_every_fact() -> None:
    """What is read again is what was written."""
    script = Script()
    script.put("k", "a", 1)
    script.recorder.fault("kill", 0, "begin", ["n1"])
    script.recorder.end()
    again: History = load(script.file.getvalue().splitlines())
    assert again.ops == script.recorder.history.ops
    assert again.faults == script.recorder.history.faults
    assert again.complete
