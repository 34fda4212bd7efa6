"""The envelope of every peer message: who sends, to whom, in which cluster and incarnation; checked on arrival."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from kvapi.v1 import message_pb2
from kvnode.errors import RESTORE, InvalidRequest, WrongCluster
from kvnode.types import Hlc, NodeName

PROTOCOL_VERSION = 2
"""Of the peer protocols and the log's entries; nodes of different versions refuse each other. 2: transactions."""

UID_SIZE_MAX = 128
"""Characters of a data directory's id."""

HEARTBEAT, DATA = message_pb2.MESSAGE_TYPE_HEARTBEAT, message_pb2.MESSAGE_TYPE_DATA
CONTROL, ELECTION = message_pb2.MESSAGE_TYPE_CONTROL, message_pb2.MESSAGE_TYPE_ELECTION

TYPES: Mapping[str, message_pb2.MessageType] = {
    "HeartbeatRequest": HEARTBEAT,
    "HeartbeatResponse": HEARTBEAT,
    "RequestVoteRequest": ELECTION,
    "RequestVoteResponse": ELECTION,
    "TimeoutNowRequest": ELECTION,
    "TimeoutNowResponse": ELECTION,
    "AppendRequest": DATA,
    "AppendResponse": DATA,
    "InstallSnapshotRequest": DATA,
    "InstallSnapshotResponse": DATA,
    "ReplicateEventualRequest": DATA,
    "ReplicateEventualResponse": DATA,
    "PrepareRequest": DATA,
    "PrepareResponse": DATA,
    "DecideRequest": DATA,
    "DecideResponse": DATA,
    "ResolveRequest": DATA,
    "ResolveResponse": DATA,
    "CollectRequest": DATA,
    "CollectResponse": DATA,
}
"""Everything else is CONTROL."""


@dataclass(slots=True)
class Envelopes:
    """Stamps what leaves and checks what arrives."""

    me: NodeName
    cluster_id: str
    uid: str
    incarnation: int
    members: Mapping[NodeName, str]
    clock: Callable[[], Hlc]
    observe: Callable[[Hlc], bool]
    peer_uids: dict[NodeName, str] = field(default_factory=dict)
    """Data directory of each peer as first seen: another one under the same name is another node."""
    on_new_uid: Callable[[], None] = lambda: None
    _next_id: int = 0

    def seal(self, to: NodeName, message: Any) -> Any:
        """Fills the envelope of a request or an answer for `to`."""
        self._next_id += 1
        envelope = message.message
        envelope.id = self._next_id
        envelope.from_node, envelope.to_node = self.me, to
        envelope.type = TYPES.get(type(message).__name__, CONTROL)
        envelope.sent_at = self.clock()
        envelope.cluster_id, envelope.protocol_version = self.cluster_id, PROTOCOL_VERSION
        envelope.from_incarnation, envelope.from_uid = self.incarnation, self.uid
        return message

    def check(self, envelope: message_pb2.Message) -> None:
        """Raises `WrongCluster` for a message that is not for this node, or not from a member."""
        sender = envelope.from_node
        if envelope.cluster_id != self.cluster_id:
            raise WrongCluster(
                f"{self.me} belongs to cluster {self.cluster_id}, the message of {sender[:64] or 'an unnamed node'} to "
                f"{envelope.cluster_id[:64] or 'none'}: check cluster.id and cluster.members in both configurations"
            )
        if envelope.protocol_version != PROTOCOL_VERSION:
            raise WrongCluster(
                f"{sender[:64]} speaks version {envelope.protocol_version} of the peer protocols, {self.me} version "
                f"{PROTOCOL_VERSION}: run the same release on all nodes"
            )
        if envelope.to_node != self.me:
            raise WrongCluster(
                f"this is {self.me}, the message is for {envelope.to_node[:64]!r}: check the addresses in cluster.members"
            )
        if sender not in self.members or sender == self.me:
            raise WrongCluster(f"{sender[:64]!r} is no peer of {self.me}: its members are {', '.join(self.members)}")
        if not 0 < len(envelope.from_uid) <= UID_SIZE_MAX:
            raise InvalidRequest(
                "message.from_uid", f"{sender} names no data directory: it is its name for ever, once it is known"
            )
        known = self.peer_uids.get(sender)
        if known is None:
            self.peer_uids[sender] = envelope.from_uid
            self.on_new_uid()
        elif known != envelope.from_uid:
            raise WrongCluster(
                f"{sender} comes with data directory {envelope.from_uid}, not with {known} as before: a lost disk makes a new "
                f"node, which must not vote under the old name; {RESTORE} (members cannot be replaced in this release)"
            )
        self.observe(envelope.sent_at)
