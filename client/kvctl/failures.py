"""How a command fails: exit codes, and messages that say what happened, to what, and what to do.

Owns the exit codes, which scripts rely on, and the translation of every kind of error into one. Errors go to standard error;
with `-o json` as one JSON object.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import grpc


class ExitCode(IntEnum):
    """What a command's exit status means."""

    OK = 0
    NOT_FOUND = 1
    """The key does not exist; the operation is unknown."""
    USAGE = 2
    """Wrong arguments, or a request that the cluster refuses as invalid."""
    COMPARE_FAILED = 3
    """The key's revision is another one. Nothing was written."""
    UNAVAILABLE = 4
    """No node answers, the shard has no leader, or the time is up. Nothing was written."""
    OUTCOME_UNKNOWN = 5
    """The write may have taken effect, or not: read before you write again."""
    REFUSED = 6
    """Overloaded, out of space, lost against another transaction, or not allowed. Nothing was written."""
    INTERNAL = 7
    """A defect, or corrupt data: of the node, or of kvctl."""
    PLAYGROUND = 8
    """A playground's daemon died or cannot be started, or a claim of the demo did not hold."""
    INTERRUPTED = 130
    """Ctrl-C."""


CODES_BY_REASON = {
    "INVALID_ARGUMENT": ExitCode.USAGE,
    "COMPARE_FAILED": ExitCode.COMPARE_FAILED,
    "NOT_LEADER": ExitCode.UNAVAILABLE,
    "WRONG_SHARD": ExitCode.UNAVAILABLE,
    "NO_LEADER": ExitCode.UNAVAILABLE,
    "UNAVAILABLE": ExitCode.UNAVAILABLE,
    "CONNECT_FAILED": ExitCode.UNAVAILABLE,
    "CONNECTION_LOST": ExitCode.UNAVAILABLE,
    "DEADLINE_EXCEEDED": ExitCode.UNAVAILABLE,
    "OUTCOME_UNKNOWN": ExitCode.OUTCOME_UNKNOWN,
    "CONFLICT": ExitCode.REFUSED,
    "SESSION_EXPIRED": ExitCode.REFUSED,
    "OVERLOADED": ExitCode.REFUSED,
    "NO_SPACE": ExitCode.REFUSED,
    "COMPACTED": ExitCode.REFUSED,
    "PERMISSION_DENIED": ExitCode.REFUSED,
    "WRONG_CLUSTER": ExitCode.REFUSED,
    "CORRUPT": ExitCode.INTERNAL,
    "INTERNAL": ExitCode.INTERNAL,
}
"""`ErrorInfo.reason` -> exit code."""

REASONS_BY_STATUS = {
    "INVALID_ARGUMENT": "INVALID_ARGUMENT",
    "OUT_OF_RANGE": "INVALID_ARGUMENT",
    "UNAVAILABLE": "UNAVAILABLE",
    "DEADLINE_EXCEEDED": "DEADLINE_EXCEEDED",
    "CANCELLED": "UNAVAILABLE",
    "RESOURCE_EXHAUSTED": "OVERLOADED",
    "ABORTED": "CONFLICT",
    "FAILED_PRECONDITION": "NOT_LEADER",
    "DATA_LOSS": "CORRUPT",
    "UNIMPLEMENTED": "UNIMPLEMENTED",
    "PERMISSION_DENIED": "PERMISSION_DENIED",
}
"""gRPC status name -> reason, for errors that carry no ErrorInfo (they come from gRPC itself, not from a node)."""

HINTS = {
    "COMPARE_FAILED": "read the key again, and compare with the revision it has now",
    "NO_LEADER": "an election takes a second or two: try again; if it lasts, see kvctl status (a majority must be up)",
    "NOT_LEADER": "try again; see kvctl topology",
    "UNAVAILABLE": "are the nodes up? See kvctl status, or kvctl cluster status for a playground; start one: kvctl cluster up",
    "DEADLINE_EXCEEDED": "try a longer --timeout; see kvctl status (a majority must be up for strong operations)",
    "OUTCOME_UNKNOWN": "it may have taken effect, or not: read the key before you write again",
    "OVERLOADED": "try again a little later, with fewer requests at once",
    "NO_SPACE": "free space on the node's disk or raise its quota; it accepts writes again by itself. Reads go on",
    "CONFLICT": "try again",
    "SESSION_EXPIRED": "try again",
    "CORRUPT": "see the node's log; its peers hold good copies",
    "UNIMPLEMENTED": "is this the address of a kvnode? Its version may be older than kvctl's",
    "INTERNAL": "see the node's log",
}
"""What to do, by reason."""


_CONTROL = re.compile("[\\x00-\\x1f\\x7f-\\x9f\\u2028\\u2029\\u202a-\\u202e\\u2066-\\u2069]")
"""C0, DEL and C1; separators of lines and the directions of text, which make a line look like another one."""
_ESCAPES = {"\n": "\\n", "\t": "\\t", "\r": "\\r"}


def printable(text: str, keep: str = "") -> str:
    """Text that cannot command a terminal: control characters, except those in `keep`, become escapes such as \\x1b."""

    def escape(match: re.Match[str]) -> str:
        character = match[0]
        if character in keep:
            return character
        number = ord(character)
        return _ESCAPES.get(character) or (f"\\x{number:02x}" if number < 0x100 else f"\\u{number:04x}")

    return _CONTROL.sub(escape, text)


@dataclass
class Failure(Exception):
    """A failure on its way to the user."""

    code: ExitCode
    reason: str
    message: str
    hint: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    log_tail: str = ""

    def print(self, as_json: bool) -> None:
        """Write it to standard error."""
        if as_json:
            error = {"reason": self.reason, "message": self.message, "exit_code": int(self.code)}
            if self.hint:
                error["hint"] = self.hint
            if self.metadata:
                error["metadata"] = dict(self.metadata)
            if self.log_tail:
                error["log_tail"] = self.log_tail
            print(json.dumps({"error": error}), file=sys.stderr)
            return
        bold, off = ("\x1b[1;31m", "\x1b[0m") if sys.stderr.isatty() else ("", "")
        print(f"{bold}error:{off} {printable(self.message)}", file=sys.stderr)
        if self.log_tail:
            print("\n".join(f"  | {printable(line)}" for line in self.log_tail.split("\n")), file=sys.stderr)
        if self.hint:
            print(f"hint: {printable(self.hint)}", file=sys.stderr)


def usage(message: str, hint: str = "") -> Failure:
    """Wrong arguments."""
    return Failure(ExitCode.USAGE, "USAGE", message, hint)


def not_installed(error: ModuleNotFoundError) -> Failure | None:
    """A package is missing that is not ours, and so comes with the extra `cli`."""
    package = (error.name or "").partition(".")[0]
    if not package or package.startswith("kv"):
        return None
    return usage(f'kvctl needs {package}, which is not installed: pip install "kvnode-client[cli]"')


def by_reason(reason: str, message: str, metadata: Mapping[str, str] | None = None) -> Failure:
    """A failure that a node reported."""
    code = CODES_BY_REASON.get(reason, ExitCode.INTERNAL)
    hint = HINTS.get(reason) or (HINTS["UNAVAILABLE"] if code is ExitCode.UNAVAILABLE else "")
    return Failure(code, reason, message, hint, metadata or {})


def nobody_answers(endpoints: Sequence[str], why: str, reason: str = "UNAVAILABLE") -> Failure:
    """Not one of the nodes that the command knows can be reached."""
    if "connection refused" in why.lower():
        why = "connection refused"  # gRPC says it with addresses, twice
    hint = "start a playground: kvctl cluster up; see what runs: kvctl cluster status; name other nodes: --endpoints"
    return Failure(ExitCode.UNAVAILABLE, reason, f"no node answers at {', '.join(endpoints)}: {why}", hint)


def from_rpc_error(error: grpc.RpcError, address: str) -> Failure:
    """The failure that a failed call means; `address` is the node that was called."""
    from google.rpc import error_details_pb2, status_pb2

    call: Any = error  # grpcio raises objects that are both the error and its call
    reason = REASONS_BY_STATUS.get(call.code().name, "INTERNAL")
    message, metadata = call.details() or reason, {"node": address}
    for name, value in call.trailing_metadata() or ():
        if name == "grpc-status-details-bin":
            for detail in status_pb2.Status.FromString(value).details:
                info = error_details_pb2.ErrorInfo()
                if detail.Unpack(info) and info.domain == "kvnode":
                    return by_reason(info.reason, message, dict(info.metadata) | metadata)
    if reason == "UNAVAILABLE":
        message = f"{address} does not answer: {message}"
    elif reason == "DEADLINE_EXCEEDED":
        message = f"{address} did not answer in time"
    return by_reason(reason, message, metadata)
