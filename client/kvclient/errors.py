"""Every exception of the SDK: one tree, and each says whether the operation is certain not to have happened.

Owns the classes, their reasons and their advice. Never looks at gRPC objects; `_status` builds these from them.

Invariant: `definite` is true only where the operation did not take effect and never will. A write that may have happened
is an `OutcomeUnknown`, whatever went wrong; only `OutcomeUnknown` and errors of closing say so.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import grpc


class KvError(Exception):
    """The root. Read `reason` in programs, `str()` for people.

    `definite`: the operation did not take effect and never will. `key` and `node` are set where they are known; `node` is
    "host:port". `metadata` is what the server attached (google.rpc.ErrorInfo.metadata). `retry_after` is in seconds; None
    means that a blind retry does not help.
    """

    default_code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    default_reason: ClassVar[str] = "INTERNAL"
    default_definite: ClassVar[bool] = False
    advice: ClassVar[str] = ""

    def __init__(
        self,
        message: str,
        *,
        code: grpc.StatusCode | None = None,
        reason: str | None = None,
        definite: bool | None = None,
        metadata: Mapping[str, str] | None = None,
        retry_after: float | None = None,
        key: bytes | None = None,
        node: str | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.default_code if code is None else code
        self.reason = self.default_reason if reason is None else reason
        self.definite = self.default_definite if definite is None else definite
        self.metadata: dict[str, str] = dict(metadata or {})
        self.retry_after = retry_after
        self.key = key
        self.node = node
        self.attempts = 1

    def __str__(self) -> str:
        """Where, what, the reason in parentheses, and what to do; the key once, also where the server's words name it."""
        where, message = "", self.message.rstrip(".")
        if self.key is not None:
            quoted, shown = repr(self.key), _shown(self.key)
            message = message.removeprefix(f"key {quoted}").lstrip(" :,")
            if quoted in message:
                message = message.replace(quoted, shown)
            else:
                where = f"key {shown}"
        if self.node is not None:
            where += f" at node {self.node}" if where else f"node {self.node}"
        tried = f", {self.attempts} attempts" if self.attempts > 1 else ""
        advice = f" {self.advice}" if self.advice else ""
        return f"{where}{where and ': '}{message} ({self.reason}{tried}).{advice}"


def _shown(key: bytes) -> str:
    """A key in a message, at most 64 characters of it: as text if it is printable UTF-8, else as bytes."""
    try:
        text = key.decode()
    except UnicodeDecodeError:
        text = ""
    if text.isprintable() and text:
        return repr(text if len(text) <= 64 else text[:64] + "...")
    return repr(key if len(key) <= 64 else key[:64] + b"...")


class InternalError(KvError):
    """The server failed in a way it has no name for."""

    advice = "The node's log says more."


class Unavailable(KvError):
    """No node could take the request, or the connection broke."""

    default_code, default_reason = grpc.StatusCode.UNAVAILABLE, "UNAVAILABLE"
    advice = "Check that the nodes run and can be reached; the client reconnects by itself."


class NoLeader(Unavailable):
    """The shard has no leader now, or lost it before the request was proposed."""

    default_reason, default_definite = "NO_LEADER", True
    advice = "An election takes a second or two; if it lasts, a majority of the shard's replicas is down."


class NotLeader(KvError):
    """The node does not lead the shard and could not forward."""

    default_code, default_reason, default_definite = grpc.StatusCode.FAILED_PRECONDITION, "NOT_LEADER", True
    advice = "Try again."

    @property
    def leader(self) -> str | None:
        """ "host:port" of the leader, where the node knew it."""
        return self.metadata.get("leader") or None


class WrongShard(KvError):
    """The node does not hold the key's shard: the client's map was old."""

    default_code, default_reason, default_definite = grpc.StatusCode.FAILED_PRECONDITION, "WRONG_SHARD", True
    advice = "Try again."


class OutcomeUnknown(KvError):
    """The write was sent and its answer is lost: it may have taken effect, may yet, or may not.

    A strong write, which may be sent again without being executed twice, was tried until its time was over; `cause` is what
    went wrong last. Read the keys to learn what is there. Writing again is another write: `if_revision` makes it safe.
    """

    default_code, default_reason = grpc.StatusCode.UNAVAILABLE, "OUTCOME_UNKNOWN"
    advice = "Read the key before writing again, or write with if_revision."

    def __init__(self, message: str, *, cause: KvError | None = None, **facts: object) -> None:
        super().__init__(message, **facts)  # type: ignore[arg-type]
        self.cause = cause


class Conflict(KvError):
    """A transaction lost against another: nothing was changed."""

    default_code, default_reason, default_definite = grpc.StatusCode.ABORTED, "CONFLICT", True
    advice = "Run the whole transaction again."


class CompareFailed(KvError):
    """The key's revision is not the expected one."""

    default_code, default_reason, default_definite = grpc.StatusCode.FAILED_PRECONDITION, "COMPARE_FAILED", True
    advice = "Read the key again and decide anew."

    @property
    def revision(self) -> int:
        """The key's revision when it was compared; 0: the key did not exist."""
        return int(self.metadata.get("revision") or 0)


class SessionExpired(KvError):
    """The servers do not know any more whether the write was executed under its id, or its clock is off: it was not executed.

    The client gives a write another id and tries again, as long as no attempt is in doubt; this comes after several times.
    """

    default_code, default_reason, default_definite = grpc.StatusCode.FAILED_PRECONDITION, "SESSION_EXPIRED", True
    advice = "Try again; if it lasts, compare the clocks of the nodes."

    @property
    def clock(self) -> int:
        """The hybrid logical clock that a new id should carry; 0: the server did not say."""
        text = self.metadata.get("clock", "")
        clock = int(text) if text.isascii() and text.isdigit() and len(text) <= 20 else 0
        return clock if clock < 1 << 64 else 0


class Overloaded(KvError):
    """A queue of the node, or of this client, is full. Nothing was stored."""

    default_code, default_reason, default_definite = grpc.StatusCode.RESOURCE_EXHAUSTED, "OVERLOADED", True
    advice = "Slow down, then try again."


class NoSpace(KvError):
    """The disk or the quota is full: writes are refused, reads go on."""

    default_code, default_reason, default_definite = grpc.StatusCode.RESOURCE_EXHAUSTED, "NO_SPACE", True
    advice = "Make room on the node's disk or raise its quota; it recovers by itself."


class InvalidArgument(KvError, ValueError):
    """A field is missing, too long, or contradicts another."""

    default_code, default_reason, default_definite = grpc.StatusCode.INVALID_ARGUMENT, "INVALID_ARGUMENT", True

    @property
    def field(self) -> str:
        """Path of the field, "" if the server did not say."""
        return self.metadata.get("field", "")


class DeadlineExceeded(KvError):
    """Time ran out, and nothing was changed. (A write that may have changed something is an `OutcomeUnknown`.)"""

    default_code, default_reason, default_definite = grpc.StatusCode.DEADLINE_EXCEEDED, "DEADLINE_EXCEEDED", True
    advice = "Allow more time, or ask less of the cluster at once."


class NotSentInTime(DeadlineExceeded):
    """The deadline passed in this client; the node heard nothing."""


class Compacted(KvError):
    """The history asked for is no longer kept."""

    default_code, default_reason, default_definite = grpc.StatusCode.OUT_OF_RANGE, "COMPACTED", True
    advice = "Read the present state and go on from there."


class Corrupt(KvError):
    """Stored bytes are not what was written. The node stopped serving the shard; its peers can repair it."""

    default_code, default_reason, default_definite = grpc.StatusCode.DATA_LOSS, "CORRUPT", True
    advice = "See the node's log and repair the node from its peers."


class PermissionDenied(KvError):
    """The server refuses this caller."""

    default_code, default_reason, default_definite = grpc.StatusCode.PERMISSION_DENIED, "PERMISSION_DENIED", True


class WrongCluster(PermissionDenied):
    """The caller belongs to another cluster or speaks another protocol version."""

    default_reason = "WRONG_CLUSTER"


class Unsupported(KvError):
    """The server does not know this operation."""

    default_code, default_reason, default_definite = grpc.StatusCode.UNIMPLEMENTED, "UNIMPLEMENTED", True
    advice = "Check that the address is a kvnode, of a version that has it."


class ClientClosed(KvError):
    """The client was closed before or while the operation ran. A write in flight may have taken effect: see `definite`."""

    default_code, default_reason = grpc.StatusCode.CANCELLED, "CLIENT_CLOSED"
