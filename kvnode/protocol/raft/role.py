"""The parts a node can play in one shard."""

from __future__ import annotations

import enum

from kvapi.v1 import replication_pb2

ENTRY_COMMAND = int(replication_pb2.ENTRY_KIND_COMMAND)
"""Kind of an entry that carries a `Command`."""


class Role(enum.Enum):
    """A node's part in one shard."""

    FOLLOWER = "follower"
    PRE_CANDIDATE = "pre-candidate"
    CANDIDATE = "candidate"
    LEADER = "leader"
