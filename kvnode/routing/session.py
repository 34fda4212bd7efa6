"""Session tokens: what a session has seen, so that no replica answers it with less.

A token names, for each shard, the log index that a replica must have applied, and the eventual writes that it must hold:
with both, reads see the session's own writes and never go back.
"""

from __future__ import annotations

from collections.abc import Iterable

from google.protobuf.message import DecodeError

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import InvalidRequest
from kvnode.shard.replica import Replica
from kvnode.types import Hlc, Index, Origin, Shard


def decode(token: bytes) -> kv_pb2.SessionToken:
    """Raises `InvalidRequest` for bytes that are no token.

    Clients join the tokens of overlapping operations by concatenation: a shard may come more than once.
    """
    if len(token) > limits.SESSION_TOKEN_SIZE_BYTES_MAX:
        raise InvalidRequest(
            "session", f"the token has {len(token)} bytes, at most {limits.SESSION_TOKEN_SIZE_BYTES_MAX} are taken"
        )
    return _parsed(token)


def _parsed(token: bytes) -> kv_pb2.SessionToken:
    try:
        return kv_pb2.SessionToken.FromString(token)
    except DecodeError as error:
        raise InvalidRequest("session", "these bytes are no session token; start a new session") from error


def position(token: kv_pb2.SessionToken, shard: Shard) -> kv_pb2.SessionPosition | None:
    """What the session has seen of the shard: the most of everything that the token says about it."""
    said = [p for p in token.positions if p.shard == shard]
    return _most(said) if said else None


def _by_shard(token: kv_pb2.SessionToken) -> dict[Shard, kv_pb2.SessionPosition]:
    """What the session has seen of each shard, in one pass: a token may name very many."""
    said: dict[Shard, list[kv_pb2.SessionPosition]] = {}
    for one in token.positions:
        said.setdefault(one.shard, []).append(one)
    return {shard: _most(positions) for shard, positions in said.items()}


def _most(said: list[kv_pb2.SessionPosition]) -> kv_pb2.SessionPosition:
    shard = said[0].shard
    if len(said) < 2:
        return said[0]
    merged = kv_pb2.SessionPosition(shard=shard, revision=max(p.revision for p in said), hlc=max(p.hlc for p in said))
    needed: dict[Origin, int] = {}
    for origin in (o for p in said for o in p.origins):
        known = Origin(origin.node, origin.incarnation)
        needed[known] = max(needed.get(known, 0), origin.sequence)
    for known, sequence in needed.items():
        merged.origins.add(node=known.node, incarnation=known.incarnation, sequence=sequence)
    return merged


def is_served_by(replica: Replica, seen: kv_pb2.SessionPosition | None) -> bool:
    """Whether the replica has everything that the session has seen of its shard."""
    if seen is None:
        return True
    if replica.applied < seen.revision:
        return False
    return all(_has(replica, Origin(o.node, o.incarnation), o.sequence) for o in seen.origins)


def _has(replica: Replica, origin: Origin, sequence: int) -> bool:
    return replica.machine.sequenced.get(origin, 0) >= sequence or replica.holder.shown(origin) >= sequence


def advance(token: bytes, replica: Replica, revision: Index, writes: dict[Origin, int], hlc: Hlc) -> bytes:
    """The token after an operation on the replica's shard that saw `revision`, eventual `writes` without a place yet, and a
    version stamped `hlc`."""
    if not token and not writes:
        return _plain(replica.shard, revision, hlc)
    before = decode(token) if token else kv_pb2.SessionToken()
    merged = kv_pb2.SessionToken()
    known = _by_shard(before)
    known.setdefault(replica.shard, kv_pb2.SessionPosition(shard=replica.shard))
    merged.positions.extend(known.values())
    seen = next(p for p in merged.positions if p.shard == replica.shard)
    seen.revision, seen.hlc = max(seen.revision, revision), max(seen.hlc, hlc)
    needed = {Origin(o.node, o.incarnation): o.sequence for o in seen.origins}
    for origin, sequence in writes.items():
        needed[origin] = max(needed.get(origin, 0), sequence)
    del seen.origins[:]
    for origin, sequence in needed.items():
        # A write that this replica applied is covered by an index that it has applied.
        if replica.machine.sequenced.get(origin, 0) >= sequence:
            seen.revision = max(seen.revision, replica.applied)
        else:
            seen.origins.add(node=origin.node, incarnation=origin.incarnation, sequence=sequence)
    return merged.SerializeToString()


def joined(tokens: Iterable[bytes]) -> bytes:
    """One token that covers all, each shard once."""
    whole = _parsed(b"".join(tokens))
    return kv_pb2.SessionToken(positions=_by_shard(whole).values()).SerializeToString()


def _plain(shard: Shard, revision: Index, hlc: Hlc) -> bytes:
    token = kv_pb2.SessionToken()
    token.positions.add(shard=shard, revision=revision, hlc=hlc)
    return token.SerializeToString()
