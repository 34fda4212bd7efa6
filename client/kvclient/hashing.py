"""Key to shard, and transaction to key: the functions that clients and servers must compute alike.

Owns nothing but the rules, and imports nothing but the hash, so that the server uses this very module. The name of the rule for
keys, `KEY_HASH`, is in every topology: a client that does not know a cluster's rule leaves routing to the nodes.

Invariant: the result for a given key and number of shards, or a given transaction, never changes; a change is a new rule under
a new name.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import xxhash

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kvapi.v1 import kv_pb2

KEY_HASH = "xxh3-64/tag"
"""`TopologyResponse.key_hash` of the rule below."""


def hashed_part(key: bytes) -> bytes:
    """The bytes that decide a key's shard: what is between the first `{` and the next `}`, if that is not empty, else all.

    Source: Redis Cluster specification, "Hash tags".
    """
    opening = key.find(b"{")
    if opening < 0:
        return key
    closing = key.find(b"}", opening + 1)
    if closing <= opening + 1:
        return key
    return key[opening + 1 : closing]


def shard_of(key: bytes, shards: int) -> int:
    """The shard of `key`, from 0 to `shards` - 1: XXH3-64 (seed 0) of the hashed part, modulo the number of shards."""
    return xxhash.xxh3_64_intdigest(hashed_part(key)) % shards


def anchor_key(request: kv_pb2.TxnRequest) -> bytes:
    """The key whose shard coordinates a transaction and remembers what came of it: the same in every attempt.

    The first key that `then` writes; else the first that `else` writes, that is compared, that `then` reads, that `else` reads;
    else the prefix of the first range.
    """
    branches: tuple[Sequence[kv_pb2.BatchOperation], ...] = (request.then, request.otherwise)
    for branch in branches:
        for key in _keys(branch, ("put", "delete")):
            return key
    for compare in request.compare:
        return compare.key or compare.key_text.encode()
    for branch in branches:
        for key in _keys(branch, ("get",)):
            return key
    for branch in branches:
        for operation in branch:
            if operation.HasField("range"):
                return operation.range.prefix or operation.range.prefix_text.encode()
    return b""


def _keys(branch: Sequence[kv_pb2.BatchOperation], kinds: tuple[str, ...]) -> Iterator[bytes]:
    """The keys of a branch's operations of these kinds, in order."""
    for operation in branch:
        kind = operation.WhichOneof("operation")
        if kind in kinds:
            one = getattr(operation, kind)
            yield one.key or one.key_text.encode()
