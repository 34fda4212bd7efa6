"""One tree of errors; each class knows its gRPC code, its reason, and whether it is *definite*.

Definite: the request did not take effect and never will. A client may retry a definite, retryable error blindly; what is
not definite is retried only where the server can tell the retry from the first try.
"""

from __future__ import annotations

from typing import ClassVar

DOMAIN = "kvnode"
"""`google.rpc.ErrorInfo.domain` of every error."""


class KvnodeError(Exception):
    """The root. `metadata` goes into ErrorInfo, as text."""

    code: ClassVar[int] = 13
    """grpc.StatusCode value: INTERNAL."""
    reason: ClassVar[str] = "INTERNAL"
    definite: ClassVar[bool] = False
    retry_after_ms: ClassVar[int | None] = None
    """For google.rpc.RetryInfo; None: a blind retry does not help."""

    def __init__(self, message: str, **metadata: object) -> None:
        super().__init__(message)
        self.message = message
        self.metadata = {name: str(value) for name, value in metadata.items()}


class InvalidRequest(KvnodeError):
    """A field is missing, too long, or contradicts another. `field` is its path."""

    code, reason, definite = 3, "INVALID_ARGUMENT", True

    def __init__(self, field: str, message: str) -> None:
        super().__init__(f"{field}: {message}", field=field)
        self.field, self.description = field, message


class NotLeader(KvnodeError):
    """This node does not lead the shard and could not forward; `leader` is "host:port" where known."""

    code, reason, definite, retry_after_ms = 9, "NOT_LEADER", True, 0


class NoLeader(KvnodeError):
    """The shard has no leader now, or it was lost before the request was proposed."""

    code, reason, definite, retry_after_ms = 14, "NO_LEADER", True, 50


class OutcomeUnknown(KvnodeError):
    """The write was proposed and its leader was lost: it may take effect, or not."""

    code, reason = 14, "OUTCOME_UNKNOWN"


class Conflict(KvnodeError):
    """A transaction lost against another."""

    code, reason, definite, retry_after_ms = 10, "CONFLICT", True, 10


class CompareFailed(KvnodeError):
    """The key's revision is not what the caller expected; `revision` says what it is (0: absent)."""

    code, reason, definite = 9, "COMPARE_FAILED", True


class SessionExpired(KvnodeError):
    """The request's id is too old, or its clock too far ahead, to know whether it was executed before: this attempt was not,
    and never will be. `clock` is what a new request's `started` should be."""

    code, reason, definite = 9, "SESSION_EXPIRED", True


class Overloaded(KvnodeError):
    """A queue is full. Nothing was stored."""

    code, reason, definite, retry_after_ms = 8, "OVERLOADED", True, 100


class NoSpace(KvnodeError):
    """The disk or the quota is full: writes are refused, reads go on."""

    code, reason, definite = 8, "NO_SPACE", True


class DeadlineExpired(KvnodeError):
    """The caller's deadline passed before the request was proposed."""

    code, reason, definite = 4, "DEADLINE_EXCEEDED", True


RESTORE = (
    "restore the whole data directory from a copy made after this node last ran; an older one has forgotten what the node "
    "promised to the others, and must never be started"
)
"""What to do about a data directory that is damaged."""


class Corrupt(KvnodeError):
    """Stored bytes are not what was written. The shard stops; its peers can repair it."""

    code, reason, definite = 15, "CORRUPT", True


class Unavailable(KvnodeError):
    """The node is starting, stopping or cut off; nothing was stored."""

    code, reason, definite, retry_after_ms = 14, "UNAVAILABLE", True, 100


class WrongCluster(KvnodeError):
    """A peer of another cluster, another protocol version, or no member at all."""

    code, reason, definite = 7, "WRONG_CLUSTER", True


class StaleShardMap(KvnodeError):
    """This node does not hold the shard that the caller routed here for."""

    code, reason, definite, retry_after_ms = 9, "WRONG_SHARD", True, 0


class UnusableDirectory(Exception):
    """The data directory is none, or this process may not use it. A person must see to it; no client ever sees this."""

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class UnknownFormat(UnusableDirectory):
    """The data directory is of a format that this release does not read, or nobody can say of which. Nothing was changed."""
