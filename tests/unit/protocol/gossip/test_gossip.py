"""Gossip between a few nodes, message by message."""

from __future__ import annotations

from random import Random

from kvapi.v1.gossip_pb2 import ExchangeRequest, ExchangeResponse, MemberDigest, MemberRecord
from kvapi.v1.message_pb2 import NODE_STATE_ACTIVE, NODE_STATE_INACTIVE, NODE_STATE_RECOVERING
from kvnode.limits import NODES_MAX
from kvnode.protocol.gossip import Coverage, Gossip, GossipSettings

NAMES = ("n1", "n2", "n3")


def node(name: str, names: tuple[str, ...] = NAMES, incarnation: int = 1, fanout: int = 2) -> Gossip:
    me = MemberRecord(name=name, address=f"{name}:7400", uid=f"u-{name}", incarnation=incarnation, state=NODE_STATE_ACTIVE)
    return Gossip(me, names, GossipSettings(fanout=fanout), Random(name))


def deliver(sender: str, request: ExchangeRequest, receiver: Gossip, now: float = 0.0) -> ExchangeResponse:
    """The request with its envelope, over a wire."""
    wired = ExchangeRequest.FromString(request.SerializeToString())
    wired.message.from_node = sender
    return receiver.on_exchange(wired, now)


def exchange(sender: Gossip, sender_name: str, receiver: Gossip, receiver_name: str, now: float) -> None:
    """One full exchange, with what was asked for in between."""
    for peer, request in sender.step(now).exchange:
        if peer == receiver_name:
            sender.on_exchange_response(peer, deliver(sender_name, request, receiver), now)
    for peer, request in sender.step(now).exchange:
        assert peer == receiver_name, "between rounds only what was asked for is sent"
        sender.on_exchange_response(peer, deliver(sender_name, request, receiver), now)


def known(gossip: Gossip, name: str) -> MemberRecord:
    record = gossip.member(name)
    assert record is not None
    return record


def idle(gossip: Gossip, now: float) -> float:
    """Lets all news be pushed into the void; returns the time after."""
    for _ in range(20):
        now += 10.0
        gossip.step(now)
    return now


def test_first_exchange_tells_both_about_each_other() -> None:
    """Push and pull: after one exchange both know both, and the sender knows that it is known."""
    n1, n2 = node("n1"), node("n2")
    exchange(n1, "n1", n2, "n2", now=0.0)
    assert known(n1, "n2") == known(n2, "n2")
    assert known(n2, "n1") == known(n1, "n1")
    assert n1.coverage() == Coverage(informed=1, peers=2)
    assert not n1.converged


def test_round_goes_to_every_peer_before_any_is_chosen_again() -> None:
    """Random order, nobody left out: over n-1 choices each peer comes exactly once."""
    names = tuple(f"n{n}" for n in range(1, 8))
    n1 = node("n1", names)
    now = 0.0
    for _ in range(3):
        cycle = []
        for turn in range(3):
            n1.update_self(leads=turn)
            cycle += [peer for peer, _ in n1.step(now).exchange]
            now += 1.1
        assert sorted(cycle) == sorted(names[1:])


def test_idle_rounds_carry_only_digests_and_come_rarely() -> None:
    """Without news: one peer, no records, five intervals apart; news brings the usual pace back."""
    n1, n2, n3 = (node(name) for name in NAMES)
    exchange(n1, "n1", n2, "n2", now=0.0)
    exchange(n1, "n1", n3, "n3", now=2.0)
    now = idle(n1, 2.0) + 10.0
    actions = n1.step(now)
    assert [len(request.records) for _, request in actions.exchange] == [0]
    assert len(actions.exchange[0][1].digests) >= 2
    assert actions.deadline is not None
    assert 4.5 < actions.deadline - now < 5.5
    assert n1.step(now + 1.2).exchange == ()
    n1.update_self(leads=3)
    pulled = n1.step(now + 1.2)
    assert [len(request.records) for _, request in pulled.exchange] == [1, 1]


def test_digests_alone_repair_what_pushes_missed() -> None:
    """When all pushes were lost, an idle round's digests still bring the news over, in both directions."""
    n1, n2 = node("n1", ("n1", "n2")), node("n2", ("n1", "n2"))
    n2.update_self(leads=4)
    now = max(idle(n1, 0.0), idle(n2, 0.0)) + 10.0
    exchange(n1, "n1", n2, "n2", now)
    assert known(n1, "n2").leads == 4
    assert known(n2, "n1") == known(n1, "n1")
    assert n1.converged


def test_update_self_with_a_change_grows_the_version_and_without_one_does_not() -> None:
    """State and leads are news always, load only when it changed much."""
    n1 = node("n1")
    versions = []
    for change in (
        {"state": NODE_STATE_ACTIVE},
        {"state": NODE_STATE_RECOVERING},
        {"leads": 2},
        {"leads": 2, "in_flight": 8},
        {"in_flight": 100},
        {"in_flight": 60},
        {"in_flight": 40},
    ):
        n1.update_self(**change)  # type: ignore[arg-type]
        versions.append(known(n1, "n1").version)
    assert versions == [2, 4, 6, 6, 8, 8, 10]
    assert known(n1, "n1").in_flight == 40


def test_suspicion_reaches_the_suspect_which_refutes_it_everywhere() -> None:
    """Its next word is above the suspicion, and wins wherever both are known."""
    n1, n2, n3 = (node(name) for name in NAMES)
    exchange(n2, "n2", n1, "n1", now=0.0)
    exchange(n2, "n2", n3, "n3", now=2.0)
    assert n1.report_suspicion("n2", "n1")
    assert not n1.report_suspicion("n2", "n3"), "already suspected"
    exchange(n1, "n1", n3, "n3", now=4.0)
    assert known(n3, "n2").suspected_by == "n1"
    exchange(n3, "n3", n2, "n2", now=6.0)
    exchange(n2, "n2", n3, "n3", now=8.0)
    exchange(n2, "n2", n1, "n1", now=10.0)
    for gossip in (n1, n2, n3):
        assert known(gossip, "n2").suspected_by == ""
        assert known(gossip, "n2").version == 4


def test_suspicion_seen_only_in_a_digest_is_refuted() -> None:
    """A digest about us that is above our own word is enough; the answer carries the refutation."""
    n2 = node("n2")
    response = deliver("n1", ExchangeRequest(digests=[MemberDigest(name="n2", incarnation=1, version=3)]), n2)
    assert [(record.name, record.version) for record in response.records] == [("n2", 4)]


def test_suspicion_seen_in_an_answer_is_refuted() -> None:
    """Answers carry no digests; the record itself provokes the next word."""
    n2 = node("n2")
    doubt = MemberRecord(name="n2", incarnation=1, version=3, suspected_by="n3")
    n2.on_exchange_response("n1", ExchangeResponse(records=[doubt]), 0.0)
    assert (known(n2, "n2").version, known(n2, "n2").suspected_by) == (4, "")


def test_suspicion_of_oneself_or_of_strangers_is_not_spread() -> None:
    """Nobody suspects itself by gossip, and nobody whom it does not know."""
    n1 = node("n1")
    assert not n1.report_suspicion("n1", "n2")
    assert not n1.report_suspicion("n2", "n1")


def test_record_of_another_life_under_our_name_is_not_taken() -> None:
    """A greater incarnation under our own name neither replaces our record nor starts an endless argument."""
    n1 = node("n1", incarnation=2)
    before = known(n1, "n1")
    claim = MemberRecord(name="n1", incarnation=9, version=2, state=NODE_STATE_INACTIVE)
    stale = MemberRecord(name="n1", incarnation=1, version=99, state=NODE_STATE_INACTIVE)
    deliver("n2", ExchangeRequest(records=[claim, stale]), n1)
    assert known(n1, "n1") == before


def test_record_that_is_older_or_repeated_changes_nothing() -> None:
    """Late and duplicate messages leave everything as it is, and are no news to pass on."""
    n1, n2 = node("n1"), node("n2")
    old = known(n2, "n2")
    n2.update_self(leads=5)
    new = known(n2, "n2")
    deliver("n2", ExchangeRequest(records=[new]), n1)
    now = idle(n1, 0.0) + 10.0
    deliver("n2", ExchangeRequest(records=[old, new]), n1)
    assert known(n1, "n2") == new
    assert all(not request.records for _, request in n1.step(now).exchange)


def test_coverage_with_a_repeated_answer_counts_only_what_it_proves() -> None:
    """An answer to an earlier exchange, come late or twice, does not prove that the latest word was heard."""
    n1, n2 = node("n1", ("n1", "n2")), node("n2", ("n1", "n2"))
    ((_, request),) = n1.step(0.0).exchange
    response = deliver("n1", request, n2)
    n1.on_exchange_response("n2", response, 0.0)
    n1.on_exchange_response("n2", response, 0.0)
    assert n1.converged
    n1.update_self(leads=1)
    assert n1.coverage() == Coverage(0, 1)
    n1.on_exchange_response("n2", response, 0.0)
    assert n1.coverage() == Coverage(0, 1)
    n1.step(2.0)  # This exchange is lost.
    n1.update_self(leads=2)
    n1.step(4.0)
    n1.on_exchange_response("n2", ExchangeResponse(), 4.0)  # Whose answer this is cannot be known.
    assert n1.coverage() == Coverage(0, 1)


def test_coverage_with_a_peer_that_asks_for_our_record_waits_for_its_delivery() -> None:
    """A peer that was shown only a digest does not know the record yet."""
    n1, n2 = node("n1", ("n1", "n2")), node("n2", ("n1", "n2"))
    now = idle(n1, 0.0) + 10.0
    n1.on_exchange_response("n2", ExchangeResponse(), now)  # Of one of the lost exchanges: it proves the first word.
    n1.update_self(leads=1)
    now = idle(n1, now) + 10.0
    n1.on_exchange_response("n2", ExchangeResponse(wanted=["n1"]), now)
    ((_, request),) = n1.step(now).exchange
    assert [record.leads for record in request.records] == [1]
    assert n1.coverage() == Coverage(0, 1)
    n1.on_exchange_response("n2", deliver("n1", request, n2), now)
    assert n1.converged


def test_members_beyond_the_limit_are_not_taken_in() -> None:
    """What peers send cannot fill the memory, and nonsense versions are ignored."""
    n1 = node("n1")
    flood = [MemberRecord(name=f"x{n}", incarnation=1, version=2) for n in range(3 * NODES_MAX)]
    nonsense = MemberRecord(name="n2", incarnation=1, version=2**63)
    deliver("n2", ExchangeRequest(records=[*flood, nonsense, MemberRecord(incarnation=1)]), n1)
    assert len(n1.members()) <= NODES_MAX
    assert n1.member("n2") is None
    deliver("n2", ExchangeRequest(records=[MemberRecord(name="n3", incarnation=1, version=2)]), n1)
    assert n1.member("n3") is not None, "configured members always find room"


def test_members_are_copies() -> None:
    """A caller cannot change what gossip knows, neither by what it gave nor by what it got."""
    n1 = node("n1")
    request = ExchangeRequest(records=[MemberRecord(name="n2", incarnation=1, version=2, leads=5)])
    n1.on_exchange(request, 0.0)
    request.records[0].leads = 76
    assert known(n1, "n2").leads == 5
    n1.members()[0].leads = 77
    known(n1, "n1").leads = 78
    assert known(n1, "n1").leads == 0


def test_gossip_without_peers_has_no_deadline() -> None:
    """A single node has nobody to talk to."""
    n1 = node("n1", ("n1",))
    actions = n1.step(0.0)
    assert (actions.exchange, actions.deadline) == ((), None)
    assert n1.converged
