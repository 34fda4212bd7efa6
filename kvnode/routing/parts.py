"""What a transaction's request means for each shard, and one answer from the shards' answers; pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from kvapi.v1 import kv_pb2, two_phase_commit_pb2
from kvclient.hashing import anchor_key, hashed_part
from kvnode import limits
from kvnode.routing.shard_map import ShardMap
from kvnode.shard.evaluate import Operations, Results, writes_of
from kvnode.types import Shard


class Place(NamedTuple):
    """Where one operation's answer, or a part of it, comes from."""

    shard: Shard
    number: int
    """Among the shard's operations of the branch."""


@dataclass(frozen=True, slots=True)
class Parts:
    """A request, by shard."""

    parts: dict[Shard, two_phase_commit_pb2.TransactionPart]
    anchor: Shard
    then: list[list[Place]]
    """For each operation of the branch; a range may have a part in each shard."""
    otherwise: list[list[Place]]
    reads_only: bool


def split(request: kv_pb2.TxnRequest, shard_map: ShardMap) -> Parts:
    """A checked request, by shard; its anchor is the same in every attempt."""
    parts: dict[Shard, two_phase_commit_pb2.TransactionPart] = {}

    def part_of(shard: Shard) -> two_phase_commit_pb2.TransactionPart:
        return parts.setdefault(shard, two_phase_commit_pb2.TransactionPart())

    for compare in request.compare:
        part_of(shard_map.shard_of(compare.key)).compare.append(compare)

    def places(operations: Operations, branch: Callable[[two_phase_commit_pb2.TransactionPart], object]) -> list[list[Place]]:
        found = []
        for operation in operations:
            where = []
            for shard in _shards_of(operation, shard_map):
                own: list[kv_pb2.BatchOperation] = branch(part_of(shard))  # type: ignore[assignment]
                where.append(Place(shard, len(own)))
                own.append(operation)
            found.append(where)
        return found

    then = places(request.then, lambda part: part.then)
    otherwise = places(request.otherwise, lambda part: part.otherwise)
    first = anchor_key(request)
    anchor = shard_map.shard_of(first)
    if anchor not in parts:  # the first range's prefix: no key of its own
        anchor = min(parts)
    reads_only = not any(True for branch in (request.then, request.otherwise) for _ in writes_of(branch))
    return Parts(dict(sorted(parts.items())), anchor, then, otherwise, reads_only)


def _shards_of(operation: kv_pb2.BatchOperation, shard_map: ShardMap) -> list[Shard]:
    which = operation.WhichOneof("operation")
    if which == "put":
        return [shard_map.shard_of(operation.put.key)]
    if which == "delete":
        return [shard_map.shard_of(operation.delete.key)]
    if which == "get":
        return [shard_map.shard_of(operation.get.key)]
    prefix = operation.range.prefix
    # A complete {tag} in the prefix decides the shard of every key in the range.
    return [shard_map.shard_of(prefix)] if hashed_part(prefix) != prefix else list(range(shard_map.shards))


class ShardResults(NamedTuple):
    """What one shard's operations answer, in each branch."""

    then: Results
    otherwise: Results


def joined(
    request: kv_pb2.TxnRequest, parts: Parts, succeeded: bool, found: Mapping[Shard, ShardResults]
) -> kv_pb2.TxnResponse:
    """The client's answer, without what was served."""
    response = kv_pb2.TxnResponse(succeeded=succeeded)
    operations = request.then if succeeded else request.otherwise
    for operation, places in zip(operations, parts.then if succeeded else parts.otherwise, strict=True):
        results = [(found[place.shard].then if succeeded else found[place.shard].otherwise)[place.number] for place in places]
        if len(results) == 1:
            response.results.append(results[0])
        else:
            merged = _merged([result.range for result in results], operation.range.limit or limits.RANGE_LIMIT_DEFAULT)
            response.results.append(kv_pb2.BatchResult(range=merged))
    return response


def _merged(pages: list[kv_pb2.RangeResponse], limit: int) -> kv_pb2.RangeResponse:
    """One page from the shards' pages, in key order; it ends where the first cut page ends."""
    known_to = min((page.next_page_token for page in pages if page.next_page_token), default=None)
    items = sorted((item for page in pages for item in page.items), key=lambda item: item.key)
    if known_to is not None:
        items = [item for item in items if item.key <= known_to]
    response = kv_pb2.RangeResponse(items=items[:limit], count=min(limit, len(items)))
    if len(items) > limit:
        response.next_page_token = items[limit - 1].key
    elif known_to is not None:
        response.next_page_token = known_to
    return response
