"""Transactions in the words of a script, read and said.

`if a0=1 b1!=2 c0@3 d1@0 then a0=2 -b1 else a0 c*`: comparisons of values and revisions (0: absent); puts, deletions, gets and
ranges. Without `if` the operations alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from kvapi.v1 import kv_pb2, replication_pb2, two_phase_commit_pb2
from kvnode.errors import KvnodeError
from kvnode.shard.state_machine import Applied, Decision, WriteResult
from kvnode.shard.transactions import End, Ended, Locked, Vote, txn_of
from kvnode.types import Txn
from tests.scripts.words import held_write

Operation, Compare = kv_pb2.BatchOperation, kv_pb2.Compare
STATES = two_phase_commit_pb2.TransactionState


def name_of(txn: Txn) -> str:
    """What the script calls it."""
    return txn.id.rstrip(b"\0").decode()


# ---- read -----------------------------------------------------------------------------------------------------------


def request(words: Sequence[str]) -> kv_pb2.TxnRequest:
    """A client's request."""
    sections: dict[str, list[str]] = {"if": [], "then": [], "else": []}
    section = "then"
    for word in words:
        if word in sections:
            section = word
        else:
            sections[section].append(word)
    return kv_pb2.TxnRequest(
        compare=map(compare, sections["if"]),
        then=map(operation, sections["then"]),
        otherwise=map(operation, sections["else"]),
    )


def compare(word: str) -> Compare:
    """`a0=1`, `a0!=1`, `a0@3`."""
    if "@" in word:
        key, _, revision = word.partition("@")
        return Compare(key=key.encode(), revision=int(revision))
    key, _, value = word.partition("=")
    operator = kv_pb2.COMPARE_OPERATOR_NOT_EQUAL if key.endswith("!") else kv_pb2.COMPARE_OPERATOR_EQUAL
    return Compare(key=key.rstrip("!").encode(), operator=operator, value=value.encode())


def operation(word: str) -> Operation:
    """`a0=1`, `-a0`, `a0`, `a*`."""
    key, is_put, value = word.partition("=")
    if is_put:
        return Operation(put=kv_pb2.PutRequest(key=key.encode(), value=value.encode()))
    if key.startswith("-"):
        return Operation(delete=kv_pb2.DeleteRequest(key=key[1:].encode()))
    if key.endswith("*"):
        return Operation(range=kv_pb2.RangeRequest(prefix=key[:-1].encode()))
    return Operation(get=kv_pb2.GetRequest(key=key.encode()))


# ---- said -----------------------------------------------------------------------------------------------------------


def said_part(part: two_phase_commit_pb2.TransactionPart) -> str:
    """What a shard has to do."""
    then = " ".join(map(said_operation, part.then))
    if not part.compare and not part.otherwise:
        return then
    compares = " ".join(map(said_compare, part.compare))
    words = ("if", compares), ("then", then), ("else", " ".join(map(said_operation, part.otherwise)))
    return " ".join(f"{name} {what}" for name, what in words if what)


def said_compare(one: Compare) -> str:
    """As it is read."""
    if one.HasField("revision"):
        return f"{one.key.decode()}@{one.revision}"
    return f"{one.key.decode()}{'!' * (one.operator == kv_pb2.COMPARE_OPERATOR_NOT_EQUAL)}={one.value.decode()}"


def said_operation(one: Operation) -> str:
    """As it is read."""
    which = one.WhichOneof("operation")
    if which == "put":
        return f"{one.put.key.decode()}={one.put.value.decode()}"
    if which == "range":
        return f"{one.range.prefix.decode()}*"
    return f"-{one.delete.key.decode()}" if which == "delete" else one.get.key.decode()


def said_results(results: Iterable[kv_pb2.BatchResult]) -> str:
    """Revisions of what was written, values that were read."""
    words = []
    for result in results:
        which = result.WhichOneof("result")
        if which == "get":
            words.append(repr(result.get.value.decode()) if result.get.found else "none")
        elif which == "range":
            words.append("[" + " ".join(f"{item.key.decode()}={item.value.decode()}" for item in result.range.items) + "]")
        else:
            words.append(f"revision {getattr(result, which or '').revision}")
    return ", ".join(words) or "nothing"


def said_outcome(outcome: kv_pb2.TxnResponse | KvnodeError | None) -> str:
    """What a client gets; None: the coordinator may try again."""
    if outcome is None:
        return "aborted, to be tried again"
    if isinstance(outcome, KvnodeError):
        return outcome.reason
    return f"done{' (else)' * (not outcome.succeeded)}: {said_results(outcome.results)}"


def said_end(end: End) -> str:
    """How a transaction ended."""
    return "COMMITTED" + " (else)" * (not end.succeeded) if end.committed else "ABORTED"


def said_command(command: replication_pb2.Command) -> str:
    """An entry."""
    which = command.WhichOneof("operation")
    client = f" as {command.request.session.decode()}.{command.request.sequence}" if command.HasField("request") else ""
    if which == "forget":
        return "forget " + " ".join(name_of(txn_of(one)) for one in command.forget.transactions)
    if which == "sequence":
        return "sequence " + ", ".join(map(held_write, command.sequence.writes))
    if which == "transact":
        return f"transact {said_part(command.transact.part)}{client}"
    if which == "put":
        expected = f" if revision {command.put.if_revision}" if command.put.HasField("if_revision") else ""
        return f"put {command.put.key.decode()}={command.put.value.decode()}{expected}{client}"
    body = getattr(command, which or "")
    name = name_of(txn_of(body.transaction))
    if which == "prepare":
        return f"prepare {name} {said_part(body.part)}"
    return f"{which} {name} {said_wish(body)}{client}"


def said_wish(one: replication_pb2.DecideCommand | replication_pb2.ResolveCommand) -> str:
    """What is asked for."""
    return "commit" + " (else)" * (not one.succeeded) if one.commit else "abort"


def said_applied(result: Applied) -> str:
    """What an entry answers."""
    if isinstance(result, Vote):
        return "yes" if result.matched else "yes, its comparison fails"
    if isinstance(result, Ended):
        return f"no, {said_end(result.end)} already"
    if isinstance(result, Locked):
        return "locked by " + " ".join(map(name_of, result.holders))
    if isinstance(result, Decision):
        why = ": the request was executed before" * (result.executed is not None)
        if result.forgotten:
            return "forgotten"
        return said_end(result.end) + why + (f": {result.refused.reason}" if result.refused else "")
    if isinstance(result, WriteResult):
        return f"done, revision {result.revision}"
    if isinstance(result, KvnodeError):
        return result.reason
    if isinstance(result, bytes):
        return said_outcome(kv_pb2.TxnResponse.FromString(result))
    return "done"
