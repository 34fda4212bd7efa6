"""What a committed command does."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kvapi.v1 import kv_pb2
from kvnode import limits
from kvnode.errors import CompareFailed
from kvnode.invariant import InvariantViolated
from kvnode.shard.state_machine import META, StateMachine, WriteResult
from kvnode.shard.superseded import operation_id, parse_operation_id
from kvnode.types import Entry, Origin
from tests.unit.shard.machine import NOW, Command, Machine, eventual

B = Origin("b", 1)
SKEW = limits.CLOCK_SKEW_MS_MAX << 16


def test_put_of_a_key_counts_versions_from_its_creation() -> None:
    """Revision is the log index; a deletion ends a life of the key."""
    machine = Machine()
    assert machine.put() == WriteResult(1, False)
    assert machine.put() == WriteResult(2, True)
    version = machine.version(b"k")
    assert version is not None
    assert (version.revision, version.create_revision, version.version, version.strong_index) == (2, 1, 2, 2)
    assert machine.delete() == WriteResult(3, True)
    machine.put()
    version = machine.version(b"k")
    assert version is not None
    assert (version.create_revision, version.version, machine.keys) == (4, 1, 1)


def test_delete_of_an_absent_key_succeeds_and_is_remembered() -> None:
    """An eventual write that has not seen it must not undo it."""
    machine = Machine()
    assert machine.delete() == WriteResult(1, False)
    machine.sequence(eventual(1, base=0))
    assert (machine.value(), machine.tombstones, machine.keys) == (None, 1, 0)


@pytest.mark.parametrize(
    ("before", "if_revision", "succeeds", "actual"),
    [("none", 0, True, 0), ("none", 1, False, 0), ("put", 1, True, 1), ("put", 0, False, 1), ("deleted", 0, True, 0)],
)
def test_compare_and_set_succeeds_only_at_the_expected_revision(
    before: str, if_revision: int, succeeds: bool, actual: int
) -> None:
    """0 means absent, deleted too; a failure says what is there and changes nothing."""
    machine = Machine()
    if before != "none":
        machine.put()
    if before == "deleted":
        machine.delete()
    old = machine.version(b"k")
    result = machine.put(value=b"new", if_revision=if_revision)
    if succeeds:
        assert isinstance(result, WriteResult)
        assert machine.value() == b"new"
    else:
        assert isinstance(result, CompareFailed)
        assert result.metadata["revision"] == str(actual)
        assert machine.version(b"k") == old


def test_delete_compared_at_another_revision_fails() -> None:
    """As for a put."""
    machine = Machine()
    machine.put()
    assert isinstance(machine.delete(if_revision=7), CompareFailed)
    assert isinstance(machine.delete(if_revision=1), WriteResult)


def test_strong_write_is_above_what_it_replaces() -> None:
    """DESIGN 9.4: whatever the clocks said."""
    machine = Machine()
    machine.sequence(eventual(1, hlc=NOW + SKEW))
    machine.put(hlc=NOW)
    version = machine.version(b"k")
    assert version is not None
    assert version.hlc == NOW + SKEW + 1


def test_entry_applied_out_of_order_halts() -> None:
    """Entries apply one after the other."""
    with pytest.raises(InvariantViolated):
        Machine().apply(Entry(2, 1, 1, Command(hlc=1).SerializeToString()))


def test_entry_of_an_unknown_operation_halts() -> None:
    """A command of a later release must not be skipped in silence: replicas would differ."""
    with pytest.raises(InvariantViolated):
        Machine().apply(Entry(1, 1, 1, Command(hlc=1).SerializeToString()))


# ---- eventual writes ------------------------------------------------------------------------------------------------


def test_eventual_write_sequenced_takes_effect_once() -> None:
    """Exactly once by the watermark: a second place for the same write has no effect."""
    machine = Machine()
    machine.sequence(eventual(1))
    assert machine.sequence(eventual(1, value=b"again")) == [(B, 1)]
    version = machine.version(b"k")
    assert version is not None
    assert (version.value, version.revision, version.node, version.strong_index) == (b"e", 1, "b", 0)
    assert machine.placed[B, 1] == (1, b"k")


def test_eventual_write_out_of_its_origins_order_halts() -> None:
    """The leader sequences without gaps; a gap would lose what lies in it."""
    with pytest.raises(InvariantViolated):
        Machine().sequence(eventual(2))


def test_eventual_write_superseded_by_a_strong_one_is_remembered() -> None:
    """It never undoes a strong write that it had not seen, and it is not lost in silence."""
    machine = Machine()
    machine.put()
    machine.sequence(eventual(1, base=0, hlc=NOW + 5))
    assert machine.value() == b"v"
    record = machine.superseded[B, 1]
    assert (record.revision, record.outcome, record.key) == (2, (kv_pb2.SUPERSEDED_REASON_STRONG_WRITE, 1), b"k")
    assert (machine.superseded_total, machine.sequenced[B]) == (1, 1)


def test_eventual_writes_of_two_origins_end_alike_in_any_order() -> None:
    """Last writer wins by (clock, origin)."""
    writes = [eventual(1, node="a", value=b"a", base=0), eventual(1, node="b", value=b"b", base=0)]
    results = []
    for order in (writes, writes[::-1]):
        machine = Machine()
        for one in order:
            machine.sequence(one)
        results.append(machine.value())
    assert results == [b"b", b"b"]


def test_eventual_write_far_ahead_counts_as_the_leaders_time_and_the_skew() -> None:
    """One broken clock must not win for ever."""
    machine = Machine()
    machine.sequence(eventual(1, hlc=NOW * 2))
    version = machine.version(b"k")
    assert version is not None
    assert version.hlc == NOW + SKEW


def test_eventual_write_that_saw_what_it_replaces_is_above_it() -> None:
    """Also when it is cut to a leader's clock that is behind the one before: who reads and then writes does not lose."""
    machine = Machine()
    machine.put(hlc=NOW + 10 * SKEW)
    machine.sequence(eventual(1, value=b"seen", hlc=NOW + 10 * SKEW + 1, base=1), hlc=NOW)
    assert machine.value() == b"seen"
    version = machine.version(b"k")
    assert version is not None
    assert version.hlc == NOW + 10 * SKEW + 1


def test_eventual_deletion_leaves_a_tombstone() -> None:
    """An older write that comes later finds it."""
    machine = Machine()
    machine.put()
    machine.sequence(eventual(1, value=None, base=1, hlc=NOW + 9))
    machine.sequence(eventual(1, node="c", base=1, hlc=NOW + 8))
    assert (machine.value(), machine.tombstones, machine.superseded_total) == (None, 1, 1)


# ---- collection -----------------------------------------------------------------------------------------------------


def test_collected_tombstone_is_forgotten_behind_the_horizon() -> None:
    """A write that had not seen the deletion is superseded by the horizon; one that had is not."""
    machine = Machine()
    machine.put()
    machine.delete()
    machine.collect(2)
    assert (machine.version(b"k"), machine.tombstones, machine.horizon) == (None, 0, 2)
    machine.sequence(eventual(1, base=1))
    assert (machine.value(), machine.superseded[B, 1].outcome) == (None, (kv_pb2.SUPERSEDED_REASON_HORIZON, 0))
    machine.sequence(eventual(2, base=2))
    version = machine.version(b"k")
    assert version is not None
    assert (version.value, version.strong_index) == (b"e", 2)


def test_collection_spares_keys_written_since() -> None:
    """Only the tombstone's own row goes."""
    machine = Machine()
    machine.delete()
    machine.put(value=b"back")
    machine.collect(1)
    assert (machine.value(), machine.tombstones) == (b"back", 0)


def test_collection_up_to_an_older_horizon_changes_nothing() -> None:
    """The horizon never goes back, and later tombstones stay."""
    machine = Machine()
    machine.delete(b"a")
    machine.delete(b"b")
    machine.collect(1)
    assert (machine.version(b"a"), machine.tombstones) == (None, 1)
    machine.collect(0)
    assert (machine.horizon, machine.tombstones) == (1, 1)


def test_oldest_tombstones_counted_give_a_horizon_within_bounds() -> None:
    """At most so many, none above what everybody is past."""
    machine = Machine()
    for key in (b"a", b"b", b"c"):
        machine.delete(key)
    assert machine.oldest_tombstones(2, 99) == 2
    assert machine.oldest_tombstones(9, 1) == 1
    assert machine.oldest_tombstones(9, 0) == 0


# ---- rings, hashes, reloading ---------------------------------------------------------------------------------------


def test_superseded_ring_over_its_bound_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and table keep the same ones."""
    monkeypatch.setattr(limits, "SUPERSEDED_KEPT_PER_SHARD", 3)
    machine = Machine()
    machine.put()
    for sequence in range(1, 6):
        machine.sequence(eventual(sequence, base=0))
    assert [sequence for _, sequence in machine.superseded] == [3, 4, 5]
    other = machine.reloaded()
    assert list(other.superseded.values()) == list(machine.superseded.values())
    assert other.superseded_total == 5


def test_placed_ring_over_its_bound_forgets_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    """Older ones answer SETTLED."""
    monkeypatch.setattr(limits, "PLACED_KEPT_PER_SHARD", 2)
    machine = Machine()
    for sequence in range(1, 5):
        machine.sequence(eventual(sequence))
    assert [sequence for _, sequence in machine.placed] == [3, 4]


COMMANDS = st.lists(
    st.one_of(
        st.tuples(st.just("put"), st.sampled_from([b"a", b"b"]), st.binary(max_size=3), st.none() | st.integers(0, 9)),
        st.tuples(st.just("delete"), st.sampled_from([b"a", b"b"])),
        st.tuples(st.just("eventual"), st.sampled_from([b"a", b"b"]), st.none() | st.binary(max_size=3), st.integers(0, 30)),
        st.tuples(st.just("collect"), st.integers(0, 30)),
    ),
    max_size=30,
)


def play(machine: Machine, commands: list[tuple[object, ...]], first: int = 0) -> None:
    """Applies commands; eventual ones are numbered by their place in the list."""
    sequence = sum(1 for command in commands[:first] if command[0] == "eventual")
    for what, *rest in commands[first:]:
        if what == "put":
            machine.put(*rest)  # type: ignore[arg-type]
        elif what == "delete":
            machine.delete(*rest)  # type: ignore[arg-type]
        elif what == "collect":
            machine.collect(*rest)  # type: ignore[arg-type]
        else:
            sequence += 1
            key, value, base = rest
            machine.sequence(eventual(sequence, key, value, base=base))  # type: ignore[arg-type]


@given(COMMANDS, st.integers(0, 30))
def test_same_entries_applied_give_the_same_rows_and_hash(commands: list[tuple[object, ...]], cut: int) -> None:
    """DESIGN 12.13, also over a reload at any moment: a restart, or a snapshot on another node."""
    straight = Machine()
    play(straight, commands)
    begun = Machine()
    play(begun, commands[:cut])
    resumed = begun.reloaded()
    play(resumed, commands, cut)
    straight.before_freeze()
    resumed.before_freeze()
    assert list(straight.table.scan(b"", None)) == list(resumed.table.scan(b"", None))
    assert straight.state_hash == resumed.state_hash
    assert straight.keys == sum(version.value is not None for _, version in straight.scan(b"", None))


def test_different_entries_applied_give_different_hashes() -> None:
    """The hash sees values, keys and order."""
    hashes = []
    for commands in ([("put", b"a", b"1")], [("put", b"a", b"2")], [("put", b"b", b"1")], [("delete", b"a")], []):
        machine = Machine()
        play(machine, commands)  # type: ignore[arg-type]
        hashes.append(machine.state_hash)
    assert len(dict.fromkeys(hashes)) == len(hashes)


def test_position_of_a_flushed_row_is_what_was_applied() -> None:
    """What recovery compares the log with."""
    machine = Machine()
    assert StateMachine.position(None) == (0, 0)
    machine.put()
    machine.before_freeze()
    assert StateMachine.position(machine.table.get(META)) == (1, 1)


@given(st.integers(0, 1023), st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,20}", fullmatch=True), st.integers(1), st.integers(1))
def test_operation_id_parsed_is_itself(shard: int, node: str, incarnation: int, sequence: int) -> None:
    """Dots in a node's name do no harm."""
    assert parse_operation_id(operation_id(shard, Origin(node, incarnation), sequence)) == (
        shard,
        (node, incarnation),
        sequence,
    )


@pytest.mark.parametrize("text", ["", "1", "1.n", "1.n.2", "x.n.1.2", "1.n.x.2", "1.n.1.x"])
def test_operation_id_malformed_is_refused(text: str) -> None:
    """Anything else is a ValueError."""
    with pytest.raises(ValueError):
        parse_operation_id(text)
