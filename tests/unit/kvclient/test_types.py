"""Public enumerations."""

from __future__ import annotations

import pytest

from kvclient import Consistency, OperationState, Role, SupersededReason, TxnResult


@pytest.mark.parametrize("kind", [Consistency, OperationState, Role, SupersededReason])
def test_enumeration_members_print_their_names(kind: type[Consistency | OperationState | Role | SupersededReason]) -> None:
    """Text shows the name, however it is made; the number of the protocol is still there."""
    for member in kind:
        assert str(member) == f"{member}" == member.name
        assert f"{member:>20}" == member.name.rjust(20)
        assert kind(int(member)) is member


def test_txn_result_as_a_truth_value_is_whether_it_succeeded() -> None:
    """`if await kv.txn()….run():` means what it says."""
    assert TxnResult(True, (), "", ())
    assert not TxnResult(False, (), "", ())
