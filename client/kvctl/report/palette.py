"""The colours, and what each means, everywhere on the page.

Owns the one colour of each stage and each operation, in light and dark, and their words. Hues are those of Okabe and Ito's set,
which people with any kind of colour vision tell apart; stages of one kind of work share a hue and differ in lightness.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Look:
    """A colour and a meaning."""

    light: str
    """On a light ground."""
    dark: str
    """On a dark one."""
    words: str = ""


STAGES: Mapping[str, Look] = {
    "application": Look("#c3c9d3", "#545d6b", "the application's own work"),
    "client": Look("#aab2bf", "#6b7585", "in the client, in no stage"),
    "client.open": Look("#d9dee6", "#48505c", "a client's first request waits for the map of the cluster"),
    "client.queue": Look("#8791a1", "#8b95a5", "waiting in the client for a free slot"),
    "client.call": Look("#6a7587", "#a7b0bd", "from leaving the client to the answer"),
    "client.resume": Look("#4f6d94", "#7e9cc4", "the answer is here, and the caller's turn has not come"),
    "client.pause": Look("#434d5e", "#d0d6de", "pausing before another attempt"),
    "network": Look("#56b4e9", "#56b4e9", "on the way between two processes"),
    "batch": Look("#a9d8f4", "#2f7ba8", "waiting for other operations of the same batch"),
    "admission": Look("#cdbd9b", "#8d7d5b", "checked and routed"),
    "server": Look("#e0d6c2", "#5f553f", "on a node, in no stage"),
    "forward": Look("#a08f6a", "#a5946f", "another node serves it"),
    "operations": Look("#b9a67d", "#77694c", "a batch's operations run"),
    "leader_wait": Look("#a31621", "#e4545c", "no leader is known"),
    "lock_wait": Look("#e07a5f", "#f09a82", "a transaction holds the key"),
    "read_index": Look("#009e73", "#1fb98c", "a quorum confirms what may be read"),
    "session_wait": Look("#7fcdb0", "#0d6b50", "until this replica has what the session saw"),
    "log_queue": Look("#f2d45c", "#f2d45c", "an earlier write of the log is under way"),
    "log_write": Look("#e69f00", "#e69f00", "writing the log, with its fsync unless that is told apart"),
    "fsync": Look("#b35c00", "#c2701c", "until the log is on the disk"),
    "quorum": Look("#0072b2", "#2f93d1", "durable here; waiting for followers"),
    "append": Look("#86a8dc", "#a9c4f0", "a follower's own work"),
    "apply": Look("#7a5ea8", "#a48bd0", "from committed to applied"),
    "acks": Look("#00614a", "#5fd0ac", "other replicas acknowledge an eventual write"),
    "prepare": Look("#e3a9ca", "#8a4470", "a transaction's votes"),
    "decide": Look("#cc79a7", "#cc79a7", "a transaction's decision"),
    "collect": Look("#94456f", "#edb3d3", "reading all shards of a transaction"),
    "retry_pause": Look("#5e2a4b", "#f6d6e8", "pausing before the transaction was tried again"),
    "reply": Look("#6f6244", "#e6dabb", "making the answer"),
}
"""In the order in which layers lie on each other."""
REST = Look("#9aa0a6", "#7d848c", "all other stages")

OPERATIONS: Mapping[str, Look] = {
    "put": Look("#0072b2", "#4aa8e0"),
    "get": Look("#009e73", "#1fb98c"),
    "delete": Look("#d55e00", "#ee8135"),
    "range": Look("#b0588f", "#dd93c0"),
    "txn": Look("#b98000", "#e6ac2e"),
    "batch": Look("#5d6674", "#aab3c0"),
}
OPERATION = Look("#9aa0a6", "#7d848c")
"""Any other."""
DASHES: Mapping[str, str] = {"eventual": "2 4", "session": "8 4", "bounded": "10 3 2 3"}
"""Of lines, by consistency; the others are solid."""

NODES = (
    *(Look("#bcd9ee", "#2b4d66"), Look("#c4e3d2", "#2a5643"), Look("#e5dbc3", "#574d34"), Look("#dccfe8", "#483a5c")),
    *(Look("#f1d3cb", "#653f36"), Look("#d3dbe6", "#3e4856"), Look("#cfe6e8", "#2d5457"), Look("#efd6e4", "#5d3a4f")),
    Look("#e6e6b8", "#53532f"),
)
"""Grounds for the names of nodes that lead, in the order of their names."""


def stage_class(stage: str) -> str:
    """The class of a stage's colour; one that nobody knows has that of all others."""
    return f"s-{re.sub('[^a-z]', '-', stage)}" if stage in STAGES else "s-rest"


def operation_class(operation: str) -> str:
    """The class of an operation's colour; "txn/prepare" is a part of "txn"."""
    name = operation.partition("/")[0]
    return f"o-{name}" if name in OPERATIONS else "o-rest"


def node_class(names: list[str], name: str) -> str:
    """The class of a node's colour among `names`."""
    return f"n-{names.index(name) % len(NODES)}" if name in names else "n-rest"


def stage_order(stage: str) -> tuple[int, str]:
    """Where its layer lies; unknown ones on top."""
    return (list(STAGES).index(stage) if stage in STAGES else len(STAGES), stage)


def css() -> str:
    """A variable `--c` for each class, in light and dark; paper is light."""
    light = "\n".join(f".{name}{{--c:{look.light}}}" for name, look in _classes())
    dark = "\n".join(f".{name}{{--c:{look.dark}}}" for name, look in _classes())
    return f"{light}\n@media screen and (prefers-color-scheme:dark){{\n{dark}\n}}\n"


def _classes() -> Iterator[tuple[str, Look]]:
    yield from ((stage_class(stage), look) for stage, look in STAGES.items())
    yield "s-rest", REST
    yield from ((operation_class(operation), look) for operation, look in OPERATIONS.items())
    yield "o-rest", OPERATION
    yield from ((f"n-{place}", look) for place, look in enumerate(NODES))
    yield "n-rest", Look("#dddddd", "#444444")
