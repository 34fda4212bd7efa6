"""`kvctl txn run | list | show | resolve`: transactions, as applications run them and as operators see them.

Owns how they look. The file's format is `kvctl.txn_file`, what the nodes' answers mean together is `kvctl.txn_report`.
"""

from __future__ import annotations

import operator
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from kvctl.cluster_commands import LimitOption, as_plain, open_admin
from kvctl.command import Call, command
from kvctl.failures import ExitCode, Failure
from kvctl.key_commands import item_json, remark, served_json, served_text
from kvctl.output import duration_text, hlc_time, print_json, print_table
from kvctl.store import open_client
from kvctl.txn_file import Comparison, Operation, parse_transaction

if TYPE_CHECKING:
    from kvapi.v1 import cluster_pb2
    from kvclient import TxnResult
    from kvctl.admin import Admin
    from kvctl.txn_report import Sighting

COMPARATORS: dict[str, Callable[[Any, Any], Any]] = {
    "=": operator.eq,
    "!=": operator.ne,
    "<": operator.lt,
    ">": operator.gt,
}
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="As txn list shows it, and the answer of a transaction.")]


class TxnGroup(TyperGroup):
    """`kvctl txn FILE` is `kvctl txn run FILE`."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """A word that is no command may be a file."""
        if args[0] not in self.commands and (args[0] == "-" or os.path.isfile(args[0])):
            args = ["run", *args]
        return super().resolve_command(ctx, args)


def register(app: typer.Typer) -> None:
    """Add the commands."""
    command(app, "run", takes_bytes=True)(run)
    command(app, "list", takes_bytes=True)(list_)
    command(app, "show", takes_bytes=True)(show)
    command(app, "resolve")(resolve)


# Running one.


def run(
    call: Call,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The transaction; - reads standard input.")],
) -> None:
    """Run a transaction: if all comparisons hold then some operations, else others.

    Its lines: if value KEY = VALUE; if revision KEY = NUMBER (both also with != < >); if exists KEY; if absent KEY; then and
    else, each with put KEY VALUE, get KEY, delete KEY, or range PREFIX limit NUMBER keys-only (its options as you like).
    Exit code 3: a comparison does not hold, and there is no else.
    """
    data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    transaction = parse_transaction(data.decode("utf-8", "surrogateescape"), call.encoding)
    with open_client(call) as client:
        result = (
            client.txn()
            .if_(*map(_compare, transaction.comparisons))
            .then(*map(_operation, transaction.then))
            .else_(*map(_operation, transaction.otherwise))
            .run()
        )
    operations = transaction.then if result.succeeded else transaction.otherwise
    if not result.succeeded and not operations:
        raise Failure(
            ExitCode.COMPARE_FAILED, "COMPARE_FAILED", "a comparison does not hold, and there is no else: nothing was done",
            "see what the keys hold now: kvctl get KEY -o json, or a line such as: else get KEY",
        )  # fmt: skip
    if call.as_json:
        _print_result_json(call, operations, result)
    else:
        _print_result(call, operations, result)


def _compare(comparison: Comparison) -> Any:
    import kvclient

    key = kvclient.Key(comparison.key)
    if comparison.subject == "exists":
        return key.exists()
    if comparison.subject == "absent":
        return key.absent()
    return COMPARATORS[comparison.operator](getattr(key, comparison.subject), comparison.operand)


def _operation(operation: Operation) -> Any:
    import kvclient

    if operation.verb == "put":
        return kvclient.Put(operation.key, operation.value)
    if operation.verb == "get":
        return kvclient.Get(operation.key)
    if operation.verb == "delete":
        return kvclient.Delete(operation.key)
    limit = {} if operation.limit is None else {"limit": operation.limit}
    return kvclient.Range(prefix=operation.key, keys_only=operation.keys_only, **limit)


def _print_result(call: Call, operations: Sequence[Operation], result: TxnResult) -> None:
    """The branch, and a line for each operation; the keys of a range follow it, indented."""
    from kvclient import RangePage

    print("then" if result.succeeded else "else")
    shorten = call.encoding.shorten
    labels = [f"{operation.verb} {shorten(operation.key)}" for operation in operations]
    width = max(map(len, labels), default=0)
    for operation, label, outcome in zip(operations, labels, result.results, strict=True):
        print(f"{label.ljust(width)}  {_outcome_text(call, operation, outcome)}")
        for item in outcome.items if isinstance(outcome, RangePage) else ():
            value = "" if operation.keys_only else f"  {shorten(item.value)}"
            print(f"  {shorten(item.key)}{value}  revision {item.revision}")
    name = f"transaction {result.transaction_id}; " if result.transaction_id else ""
    remark(name + "; ".join(map(served_text, result.served)))


def _outcome_text(call: Call, operation: Operation, outcome: Any) -> str:
    if operation.verb == "put":
        return f"ok  revision {outcome.revision}"
    if operation.verb == "delete":
        return f"deleted  revision {outcome.revision}" if outcome.found else "did not exist"
    if operation.verb == "get":
        return "does not exist" if outcome is None else f"{call.encoding.shorten(outcome.value)}  revision {outcome.revision}"
    count, more = len(outcome.items), ", and there are more" if outcome.next_page_token else ""
    return f"{count} key{'s' * (count != 1)}{more}"


def _print_result_json(call: Call, operations: Sequence[Operation], result: TxnResult) -> None:
    results = [_outcome_json(call, operation, outcome) for operation, outcome in zip(operations, result.results, strict=True)]
    print_json(
        {
            "branch": "then" if result.succeeded else "else",
            "succeeded": result.succeeded,
            "results": results,
            "transaction_id": result.transaction_id,
            "served": [served_json(served) for served in result.served],
        }
    )


def _outcome_json(call: Call, operation: Operation, outcome: Any) -> dict[str, Any]:
    key = call.encoding.json_field("prefix" if operation.verb == "range" else "key", operation.key)
    plain: dict[str, Any] = {"operation": operation.verb, **key}
    if operation.verb == "put":
        return {**plain, "revision": outcome.revision}
    if operation.verb == "delete":
        return {**plain, "found": outcome.found, "revision": outcome.revision}
    if operation.verb == "get":
        return {**plain, "found": outcome is not None, **({} if outcome is None else item_json(call, operation.key, outcome))}
    items = [item_json(call, item.key, item) for item in outcome.items]
    if operation.keys_only:
        items = [{name: value for name, value in item.items() if not name.startswith("value")} for item in items]
    return {**plain, "items": items, "more": bool(outcome.next_page_token)}


# Looking after them.


class Known(NamedTuple):
    """What all nodes know of transactions."""

    sightings: list[Sighting]
    leaders: dict[int, str]
    """Shard -> its leader; only those that answered."""
    addresses: dict[str, str]
    """Node -> "host:port"."""
    silent: list[str]
    """Nodes that did not answer."""


def _ask_all(admin: Admin, request: cluster_pb2.TransactionsRequest) -> Known:
    """Every node's answer. Raises Failure if there is none."""
    from kvctl.txn_report import Sighting, in_order

    shape = admin.topology()
    names = {member.address: member.name for member in shape.members}
    answers = admin.each(list(names), lambda stub, timeout_s: stub.Transactions.future(request, timeout=timeout_s))
    failures = {names[address]: answer for address, answer in answers.items() if isinstance(answer, Failure)}
    if len(failures) == len(answers):
        raise next(iter(failures.values()))
    sightings = [
        Sighting(names[address], info)
        for address, answer in answers.items()
        if not isinstance(answer, Failure)
        for info in answer.transactions
    ]
    leaders = {place.shard: place.leader for place in shape.shards if place.leader and place.leader not in failures}
    return Known(in_order(sightings), leaders, {name: address for address, name in names.items()}, sorted(failures))


def _ask_about(admin: Admin, transaction_id: str) -> Known:
    """What all nodes know of one transaction. Raises Failure if it is nothing."""
    from kvapi.v1 import cluster_pb2

    known = _ask_all(admin, cluster_pb2.TransactionsRequest(transaction_id=transaction_id, ended=True))
    if not known.sightings:
        silent = f"; {', '.join(known.silent)} did not answer" if known.silent else ""
        raise Failure(
            ExitCode.NOT_FOUND, "NOT_FOUND", f"nobody knows transaction {transaction_id}{silent}",
            "it never was, or ended and is forgotten; kvctl txn list --ended shows those that are known",
        )  # fmt: skip
    return known


def _sighting_json(call: Call, sighting: Sighting) -> dict[str, Any]:
    info = sighting.info
    fields = (("write_keys", "key"), ("read_keys", "key"), ("read_prefixes", "prefix"))
    keys = {field: [call.encoding.json_field(name, key) for key in getattr(info, field)] for field, name in fields}
    return {"node": sighting.node, **as_plain(info), **keys}


def _remark_silence(silent: Sequence[str]) -> None:
    if silent:
        print(f"no answer from {', '.join(silent)}: what only they know is missing", file=sys.stderr)


def list_(
    call: Call,
    shard: Annotated[int | None, typer.Option("--shard", min=0, help="Only of this shard.")] = None,
    ended: Annotated[bool, typer.Option("--ended", help="Also those that ended and are not forgotten.")] = False,
    all_replicas: Annotated[
        bool, typer.Option("--all-replicas", help="Each replica's word; else that of each shard's leader.")
    ] = False,
    limit: LimitOption = 100,
) -> None:
    """List transactions over several shards: those under way, the oldest first."""
    from kvapi.v1 import cluster_pb2
    from kvctl.txn_report import keys_text, one_per_shard, state_name

    with open_admin(call) as admin:
        known = _ask_all(admin, cluster_pb2.TransactionsRequest(shard=shard, ended=ended, limit=limit))
    sightings = known.sightings if all_replicas else one_per_shard(known.sightings, known.leaders)
    if call.as_json:
        print_json({"transactions": [_sighting_json(call, sighting) for sighting in sightings], "no_answer": known.silent})
        return
    rows = []
    for node, info in sightings:
        row = [info.transaction_id, info.shard, *([node] if all_replicas else []), state_name(info.state)]
        row += [info.anchor if info.participants else ""]
        row += [", ".join(map(str, info.participants)), duration_text(info.age_ms / 1000) if info.age_ms else ""]
        row += [keys_text(call.encoding, [*info.write_keys, *info.read_keys], info.read_prefixes)]
        rows.append(row)
    headers = ["id", "shard", *(["node"] if all_replicas else []), "state", "anchor", "participants", "age", "keys"]
    print_table(headers, rows, right="shard anchor")
    _remark_silence(known.silent)


def show(call: Call, transaction_id: IdArgument) -> None:
    """Show all that the nodes know of one transaction, and what it waits for. Exit code 1 if nobody knows it."""
    from kvctl.txn_report import anchor_of, keys_text, standing, started, state_name

    with open_admin(call) as admin:
        known = _ask_about(admin, transaction_id)
    stands, anchor = standing(known.sightings, known.leaders), anchor_of(known.sightings)
    if call.as_json:
        print_json(
            {
                "transaction_id": transaction_id,
                "started": hlc_time(started(transaction_id)),
                "anchor": anchor,
                "decision": stands.decision or None,
                "waits_for": stands.waits_for,
                "summary": stands.sentence,
                "replicas": [_sighting_json(call, sighting) for sighting in known.sightings],
                "no_answer": known.silent,
            }
        )
        return
    rows = []
    for node, info in known.sightings:
        role = "leader" if info.leader else "follower"
        reads = keys_text(call.encoding, info.read_keys, info.read_prefixes)
        age = duration_text(info.age_ms / 1000) if info.age_ms else ""
        row = [info.shard, node, role, state_name(info.state), info.index or "", age, keys_text(call.encoding, info.write_keys)]
        rows.append([*row, reads, info.waiting_eventual])
    decides = "" if anchor is None else f"; its anchor is shard {anchor}"
    print(f"{stands.sentence}\nStarted {hlc_time(started(transaction_id))}{decides}.")
    headers = ["shard", "node", "role", "state", "vote", "age", "writes", "reads", "waiting"]
    print_table(headers, rows, right="shard vote waiting")
    _remark_silence(known.silent)


def resolve(call: Call, transaction_id: IdArgument) -> None:
    """End a transaction that is under way as its anchor says: committed if that is decided, else aborted. It never guesses."""
    from kvapi.v1 import cluster_pb2
    from kvctl.txn_report import state_name

    request = cluster_pb2.ResolveTransactionRequest(transaction_id=transaction_id)
    with open_admin(call) as admin:
        known = _ask_about(admin, transaction_id)
        admin.endpoints = list(dict.fromkeys(known.addresses[node] for node, _ in known.sightings))  # the anchor's leader first
        _, answer = admin.any(lambda stub, timeout_s: stub.ResolveTransaction(request, timeout=timeout_s))
    outcome = state_name(answer.state).lower()
    if call.as_json:
        print_json({"transaction_id": transaction_id, "outcome": outcome})
    else:
        print(outcome)
