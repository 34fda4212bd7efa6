"""Held eventual writes: numbering, gaps, restarts, what peers hold, what is sequenced next."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import replication_pb2
from kvnode.protocol.eventual.holder import Holder
from kvnode.types import Origin

ME, OTHER = Origin("a", 7), Origin("b", 3)


def holder(held_max: int = 100) -> Holder:
    """Node a's, in its seventh life."""
    return Holder(0, ME, held_max, relay_after=0.5)


def write(sequence: int, key: bytes = b"k", origin: Origin = OTHER, base: int = 0) -> replication_pb2.EventualWrite:
    """A write of another node."""
    return replication_pb2.EventualWrite(
        node=origin.node, incarnation=origin.incarnation, sequence=sequence, key=key, base=base
    )


def batch(*sequences: int, sequenced: int = 0, origin: Origin = OTHER) -> replication_pb2.EventualBatch:
    """A peer's batch, each write with a key of its own."""
    writes = [write(sequence, b"k%d" % sequence, origin) for sequence in sequences]
    return replication_pb2.EventualBatch(node=origin.node, incarnation=origin.incarnation, sequenced=sequenced, writes=writes)


def accepted(count: int, start: Holder | None = None, now: float = 0.0) -> Holder:
    """A holder with so many own writes, on disk."""
    made = start or holder()
    for number in range(count):
        made.accept(b"k%d" % number, b"v", 1, 0, now)
    made.on_durable(ME, made.held(ME))
    return made


def test_accepted_writes_numbered_have_no_gaps() -> None:
    """From 1, for this shard and life; base, clock and deletion are the write's own."""
    made = holder()
    first, second = made.accept(b"k", b"v", 5, 9, 0.0), made.accept(b"k", None, 6, 9, 0.0)
    assert (first.node, first.incarnation, first.sequence, first.base, first.deletion) == ("a", 7, 1, 9, False)
    assert (second.sequence, second.hlc, second.deletion) == (2, 6, True)
    assert [w.sequence for w in made.held_at_key(b"k")] == [1, 2]
    assert list(made.keys_held()) == [b"k"]


def test_held_write_is_shown_only_once_it_is_durable_here() -> None:
    """What this node could still forget must be seen by nobody; nor is it in a session's token."""
    made = holder()
    made.accept(b"k", b"v", 1, 0, 0.0)
    made.accept(b"k", b"v", 2, 0, 0.0)
    assert (made.at_key(b"k"), made.at_key(b"other"), made.positions()) == ([], [], {ME: 0})
    made.on_durable(ME, 1)
    assert ([w.sequence for w in made.at_key(b"k")], made.positions()) == ([1], {ME: 1})


def test_accepted_write_counts_as_held_once_it_is_on_disk() -> None:
    """`acks` counts disks, this one included."""
    made = holder()
    made.accept(b"k", b"v", 1, 0, 0.0)
    assert made.replicas_holding(1) == 0
    made.on_durable(ME, 1)
    made.on_peer_holds("b", ME, 1)
    made.on_peer_holds("c", ME, 0)
    made.on_peer_holds("c", OTHER, 5)
    assert made.replicas_holding(1) == 2


def test_batch_taken_twice_is_new_once() -> None:
    """A repeated or late batch changes nothing (DESIGN 12.9)."""
    made = holder()
    assert [w.sequence for w in made.on_batch(batch(1, 2), 0, 0.0)] == [1, 2]
    assert made.on_batch(batch(1, 2), 0, 0.0) == []
    assert [w.sequence for w in made.on_batch(batch(2, 3), 0, 0.0)] == [3]
    assert (made.size, made.held(OTHER)) == (3, 3)


def test_batch_with_a_gap_is_taken_up_to_it() -> None:
    """Contiguity is what makes one number say everything."""
    made = holder()
    assert [w.sequence for w in made.on_batch(batch(1, 2, 4), 0, 0.0)] == [1, 2]
    assert made.on_batch(batch(9), 0, 0.0) == []
    assert made.held(OTHER) == 2


def test_batch_over_the_bound_is_taken_in_part() -> None:
    """A full replica holds no more; the sender comes again."""
    made = holder(held_max=2)
    assert [w.sequence for w in made.on_batch(batch(1, 2, 3), 0, 0.0)] == [1, 2]
    assert made.is_full
    made.on_sequenced(OTHER, 1)
    assert [w.sequence for w in made.on_batch(batch(1, 2, 3), 1, 0.0)] == [3]


def test_batch_behind_what_a_peer_calls_placed_is_held_and_not_vouched_for() -> None:
    """The peer's word lets it go on; this replica says that it has the rest only once it applied what lies before."""
    made = holder()
    assert [w.sequence for w in made.on_batch(batch(11, 12, sequenced=10), 0, 0.0)] == [11, 12]
    assert made.held(OTHER) == 0
    made.on_sequenced(OTHER, 9)
    assert made.held(OTHER) == 9
    made.on_sequenced(OTHER, 10)
    assert made.held(OTHER) == 12


def test_two_gaps_by_a_peers_word_are_vouched_for_one_after_the_other() -> None:
    """What lies behind the second gap is not proven by passing the first."""
    made = holder()
    made.on_batch(batch(11, 12, sequenced=10), 0, 0.0)
    made.on_batch(batch(21, sequenced=20), 0, 0.0)
    made.on_sequenced(OTHER, 10)
    assert made.held(OTHER) == 12
    made.on_sequenced(OTHER, 20)
    assert made.held(OTHER) == 21


def test_batch_behind_what_this_replica_applied_is_vouched_for() -> None:
    """After a restart the queue is new, and the state machine knows what it has applied."""
    made = holder()
    made.on_batch(batch(11, sequenced=10), 10, 0.0)
    assert made.held(OTHER) == 11


def test_sequenced_writes_are_dropped_by_the_local_apply_only() -> None:
    """DESIGN 9.3: a peer's word drops nothing."""
    made = holder()
    made.on_batch(batch(1, 2, 3), 0, 0.0)
    made.on_batch(batch(4, sequenced=3), 0, 0.0)
    assert made.size == 4
    made.on_sequenced(OTHER, 2)
    assert [w.sequence for w in made.writes()] == [3, 4]
    assert made.at_key(b"k1") == []
    made.on_sequenced(OTHER, 9)
    assert (made.size, made.held(OTHER), list(made.keys_held())) == (0, 9, [])


@pytest.mark.parametrize("sequenced", [0, 3])
def test_restored_writes_are_held_and_numbering_goes_on(sequenced: int) -> None:
    """What has its place in the log is not held again."""
    made = holder()
    for sequence in range(1, 6):
        made.restore(write(sequence), sequenced, 0.0)
    assert [w.sequence for w in made.writes()] == list(range(sequenced + 1, 6))
    assert made.held(OTHER) == 5
    assert [w.sequence for w in made.on_batch(batch(5, 6), sequenced, 0.0)] == [6]


def test_own_floor_is_the_oldest_waiting_base_of_any_life() -> None:
    """Tombstones above it may still be needed; others' writes are others' business."""
    made = holder()
    assert made.own_floor(40) == 40
    made.on_batch(batch(1), 0, 0.0)
    assert made.own_floor(40) == 40
    made.accept(b"k", b"v", 1, 30, 0.0)
    made.restore(write(1, origin=Origin("a", 6), base=20), 0, 0.0)
    assert made.own_floor(40) == 20
    made.on_sequenced(Origin("a", 6), 1)
    assert made.own_floor(40) == 30


# ---- to peers -------------------------------------------------------------------------------------------------------


def sequences(batches: list[replication_pb2.EventualBatch]) -> list[tuple[str, int, list[int]]]:
    """Node, what is said to be placed, and the writes of each batch."""
    return [(b.node, b.sequenced, [w.sequence for w in b.writes]) for b in batches]


def test_own_writes_are_sent_once_durable_and_until_acknowledged() -> None:
    """Nothing leaves that a crash would take back; what a peer holds is not sent again."""
    made = holder()
    made.accept(b"k", b"v", 1, 0, 0.0)
    made.accept(b"k", b"v", 1, 0, 0.0)
    made.on_durable(ME, 1)
    assert sequences(made.batches_for("b", 10, 10_000, 0.0)) == [("a", 0, [1])]
    made.on_durable(ME, 2)
    made.on_peer_holds("b", ME, 1)
    assert sequences(made.batches_for("b", 10, 10_000, 0.0)) == [("a", 0, [2])]
    made.on_peer_holds("b", ME, 2)
    assert made.batches_for("b", 10, 10_000, 0.0) == []
    assert sequences(made.batches_for("c", 1, 10_000, 0.0)) == [("a", 0, [1])]


def test_batch_to_a_peer_is_bounded_by_its_size() -> None:
    """The last write may go beyond: a large one is never stuck."""
    made = accepted(3)
    assert sequences(made.batches_for("b", 10, 1, 0.0)) == [("a", 0, [1])]
    assert sequences(made.batches_for("b", 10, 100, 0.0)) == [("a", 0, [1, 2])]


def test_peer_that_holds_less_than_before_is_sent_it_again() -> None:
    """Its word counts, also when it takes something back."""
    made = accepted(3)
    made.on_peer_holds("b", ME, 3)
    made.on_peer_holds("b", ME, 1)
    assert sequences(made.batches_for("b", 10, 10_000, 0.0)) == [("a", 0, [2, 3])]


def test_others_writes_are_passed_on_after_a_while_beginning_with_a_question() -> None:
    """Usually the origin does it; and never back to the origin."""
    made = holder()
    made.on_batch(batch(1, 2), 0, 10.0)
    made.on_durable(OTHER, 2)
    assert made.batches_for("c", 10, 10_000, 10.4) == []
    assert made.relay_deadline(10.0) == 10.5
    assert sequences(made.batches_for("c", 10, 10_000, 10.5)) == [("b", 0, [])]
    assert made.batches_for("b", 10, 10_000, 10.5) == []
    made.on_peer_holds("c", OTHER, 1)
    assert sequences(made.batches_for("c", 10, 10_000, 10.5)) == [("b", 0, [2])]
    made.on_sequenced(OTHER, 2)
    assert made.batches_for("c", 10, 10_000, 10.5) == []
    assert made.relay_deadline(10.6) is None


def test_caller_that_waits_for_replicas_makes_it_ask_them() -> None:
    """The writes may have their place already, so that there is nothing to send; the peers' word is still wanted."""
    made = accepted(2)
    made.on_sequenced(ME, 2)
    assert made.batches_for("b", 10, 10_000, 0.0) == []
    made.ack_wanted = 2
    assert sequences(made.batches_for("b", 10, 10_000, 0.0)) == [("a", 2, [])]
    made.on_peer_holds("b", ME, 2)
    assert made.batches_for("b", 10, 10_000, 0.0) == []


def test_positions_of_held_writes_are_the_last_ones() -> None:
    """What a session has seen that saw all of them."""
    made = accepted(2)
    made.on_batch(batch(1), 0, 0.0)
    made.on_durable(OTHER, 1)
    assert made.positions() == {ME: 2, OTHER: 1}
    made.on_sequenced(ME, 2)
    assert made.positions() == {OTHER: 1}


# ---- the leader -----------------------------------------------------------------------------------------------------


def test_next_to_sequence_takes_each_key_once_an_entry() -> None:
    """A revision names one version of a key; an origin's order stays."""
    made = holder()
    for key in (b"x", b"y", b"x", b"z"):
        made.accept(key, b"v", 1, 0, 0.0)
    made.on_batch(batch(1), 0, 0.0)
    first = made.next_to_sequence({}, 10, 1000)
    assert [(w.node, w.sequence) for w in first] == [("a", 1), ("a", 2), ("b", 1)]
    assert [(w.node, w.sequence) for w in made.next_to_sequence({}, 10, 1000)] == [("a", 3), ("a", 4)]
    assert made.next_to_sequence({}, 10, 1000) == []


def test_next_to_sequence_is_bounded_by_number_and_size() -> None:
    """At least one, however large."""
    made = accepted(5)
    assert len(made.next_to_sequence({}, 2, 10_000)) == 2
    assert len(made.next_to_sequence({}, 9, 1)) == 1


def test_next_to_sequence_lets_every_origin_come_first_in_turn() -> None:
    """An origin that always fills the entry does not starve the others."""
    made = accepted(6)
    made.on_batch(batch(1), 0, 0.0)
    assert [w.node for _ in range(3) for w in made.next_to_sequence({}, 2, 10_000)] == ["a", "a", "b", "a", "a", "a"]


def test_next_to_sequence_waits_at_a_gap() -> None:
    """What lies between has its place in the log, but this replica has not applied it yet."""
    made = holder()
    made.on_batch(batch(11, sequenced=10), 0, 0.0)
    assert made.next_to_sequence({}, 10, 1000) == []
    assert [w.sequence for w in made.next_to_sequence({OTHER: 10}, 10, 1000)] == [11]


def test_new_leader_begins_with_what_the_log_holds() -> None:
    """What was proposed in an earlier term and lost is proposed again, from the watermark on."""
    made = accepted(4)
    made.next_to_sequence({}, 10, 1000)
    made.on_sequenced(ME, 2)
    made.on_become_leader()
    assert [w.sequence for w in made.next_to_sequence({ME: 2}, 10, 1000)] == [3, 4]


@given(st.integers(0, 2**32))
def test_sequencing_at_random_gives_every_write_one_place_in_order(seed: int) -> None:
    """Accepts, batches, applies and changes of leadership in any order: one place each, no gap, no duplicate."""
    dice, made = random.Random(seed), holder(held_max=30)
    log: list[list[replication_pb2.EventualWrite]] = []
    applied, sent, watermark = 0, 0, dict[Origin, int]()
    for _ in range(120):
        what = dice.randrange(5)
        if what == 0 and not made.is_full:
            made.accept(dice.choice((b"x", b"y")), b"v", 1, 0, 0.0)
        elif what == 1:
            first = max(1, sent - dice.randrange(3))
            new = made.on_batch(batch(*range(first, first + dice.randrange(4))), watermark.get(OTHER, 0), 0.0)
            sent = max([sent, *(w.sequence for w in new)])
        elif what == 2:
            chosen = made.next_to_sequence(watermark, 3, 1000)
            assert len(dict.fromkeys(w.key for w in chosen)) == len(chosen)
            if chosen:
                log.append(chosen)
        elif what == 3 and applied < len(log):
            for one in log[applied]:
                origin = Origin(one.node, one.incarnation)
                assert one.sequence == watermark.get(origin, 0) + 1
                watermark[origin] = one.sequence
                made.on_sequenced(origin, one.sequence)
            applied += 1
        elif what == 4 and dice.random() < 0.3:
            # A new term: what was not applied is lost from the log.
            del log[applied:]
            made.on_become_leader()


def test_shown_of_an_origin_is_durable_and_without_a_gap() -> None:
    """What a session may rely on: not what a crash would take back, nor what lies behind a gap."""
    made = holder()
    assert made.shown(OTHER) == 0
    made.on_batch(batch(1, 2), 0, 0.0)
    assert made.shown(OTHER) == 0
    made.on_durable(OTHER, 2)
    assert made.shown(OTHER) == 2
    made.on_batch(batch(11, sequenced=10), 0, 0.0)
    made.on_durable(OTHER, 11)
    assert made.shown(OTHER) == 2
