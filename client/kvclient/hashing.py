"""Key to shard: the one function that clients and servers must compute alike.

Owns nothing but the rule, and imports nothing but the hash, so that the server uses this very module. The name of the rule,
`KEY_HASH`, is in every topology: a client that does not know a cluster's rule leaves routing to the nodes.

Invariant: the result for a given key and number of shards never changes; a change is a new rule under a new name.
"""

from __future__ import annotations

import xxhash

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
