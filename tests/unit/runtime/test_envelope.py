"""The envelope: who may talk to this node."""

from __future__ import annotations

import itertools

import pytest

from kvapi.v1 import election_pb2, failure_detection_pb2, message_pb2, replication_pb2
from kvnode.errors import InvalidRequest, WrongCluster
from kvnode.runtime.envelope import PROTOCOL_VERSION, Envelopes

MEMBERS = {"a": "h:1", "b": "h:2", "c": "h:3"}


def envelopes(me: str = "a", **fields: object) -> Envelopes:
    """A member's."""
    numbers = itertools.count(1)
    options: dict[str, object] = {"cluster_id": "c1", "uid": f"uid-{me}", "incarnation": 2, **fields}
    return Envelopes(me=me, members=MEMBERS, clock=lambda: next(numbers), observe=lambda stamp: True, **options)  # type: ignore[arg-type]


def sealed(**changes: object) -> message_pb2.Message:
    """b's message to a, with changes."""
    message = envelopes("b").seal("a", replication_pb2.AppendRequest()).message
    for name, value in changes.items():
        setattr(message, name, value)
    return message  # type: ignore[no-any-return]


def test_sealed_message_of_a_member_is_taken() -> None:
    """Everything that the envelope promises is in it."""
    message = sealed()
    envelopes().check(message)
    assert (message.from_node, message.to_node, message.from_incarnation, message.from_uid) == ("b", "a", 2, "uid-b")
    assert (message.type, message.protocol_version, message.id) == (message_pb2.MESSAGE_TYPE_DATA, PROTOCOL_VERSION, 1)


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        (failure_detection_pb2.HeartbeatRequest(), message_pb2.MESSAGE_TYPE_HEARTBEAT),
        (election_pb2.RequestVoteRequest(), message_pb2.MESSAGE_TYPE_ELECTION),
        (replication_pb2.ReadIndexRequest(), message_pb2.MESSAGE_TYPE_CONTROL),
        (replication_pb2.ReplicateEventualRequest(), message_pb2.MESSAGE_TYPE_DATA),
    ],
)
def test_sealed_message_has_the_type_of_its_protocol(message: object, kind: int) -> None:
    """It decides the queue, never the meaning."""
    assert envelopes().seal("b", message).message.type == kind


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"cluster_id": "other"}, "belongs to cluster c1"),
        ({"cluster_id": ""}, "none"),
        ({"protocol_version": 99}, "same release"),
        ({"to_node": "c"}, "this is a"),
        ({"from_node": "z"}, "no peer of a"),
        ({"from_node": "a"}, "no peer of a"),
        ({"from_node": ""}, "no peer of a"),
    ],
)
def test_message_of_a_stranger_is_refused_with_the_reason(changes: dict[str, object], says: str) -> None:
    """What happened, to whom, and what to do."""
    with pytest.raises(WrongCluster, match=says):
        envelopes().check(sealed(**changes))


def test_member_that_comes_back_without_its_disk_is_refused() -> None:
    """It may have voted, and does not know: another directory under the same name is another node."""
    mine = envelopes()
    found: list[str] = []
    mine.on_new_uid = lambda: found.append("saved")
    mine.check(sealed())
    mine.check(sealed())
    assert found == ["saved"]
    with pytest.raises(WrongCluster, match="lost disk"):
        mine.check(sealed(from_uid="uid-new"))


def test_refused_message_moves_neither_clock_nor_memory() -> None:
    """A stranger must not drag the clock along, or claim a name."""
    seen: list[int] = []
    mine = envelopes()
    mine.observe = lambda stamp: bool(seen.append(stamp)) or True
    with pytest.raises(WrongCluster):
        mine.check(sealed(cluster_id="other"))
    assert (seen, mine.peer_uids) == ([], {})
    mine.check(sealed(sent_at=77))
    assert seen == [77]


@pytest.mark.parametrize("uid", ["", "u" * 200])
def test_member_without_a_data_directory_claims_no_name(uid: str) -> None:
    """Its first message would be remembered for ever, and refuse the true member from then on."""
    mine = envelopes()
    with pytest.raises(InvalidRequest, match="from_uid"):
        mine.check(sealed(from_uid=uid))
    assert not mine.peer_uids
