"""The words for durations and for what requests wait for.

Owns nothing else: every command says the same thing in the same words.
"""

from __future__ import annotations

from collections.abc import Sequence

MS = 1_000_000
_LONG_MS = 10_000

WAITS = {
    "application": "in the application",
    "client": "in the client",
    "client.open": "waiting for the map of the cluster",
    "client.queue": "waiting in the client for a free slot",
    "client.call": "in a call of whose node no span is known",
    "client.resume": "waiting in the busy client for its turn after the answer",
    "client.pause": "pausing before another attempt",
    "network": "on the way between {near_end} and {where}",
    "batch": "waiting for other operations of its batch on {where}",
    "server": "on {where}, in no stage",
    "admission": "being admitted by {where}",
    "leader_wait": "waiting for a leader on {where}",
    "lock_wait": "waiting on {where} for the lock that a transaction held",
    "forward": "being forwarded to {where}",
    "log_queue": "waiting on {where} for an earlier write of the log",
    "log_write": "writing the log of {where}",
    "fsync": "waiting for fsync on {where}",
    "quorum": "waiting for a quorum",
    "append": "being handled by the follower {where}",
    "apply": "being applied on {where}",
    "read_index": "confirming with a quorum what {where} may read",
    "session_wait": "waiting until {where} had what the session saw",
    "acks": "waiting for other replicas to acknowledge",
    "prepare": "waiting for votes on the transaction",
    "decide": "waiting for the transaction's decision",
    "retry_pause": "pausing before the transaction was tried again",
    "collect": "collecting the reads of all shards",
    "operations": "carrying out the batch's operations on {where}",
    "reply": "making the answer on {where}",
    "election": "without a leader that could serve",
    "disk_stall": "waiting for the disk of {where}",
    "snapshot.send": "sending a snapshot from {where}",
    "snapshot.install": "installing a snapshot on {where}",
    "eventual.replicate": "replicating from {where}",
    "eventual.sequence": "giving eventual writes their place on {where}",
    "eventual.apply": "from its acceptance to its effect on {where}",
}
"""By stage. What a request was doing, as in "41 ms waiting for fsync on n2"."""


def wait_words(stage: str, where: str, near_end: str = "") -> str:
    """What a request was doing; `near_end`: of a network, if there is but one."""
    if stage == "network" and not near_end:
        return f"on the way to or from {where}"
    return WAITS.get(stage, f"in {stage} on {{where}}").format(where=where or "a node", near_end=near_end)


def duration_words(ns: float) -> str:
    """As "0.42 ms", "41 ms", "12.3 s": two digits, or all before the point."""
    return f"{_number(ns, ns)} {_unit(ns)}"


def of_words(ns: float, whole_ns: float) -> str:
    """As "41 of 52 ms"."""
    return f"{_number(ns, whole_ns)} of {_number(whole_ns, whole_ns)} {_unit(whole_ns)}"


def _unit(ns: float) -> str:
    return "s" if abs(ns) >= _LONG_MS * MS else "ms"


def _number(ns: float, whole_ns: float) -> str:
    """In the unit of the whole."""
    if _unit(whole_ns) == "s":
        return f"{ns / MS / 1000:.1f}"
    ms = ns / MS
    digits = next((digits for digits, least in enumerate((9.95, 0.995, 0.0995)) if abs(ms) >= least), 3)
    return f"{ms:.{digits}f}" if abs(ms) >= 0.0005 else "0"


def signed_words(ns: float) -> str:
    """As "+0.42 ms"."""
    return ("+" if ns > 0 else "") + duration_words(ns)


def listed(names: Sequence[str]) -> str:
    """As "n1, n2 and n3"."""
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else ""


def times(count: int) -> str:
    """As "once", "twice", "5 times"."""
    return {1: "once", 2: "twice"}.get(count, f"{count} times")
