"""Errors as gRPC knows them, and back."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2

from kvnode import errors
from kvnode.api import status
from kvnode.errors import CompareFailed, InvalidRequest, KvnodeError, NotLeader

CLASSES = [
    cls
    for cls in vars(errors).values()
    if isinstance(cls, type) and issubclass(cls, KvnodeError) and cls not in (KvnodeError, InvalidRequest)
]


class Failed(grpc.RpcError):
    """A failed call with a rich status."""

    def __init__(self, metadata: Any) -> None:
        self._metadata = metadata

    def trailing_metadata(self) -> Any:
        """What came with it."""
        return self._metadata


def failed(error: KvnodeError) -> Failed:
    """The call that answered with the error."""
    return Failed(((status.DETAILS_KEY, status.to_status(error).SerializeToString()),))


def details(error: KvnodeError) -> dict[str, Any]:
    """The status' details by their types."""
    found: dict[str, Any] = {}
    for packed in status.to_status(error).details:
        for kind in (error_details_pb2.ErrorInfo, error_details_pb2.RetryInfo, error_details_pb2.BadRequest):
            unpacked = kind()
            if packed.Unpack(unpacked):
                found[kind.__name__] = unpacked
    return found


@pytest.mark.parametrize("cls", CLASSES)
def test_error_sent_comes_back_as_itself(cls: type[KvnodeError]) -> None:
    """A forwarding node passes on what the other one said: class, text, facts."""
    error = cls("what happened", shard=3, revision=7)
    back = status.from_rpc_error(failed(error))
    assert back is not None
    assert (type(back), back.message, back.metadata) == (cls, "what happened", {"shard": "3", "revision": "7"})
    assert grpc.StatusCode(status.CODES[error.code]).value[0] == error.code


@pytest.mark.parametrize("cls", CLASSES)
def test_error_as_status_carries_reason_and_retry(cls: type[KvnodeError]) -> None:
    """What programs read."""
    found = details(cls("x"))
    assert (found["ErrorInfo"].reason, found["ErrorInfo"].domain) == (cls.reason, errors.DOMAIN)
    assert ("RetryInfo" in found) == (cls.retry_after_ms is not None)
    if cls.retry_after_ms is not None:
        assert found["RetryInfo"].retry_delay.ToMilliseconds() == cls.retry_after_ms


def test_reasons_of_all_errors_are_different() -> None:
    """A reason names one class."""
    assert len(dict.fromkeys(cls.reason for cls in CLASSES)) == len(CLASSES)


def test_invalid_request_names_its_field_both_ways() -> None:
    """BadRequest for clients; the same field and text behind a forward."""
    error = InvalidRequest("limit", "too large")
    violation = details(error)["BadRequest"].field_violations[0]
    assert (violation.field, violation.description) == ("limit", "too large")
    back = status.from_rpc_error(failed(error))
    assert isinstance(back, InvalidRequest)
    assert (back.field, back.description, back.message) == ("limit", "too large", "limit: too large")


def test_failure_of_the_transport_is_no_error_of_ours() -> None:
    """No details, or somebody else's: the transport's own."""
    assert status.from_rpc_error(Failed(None)) is None
    assert status.from_rpc_error(Failed((("other", b""),))) is None
    foreign = status.status_pb2.Status(code=5)
    status._pack(foreign, error_details_pb2.ErrorInfo(reason="NO_LEADER", domain="elsewhere"))
    assert status.from_rpc_error(Failed(((status.DETAILS_KEY, foreign.SerializeToString()),))) is None


def test_reason_of_a_later_release_is_kept_as_unknown() -> None:
    """Not definite: nothing is known about it."""
    later = status.status_pb2.Status(code=14, message="new")
    status._pack(later, error_details_pb2.ErrorInfo(reason="BRAND_NEW", domain=errors.DOMAIN))
    back = status.from_rpc_error(Failed(((status.DETAILS_KEY, later.SerializeToString()),)))
    assert type(back) is KvnodeError
    assert not back.definite


def test_operation_error_of_a_batch_has_the_same_facts() -> None:
    """As a failed call of its own."""
    error = status.to_operation_error(CompareFailed("no", revision=4))
    assert (error.code, error.reason, error.message, dict(error.metadata)) == (9, "COMPARE_FAILED", "no", {"revision": "4"})
    assert not error.HasField("retry_after_ms")
    assert status.to_operation_error(NotLeader("x")).retry_after_ms == 0


async def test_call_aborted_ends_with_code_text_and_details() -> None:
    """What the servicers do with an error."""
    seen: list[Any] = []

    class Context:
        async def abort(self, *args: Any) -> None:
            seen.extend(args)

    context: Any = Context()
    await status.abort(context, NotLeader("elsewhere", leader="h:1"))
    assert seen[:2] == [grpc.StatusCode.FAILED_PRECONDITION, "elsewhere"]
    back = status.from_rpc_error(Failed(seen[2]))
    assert isinstance(back, NotLeader)
    assert back.metadata == {"leader": "h:1"}
