"""Whether an eventual write takes effect at its place in the log. One pure function, the same on every replica.

The same function decides what a replica shows of the writes it holds, so that a tentative value is what would be applied
if nothing else came first.
"""

from __future__ import annotations

from typing import NamedTuple

from kvapi.v1 import kv_pb2
from kvnode.types import Hlc, Index, NodeName

STRONG_WRITE = kv_pb2.SUPERSEDED_REASON_STRONG_WRITE
LATER_WRITE = kv_pb2.SUPERSEDED_REASON_LATER_WRITE
HORIZON = kv_pb2.SUPERSEDED_REASON_HORIZON


class Stamp(NamedTuple):
    """Order of eventual writes to one key: last writer wins by (HLC, origin)."""

    hlc: Hlc
    node: NodeName
    incarnation: int


class Current(NamedTuple):
    """What the verdict needs to know of a key's present version, a tombstone's too."""

    stamp: Stamp
    revision: Index
    strong_index: Index
    """Log index of the key's last strong write. A key whose deletion was collected counts as written at the horizon."""


class Superseded(NamedTuple):
    """The write takes no effect."""

    reason: kv_pb2.SupersededReason
    by: Index
    """Log index of what won; 0 where that is not remembered."""


def verdict(stamp: Stamp, base: Index, current: Current | None, horizon: Index) -> Superseded | None:
    """None: the write takes effect. DESIGN section 9, rules 4 and 5.

    `base` is the log index that the accepting replica had applied, `horizon` the index up to which deletions are forgotten.
    """
    if current is None:
        return Superseded(HORIZON, 0) if base < horizon else None
    if current.strong_index > base:
        # (A transaction's write over several shards has the revision of its vote. A strong write that an eventual one has
        # replaced since is known by its place only.)
        return Superseded(STRONG_WRITE, current.strong_index if current.stamp.node else current.revision)
    if stamp < current.stamp:
        return Superseded(LATER_WRITE, current.revision)
    return None
