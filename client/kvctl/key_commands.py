"""`kvctl put | get | del | cas | range | operation`: keys and values, through the SDK's blocking client.

Owns how results look. Values go to standard output alone; remarks for people go to standard error, and only to a terminal.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from kvctl.command import Call, command
from kvctl.failures import ExitCode, Failure, printable, usage
from kvctl.output import duration_text, hlc_time, print_json, print_table, print_value
from kvctl.store import open_client

if TYPE_CHECKING:
    from kvclient import Client, KeyValue, Served, Session

PANEL = "Keys"
PAGE_LIMIT = 100
PAGE_LIMIT_MAX = 1_000
SETTLE_POLL_S = 0.05


class WriteConsistency(StrEnum):
    """--consistency of writes."""

    STRONG = "strong"
    EVENTUAL = "eventual"


class ReadConsistency(StrEnum):
    """--consistency of reads."""

    STRONG = "strong"
    EVENTUAL = "eventual"
    SESSION = "session"
    BOUNDED = "bounded"


KeyArgument = Annotated[str, typer.Argument(metavar="KEY", help="1 to 400 bytes; a {tag} inside decides the shard.")]
ValueArgument = Annotated[str, typer.Argument(metavar="VALUE", help="At most 1 MiB; - reads standard input, as it is.")]
WriteLevel = Annotated[WriteConsistency, typer.Option("--consistency", "-c", help="What the write demands.")]
ReadLevel = Annotated[ReadConsistency, typer.Option("--consistency", "-c", help="What the read demands.")]
AcksOption = Annotated[
    int | None,
    typer.Option("--acks", min=1, help="Eventual only: replicas that hold the write before the answer (default: 1)."),
]
RevisionOption = Annotated[
    int | None, typer.Option("--if-revision", min=0, help="Only if the key has this revision; 0: only if it does not exist.")
]
StalenessOption = Annotated[
    float | None, typer.Option("--max-staleness", min=0.001, metavar="SECONDS", help="Bounded only: at most so far behind.")
]
SessionOption = Annotated[
    Path | None,
    typer.Option("--session", metavar="FILE", help="Carry a session from call to call: its token is read from here and kept."),
]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    for name, function in (
        ("put", put),
        ("get", get),
        ("del", delete),
        ("range", range_),
        ("cas", cas),
        ("operation", operation),
    ):
        command(app, name, takes_bytes=True, panel=PANEL)(function)


@contextmanager
def _session(client: Client, path: Path | None) -> Iterator[Client | Session]:
    """The client itself, or a session of it that goes on where the file left off."""
    if path is None:
        yield client
        return
    session = client.session(path.read_bytes() if path.exists() else b"")
    yield session
    draft = path.with_name(path.name + ".new")
    draft.write_bytes(session.token)
    os.replace(draft, path)


def _value(call: Call, text: str) -> bytes:
    return sys.stdin.buffer.read() if text == "-" else call.encoding.decode(text, "VALUE")


def served_json(served: Served) -> dict[str, Any]:
    """What was served, for programs."""
    return {
        "node": served.node,
        "role": served.role.name.lower(),
        "consistency": served.consistency.name.lower() if served.consistency is not None else None,
        "shard": served.shard,
        "revision": served.revision,
        "hlc": served.hlc,
        "staleness_s": served.staleness,
    }


def served_text(served: Served) -> str:
    """What was served, for people: strong, by n1 (leader), shard 3."""
    level = served.consistency.name.lower() if served.consistency is not None else "unknown consistency"
    staleness = "" if not served.staleness else f", at most {duration_text(served.staleness)} behind"
    return f"{level}, by {served.node} ({served.role.name.lower()}), shard {served.shard}{staleness}"


def remark(text: str) -> None:
    """Something for a person at a terminal, beside the answer."""
    if sys.stderr.isatty():
        print(f"\x1b[2m{printable(text)}\x1b[0m", file=sys.stderr)


def _written(call: Call, key: bytes, result: Any, **more: Any) -> None:
    """The outcome of a put or a delete."""
    if call.as_json:
        print_json(
            {
                **call.encoding.json_field("key", key),
                **more,
                "revision": result.revision,
                "operation_id": result.operation_id,
                "acks": result.acks,
                "served": served_json(result.served),
            }
        )
    elif result.operation_id:
        print(f"accepted  operation {result.operation_id}  acks {result.acks}")
    elif more.get("found") is False:
        print("did not exist")
    else:
        print(f"{'deleted' if 'found' in more else 'ok'}  revision {result.revision}")
    if not call.as_json:
        remark(served_text(result.served))


def put(
    call: Call,
    key: KeyArgument,
    value: ValueArgument,
    consistency: WriteLevel = WriteConsistency.STRONG,
    acks: AcksOption = None,
    if_revision: RevisionOption = None,
    session: SessionOption = None,
) -> None:
    """Write a key."""
    name, data = call.encoding.decode(key, "KEY"), _value(call, value)
    with open_client(call) as client, _session(client, session) as target:
        result = target.put(name, data, consistency=consistency.value, acks=acks, if_revision=if_revision)
    _written(call, name, result)


def get(
    call: Call,
    key: KeyArgument,
    consistency: ReadLevel = ReadConsistency.STRONG,
    max_staleness: StalenessOption = None,
    session: SessionOption = None,
    raw: Annotated[bool, typer.Option("--raw", "-r", help="The value's bytes and nothing else, no newline either.")] = False,
) -> None:
    """Read a key: its value on standard output. Exit code 1 if it does not exist."""
    name = call.encoding.decode(key, "KEY")
    with open_client(call) as client, _session(client, session) as target:
        answer = target.get_result(name, consistency=consistency.value, max_staleness=max_staleness)
    found = answer.value
    if call.as_json:
        print_json(
            {
                **call.encoding.json_field("key", name),
                "found": found is not None,
                **({} if found is None else item_json(call, name, found)),
                "served": served_json(answer.served),
            }
        )
        if found is None:
            raise SystemExit(int(ExitCode.NOT_FOUND))
        return
    if found is None:
        raise Failure(ExitCode.NOT_FOUND, "NOT_FOUND", f"key {key!r} does not exist ({served_text(answer.served)})")
    if raw:
        sys.stdout.buffer.write(found.value)
        sys.stdout.buffer.flush()
    else:
        print_value(call.encoding, found.value)
    tentative = "TENTATIVE: may still be superseded; " if found.tentative else ""
    remark(f"{tentative}revision {found.revision}, version {found.version}; {served_text(answer.served)}")


def delete(
    call: Call,
    key: KeyArgument,
    consistency: WriteLevel = WriteConsistency.STRONG,
    acks: AcksOption = None,
    if_revision: RevisionOption = None,
    session: SessionOption = None,
) -> None:
    """Delete a key. Deleting a key that does not exist succeeds."""
    name = call.encoding.decode(key, "KEY")
    with open_client(call) as client, _session(client, session) as target:
        result = target.delete(name, consistency=consistency.value, acks=acks, if_revision=if_revision)
    _written(call, name, result, found=result.found)


def cas(
    call: Call,
    key: KeyArgument,
    value: ValueArgument,
    if_revision: RevisionOption = None,
    absent: Annotated[bool, typer.Option("--absent", help="Only if the key does not exist.")] = False,
) -> None:
    """Compare and set: write a key only if its revision is the expected one. Exit code 3 if it is not."""
    if absent is (if_revision is not None):
        raise usage("give exactly one of --if-revision and --absent", "kvctl get KEY -o json shows the revision")
    name, data = call.encoding.decode(key, "KEY"), _value(call, value)
    try:
        with open_client(call) as client:
            result = client.put(name, data, if_revision=0 if absent else if_revision)
    except Failure as failure:
        if absent and failure.reason == "COMPARE_FAILED":
            revision = failure.metadata.get("revision", "unknown")
            failure.message = f"key '{call.encoding.encode(name)}' already exists (revision {revision})"
            failure.hint = f"write over that: --if-revision {revision}"
        raise
    _written(call, name, result)


def item_json(call: Call, key: bytes, item: Any) -> dict[str, Any]:
    """A key and what it holds, for programs."""
    return {
        **call.encoding.json_field("key", key),
        **call.encoding.json_field("value", item.value),
        "revision": item.revision,
        "create_revision": item.create_revision,
        "version": item.version,
        "hlc": item.hlc,
        "time": hlc_time(item.hlc),
        "tentative": item.tentative,
    }


def range_(
    call: Call,
    prefix: Annotated[str, typer.Argument(metavar="[PREFIX]", help="Only keys that begin with it.")] = "",
    start: Annotated[str, typer.Option("--start", help="First key, inclusive.")] = "",
    end: Annotated[str, typer.Option("--end", help="Last key, exclusive.")] = "",
    consistency: ReadLevel = ReadConsistency.STRONG,
    max_staleness: StalenessOption = None,
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, help="At most so many keys.")] = PAGE_LIMIT,
    everything: Annotated[bool, typer.Option("--all", "-a", help="All keys, however many.")] = False,
    keys_only: Annotated[bool, typer.Option("--keys-only", "-k", help="Without the values.")] = False,
    count: Annotated[bool, typer.Option("--count", help="Only their number.")] = False,
    page: Annotated[str, typer.Option("--page", metavar="TOKEN", help="Go on where the page before ended.")] = "",
) -> None:
    """Read keys in byte order: those with a prefix, or between two keys."""
    decode = call.encoding.decode
    where: dict[str, Any] = {
        "prefix": decode(prefix, "PREFIX"),
        "start": decode(start, "--start"),
        "end": decode(end, "--end"),
        "consistency": consistency.value,
        "max_staleness": max_staleness,
    }
    with open_client(call) as client:
        if count:
            number = client.count(**where)
            if call.as_json:
                print_json({"count": number})
            else:
                print(number)
            return
        token = _page_token(page)
        items: list[KeyValue] = []
        while True:
            size = PAGE_LIMIT_MAX if everything else min(PAGE_LIMIT_MAX, limit - len(items))
            answer = client.range_page(**where, limit=size, page_token=token, keys_only=keys_only)
            items += answer.items
            token = answer.next_page_token
            if not token or (not everything and len(items) >= limit):
                break
    _print_range(call, items, token, keys_only)


def _page_token(text: str) -> bytes:
    try:
        return bytes.fromhex(text)
    except ValueError:
        raise usage(f"--page {text!r} is not a page token", "take it from the page before, unchanged") from None


def _print_range(call: Call, items: list[KeyValue], token: bytes, keys_only: bool) -> None:
    if call.as_json:
        plain = [item_json(call, item.key, item) for item in items]
        if keys_only:
            plain = [{name: value for name, value in item.items() if not name.startswith("value")} for item in plain]
        print_json({"items": plain, "next_page": token.hex()})
        return
    if keys_only:
        for item in items:
            print(call.encoding.encode(item.key))
    else:
        shorten = call.encoding.shorten
        rows = [
            [shorten(item.key), shorten(item.value), item.revision, item.version, "tentative" if item.tentative else ""]
            for item in items
        ]
        print_table(["key", "value", "revision", "version", ""], rows, right="revision version")
        if any(call.encoding.is_long(data) for item in items for data in (item.key, item.value)):
            print("long keys and values are cut; whole: kvctl get KEY --raw, or -o json", file=sys.stderr)
    if token:
        print(f"there is more: --page {token.hex()} (or --all)", file=sys.stderr)


def operation(
    call: Call,
    operation_id: Annotated[str, typer.Argument(metavar="ID", help="What an eventual put or del answered.")],
    wait: Annotated[
        bool, typer.Option("--wait", "-w", help="Until the write has its place in the log, or the time is up.")
    ] = False,
) -> None:
    """Ask what became of an eventual write. Exit code 1 if nobody knows it, 4 if --wait runs out of time."""
    from kvclient import OperationState

    deadline = time.monotonic() + call.timeout_s
    with open_client(call) as client:
        result = client.operation(operation_id)
        while wait and result.state in (OperationState.PENDING, OperationState.UNKNOWN) and time.monotonic() < deadline:
            time.sleep(SETTLE_POLL_S)
            result = client.operation(operation_id)
    if call.as_json:
        print_json(
            {
                "operation_id": operation_id,
                "state": result.state.name,
                "revision": result.revision,
                "reason": result.reason.name,
                "superseded_by": result.superseded_by,
                **call.encoding.json_field("key", result.key),
                "served": served_json(result.served),
            }
        )
    elif result.state is not OperationState.UNKNOWN:
        why = ""
        if result.state is OperationState.SUPERSEDED:
            winner = f"revision {result.superseded_by}" if result.superseded_by else "a write no longer known"
            why = f"  by {winner} ({result.reason.name.lower().replace('_', ' ')})"
        place = f"  revision {result.revision}" if result.revision else ""
        print(f"{result.state.name.lower()}{place}{why}")
        remark(served_text(result.served))
    if result.state is OperationState.UNKNOWN:
        if call.as_json:
            raise SystemExit(int(ExitCode.NOT_FOUND))
        raise Failure(ExitCode.NOT_FOUND, "NOT_FOUND", f"nobody knows operation {operation_id}")
    if wait and result.state is OperationState.PENDING:
        raise Failure(
            ExitCode.UNAVAILABLE, "PENDING", f"operation {operation_id} still waits for its place in the log",
            "its shard has no leader, or cannot hear the node that took the write: see kvctl topology",
        )  # fmt: skip
