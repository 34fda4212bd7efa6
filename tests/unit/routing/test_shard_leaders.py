"""Requests of two-phase commit on their way to a shard's leader: found, repeated, and what is known when the time is over."""

from __future__ import annotations

import random
from typing import Any

import pytest

from kvapi.v1 import two_phase_commit_pb2
from kvnode.errors import (
    Corrupt,
    DeadlineExpired,
    InvalidRequest,
    KvnodeError,
    NoLeader,
    NotLeader,
    OutcomeUnknown,
    Overloaded,
    StaleShardMap,
    Unavailable,
)
from kvnode.routing.shard_leaders import ATTEMPT_MAX, InDoubt, NotAsked, ShardLeaders
from kvnode.routing.shard_map import ShardMap
from kvnode.runtime.envelope import Envelopes
from kvnode.runtime.transport import PeerUnreachable
from tests.sim.loop import run

NODES = ("1", "2", "3")
REQUEST = two_phase_commit_pb2.ResolveRequest
ANSWER = two_phase_commit_pb2.ResolveResponse()
LOST, REFUSED = PeerUnreachable("lost"), PeerUnreachable("nobody listens", refused=True)


class World:
    """Node "1" asks; what the others, and its own handler, answer is scripted, the last one for ever."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.asked: list[str] = []
        self.timeouts: list[float] = []
        self.leader = "2"
        self.ended_at = 0.0

    def _next(self, node: str, timeout: float) -> Any:
        self.asked.append(node)
        self.timeouts.append(timeout)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, BaseException):
            raise answer
        return answer

    async def call(self, to: str, request: Any, timeout: float) -> Any:
        """A peer's answer; the transport's interface."""
        assert request.message.to_node == to
        return self._next(to, timeout)

    def ask(self, seconds: float = 3.0) -> Any:
        """Asks the leader of shard 0 within the seconds; returns the answer, or the error that was raised."""

        async def main(loop: Any) -> Any:
            async def handler(request: Any, deadline: float) -> Any:
                return self._next("1", deadline - loop.time())

            shard_map = ShardMap(1, dict.fromkeys(NODES, "h:1"), (NODES,))
            envelopes = Envelopes("1", "c", "u", 1, dict.fromkeys(NODES, ""), lambda: 1, lambda stamp: True)
            transport: Any = self
            leaders = ShardLeaders(
                "1", shard_map, lambda shard: self.leader, {REQUEST: handler}, envelopes, transport, loop, random.Random(1)
            )
            try:
                return await leaders.ask(0, REQUEST(shard=0), loop.time() + seconds)
            except (KvnodeError, NotAsked) as error:
                return error
            finally:
                self.ended_at = loop.time()

        return run(main, 1, until=60.0)


def test_request_to_a_known_leader_is_asked_once() -> None:
    """Its answer is the answer; it has at most so long that another leader may be tried."""
    world = World(ANSWER)
    assert (world.ask(9.0), world.asked, world.timeouts) == (ANSWER, ["2"], [ATTEMPT_MAX])


def test_request_to_a_shard_that_this_node_leads_goes_to_its_handler() -> None:
    """Without a message; within the same time."""
    world = World(ANSWER)
    world.leader = "1"
    assert (world.ask(0.5), world.asked) == (ANSWER, ["1"])
    assert world.timeouts == [pytest.approx(0.5)]


@pytest.mark.parametrize(
    "error",
    [
        NoLeader("n"),
        NotLeader("n"),
        StaleShardMap("n"),
        Unavailable("n"),
        OutcomeUnknown("n"),
        Overloaded("n"),
        DeadlineExpired("n"),
        LOST,
        REFUSED,
    ],
)
def test_request_that_another_attempt_may_mend_is_repeated(error: BaseException) -> None:
    """Every request of the protocol may be."""
    world = World(error, error, ANSWER)
    assert (world.ask(), len(world.asked)) == (ANSWER, 3)


@pytest.mark.parametrize("error", [InvalidRequest("then", "too much"), Corrupt("c")])
def test_error_that_no_other_attempt_would_mend_is_raised(error: KvnodeError) -> None:
    """At once, and as it is."""
    world = World(error)
    assert (world.ask(), len(world.asked)) == (error, 1)


@pytest.mark.parametrize(
    ("errors", "kind"),
    [
        ([NoLeader("n")], NotAsked),
        ([DeadlineExpired("n")], NotAsked),
        ([Overloaded("n")], NotAsked),
        ([REFUSED], NotAsked),
        ([LOST], InDoubt),
        ([OutcomeUnknown("n")], InDoubt),
        ([LOST, NoLeader("n")], InDoubt),
        ([NoLeader("n"), OutcomeUnknown("n"), REFUSED], InDoubt),
        ([LOST, InvalidRequest("f", "refused")], InDoubt),
        ([OutcomeUnknown("n"), Corrupt("c")], InDoubt),
        ([KvnodeError("an error that nobody foresaw")], InDoubt),
    ],
)
def test_request_out_of_time_says_whether_an_attempt_may_be_in_a_log(errors: list[BaseException], kind: type[NotAsked]) -> None:
    """One lost answer is enough, whatever was said since; a COMMIT in doubt must not be followed by an ABORT."""
    world = World(*errors)
    outcome = world.ask()
    assert type(outcome) is kind
    assert outcome.why.startswith("shard 0: ")


def test_request_answered_after_a_doubt_is_answered() -> None:
    """What stands is the answer, and there is no doubt any more."""
    assert World(LOST, OutcomeUnknown("n"), ANSWER).ask() == ANSWER


def test_request_without_any_time_is_not_asked() -> None:
    """And says so."""
    world = World(ANSWER)
    assert (type(world.ask(0.0)), world.asked) == (NotAsked, [])


def test_request_out_of_time_ends_at_that_time() -> None:
    """The last pause is cut short, the last attempts too; and the asker never hammers."""
    world = World(NoLeader("n"))
    assert isinstance(world.ask(1.0), NotAsked)
    assert world.ended_at == pytest.approx(1.0)
    assert 5 <= len(world.asked) <= 60
    assert all(0 < timeout <= 1.0 for timeout in world.timeouts)


def test_request_without_a_known_leader_goes_to_the_one_that_a_replica_names() -> None:
    """And stays with it as long as it answers for the shard."""
    world = World(NotLeader("n", leader_name="3"), NoLeader("n"), ANSWER)
    world.leader = ""
    assert (world.ask(), world.asked[1:]) == (ANSWER, ["3", "3"])


def test_name_of_a_leader_that_is_no_member_is_no_hint() -> None:
    """It cannot be called."""
    world = World(NotLeader("n", leader_name="stranger"), ANSWER)
    world.leader = ""
    assert world.ask() == ANSWER
    assert all(node in NODES for node in world.asked)


@pytest.mark.parametrize("error", [LOST, NotLeader("n"), StaleShardMap("n"), DeadlineExpired("n")])
def test_leader_that_was_named_and_does_not_lead_is_not_asked_again_next(error: BaseException) -> None:
    """Another replica may know better."""
    world = World(NotLeader("n", leader_name="3"), error, ANSWER)
    world.leader = ""
    assert world.ask() == ANSWER
    assert world.asked[1] == "3"
    assert world.asked[2] != "3"


def test_request_without_a_known_leader_tries_another_replica_each_time() -> None:
    """All are asked in the end."""
    world = World(NoLeader("n"))
    world.leader = ""
    world.ask()
    assert all(one != other for one, other in zip(world.asked, world.asked[1:], strict=False))
    assert sorted(set(world.asked)) == list(NODES)


def test_shard_with_one_replica_is_asked_there_again() -> None:
    """There is no other."""

    async def main(loop: Any) -> Any:
        world = World(NoLeader("n"), ANSWER)
        transport: Any = world
        envelopes = Envelopes("1", "c", "u", 1, dict.fromkeys(NODES, ""), lambda: 1, lambda stamp: True)
        shard_map = ShardMap(1, dict.fromkeys(NODES, "h:1"), (("3",),))
        leaders = ShardLeaders("1", shard_map, lambda shard: "", {}, envelopes, transport, loop, random.Random(1))
        return await leaders.ask(0, REQUEST(), loop.time() + 1.0), world.asked

    assert run(main, 1, until=60.0) == (ANSWER, ["3", "3"])
