"""What is looked at from inside: each check passes what is right, and names what is not."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from kvapi.v1 import election_pb2, kv_pb2, message_pb2, two_phase_commit_pb2
from kvnode.protocol.raft.role import Role
from kvnode.storage.records import HardStateRecord

from .durable import DurableShard
from .history import Violation
from .promises import Promises
from .recorded import all_with, get, put
from .transaction_promises import Footprint, TransactionPromises


class FakeWorld:
    """Three nodes, of which each has a disk model and perhaps a process."""

    def __init__(self) -> None:
        self.rules: list[str] = []
        self.nodes: dict[str, Any] = {name: self._node(name) for name in ("n1", "n2", "n3")}

    @staticmethod
    def _node(name: str) -> Any:
        model = DurableShard()
        durable = SimpleNamespace(model=model, shard=lambda shard: model)
        return SimpleNamespace(name=name, life=1, lost=False, durable=durable, former=None, node=None)

    def violate(self, rule: str, message: str) -> None:
        """Notes the rule."""
        self.rules.append(rule)

    def vote(self, name: str, term: int, vote: str) -> None:
        """The node's disk has this vote."""
        model = self.nodes[name].durable.model
        model.term, model.vote = term, vote


def leader(term: int, commit: int, terms: dict[int, int] | None = None) -> Any:
    """A replica that leads; of its log the terms of some entries are known."""
    log = SimpleNamespace(term=lambda index: (terms or {}).get(index))
    raft = SimpleNamespace(role=Role.LEADER, term=term, commit=commit, log=log, voters=("n1", "n2", "n3"))
    return SimpleNamespace(shard=0, raft=raft)


@pytest.mark.parametrize(
    ("votes", "passes"),
    [
        ({"n1": (5, "n1"), "n2": (5, "n1")}, True),
        ({"n1": (5, "n1"), "n3": (6, "n2")}, True),
        ({"n1": (5, "n1"), "n2": (5, "n2")}, False),
        ({"n1": (4, ""), "n2": (5, "n1"), "n3": (5, "n1")}, False),
    ],
    ids=["two votes", "one went on to a later term", "only its own", "not its own"],
)
def test_leader_without_a_majoritys_durable_votes_is_found(votes: dict[str, tuple[int, str]], passes: bool) -> None:
    """Whoever begins to lead has the votes of a majority on their disks, and its own on its own."""
    world = FakeWorld()
    for name, (term, vote) in votes.items():
        world.vote(name, term, vote)
    Promises(world)._check_leader(world.nodes["n1"], leader(5, 10))  # type: ignore[arg-type]
    assert (world.rules == []) == passes


@pytest.mark.parametrize(("term", "passes"), [(5, True), (4, False)])
def test_leader_that_commits_through_an_earlier_terms_entry_is_found(term: int, passes: bool) -> None:
    """From one look to the next a leader's commit index moves to an entry of its own term only."""
    world = FakeWorld()
    world.vote("n1", 5, "n1")
    world.vote("n2", 5, "n1")
    promises, sim = Promises(world), world.nodes["n1"]  # type: ignore[arg-type]
    promises._check_leader(sim, leader(5, 10, {10: 3}))
    promises._check_leader(sim, leader(5, 12, {12: term}))
    assert (world.rules == []) == passes


@pytest.mark.parametrize(
    ("term", "vote", "passes"),
    [(5, "n1", True), (6, "n2", True), (6, "", True), (5, "n2", False), (5, "", False), (4, "", False)],
)
def test_record_that_changes_a_vote_within_its_term_is_found(term: int, vote: str, passes: bool) -> None:
    """The disk has a vote for n1 in term 5."""
    world = FakeWorld()
    world.vote("n1", 5, "n1")
    Promises(world).check_records(world.nodes["n1"], [HardStateRecord(0, term, vote, 0)])  # type: ignore[arg-type]
    assert (world.rules == []) == passes


@pytest.mark.parametrize(("acks", "passes"), [(1, True), (2, True), (3, False)])
def test_eventual_write_that_fewer_hold_than_was_said_is_found(acks: int, passes: bool) -> None:
    """Two of three disks have it."""
    world = FakeWorld()
    for name in ("n1", "n3"):
        world.nodes[name].durable.model.eventual = {("n1", 1): {7: None}}
    Promises(world).check_copies(world.nodes["n1"], "0.n1.1.7", acks)  # type: ignore[arg-type]
    assert (world.rules == []) == passes


@pytest.mark.parametrize(
    ("key", "expected"),
    [(b"compared", True), (b"got", True), (b"put", True), (b"other branch", True), (b"pre.7", True), (b"else", False)],
)
def test_footprint_of_a_transaction_has_all_that_its_vote_rests_on(key: bytes, expected: bool) -> None:
    """Comparisons, both branches, and every key of a range, whether it exists or not."""
    part = two_phase_commit_pb2.TransactionPart(
        compare=[kv_pb2.Compare(key=b"compared")],
        then=[get(b"got"), put(b"put", b"1"), all_with(b"pre.")],
        otherwise=[put(b"other branch", b"1")],
    )
    assert Footprint(part).has(key) == expected


@pytest.mark.parametrize(
    ("ends", "rules", "missing"),
    [
        ([(0, True), (1, True)], [], 0),
        ([(0, False), (1, False)], [], 0),
        ([(0, True), (1, False)], ["a transaction ends alike in all its shards"], 1),
        ([(0, True)], [], 1),
    ],
    ids=["committed", "aborted", "both", "not everywhere"],
)
def test_transaction_that_ends_differently_or_not_everywhere_is_found(
    ends: list[tuple[int, bool]], rules: list[str], missing: int
) -> None:
    """A transaction of two shards, and what each of them made of it."""
    world = FakeWorld()
    promises = TransactionPromises(world)  # type: ignore[arg-type]
    for shard, committed in ends:
        promises._on_end(world.nodes["n1"], shard, (9, b"id"), committed, (0, 1))
    found = list(promises.check())
    assert world.rules == rules
    assert [type(one) for one in found] == [Violation] * missing


@pytest.mark.parametrize(
    ("on_disk", "at_arrival", "pre_vote", "passes"),
    [
        ((5, 11), (5, 11), False, True),
        ((6, 12), (5, 11), False, False),
        ((6, 12), (5, 11), True, True),
        ((6, 12), (6, 12), True, False),
    ],
    ids=["as complete", "vote for a shorter log", "pre-vote that waited for the disk", "pre-vote for a shorter log"],
)
def test_vote_for_a_log_that_lacks_what_is_on_the_disk_is_found(
    on_disk: tuple[int, int], at_arrival: tuple[int, int], pre_vote: bool, passes: bool
) -> None:
    """A vote is held against what is on the disk as it leaves, a pre-vote against what was there when the request came."""
    world = FakeWorld()
    model = world.nodes["n1"].durable.model
    model.last = on_disk[1]
    model.entries[on_disk[1]] = on_disk[0]
    request = election_pb2.RequestVoteRequest(
        message=message_pb2.Message(from_node="n2"), shard=0, term=7, last_log_term=5, last_log_index=11
    )
    response = election_pb2.RequestVoteResponse(shard=0, term=7, granted=True, pre_vote=pre_vote)
    promises: Any = Promises(world)  # type: ignore[arg-type]
    promises.check_vote(world.nodes["n1"], request, response, at_arrival)
    assert (not world.rules) is passes
