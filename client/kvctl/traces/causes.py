"""What was behind it: facts in a trace, and in others that it has to do with, which a person would want to know.

Owns which facts are told with which parts of the time. Each function looks for one kind. Pure.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from kvctl.output import size_text
from kvctl.traces.critical_path import Part, Step
from kvctl.traces.node import Node
from kvctl.traces.related import DISK_STALL, ELECTION, EVENTUAL_APPLY, LOG_BATCH, is_background
from kvctl.traces.span import Span
from kvctl.traces.tree import Trace
from kvctl.traces.words import duration_words, listed, times

RECORDS_MANY = 64
"""In a group commit: so many are worth a word."""
_DISK = ("fsync", "log_write", "log_queue")


def causes_of(trace: Trace, request: Node, steps: Sequence[Step], parts: Sequence[Part]) -> Iterator[str]:
    """Facts behind the parts of a request's time that are told of, the most important first."""
    nodes = list(request.walk())
    yield from _attempts(nodes)
    yield from _elections(trace.related, parts)
    yield from _needed_follower(nodes, steps, parts)
    yield from _failed_nodes(nodes, parts)
    yield from _stalls(trace.related, parts)
    yield from _writes_before(trace.related, nodes, parts)
    yield from _large_commits(nodes, parts)
    yield from _batches(nodes, parts)
    yield from _forwards(nodes, parts)
    yield from _supersession(trace.related)
    if is_background(request.span) and "kvnode.cause" in request.span.attributes:
        yield str(request.span.attributes["kvnode.cause"])


def _attempts(nodes: Iterable[Node]) -> Iterator[str]:
    errors = Counter(node.span.error or "an error" for node in nodes if node.stage == "client.pause")
    if errors:
        yield f"it was tried again after {listed([f'{error} ({times(count)})' for error, count in sorted(errors.items())])}"


def _elections(related: Iterable[Span], parts: Sequence[Part]) -> Iterator[str]:
    if not any(part.stage in ("leader_wait", "client.pause") for part in parts):
        return
    for span in related:
        if span.name == ELECTION:
            attribute = span.attributes.get
            leader = attribute("kvnode.leader", span.node)
            term = f" in term {attribute('kvnode.term')}" if "kvnode.term" in span.attributes else ""
            after = f" after {attribute('kvnode.leader.previous')}" if attribute("kvnode.leader.previous") else ""
            cause = f": {attribute('kvnode.cause')}" if attribute("kvnode.cause") else ""
            yield f"{leader} was elected leader of shard {attribute('kvnode.shard')}{after}{term}{cause}"


def _needed_follower(nodes: Iterable[Node], steps: Iterable[Step], parts: Sequence[Part]) -> Iterator[str]:
    """Why a quorum waited for just this follower: of the longest such wait that is told of."""
    nodes = list(nodes)
    waited = {id(step.node): step.self_ns for step in steps if step.part in parts}
    told: list[tuple[int, Node, Node, Node]] = []
    for server in nodes:
        for quorum in server.children:
            for needed in quorum.children if quorum.stage == "quorum" else ():
                ns = sum(waited.get(id(node), 0) for node in needed.walk())
                told += [(ns, server, quorum, needed)] if ns else []
    if not told:
        yield from _needed_leader(nodes, waited)
        return
    _, server, quorum, needed = max(told, key=lambda one: one[0])
    failed = [name for name in server.span.attributes.get("kvnode.nodes.failed") or () if name != needed.where]
    others = [child for child in server.children if child.stage == "append" and child.where != needed.where]
    clearly = quorum.end_ns + needed.span.duration_ns // 10
    later = [f"{one.where} ({duration_words(one.duration_ns)})" for one in others if one.end_ns > clearly]
    if failed:
        yield f"{_were(failed)} FAILED, so {needed.where} was needed for the quorum"
    elif later:
        yield f"{needed.where} answered first ({duration_words(needed.span.duration_ns)}), before {listed(later)}"


def _needed_leader(nodes: Iterable[Node], waited: Mapping[int, int]) -> Iterator[str]:
    """Why a leader's own disk was waited for: with others FAILED, followers alone are no majority."""
    for server in nodes:
        failed = [name for name in server.span.attributes.get("kvnode.nodes.failed") or () if name != server.where]
        own = [node for child in server.children if child.stage in ("log_queue", "log_write") for node in child.walk()]
        if failed and any(id(node) in waited for node in own):
            yield f"{_were(failed)} FAILED, so the disk of {server.where} itself was needed for the quorum"
            return


def _failed_nodes(nodes: Iterable[Node], parts: Sequence[Part]) -> Iterator[str]:
    """Who could not answer, where it is not recorded who did."""
    if any(part.stage in ("read_index", "quorum", "acks") for part in parts):
        failed = sorted({str(name) for node in nodes for name in node.span.attributes.get("kvnode.nodes.failed") or ()})
        if failed:
            yield f"{_were(failed)} FAILED then"


def _were(names: Sequence[str]) -> str:
    return f"{listed(names)} {'was' if len(names) == 1 else 'were'}"


def _stalls(related: Iterable[Span], parts: Sequence[Part]) -> Iterator[str]:
    for span in related:
        if span.name == DISK_STALL and any(part.where == span.node and part.stage in _DISK for part in parts):
            yield f"the disk of {span.node} stalled for {duration_words(span.duration_ns)}"


def _writes_before(related: Iterable[Span], nodes: Iterable[Node], parts: Sequence[Part]) -> Iterator[str]:
    """What a write of the log waited behind."""
    places = {part.where for part in parts if part.stage == "log_queue"}
    own = {node.span.batch_id for node in nodes if node.stage == "log_write"}
    before = [span for span in related if span.name == LOG_BATCH and span.node in places and span.batch_id not in own]
    if before:
        longest = max(before, key=lambda span: (span.duration_ns, span.batch_id))
        records = int(longest.number("kvnode.batch.records"))
        fsync = duration_words(longest.number("kvnode.log.fsync_us") * 1000)
        took = duration_words(longest.duration_ns)
        yield f"the group commit before it ({records:,} records) took {took}, {fsync} of it fsync"


def _large_commits(nodes: Iterable[Node], parts: Sequence[Part]) -> Iterator[str]:
    places = {part.where for part in parts if part.stage in ("fsync", "log_write")}
    for node in nodes:
        records = int(node.span.number("kvnode.batch.records"))
        if node.stage == "log_write" and not node.derived and node.where in places and records >= RECORDS_MANY:
            size = int(node.span.number("kvnode.batch.size_bytes"))
            yield f"its group commit on {node.where} held {records:,} records" + (f", {size_text(size)}" if size else "")


def _batches(nodes: Iterable[Node], parts: Sequence[Part]) -> Iterator[str]:
    if any(part.stage in ("batch", "client.call", "operations") for part in parts):
        sizes = [int(node.span.number("kvnode.batch.size")) for node in nodes if node.stage == "client.call"]
        if max(sizes, default=0) > 1:
            yield f"it travelled in a batch of {max(sizes):,} operations"


def _forwards(nodes: Iterable[Node], parts: Sequence[Part]) -> Iterator[str]:
    if any(part.stage in ("forward", "network") for part in parts):
        ways = [(node.span.node, node.where) for node in nodes if node.stage == "forward"]
        yield from dict.fromkeys(f"{by} forwarded it" + (f" to {to}" if to != by else "") for by, to in ways)


def _supersession(related: Iterable[Span]) -> Iterator[str]:
    """What became of an eventual write, as the first node saw it."""
    for span in related:
        if span.name == EVENTUAL_APPLY and span.attributes.get("kvnode.outcome") == "superseded":
            reason = str(span.attributes.get("kvnode.cause", "")).removeprefix("SUPERSEDED_REASON_")
            yield f"it was superseded{f' ({reason})' if reason else ''} and took no effect"
            return
