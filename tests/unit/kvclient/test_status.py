"""What a failed call means: the table of definite and unknown."""

from __future__ import annotations

import grpc
import pytest

import kvnode.errors
from kvapi.v1 import kv_pb2
from kvclient import errors
from kvclient._status import Failure, error_from, failure_of_call, failure_of_operation, never_connected
from tests.unit.kvclient.fake_cluster import Refusal

C = grpc.StatusCode
NODE = "127.0.0.1:7401"
REFUSED = f"failed to connect to all addresses; last error: UNKNOWN: ipv4:{NODE}: Failed to connect to remote host: refused"

# code, reason, class for a read, class for a write, whether the write is certain not to have happened
TABLE = [
    (C.FAILED_PRECONDITION, "NOT_LEADER", errors.NotLeader, errors.NotLeader, True),
    (C.FAILED_PRECONDITION, "WRONG_SHARD", errors.WrongShard, errors.WrongShard, True),
    (C.FAILED_PRECONDITION, "SESSION_EXPIRED", errors.SessionExpired, errors.SessionExpired, True),
    (C.FAILED_PRECONDITION, "COMPARE_FAILED", errors.CompareFailed, errors.CompareFailed, True),
    (C.UNAVAILABLE, "NO_LEADER", errors.NoLeader, errors.NoLeader, True),
    (C.UNAVAILABLE, "UNAVAILABLE", errors.Unavailable, errors.Unavailable, True),
    (C.UNAVAILABLE, "OUTCOME_UNKNOWN", errors.Unavailable, errors.OutcomeUnknown, False),
    (C.ABORTED, "CONFLICT", errors.Conflict, errors.Conflict, True),
    (C.RESOURCE_EXHAUSTED, "OVERLOADED", errors.Overloaded, errors.Overloaded, True),
    (C.RESOURCE_EXHAUSTED, "NO_SPACE", errors.NoSpace, errors.NoSpace, True),
    (C.INVALID_ARGUMENT, "INVALID_ARGUMENT", errors.InvalidArgument, errors.InvalidArgument, True),
    (C.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", errors.DeadlineExceeded, errors.DeadlineExceeded, True),
    (C.OUT_OF_RANGE, "COMPACTED", errors.Compacted, errors.Compacted, True),
    (C.DATA_LOSS, "CORRUPT", errors.Corrupt, errors.Corrupt, True),
    (C.PERMISSION_DENIED, "WRONG_CLUSTER", errors.WrongCluster, errors.WrongCluster, True),
    (C.INTERNAL, "INTERNAL", errors.InternalError, errors.OutcomeUnknown, False),
    (C.ABORTED, "A_REASON_OF_THE_FUTURE", errors.InternalError, errors.OutcomeUnknown, False),
    # Without ErrorInfo: gRPC's own word, or a proxy's.
    (C.UNAVAILABLE, "", errors.Unavailable, errors.OutcomeUnknown, False),
    (C.DEADLINE_EXCEEDED, "", errors.DeadlineExceeded, errors.OutcomeUnknown, False),
    (C.CANCELLED, "", errors.ClientClosed, errors.OutcomeUnknown, False),
    (C.UNKNOWN, "", errors.InternalError, errors.OutcomeUnknown, False),
    (C.INTERNAL, "", errors.InternalError, errors.OutcomeUnknown, False),
    (C.RESOURCE_EXHAUSTED, "", errors.Overloaded, errors.OutcomeUnknown, False),
    (C.UNIMPLEMENTED, "", errors.Unsupported, errors.Unsupported, True),
    (C.UNAUTHENTICATED, "", errors.PermissionDenied, errors.PermissionDenied, True),
    (C.PERMISSION_DENIED, "", errors.PermissionDenied, errors.PermissionDenied, True),
]


@pytest.mark.parametrize(("code", "reason", "read", "write", "definite"), TABLE)
def test_error_from_each_status_gives_its_class_and_says_whether_it_is_definite(
    code: grpc.StatusCode, reason: str, read: type[errors.KvError], write: type[errors.KvError], definite: bool
) -> None:
    """Reads are always definite; a write only with proof, in a call of its own and in a batch alike."""
    trailing = Refusal(code, reason, message="why").trailing() if reason else ()
    of_call = failure_of_call(code, "why", trailing, NODE)
    of_operation = failure_of_operation(kv_pb2.OperationError(code=code.value[0], message="why", reason=reason))
    for failure in (of_call, of_operation):
        as_read = error_from(failure, is_write=False, key=b"k", node=NODE)
        as_write = error_from(failure, is_write=True, key=b"k", node=NODE)
        assert (type(as_read), as_read.definite) == (read, True)
        assert (type(as_write), as_write.definite) == (write, definite)
        assert as_read.code is code
        assert as_write.key == b"k"
        if isinstance(as_write, errors.OutcomeUnknown) and reason != "OUTCOME_UNKNOWN":
            assert isinstance(as_write.cause, read)


SERVER_ERRORS = [one for one in kvnode.errors.KvnodeError.__subclasses__() if one.__module__ == kvnode.errors.__name__]
"""(The simulator has subclasses of its own, and may be imported before.)"""


@pytest.mark.parametrize("of_server", SERVER_ERRORS, ids=lambda one: one.__name__)
def test_error_from_each_error_of_the_server_agrees_with_it_on_definite(of_server: type[kvnode.errors.KvnodeError]) -> None:
    """The server's tree and the SDK's say the same about every reason."""
    code = next(code for code in grpc.StatusCode if code.value[0] == of_server.code)
    error = error_from(Failure(code, "why", of_server.reason, {}, None), is_write=True, key=None, node=None)
    assert (error.reason, error.definite) == (of_server.reason, of_server.definite)
    assert not isinstance(error, errors.InternalError)


@pytest.mark.parametrize(
    ("message", "proof"),
    [
        (REFUSED, True),
        ("failed to connect to all addresses; last error: UNAVAILABLE: ipv6:%5B::1%5D:7401: connection timed out", True),
        (f"failed to connect to all addresses; last error: UNAVAILABLE: {NODE}: Failed to connect to remote host", True),
        ("failed to connect to all addresses; last error: UNAVAILABLE: ::1:7401: the server does not answer in time", True),
        (
            "failed to connect to all addresses; last error: UNAVAILABLE: 127.0.0.1:7402: Failed to connect to remote host",
            False,
        ),
        (f"errors resolving {NODE}: [field:hostname lookup error:Domain name not found]", True),
        ("errors resolving other:1: [field:hostname lookup error]", False),
        (f"DNS resolution failed for {NODE}: C-ares status is not ARES_SUCCESS", True),
        ("failed to connect to all addresses", False),
        (REFUSED.replace("7401", "7402"), False),
        (f"forwarding: {REFUSED}", False),
        ("Socket closed", False),
        ("Stream removed (Socket closed)", False),
        ("recvmsg:Connection reset by peer", False),
        ("Cancelling all calls", False),
        ("", False),
    ],
)
def test_never_connected_only_grpcs_own_words_about_our_node_are_proof(message: str, proof: bool) -> None:
    """Only where gRPC itself says that it could not connect to that very node is a write certain not to have left."""
    assert never_connected(message, NODE) is proof
    error = error_from(failure_of_call(C.UNAVAILABLE, message, (), NODE), is_write=True, key=None, node=NODE)
    assert error.definite is proof
    assert error.reason == ("CONNECT_FAILED" if proof else "OUTCOME_UNKNOWN")


def test_never_connected_words_with_trailing_metadata_are_no_proof() -> None:
    """A server that repeats gRPC's words sends metadata with them, so it was reached."""
    failure = failure_of_call(C.UNAVAILABLE, REFUSED, (("x", "y"),), NODE)
    assert error_from(failure, is_write=True, key=None, node=NODE).definite is False


def test_failure_of_call_rich_details_are_read() -> None:
    """Metadata and retry delay arrive; broken or foreign details count as none."""
    refusal = Refusal(C.FAILED_PRECONDITION, "COMPARE_FAILED", {"revision": "7"}, retry_after_ms=250)
    error = error_from(failure_of_call(refusal.code, "no", refusal.trailing(), NODE), is_write=True, key=b"k", node=NODE)
    assert isinstance(error, errors.CompareFailed)
    assert (error.revision, error.retry_after) == (7, 0.25)
    broken = failure_of_call(C.UNAVAILABLE, REFUSED, (("grpc-status-details-bin", b"\xff\xff"),), NODE)
    assert broken.reason == ""


def test_kv_error_text_says_what_where_and_what_to_do() -> None:
    """The message names reason, key and node, and gives advice; long keys are cut."""
    error = errors.NoSpace("the disk is full", key=b"k" * 400, node=NODE)
    text = str(error)
    assert text.startswith("key 'kkk")
    assert f"at node {NODE}: the disk is full (NO_SPACE)." in text
    assert "quota" in text
    assert len(text) < 300


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        (b"b", "'b'"),
        ("schl\u00fcssel/\u96ea".encode(), "'schl\u00fcssel/\u96ea'"),
        (b"\x00\xff", r"b'\x00\xff'"),
        (b"a\nb", r"b'a\nb'"),
    ],
)
def test_kv_error_text_key_in_the_servers_words_is_said_once(key: bytes, shown: str) -> None:
    """The server names the key too: one mention is left, readable where the key is printable text."""
    message = f"key {key!r} does not exist, not the expected 77"
    text = str(errors.CompareFailed(message, key=key, node=NODE))
    assert text.startswith(f"key {shown} at node {NODE}: does not exist, not the expected 77 (COMPARE_FAILED). ")
    assert text.count(shown) == 1
    inside = str(errors.Corrupt(f"the record of {key!r} is damaged.", key=key, node=NODE))
    assert inside.startswith(f"node {NODE}: the record of {shown} is damaged (CORRUPT). ")
    assert str(errors.KvError("broken", key=key)) == f"key {shown}: broken (INTERNAL)."


@pytest.mark.parametrize(
    ("code", "message", "words"),
    [
        (C.UNAVAILABLE, REFUSED, f"no connection could be made (gRPC: {REFUSED})"),
        (C.UNAVAILABLE, "Socket closed", "the connection broke (gRPC: Socket closed)"),
        (C.UNKNOWN, "Stream removed (Deadline Exceeded)", "no answer in time (gRPC: Stream removed (Deadline Exceeded))"),
        (C.DEADLINE_EXCEEDED, "Deadline Exceeded", "no answer in time"),
        (C.DEADLINE_EXCEEDED, "", "no answer in time"),
        (C.UNIMPLEMENTED, "Method not found!", "the server does not know this operation (gRPC: Method not found!)"),
        (C.UNKNOWN, "", "the call failed"),
    ],
)
def test_failure_of_call_grpcs_own_words_come_last(code: grpc.StatusCode, message: str, words: str) -> None:
    """What gRPC says by itself is put into our words first, for a read and in an unknown outcome; a node's words stay."""
    failure = failure_of_call(code, message, (), NODE)
    read = error_from(failure, is_write=False, key=None, node=NODE)
    assert str(read).startswith(f"node {NODE}: {words} (")
    write = error_from(failure, is_write=True, key=None, node=NODE)
    if isinstance(write, errors.OutcomeUnknown):
        assert write.message == f"the write was sent and its answer is lost: {words}"
    assert failure_of_call(code, message, Refusal(code, "NO_LEADER").trailing(), NODE).message == message
